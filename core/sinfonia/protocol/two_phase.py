"""Figure 4, lines 12-31: vote, hold the locks until the outcome is known, then apply or forget.

- The vote is logged before it is sent, by a participant without write items, too, if the
  minitransaction writes anywhere.
- A participant that voted OK holds all its locks until it learns the outcome.
- A minitransaction that only reads is not logged.  Its locks last for ``read_lease`` seconds and
  then let go by themselves; the coordinator believes the votes only if all came in within that
  time, and a restarted node serves no client before it has passed.

Deviation from Figure 4: a tid that was answered before, or forced to abort, is looked up before
its locks are tried (the paper tries the locks first): a second copy must not meet its own locks.
"""

from collections.abc import Sequence
from operator import lt

from sinfonia.addresses import MemoryNodeId
from sinfonia.minitransaction import ITEMS_MAX
from sinfonia.protocol import records
from sinfonia.protocol.effects import Step
from sinfonia.protocol.execution import NO_WRITES, evaluate
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.lists import DECIDED_MAX, IN_DOUBT_MAX, InDoubt, Reading
from sinfonia.protocol.locks import lock_ranges
from sinfonia.protocol.messages import Commit, CommitAck, ExecPrepare, Vote, Voted
from sinfonia.protocol.participant_state import LiveParticipantState
from sinfonia.protocol.records import LockRange
from sinfonia.protocol.sessions import EPOCHS_AHEAD_MAX, EPOCHS_STALE, Session, size_of
from sinfonia.protocol.updates import leads_elsewhere
from sinfonia.protocol.votes import Votes
from sinfonia.protocol.watches import Watches

OK = Vote.OK


class TwoPhaseParticipant:
    """A memory node's part in minitransactions that have other participants."""

    def __init__(
        self,
        state: LiveParticipantState,
        votes: Votes,
        watches: Watches,
        *,
        node: MemoryNodeId,
        read_lease: float,
    ) -> None:
        self.reading: dict[Tid, Reading] = {}
        self.let_go = False  # locks were, since the line for locks was looked at
        self._state = state
        self._votes = votes
        self._watches = watches
        self._node = node
        self._read_lease = read_lease
        self._bytes = state.memory.memory
        self._capacity = state.memory.capacity

    # --- votes ---------------------------------------------------------------------------------

    def on_exec_prepare(self, session: Session, request: ExecPrepare, step: Step) -> Voted:
        """Figure 4, lines 12-25: vote, and keep the locks if the vote is OK."""
        tid = request.tid
        count = self._votes.count
        tag = request.tag
        if tid.client != session.client or not self._takes_part(request.participants):
            return count(Voted(tid.counter, Vote.BAD_RANGE), tag)
        if request.read_only:
            return count(self._vote_reading(request, step.now), tag)
        known = self._already(session, tid)
        if known is not None:
            return known
        if self._has_too_much(session):
            return count(Voted(tid.counter, Vote.BAD_LOAD), tag)
        if not -EPOCHS_STALE < tid.epoch - self._state.epoch <= EPOCHS_AHEAD_MAX:
            return count(Voted(tid.counter, Vote.BAD_EPOCH), tag)
        if tid.epoch > session.epoch:
            session.epoch = tid.epoch
        return count(self._vote(session, request, step), tag)

    def _already(self, session: Session, tid: Tid) -> Voted | None:
        """The answer to a tid that must not be voted on (again), or None."""
        in_doubt = self._state.in_doubt.get(tid)
        if in_doubt is not None:
            return self._votes.again(in_doubt.voted)
        decided = self._state.decided.get(tid)
        if decided is not None:
            return self._votes.again(decided.voted)
        return self._votes.already(session, tid.counter)

    def _takes_part(self, participants: Sequence[MemoryNodeId]) -> bool:
        """Whether this memory node is one of several, each named once, in order.

        Recovery asks each of them: one named twice would be waited for twice, and a thousand times
        a thousand names are more than a manager can ask.
        """
        return (
            1 < len(participants) <= ITEMS_MAX
            and self._node in participants
            and all(map(lt, participants, participants[1:]))
        )

    def _has_too_much(self, session: Session) -> bool:
        """Whether so much is unsettled, of all clients or of this one, that no more is prepared."""
        return (
            len(self._state.in_doubt) >= IN_DOUBT_MAX
            or len(self._state.decided) >= DECIDED_MAX
            or session.in_doubt_too_much
        )

    def _vote(self, session: Session, request: ExecPrepare, step: Step) -> Voted:
        # Locks come first: comparing bytes we have not locked would be comparing a moving target.
        tid = request.tid
        locks = self._state.locks
        ranges = lock_ranges(
            request.compares, request.reads, request.writes, request.conditions, request.updates
        )
        writes, bytes_read = NO_WRITES, 0
        if not locks.try_acquire(ranges):
            voted = Voted(tid.counter, Vote.BAD_LOCK)
        else:
            voted, writes, bytes_read = evaluate(self._bytes, self._capacity, tid.counter, request)
            if voted.vote is OK and leads_elsewhere(request.updates):
                # Now it is known to which slots the appends lead.
                locks.release(ranges)
                ranges = lock_ranges(request.compares, request.reads, writes, request.conditions)
                if not locks.try_acquire(ranges):
                    voted = Voted(tid.counter, Vote.BAD_LOCK)
            elif voted.vote is not OK:
                locks.release(ranges)
        if voted.vote is not OK:
            session.outcomes[tid.counter] = voted
            session.count(tid.counter, size_of(voted))
            return voted
        self._votes.load.of(request.tag).bytes_read += bytes_read
        prepared = records.Prepared(
            tid=tid,
            floor=session.floor,
            participants=request.participants,
            writes=writes,
            ranges=ranges,
            reads=voted.reads,
        )
        self._state.keep_in_doubt(InDoubt(prepared, step.now, request.tag))
        if self._state.logged:
            step.log(prepared)
        return voted

    def _vote_reading(self, request: ExecPrepare, now: float) -> Voted:
        """A participant of a minitransaction that writes nowhere: lock for a while, log nothing."""
        tid = request.tid
        locks = self._state.locks
        held = self.reading.pop(tid, None)
        if held is not None:
            locks.release(held.ranges)
        if request.writes or request.updates:
            return Voted(tid.counter, Vote.BAD_RANGE)  # it would be lost: nothing here is logged
        ranges = lock_ranges(request.compares, request.reads, (), request.conditions)
        if not locks.try_acquire(ranges):
            return Voted(tid.counter, Vote.BAD_LOCK)
        voted, _, bytes_read = evaluate(self._bytes, self._capacity, tid.counter, request)
        if voted.vote is not OK:
            locks.release(ranges)
            return voted
        load = self._votes.load.of(request.tag)
        load.executed += 1
        load.bytes_read += bytes_read
        self.reading[tid] = Reading(ranges, now + self._read_lease)
        return Voted(tid.counter, OK, voted.reads, good_for=self._read_lease)

    # --- outcomes ------------------------------------------------------------------------------

    def on_commit(self, request: Commit, step: Step) -> None:
        """Figure 4, lines 26-31.  An unknown tid was settled before, by recovery."""
        tid = request.tid
        reading = self.reading.pop(tid, None)
        if reading is not None:
            self._release(reading.ranges)
            return
        in_doubt = self._state.in_doubt.get(tid)
        if in_doubt is not None:
            self._settle(in_doubt, action=request.action, now=step.now)
            if self._state.logged:
                step.log_lazily(records.Decided(tid, request.action))
        step.once_stable.append(CommitAck(tid))

    def _settle(self, in_doubt: InDoubt, *, action: bool, now: float) -> None:
        load = self._votes.load.of(in_doubt.tag)
        bytes_written = self._state.settle(in_doubt, action=action, now=now)
        self.let_go = True
        if not action:
            load.aborted += 1
            return
        load.executed += 1
        load.bytes_written += bytes_written
        if self._watches.armed:
            self._watches.touch_all(in_doubt.prepared.writes)

    def expire_reading(self, now: float) -> None:
        """Let go of read locks whose lease has ended."""
        for tid in [tid for tid, held in self.reading.items() if held.until <= now]:
            self._release(self.reading.pop(tid).ranges)

    def _release(self, ranges: Sequence[LockRange]) -> None:
        self._state.locks.release(ranges)
        self.let_go = True
