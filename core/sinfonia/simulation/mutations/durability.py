# ruff: noqa: SLF001 - what is broken here is private to its owner, and otherwise nobody's business
"""Broken on purpose: what must be on stable storage, when, and what a restart must find."""

from collections.abc import Iterator
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
from sinfonia.simulation.mutations.mutation import mutation
from sinfonia.storage import log_blocks
from sinfonia.storage.files import File


@mutation()
def vote_before_sync() -> Iterator[None]:
    """A vote may leave only once it is in the redo log, on stable storage (Figure 4, line 20)."""
    flush = GroupCommit.flush

    def broken(self: GroupCommit, now: float) -> None:
        self._must_sync = False
        flush(self, now)

    with patch.object(GroupCommit, "flush", broken):
        yield


@mutation()
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


@mutation(profile="everybody-dies")
def forced_abort_not_durable() -> Iterator[None]:
    """A promise to abort is in the log before a recovery coordinator hears of it (4.4)."""
    on_resolve = RecoveryAnswers.on_resolve

    def broken(self: RecoveryAnswers, request: Resolve, step: Step) -> None:
        unlogged = Step(step.route, step.now)
        on_resolve(self, request, unlogged)
        step.replies += unlogged.replies

    with patch.object(RecoveryAnswers, "on_resolve", broken):
        yield


@mutation()
def acknowledged_before_stable() -> Iterator[None]:
    """COMMIT is acknowledged, so that others may forget it, once its outcome is stable here."""
    on_requests = Participant.on_requests

    def broken(self: Participant, batch: Requests, now: float, route: bytes = b"") -> Step:
        step = on_requests(self, batch, now, route)
        step.replies += step.once_stable
        step.once_stable = []
        return step

    with patch.object(Participant, "on_requests", broken):
        yield


@mutation(profile="torn-writes")
def torn_tail_believed() -> Iterator[None]:
    """A block of the log counts only if its checksum does."""
    read_sealed = log_blocks._read_sealed

    def broken(file: File, offset: int) -> object:
        with patch.object(log_blocks, "zlib", _ChecksumOf(file, offset)):
            return read_sealed(file, offset)

    with patch.object(log_blocks, "_read_sealed", broken):
        yield


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


@mutation()
def log_truncated_before_checkpoint_rules() -> Iterator[None]:
    """The log is cut when the checkpoint that replaces it is stable, not when it begins."""
    begin = Checkpointer.begin

    def broken(self: Checkpointer, applied: Seq, state: records.ParticipantState) -> None:
        begin(self, applied, state)
        assert self._running is not None
        log = self._storage.log
        log._keep_bytes = 0  # what is kept for others would hide the mistake
        log.truncate_before(self._running.processed)

    with patch.object(Checkpointer, "begin", broken):
        yield


@mutation(profile="lost-replies")
def outcomes_left_out_of_checkpoint() -> Iterator[None]:
    """A checkpoint keeps the answers that clients may still ask for again."""
    with _checkpoint_without(sessions=[]):
        yield


@mutation()
def in_doubt_left_out_of_checkpoint() -> Iterator[None]:
    """A checkpoint keeps what is in doubt, with its locks and its writes."""
    with _checkpoint_without(in_doubt=[]):
        yield


@mutation()
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


@mutation()
def writes_of_undecided_lost_at_restart() -> Iterator[None]:
    """What was voted OK before a crash is applied if it turns out to have committed."""
    replay_prepared = LiveParticipantState._replay_prepared

    def broken(self: LiveParticipantState, prepared: records.Prepared) -> None:
        replay_prepared(self, msgspec.structs.replace(prepared, writes=[]))

    with patch.object(LiveParticipantState, "_replay_prepared", broken):
        yield
