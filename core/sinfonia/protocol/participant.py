"""The participant of Figure 4: a memory node's half of the two-phase protocol.

Theory of operation
-------------------

A participant never waits.  Every lock it wants it tries, and a lock it cannot have becomes a vote
to abort; so no minitransaction that holds locks waits for another and there can be no deadlock.
(One with a single participant holds none before it runs, and may ask to queue: lock_waits.py.)

The coordinator keeps no log.  A minitransaction is committed when *every* participant has an OK
vote on stable storage, whether or not any process has noticed yet.  So

- the vote reaches the redo log before the reply leaves: both are in the ``Step`` that is returned,
  and the driver sends no reply before the records that it rests on are stable;
- a participant that voted OK holds all its locks until it learns the outcome, also over a restart;
- a participant that tells a recovery coordinator "abort" has logged that promise before.

The parts::

    participant_state   what the log gives back: lists, locks, sessions, memory; restart
    one_phase           minitransactions with this one participant, and their line for locks
    two_phase           minitransactions with several: Figure 4
    recovery_answers    recovery coordinators, Forget, probes
    votes               what was voted, and what was answered before

Here a batch is admitted and its requests are given to the parts, in order.
"""

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol import records
from sinfonia.protocol.effects import Question, Step
from sinfonia.protocol.load.counters import LoadCounters
from sinfonia.protocol.lock_waits import LockLimits, LockWaits
from sinfonia.protocol.messages import (
    Commit,
    ExecCommit,
    ExecPrepare,
    Forget,
    NotServing,
    Request,
    Requests,
    Resolve,
    Unwatch,
    Vote,
    Voted,
    Watch,
    WrongIncarnation,
)
from sinfonia.protocol.one_phase import OnePhaseParticipant
from sinfonia.protocol.participant_state import LiveParticipantState
from sinfonia.protocol.recovery_answers import RecoveryAnswers
from sinfonia.protocol.sessions import Session, is_remembered
from sinfonia.protocol.two_phase import TwoPhaseParticipant
from sinfonia.protocol.votes import Votes
from sinfonia.protocol.watches import Watches


class Participant:
    """One memory node's votes on what comes from clients.  It does no I/O; see effects.py."""

    def __init__(
        self,
        state: LiveParticipantState,
        *,
        node: MemoryNodeId,
        incarnation: int,
        read_lease: float,
        load: LoadCounters,
        lock_waits: LockWaits | None = None,
    ) -> None:
        """``read_lease`` is in seconds; what is done is counted in ``load``.

        ``lock_waits`` is the line in which requests wait for locks; by default an ordinary one.
        """
        self.state = state
        self.node = node
        self.incarnation = incarnation
        self.serving = False
        self.votes = Votes(state.sessions, load)
        self.watches = Watches(state.memory.capacity)
        self.one_phase = OnePhaseParticipant(
            state,
            self.votes,
            self.watches,
            lock_waits=LockWaits(LockLimits()) if lock_waits is None else lock_waits,
        )
        self.two_phase = TwoPhaseParticipant(
            state, self.votes, self.watches, node=node, read_lease=read_lease
        )
        self.recovery = RecoveryAnswers(state)

    # --- requests ------------------------------------------------------------------------------

    def on_requests(self, batch: Requests, now: float, route: bytes = b"") -> Step:
        """Handle a batch; ``now`` is monotonic, in seconds; ``route`` is where it came from.

        Whatever a batch says, the step is carried out: a request that breaks the protocol is
        voted BAD_RANGE or left unanswered, and its neighbours are none the worse.
        """
        step = Step(route, now)
        if batch.incarnation != self.incarnation and _needs_incarnation(batch):
            step.replies.append(WrongIncarnation())
            return step
        if self.two_phase.reading:
            self.two_phase.expire_reading(now)
        session = self._session_of(batch, step)
        if session is None:
            self._put_off(batch, step)
        else:
            self._carry_out(session, batch, step)
            # Looked at here: it is the same after most batches.
            if (
                len(session.outcomes) != session.counted
                or session.outcome_bytes != session.counted_bytes
            ):
                self.state.sessions.recount(session)
        if self.one_phase.lock_waits or self.watches.armed:
            self._answer_others(step)
        return step

    def _carry_out(self, session: Session, batch: Requests, step: Step) -> None:
        replies = step.replies
        for request in batch.requests:
            # `type() is` and not isinstance: this line runs for every minitransaction.
            if type(request) is ExecCommit:
                voted = self.one_phase.on_exec_commit(session, request, step)
                if voted is not None:
                    replies.append(voted)
            elif type(request) is ExecPrepare:
                replies.append(self.two_phase.on_exec_prepare(session, request, step))
            elif type(request) is Commit:
                self.two_phase.on_commit(request, step)
            elif type(request) is Watch:
                replies.append(self.watches.on_watch(step.route, batch.client, request, step.now))
            elif type(request) is Unwatch:
                self.watches.on_unwatch(step.route, batch.client, request)
            else:
                self._on_rare_request(request, step)

    def _put_off(self, batch: Requests, step: Step) -> None:
        """Execute nothing, but go on settling what is in doubt.

        Once it serves, each request that was to be executed is voted on: its client may tell
        its caller for certain that it did not happen, if that was the only copy.
        """
        put_off = False
        for request in batch.requests:
            if isinstance(request, ExecCommit | ExecPrepare) and self.serving:
                counter = (
                    request.counter if isinstance(request, ExecCommit) else request.tid.counter
                )
                voted = Voted(counter, Vote.BAD_LOAD)
                step.replies.append(self.votes.count(voted, request.tag))
            elif isinstance(request, ExecCommit | ExecPrepare | Watch):
                # No vote before it serves: a message that is doubled on its way may come again
                # when it does, and be executed (found by test_simulated_sums).
                put_off = True
            elif isinstance(request, Commit):
                self.two_phase.on_commit(request, step)
            else:
                self._on_rare_request(request, step)
        if put_off and not self.serving:
            step.replies.append(NotServing())

    def _on_rare_request(self, request: Request, step: Step) -> None:
        if isinstance(request, Resolve):
            self.recovery.on_resolve(request, step)
        elif isinstance(request, Forget):
            self.recovery.on_forget(request, step)
        elif isinstance(request, Question):
            step.has_questions = True
        # Anything else is meant for a manager.

    def _session_of(self, batch: Requests, step: Step) -> Session | None:
        """The client's session, its floor raised; None while this node executes nothing for it."""
        if not self.serving:
            return None
        sessions = self.state.sessions
        session = sessions.hear(batch)
        if session is not None:
            return session
        dropped: list[int] = []
        if any(isinstance(each, ExecCommit | ExecPrepare) for each in batch.requests):
            session, dropped = sessions.admit(batch, self.state.epoch)
        if dropped and self.state.logged:
            step.log_lazily(records.Forgotten([], dropped))
        if session is None and not any(map(is_remembered, batch.requests)):
            return Session(batch.client, self.state.epoch)  # of this moment only
        return session

    # --- time, and clients that wait -----------------------------------------------------------

    def on_tick(self, now: float) -> Step:
        """Time has passed: answer the requests that have waited for locks long enough."""
        step = Step(b"", now)
        self.two_phase.expire_reading(now)
        self._answer_others(step)
        if self.one_phase.turn_away_overdue(step):
            # When a waiter's time is up it gets BAD_LOCK; the next waiter is then tried.
            self.one_phase.serve_waiters(step)
            self._answer_others(step)
        self.watches.on_tick(now)
        return step

    def next_wakeup(self) -> float | None:
        """When ``on_tick`` must be called next; None: not before a batch comes."""
        lock_waits = self.one_phase.lock_waits
        wakeups = [self.watches.next_wakeup(), lock_waits.next_until]
        if lock_waits:
            wakeups += [held.until for held in self.two_phase.reading.values()]
        return min((each for each in wakeups if each is not None), default=None)

    def _answer_others(self, step: Step) -> None:
        """Answer waiters for locks let go in this step, and watchers of ranges touched."""
        if self.two_phase.let_go and self.one_phase.lock_waits:
            self.one_phase.serve_waiters(step)
        self.two_phase.let_go = False
        if self.watches.armed:
            step.elsewhere += tuple(self.watches.take_hints())

    def check_invariants(self) -> None:
        """The locks held are those of in-doubt and reading minitransactions, and no others."""
        self.state.check_invariants(reading=self.two_phase.reading.values())
        self.one_phase.lock_waits.check_invariants()


def _needs_incarnation(batch: Requests) -> bool:
    """A client that asks only where things are may not know yet to which incarnation it speaks."""
    return not all(isinstance(request, Question) for request in batch.requests)
