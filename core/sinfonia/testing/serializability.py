"""A history is strictly serializable if one order of its minitransactions explains every reply.

The order must be one in which each minitransaction takes effect at a single moment between its
invocation and its return.  A minitransaction whose outcome is unknown may have its moment at any
time after its invocation, or none.

A failed one changed nothing, and what its compare items found must have been there.  It promises
that for each memory node by itself and no more: a memory node that votes BAD_CMP keeps no locks,
so what two of them found may never have been there together.

``check`` decides this by search (serializability_search.py); memory is zeros at the start.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from sinfonia.addresses import MemoryNodeId
from sinfonia.testing.history import Located, Operation, Outcome
from sinfonia.testing.serializability_search import INFINITY, Search, Step

# A history of 150 operations takes some hundred choices when values are unique, and some thousand
# when many outcomes are unknown; a search of a million steps takes seconds.
STEPS_MAX = 1_000_000

# An explanation asks a hundred times; what cannot be decided so quickly is left in it.
EXPLANATION_STEPS_MAX = 1000


class Serializability(Enum):
    """What a check found; UNKNOWN: the search was given up."""

    OK = "strictly serializable"
    ILLEGAL = "not strictly serializable"
    UNKNOWN = "undecided"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a check: ``order`` is a witness (operation numbers), or ``explanation`` says
    which few operations contradict each other."""

    result: Serializability
    order: tuple[int, ...] = ()
    explanation: str = ""


def check(history: Sequence[Operation], *, steps_max: int = STEPS_MAX) -> Verdict:
    """Whether ``history`` is strictly serializable."""
    claim = _false_claim(history)
    if claim:
        return Verdict(Serializability.ILLEGAL, explanation=claim)
    search = _Encoder(history).search(steps_max)
    found = search.run()
    if found is None:
        return Verdict(Serializability.UNKNOWN, explanation=f"undecided after {steps_max} steps")
    if found:
        order = tuple(dict.fromkeys(search.steps[placed.step].number for placed in search.trail))
        return Verdict(Serializability.OK, order)
    return Verdict(Serializability.ILLEGAL, explanation=_explain(history))


class _Encoder:
    """Turns operations into the steps of a search: cells and tokens instead of bytes."""

    def __init__(self, history: Sequence[Operation]) -> None:
        self._history = history
        self._tokens: dict[tuple[int, bytes], int] = {}
        borders: dict[MemoryNodeId, set[int]] = {}
        for operation in history:
            for node, address, length in _extents(operation):
                borders.setdefault(node, set()).update((address, address + length))
        self._cells: dict[tuple[MemoryNodeId, int], tuple[int, int]] = {}
        for node, points in borders.items():
            ordered = sorted(points)
            for start, end in pairwise(ordered):
                self._cells[node, start] = (len(self._cells), end)

    def search(self, steps_max: int) -> Search:
        steps = [step for operation in self._history for step in self._steps(operation)]
        steps.sort(key=lambda step: (not step.definite, step.invoked_at))
        state = [
            self._token(cell, bytes(end - start)) for (_, start), (cell, end) in self._cells.items()
        ]
        wanted = {pair for step in steps for pair in step.needs}
        # What nobody can have seen needs no place in the order.
        steps = [step for step in steps if step.definite or not wanted.isdisjoint(step.sets)]
        definite = sum(step.definite for step in steps)
        return Search(steps, definite, state, len(self._tokens), steps_max)

    def _steps(self, operation: Operation) -> Iterable[Step]:
        if operation.outcome is Outcome.FAILED:
            return self._failed_steps(operation)
        if operation.outcome is Outcome.NOT_EXECUTED:
            return ()
        needs = [pair for item in operation.compares for pair in self._pairs(*item)]
        sets = dict(pair for item in operation.writes for pair in self._pairs(*item))
        returned_at = INFINITY
        if operation.outcome is Outcome.COMMITTED:
            assert operation.returned_at is not None
            returned_at = operation.returned_at
            for extent, value in zip(operation.reads, operation.values, strict=True):
                needs += self._pairs(extent.node, extent.address, value)
        return (self._step(operation, returned_at, needs, sets),)

    def _failed_steps(self, operation: Operation) -> Iterable[Step]:
        assert operation.returned_at is not None
        needs: dict[MemoryNodeId, list[tuple[int, int]]] = {}
        for index, data in operation.failed:
            node, address, _ = operation.compares[index]
            needs.setdefault(node, []).extend(self._pairs(node, address, data))
        if operation.values:
            for (node, address, _), data in zip(operation.reads, operation.values, strict=True):
                needs.setdefault(node, []).extend(self._pairs(node, address, data))
        return [self._step(operation, operation.returned_at, each, {}) for each in needs.values()]

    @staticmethod
    def _step(
        operation: Operation,
        returned_at: int,
        needs: list[tuple[int, int]],
        sets: dict[int, int],
    ) -> Step:
        return Step(
            operation.number,
            operation.invoked_at,
            returned_at,
            tuple(dict.fromkeys(needs)),
            tuple(sets.items()),
        )

    def _pairs(self, node: MemoryNodeId, address: int, data: bytes) -> list[tuple[int, int]]:
        pairs = []
        start = address
        while start < address + len(data):
            cell, end = self._cells[node, start]
            pairs.append((cell, self._token(cell, data[start - address : end - address])))
            start = end
        return pairs

    def _token(self, cell: int, data: bytes) -> int:
        return self._tokens.setdefault((cell, data), len(self._tokens))


def _extents(operation: Operation) -> Iterable[tuple[MemoryNodeId, int, int]]:
    for node, address, data in operation.compares + operation.writes:
        yield node, address, len(data)
    yield from operation.reads


def _false_claim(history: Sequence[Operation]) -> str:
    """A reply that no state of memory could explain."""
    for operation in history:
        if operation.outcome is Outcome.FAILED:
            if not operation.failed:
                return f"failed, but names no compare item: {operation}"
            if any(operation.compares[index].data == data for index, data in operation.failed):
                return f"failed, but found what it expected: {operation}"
        if operation.values or operation.outcome is Outcome.COMMITTED:
            lengths = [len(value) for value in operation.values]
            if lengths != [extent.length for extent in operation.reads]:
                return f"read too few or too many bytes: {operation}"
    return ""


def _explain(history: Sequence[Operation]) -> str:
    """The few replies that contradict each other.

    To forget a reply only ever allows more orders.  So when no further reply can be forgotten
    without making the history legal, those that are left contradict each other by themselves.
    """
    core = list(history)
    for index in sorted(range(len(core)), key=lambda each: core[each].invoked_at):
        if core[index].outcome not in {Outcome.COMMITTED, Outcome.FAILED}:
            continue
        attempt = core.copy()
        attempt[index] = core[index].weakened()
        if _Encoder(attempt).search(EXPLANATION_STEPS_MAX).run() is False:
            core = attempt
    kept = [each for each in core if each.outcome in {Outcome.COMMITTED, Outcome.FAILED}]
    numbers = {each.number for each in kept}
    writers = [
        each for each in history if each.number not in numbers and _visible(each.writes, kept)
    ]
    lines = ["no order explains these replies:"]
    lines += [f"  {each}" for each in kept]
    if writers:
        lines.append("with what else may have written the bytes they saw:")
        lines += [f"  {each}" for each in writers]
    return "\n".join(lines)


def _visible(writes: Iterable[Located], observers: Iterable[Operation]) -> bool:
    """Whether one of ``observers`` looks at a place that ``writes`` touch."""
    places = {extent for each in observers for extent in _extents(each)}
    return any(
        node == other and address < start + length and start < address + len(data)
        for node, address, data in writes
        for other, start, length in places
    )
