"""Rules of the protocol, each of them broken on purpose.

A simulator that finds nothing may be a simulator that looks at nothing.  Each mutation here takes
one rule out of the real code; the simulator has to notice within a few runs, and if it does not,
it is the simulator that needs mending.

A mutation is a context manager, so that the code is whole again afterwards.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import Contended
from sinfonia.memnode.node import MemoryNode
from sinfonia.protocol import participant as participant_module
from sinfonia.protocol import records
from sinfonia.protocol.attempts import Attempt, Call
from sinfonia.protocol.coordinator import Coordinator
from sinfonia.protocol.effects import Effect, Log, Send, SendOnceStable, SendTo
from sinfonia.protocol.lists import InDoubt
from sinfonia.protocol.locks import lock_ranges
from sinfonia.protocol.messages import (
    Answer,
    Commit,
    ExecCommit,
    ExecPrepare,
    Forget,
    Replies,
    Reply,
    Requests,
    Resolve,
    Tid,
    Vote,
    Voted,
)
from sinfonia.protocol.participant import Participant
from sinfonia.protocol.recovery import Outcome, RecoveryCoordinator
from sinfonia.protocol.sessions import Session
from sinfonia.storage import log_blocks

Mutation = Callable[[], AbstractContextManager[None]]

MUTATIONS: dict[str, Mutation] = {}


def mutation(break_rule: Callable[[], Iterator[None]]) -> Mutation:
    """Register a mutation under its name in words."""
    broken = contextmanager(break_rule)
    MUTATIONS[break_rule.__name__.replace("_", "-")] = broken
    return broken


# --- what is logged, and when ----------------------------------------------------------------------


@mutation
def vote_before_sync() -> Iterator[None]:
    """A vote may leave only once it is in the redo log, on stable storage (Figure 4, line 20)."""
    flush = MemoryNode.flush

    def broken(self: MemoryNode, now: float) -> list[tuple[bytes, Replies]]:
        self._must_sync = False
        return flush(self, now)

    with patch.object(MemoryNode, "flush", broken):
        yield


@mutation
def compare_only_participant_not_logged() -> Iterator[None]:
    """A participant without write items logs its vote, if the minitransaction writes anywhere."""
    vote, on_commit = Participant._vote, Participant._on_commit

    def broken_vote(
        self: Participant, session: Session, request: ExecPrepare, effects: list[Effect]
    ) -> Voted:
        voted = vote(self, session, request, effects)
        if voted.vote is Vote.OK and not request.writes:
            effects[:] = [each for each in effects if not _logs_vote_on(each, request.tid)]
        return voted

    def broken_on_commit(
        self: Participant, request: Commit, effects: list[Effect]
    ) -> Sequence[Reply]:
        in_doubt = self.in_doubt.get(request.tid)
        logged = in_doubt is not None and bool(in_doubt.prepared.writes)
        return on_commit(self, request, effects if logged else [])

    with (
        patch.object(Participant, "_vote", broken_vote),
        patch.object(Participant, "_on_commit", broken_on_commit),
    ):
        yield


def _logs_vote_on(effect: Effect, tid: Tid) -> bool:
    return (
        isinstance(effect, Log)
        and isinstance(effect.record, records.Prepared)
        and effect.record.tid == tid
    )


@mutation
def forced_abort_not_durable() -> Iterator[None]:
    """A promise to abort is in the log before a recovery coordinator hears of it (4.4)."""
    on_resolve = Participant._on_resolve

    def broken(self: Participant, request: Resolve, effects: list[Effect]) -> Reply:
        del effects
        return on_resolve(self, request, [])

    with patch.object(Participant, "_on_resolve", broken):
        yield


@mutation
def acknowledged_before_stable() -> Iterator[None]:
    """COMMIT is acknowledged, so that others may forget it, once its outcome is stable here."""
    on_requests = Participant.on_requests

    def broken(self: Participant, batch: Requests, now: float) -> list[Effect]:
        return [
            Send(each.replies) if isinstance(each, SendOnceStable) else each
            for each in on_requests(self, batch, now)
        ]

    with patch.object(Participant, "on_requests", broken):
        yield


@mutation
def torn_tail_believed() -> Iterator[None]:
    """A block of the log counts only if its checksum does."""
    read_sealed = log_blocks._read_sealed

    def broken(file: Any, offset: int) -> Any:
        with patch.object(log_blocks, "zlib", _ChecksumOf(file, offset)):
            return read_sealed(file, offset)

    with patch.object(log_blocks, "_read_sealed", broken):
        yield


class _ChecksumOf:
    """A checksum function that finds every block to be what its header says."""

    def __init__(self, file: Any, offset: int) -> None:
        header = file.read_at(offset, log_blocks.HEADER_BYTES)
        self._expected = 0
        if len(header) == log_blocks.HEADER_BYTES:
            (self._expected,) = log_blocks._CRC.unpack_from(header, log_blocks._HEADER.size)

    def crc32(self, data: bytes, start: int = 0) -> int:
        del data, start
        return self._expected


@mutation
def log_truncated_before_checkpoint_rules() -> Iterator[None]:
    """The log is cut when the checkpoint that replaces it is stable, not when it begins."""
    begin_checkpoint = MemoryNode.begin_checkpoint

    def broken(self: MemoryNode) -> None:
        begin_checkpoint(self)
        assert self._storage is not None
        assert self._checkpoint is not None
        self._storage.log.truncate_before(self._checkpoint.processed)

    with patch.object(MemoryNode, "begin_checkpoint", broken):
        yield


@mutation
def outcomes_left_out_of_checkpoint() -> Iterator[None]:
    """A checkpoint keeps the answers that clients may still ask for again."""
    with _checkpoint_without(sessions=[]):
        yield


@mutation
def in_doubt_left_out_of_checkpoint() -> Iterator[None]:
    """A checkpoint keeps what is in doubt, with its locks and its writes."""
    with _checkpoint_without(in_doubt=[]):
        yield


@mutation
def decided_left_out_of_checkpoint() -> Iterator[None]:
    """A checkpoint keeps what others may still have to ask about."""
    with _checkpoint_without(decided=[]):
        yield


@contextmanager
def _checkpoint_without(**fields: Any) -> Iterator[None]:
    state = Participant.state

    def broken(self: Participant) -> records.ParticipantState:
        return msgspec.structs.replace(state(self), **fields)

    with patch.object(Participant, "state", broken):
        yield


# --- at most once ----------------------------------------------------------------------------------


@mutation
def duplicate_executed_twice() -> Iterator[None]:
    """A tid that was answered is answered the same again, and not executed again."""
    on_exec_commit = Participant._on_exec_commit

    def broken(
        self: Participant, session: Session, request: ExecCommit, effects: list[Effect]
    ) -> Voted:
        session.outcomes.pop(request.counter, None)
        return on_exec_commit(self, session, request, effects)

    with patch.object(Participant, "_on_exec_commit", broken):
        yield


@mutation
def negative_vote_forgotten() -> Iterator[None]:
    """A second copy of a request gets the "no" that the first one got."""
    on_exec_commit = Participant._on_exec_commit

    def broken(
        self: Participant, session: Session, request: ExecCommit, effects: list[Effect]
    ) -> Voted:
        voted = on_exec_commit(self, session, request, effects)
        if voted.vote is not Vote.OK:
            session.outcomes.pop(request.counter, None)
        return voted

    with patch.object(Participant, "_on_exec_commit", broken):
        yield


@mutation
def floor_not_checked() -> Iterator[None]:
    """A request below its client's floor is not executed: what was answered to it is forgotten."""
    already = Participant._already

    def broken(self: Participant, session: Session, counter: int) -> Voted | None:
        return None if counter < session.floor else already(self, session, counter)

    with patch.object(Participant, "_already", broken):
        yield


@mutation
def incarnation_not_checked() -> Iterator[None]:
    """Nothing is executed that was meant for a former life of the memory node."""
    with patch.object(participant_module, "_needs_incarnation", lambda _batch: False):
        yield


@mutation
def forgotten_with_its_answer() -> Iterator[None]:
    """When all participants forget a tid, its client may still ask, and is answered the same."""

    def broken(self: Participant, tids: Sequence[Tid]) -> None:
        for tid in tids:
            del self.decided[tid]

    with patch.object(Participant, "_forget", broken):
        yield


# --- locks -----------------------------------------------------------------------------------------


@mutation
def read_locks_not_taken() -> Iterator[None]:
    """Compare and read items are locked, too, until the outcome is known."""

    def broken(_compares: Any, _reads: Any, writes: Any) -> list[records.LockRange]:
        return lock_ranges((), (), writes)

    with patch.object(participant_module, "lock_ranges", broken):
        yield


@mutation
def locks_released_at_the_vote() -> Iterator[None]:
    """A participant that voted OK holds its locks until it learns the outcome."""
    vote = Participant._vote

    def broken(
        self: Participant, session: Session, request: ExecPrepare, effects: list[Effect]
    ) -> Voted:
        voted = vote(self, session, request, effects)
        in_doubt = self.in_doubt.get(request.tid)
        if in_doubt is not None:
            self.locks.release(in_doubt.prepared.ranges)
            unlocked = msgspec.structs.replace(in_doubt.prepared, ranges=[])
            self.in_doubt[request.tid] = InDoubt(unlocked, in_doubt.since)
        return voted

    with patch.object(Participant, "_vote", broken):
        yield


@mutation
def restart_without_read_locks() -> Iterator[None]:
    """A restarted node holds all locks of what is in doubt, the shared ones too."""
    replay_prepared = Participant._replay_prepared

    def broken(self: Participant, prepared: records.Prepared) -> None:
        exclusive = [each for each in prepared.ranges if each.exclusive]
        replay_prepared(self, msgspec.structs.replace(prepared, ranges=exclusive))

    with patch.object(Participant, "_replay_prepared", broken):
        yield


@mutation
def read_lease_ignored() -> Iterator[None]:
    """Votes on a read-only minitransaction count only while all its locks are certainly held."""
    with patch.object(Attempt, "still_held", lambda _self, _now: True):
        yield


@mutation
def restart_before_read_leases_end() -> Iterator[None]:
    """A restarted node serves nobody before the read locks that it lost would have ended."""
    tick = MemoryNode.tick

    def broken(self: MemoryNode, now: float) -> None:
        self._serve_from = now
        tick(self, now)

    with patch.object(MemoryNode, "tick", broken):
        yield


# --- outcomes --------------------------------------------------------------------------------------


@mutation
def abort_at_the_deadline() -> Iterator[None]:
    """While a vote is missing, a minitransaction is neither committed nor aborted."""
    give_up = Coordinator._give_up

    def broken(self: Coordinator, attempt: Attempt, call: Call, now: float) -> list[SendTo]:
        if attempt.read_only:
            return give_up(self, attempt, call, now)
        self._stop_waiting(attempt)
        self._fail(call, Contended("a vote is missing, so it is called aborted"))
        return self._announce(attempt, action=False, now=now)

    with patch.object(Coordinator, "_give_up", broken):
        yield


@mutation
def recovery_commits_with_a_vote_missing() -> Iterator[None]:
    """A recovery coordinator commits only if every participant has voted OK (4.4)."""
    decide = RecoveryCoordinator._decide

    def broken(self: RecoveryCoordinator) -> Outcome | None:
        if Answer.ABORT not in self._answers.values():
            return Outcome.COMMITTED
        return decide(self)

    with patch.object(RecoveryCoordinator, "_decide", broken):
        yield


@mutation
def forgotten_before_all_acknowledged() -> Iterator[None]:
    """A committed tid is forgotten once its outcome is stable at every participant (4.7)."""
    on_commit_ack = Coordinator._on_commit_ack

    def broken(self: Coordinator, node: MemoryNodeId, tid: Tid) -> list[SendTo]:
        committing = self._committing.get(tid)
        sends = on_commit_ack(self, node, tid)
        if committing is not None and committing.action:
            sends += [SendTo(each, Forget([tid])) for each in committing.participants]
        return sends

    with patch.object(Coordinator, "_on_commit_ack", broken):
        yield


@mutation
def writes_of_undecided_lost_at_restart() -> Iterator[None]:
    """What was voted OK before a crash is applied if it turns out to have committed."""
    replay_prepared = Participant._replay_prepared

    def broken(self: Participant, prepared: records.Prepared) -> None:
        replay_prepared(self, msgspec.structs.replace(prepared, writes=[]))

    with patch.object(Participant, "_replay_prepared", broken):
        yield
