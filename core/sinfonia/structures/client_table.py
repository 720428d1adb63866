"""An operation is carried out once, however often it is asked for.

Beside what operations change, on the same memory node, there is a slot for each *lane* of a client:
the number of the last operation that came through it and what that answered.  A minitransaction
with a *guard* compares the slot with the number before, and writes its own and the answer.  So of
all copies of an operation one is committed; a client that lost the answer reads the slot.  That
costs no round trip.

A lane carries one operation at a time, numbered from 1 without gaps; a client that has several
under way claims several lanes.  Slots of clients that give no sign of life are taken back, and
their *generation* moves on, so that what a client that was only slow still sends is refused.
"""

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Never, Self

from sinfonia.client.steps import Steps, minitransaction, pause
from sinfonia.errors import LimitExceeded, NotExecuted, OutcomeUnknown
from sinfonia.minitransaction import UPDATES_MAX, Minitransaction, Result
from sinfonia.structures.errors import Forgotten, OutOfSequence, TableFull
from sinfonia.structures.guards import Guard
from sinfonia.structures.lease_layout import DRIFT_MARGIN
from sinfonia.structures.settling import execute_until_known

_SLOT = struct.Struct("<QQ16s16sQ8x")
_HEAD = struct.Struct("<QQ")
_GENERATION = struct.Struct("<Q")
_DONE = struct.Struct("<Q16s")

SLOT_BYTES = _SLOT.size
ANSWER_BYTES = 16
CLIENT_BYTES = 16

_SEQUENCE_OFFSET = 8
_HEARTBEAT_OFFSET = 48

# The answer of a number that was used up by nothing; operations have other answers.
FORGONE = b"\xff" * ANSWER_BYTES

# A table is read whole, which must not take long.
SLOTS_MAX = 16 * 1024

# The signs of life of all lanes of a client are add items of one minitransaction.
LANES_MAX = UPDATES_MAX

# A client that gives so many signs of life in an age may miss some of them.
SIGNS_PER_AGE = 4


@dataclass(frozen=True, slots=True)
class Slot:
    """What the bytes of a slot say; free if ``client`` is zeros."""

    generation: int
    sequence: int
    answer: bytes
    client: bytes
    heartbeat: int

    @property
    def is_free(self) -> bool:
        """Whether a client may claim it."""
        return not any(self.client)

    def encode(self) -> bytes:
        """The bytes of it."""
        return _SLOT.pack(self.generation, self.sequence, self.answer, self.client, self.heartbeat)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``; any bytes are a slot."""
        return cls(*_SLOT.unpack(data))


@dataclass(frozen=True, slots=True)
class Lane:
    """A slot while it belongs to one client."""

    slot: int
    generation: int


@dataclass(frozen=True, slots=True)
class Carried:
    """What became of an operation.

    committed: whether it was carried out, by this copy or an earlier one.  answer: what is kept of
    it then.  result: of this copy, or None if an earlier one was it, or it was forgone.
    """

    committed: bool
    answer: bytes
    result: Result | None


@dataclass(frozen=True, slots=True)
class ClientTable:
    """``slots`` slots of SLOT_BYTES from ``address`` of ``node``, all zeros at first."""

    node: int
    address: int
    slots: int

    def __post_init__(self) -> None:
        if not 0 < self.slots <= SLOTS_MAX:
            raise LimitExceeded(f"a client table has from 1 to {SLOTS_MAX} slots")

    @property
    def byte_count(self) -> int:
        """Of the whole table."""
        return self.slots * SLOT_BYTES

    # --- operations ----------------------------------------------------------------------------

    def guard(
        self, t: Minitransaction[Any], lane: Lane, sequence: int, answer: bytes = b""
    ) -> Guard:
        """Have ``t`` committed once only, as operation ``sequence`` (from 1) of ``lane``.

        ``answer``, at most ANSWER_BYTES long, is kept until the next operation of the lane.  If the
        guard does not hold, ``recall`` tells why.  Raises LimitExceeded.
        """
        if len(answer) > ANSWER_BYTES or answer == FORGONE:
            raise LimitExceeded(f"an answer has at most {ANSWER_BYTES} bytes, not all of them ff")
        return self._add_guard(t, lane, sequence, answer)

    def recall(self, lane: Lane, sequence: int) -> Steps[bytes | None]:
        """The answer of operation ``sequence``; None if it was not carried out as yet.

        Raises Forgotten (unknown) if the slot was taken back; OutOfSequence (definite) if another
        operation than the last or the next of the lane is asked for.
        """
        slot = yield from self._read_slot(lane.slot)
        if slot.generation != lane.generation:
            raise self._forgotten(lane)
        if slot.sequence == sequence:
            return slot.answer
        if slot.sequence == sequence - 1:
            return None
        raise OutOfSequence(
            f"operation {sequence} of lane {lane.slot}, where the last was {slot.sequence}"
        )

    def once(
        self,
        lane: Lane,
        sequence: int,
        fill: Callable[[Minitransaction[Any]], object],
        answer: bytes = b"",
    ) -> Steps[Carried]:
        """Carry out what ``fill`` adds to a minitransaction, if that was not done before.

        If a compare item of ``fill``'s fails, or a ring is full, it is not carried out as yet; the
        operation stays open, to be asked for again, or forgone.  Raises as ``recall`` and
        ``Cluster.execute`` do; after an OutcomeUnknown the same operation with the same number may
        be asked for again, at any time.
        """
        t = minitransaction(reads_on_failure=True)
        self.guard(t, lane, sequence, answer)
        fill(t)
        result = yield from execute_until_known(t)
        if result.committed:
            return Carried(committed=True, answer=_padded(answer), result=result)
        # What failed may be the guard, whether the result says so or not (guards.py).
        kept = yield from self.recall(lane, sequence)
        if kept is None:
            return Carried(committed=False, answer=b"", result=result)
        forgone = kept == FORGONE
        return Carried(committed=not forgone, answer=b"" if forgone else kept, result=None)

    def forgo(self, lane: Lane, sequence: int) -> Steps[bytes | None]:
        """End an open operation: if it was not carried out as yet, it never will be.

        No copy of it that is still on its way takes effect then, and its number is used up.
        Returns the answer if it was carried out; None if it was not.  Raises as ``once``.
        """
        t = minitransaction()
        self._add_guard(t, lane, sequence, FORGONE)
        result = yield from execute_until_known(t)
        if result.committed:
            return None
        kept = yield from self.recall(lane, sequence)
        if kept is None:
            raise OutOfSequence(f"lane {lane.slot} went back to before operation {sequence}")
        return None if kept == FORGONE else kept

    # --- clients -------------------------------------------------------------------------------

    def look(self) -> Steps[list[Slot]]:
        """All slots, each as it is at one moment."""
        t = minitransaction()
        t.read(self.node, self.address, self.byte_count)
        data = (yield from execute_until_known(t)).reads[0]
        return [
            Slot.decode(data[start : start + SLOT_BYTES])
            for start in range(0, self.byte_count, SLOT_BYTES)
        ]

    def register(self, client: bytes, *, lanes: int = 1) -> Steps[tuple[Lane, ...]]:
        """Claim slots for ``client``: CLIENT_BYTES that belong to one life of one process.

        A client that is registered already gets the lanes that it has.  Raises TableFull or
        LimitExceeded; after an OutcomeUnknown, register again.
        """
        if len(client) != CLIENT_BYTES or not any(client) or not 0 < lanes <= LANES_MAX:
            raise LimitExceeded(
                f"a client is {CLIENT_BYTES} bytes, not all zero, with 1 to {LANES_MAX} lanes"
            )
        while True:
            slots = yield from self.look()
            mine = [index for index, slot in enumerate(slots) if slot.client == client]
            if mine:
                return tuple(Lane(index, slots[index].generation) for index in mine)
            # Each client begins to search elsewhere, so that they do not meet.
            start = zlib.crc32(client) % self.slots
            order = (*range(start, self.slots), *range(start))
            free = [index for index in order if slots[index].is_free][:lanes]
            if len(free) < lanes:
                raise TableFull(
                    f"{len(free)} of {self.slots} slots of the client table at {self.address} of "
                    f"memory node {self.node} are free; sweep() takes back those of dead clients"
                )
            t = minitransaction()
            for index in free:
                old = slots[index]
                new = Slot(old.generation, 0, bytes(ANSWER_BYTES), client, 0)
                t.compare(self.node, self._place(index), old.encode())
                t.write(self.node, self._place(index), new.encode())
            result = yield from execute_until_known(t)
            if result.committed:
                return tuple(Lane(index, slots[index].generation) for index in free)

    def unregister(self, lanes: Sequence[Lane]) -> Steps[None]:
        """Give slots back; what is still on its way through them is refused."""
        for lane in lanes:
            yield from self._take_back(lane, b"")

    def touch(self, lanes: Sequence[Lane]) -> Steps[None]:
        """Give a sign of life.  Raises Forgotten (unknown)."""
        t = minitransaction()
        for lane in lanes:
            t.compare(self.node, self._place(lane.slot), _GENERATION.pack(lane.generation))
            t.add(self.node, self._place(lane.slot) + _HEARTBEAT_OFFSET, 1)
        result = yield from execute_until_known(t)
        if not result.committed:
            raise self._forgotten(lanes[result.failed_compares[0].index])

    def keep(self, lanes: Sequence[Lane], age: float) -> Steps[Never]:
        """Give signs of life until it fails, to be run beside the work.  Raises Forgotten
        (unknown).

        ``age`` (seconds) is that of the clients that sweep.
        """
        while True:
            yield from pause(age / SIGNS_PER_AGE)
            try:
                yield from self.touch(lanes)
            except (NotExecuted, OutcomeUnknown):
                continue

    def sweep(self, age: float) -> Steps[int]:
        """Take back the slots that do not change for ``age`` seconds; returns how many."""
        before = yield from self.look()
        yield from pause(age * (1 + DRIFT_MARGIN))
        after = yield from self.look()
        swept = 0
        for index, slot in enumerate(after):
            if slot == before[index] and not slot.is_free:
                lane = Lane(index, slot.generation)
                swept += yield from self._take_back(lane, slot.encode())
        return swept

    # --- odds and ends -------------------------------------------------------------------------

    def _add_guard(
        self, t: Minitransaction[Any], lane: Lane, sequence: int, answer: bytes
    ) -> Guard:
        if sequence < 1:
            raise LimitExceeded("operations count from 1")
        place = self._place(lane.slot)
        index = t.compare(self.node, place, _HEAD.pack(lane.generation, sequence - 1))
        t.write(self.node, place + _SEQUENCE_OFFSET, _DONE.pack(sequence, answer))
        return Guard([index])

    def _place(self, slot: int) -> int:
        if not 0 <= slot < self.slots:
            raise LimitExceeded(f"slot {slot} of a client table with {self.slots}")
        return self.address + slot * SLOT_BYTES

    def _read_slot(self, slot: int) -> Steps[Slot]:
        t = minitransaction()
        t.read(self.node, self._place(slot), SLOT_BYTES)
        return Slot.decode((yield from execute_until_known(t)).reads[0])

    def _take_back(self, lane: Lane, seen: bytes) -> Steps[bool]:
        """End a lane, if its slot is still as it was ``seen``; whether it was."""
        t = minitransaction()
        place = self._place(lane.slot)
        t.compare(self.node, place, seen or _GENERATION.pack(lane.generation))
        free = Slot(lane.generation + 1, 0, bytes(ANSWER_BYTES), bytes(CLIENT_BYTES), 0)
        t.write(self.node, place, free.encode())
        return (yield from execute_until_known(t)).committed

    def _forgotten(self, lane: Lane) -> Forgotten:
        return Forgotten(
            f"slot {lane.slot} of the client table at {self.address} of memory node {self.node} "
            "was taken back, because its client gave no sign of life; register again"
        )


def _padded(answer: bytes) -> bytes:
    """As it comes back from a slot."""
    return answer.ljust(ANSWER_BYTES, b"\0")
