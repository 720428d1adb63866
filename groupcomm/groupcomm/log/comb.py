"""One minitransaction does all of a turn: it appends what was posted, moves the cursor, and reads.

What it reads is the log as it was just before its own entry, so that the entry needs not be read
back: its position is the tail that was read.  A program that sends needs no hint and no second
round trip to receive, and whatever is posted while a turn is on its way goes into the next one.
There is one turn at a time, and no timer.

The machine is a generator of steps (sinfonia.client.steps) and does no I/O.  A turn whose outcome
is unknown is taken again, the same minitransaction: it compares the turn number of the writer
record and moves it on, so that one copy happens.  Nothing that was posted is lost or doubled,
whatever is lost on the way.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from groupcomm.errors import DamagedEntry, Expelled
from groupcomm.log.arrivals import Arrivals, Look
from groupcomm.log.entries import Entry
from groupcomm.log.layout import CURSOR_NONE, WORD_BYTES, Log, WriterRecord
from groupcomm.log.limits import DEFAULT_LIMITS, LogLimits
from groupcomm.log.posting import Portion, Posting
from groupcomm.log.writers import Claim, trim
from sinfonia import Minitransaction, NotExecuted, OutcomeUnknown, Result
from sinfonia.client.steps import Steps, execute, minitransaction
from sinfonia.structures import NotFormatted

# The writer whose entry completes an eighth of the ring trims it to three quarters, if it is fuller
# than seven eighths: one writer does it, and the rest remains for those who read from the past.
EIGHTHS = 8
FULL_EIGHTHS = 7
KEPT_EIGHTHS = 6

# A cursor is reported, for others to trim, when so much of the ring was received; and whenever a
# body in an area was, for the next one may need all of the area.
REPORT_FRACTION = 4


@dataclass(frozen=True, slots=True)
class Ordered:
    """The parts numbered ``sequences`` are in the log, in entry ``position``.

    ``position`` is None, for not known, only for a writer that reads nothing, if the answer to its
    append was lost.
    """

    sequences: range
    position: int | None


@dataclass(frozen=True, slots=True)
class Turn:
    """What came of a turn.

    entries: the next entries of the log, those of this writer included.  ordered: what was posted
    and is certain to be in the log now.  holding_up: if the log is too full for what was posted,
    the writers that have not received enough; () otherwise.
    """

    entries: Sequence[Entry]
    ordered: Sequence[Ordered]
    holding_up: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A turn that may be on its way; ``area_bytes`` were received when it reported its cursor."""

    t: Minitransaction[Any]
    look: Look
    after: WriterRecord
    portion: Portion | None
    area_bytes: int

    @property
    def appends(self) -> bool:
        return self.portion is not None and self.portion.appends


class Comb:
    """One claimant of a log: what it has posted, what it has received.

    ``stamp`` tells the wall clock in microseconds since 1970.
    """

    def __init__(
        self,
        log: Log,
        claim: Claim,
        stamp: Callable[[], int],
        limits: LogLimits = DEFAULT_LIMITS,
    ) -> None:
        self.log = log
        self.limits = limits
        self.writer = claim.writer
        self.record = claim.record
        self.reads = claim.record.cursor != CURSOR_NONE
        start = claim.record.cursor if self.reads else claim.tail
        self._posting = Posting(log, claim, stamp, limits)
        self._arrivals = Arrivals(log, start, limits)
        self._prepared: _Prepared | None = None
        # Whether a copy of the prepared turn may have happened, or may still happen.
        self._unknown = False
        # Appended by a turn of which only that is known.
        self._unplaced: deque[range] = deque()
        self._reach = limits.reach_min
        self._read_only_turns = 0
        self._trim_needed = 0
        self._reported_area_bytes = 0
        self._ended: Expelled | None = None

    def post(self, payload: bytes, kind: int = 0) -> int:
        """Have the next turns append a part; returns its sequence number.  Raises LimitExceeded."""
        self._posting.post(payload, kind)
        return self.record.sequence + len(self._posting) - 1

    @property
    def posted(self) -> int:
        """How many parts are not certain to be in the log as yet."""
        return len(self._posting)

    @property
    def position(self) -> int:
        """Of the next entry that this program has not received whole."""
        return self._arrivals.needed

    @property
    def due(self) -> bool:
        """Whether a turn is of use now.

        It is if there is something to append or to read, if the outcome of the last turn is not
        known, or if other writers may need the cursor to be reported.
        """
        if self._posting or self._prepared is not None:
            return True
        return self.reads and (self._arrivals.more or self._owes_report())

    def see_tail(self, tail: int) -> None:
        """The caller knows, from a look of its own, that the log goes on to ``tail``."""
        self._arrivals.tail = max(self._arrivals.tail, tail)

    def turn(self, *, receive: bool = True) -> Steps[Turn]:
        """Take a turn.  One minitransaction, and two to trim from time to time.

        ``receive``: False if the program cannot take more entries at the moment; then none come,
        and its cursor stays where it is.  Raises Expelled, from then on always; NotExecuted and
        OutcomeUnknown, after which the next turn goes on with what this one was about;
        DamagedEntry or NotFormatted.
        """
        if self._ended is not None:
            raise self._ended
        prepared = self._prepared = self._prepared or self._prepare(receive=receive)
        try:
            result = yield from execute(prepared.t)
        except OutcomeUnknown:
            self._unknown = True
            raise
        except NotExecuted:
            if not self._unknown:
                self._prepared = None
            raise
        happened = self._judge(prepared, result)
        self._prepared, self._unknown = None, False
        self._receive(prepared, result, happened=happened)
        ordered = self._settle(prepared, result) if happened else []
        holding_up = yield from self._make_room(result)
        entries = self._arrivals.complete()
        self._place(entries, ordered)
        return Turn(entries, ordered, holding_up)

    def check_invariants(self) -> None:
        """What is true between any two turns."""
        self._arrivals.check_invariants()
        self._posting.check_invariants()
        assert not self._unknown or self._prepared is not None
        assert not self._unplaced or self.reads
        assert self._posting.area.head == self.record.head
        if self.reads:
            assert self.record.cursor <= self._arrivals.needed

    # --- before its minitransaction -------------------------------------------------------------

    def _owes_report(self) -> bool:
        unreported = self._arrivals.needed - self.record.cursor
        return (
            unreported * REPORT_FRACTION >= self.log.shape.slots
            or self._arrivals.area_bytes > self._reported_area_bytes
        )

    def _prepare(self, *, receive: bool) -> _Prepared:
        log, record, arrivals = self.log, self.record, self._arrivals
        t = minitransaction(reads_on_failure=True)
        address = log.record_address(self.writer)
        t.compare(log.node, address, record.encode()[: 2 * WORD_BYTES])
        look = arrivals.look(t, self._reach if self.reads and receive else 0)
        portion = self._add_portion(t)
        sequence, head = record.sequence, record.head
        if portion is not None and portion.appends:
            sequence += portion.draft.head.count
            head += portion.draft.head.length if portion.draft.head.in_area else 0
        cursor = arrivals.needed if self.reads else CURSOR_NONE
        after = replace(record, turn=record.turn + 1, sequence=sequence, head=head, cursor=cursor)
        t.write(log.node, address + WORD_BYTES, after.encode()[WORD_BYTES : 5 * WORD_BYTES])
        return _Prepared(t, look, after, portion, arrivals.area_bytes)

    def _add_portion(self, t: Minitransaction[Any]) -> Portion | None:
        """Have ``t`` do what comes next of what was posted, if there is room and it is time."""
        self._trim_needed = self._trim_needed or self._posting.trim_needed()
        if self._trim_needed:
            return None
        behind = self.reads and self._arrivals.more
        if behind and self._read_only_turns < self.limits.read_only_turns:
            self._read_only_turns += 1
            return None
        self._read_only_turns = 0
        return self._posting.add_next(t, self.record)

    # --- after it -------------------------------------------------------------------------------

    def _judge(self, prepared: _Prepared, result: Result) -> bool:
        """Whether the turn has happened, by this copy or an earlier one.  Raises Expelled."""
        if result.committed:
            return True
        if not result.failed_compares:
            assert result.full_rings
            return False
        words = result.failed_compares[0].found
        generation = int.from_bytes(words[:WORD_BYTES], "little")
        turn = int.from_bytes(words[WORD_BYTES:], "little")
        if generation > self.record.generation:
            self._ended = self._expelled(prepared, generation, turn)
            raise self._ended
        if self._unknown and (generation, turn) == (self.record.generation, prepared.after.turn):
            return True
        raise NotFormatted(
            f"writer record {self.writer} of the log is not as its claimant left it: another"
            " program writes there"
        )

    def _expelled(self, prepared: _Prepared, generation: int, turn: int) -> Expelled:
        appended = self.record.sequence
        in_doubt = range(appended, appended)
        if self._unknown and prepared.appends:
            if generation > self.record.generation + 1:
                # A new claimant has moved the turn on, too.
                in_doubt = range(appended, prepared.after.sequence)
            elif turn == prepared.after.turn:
                appended = prepared.after.sequence
        message = f"the claim of writer record {self.writer} of the log was ended"
        return Expelled(message, appended, in_doubt)

    def _receive(self, prepared: _Prepared, result: Result, *, happened: bool) -> None:
        """Take in what the turn read."""
        arrivals = self._arrivals
        before = arrivals.position
        given_up = arrivals.take(prepared.look, result)
        if not self.reads:
            arrivals.skip()
        elif given_up is not None:
            raise DamagedEntry(
                f"entry {arrivals.needed} was trimmed although a claimant had not received it"
            )
        found = arrivals.position - before
        self._reach = max(self.limits.reach_min, min(self.limits.reach_max, 2 * found))
        self._posting.area.note_trimmed(arrivals.trimmed)
        if happened:
            self.record = prepared.after
            self._reported_area_bytes = prepared.area_bytes

    def _settle(self, prepared: _Prepared, result: Result) -> list[Ordered]:
        """The turn has happened: what is certain to be in the log now."""
        portion, arrivals = prepared.portion, self._arrivals
        if portion is None:
            return []
        # Without an answer the entry is known to be somewhere before the tail that was just read.
        position = result.positions[0] if result.positions else None
        self._posting.on_done(portion, arrivals.tail - 1 if position is None else position)
        if not portion.appends:
            return []
        head = portion.draft.head
        sequences = range(head.sequence, head.sequence + head.count)
        if position is None and self.reads:
            self._unplaced.append(sequences)
            return []
        if position == arrivals.position and self.reads:
            arrivals.put(position, head, portion.draft.body)
        return [Ordered(sequences, position)]

    def _place(self, entries: Sequence[Entry], ordered: list[Ordered]) -> None:
        """Find the positions of entries to whose turns the answers were lost."""
        if not self._unplaced:
            return
        for entry in entries:
            own = (entry.writer, entry.generation) == (self.writer, self.record.generation)
            if own and self._unplaced and entry.sequence == self._unplaced[0].start:
                ordered.append(Ordered(self._unplaced.popleft(), entry.position))

    # --- trimming -------------------------------------------------------------------------------

    def _make_room(self, result: Result) -> Steps[tuple[int, ...]]:
        """Trim, if an entry met a full log or soon would; the writers that it has to wait for."""
        arrivals, slots = self._arrivals, self.log.shape.slots
        kept = arrivals.tail - slots * KEPT_EIGHTHS // EIGHTHS
        if result.full_rings:
            # This turn did not report the cursor, for it did not happen: trim after the next one.
            self._trim_needed = max(kept, arrivals.trimmed + 1)
            return ()
        wanted = self._trim_needed
        fuller = (arrivals.tail - arrivals.trimmed) * EIGHTHS > slots * FULL_EIGHTHS
        on_duty = result.positions and (result.positions[0] + 1) % max(1, slots // EIGHTHS) == 0
        if fuller and on_duty:
            wanted = max(wanted, kept)
        if not wanted:
            return ()
        try:
            outcome = yield from trim(self.log, wanted)
        except (NotExecuted, OutcomeUnknown):
            # Trimming twice does no harm; the next turn tries again if it still needs the room.
            return ()
        self._posting.area.note_trimmed(outcome.trimmed)
        if outcome.trimmed >= self._trim_needed:
            self._trim_needed = 0
            return ()
        return outcome.holding_up
