"""What a participant keeps (Figure 5), and how outcomes and the log change it.

The log is the truth: replaying its records in order, on what a checkpoint kept, gives the state in
which they were appended.  So whatever must outlive a crash is here and changes by a record.  What
is only in memory (read-only locks, the line for locks, watches, load) is the participant's, and
begins anew with each life.

A replica has this state and no participant: it replays what the primary has logged.
"""

import math
from collections.abc import Iterable, Sequence

from sinfonia.minitransaction import WriteItem
from sinfonia.protocol import records
from sinfonia.protocol.execution import Memory
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.lists import DecidedEntry, InDoubt, Reading, ok_vote
from sinfonia.protocol.locks import RangeLocks
from sinfonia.protocol.messages import Vote, Voted
from sinfonia.protocol.sessions import EPOCHS_STALE, Session, SessionLimits, Sessions, size_of

OK = Vote.OK


class LiveParticipantState:
    """What one memory node keeps of its minitransactions; times are monotonic seconds."""

    def __init__(
        self, memory: Memory, *, logged: bool, sessions: SessionLimits | None = None
    ) -> None:
        """``logged``: whether what changes here is logged; else it ends with this life."""
        self.memory = memory
        self.logged = logged
        self.epoch = 0
        # The last Stamp in the log, and whether anything may follow that has none.
        self.stamped = 0
        self.unstamped = False
        self.sessions = Sessions(sessions or SessionLimits())
        self.locks = RangeLocks()
        self.in_doubt: dict[Tid, InDoubt] = {}
        self.decided: dict[Tid, DecidedEntry] = {}

    def apply(self, writes: Sequence[WriteItem]) -> int:
        """Write; returns the bytes written."""
        write = self.memory.write
        byte_count = 0
        for item in writes:
            write(item.address, item.data)
            byte_count += len(item.data)
        return byte_count

    def is_forgotten(self, tid: Tid) -> bool:
        """Whether ``tid`` is refused as too old, so that not knowing it says nothing of it."""
        session = self.sessions.get(tid.client)
        if session is not None and tid.counter < session.floor:
            return True
        return tid.epoch <= self.epoch - EPOCHS_STALE

    # --- outcomes ------------------------------------------------------------------------------

    def keep_in_doubt(self, in_doubt: InDoubt) -> None:
        """A vote was OK: the outcome is to come."""
        tid = in_doubt.prepared.tid
        self.in_doubt[tid] = in_doubt
        self.sessions.on_in_doubt(tid, +1, in_doubt.size)

    def settle(self, in_doubt: InDoubt, *, action: bool, now: float) -> int:
        """The outcome of an in-doubt tid is known: apply, then let go of its locks.

        Returns the bytes written.
        """
        prepared = in_doubt.prepared
        tid = prepared.tid
        del self.in_doubt[tid]
        self.sessions.on_in_doubt(tid, -1, -in_doubt.size)
        byte_count = 0
        if action:
            byte_count = self.apply(prepared.writes)
            self.decided[tid] = DecidedEntry(tid, prepared.participants, ok_vote(prepared), now)
        else:
            self.sessions.force_abort(tid)
        self.locks.release(prepared.ranges)
        return byte_count

    def forget(self, tids: Sequence[Tid]) -> None:
        """All participants know the outcome of ``tids``, which committed."""
        # The participants know; the client may not yet, if it was the manager that finished its
        # minitransaction, and then it will send the same tid again.
        for tid in tids:
            self.sessions.remember(tid, self.decided.pop(tid).voted)

    def advance_epoch(self, epoch: int) -> None:
        """The epoch is now ``epoch``; sessions that are stale by it go."""
        self.epoch = epoch
        self.sessions.drop_stale(epoch)

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
            self.decided[kept.tid] = DecidedEntry(
                kept.tid, kept.participants, kept.voted, -math.inf
            )

    def replay(self, record: records.Record) -> None:
        """Redo one record of the log, in log order (section 4.5)."""
        self.unstamped = True
        if isinstance(record, records.OnePhase):
            session = self._replay_session(record.client, record.epoch, record.floor)
            session.outcomes[record.counter] = voted = Voted(record.counter, OK, record.reads)
            session.count(record.counter, size_of(voted))
            self.sessions.recount(session)
            self.apply(record.writes)
        elif isinstance(record, records.Prepared):
            self._replay_session(record.tid.client, record.tid.epoch, record.floor)
            self._replay_prepared(record)
        elif isinstance(record, records.Decided):
            in_doubt = self.in_doubt.get(record.tid)
            assert in_doubt is not None, f"log decides {record.tid}, which it never prepared"
            self.settle(in_doubt, action=record.action, now=-math.inf)
        elif isinstance(record, records.ForcedAbort):
            self.sessions.force_abort(record.tid)
        elif isinstance(record, records.Forgotten):
            self.forget(record.tids)
            self.sessions.drop(record.clients)
        elif isinstance(record, records.EpochAdvanced):
            self.advance_epoch(record.epoch)
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
        self.keep_in_doubt(InDoubt(prepared, -math.inf))

    def checkpoint_state(self) -> records.ParticipantState:
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

    def check_invariants(self, *, reading: Iterable[Reading] = ()) -> None:
        """The locks held are those of what is in doubt and of ``reading``, and no others."""
        self.sessions.check_invariants()
        self.locks.check_invariants()
        expected = RangeLocks()
        for in_doubt in self.in_doubt.values():
            assert expected.try_acquire(in_doubt.prepared.ranges), "in-doubt tids overlap"
        for held in reading:
            assert expected.try_acquire(held.ranges), "a reader overlaps an in-doubt tid"
        assert self.locks.covers_the_same(expected)
        assert not self.in_doubt.keys() & self.decided.keys()
