"""The participant of Figure 4: a memory node's half of the two-phase protocol.

Theory of operation
-------------------

A participant never waits.  Every lock it wants it tries, and a lock it cannot have becomes a vote
to abort; so no minitransaction waits for another and there can be no deadlock.

The coordinator keeps no log.  A minitransaction is committed when *every* participant has an OK
vote on stable storage, whether or not anyone has noticed yet.  So

- the vote reaches the redo log before the reply leaves: ``Log`` precedes ``Send`` in what is
  returned, and the driver keeps that order;
- a participant without write items logs too, if the minitransaction writes anywhere;
- a participant that voted OK holds all its locks until it learns the outcome, also over a restart;
- a participant that tells a recovery coordinator "abort" has logged that promise before.

With one participant the vote is the outcome (section 4.8): the writes are applied at once and
nothing is left in doubt.  What reads them in the same wake-up is answered after the same sync.

A minitransaction that only reads, over several participants, is not logged.  Its locks last
for ``read_lease`` seconds and then let go by themselves; the coordinator believes the votes only
if all came in within that time, and a restarted node serves nobody before it has passed.

Deviation from Figure 4: a tid that was answered before, or forced to abort, is looked up before
its locks are tried (the paper tries the locks first): a second copy must not meet its own locks.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from sinfonia.addresses import MemoryNodeId
from sinfonia.minitransaction import BYTES_MAX, ITEMS_MAX, WriteItem
from sinfonia.protocol import records
from sinfonia.protocol.effects import Effect, Log, LogLazily, Send, SendOnceStable
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.lists import (
    DECIDED_MAX,
    IN_DOUBT_MAX,
    PROBE_TIDS_MAX,
    Decided,
    InDoubt,
    Reading,
    ok_vote,
)
from sinfonia.protocol.locks import RangeLocks, lock_ranges
from sinfonia.protocol.management_messages import Directory
from sinfonia.protocol.messages import (
    Answer,
    Commit,
    CommitAck,
    ExecCommit,
    ExecPrepare,
    Forget,
    GetDirectory,
    GetStatus,
    NotServing,
    Probe,
    ProbeReply,
    Reply,
    Request,
    Requests,
    Resolve,
    Resolved,
    Status,
    Vote,
    Voted,
    WrongIncarnation,
)
from sinfonia.protocol.sessions import EPOCHS_STALE, Session, Sessions

OK = Vote.OK
NONE: list[bytes] = []


class Memory(Protocol):
    """The address space; a slice of ``memory`` is a copy of the bytes."""

    @property
    def capacity(self) -> int: ...
    @property
    def memory(self) -> "Sliceable": ...
    def write(self, address: int, data: bytes) -> None: ...


class Sliceable(Protocol):
    """Gives the bytes [start, end) for ``[start:end]``."""

    def __getitem__(self, key: slice, /) -> bytes: ...


class Participant:
    """One memory node's votes, locks and lists.  It does no I/O; see effects.py."""

    def __init__(
        self,
        *,
        node: MemoryNodeId,
        incarnation: int,
        memory: Memory,
        logged: bool,
        read_lease: float,
        status: Callable[[], Status],
        on_probe: Callable[[Probe], None] | None = None,
    ) -> None:
        """``on_probe``: who sees to probes, calling ``answer_probe`` when the votes are stable."""
        self.node = node
        self.incarnation = incarnation
        self.memory = memory
        self.logged = logged
        self.read_lease = read_lease
        self.serving = False
        self.epoch = 0
        # The last Stamp in the log, and whether anything may follow that has none.
        self.stamped = 0
        self.unstamped = False
        self.sessions = Sessions()
        self.locks = RangeLocks()
        self.in_doubt: dict[Tid, InDoubt] = {}
        self.decided: dict[Tid, Decided] = {}
        self.reading: dict[Tid, Reading] = {}
        self.votes = [0] * len(Vote)
        self.duplicates = 0
        self.directory: Directory | None = None
        self._status = status
        self._see_to_probe = on_probe
        self._capacity = memory.capacity
        self._bytes = memory.memory
        self._now = 0.0

    # --- requests ------------------------------------------------------------------------------

    def on_requests(self, batch: Requests, now: float) -> list[Effect]:
        """Handle a batch; ``now`` is monotonic, in seconds.

        Whatever a batch says, its effects are carried out: a request that breaks the protocol is
        voted BAD_RANGE or left unanswered, and its neighbours are none the worse.
        """
        if batch.incarnation != self.incarnation and _needs_incarnation(batch):
            return [Send([WrongIncarnation()])]
        self._now = now
        if self.reading:
            self._expire_reading(now)
        session = self._session_of(batch)
        effects: list[Effect] = []
        replies: list[Reply] = []
        once_stable: list[Reply] = []
        refused = False
        for request in batch.requests:
            # `type() is` and not isinstance: this line runs for every minitransaction.
            if type(request) is ExecCommit:
                if session is None:
                    refused = True
                else:
                    replies.append(self._on_exec_commit(session, request, effects))
            elif type(request) is ExecPrepare:
                if session is None:
                    refused = True
                else:
                    replies.append(self._on_exec_prepare(session, request, effects))
            elif type(request) is Commit:
                once_stable += self._on_commit(request, effects)
            else:
                replies += self._on_rare_request(request, effects)
        if refused:
            replies.append(NotServing())
        if replies:
            effects.append(Send(replies))
        if once_stable:
            effects.append(SendOnceStable(once_stable))
        return effects

    def _on_rare_request(self, request: Request, effects: list[Effect]) -> Sequence[Reply]:
        if isinstance(request, Resolve):
            return [self._on_resolve(request, effects)]
        if isinstance(request, Forget):
            self._on_forget(request, effects)
            return ()
        if isinstance(request, Probe):
            if self._see_to_probe is None:
                return [self.answer_probe(request, effects)]
            self._see_to_probe(request)
            return ()
        if isinstance(request, GetStatus):
            return [self._status()]
        if isinstance(request, GetDirectory):
            return [NotServing() if self.directory is None else self.directory]
        return ()  # meant for a manager

    def _session_of(self, batch: Requests) -> Session | None:
        """The client's session, its floor raised; None while this node executes nothing for it."""
        if not self.serving:
            return None
        session = self.sessions.of(batch.client, self.epoch)
        if session is not None and batch.floor > session.floor:
            session.raise_floor(batch.floor)
        return session

    def _on_exec_commit(
        self, session: Session, request: ExecCommit, effects: list[Effect]
    ) -> Voted:
        """One phase: the vote is the outcome (section 4.8)."""
        counter = request.counter
        writes = request.writes
        if writes:
            known = self._already(session, counter)
            if known is not None:
                return known
        if request.epoch <= self.epoch - EPOCHS_STALE:
            return self._count(Voted(counter, Vote.BAD_EPOCH))
        if len(self.locks) and self._locked(request):
            voted = Voted(counter, Vote.BAD_LOCK)
        else:
            voted = self._compare_and_read(counter, request)
        self.votes[voted.vote] += 1
        if not writes:
            return voted
        if request.epoch > session.epoch:
            session.epoch = request.epoch
        session.outcomes[counter] = voted
        if voted.vote is OK:
            write = self.memory.write
            for item in writes:
                write(item.address, item.data)
            if self.logged:
                record = records.OnePhase(
                    session.client, request.epoch, counter, session.floor, writes, voted.reads
                )
                effects.append(Log(record))
        return voted

    def _on_exec_prepare(
        self, session: Session, request: ExecPrepare, effects: list[Effect]
    ) -> Voted:
        """Figure 4, lines 12-25: vote, and keep the locks if the vote is OK."""
        tid = request.tid
        if tid.client != session.client or self.node not in request.participants:
            return self._count(Voted(tid.counter, Vote.BAD_RANGE))
        if request.read_only:
            return self._count(self._vote_reading(request))
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
        if len(self.in_doubt) >= IN_DOUBT_MAX or len(self.decided) >= DECIDED_MAX:
            return self._count(Voted(tid.counter, Vote.BAD_LOAD))
        if tid.epoch <= self.epoch - EPOCHS_STALE:
            return self._count(Voted(tid.counter, Vote.BAD_EPOCH))
        if tid.epoch > session.epoch:
            session.epoch = tid.epoch
        return self._count(self._vote(session, request, effects))

    def _vote(self, session: Session, request: ExecPrepare, effects: list[Effect]) -> Voted:
        # Locks come first: comparing bytes we have not locked would be comparing a moving target.
        tid = request.tid
        ranges = lock_ranges(request.compares, request.reads, request.writes)
        if not self.locks.try_acquire(ranges):
            voted = Voted(tid.counter, Vote.BAD_LOCK)
        else:
            voted = self._compare_and_read(tid.counter, request)
            if voted.vote is not OK:
                self.locks.release(ranges)
        if voted.vote is not OK:
            session.outcomes[tid.counter] = voted
            return voted
        prepared = records.Prepared(
            tid, session.floor, request.participants, request.writes, ranges, voted.reads
        )
        self.in_doubt[tid] = InDoubt(prepared, self._now)
        if self.logged:
            effects.append(Log(prepared))
        return voted

    def _vote_reading(self, request: ExecPrepare) -> Voted:
        """A participant of a minitransaction that writes nowhere: lock for a while, log nothing."""
        tid = request.tid
        held = self.reading.pop(tid, None)
        if held is not None:
            self.locks.release(held.ranges)
        ranges = lock_ranges(request.compares, request.reads, ())
        if not self.locks.try_acquire(ranges):
            return Voted(tid.counter, Vote.BAD_LOCK)
        voted = self._compare_and_read(tid.counter, request)
        if voted.vote is not OK:
            self.locks.release(ranges)
            return voted
        self.reading[tid] = Reading(ranges, self._now + self.read_lease)
        return Voted(tid.counter, OK, voted.reads, [], self.read_lease)

    def _on_commit(self, request: Commit, effects: list[Effect]) -> list[Reply]:
        """Figure 4, lines 26-31.  An unknown tid was settled before, by recovery."""
        tid = request.tid
        reading = self.reading.pop(tid, None)
        if reading is not None:
            self.locks.release(reading.ranges)
            return []
        in_doubt = self.in_doubt.get(tid)
        if in_doubt is not None:
            self._settle(in_doubt.prepared, action=request.action)
            if self.logged:
                effects.append(LogLazily(records.Decided(tid, request.action)))
        return [CommitAck(tid)]

    def _on_resolve(self, request: Resolve, effects: list[Effect]) -> Reply:
        """Phase 1 of recovery (section 4.4): the previous vote, or a promise to abort for good."""
        tid = request.tid
        if tid in self.in_doubt:
            return Resolved(tid, Answer.OK)
        if tid in self.decided:
            return Resolved(tid, Answer.COMMITTED)
        known = self.sessions.outcome(tid)
        if known is not None and known.vote is OK:
            return Resolved(tid, Answer.COMMITTED)
        if known is None and self._forgotten(tid):
            return Resolved(tid, Answer.FORGOTTEN)
        if self.logged and (known is None or known.vote is not Vote.BAD_FORCED):
            effects.append(Log(records.ForcedAbort(tid)))
        self.sessions.force_abort(tid)
        return Resolved(tid, Answer.ABORT)

    def _on_forget(self, request: Forget, effects: list[Effect]) -> None:
        """Section 4.7: every participant has applied these, so nobody will ask."""
        known = [tid for tid in request.tids if tid in self.decided]
        self._forget(known)
        if known and self.logged:
            effects.append(LogLazily(records.Forgotten(known)))

    def answer_probe(
        self, request: Probe, effects: list[Effect], *, stable_before: float = math.inf
    ) -> ProbeReply:
        """What is unsettled here, of what was voted on before ``stable_before``: a manager may take
        what is said to be in doubt for OK votes, and so they must be stable, wherever they have to
        be."""
        if request.epoch > self.epoch:
            # A step at a time: one message that is wrong does not make everybody's tids stale.
            self._advance_epoch(self.epoch + 1)
            if self.logged:
                effects.append(LogLazily(records.EpochAdvanced(self.epoch)))
        unsettled = [
            entry.unsettled
            for entry in self.in_doubt.values()
            if self._now - entry.since >= request.in_doubt_age and entry.since < stable_before
        ]
        unsettled += [
            entry.unsettled
            for entry in self.decided.values()
            if self._now - entry.since >= request.decided_age
        ]
        directory = request.directory
        if directory is not None and (
            self.directory is None or directory.version > self.directory.version
        ):
            self.directory = directory
        version = 0 if self.directory is None else self.directory.version
        return ProbeReply(self.node, unsettled[:PROBE_TIDS_MAX], self.serving, version)

    # --- parts of a vote -----------------------------------------------------------------------

    def _already(self, session: Session, counter: int) -> Voted | None:
        """The answer to a tid that must not be executed (again), or None."""
        if counter < session.floor:
            return self._count(Voted(counter, Vote.BAD_FLOOR))
        known = session.outcomes.get(counter)
        if known is not None:
            self.duplicates += 1
            return known
        if session.full:
            return self._count(Voted(counter, Vote.BAD_LOAD))
        return None

    def _locked(self, request: ExecCommit) -> bool:
        """Whether an item meets a lock.  One phase takes and drops its locks in this very step, so
        that asking is as good as locking."""
        conflicts = self.locks.conflicts
        return (
            any(
                conflicts(w.address, w.address + len(w.data), exclusive=True)
                for w in request.writes
            )
            or any(
                conflicts(c.address, c.address + len(c.expected), exclusive=False)
                for c in request.compares
            )
            or any(
                conflicts(r.address, r.address + r.length, exclusive=False) for r in request.reads
            )
        )

    def _compare_and_read(self, counter: int, request: ExecCommit | ExecPrepare) -> Voted:
        """The vote of a participant that has, or needs, the locks."""
        memory, capacity = self._bytes, self._capacity
        if len(request.compares) + len(request.reads) + len(request.writes) > ITEMS_MAX:
            return Voted(counter, Vote.BAD_RANGE)
        failed: list[tuple[int, bytes]] = []
        for position, item in enumerate(request.compares):
            end = item.address + len(item.expected)
            found = memory[item.address : end]
            if found != item.expected or end > capacity:
                failed.append((position, found))
                if end > capacity:
                    return Voted(counter, Vote.BAD_RANGE)
        reads = NONE
        if request.reads and (not failed or request.reads_on_failure):
            reads = []
            room = BYTES_MAX
            for read in request.reads:
                end = read.address + read.length
                room -= read.length
                if end > capacity or room < 0:
                    return Voted(counter, Vote.BAD_RANGE)
                reads.append(memory[read.address : end])
        for write in request.writes:
            if write.address + len(write.data) > capacity:
                return Voted(counter, Vote.BAD_RANGE)
        if failed:
            return Voted(counter, Vote.BAD_CMP, reads, failed)
        return Voted(counter, OK, reads)

    def _apply(self, writes: Sequence[WriteItem]) -> None:
        for item in writes:
            self.memory.write(item.address, item.data)

    def _count(self, voted: Voted) -> Voted:
        self.votes[voted.vote] += 1
        return voted

    def _forgotten(self, tid: Tid) -> bool:
        """Whether ``tid`` is refused as too old, so that not knowing it says nothing of it."""
        session = self.sessions.get(tid.client)
        if session is not None and tid.counter < session.floor:
            return True
        return tid.epoch <= self.epoch - EPOCHS_STALE

    # --- outcomes ------------------------------------------------------------------------------

    def _settle(self, prepared: records.Prepared, *, action: bool) -> None:
        """The outcome of an in-doubt tid is known: apply, then let go of its locks."""
        tid = prepared.tid
        del self.in_doubt[tid]
        if action:
            self._apply(prepared.writes)
            self.decided[tid] = Decided(tid, prepared.participants, ok_vote(prepared), self._now)
        else:
            self.sessions.force_abort(tid)
        self.locks.release(prepared.ranges)

    def _forget(self, tids: Sequence[Tid]) -> None:
        # The participants know; the client may not yet, if it was the manager that finished its
        # minitransaction, and then it will send the same tid again.
        for tid in tids:
            self.sessions.remember(tid, self.decided.pop(tid).voted)

    def _advance_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.sessions.drop_stale(epoch)

    def _expire_reading(self, now: float) -> None:
        for tid in [tid for tid, held in self.reading.items() if held.until <= now]:
            self.locks.release(self.reading.pop(tid).ranges)

    # --- restart -------------------------------------------------------------------------------

    def restore(self, state: records.ParticipantState) -> None:
        """Take over what a checkpoint kept; memory was filled from the same checkpoint."""
        self.epoch = state.epoch
        self.stamped = state.stamped
        self.unstamped = state.stamped > 0
        self.sessions.restore(state.sessions)
        for prepared in state.in_doubt:
            self._replay_prepared(prepared)
        for kept in state.decided:
            self.decided[kept.tid] = Decided(kept.tid, kept.participants, kept.voted, -math.inf)

    def replay(self, record: records.Record) -> None:
        """Redo one record of the log, in log order (section 4.5)."""
        self.unstamped = True
        if isinstance(record, records.OnePhase):
            session = self._replay_session(record.client, record.epoch, record.floor)
            session.outcomes[record.counter] = Voted(record.counter, OK, record.reads)
            self._apply(record.writes)
        elif isinstance(record, records.Prepared):
            self._replay_session(record.tid.client, record.tid.epoch, record.floor)
            self._replay_prepared(record)
        elif isinstance(record, records.Decided):
            in_doubt = self.in_doubt.get(record.tid)
            assert in_doubt is not None, f"log decides {record.tid}, which it never prepared"
            self._now = -math.inf
            self._settle(in_doubt.prepared, action=record.action)
        elif isinstance(record, records.ForcedAbort):
            self.sessions.force_abort(record.tid)
        elif isinstance(record, records.Forgotten):
            self._forget(record.tids)
        elif isinstance(record, records.EpochAdvanced):
            self._advance_epoch(record.epoch)
        elif isinstance(record, records.Stamp):
            self.stamped = record.clock
            self.unstamped = False

    def _replay_session(self, client: int, epoch: int, floor: int) -> Session:
        session = self.sessions.of(client, epoch)
        assert session is not None, "more sessions in the log than were ever admitted"
        session.epoch = max(session.epoch, epoch)
        session.raise_floor(floor)
        return session

    def _replay_prepared(self, prepared: records.Prepared) -> None:
        # With all its locks, shared ones too: else another minitransaction could slip between what
        # this one compared here and what it writes elsewhere once it is found to have committed.
        locked = self.locks.try_acquire(prepared.ranges)
        assert locked, f"log prepares {prepared.tid} over the locks of another"
        self.in_doubt[prepared.tid] = InDoubt(prepared, -math.inf)

    def state(self) -> records.ParticipantState:
        """What a checkpoint must keep, as of the records logged so far."""
        return records.ParticipantState(
            epoch=self.epoch,
            sessions=self.sessions.state(),
            in_doubt=[entry.prepared for entry in self.in_doubt.values()],
            decided=[
                records.DecidedState(entry.tid, entry.participants, entry.voted)
                for entry in self.decided.values()
            ],
            stamped=self.stamped,
        )

    def check_invariants(self) -> None:
        """The locks held are those of in-doubt and reading minitransactions, and no others."""
        self.locks.check_invariants()
        expected = RangeLocks()
        for in_doubt in self.in_doubt.values():
            assert expected.try_acquire(in_doubt.prepared.ranges), "in-doubt tids overlap"
        for reading in self.reading.values():
            assert expected.try_acquire(reading.ranges), "a reader overlaps an in-doubt tid"
        assert self.locks.covers_the_same(expected)
        assert not self.in_doubt.keys() & self.decided.keys()


def _needs_incarnation(batch: Requests) -> bool:
    """Whoever only asks where things are may not know yet which incarnation it speaks to."""
    return not all(isinstance(r, GetDirectory | GetStatus | Probe) for r in batch.requests)
