"""A ring gives every record one position, and a position never means another record.

The layout, and what an append does, is the memory node's (sinfonia/rings.py): it chooses the
position under its own locks, so that rivals share a ring without ever failing for each other.  A
tail that clients compare and write would commit once in a round trip; this one commits as often as
the memory node can.

What readers stand on: a read looks at the header and at slots in one minitransaction, and takes
records between ``trimmed`` and ``tail`` only.  There every slot was written together with the tail
that names it, so there are no holes, and what a slot held in an earlier use of the memory is not
mistaken for a record.  Nothing that has not been trimmed is overwritten; a full ring says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sinfonia.client.steps import Steps, execute, minitransaction
from sinfonia.errors import LimitExceeded
from sinfonia.minitransaction import BYTES_MAX, Minitransaction, Relation, Result
from sinfonia.rings import (
    HEADER_BYTES,
    SLOT_HEADER_BYTES,
    TAIL_OFFSET,
    TRIMMED_OFFSET,
    RingHeader,
    decode_slot,
    encode_slot,
)
from sinfonia.structures.errors import NotFormatted, WrongPosition
from sinfonia.structures.guards import Guard
from sinfonia.structures.settling import execute_until_known

_WORD = 8

# It is a u32 in the header.
SLOTS_MAX = 2**32 - 1

# Any one slot can be read in one minitransaction, with room for more items.
SLOT_BYTES_MAX = BYTES_MAX // 2


@dataclass(frozen=True, slots=True)
class Full:
    """Nothing was appended: the ring has no room before it is trimmed."""


@dataclass(frozen=True, slots=True)
class Records:
    """What is at the positions from ``first`` on, and where the ring began and ended just then."""

    first: int
    payloads: tuple[bytes, ...]
    trimmed: int
    tail: int

    @property
    def next(self) -> int:
        """The position after the last of them."""
        return self.first + len(self.payloads)


@dataclass(frozen=True, slots=True)
class Trimmed:
    """The position that was asked for is given up; ``first`` is the oldest that is not."""

    first: int
    tail: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Read items of one ring in a minitransaction: the first is number ``index`` of its reads."""

    ring: "Ring"
    index: int
    position: int
    runs: int

    def take(self, result: Result) -> Records | Trimmed:
        """The records that ``result``, which committed, brought.

        Raises NotFormatted if this is not the ring, WrongPosition if it never went so far.
        """
        header = self.ring.decode_header(result.reads[self.index])
        if self.position < header.trimmed:
            return Trimmed(header.trimmed, header.tail)
        if self.position > header.tail:
            raise WrongPosition(
                f"position {self.position} of a ring that ends at {header.tail}: has it been"
                " created anew, or restored from a backup?"
            )
        content = b"".join(result.reads[self.index + 1 : self.index + 1 + self.runs])
        size = self.ring.slot_bytes
        count = min(header.tail - self.position, len(content) // size)
        payloads = []
        for k in range(count):
            payload = decode_slot(header, self.position + k, content[k * size : (k + 1) * size])
            if payload is None:
                raise NotFormatted(
                    f"position {self.position + k} of the ring at {self.ring.address} of memory"
                    f" node {self.ring.node} is damaged: something else writes there"
                )
            payloads.append(payload)
        return Records(self.position, tuple(payloads), header.trimmed, header.tail)


@dataclass(frozen=True, slots=True)
class Ring:
    """``slots`` records of up to ``slot_bytes`` - 16 bytes each, at ``address`` of ``node``.

    It takes ``byte_count`` bytes.
    """

    node: int
    address: int
    slots: int
    slot_bytes: int

    def __post_init__(self) -> None:
        """Raises LimitExceeded."""
        if not 0 < self.slots <= SLOTS_MAX:
            raise LimitExceeded(f"a ring has 1 to {SLOTS_MAX} slots, not {self.slots}")
        if not SLOT_HEADER_BYTES < self.slot_bytes <= SLOT_BYTES_MAX:
            raise LimitExceeded(
                f"a slot has {SLOT_HEADER_BYTES + 1} to {SLOT_BYTES_MAX} bytes,"
                f" not {self.slot_bytes}"
            )

    @property
    def byte_count(self) -> int:
        """Of the memory that the ring takes, from ``address`` on."""
        return HEADER_BYTES + self.slots * self.slot_bytes

    @property
    def payload_bytes_max(self) -> int:
        """Of one record."""
        return self.slot_bytes - SLOT_HEADER_BYTES

    @property
    def records_together_max(self) -> int:
        """How many records one minitransaction can read."""
        return min(self.slots, (BYTES_MAX - HEADER_BYTES) // self.slot_bytes)

    def create(self) -> Steps[None]:
        """Format the ring, in memory that is zero; if it is there already, do nothing.

        Raises NotFormatted if something else is there; OutcomeUnknown: create it again.
        """
        t = minitransaction()
        t.compare(self.node, self.address, bytes(HEADER_BYTES))
        t.write(self.node, self.address, RingHeader(self.slot_bytes, self.slots).encode())
        result = yield from execute_until_known(t)
        if not result.committed:
            self.decode_header(result.failed_compares[0].found)

    def header(self) -> Steps[RingHeader]:
        """Where the ring begins (``trimmed``) and ends (``tail``).  Raises NotFormatted."""
        t = minitransaction()
        t.read(self.node, self.address, HEADER_BYTES)
        return self.decode_header((yield from execute(t)).reads[0])

    def append(self, payload: bytes, *, lock_wait: float = 0.0) -> Steps[int | Full]:
        """Append one record; returns its position.  One round trip.

        ``lock_wait`` in seconds, as Minitransaction has it.  Raises OutOfRange if no ring is there
        and LimitExceeded if the payload is too large (both definite); OutcomeUnknown: it may have
        been appended.  Where that must not happen twice, use a ``Writer`` (writers.py).
        """
        positions = yield from self.append_many([payload], lock_wait=lock_wait)
        return positions if isinstance(positions, Full) else positions[0]

    def append_many(
        self, payloads: Sequence[bytes], *, lock_wait: float = 0.0
    ) -> Steps[range | Full]:
        """Append records side by side, all or none; returns their positions.  One round trip.

        At most UPDATES_MAX (64) of them.  Raises as ``append``.
        """
        t = minitransaction(lock_wait=lock_wait)
        for payload in payloads:
            self.add_append(t, payload)
        if not payloads:
            return range(0)
        result = yield from execute(t)
        if result.full_rings:
            return Full()
        return range(result.positions[0], result.positions[-1] + 1)

    def read(self, position: int, count: int) -> Steps[Records | Trimmed]:
        """Up to ``count`` records from ``position`` on.  One round trip.

        Fewer come if the ring ends before, or if one minitransaction cannot carry so many; none if
        ``position`` is the tail.  Raises NotFormatted, and WrongPosition beyond the tail.
        """
        t = minitransaction()
        reading = self.add_read(t, position, count)
        return reading.take((yield from execute(t)))

    def trim(self, up_to: int) -> Steps[int]:
        """Give up all positions below ``up_to``; returns the first that is not given up.

        That is beyond ``up_to`` if another client trimmed more.  Doing it twice does no harm.  It
        is the memory node that compares, not a copy of the tail that may be old.  Raises
        WrongPosition, and changes nothing, beyond the tail.
        """
        t = minitransaction()
        guard = self.add_trim(t, up_to)
        result = yield from execute(t)
        if result.committed:
            return up_to
        tail, more = guard.indices
        found = {
            each.index: int.from_bytes(each.found, "little") for each in result.failed_compares
        }
        if tail in found:
            raise WrongPosition(f"cannot trim up to {up_to}: the ring ends at {found[tail]}")
        return found[more]

    def add_append(self, t: Minitransaction[Any], payload: bytes) -> int:
        """Have ``t`` append a record; returns the index in ``Result.positions``.

        If the ring is full, ``t`` does nothing at all and ``Result.full_rings`` has the index.
        """
        self._check_payload(payload)
        return t.append(self.node, self.address, payload)

    def add_append_at(
        self, t: Minitransaction[Any], position: int, payloads: Sequence[bytes]
    ) -> Guard:
        """Have ``t`` append records at ``position`` if that is the tail and there is room.

        For a ring with one writer, which need not wait for one minitransaction before it sends the
        next: with t at position p, the next at p + len(payloads), and so on.  If one fails those
        after it do too; it then asks for the header and goes on from there.
        """
        tail = (position + len(payloads)).to_bytes(_WORD, "little")
        header = RingHeader(self.slot_bytes, self.slots)
        layout = t.compare(self.node, self.address, header.encode()[:TAIL_OFFSET])
        compared = t.compare(
            self.node, self.address + TAIL_OFFSET, position.to_bytes(_WORD, "little")
        )
        room = t.check(
            self.node,
            self.address + TRIMMED_OFFSET,
            Relation.AT_LEAST,
            max(0, position + len(payloads) - self.slots),
        )
        for k, payload in enumerate(payloads, position):
            self._check_payload(payload)
            t.write(self.node, self.address + header.place(k), encode_slot(header, k, payload))
        t.write(self.node, self.address + TAIL_OFFSET, tail)
        return Guard((layout, compared, room))

    def add_read(self, t: Minitransaction[Any], position: int, count: int) -> Reading:
        """Have ``t`` read up to ``count`` records from ``position`` on; ``take`` them from it."""
        if position < 0 or count < 0:
            raise WrongPosition(f"cannot read {count} records from position {position} on")
        index = t.read(self.node, self.address, HEADER_BYTES)
        start = position % self.slots
        count = min(count, self.records_together_max)
        runs = 0
        for low, high in ((start, min(start + count, self.slots)), (0, start + count - self.slots)):
            if low < high:
                place = self.address + HEADER_BYTES + low * self.slot_bytes
                t.read(self.node, place, (high - low) * self.slot_bytes)
                runs += 1
        return Reading(self, index, position, runs)

    def add_trim(self, t: Minitransaction[Any], up_to: int) -> Guard:
        """Have ``t`` trim up to ``up_to`` if less was trimmed, and if the tail is not before it.

        With compare items of a checkpoint in ``t``, no trim passes a checkpoint.
        """
        tail = t.check(self.node, self.address + TAIL_OFFSET, Relation.AT_LEAST, up_to)
        more = t.check(self.node, self.address + TRIMMED_OFFSET, Relation.LESS, up_to)
        t.write(self.node, self.address + TRIMMED_OFFSET, up_to.to_bytes(_WORD, "little"))
        return Guard((tail, more))

    @staticmethod
    def trimmed_instead(result: Result, guard: Guard, up_to: int) -> int:
        """Up to where the ring is trimmed, if ``guard`` of a trim ``up_to`` refused ``result``.

        Raises WrongPosition if it refused because the ring is not so long.
        """
        tail, more = guard.indices
        found = {
            each.index: int.from_bytes(each.found, "little") for each in guard.failures(result)
        }
        if tail in found:
            raise WrongPosition(f"cannot trim up to {up_to}: the ring ends at {found[tail]}")
        return found[more]

    def decode_header(self, data: bytes) -> RingHeader:
        """The header in ``data``.  Raises NotFormatted unless it is that of this ring."""
        header = RingHeader.decode(data)
        if not header.valid or (header.slots, header.slot_bytes) != (self.slots, self.slot_bytes):
            raise NotFormatted(
                f"no ring of {self.slots} slots of {self.slot_bytes} bytes at {self.address} of"
                f" memory node {self.node}"
            )
        return header

    def _check_payload(self, payload: bytes) -> None:
        if len(payload) > self.payload_bytes_max:
            raise LimitExceeded(
                f"a record of {len(payload)} bytes; the slots are for {self.payload_bytes_max}"
            )
