"""The specification of a cluster: what any execution must look like from outside.

``ModelCluster`` executes each minitransaction in one step on plain byte arrays, so that there is
nothing in it to go wrong.  It has the public surface of ``sinfonia.Cluster``; libraries that stand
on Sinfonia run their unit tests on it, and the real cluster is compared with it.
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio.lowlevel
import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.api import ClientStatistics, MemoryNodeInfo
from sinfonia.client.load import NodeLoad
from sinfonia.client.running import run
from sinfonia.client.steps import Steps
from sinfonia.client.watch import Watch
from sinfonia.errors import OutcomeUnknown, OutOfRange
from sinfonia.minitransaction import (
    AddItem,
    FailedCompare,
    Minitransaction,
    NodeItems,
    ReadItem,
    Relation,
    Result,
    UpdateItem,
)
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.messages import WatchRange
from sinfonia.protocol.watching import Watched
from sinfonia.rings import HEADER_BYTES, SLOT_HEADER_BYTES, RingHeader, encode_slot
from sinfonia.testing.model_load import ModelLoad

T = TypeVar("T")


class ModelCluster:
    """An in-process cluster of byte arrays.

    ``before_execute``, if set, is called with each minitransaction just before it is executed:
    tests use it to count, to interleave a rival, or to raise.  ``after_execute`` is called with it
    and its result: to raise there is to execute it and leave its client in the dark, and where
    OutcomeUnknown is raised with a tid, ``outcome`` settles it.

    What a minitransaction over several memory nodes reads on failure is not of one moment, as on a
    real cluster: memory nodes at which a compare failed show what is there when it is executed, and
    the others what was there when the call began, if their compares held then as well.  So whatever
    a rival has done meanwhile is seen at the former only.
    """

    def __init__(self, *, memory_nodes: int = 1, capacity: int = 64 * 1024 * 1024) -> None:
        self.memory = {MemoryNodeId(i): bytearray(capacity) for i in range(memory_nodes)}
        self.statistics = ClientStatistics()
        self.watches: dict[int, Watched] = {}
        self._outcomes: dict[Tid, bool] = {}
        self._watch_count = 0
        self._load = ModelLoad(self.memory)
        self.before_execute: Callable[[Minitransaction[Any]], None] | None = None
        self.after_execute: Callable[[Minitransaction[Any], Result], None] | None = None

    @property
    def nodes(self) -> Mapping[MemoryNodeId, MemoryNodeInfo]:
        return {
            node: MemoryNodeInfo(node=node, endpoint="", capacity=len(memory), mode="RAM")
            for node, memory in self.memory.items()
        }

    def minitransaction(
        self, *, reads_on_failure: bool = False, lock_wait: float = 0.0, tag: str = ""
    ) -> "Minitransaction[Any]":
        return Minitransaction(self, reads_on_failure, lock_wait=lock_wait, tag=tag)

    async def execute(
        self, minitransaction: Minitransaction[Any], *, timeout: float | None = None
    ) -> Result:
        early = self._early_reads(minitransaction)
        # A checkpoint before the atomic step: rivals interleave here as they do on a network.
        await anyio.lowlevel.checkpoint()
        if self.before_execute is not None:
            with self._settled_as(committed=False):
                self.before_execute(minitransaction)
        self._check_ranges(minitransaction)
        self.statistics.executed += 1
        result = apply_minitransaction(self.memory, minitransaction)
        if early and not result.committed:
            result = _with_early_reads(minitransaction, result, early)
        written = list(_written(self.memory, minitransaction, result)) if result.committed else []
        self._load.count(minitransaction, result, written)
        if self.watches:
            for node, address, length in written:
                self.touch(node, address, length)
        if self.after_execute is not None:
            with self._settled_as(committed=result.committed):
                self.after_execute(minitransaction, result)
        return result

    @contextmanager
    def _settled_as(self, *, committed: bool) -> Iterator[None]:
        try:
            yield
        except OutcomeUnknown as error:
            if error.tid is not None:
                self._outcomes[error.tid] = committed
            raise

    async def outcome(self, tid: Tid, *, timeout: float | None = None) -> bool:
        await anyio.lowlevel.checkpoint()
        if tid not in self._outcomes:
            raise OutcomeUnknown(f"the outcome of {tid} cannot be found out", tid)
        return self._outcomes[tid]

    async def execute_many(
        self,
        minitransactions: Iterable[Minitransaction[Any]],
        *,
        timeout: float | None = None,
        in_flight: int = 1024,
    ) -> list[Result]:
        return [await self.execute(each, timeout=timeout) for each in minitransactions]

    async def read(
        self, node: int, address: int, length: int, *, timeout: float | None = None
    ) -> bytes:
        minitransaction = self.minitransaction()
        minitransaction.read(node, address, length)
        return (await self.execute(minitransaction)).reads[0]

    async def write(
        self, node: int, address: int, data: bytes, *, timeout: float | None = None
    ) -> None:
        minitransaction = self.minitransaction()
        minitransaction.write(node, address, data)
        await self.execute(minitransaction)

    async def load(
        self, node: int | None = None, *, timeout: float | None = None
    ) -> Mapping[MemoryNodeId, NodeLoad]:
        await anyio.lowlevel.checkpoint()
        return self._load.load(node)

    def watch(self, node: int, address: int, length: int) -> Watch:
        return Watch(lambda waiter: self._begin_watch(node, address, length, waiter), self._unwatch)

    def touch(self, node: int, address: int, length: int) -> None:
        """Give a hint to all watches of bytes in this range; execution does it, tests may."""
        for watched in self.watches.values():
            start, end = watched.at.address, watched.at.address + watched.at.length
            if watched.node == node and start < address + length and address < end:
                self._give_hint(watched)

    def _begin_watch(self, node: int, address: int, length: int, waiter: Watch) -> Watched:
        key = MemoryNodeId(node)
        if length <= 0 or address < 0 or address + length > len(self.memory.get(key, b"")):
            raise OutOfRange(f"memory node {node} has no {length} bytes at {address} to watch")
        self._watch_count += 1
        watched = Watched(key, WatchRange(self._watch_count, address, length))
        watched.waiter = waiter
        self.watches[self._watch_count] = watched
        self._give_hint(watched)
        return watched

    def _unwatch(self, watched: Watched) -> None:
        self.watches.pop(watched.at.number, None)

    def _give_hint(self, watched: Watched) -> None:
        watched.note((0, watched.version))
        watched.waiter.wake()

    async def run(self, steps: Steps[T], *, timeout: float | None = None) -> T:
        return await run(self, steps, timeout=timeout)

    async def aclose(self) -> None:
        return None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _early_reads(
        self, minitransaction: Minitransaction[Any]
    ) -> dict[MemoryNodeId, list[bytes]]:
        """What there is to read now where all compares hold, if that may be shown on failure."""
        if not minitransaction.reads_on_failure or len(minitransaction.items) == 1:
            return {}
        holds = {node for node in minitransaction.items if node in self.memory}
        for node, position in minitransaction.compare_places:
            if node in holds and _mismatch(
                self.memory[node], minitransaction.items[node], position
            ):
                holds.remove(node)
        return {
            node: [_read(self.memory[node], read) for read in minitransaction.items[node].reads]
            for node in holds
        }

    def _check_ranges(self, minitransaction: Minitransaction[Any]) -> None:
        for node, items in minitransaction.items.items():
            if node not in self.memory:
                raise OutOfRange(f"there is no memory node {node}")
            capacity = len(self.memory[node])
            ends = [item.address + len(item.expected) for item in items.compares]
            ends += [item.address + item.length for item in items.reads]
            ends += [item.address + len(item.data) for item in items.writes]
            ends.append(items.end)
            if max(ends, default=0) > capacity:
                raise OutOfRange(f"memory node {node} has {capacity} bytes, not {max(ends)}")


def apply_minitransaction(
    memory: Mapping[MemoryNodeId, bytearray], minitransaction: Minitransaction[Any]
) -> Result:
    """Execute ``minitransaction`` on ``memory`` in one step, as section 3.3 defines it."""
    failed = []
    for index, (node, position) in enumerate(minitransaction.compare_places):
        mismatch = _mismatch(memory[node], minitransaction.items[node], position)
        if mismatch is not None:
            failed.append(FailedCompare(index, node, *mismatch))
    reads: list[bytes] = []
    if not failed or minitransaction.reads_on_failure:
        for node, position in minitransaction.read_places:
            reads.append(_read(memory[node], minitransaction.items[node].reads[position]))
    if failed:
        return Result(committed=False, reads=reads, failed_compares=failed)
    undo: Undo = []
    answers: dict[tuple[MemoryNodeId, int], int | None] = {}
    for node, items in minitransaction.items.items():
        for write in items.writes:
            _put(memory[node], write.address, write.data, undo)
        for position, update in enumerate(items.updates):
            answers[node, position] = _update(memory[node], update, undo)
    positions = [answers[place] for place in minitransaction.append_places]
    full = [index for index, position in enumerate(positions) if position is None]
    if full:
        for content, address, old in reversed(undo):
            content[address : address + len(old)] = old
        if not minitransaction.reads_on_failure:
            reads = []
        return Result(committed=False, reads=reads, full_rings=full)
    return Result(
        committed=True,
        reads=reads,
        added=[answers[place] or 0 for place in minitransaction.add_places],
        positions=[position or 0 for position in positions],
    )


def _read(memory: bytearray, read: ReadItem) -> bytes:
    return bytes(memory[read.address : read.address + read.length])


def _with_early_reads(
    minitransaction: Minitransaction[Any],
    result: Result,
    early: Mapping[MemoryNodeId, list[bytes]],
) -> Result:
    """``result`` of a failure, with what was read ``early`` where nothing failed."""
    failed = {each.node for each in result.failed_compares}
    failed |= {minitransaction.append_places[index][0] for index in result.full_rings}
    reads = [
        late if node in failed or node not in early else early[node][position]
        for (node, position), late in zip(minitransaction.read_places, result.reads, strict=True)
    ]
    return msgspec.structs.replace(result, reads=reads)


def _written(
    memory: Mapping[MemoryNodeId, bytearray], minitransaction: Minitransaction[Any], result: Result
) -> Iterator[tuple[MemoryNodeId, int, int]]:
    """The ranges that a minitransaction has written: node, address and length."""
    for node, items in minitransaction.items.items():
        for write in items.writes:
            yield node, write.address, len(write.data)
    for node, position in minitransaction.add_places:
        add = minitransaction.items[node].updates[position]
        assert isinstance(add, AddItem)
        yield node, add.address, add.width
    for (node, index), position in zip(
        minitransaction.append_places, result.positions, strict=True
    ):
        ring = minitransaction.items[node].updates[index].address
        header = RingHeader.decode(bytes(memory[node][ring : ring + HEADER_BYTES]))
        yield node, ring, HEADER_BYTES
        yield node, ring + header.place(position), header.slot_bytes


Undo = list[tuple[bytearray, int, bytes]]

_RELATIONS = {
    Relation.EQUAL: operator.eq,
    Relation.NOT_EQUAL: operator.ne,
    Relation.LESS: operator.lt,
    Relation.AT_MOST: operator.le,
    Relation.GREATER: operator.gt,
    Relation.AT_LEAST: operator.ge,
}


def _mismatch(
    memory: bytearray, items: NodeItems, position: int
) -> tuple[int, bytes, bytes] | None:
    """Address, expected and found bytes of a compare item or condition that does not hold."""
    if position >= 0:
        item = items.compares[position]
        found = bytes(memory[item.address : item.address + len(item.expected)])
        return None if found == item.expected else (item.address, item.expected, found)
    condition = items.conditions[~position]
    width = len(condition.operand)
    found = bytes(memory[condition.address : condition.address + width])
    mask = int.from_bytes(condition.mask or b"\xff" * width, "little")
    operand = int.from_bytes(condition.operand, "little")
    value = int.from_bytes(found, "little") & mask
    if _RELATIONS[condition.relation](value, operand):
        return None
    return condition.address, condition.operand, found


def _put(memory: bytearray, address: int, data: bytes, undo: Undo) -> None:
    undo.append((memory, address, bytes(memory[address : address + len(data)])))
    memory[address : address + len(data)] = data


def _update(memory: bytearray, update: UpdateItem, undo: Undo) -> int | None:
    """The old integer, or the position in the ring; None if the ring is full."""
    if isinstance(update, AddItem):
        end = update.address + update.width
        old = int.from_bytes(memory[update.address : end], "little")
        new = (old + update.delta) % 256**update.width
        _put(memory, update.address, new.to_bytes(update.width, "little"), undo)
        return old
    ring = RingHeader.decode(bytes(memory[update.address : update.address + HEADER_BYTES]))
    fits = SLOT_HEADER_BYTES + len(update.data) <= ring.slot_bytes
    if not ring.valid or not fits or update.address + ring.byte_count > len(memory):
        raise OutOfRange(f"no ring with slots for {len(update.data)} bytes at {update.address}")
    if ring.full:
        return None
    slot = encode_slot(ring, ring.tail, update.data)
    _put(memory, update.address + ring.place(ring.tail), slot, undo)
    _put(memory, update.address, replace(ring, tail=ring.tail + 1).encode(), undo)
    return ring.tail
