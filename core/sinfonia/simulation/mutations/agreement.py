"""Broken on purpose: at most once, locks, and one outcome for all."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from unittest.mock import patch

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import Contended
from sinfonia.memnode.leading import Leading
from sinfonia.protocol import participant as participant_module
from sinfonia.protocol.attempts import Attempt, Call
from sinfonia.protocol.calls import Calls
from sinfonia.protocol.effects import SendTo, Step
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.lists import InDoubt
from sinfonia.protocol.messages import (
    Answer,
    ExecCommit,
    ExecPrepare,
    Forget,
    Requests,
    Vote,
    Voted,
)
from sinfonia.protocol.one_phase import OnePhaseParticipant
from sinfonia.protocol.outcomes import Outcomes
from sinfonia.protocol.participant_state import LiveParticipantState
from sinfonia.protocol.recovery import Outcome, RecoveryCoordinator
from sinfonia.protocol.sessions import Session, Sessions
from sinfonia.protocol.two_phase import TwoPhaseParticipant
from sinfonia.protocol.votes import Votes
from sinfonia.simulation.mutations.locking import locking_only, replaying_only
from sinfonia.simulation.mutations.mutation import instead_of, mutation


@instead_of(OnePhaseParticipant, "on_exec_commit", seeds=(7, 4, 8, 5))
def duplicate_executed_twice(
    on_exec_commit: Callable[..., Voted | None],
    self: OnePhaseParticipant,
    session: Session,
    request: ExecCommit,
    step: Step,
) -> Voted | None:
    """A tid that was answered is answered the same again, and not executed again."""
    session.outcomes.pop(request.counter, None)
    return on_exec_commit(self, session, request, step)


@instead_of(OnePhaseParticipant, "on_exec_commit", profile="replays", seeds=(66, 69, 106, 46))
def negative_vote_forgotten(
    on_exec_commit: Callable[..., Voted | None],
    self: OnePhaseParticipant,
    session: Session,
    request: ExecCommit,
    step: Step,
) -> Voted | None:
    """A second copy of a request gets the "no" that the first one got."""
    voted = on_exec_commit(self, session, request, step)
    if voted is not None and voted.vote is not Vote.OK:
        session.outcomes.pop(request.counter, None)
    return voted


@instead_of(Votes, "already", seeds=(7, 15, 4, 14))
def floor_not_checked(
    already: Callable[..., Voted | None], self: Votes, session: Session, counter: int
) -> Voted | None:
    """A request below its client's floor is not executed: what was answered to it is forgotten."""
    return None if counter < session.floor else already(self, session, counter)


@instead_of(Sessions, "admit", profile="clients-come-and-go", seeds=(3, 5, 10, 7))
def generation_not_checked(
    admit: Callable[..., tuple[Session | None, list[int]]],
    self: Sessions,
    batch: Requests,
    epoch: int,
) -> tuple[Session | None, list[int]]:
    """A client whose session may have been dropped has to bring its floor first."""
    return admit(self, msgspec.structs.replace(batch, generation=self.generation), epoch)


@instead_of(Sessions, "_make_room", profile="clients-come-and-go", seeds=(3, 5, 7, 10))
def generation_not_raised(make_room: Callable[..., list[int]], self: Sessions) -> list[int]:
    """The generation is later than any that a client knew whose session was dropped."""
    generation = self.generation
    dropped = make_room(self)
    self.generation = generation
    return dropped


@mutation(profile="clients-come-and-go", seeds=(161, 154, 183, 47))
def session_dropped_with_its_answers() -> Iterator[None]:
    """A session goes only if it remembers no answer: its client may still ask."""
    with patch.object(Session, "is_idle", property(lambda _self: True)):
        yield


@mutation(profile="blinks-and-late-duplicates", seeds=(7, 12, 16, 9))
def incarnation_not_checked() -> Iterator[None]:
    """Nothing is executed that was meant for a former life of the memory node."""
    with patch.object(participant_module, "_needs_incarnation", lambda _batch: False):
        yield


@instead_of(LiveParticipantState, "forget", profile="lost-replies", seeds=(17, 15, 13, 9))
def forgotten_with_its_answer(
    _original: object, self: LiveParticipantState, tids: Sequence[Tid]
) -> None:
    """When all participants forget a tid, its client may still ask, and is answered the same."""
    for tid in tids:
        del self.decided[tid]


@mutation(seeds=(9, 4, 5, 1))
def read_locks_not_taken() -> Iterator[None]:
    """Compare and read items are locked, too, until the outcome is known."""
    with locking_only(lambda items: replace(items, compares=(), reads=())):
        yield


@instead_of(TwoPhaseParticipant, "_vote", seeds=(1, 3, 4, 2))
def locks_released_at_the_vote(
    vote: Callable[..., Voted],
    self: TwoPhaseParticipant,
    session: Session,
    request: ExecPrepare,
    step: Step,
) -> Voted:
    """A participant that voted OK holds its locks until it learns the outcome."""
    voted = vote(self, session, request, step)
    state = self._state
    in_doubt = state.in_doubt.get(request.tid)
    if in_doubt is not None:
        state.locks.release(in_doubt.prepared.ranges)
        unlocked = msgspec.structs.replace(in_doubt.prepared, ranges=[])
        state.in_doubt[request.tid] = InDoubt(unlocked, in_doubt.since)
    return voted


@mutation(seeds=(21, 19, 15, 16))
def restart_without_locks() -> Iterator[None]:
    """A restarted node holds the locks of what is in doubt until the outcome is known."""
    with replaying_only(lambda _locked: False):
        yield


@mutation(profile="blinks-behind-cut-links", seeds=(45, 52, 1))
def restart_without_read_locks() -> Iterator[None]:
    """A restarted node holds all locks of what is in doubt, the shared ones too."""
    with replaying_only(lambda locked: locked.exclusive):
        yield


@mutation(profile="pauses-in-snapshots", seeds=(123,))
def read_lease_ignored() -> Iterator[None]:
    """Votes on a read-only minitransaction count only while all its locks are certainly held."""
    with patch.object(Attempt, "still_held", lambda _self, _now: True):
        yield


@instead_of(Leading, "tick", profile="blinks", seeds=(62,))
def restart_before_read_leases_end(tick: Callable[..., None], self: Leading, now: float) -> None:
    """A restarted node does not serve before the read locks that it lost would have ended."""
    self._serve_from = now
    tick(self, now)


@instead_of(Calls, "_give_up", seeds=(7, 5, 15, 14))
def abort_at_the_deadline(
    give_up: Callable[..., list[SendTo]], self: Calls, attempt: Attempt, call: Call, now: float
) -> list[SendTo]:
    """While a vote is missing, a minitransaction is neither committed nor aborted."""
    if attempt.read_only:
        return give_up(self, attempt, call, now)
    self._stop_waiting(attempt)
    self._fail(call, Contended("a vote is missing, so it is called aborted"))
    return self.outcomes.announce(attempt, action=False, now=now)


@instead_of(RecoveryCoordinator, "_decide", seeds=(7, 9, 8, 5))
def recovery_commits_with_a_vote_missing(
    decide: Callable[..., Outcome | None], self: RecoveryCoordinator
) -> Outcome | None:
    """A recovery coordinator commits only if every participant has voted OK (4.4)."""
    if Answer.ABORT not in self._answers.values():
        return Outcome.COMMITTED
    return decide(self)


@instead_of(Outcomes, "on_commit_ack", seeds=(58, 12, 55, 14))
def forgotten_before_all_acknowledged(
    on_commit_ack: Callable[..., list[SendTo]], self: Outcomes, node: MemoryNodeId, tid: Tid
) -> list[SendTo]:
    """A committed tid is forgotten once its outcome is stable at every participant (4.7)."""
    committing = self._committing.get(tid)
    sends = on_commit_ack(self, node, tid)
    if committing is not None and committing.action:
        sends += [SendTo(each, Forget([tid])) for each in committing.participants]
    return sends
