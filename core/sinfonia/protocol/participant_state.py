"""What a participant keeps (Figure 5), and how outcomes and the log change it.

The log is the truth: replaying its records in order, on what a checkpoint kept, gives the state in
which they were appended.  So whatever must outlive a crash changes here, by a record; what is only
in memory (the line for locks, watches, load) begins anew with each life.
"""

import math
from collections.abc import Sequence

from sinfonia.minitransaction import WriteItem
from sinfonia.protocol import records
from sinfonia.protocol.execution import Memory
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.lists import Decided, InDoubt, Reading, ok_vote
from sinfonia.protocol.load.counters import LoadCounters
from sinfonia.protocol.lock_waits import LockWaits
from sinfonia.protocol.locks import RangeLocks
from sinfonia.protocol.messages import Vote, Voted
from sinfonia.protocol.sessions import EPOCHS_STALE, Session, SessionLimits, Sessions, size_of
from sinfonia.protocol.watches import Watches

OK = Vote.OK


class LiveParticipantState:
    """What one memory node keeps of its minitransactions; times are monotonic seconds."""

    def __init__(self, memory: Memory, *, sessions: SessionLimits, lock_waits: LockWaits) -> None:
        self.memory = memory
        self.epoch = 0
        # The last Stamp in the log, and whether anything may follow that has none.
        self.stamped = 0
        self.unstamped = False
        self.sessions = Sessions(sessions)
        self.locks = RangeLocks()
        self.in_doubt: dict[Tid, InDoubt] = {}
        self.decided: dict[Tid, Decided] = {}
        self.reading: dict[Tid, Reading] = {}
        self.load = LoadCounters()
        self.lock_waits = lock_waits
        self.watches = Watches(memory.capacity)
        self._let_go = False  # locks were, since the line was looked at

    def _apply(self, writes: Sequence[WriteItem]) -> int:
        """Write; returns the bytes written."""
        write = self.memory.write
        byte_count = 0
        for item in writes:
            write(item.address, item.data)
            byte_count += len(item.data)
        if self.watches.armed:
            for item in writes:
                self.watches.touch(item.address, len(item.data))
        return byte_count

    def _forgotten(self, tid: Tid) -> bool:
        """Whether ``tid`` is refused as too old, so that not knowing it says nothing of it."""
        session = self.sessions.get(tid.client)
        if session is not None and tid.counter < session.floor:
            return True
        return tid.epoch <= self.epoch - EPOCHS_STALE

    # --- outcomes ------------------------------------------------------------------------------

    def _keep_in_doubt(self, in_doubt: InDoubt) -> None:
        tid = in_doubt.prepared.tid
        self.in_doubt[tid] = in_doubt
        self.sessions.on_in_doubt(tid, +1, in_doubt.size)

    def _settle(self, in_doubt: InDoubt, *, action: bool, now: float) -> None:
        """The outcome of an in-doubt tid is known: apply, then let go of its locks."""
        prepared = in_doubt.prepared
        tid = prepared.tid
        del self.in_doubt[tid]
        self.sessions.on_in_doubt(tid, -1, -in_doubt.size)
        load = self.load.of(in_doubt.tag)
        if action:
            load.executed += 1
            load.bytes_written += self._apply(prepared.writes)
            self.decided[tid] = Decided(tid, prepared.participants, ok_vote(prepared), now)
        else:
            load.aborted += 1
            self.sessions.force_abort(tid)
        self._release(prepared.ranges)

    def _release(self, ranges: Sequence[records.LockRange]) -> None:
        self.locks.release(ranges)
        self._let_go = True

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
            self._release(self.reading.pop(tid).ranges)

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
            session.outcomes[record.counter] = voted = Voted(record.counter, OK, record.reads)
            session.count(record.counter, size_of(voted))
            self.sessions.recount(session)
            self._apply(record.writes)
        elif isinstance(record, records.Prepared):
            self._replay_session(record.tid.client, record.tid.epoch, record.floor)
            self._replay_prepared(record)
        elif isinstance(record, records.Decided):
            in_doubt = self.in_doubt.get(record.tid)
            assert in_doubt is not None, f"log decides {record.tid}, which it never prepared"
            self._settle(in_doubt, action=record.action, now=-math.inf)
        elif isinstance(record, records.ForcedAbort):
            self.sessions.force_abort(record.tid)
        elif isinstance(record, records.Forgotten):
            self._forget(record.tids)
            self.sessions.drop(record.clients)
        elif isinstance(record, records.EpochAdvanced):
            self._advance_epoch(record.epoch)
        elif isinstance(record, records.Stamp):
            self.stamped = record.clock
            self.unstamped = False

    def _replay_session(self, client: int, epoch: int, floor: int) -> Session:
        session = self.sessions.of(client, epoch)
        session.epoch = max(session.epoch, epoch)
        session.raise_floor(floor)
        self.sessions.recount(session)
        return session

    def _replay_prepared(self, prepared: records.Prepared) -> None:
        # With all its locks, shared ones too: else another minitransaction could slip between what
        # this one compared here and what it writes elsewhere once it is found to have committed.
        locked = self.locks.try_acquire(prepared.ranges)
        assert locked, f"log prepares {prepared.tid} over the locks of another"
        self._keep_in_doubt(InDoubt(prepared, -math.inf))

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
        self.sessions.check_invariants()
        self.locks.check_invariants()
        self.lock_waits.check_invariants()
        expected = RangeLocks()
        for in_doubt in self.in_doubt.values():
            assert expected.try_acquire(in_doubt.prepared.ranges), "in-doubt tids overlap"
        for reading in self.reading.values():
            assert expected.try_acquire(reading.ranges), "a reader overlaps an in-doubt tid"
        assert self.locks.covers_the_same(expected)
        assert not self.in_doubt.keys() & self.decided.keys()
