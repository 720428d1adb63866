"""One minitransaction does all of a turn: it appends what was posted, moves the cursor, and reads.

What it reads is the log as it was just before its own entry, so that the entry needs not be read
back: its position is the tail that was read.  A program that sends needs no hint and no second
round trip to receive, and whatever is posted while a turn is on its way goes into the next one.
There is one turn at a time, and no timer.

The machine is a generator of steps (sinfonia.client.steps) and does no I/O.  A turn whose outcome
is unknown is taken again, the same minitransaction: it compares the turn number of the writer
record and moves it on, so that one copy happens.  Where it cannot be taken again, because the log
is full now or a rider does not hold any more, another turn with the same number is taken instead:
one of the two happens, and the record tells which.  Nothing that was posted is lost or doubled,
whatever is lost on the way.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from groupcomm.errors import DamagedEntry, Expelled
from groupcomm.log.arrivals import Arrivals
from groupcomm.log.entries import Entry
from groupcomm.log.layout import CURSOR_NONE, WORD_BYTES, Log
from groupcomm.log.limits import DEFAULT_LIMITS, LogLimits
from groupcomm.log.posting import Portion, Posting, Rider
from groupcomm.log.turns import Ordered, Prepared, Refused, Turn
from groupcomm.log.writers import Claim, trim
from sinfonia import (
    InvalidMinitransaction,
    Minitransaction,
    NotExecuted,
    OutcomeUnknown,
    Result,
)
from sinfonia.client.steps import Steps, execute, minitransaction
from sinfonia.structures import NotFormatted

# The writer whose entry completes an eighth of the ring trims it to three quarters, if it is fuller
# than seven eighths: one writer does it, and the rest remains for readers from the past.
EIGHTHS = 8
FULL_EIGHTHS = 7
KEPT_EIGHTHS = 6

# A cursor is reported, for others to trim, when so much of the ring was received; and whenever a
# body in an area was, for the next one may need all of the area.
REPORT_FRACTION = 4

# Of a writer record, what tells which turn was the last: generation, turn and sequence.
TOLD_BYTES = 3 * WORD_BYTES


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
        self._prepared: Prepared | None = None
        # Whether a copy of the prepared turn, or of the one that it is instead of, may have
        # happened or may still happen.
        self._unknown = False
        # Appended by a turn whose answer told nothing of the tail: the next turn tells.
        self._unseen: Portion | None = None
        # Settled, and to be told by the turn that ends next.
        self._ordered: list[Ordered] = []
        self._refused: list[Refused] = []
        # Appended, at positions that are not known yet: (sequence, tickets).
        self._unplaced: deque[tuple[int, range]] = deque()
        self._reach = limits.reach_min
        self._read_only_turns = 0
        self._trim_needed = 0
        self._reported_area_bytes = 0
        self._ended: Expelled | None = None

    def post(self, payload: bytes, kind: int = 0, rider: Rider | None = None) -> int:
        """Have the next turns append a part; returns its ticket.  Raises LimitExceeded.

        ``rider`` adds items of the caller's to the minitransaction that appends the part.  If its
        compare items do not hold the part is refused.
        """
        return self._posting.post(payload, kind, rider)

    @property
    def posted(self) -> int:
        """How many parts are not settled as yet."""
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
        if self._posting or self._prepared is not None or self._ordered or self._refused:
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
        DamagedEntry or NotFormatted.  It may be closed at any step, as by a caller that is
        cancelled: the next turn goes on likewise.
        """
        if self._ended is not None:
            raise self._ended
        try:
            prepared = self._prepared = self._prepared or self._prepare(receive=receive)
            result = yield from execute(prepared.t)
        except (OutcomeUnknown, GeneratorExit):
            # GeneratorExit: the caller was cancelled, and does not wait for the answer.
            self._unknown = True
            raise
        except NotExecuted:
            self._prepared = self._prepared if self._unknown else None
            raise
        except InvalidMinitransaction as error:
            if self._unknown or not self._carries_rider():
                raise
            self._prepared = None
            return Turn((), (), [Refused(self._posting.refuse_next(), error)])
        happened = self._judge(prepared, result)
        if result.reads:
            self._receive(prepared, result)
        holding_up: tuple[int, ...] = ()
        if happened is None:
            self._on_not_happened(prepared, result)
        else:
            self._on_happened(prepared, happened, result)
            holding_up = yield from self._make_room(result)
        # No step below: if the caller is cancelled in one, the next turn tells all of it.
        entries = self._arrivals.complete()
        self._place(entries)
        turn = Turn(entries, self._ordered, self._refused, holding_up)
        self._ordered, self._refused = [], []
        return turn

    def check_invariants(self) -> None:
        """What is true between any two turns."""
        self._arrivals.check_invariants()
        self._posting.check_invariants()
        assert not self._unknown or self._prepared is not None
        assert not self._unplaced or self.reads
        if self._unseen is None:
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

    def _prepare(
        self,
        *,
        receive: bool = True,
        instead_of: Prepared | None = None,
        refusal: Result | None = None,
    ) -> Prepared:
        log, record, arrivals = self.log, self.record, self._arrivals
        t = minitransaction(reads_on_failure=True)
        address = log.record_address(self.writer)
        compare = t.compare(log.node, address, record.encode()[:TOLD_BYTES])
        look = arrivals.look(t, self._reach if self.reads and receive else 0)
        portion = None if instead_of is not None else self._add_portion(t)
        sequence, head = record.sequence, record.head
        if portion is not None and portion.appends:
            sequence += portion.draft.head.count
            head += portion.draft.head.length if portion.draft.head.in_area else 0
        cursor = arrivals.needed if self.reads else CURSOR_NONE
        after = replace(record, turn=record.turn + 1, sequence=sequence, head=head, cursor=cursor)
        t.write(log.node, address + WORD_BYTES, after.encode()[WORD_BYTES : 5 * WORD_BYTES])
        return Prepared(t, compare, look, after, portion, arrivals.area_bytes, instead_of, refusal)

    def _carries_rider(self) -> bool:
        """Whether the turn that was being prepared, or is, appends a part with a rider."""
        if self._prepared is None:
            return self._posting.next_has_rider
        portion = self._prepared.portion
        return portion is not None and portion.draft.rider is not None

    def _add_portion(self, t: Minitransaction[Any]) -> Portion | None:
        """Have ``t`` do what comes next of what was posted, if there is room and it is time."""
        if self._unseen is not None:
            return None
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

    def _judge(self, prepared: Prepared, result: Result) -> Prepared | None:
        """The turn that has happened, by this copy or an earlier one; None if none has as yet.

        Raises Expelled.
        """
        if result.committed:
            return prepared
        found = next((f.found for f in result.failed_compares if f.index == prepared.compare), None)
        if found is None:
            return None
        if self._unknown:
            for turn in (prepared, prepared.instead_of):
                if turn is not None and found == turn.after.encode()[:TOLD_BYTES]:
                    return turn
        generation = int.from_bytes(found[:WORD_BYTES], "little")
        if generation <= self.record.generation:
            raise NotFormatted(
                f"writer record {self.writer} of the log is not as its claimant left it: another"
                " program writes there"
            )
        sequence = int.from_bytes(found[2 * WORD_BYTES :], "little")
        self._ended = self._expelled(prepared, generation, sequence)
        raise self._ended

    def _expelled(self, prepared: Prepared, generation: int, sequence: int) -> Expelled:
        """What the writer is told whose record has ``generation`` and ``sequence`` now."""
        untold = [each.tickets for each in self._ordered] + [each[1] for each in self._unplaced]
        appended = [ticket for tickets in untold for ticket in tickets]
        in_doubt = range(0)
        first = self._posting.settled
        last = prepared.instead_of or prepared
        if self._unseen is not None:
            appended += range(first, first + self._unseen.draft.head.count)
        elif self._unknown and last.portion is not None and last.portion.appends:
            tickets = range(first, first + last.portion.draft.head.count)
            if generation > self.record.generation + 1:
                # A new claimant has begun to count its own.
                in_doubt = tickets
            elif sequence == last.after.sequence:
                appended += tickets
        message = f"the claim of writer record {self.writer} of the log was ended"
        return Expelled(message, appended, in_doubt)

    def _receive(self, prepared: Prepared, result: Result) -> None:
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

    def _on_not_happened(self, prepared: Prepared, result: Result) -> None:
        """The log is full, or a rider does not hold.

        If an earlier copy may still happen, a turn instead of it settles that; it carries nothing.
        """
        portion, arrivals = prepared.portion, self._arrivals
        assert portion is not None
        is_full = portion.append in result.full_rings
        if is_full:
            # The cursor was not reported: the next turn does, and then trims.
            self._trim_needed = max(self._kept(), arrivals.trimmed + 1)
        if self._unknown:
            refusal = None if is_full else result
            self._prepared = self._prepare(instead_of=prepared, refusal=refusal)
            return
        self._prepared = None
        if not is_full:
            self._refused.append(Refused(self._posting.refuse_next(), result))

    def _on_happened(self, prepared: Prepared, happened: Prepared, result: Result) -> None:
        """``happened``, which is ``prepared`` or the turn that it was instead of, has happened."""
        self._prepared, self._unknown = None, False
        self.record = happened.after
        self._reported_area_bytes = happened.area_bytes
        unseen, self._unseen = self._unseen, None
        portion = happened.portion if unseen is None else unseen
        if prepared is happened and prepared.refusal is not None:
            self._refused.append(Refused(self._posting.refuse_next(), prepared.refusal))
        elif portion is None:
            return
        elif not portion.appends:
            self._posting.on_uploaded(portion)
        elif result.committed and unseen is None:
            self._ordered.append(self._appended(portion, result))
        elif not result.reads:
            self._unseen = portion
        else:
            # It is somewhere before the tail that was just read.
            tickets = self._posting.on_appended(portion, self._arrivals.tail - 1)
            if self.reads:
                self._unplaced.append((portion.draft.head.sequence, tickets))
            else:
                self._ordered.append(Ordered(tickets, None))

    def _appended(self, portion: Portion, result: Result) -> Ordered:
        """The turn was answered: this is where the entry is."""
        assert portion.append is not None
        position = result.positions[portion.append]
        tickets = self._posting.on_appended(portion, position)
        if self.reads and position == self._arrivals.position:
            self._arrivals.put(position, portion.draft.head, portion.draft.body)
        return Ordered(tickets, position, result if portion.draft.rider is not None else None)

    def _place(self, entries: Sequence[Entry]) -> None:
        """Find the positions of entries to whose turns the answers were lost."""
        if not self._unplaced:
            return
        for entry in entries:
            own = (entry.writer, entry.generation) == (self.writer, self.record.generation)
            if own and self._unplaced and entry.sequence == self._unplaced[0][0]:
                self._ordered.append(Ordered(self._unplaced.popleft()[1], entry.position))

    # --- trimming -------------------------------------------------------------------------------

    def _kept(self) -> int:
        """The first entry that a trim leaves, if nothing asks for more."""
        return self._arrivals.tail - self.log.shape.slots * KEPT_EIGHTHS // EIGHTHS

    def _make_room(self, result: Result) -> Steps[tuple[int, ...]]:
        """Trim, if an entry met a full log or soon would; the writers that it has to wait for."""
        arrivals, slots = self._arrivals, self.log.shape.slots
        wanted = self._trim_needed
        fuller = (arrivals.tail - arrivals.trimmed) * EIGHTHS > slots * FULL_EIGHTHS
        on_duty = result.positions and (result.positions[0] + 1) % max(1, slots // EIGHTHS) == 0
        if fuller and on_duty:
            wanted = max(wanted, self._kept())
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
