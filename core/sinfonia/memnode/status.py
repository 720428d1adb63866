"""What a member says of itself to people and to programs that watch it."""

from typing import Protocol

from sinfonia.memnode.leading import Leading
from sinfonia.memnode.member_state import MemberState
from sinfonia.memnode.replica import Replica
from sinfonia.memnode.settings import MemoryNodeSettings, State
from sinfonia.protocol.load.windows import Counts, LoadWindows
from sinfonia.protocol.membership.messages import MemoryNodeEntry
from sinfonia.protocol.messages import Vote
from sinfonia.protocol.participant import Participant
from sinfonia.protocol.participant_state import LiveParticipantState

Figures = dict[str, int | float | str]


class MemberView(Protocol):
    """What status needs of a member: its settings, its parts, and what it waits for."""

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
    """Load and health, by name."""
    state, member_state, entry = node.participant_state, node.member_state, node.entry
    figures: Figures = {
        "mode": node.settings.mode,
        "capacity_bytes": node.settings.capacity,
        "identity": node.identity,
        "starts": node.starts,
        "role": _role(node),
        "incarnation": node.incarnation,
        "config_epoch": 0 if entry is None else entry.config_epoch,
        "epoch": state.epoch,
        "in_doubt": len(state.in_doubt),
        "decided": len(state.decided),
        "lock_segments": len(state.locks),
        "clients": len(state.sessions),
        "clients_dropped": state.sessions.dropped,
        "clients_turned_away": state.sessions.turned_away,
        "remembered": state.sessions.outcomes,
        "remembered_bytes": state.sessions.outcome_bytes,
        **_votes(None if node.leading is None else node.leading.participant),
        "replayed_records": member_state.replayed,
        "last_record": member_state.last,
        "catching_up": 0,
        "damaged": int(bool(member_state.damage)),
        "repairs": member_state.repaired,
    }
    if member_state.damage:
        figures["damage"] = member_state.damage
    if node.waiting and node.state is State.STARTING:
        figures["waiting_for"] = node.waiting
    if member_state.journal is not None:
        figures["stable_record"] = member_state.journal.stable
    if member_state.storage is not None:
        log = member_state.storage.log
        figures["log_bytes"] = log.stable_lsn - log.start_lsn
    if member_state.checkpointer is not None:
        figures["checkpoints"] = member_state.checkpointer.made
    if member_state.scrubber is not None:
        scrubber = member_state.scrubber
        figures["scrubbed_bytes"] = scrubber.bytes
        figures["scrub_findings"] = scrubber.findings
        figures["scrub_repairs"] = scrubber.repairs
        figures["scrub_passes"] = scrubber.passes
        figures["scrub_pass_seconds"] = round(scrubber.pass_seconds, 3)
    for name in Counts._fields:
        figures[name] = sum(getattr(each, name) for each in node.load_windows.counts().values())
    _add_role(node, figures)
    return figures


def _votes(participant: Participant | None) -> Figures:
    """What a primary has voted, and the clients that wait; a member that does not lead has none."""
    lock_waits = None if participant is None else participant.one_phase.lock_waits
    figures: Figures = {
        "lock_waiters": 0 if lock_waits is None else len(lock_waits),
        "lock_waits": 0 if lock_waits is None else lock_waits.queued,
        "lock_waits_expired": 0 if lock_waits is None else lock_waits.expired,
        "watches": 0 if participant is None else len(participant.watches),
        "duplicates": 0 if participant is None else participant.votes.duplicates,
    }
    for vote in Vote:
        votes = 0 if participant is None else participant.votes.counts[vote]
        figures[f"votes_{vote.name.lower()}"] = votes
    return figures


def _role(node: MemberView) -> str:
    if node.leading is not None:
        return "primary"
    return "starting" if node.replica is None else "replica"


def _add_role(node: MemberView, figures: Figures) -> None:
    leading, replica, entry = node.leading, node.replica, node.entry
    if leading is not None:
        figures["syncs"] = leading.group.syncs
        figures["logged_bytes"] = leading.group.logged_bytes
        figures["committed_record"] = leading.committed
        figures["applied_record"] = node.member_state.last
        figures["replies_waiting"] = leading.group.waiting
        figures["copied_out_bytes"] = leading.copies.bytes_sent
        figures["replicas_known"] = 0 if entry is None else len(entry.replicas)
        figures["in_sync_replicas"] = 0 if entry is None else len(entry.in_sync)
        replicas = [] if entry is None else entry.replicas
        figures["unproven_replicas"] = sum(each.in_sync and each.unproven for each in replicas)
        shipping = leading.shipping
        if shipping is not None and entry is not None:
            figures["paced_seconds"] = leading.group.paced_seconds
            figures["replicas_dropped_slow"] = shipping.dropped_slow
            for member in entry.replicas:
                behind = shipping.records_behind(member.identity)
                figures[f"records_behind_{member.endpoint}"] = behind
                figures[f"ack_seconds_{member.endpoint}"] = shipping.ack_seconds(member.identity)
    elif replica is not None:
        figures["syncs"] = replica.syncs
        figures["committed_record"] = replica.follower.committed
        figures["applied_record"] = node.member_state.applied
        figures["copied_bytes"] = replica.copied_bytes
        figures["copies_begun"] = replica.copies_begun
        figures["phase"] = replica.follower.phase.value
        in_sync = entry is not None and node.identity in entry.in_sync
        figures["catching_up"] = 0 if in_sync else 1
