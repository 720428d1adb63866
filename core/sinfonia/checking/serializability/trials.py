"""What an operation finds and leaves at a certain place in the order, byte by byte.

This is the specification of conditions and updates once more, for the checker: written from what
clients are promised, and sharing no more with a memory node than the layout of rings.
"""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from sinfonia.addresses import MemoryNodeId
from sinfonia.checking.history import Added, Appended, Conditioned, Located, Update
from sinfonia.checking.serializability.search import Pairs, Step
from sinfonia.minitransaction import Relation
from sinfonia.rings import (
    HEADER_BYTES,
    SLOT_HEADER_BYTES,
    TAIL_OFFSET,
    TRIMMED_OFFSET,
    RingHeader,
    encode_slot,
)

COUNT_BYTES = 8  # of the two counts in the header of a ring

_RELATIONS = {
    Relation.EQUAL: operator.eq,
    Relation.NOT_EQUAL: operator.ne,
    Relation.LESS: operator.lt,
    Relation.AT_MOST: operator.le,
    Relation.GREATER: operator.gt,
    Relation.AT_LEAST: operator.ge,
}


def holds(condition: Conditioned, found: bytes) -> bool:
    """Whether ``condition`` is content with the bytes ``found``."""
    mask = int.from_bytes(condition.mask or b"\xff" * len(condition.data), "little")
    value = int.from_bytes(found, "little") & mask
    return bool(_RELATIONS[condition.relation](value, int.from_bytes(condition.data, "little")))


class Cells(Protocol):
    """How memory is cut into cells, and (cell, bytes) pairs numbered."""

    def token(self, cell: int, data: bytes) -> int: ...
    def bytes_of(self, token: int) -> bytes: ...
    def cells(self, node: MemoryNodeId, address: int, length: int) -> list[int]: ...
    def pieces(self, node: MemoryNodeId, address: int, data: bytes) -> list[tuple[int, bytes]]: ...


@dataclass(frozen=True, slots=True)
class Trial:
    """Part of an operation, tried on what is there.

    ``full`` are the updates that must meet a full ring: all those that do.
    """

    encoder: Cells
    conditions: Sequence[Conditioned]
    writes: Sequence[Located]
    updates: Sequence[Update]
    answers: tuple[int, ...] | None
    full: frozenset[int]

    @property
    def needed(self) -> bool:
        """Whether more is to be said than which tokens are needed and set."""
        return bool(
            self.conditions
            or (self.updates and (self.writes or self.answers is None or len(self.updates) > 1))
            or any(isinstance(update, Appended) for update in self.updates)
        )

    def on(self, step: Step) -> Step:
        """``step`` with this trial to be made where it is placed."""
        inspects: dict[int, None] = {}
        for condition in self.conditions:
            place = (condition.node, condition.address, len(condition.data))
            inspects |= dict.fromkeys(self.encoder.cells(*place))
        looks: dict[int, None] = {}
        for update in self.updates:
            for place in looked_at(update):
                looks |= dict.fromkeys(self.encoder.cells(*place))
                if isinstance(update, Appended):
                    inspects |= dict.fromkeys(self.encoder.cells(*place))
        looks |= inspects
        settled = frozenset(cell for cell, _ in step.sets)
        at = tuple(looks)

        def effect(tokens: Sequence[int]) -> Pairs | None:
            return self._effect(dict(zip(at, tokens, strict=True)), settled)

        return replace(step, looks=at, effect=effect, inspects=tuple(inspects))

    def _effect(self, state: dict[int, int], settled: frozenset[int]) -> Pairs | None:
        view = View(self.encoder, {c: self.encoder.bytes_of(t) for c, t in state.items()})
        for condition in self.conditions:
            place = (condition.node, condition.address, len(condition.data))
            if not holds(condition, view.read(*place)):
                return None
        for item in self.writes:
            view.write(*item)
        full = set()
        for index, update in enumerate(self.updates):
            answer = view.update(update)
            if answer is None:
                return None
            if answer == FULL:
                full.add(index)
            elif self.answers is not None and self.answers[index] != answer:
                return None
        if full != self.full:
            return None
        if full:
            return ()
        return tuple(
            (cell, self.encoder.token(cell, data))
            for cell, data in view.written.items()
            if cell not in settled
        )


FULL = -1  # an answer that no update gives


class View:
    """Some cells of memory, and what one operation does to them."""

    def __init__(self, encoder: Cells, content: dict[int, bytes]) -> None:
        self._encoder = encoder
        self._content = content
        self.written: dict[int, bytes] = {}

    def read(self, node: MemoryNodeId, address: int, length: int) -> bytes:
        """The bytes there."""
        cells = self._encoder.cells(node, address, length)
        return b"".join(self.written.get(cell) or self._content[cell] for cell in cells)

    def write(self, node: MemoryNodeId, address: int, data: bytes) -> None:
        """Put ``data`` there."""
        self.written.update(self._encoder.pieces(node, address, data))

    def update(self, update: Update) -> int | None:
        """Carry it out; the answer, FULL, or None if there is no such ring."""
        if isinstance(update, Added):
            met = self.read(update.node, update.address, update.width)
            answer = int.from_bytes(met, "little")
        else:
            ring = self._ring(update)
            if ring is None or ring.full:
                return None if ring is None else FULL
            answer = ring.tail
        for place in met_and_left(update, answer)[1]:
            self.write(*place)
        return answer

    def _ring(self, item: Appended) -> RingHeader | None:
        said = self.read(item.node, item.address, TRIMMED_OFFSET + COUNT_BYTES)
        ring = RingHeader.decode(said.ljust(HEADER_BYTES, b"\0"))
        alike = (ring.slot_bytes, ring.slots) == (item.slot_bytes, item.slots)
        return ring if alike and ring.valid else None


def met_and_left(update: Update, answer: int) -> tuple[list[Located], list[Located]]:
    """What an update with this answer met, and what it left behind."""
    node, start = update.node, update.address
    if isinstance(update, Added):
        new = (answer + update.delta) % 256**update.width
        met, left = (each.to_bytes(update.width, "little") for each in (answer, new))
        return [Located(node, start, met)], [Located(node, start, left)]
    before = RingHeader(update.slot_bytes, update.slots, answer)
    shape = before.encode()[:TAIL_OFFSET]
    tail, more = (each.to_bytes(COUNT_BYTES, "little") for each in (answer, answer + 1))
    slot = encode_slot(before, answer, update.data)
    return [Located(node, start, shape), Located(node, start + TAIL_OFFSET, tail)], [
        Located(node, start + TAIL_OFFSET, more),
        Located(node, start + before.place(answer), slot),
    ]


def looked_at(update: Update) -> Iterator[tuple[MemoryNodeId, int, int]]:
    """The places that it looks at to find out what it does."""
    if isinstance(update, Added):
        yield update.node, update.address, update.width
        return
    for start, length in (
        (0, TAIL_OFFSET),
        (TAIL_OFFSET, COUNT_BYTES),
        (TRIMMED_OFFSET, COUNT_BYTES),
    ):
        yield update.node, update.address + start, length


def changed(update: Update) -> Iterator[tuple[MemoryNodeId, int, int]]:
    """What it may change, wherever it leads."""
    if isinstance(update, Added):
        yield update.node, update.address, update.width
        return
    ring = RingHeader(update.slot_bytes, update.slots)
    yield update.node, update.address + TAIL_OFFSET, COUNT_BYTES
    for position in range(update.slots):
        start = update.address + ring.place(position)
        yield update.node, start, SLOT_HEADER_BYTES + len(update.data)
