"""The participant of Figure 4: a memory node's half of the two-phase protocol.

Theory of operation
-------------------

A participant never waits.  Every lock it wants it tries, and a lock it cannot have becomes a vote
to abort; so no minitransaction that holds locks waits for another and there can be no deadlock.
(One with a single participant holds none before it runs, and may ask to queue: lock_waits.py.)

The coordinator keeps no log.  A minitransaction is committed when *every* participant has an OK
vote on stable storage, whether or not anyone has noticed yet.  So

- the vote reaches the redo log before the reply leaves: both are in the ``Step`` that is returned,
  and the driver sends no reply before the records that it rests on are stable;
- a participant without write items logs too, if the minitransaction writes anywhere;
- a participant that voted OK holds all its locks until it learns the outcome, also over a restart;
- a participant that tells a recovery coordinator "abort" has logged that promise before.

With one participant the vote is the outcome (section 4.8): the writes are applied at once and
nothing is left in doubt.  What reads them in the same wake-up is answered after the same sync.

A minitransaction that only reads, over several participants, is not logged.  Its locks last
for ``read_lease`` seconds and then let go by themselves; the coordinator believes the votes only
if all came in within that time, and a restarted node serves no client before it has passed.

Deviation from Figure 4: a tid that was answered before, or forced to abort, is looked up before
its locks are tried (the paper tries the locks first): a second copy must not meet its own locks.
"""

from collections.abc import Sequence
from operator import lt

from sinfonia.addresses import MemoryNodeId
from sinfonia.minitransaction import ITEMS_MAX, WriteItem
from sinfonia.protocol import records
from sinfonia.protocol.effects import Question, Step
from sinfonia.protocol.execution import NO_WRITES, Memory, evaluate, is_locked
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.lists import (
    DECIDED_MAX,
    IN_DOUBT_MAX,
    InDoubt,
    Reading,
    first_of,
)
from sinfonia.protocol.lock_waits import LockLimits, LockWaits, Waiter, meets
from sinfonia.protocol.locks import lock_ranges
from sinfonia.protocol.messages import (
    Answer,
    Commit,
    CommitAck,
    ExecCommit,
    ExecPrepare,
    Forget,
    NotServing,
    Probe,
    Request,
    Requests,
    Resolve,
    Resolved,
    Unsettled,
    Unwatch,
    Vote,
    Voted,
    Watch,
    WrongIncarnation,
)
from sinfonia.protocol.participant_state import LiveParticipantState
from sinfonia.protocol.sessions import (
    COUNTED_BYTES_MIN,
    EPOCHS_AHEAD_MAX,
    EPOCHS_STALE,
    Session,
    SessionLimits,
    size_of,
)
from sinfonia.protocol.updates import leads_elsewhere

OK = Vote.OK

# Votes after which a client tries again, all by itself.
RETRIED = frozenset({Vote.BAD_LOCK, Vote.BAD_EPOCH, Vote.BAD_LOAD})


class Participant(LiveParticipantState):
    """One memory node's votes, locks and lists.  It does no I/O; see effects.py."""

    def __init__(
        self,
        *,
        node: MemoryNodeId,
        incarnation: int,
        memory: Memory,
        logged: bool,
        read_lease: float,
        sessions: SessionLimits | None = None,
        lock_waits: LockWaits | None = None,
    ) -> None:
        """``logged``: whether what happens is logged; ``read_lease`` is in seconds.

        ``lock_waits`` is the line in which requests wait for locks.
        """
        super().__init__(
            memory,
            sessions=sessions or SessionLimits(),
            lock_waits=LockWaits(LockLimits()) if lock_waits is None else lock_waits,
        )
        self.node = node
        self.incarnation = incarnation
        self.logged = logged
        self.read_lease = read_lease
        self.serving = False
        self.votes = [0] * len(Vote)
        self.duplicates = 0
        self._capacity = memory.capacity
        self._bytes = memory.memory

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
        if self.reading:
            self._expire_reading(now)
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
                self.sessions.recount(session)
        if self.lock_waits or self.watches.armed:
            self._answer_others(step)
        return step

    def _carry_out(self, session: Session, batch: Requests, step: Step) -> None:
        replies = step.replies
        for request in batch.requests:
            # `type() is` and not isinstance: this line runs for every minitransaction.
            if type(request) is ExecCommit:
                voted = self._on_exec_commit(session, request, step)
                if voted is not None:
                    replies.append(voted)
            elif type(request) is ExecPrepare:
                replies.append(self._on_exec_prepare(session, request, step))
            elif type(request) is Commit:
                self._on_commit(request, step)
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
                step.replies.append(self._count(voted, request.tag))
            elif isinstance(request, ExecCommit | ExecPrepare | Watch):
                # No vote before it serves: a message that is doubled on its way may come again
                # when it does, and be executed (found by test_simulated_sums).
                put_off = True
            elif isinstance(request, Commit):
                self._on_commit(request, step)
            else:
                self._on_rare_request(request, step)
        if put_off and not self.serving:
            step.replies.append(NotServing())

    def on_tick(self, now: float) -> Step:
        """Time has passed: answer the requests that have waited for locks long enough."""
        step = Step(b"", now)
        self._expire_reading(now)
        self._answer_others(step)
        overdue = self.lock_waits.overdue(now)
        for waiter in overdue:
            self.lock_waits.leave(waiter)
            self.lock_waits.expired += 1
            session = self._session_of_waiter(waiter)
            if session is None:
                voted = self._count(Voted(waiter.request.counter, Vote.BAD_LOAD))
            else:
                # Its client may have finished with it meanwhile, or had it promised to be aborted.
                voted = Voted(waiter.request.counter, Vote.BAD_LOCK)
                refused = self._refused(session, waiter.request)
                voted = refused or self._vote_one_phase(session, waiter.request, voted)
                self.sessions.recount(session)
            step.elsewhere.append((waiter.route, voted))
        if overdue:
            # When a waiter's time is up it gets BAD_LOCK; the next waiter is then tried.
            self._let_go = True
            self._answer_others(step)
        self.watches.on_tick(now)
        return step

    def next_wakeup(self) -> float | None:
        """When ``on_tick`` must be called next; None: not before a batch comes."""
        wakeups = [self.watches.next_wakeup(), self.lock_waits.next_until]
        if self.lock_waits:
            wakeups += [held.until for held in self.reading.values()]
        return min((each for each in wakeups if each is not None), default=None)

    def _answer_others(self, step: Step) -> None:
        """Answer waiters for locks let go in this step, and watchers of ranges touched."""
        if self._let_go and self.lock_waits:
            self._serve_waiters(step)
        self._let_go = False
        if self.watches.armed:
            step.elsewhere += self.watches.take_hints()

    def _serve_waiters(self, step: Step) -> None:
        """First come, first served, as far as their locks are free now."""
        ahead: set[int] = set()
        for waiter in self.lock_waits:
            if meets(waiter.cells, ahead) or is_locked(self.locks, waiter.request):
                ahead |= waiter.cells
                continue
            self.lock_waits.leave(waiter)
            step.elsewhere.append((waiter.route, self._serve(waiter, step)))

    def _serve(self, waiter: Waiter, step: Step) -> Voted:
        request = waiter.request
        session = self._session_of_waiter(waiter)
        if session is None:
            return self._count(Voted(request.counter, Vote.BAD_LOAD))
        refused = self._refused(session, request)
        voted = self._execute(session, request, step) if refused is None else refused
        self.sessions.recount(session)
        return voted

    def _session_of_waiter(self, waiter: Waiter) -> Session | None:
        """The session of a client in the line; None if it was dropped meanwhile, floor and all."""
        session = self.sessions.get(waiter.client)
        if session is not None and session.admitted:
            return session
        return None if _is_remembered(waiter.request) else Session(waiter.client, self.epoch)

    def _on_rare_request(self, request: Request, step: Step) -> None:
        if isinstance(request, Resolve):
            self._on_resolve(request, step)
        elif isinstance(request, Forget):
            self._on_forget(request, step)
        elif isinstance(request, Question):
            step.questions.append(request)
        # Anything else is meant for a manager.

    def _session_of(self, batch: Requests, step: Step) -> Session | None:
        """The client's session, its floor raised; None while this node executes nothing for it."""
        if not self.serving:
            return None
        session = self.sessions.hear(batch)
        if session is not None:
            return session
        dropped: list[int] = []
        if any(isinstance(each, ExecCommit | ExecPrepare) for each in batch.requests):
            session, dropped = self.sessions.admit(batch, self.epoch)
        if dropped and self.logged:
            step.log_lazily(records.Forgotten([], dropped))
        if session is None and not any(map(_is_remembered, batch.requests)):
            return Session(batch.client, self.epoch)  # of this moment only
        return session

    def _on_exec_commit(self, session: Session, request: ExecCommit, step: Step) -> Voted | None:
        """One phase: the vote is the outcome (section 4.8).  None: it waits for locks."""
        refused = self._refused(session, request)
        if refused is not None:
            return refused
        if self.lock_waits or len(self.locks):
            must_wait = self._must_wait(session, request, step)
            if must_wait is None:
                return None
            if must_wait:
                return self._vote_one_phase(session, request, Voted(request.counter, Vote.BAD_LOCK))
        return self._execute(session, request, step)

    def _must_wait(self, session: Session, request: ExecCommit, step: Step) -> bool | None:
        """Whether ``request`` meets a lock, or a waiter for one; None: it waits too."""
        waits = self.lock_waits
        if waits.holds(session.client, request.counter):
            return None  # a second copy; the first will be answered
        willing = request.lock_wait_ms > 0
        if not is_locked(self.locks, request) and not (willing and waits.stands_before(request)):
            return False
        if willing and waits.admit(step.route, session.client, request, step.now):
            return None
        return True

    def _refused(self, session: Session, request: ExecCommit) -> Voted | None:
        """The answer to what is not to be executed (again), or None."""
        if request.writes or request.updates:
            known = self._already(session, request.counter)
            if known is not None:
                return known
        if not -EPOCHS_STALE < request.epoch - self.epoch <= EPOCHS_AHEAD_MAX:
            return self._count(Voted(request.counter, Vote.BAD_EPOCH), request.tag)
        return None

    def _execute(self, session: Session, request: ExecCommit, step: Step) -> Voted:
        """Execute and commit what meets no lock, but for the slots that appends lead to."""
        counter = request.counter
        voted, writes, bytes_read = evaluate(self._bytes, self._capacity, counter, request)
        if request.updates and len(self.locks) and self._are_locked(writes):
            voted = Voted(counter, Vote.BAD_LOCK)
        if voted.vote is not OK:
            return self._vote_one_phase(session, request, voted)
        self.votes[OK] += 1
        load = self.load.of(request.tag)
        load.executed += 1
        load.bytes_read += bytes_read
        if not writes:
            return voted
        if request.epoch > session.epoch:
            session.epoch = request.epoch
        session.outcomes[counter] = voted
        if bytes_read >= COUNTED_BYTES_MIN:
            session.count(counter, bytes_read)
        load.bytes_written += self._apply(writes)
        if self.logged:
            record = records.OnePhase(
                session.client, request.epoch, counter, session.floor, writes, voted.reads
            )
            step.log(record)
        return voted

    def _vote_one_phase(self, session: Session, request: ExecCommit, voted: Voted) -> Voted:
        """A vote that is not OK; it is remembered if the minitransaction was to write."""
        self._count(voted, request.tag)
        if (request.writes or request.updates) and request.counter >= session.floor:
            if request.epoch > session.epoch:
                session.epoch = request.epoch
            session.outcomes[request.counter] = voted
            session.count(request.counter, size_of(voted))
        return voted

    def _on_exec_prepare(self, session: Session, request: ExecPrepare, step: Step) -> Voted:
        """Figure 4, lines 12-25: vote, and keep the locks if the vote is OK."""
        tid = request.tid
        tag = request.tag
        if tid.client != session.client or not self._takes_part(request.participants):
            return self._count(Voted(tid.counter, Vote.BAD_RANGE), tag)
        if request.read_only:
            return self._count(self._vote_reading(request, step.now), tag)
        in_doubt = self.in_doubt.get(tid)
        if in_doubt is not None:
            self.duplicates += 1
            return in_doubt.voted
        decided = self.decided.get(tid)
        if decided is not None:
            self.duplicates += 1
            return decided.voted
        known = self._already(session, tid.counter)
        if known is not None:
            return known
        if (
            len(self.in_doubt) >= IN_DOUBT_MAX
            or len(self.decided) >= DECIDED_MAX
            or session.in_doubt_too_much
        ):
            return self._count(Voted(tid.counter, Vote.BAD_LOAD), tag)
        if not -EPOCHS_STALE < tid.epoch - self.epoch <= EPOCHS_AHEAD_MAX:
            return self._count(Voted(tid.counter, Vote.BAD_EPOCH), tag)
        if tid.epoch > session.epoch:
            session.epoch = tid.epoch
        return self._count(self._vote(session, request, step), tag)

    def _vote(self, session: Session, request: ExecPrepare, step: Step) -> Voted:
        # Locks come first: comparing bytes we have not locked would be comparing a moving target.
        tid = request.tid
        ranges = lock_ranges(
            request.compares, request.reads, request.writes, request.conditions, request.updates
        )
        writes, bytes_read = NO_WRITES, 0
        if not self.locks.try_acquire(ranges):
            voted = Voted(tid.counter, Vote.BAD_LOCK)
        else:
            voted, writes, bytes_read = evaluate(self._bytes, self._capacity, tid.counter, request)
            if voted.vote is OK and leads_elsewhere(request.updates):
                # Now it is known to which slots the appends lead.
                self.locks.release(ranges)
                ranges = lock_ranges(request.compares, request.reads, writes, request.conditions)
                if not self.locks.try_acquire(ranges):
                    voted = Voted(tid.counter, Vote.BAD_LOCK)
            elif voted.vote is not OK:
                self.locks.release(ranges)
        if voted.vote is not OK:
            session.outcomes[tid.counter] = voted
            session.count(tid.counter, size_of(voted))
            return voted
        self.load.of(request.tag).bytes_read += bytes_read
        prepared = records.Prepared(
            tid, session.floor, request.participants, writes, ranges, voted.reads
        )
        self._keep_in_doubt(InDoubt(prepared, step.now, request.tag))
        if self.logged:
            step.log(prepared)
        return voted

    def _vote_reading(self, request: ExecPrepare, now: float) -> Voted:
        """A participant of a minitransaction that writes nowhere: lock for a while, log nothing."""
        tid = request.tid
        held = self.reading.pop(tid, None)
        if held is not None:
            self.locks.release(held.ranges)
        if request.writes or request.updates:
            return Voted(tid.counter, Vote.BAD_RANGE)  # it would be lost: nothing here is logged
        ranges = lock_ranges(request.compares, request.reads, (), request.conditions)
        if not self.locks.try_acquire(ranges):
            return Voted(tid.counter, Vote.BAD_LOCK)
        voted, _, bytes_read = evaluate(self._bytes, self._capacity, tid.counter, request)
        if voted.vote is not OK:
            self.locks.release(ranges)
            return voted
        load = self.load.of(request.tag)
        load.executed += 1
        load.bytes_read += bytes_read
        self.reading[tid] = Reading(ranges, now + self.read_lease)
        return Voted(tid.counter, OK, voted.reads, [], self.read_lease)

    def _on_commit(self, request: Commit, step: Step) -> None:
        """Figure 4, lines 26-31.  An unknown tid was settled before, by recovery."""
        tid = request.tid
        reading = self.reading.pop(tid, None)
        if reading is not None:
            self._release(reading.ranges)
            return
        in_doubt = self.in_doubt.get(tid)
        if in_doubt is not None:
            self._settle(in_doubt, action=request.action, now=step.now)
            if self.logged:
                step.log_lazily(records.Decided(tid, request.action))
        step.once_stable.append(CommitAck(tid))

    def _on_resolve(self, request: Resolve, step: Step) -> None:
        """Phase 1 of recovery (section 4.4): the previous vote, or a promise to abort for good.

        A promise that would not be remembered is not made; the recovery coordinator asks again.
        """
        tid = request.tid
        answer = self._answer_of(tid)
        if answer is None:
            known = self.sessions.outcome(tid)
            if known is None and not self.sessions.may_promise(tid, self.epoch):
                return
            if self.logged and (known is None or known.vote is not Vote.BAD_FORCED):
                step.log(records.ForcedAbort(tid))
            self.sessions.force_abort(tid)
            answer = Answer.ABORT
        step.replies.append(Resolved(tid, answer))

    def _answer_of(self, tid: Tid) -> Answer | None:
        """What is known of ``tid`` here, unless it may still be promised to be aborted."""
        if tid in self.in_doubt:
            return Answer.OK
        if tid in self.decided:
            return Answer.COMMITTED
        known = self.sessions.outcome(tid)
        if known is not None and known.vote is OK:
            return Answer.COMMITTED
        if known is None and self._forgotten(tid):
            return Answer.FORGOTTEN
        return None

    def _on_forget(self, request: Forget, step: Step) -> None:
        """Section 4.7: every participant has applied these, so no process will ask."""
        known = [tid for tid in request.tids if tid in self.decided]
        self._forget(known)
        if known and self.logged:
            step.log_lazily(records.Forgotten(known))

    def on_probe(self, probe: Probe, step: Step, *, stable_before: float) -> list[Unsettled]:
        """What is unsettled here and as old as ``probe`` asks; the epoch comes nearer to its own.

        The manager may take what is said to be in doubt for OK votes that cannot be lost.  So only
        votes that were given before ``stable_before`` are named: those are stable wherever they
        have to be.
        """
        if probe.epoch > self.epoch:
            # A step at a time: one message that is wrong does not make everybody's tids stale.
            self._advance_epoch(self.epoch + 1)
            if self.logged:
                step.log_lazily(records.EpochAdvanced(self.epoch))
        unsettled = [
            entry.unsettled
            for entry in self.in_doubt.values()
            if step.now - entry.since >= probe.in_doubt_age and entry.since < stable_before
        ]
        unsettled += [
            entry.unsettled
            for entry in self.decided.values()
            if step.now - entry.since >= probe.decided_age
        ]
        return first_of(unsettled)

    # --- parts of a vote -----------------------------------------------------------------------

    def _takes_part(self, participants: Sequence[MemoryNodeId]) -> bool:
        """Whether this memory node is one of several, each named once, in order.

        Recovery asks each of them: one named twice would be waited for twice, and a thousand times
        a thousand names are more than a manager can ask.
        """
        return (
            1 < len(participants) <= ITEMS_MAX
            and self.node in participants
            and all(map(lt, participants, participants[1:]))
        )

    def _already(self, session: Session, counter: int) -> Voted | None:
        """The answer to a tid that must not be executed (again), or None."""
        if counter < session.floor:
            return self._count(Voted(counter, Vote.BAD_FLOOR))
        known = session.outcomes.get(counter)
        if known is not None:
            self.duplicates += 1
            return known
        if session.full or (self.sessions.crowded and not self.sessions.has_room_for(session)):
            return self._count(Voted(counter, Vote.BAD_LOAD))
        return None

    def _are_locked(self, writes: Sequence[WriteItem]) -> bool:
        conflicts = self.locks.conflicts
        return any(conflicts(w.address, w.address + len(w.data), exclusive=True) for w in writes)

    def _count(self, voted: Voted, tag: str = "") -> Voted:
        """Count a vote; an OK one in two phases is executed when its outcome is known."""
        self.votes[voted.vote] += 1
        if voted.vote in RETRIED:
            self.load.of(tag).retried += 1
        elif voted.vote is not OK:
            self.load.of(tag).aborted += 1
        return voted


def _is_remembered(request: Request) -> bool:
    """Whether the answer to ``request`` is: it writes, or may lock until its outcome is known."""
    if isinstance(request, ExecCommit):
        return bool(request.writes or request.updates)
    return isinstance(request, ExecPrepare) and not request.read_only


def _needs_incarnation(batch: Requests) -> bool:
    """A client that asks only where things are may not know yet to which incarnation it speaks."""
    return not all(isinstance(request, Question) for request in batch.requests)
