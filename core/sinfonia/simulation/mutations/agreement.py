# ruff: noqa: SLF001 - what is broken here is private to its owner, and otherwise nobody's business
"""Broken on purpose: at most once, locks, and one outcome for all."""

from collections.abc import Iterator, Sequence
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
from sinfonia.simulation.mutations.mutation import mutation


@mutation()
def duplicate_executed_twice() -> Iterator[None]:
    """A tid that was answered is answered the same again, and not executed again."""
    on_exec_commit = OnePhaseParticipant.on_exec_commit

    def broken(
        self: OnePhaseParticipant, session: Session, request: ExecCommit, step: Step
    ) -> Voted | None:
        session.outcomes.pop(request.counter, None)
        return on_exec_commit(self, session, request, step)

    with patch.object(OnePhaseParticipant, "on_exec_commit", broken):
        yield


@mutation(profile="replays")
def negative_vote_forgotten() -> Iterator[None]:
    """A second copy of a request gets the "no" that the first one got."""
    on_exec_commit = OnePhaseParticipant.on_exec_commit

    def broken(
        self: OnePhaseParticipant, session: Session, request: ExecCommit, step: Step
    ) -> Voted | None:
        voted = on_exec_commit(self, session, request, step)
        if voted is not None and voted.vote is not Vote.OK:
            session.outcomes.pop(request.counter, None)
        return voted

    with patch.object(OnePhaseParticipant, "on_exec_commit", broken):
        yield


@mutation()
def floor_not_checked() -> Iterator[None]:
    """A request below its client's floor is not executed: what was answered to it is forgotten."""
    already = Votes.already

    def broken(self: Votes, session: Session, counter: int) -> Voted | None:
        return None if counter < session.floor else already(self, session, counter)

    with patch.object(Votes, "already", broken):
        yield


@mutation(profile="clients-come-and-go")
def generation_not_checked() -> Iterator[None]:
    """A client whose session may have been dropped has to bring its floor first."""
    admit = Sessions.admit

    def broken(self: Sessions, batch: Requests, epoch: int) -> tuple[Session | None, list[int]]:
        return admit(self, msgspec.structs.replace(batch, generation=self.generation), epoch)

    with patch.object(Sessions, "admit", broken):
        yield


@mutation(profile="clients-come-and-go")
def generation_not_raised() -> Iterator[None]:
    """The generation is later than any that a client knew whose session was dropped."""
    make_room = Sessions._make_room

    def broken(self: Sessions) -> list[int]:
        generation = self.generation
        dropped = make_room(self)
        self.generation = generation
        return dropped

    with patch.object(Sessions, "_make_room", broken):
        yield


@mutation(profile="clients-come-and-go")
def session_dropped_with_its_answers() -> Iterator[None]:
    """A session goes only if it remembers no answer: its client may still ask."""
    with patch.object(Session, "is_idle", property(lambda _self: True)):
        yield


@mutation(profile="blinks-and-late-duplicates")
def incarnation_not_checked() -> Iterator[None]:
    """Nothing is executed that was meant for a former life of the memory node."""
    with patch.object(participant_module, "_needs_incarnation", lambda _batch: False):
        yield


@mutation(profile="lost-replies")
def forgotten_with_its_answer() -> Iterator[None]:
    """When all participants forget a tid, its client may still ask, and is answered the same."""

    def broken(self: LiveParticipantState, tids: Sequence[Tid]) -> None:
        for tid in tids:
            del self.decided[tid]

    with patch.object(LiveParticipantState, "forget", broken):
        yield


@mutation()
def read_locks_not_taken() -> Iterator[None]:
    """Compare and read items are locked, too, until the outcome is known."""
    with locking_only(lambda items: replace(items, compares=(), reads=())):
        yield


@mutation()
def locks_released_at_the_vote() -> Iterator[None]:
    """A participant that voted OK holds its locks until it learns the outcome."""
    vote = TwoPhaseParticipant._vote

    def broken(
        self: TwoPhaseParticipant, session: Session, request: ExecPrepare, step: Step
    ) -> Voted:
        voted = vote(self, session, request, step)
        state = self._state
        in_doubt = state.in_doubt.get(request.tid)
        if in_doubt is not None:
            state.locks.release(in_doubt.prepared.ranges)
            unlocked = msgspec.structs.replace(in_doubt.prepared, ranges=[])
            state.in_doubt[request.tid] = InDoubt(unlocked, in_doubt.since)
        return voted

    with patch.object(TwoPhaseParticipant, "_vote", broken):
        yield


@mutation()
def restart_without_locks() -> Iterator[None]:
    """A restarted node holds the locks of what is in doubt until the outcome is known."""
    with replaying_only(lambda _locked: False):
        yield


@mutation(profile="blinks-behind-cut-links")
def restart_without_read_locks() -> Iterator[None]:
    """A restarted node holds all locks of what is in doubt, the shared ones too."""
    with replaying_only(lambda locked: locked.exclusive):
        yield


@mutation(profile="pauses-in-snapshots")
def read_lease_ignored() -> Iterator[None]:
    """Votes on a read-only minitransaction count only while all its locks are certainly held."""
    with patch.object(Attempt, "still_held", lambda _self, _now: True):
        yield


@mutation(profile="blinks")
def restart_before_read_leases_end() -> Iterator[None]:
    """A restarted node serves nobody before the read locks that it lost would have ended."""
    tick = Leading.tick

    def broken(self: Leading, now: float) -> None:
        self._serve_from = now
        tick(self, now)

    with patch.object(Leading, "tick", broken):
        yield


@mutation()
def abort_at_the_deadline() -> Iterator[None]:
    """While a vote is missing, a minitransaction is neither committed nor aborted."""
    give_up = Calls._give_up

    def broken(self: Calls, attempt: Attempt, call: Call, now: float) -> list[SendTo]:
        if attempt.read_only:
            return give_up(self, attempt, call, now)
        self._stop_waiting(attempt)
        self._fail(call, Contended("a vote is missing, so it is called aborted"))
        return self.outcomes.announce(attempt, action=False, now=now)

    with patch.object(Calls, "_give_up", broken):
        yield


@mutation()
def recovery_commits_with_a_vote_missing() -> Iterator[None]:
    """A recovery coordinator commits only if every participant has voted OK (4.4)."""
    decide = RecoveryCoordinator._decide

    def broken(self: RecoveryCoordinator) -> Outcome | None:
        if Answer.ABORT not in self._answers.values():
            return Outcome.COMMITTED
        return decide(self)

    with patch.object(RecoveryCoordinator, "_decide", broken):
        yield


@mutation()
def forgotten_before_all_acknowledged() -> Iterator[None]:
    """A committed tid is forgotten once its outcome is stable at every participant (4.7)."""
    on_commit_ack = Outcomes.on_commit_ack

    def broken(self: Outcomes, node: MemoryNodeId, tid: Tid) -> list[SendTo]:
        committing = self._committing.get(tid)
        sends = on_commit_ack(self, node, tid)
        if committing is not None and committing.action:
            sends += [SendTo(each, Forget([tid])) for each in committing.participants]
        return sends

    with patch.object(Outcomes, "on_commit_ack", broken):
        yield
