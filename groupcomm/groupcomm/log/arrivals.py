"""Entries are handed on in their order, and whole; a body may come later than the entry's place.

A read brings slots of the ring.  Where a body is in an area, later reads bring it, in pieces if it
is large, while the entries behind it wait.  Each such read looks at the ring's header in the same
minitransaction: as long as the entry is not trimmed, its writer has put nothing else there.
"""

from collections import deque
from typing import Any

from groupcomm.errors import DamagedEntry
from groupcomm.log.entries import Entry, Head, decode_head, make_entry
from groupcomm.log.layout import Log
from groupcomm.log.limits import LogLimits
from sinfonia import Minitransaction
from sinfonia.minitransaction import Result
from sinfonia.structures import Records, Trimmed
from sinfonia.structures.ring.ring import Reading


class _Arrival:
    """An entry of which ``pieces`` of the body have come."""

    __slots__ = ("fetched", "head", "pieces", "position")

    def __init__(self, position: int, head: Head, body: bytes | None = None) -> None:
        self.position = position
        self.head = head
        self.pieces: list[bytes] = []
        self.fetched = 0
        if body is not None or not head.in_area:
            self.add(head.body if body is None else body)

    @property
    def complete(self) -> bool:
        return self.fetched == self.head.length

    def add(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self.fetched += len(piece)
        assert self.fetched <= self.head.length

    def entry(self) -> Entry:
        body = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        return make_entry(self.position, self.head, body)


class Look:
    """The read items that one minitransaction has for one ``Arrivals``."""

    __slots__ = ("bodies", "slots")

    def __init__(self, slots: Reading, bodies: list[tuple[_Arrival, int, int]]) -> None:
        self.slots = slots
        # For each: the entry, and its read items as [first, end).
        self.bodies = bodies


class Arrivals:
    """The entries of a log from ``position`` on, as they arrive.

    ``position`` is that of the next entry to be read; ``trimmed`` and ``tail`` are the ring's, as
    last seen.  ``area_bytes``: of all bodies in areas whose entries were handed on.
    """

    def __init__(self, log: Log, position: int, limits: LogLimits) -> None:
        self._log = log
        self._limits = limits
        self._ring = log.ring
        self._held: deque[_Arrival] = deque()
        self.position = position
        self.trimmed = 0
        self.tail = position
        self.area_bytes = 0

    @property
    def needed(self) -> int:
        """The first entry that must not be trimmed yet."""
        return self._held[0].position if self._held else self.position

    @property
    def more(self) -> bool:
        """Whether there is something to read, as far as is known."""
        return bool(self._held) or self.position < self.tail

    def look(self, t: Minitransaction[Any], slots: int) -> Look:
        """Have ``t`` read bodies that lack, up to ``slots`` slots and the ring's header."""
        limits = self._limits
        slot_max = max(1, limits.slot_bytes // self._ring.slot_bytes)
        room = limits.held - len(self._held)
        reading = self._ring.add_read(t, self.position, max(0, min(slots, slot_max, room)))
        bodies: list[tuple[_Arrival, int, int]] = []
        budget = limits.fetch_bytes
        for arrival in self._held:
            if budget == 0:
                break
            if not arrival.complete:
                budget -= self._fetch(t, arrival, budget, bodies)
        return Look(reading, bodies)

    def _fetch(
        self,
        t: Minitransaction[Any],
        arrival: _Arrival,
        budget: int,
        bodies: list[tuple[_Arrival, int, int]],
    ) -> int:
        head = arrival.head
        length = min(budget, head.length - arrival.fetched)
        first = len(t.read_places)
        start = head.start + arrival.fetched
        for address, piece in self._log.area_pieces(head.writer, start, length):
            t.read(self._log.node, address, piece)
        bodies.append((arrival, first, len(t.read_places)))
        return length

    def take(self, look: Look, result: Result) -> Trimmed | None:
        """Take in what ``result`` brought for ``look``; None: all is well.

        Trimmed: entries that were not handed on yet have been given up.  Raises NotFormatted,
        WrongPosition or DamagedEntry.
        """
        found = look.slots.take(result)
        self.tail, first = _ends(found)
        self.trimmed = first
        if isinstance(found, Trimmed) or self.needed < first:
            return Trimmed(first, self.tail)
        for arrival, low, high in look.bodies:
            for piece in result.reads[low:high]:
                arrival.add(piece)
        assert found.first == self.position, "a look is taken before the next one is made"
        for position, record in enumerate(found.payloads, found.first):
            self._held.append(_Arrival(position, self._decode(position, record)))
            self.position = position + 1
        return None

    def put(self, position: int, head: Head, body: bytes) -> None:
        """Take in an entry that needs not be read, for this program appended it."""
        assert position == self.position
        self._held.append(_Arrival(position, head, body))
        self.position = position + 1
        self.tail = max(self.tail, self.position)

    def skip(self) -> None:
        """Do without all that there is up to the tail."""
        self._held.clear()
        self.position = self.tail

    def complete(self) -> list[Entry]:
        """The entries that can be handed on, in their order.  Raises DamagedEntry."""
        held = self._held
        entries: list[Entry] = []
        while held and held[0].complete:
            arrival = held.popleft()
            if arrival.head.in_area:
                self.area_bytes += arrival.head.length
            entries.append(arrival.entry())
        return entries

    def check_invariants(self) -> None:
        """What is true between any two calls."""
        positions = [arrival.position for arrival in self._held]
        assert positions == list(range(self.needed, self.position))
        assert self.position <= self.tail
        assert self.trimmed <= self.needed
        assert all(arrival.fetched <= arrival.head.length for arrival in self._held)

    def _decode(self, position: int, record: bytes) -> Head:
        head = decode_head(record)
        shape = self._log.shape
        if head.in_area and (head.writer >= shape.writers or head.length > shape.area_bytes):
            raise DamagedEntry(f"entry {position} has its body in no area of this log")
        return head


def _ends(found: Records | Trimmed) -> tuple[int, int]:
    """Tail, and the oldest position that is not trimmed."""
    return (found.tail, found.first) if isinstance(found, Trimmed) else (found.tail, found.trimmed)
