"""With one participant the vote is the outcome (section 4.8).

The writes are applied at once, and nothing is left in doubt.  What reads them in the same wake-up
is answered after the same sync.

A minitransaction that meets a lock is voted BAD_LOCK, or joins the line for locks if its client
asked for that (lock_waits.py).  Whenever locks were let go, the waiters whose locks are free are
executed, first come first served.  When a waiter's time is up it gets BAD_LOCK.
"""

from collections.abc import Sequence

from sinfonia.minitransaction import WriteItem
from sinfonia.protocol import records
from sinfonia.protocol.effects import Step
from sinfonia.protocol.execution import evaluate, is_locked
from sinfonia.protocol.lock_waits import LockWaits, Waiter, meets
from sinfonia.protocol.messages import ExecCommit, Reply, Vote, Voted
from sinfonia.protocol.participant_state import LiveParticipantState
from sinfonia.protocol.sessions import (
    COUNTED_BYTES_MIN,
    EPOCHS_AHEAD_MAX,
    EPOCHS_STALE,
    Session,
    is_remembered,
    size_of,
)
from sinfonia.protocol.votes import Votes
from sinfonia.protocol.watches import Watches

OK = Vote.OK


class OnePhaseParticipant:
    """A memory node's part in minitransactions that have no other participant."""

    def __init__(
        self,
        state: LiveParticipantState,
        votes: Votes,
        watches: Watches,
        *,
        lock_waits: LockWaits,
    ) -> None:
        self.lock_waits = lock_waits
        self._state = state
        self._votes = votes
        self._watches = watches
        # Read for every minitransaction; a state keeps them for life.
        self._locks = state.locks
        self._bytes = state.memory.memory
        self._capacity = state.memory.capacity

    def on_exec_commit(self, session: Session, request: ExecCommit, step: Step) -> Voted | None:
        """Execute and vote; None: it waits for locks."""
        refused = self._refused(session, request)
        if refused is not None:
            return refused
        if self.lock_waits or len(self._locks):
            must_wait = self._must_wait(session, request, step)
            if must_wait is None:
                return None
            if must_wait:
                return self._vote_no(session, request, Voted(request.counter, Vote.BAD_LOCK))
        return self._execute(session, request, step)

    def _must_wait(self, session: Session, request: ExecCommit, step: Step) -> bool | None:
        """Whether ``request`` meets a lock, or a waiter for one; None: it waits too."""
        waits = self.lock_waits
        if waits.holds(session.client, request.counter):
            return None  # a second copy; the first will be answered
        willing = request.lock_wait_ms > 0
        if not is_locked(self._locks, request) and not (willing and waits.stands_before(request)):
            return False
        if willing and waits.admit(step.route, session.client, request, step.now):
            return None
        return True

    def _refused(self, session: Session, request: ExecCommit) -> Voted | None:
        """The answer to what is not to be executed (again), or None."""
        if request.writes or request.updates:
            known = self._votes.already(session, request.counter)
            if known is not None:
                return known
        if not -EPOCHS_STALE < request.epoch - self._state.epoch <= EPOCHS_AHEAD_MAX:
            return self._votes.count(Voted(request.counter, Vote.BAD_EPOCH), request.tag)
        return None

    def _execute(self, session: Session, request: ExecCommit, step: Step) -> Voted:
        """Execute and commit what meets no lock, but for the slots that appends lead to."""
        counter = request.counter
        voted, writes, bytes_read = evaluate(self._bytes, self._capacity, counter, request)
        if request.updates and len(self._locks) and self._are_locked(writes):
            voted = Voted(counter, Vote.BAD_LOCK)
        if voted.vote is not OK:
            return self._vote_no(session, request, voted)
        votes = self._votes
        votes.counts[OK] += 1
        load = votes.load.of(request.tag)
        load.executed += 1
        load.bytes_read += bytes_read
        if not writes:
            return voted
        if request.epoch > session.epoch:
            session.epoch = request.epoch
        session.outcomes[counter] = voted
        if bytes_read >= COUNTED_BYTES_MIN:
            session.count(counter, bytes_read)
        state = self._state
        load.bytes_written += state.apply(writes)
        if self._watches.armed:
            self._watches.touch_all(writes)
        if state.logged:
            record = records.OnePhase(
                client=session.client,
                epoch=request.epoch,
                counter=counter,
                floor=session.floor,
                writes=writes,
                reads=voted.reads,
            )
            step.log(record)
        return voted

    def _vote_no(self, session: Session, request: ExecCommit, voted: Voted) -> Voted:
        """A vote that is not OK; it is remembered if the minitransaction was to write."""
        self._votes.count(voted, request.tag)
        if (request.writes or request.updates) and request.counter >= session.floor:
            if request.epoch > session.epoch:
                session.epoch = request.epoch
            session.outcomes[request.counter] = voted
            session.count(request.counter, size_of(voted))
        return voted

    def _are_locked(self, writes: Sequence[WriteItem]) -> bool:
        conflicts = self._locks.conflicts
        return any(conflicts(w.address, w.address + len(w.data), exclusive=True) for w in writes)

    # --- the line for locks --------------------------------------------------------------------

    def serve_waiters(self, step: Step) -> None:
        """Execute the waiters whose locks are free now, first come first served."""
        ahead: set[int] = set()
        served: list[tuple[bytes, Reply]] = []
        for waiter in self.lock_waits:
            if meets(waiter.cells, ahead) or is_locked(self._locks, waiter.request):
                ahead |= waiter.cells
                continue
            self.lock_waits.leave(waiter)
            served.append((waiter.route, self._serve(waiter, step)))
        step.elsewhere += tuple(served)

    def _serve(self, waiter: Waiter, step: Step) -> Voted:
        request = waiter.request
        session = self._session_of(waiter)
        if session is None:
            return self._votes.count(Voted(request.counter, Vote.BAD_LOAD))
        refused = self._refused(session, request)
        voted = self._execute(session, request, step) if refused is None else refused
        self._state.sessions.recount(session)
        return voted

    def turn_away_overdue(self, step: Step) -> bool:
        """Vote BAD_LOCK on the waiters whose time is up; whether there were any."""
        turned_away: list[tuple[bytes, Reply]] = []
        for waiter in self.lock_waits.overdue(step.now):
            self.lock_waits.leave(waiter)
            self.lock_waits.expired += 1
            turned_away.append((waiter.route, self._turn_away(waiter)))
        step.elsewhere += tuple(turned_away)
        return bool(turned_away)

    def _turn_away(self, waiter: Waiter) -> Voted:
        counter = waiter.request.counter
        session = self._session_of(waiter)
        if session is None:
            return self._votes.count(Voted(counter, Vote.BAD_LOAD))
        # Its client may have finished with it meanwhile, or had it promised to be aborted.
        voted = self._refused(session, waiter.request)
        if voted is None:
            voted = self._vote_no(session, waiter.request, Voted(counter, Vote.BAD_LOCK))
        self._state.sessions.recount(session)
        return voted

    def _session_of(self, waiter: Waiter) -> Session | None:
        """The session of a client in the line; None if it was dropped meanwhile, floor and all."""
        session = self._state.sessions.get(waiter.client)
        if session is not None and session.admitted:
            return session
        if is_remembered(waiter.request):
            return None
        return Session(waiter.client, self._state.epoch)
