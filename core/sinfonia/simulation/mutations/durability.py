# ruff: noqa: SLF001 - what is broken here is private to its owner
"""Broken on purpose: what must be on stable storage, when, and what a restart must find."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import msgspec

from sinfonia.memnode.checkpointer import Checkpointer
from sinfonia.memnode.group_commit import GroupCommit
from sinfonia.protocol import records
from sinfonia.protocol.effects import Step
from sinfonia.protocol.identifiers import Seq, Tid
from sinfonia.protocol.messages import (
    Commit,
    ExecPrepare,
    Requests,
    Resolve,
    Vote,
    Voted,
)
from sinfonia.protocol.participant import Participant
from sinfonia.protocol.participant_state import LiveParticipantState
from sinfonia.protocol.recovery_answers import RecoveryAnswers
from sinfonia.protocol.sessions import Session
from sinfonia.protocol.two_phase import TwoPhaseParticipant
from sinfonia.simulation.mutations.mutation import instead_of, mutation
from sinfonia.storage import log_blocks
from sinfonia.storage.files import File


@instead_of(GroupCommit, "flush", seeds=(7, 15, 10, 14))
def vote_before_sync(flush: Callable[..., None], self: GroupCommit, now: float) -> None:
    """A vote may leave only once it is in the redo log, on stable storage (Figure 4, line 20)."""
    self._must_sync = False
    flush(self, now)


@mutation(seeds=(1, 3, 10, 5))
def compare_only_participant_not_logged() -> Iterator[None]:
    """A participant without write items logs its vote, if the minitransaction writes anywhere."""
    vote, on_commit = TwoPhaseParticipant._vote, TwoPhaseParticipant.on_commit

    def broken_vote(
        self: TwoPhaseParticipant, session: Session, request: ExecPrepare, step: Step
    ) -> Voted:
        voted = vote(self, session, request, step)
        if voted.vote is Vote.OK and not request.writes and not request.updates:
            step.records = [each for each in step.records if not _is_vote_on(each, request.tid)]
        return voted

    def broken_on_commit(self: TwoPhaseParticipant, request: Commit, step: Step) -> None:
        in_doubt = self._state.in_doubt.get(request.tid)
        logged = in_doubt is not None and bool(in_doubt.prepared.writes)
        records = step.records.copy()
        on_commit(self, request, step)
        if not logged:
            step.records = records

    with (
        patch.object(TwoPhaseParticipant, "_vote", broken_vote),
        patch.object(TwoPhaseParticipant, "on_commit", broken_on_commit),
    ):
        yield


def _is_vote_on(record: records.Record, tid: Tid) -> bool:
    return isinstance(record, records.Prepared) and record.tid == tid


@instead_of(RecoveryAnswers, "on_resolve", profile="everybody-dies", seeds=(79, 27))
def forced_abort_not_durable(
    on_resolve: Callable[..., None], self: RecoveryAnswers, request: Resolve, step: Step
) -> None:
    """A promise to abort is in the log before a recovery coordinator hears of it (4.4)."""
    unlogged = Step(step.route, step.now)
    on_resolve(self, request, unlogged)
    step.replies += unlogged.replies


@instead_of(Participant, "on_requests", seeds=(48, 16, 26, 10))
def acknowledged_before_stable(
    on_requests: Callable[..., Step],
    self: Participant,
    batch: Requests,
    now: float,
    route: bytes = b"",
) -> Step:
    """COMMIT is acknowledged, so that others may forget it, once its outcome is stable here."""
    step = on_requests(self, batch, now, route)
    step.replies += step.once_stable
    step.once_stable = []
    return step


@instead_of(log_blocks, "_read_sealed", profile="torn-writes", seeds=(50, 42, 7, 24))
def torn_tail_believed(read_sealed: Callable[..., object], file: File, offset: int) -> object:
    """A block of the log counts only if its checksum does."""
    with patch.object(log_blocks, "zlib", _ChecksumOf(file, offset)):
        return read_sealed(file, offset)


class _ChecksumOf:
    """A checksum function that finds every block to be what its header says."""

    def __init__(self, file: File, offset: int) -> None:
        header = file.read_at(offset, log_blocks.HEADER_BYTES)
        self._expected = 0
        if len(header) == log_blocks.HEADER_BYTES:
            (self._expected,) = log_blocks._CRC.unpack_from(header, log_blocks._HEADER.size)

    def crc32(self, data: bytes, start: int = 0) -> int:
        del data, start
        return self._expected


@instead_of(Checkpointer, "begin", seeds=(40, 105, 84, 113))
def log_truncated_before_checkpoint_rules(
    begin: Callable[..., None], self: Checkpointer, applied: Seq, state: records.ParticipantState
) -> None:
    """The log is cut when the checkpoint that replaces it is stable, not when it begins."""
    begin(self, applied, state)
    assert self._running is not None
    log = self._storage.log
    log._keep_bytes = 0  # what is kept for others would hide the mistake
    log.truncate_before(self._running.processed)


@mutation(profile="lost-replies", seeds=(3, 2, 1, 4))
def outcomes_left_out_of_checkpoint() -> Iterator[None]:
    """A checkpoint keeps the answers that clients may still ask for again."""
    with _checkpoint_without(sessions=[]):
        yield


@mutation(seeds=(2, 3, 4, 5))
def in_doubt_left_out_of_checkpoint() -> Iterator[None]:
    """A checkpoint keeps what is in doubt, with its locks and its writes."""
    with _checkpoint_without(in_doubt=[]):
        yield


@mutation(seeds=(3, 6, 4, 5))
def decided_left_out_of_checkpoint() -> Iterator[None]:
    """A checkpoint keeps what others may still have to ask about."""
    with _checkpoint_without(decided=[]):
        yield


@contextmanager
def _checkpoint_without(**fields: object) -> Iterator[None]:
    state = LiveParticipantState.checkpoint_state

    def broken(self: LiveParticipantState) -> records.ParticipantState:
        return msgspec.structs.replace(state(self), **fields)

    with patch.object(LiveParticipantState, "checkpoint_state", broken):
        yield


@instead_of(LiveParticipantState, "_replay_prepared", seeds=(1, 3, 4, 5))
def writes_of_undecided_lost_at_restart(
    replay_prepared: Callable[..., None], self: LiveParticipantState, prepared: records.Prepared
) -> None:
    """What was voted OK before a crash is applied if it turns out to have committed."""
    replay_prepared(self, msgspec.structs.replace(prepared, writes=[]))
