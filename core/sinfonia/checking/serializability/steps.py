"""A reply says what a minitransaction found; where it does not, what was there decides.

The encoder turns operations into the steps of a search: cells and tokens instead of bytes.  What a
client was told makes a step that needs certain tokens and sets others, whatever else is there: an
add that met 7 needs 7.  The rest is left to a *trial*, which is made wherever the search puts the
step: whether conditions hold there, whether a ring has room, and what becomes of the bytes under
an add or append whose answer is not known.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from sinfonia.addresses import MemoryNodeId
from sinfonia.checking.history import Added, Conditioned, Located, Operation, Outcome
from sinfonia.checking.serializability.relevance import relevant
from sinfonia.checking.serializability.search import INFINITY, Pairs, Search, Step
from sinfonia.checking.serializability.trials import Trial, View, changed, looked_at, met_and_left


def extents(operation: Operation) -> Iterator[tuple[MemoryNodeId, int, int]]:
    """All places that ``operation`` may look at or change."""
    for compared in operation.compares:
        yield compared.node, compared.address, len(compared.data)
    for node, address, data in operation.writes:
        yield node, address, len(data)
    yield from operation.reads
    for update in operation.updates:
        yield from looked_at(update)
        yield from changed(update)


def may_change(operation: Operation) -> Iterator[tuple[MemoryNodeId, int, int]]:
    """The places that ``operation`` may change."""
    for node, address, data in operation.writes:
        yield node, address, len(data)
    for update in operation.updates:
        yield from changed(update)


class Encoder:
    """Turns operations into steps: memory is cut into cells, and (cell, bytes) pairs have
    numbers."""

    def __init__(self, history: Sequence[Operation]) -> None:
        self._history = history
        self._tokens: dict[tuple[int, bytes], int] = {}
        self._bytes: list[bytes] = []
        borders: dict[MemoryNodeId, set[int]] = {}
        for operation in history:
            for node, address, length in extents(operation):
                borders.setdefault(node, set()).update((address, address + length))
        self._cells: dict[tuple[MemoryNodeId, int], tuple[int, int]] = {}
        for node, points in borders.items():
            ordered = sorted(points)
            for start, end in pairwise(ordered):
                self._cells[node, start] = (len(self._cells), end)

    def search(self, steps_max: int) -> Search:
        """The search for an order of the whole history."""
        steps = [step for operation in self._history for step in self._steps(operation)]
        steps.sort(key=lambda step: (not step.definite, step.invoked_at))
        state = [
            self.token(cell, bytes(end - start)) for (_, start), (cell, end) in self._cells.items()
        ]
        steps = relevant(steps, state, self.bytes_of)
        definite = sum(step.definite for step in steps)
        return Search(steps, definite, state, len(self._tokens), steps_max)

    def token(self, cell: int, data: bytes) -> int:
        """The number of ``data`` in ``cell``."""
        token = self._tokens.setdefault((cell, data), len(self._tokens))
        if token == len(self._bytes):
            self._bytes.append(data)
        return token

    def bytes_of(self, token: int) -> bytes:
        """What ``token`` stands for."""
        return self._bytes[token]

    def pieces(self, node: MemoryNodeId, address: int, data: bytes) -> list[tuple[int, bytes]]:
        """``data`` at that place, cut into cells."""
        return [
            (cell, data[start - address : end - address])
            for cell, start, end in self._span(node, address, len(data))
        ]

    def cells(self, node: MemoryNodeId, address: int, length: int) -> list[int]:
        """The cells of that extent, in order."""
        return [cell for cell, _, _ in self._span(node, address, length)]

    def _span(
        self, node: MemoryNodeId, address: int, length: int
    ) -> Iterator[tuple[int, int, int]]:
        start = address
        while start < address + length:
            cell, end = self._cells[node, start]
            yield cell, start, end
            start = end

    # --- steps ---------------------------------------------------------------------------------

    def _steps(self, operation: Operation) -> Iterable[Step]:
        if operation.outcome is Outcome.FAILED:
            return self._failed_steps(operation)
        if operation.outcome is Outcome.NOT_EXECUTED:
            return ()
        needs = Needs(self)
        for item in operation.compares:
            if isinstance(item, Located):
                needs.add(*item)
        returned_at = INFINITY
        if operation.outcome is Outcome.COMMITTED:
            assert operation.returned_at is not None
            returned_at = operation.returned_at
            for extent, value in zip(operation.reads, operation.values, strict=True):
                needs.add(extent.node, extent.address, value)
        conditions = [item for item in operation.compares if isinstance(item, Conditioned)]
        trial = Trial(
            self, conditions, operation.writes, operation.updates, operation.answers, frozenset()
        )
        if operation.updates and operation.answers is None:
            return (self._open_step(operation, returned_at, needs, trial),)
        sets = self._told(operation, needs)
        step = Step(operation.number, operation.invoked_at, returned_at, needs.pairs, sets)
        return (trial.on(step) if trial.needed else step,)

    def _open_step(
        self, operation: Operation, returned_at: int, needs: "Needs", trial: "Trial"
    ) -> Step:
        """It is not known what its updates met."""
        written = View(self, {})
        for item in operation.writes:
            written.write(*item)
        touches: dict[int, None] = {}
        adds: list[tuple[tuple[int, ...], int]] = []
        for update in operation.updates:
            cells = [cell for place in changed(update) for cell in self.cells(*place)]
            if isinstance(update, Added):
                if written.written.keys() >= set(cells):
                    written.update(update)  # what it meets is what was just written
                    continue
                adds.append((tuple(cells), update.delta))
            touches |= dict.fromkeys(cells)
        sets = tuple(
            (cell, self.token(cell, data))
            for cell, data in written.written.items()
            if cell not in touches
        )
        step = Step(operation.number, operation.invoked_at, returned_at, needs.pairs, sets)
        step = replace(trial.on(step), touches=tuple(touches))
        if not written.written.keys().isdisjoint(touches) or _overlap(adds):
            return replace(step, inspects=step.looks)  # too tangled to think of it as a sum
        return replace(step, adds=tuple(adds))

    def _told(self, operation: Operation, needs: "Needs") -> Pairs:
        """What is set where the updates gave these answers, which also say what was there."""
        left: dict[int, bytes] = {}
        for item in operation.writes:
            left.update(self.pieces(*item))
        for update, answer in zip(operation.updates, operation.answers or (), strict=False):
            met, leaves = met_and_left(update, answer)
            for place in met:
                needs.add(*place, hidden=left)
            for place in leaves:
                left.update(self.pieces(*place))
        return tuple((cell, self.token(cell, data)) for cell, data in left.items())

    def _failed_steps(self, operation: Operation) -> Iterable[Step]:
        """A memory node that names what did not hold has looked at all of them."""
        assert operation.returned_at is not None
        needs: dict[MemoryNodeId, Needs] = {}
        found = dict(operation.failed)
        refusing = {operation.compares[index].node for index in found}
        too_full = {operation.updates[index].node for index in operation.full}
        conditions: list[Conditioned] = []
        for index, item in enumerate(operation.compares):
            if item.node not in refusing | too_full:
                continue
            here = needs.setdefault(item.node, Needs(self))
            if index in found:
                here.add(item.node, item.address, found[index])
            elif isinstance(item, Located):
                here.add(*item)
            else:
                conditions.append(item)
        if operation.values:
            for extent, data in zip(operation.reads, operation.values, strict=True):
                here = needs.setdefault(extent.node, Needs(self))
                here.add(extent.node, extent.address, data)
        for node in too_full:
            needs.setdefault(node, Needs(self))
        for node, here in needs.items():
            step = Step(
                operation.number, operation.invoked_at, operation.returned_at, here.pairs, ()
            )
            looked = [each for each in conditions if each.node == node]
            trial = Trial(self, looked, (), (), None, frozenset())
            if node in too_full:
                indices = [i for i, each in enumerate(operation.updates) if each.node == node]
                trial = replace(
                    trial,
                    writes=[each for each in operation.writes if each.node == node],
                    updates=[operation.updates[i] for i in indices],
                    full=frozenset(at for at, i in enumerate(indices) if i in operation.full),
                )
            yield trial.on(step) if trial.needed else step


class Needs:
    """The tokens that a step needs."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._pairs: dict[tuple[int, int], None] = {}

    def add(
        self,
        node: MemoryNodeId,
        address: int,
        data: bytes,
        hidden: dict[int, bytes] | None = None,
    ) -> None:
        """``data`` must be there; not in the cells that its own writes have ``hidden`` by then."""
        for cell, piece in self._encoder.pieces(node, address, data):
            if hidden is None or cell not in hidden:
                self._pairs[cell, self._encoder.token(cell, piece)] = None

    @property
    def pairs(self) -> Pairs:
        return tuple(self._pairs)


def _overlap(adds: Sequence[tuple[tuple[int, ...], int]]) -> bool:
    """Whether two words to which is added have a cell in common and are not the same."""
    words = {word for word, _ in adds}
    cells = [cell for word in words for cell in word]
    return len(cells) != len(set(cells))
