"""A history is what clients saw, and nothing else.

A checker that looked inside the system it judges would share its mistakes; so an operation holds
only what its client asked, when, and what it was told.  ``invoked_at`` and ``returned_at`` are
moments of one clock that all clients share (the simulator counts its steps), and two operations
are ordered in real time only if one returned before the other was invoked.
"""

from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

from sinfonia.addresses import MemoryNodeId
from sinfonia.minitransaction import Relation

BYTES_SHOWN_MAX = 64


class Outcome(Enum):
    """What a client knows about one of its minitransactions."""

    COMMITTED = "committed"
    FAILED = "failed"  # an item did not match or a ring was full, and nothing happened
    NOT_EXECUTED = "not executed"  # a definite error: it did not happen and never will
    UNKNOWN = "unknown"  # it may happen at any moment after its invocation, or never


class Located(NamedTuple):
    """Bytes at a place: what a compare item expects or a write item puts there."""

    node: MemoryNodeId
    address: int
    data: bytes


class Conditioned(NamedTuple):
    """A condition: the bytes at a place, masked if there is a mask, in relation to ``data``."""

    node: MemoryNodeId
    address: int
    data: bytes
    relation: Relation
    mask: bytes = b""


class Extent(NamedTuple):
    """The place of a read item."""

    node: MemoryNodeId
    address: int
    length: int


class Found(NamedTuple):
    """The compare item or condition at ``position`` did not hold: ``data`` was there instead."""

    position: int
    data: bytes


class Added(NamedTuple):
    """An add item."""

    node: MemoryNodeId
    address: int
    width: int
    delta: int


class Appended(NamedTuple):
    """An append item, and the shape of the ring at ``address``, as its client knows it."""

    node: MemoryNodeId
    address: int
    data: bytes
    slot_bytes: int
    slots: int


Compared = Located | Conditioned
Update = Added | Appended


@dataclass(frozen=True, slots=True)
class Operation:
    """One minitransaction as its client saw it.

    ``compares`` holds compare items and conditions in order of addition; ``updates`` those of one
    memory node in order of addition.  ``values`` are the bytes of ``reads``, in order; a failed
    operation has them only if it asked for reads on failure.  ``answers`` are what was there
    before each add and the position of each append, None if the client was not told; ``full``
    names, by index, the appends of a failed operation that met a full ring.  An operation that
    never returned has no ``returned_at``.
    """

    number: int
    process: str
    invoked_at: int
    returned_at: int | None
    outcome: Outcome
    compares: tuple[Compared, ...] = ()
    reads: tuple[Extent, ...] = ()
    writes: tuple[Located, ...] = ()
    values: tuple[bytes, ...] = ()
    failed: tuple[Found, ...] = ()
    updates: tuple[Update, ...] = ()
    answers: tuple[int, ...] | None = None
    full: tuple[int, ...] = ()

    def weakened(self) -> "Operation":
        """The same operation with nothing known of it that its client saw in the reply."""
        outcome = Outcome.NOT_EXECUTED if self.outcome is Outcome.FAILED else Outcome.UNKNOWN
        return replace(
            self, returned_at=None, outcome=outcome, values=(), failed=(), answers=None, full=()
        )

    def __str__(self) -> str:
        end = "" if self.returned_at is None else self.returned_at
        parts = [f"#{self.number} {self.process} [{self.invoked_at}..{end}] {self.outcome.value}:"]
        parts += [_compared(each) for each in self.compares]
        for index, extent in enumerate(self.reads):
            value = self.values[index] if self.values else None
            parts.append(f"read {_place(extent.node, extent.address, value)}")
        parts += [f"write {_place(*each)}" for each in self.writes]
        for index, update in enumerate(self.updates):
            answer = self.answers[index] if self.answers else "?"
            parts.append(_updated(update, "full" if index in self.full else answer))
        for index, data in self.failed:
            compared = self.compares[index]
            parts.append(f"found {_place(compared.node, compared.address, data)}")
        return " ".join(parts)


class HistoryRecorder:
    """Collects the operations of a run; ``moment`` counts invocations and returns."""

    def __init__(self) -> None:
        self.moment = 0
        self.operations: list[Operation] = []

    def invoke(
        self,
        process: str,
        *,
        compares: tuple[Compared, ...] = (),
        reads: tuple[Extent, ...] = (),
        writes: tuple[Located, ...] = (),
        updates: tuple[Update, ...] = (),
    ) -> int:
        """Note an invocation; returns the operation's number.  Its outcome is unknown so far."""
        number = len(self.operations)
        self.moment += 1
        self.operations.append(
            Operation(
                number,
                process,
                self.moment,
                None,
                Outcome.UNKNOWN,
                compares,
                reads,
                writes,
                updates=updates,
            )
        )
        return number

    def complete(
        self,
        number: int,
        outcome: Outcome,
        *,
        values: tuple[bytes, ...] = (),
        failed: tuple[Found, ...] = (),
        answers: tuple[int, ...] = (),
        full: tuple[int, ...] = (),
    ) -> None:
        """Note what the client of operation ``number`` was told."""
        operation = self.operations[number]
        assert operation.returned_at is None, f"{operation} returned twice"
        self.moment += 1
        self.operations[number] = replace(
            operation,
            returned_at=self.moment,
            outcome=outcome,
            values=values,
            failed=failed,
            answers=answers,
            full=full,
        )

    def resolve(self, number: int) -> None:
        """The client asked later, and was told that operation ``number`` committed.

        What it read is not known, so that its read items say nothing; nor is what its updates met.
        """
        operation = self.operations[number]
        assert operation.returned_at is None, f"{operation} returned twice"
        self.moment += 1
        self.operations[number] = replace(
            operation, returned_at=self.moment, outcome=Outcome.COMMITTED, reads=()
        )


def _compared(item: Compared) -> str:
    if isinstance(item, Located):
        return f"compare {_place(*item)}"
    mask = f" masked {item.mask.hex()}" if item.mask else ""
    place = f"{item.node}:{item.address}"
    return f"check {place}{mask} {item.relation.name} {item.data.hex()}"


def _updated(item: Update, answer: int | str) -> str:
    place = f"{item.node}:{item.address}"
    if isinstance(item, Added):
        return f"add {place}({item.width})+={item.delta} was {answer}"
    return f"append {place}[{item.slots}]<<{item.data.hex()} at {answer}"


def _place(node: int, address: int, data: bytes | None) -> str:
    if data is None:
        return f"{node}:{address}=?"
    more = f"...({len(data)} bytes)" if len(data) > BYTES_SHOWN_MAX else ""
    return f"{node}:{address}={data[:BYTES_SHOWN_MAX].hex()}{more}"
