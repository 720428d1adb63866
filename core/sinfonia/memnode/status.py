"""What a member says of itself to people and to programs that watch it."""

from typing import Protocol

from sinfonia.figures import member
from sinfonia.figures.tables import Given
from sinfonia.memnode.leading import Leading
from sinfonia.memnode.member_state import MemberState
from sinfonia.memnode.replica import Replica
from sinfonia.memnode.settings import MemoryNodeSettings, State
from sinfonia.protocol.load.windows import LoadWindows
from sinfonia.protocol.membership.messages import MemoryNodeEntry
from sinfonia.protocol.messages import Vote
from sinfonia.protocol.participant import Participant
from sinfonia.protocol.participant_state import LiveParticipantState

Figures = dict[str, int | float | str]


class MemberView(Protocol):
    """What is told of a member: its settings, its parts, and what it waits for."""

    @property
    def settings(self) -> MemoryNodeSettings: ...

    @property
    def identity(self) -> str: ...

    @property
    def starts(self) -> int: ...

    @property
    def state(self) -> State: ...

    @property
    def waiting(self) -> str: ...

    @property
    def entry(self) -> MemoryNodeEntry | None: ...

    @property
    def participant_state(self) -> LiveParticipantState: ...

    @property
    def incarnation(self) -> int: ...

    @property
    def load_windows(self) -> LoadWindows: ...

    @property
    def member_state(self) -> MemberState: ...

    @property
    def leading(self) -> Leading | None: ...

    @property
    def replica(self) -> Replica | None: ...


def status_figures(node: MemberView) -> Figures:
    """Load and health, as the table of a member's figures has them."""
    state, member_state, entry = node.participant_state, node.member_state, node.entry
    figures = Given(member.MEMBER)
    figures[member.MODE] = node.settings.mode
    figures[member.CAPACITY_BYTES] = node.settings.capacity
    figures[member.IDENTITY] = node.identity
    figures[member.STARTS] = node.starts
    figures[member.ROLE] = _role(node)
    figures[member.INCARNATION] = node.incarnation
    figures[member.CONFIG_EPOCH] = 0 if entry is None else entry.config_epoch
    figures[member.EPOCH] = state.epoch
    _add_clients(state, figures)
    _add_votes(None if node.leading is None else node.leading.participant, figures)
    _add_load(node.load_windows, figures)
    figures[member.REPLAYED_RECORDS] = member_state.replayed
    figures[member.LAST_RECORD] = member_state.last
    figures[member.DAMAGED] = int(bool(member_state.damage))
    figures[member.REPAIRS] = member_state.repaired
    if member_state.damage:
        figures[member.DAMAGE] = member_state.damage
    if node.waiting and node.state is State.STARTING:
        figures[member.WAITING_FOR] = node.waiting
    _add_log(member_state, figures)
    if node.leading is not None:
        _add_primary(node, node.leading, figures)
    elif node.replica is not None:
        _add_replica(node, node.replica, figures)
    else:
        figures[member.CATCHING_UP] = 0
    return figures.values


def _add_clients(state: LiveParticipantState, figures: Given) -> None:
    """What is remembered and locked for clients."""
    figures[member.IN_DOUBT] = len(state.in_doubt)
    figures[member.DECIDED] = len(state.decided)
    figures[member.LOCK_SEGMENTS] = len(state.locks)
    figures[member.CLIENTS] = len(state.sessions)
    figures[member.CLIENTS_DROPPED] = state.sessions.dropped
    figures[member.CLIENTS_TURNED_AWAY] = state.sessions.turned_away
    figures[member.REMEMBERED] = state.sessions.outcomes
    figures[member.REMEMBERED_BYTES] = state.sessions.outcome_bytes


def _add_votes(participant: Participant | None, figures: Given) -> None:
    """What a primary has voted, and the clients that wait; a member that does not lead has none."""
    lock_waits = None if participant is None else participant.one_phase.lock_waits
    figures[member.LOCK_WAITERS] = 0 if lock_waits is None else len(lock_waits)
    figures[member.LOCK_WAITS] = 0 if lock_waits is None else lock_waits.queued
    figures[member.LOCK_WAITS_EXPIRED] = 0 if lock_waits is None else lock_waits.expired
    figures[member.WATCHES] = 0 if participant is None else len(participant.watches)
    figures[member.DUPLICATES] = 0 if participant is None else participant.votes.duplicates
    for vote in Vote:
        votes = 0 if participant is None else participant.votes.counts[vote]
        figures[member.VOTES.of(vote.name.lower())] = votes


def _add_load(load_windows: LoadWindows, figures: Given) -> None:
    counts = load_windows.counts().values()
    figures[member.EXECUTED] = sum(each.executed for each in counts)
    figures[member.ABORTED] = sum(each.aborted for each in counts)
    figures[member.RETRIED] = sum(each.retried for each in counts)
    figures[member.BYTES_READ] = sum(each.bytes_read for each in counts)
    figures[member.BYTES_WRITTEN] = sum(each.bytes_written for each in counts)


def _add_log(member_state: MemberState, figures: Given) -> None:
    if member_state.journal is not None:
        figures[member.STABLE_RECORD] = member_state.journal.stable
    if member_state.storage is not None:
        log = member_state.storage.log
        figures[member.LOG_BYTES] = log.stable_lsn - log.start_lsn
    if member_state.checkpointer is not None:
        figures[member.CHECKPOINTS] = member_state.checkpointer.made
    if member_state.scrubber is not None:
        scrubber = member_state.scrubber
        figures[member.SCRUBBED_BYTES] = scrubber.bytes
        figures[member.SCRUB_FINDINGS] = scrubber.findings
        figures[member.SCRUB_REPAIRS] = scrubber.repairs
        figures[member.SCRUB_PASSES] = scrubber.passes
        figures[member.SCRUB_PASS_SECONDS] = round(scrubber.pass_seconds, 3)


def _add_primary(node: MemberView, leading: Leading, figures: Given) -> None:
    entry = node.entry
    replicas = [] if entry is None else entry.replicas
    figures[member.CATCHING_UP] = 0
    figures[member.SYNCS] = leading.group.syncs
    figures[member.LOGGED_BYTES] = leading.group.logged_bytes
    figures[member.COMMITTED_RECORD] = leading.committed
    figures[member.APPLIED_RECORD] = node.member_state.last
    figures[member.REPLIES_WAITING] = leading.group.waiting
    figures[member.COPIED_OUT_BYTES] = leading.copies.bytes_sent
    figures[member.REPLICAS_KNOWN] = len(replicas)
    figures[member.IN_SYNC_REPLICAS] = 0 if entry is None else len(entry.in_sync)
    figures[member.UNPROVEN_REPLICAS] = sum(each.in_sync and each.unproven for each in replicas)
    shipping = leading.shipping
    if shipping is not None and entry is not None:
        figures[member.PACED_SECONDS] = leading.group.paced_seconds
        figures[member.REPLICAS_DROPPED_SLOW] = shipping.dropped_slow
        for each in entry.replicas:
            behind = shipping.records_behind(each.identity)
            figures[member.RECORDS_BEHIND.of(each.endpoint)] = behind
            figures[member.ACK_SECONDS.of(each.endpoint)] = shipping.ack_seconds(each.identity)


def _add_replica(node: MemberView, replica: Replica, figures: Given) -> None:
    entry = node.entry
    figures[member.SYNCS] = replica.syncs
    figures[member.COMMITTED_RECORD] = replica.follower.committed
    figures[member.APPLIED_RECORD] = node.member_state.applied
    figures[member.COPIED_BYTES] = replica.copied_bytes
    figures[member.COPIES_BEGUN] = replica.copies_begun
    figures[member.PHASE] = replica.follower.phase.value
    in_sync = entry is not None and node.identity in entry.in_sync
    figures[member.CATCHING_UP] = 0 if in_sync else 1


def _role(node: MemberView) -> str:
    if node.leading is not None:
        return "primary"
    return "starting" if node.replica is None else "replica"
