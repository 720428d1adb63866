"""The specification of a cluster: what any execution must look like from outside.

``ModelCluster`` executes each minitransaction in one step on plain byte arrays, so that there is
nothing in it to go wrong.  It has the public surface of ``sinfonia.Cluster``; libraries that stand
on Sinfonia run their unit tests on it, and the real cluster is compared with it.
"""

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import anyio.lowlevel

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.api import ClientStatistics, MemoryNodeInfo
from sinfonia.errors import OutOfRange
from sinfonia.minitransaction import FailedCompare, Minitransaction, Result


class ModelCluster:
    """An in-process cluster of byte arrays.

    ``before_execute``, if set, is called with each minitransaction just before it is executed:
    tests use it to count, to interleave a rival, or to raise.
    """

    def __init__(self, *, memory_nodes: int = 1, capacity: int = 64 * 1024 * 1024) -> None:
        self.memory = {MemoryNodeId(i): bytearray(capacity) for i in range(memory_nodes)}
        self.statistics = ClientStatistics()
        self.before_execute: Callable[[Minitransaction[Any]], None] | None = None

    @property
    def nodes(self) -> Mapping[MemoryNodeId, MemoryNodeInfo]:
        return {
            node: MemoryNodeInfo(node=node, endpoint="", capacity=len(memory), mode="RAM")
            for node, memory in self.memory.items()
        }

    def minitransaction(self, *, reads_on_failure: bool = False) -> "Minitransaction[Any]":
        return Minitransaction(self, reads_on_failure)

    async def execute(
        self, minitransaction: Minitransaction[Any], *, timeout: float | None = None
    ) -> Result:
        # A checkpoint before the atomic step: rivals interleave here as they do on a network.
        await anyio.lowlevel.checkpoint()
        if self.before_execute is not None:
            self.before_execute(minitransaction)
        self._check_ranges(minitransaction)
        self.statistics.executed += 1
        return apply_minitransaction(self.memory, minitransaction)

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

    def _check_ranges(self, minitransaction: Minitransaction[Any]) -> None:
        for node, items in minitransaction.items.items():
            if node not in self.memory:
                raise OutOfRange(f"there is no memory node {node}")
            capacity = len(self.memory[node])
            ends = [item.address + len(item.expected) for item in items.compares]
            ends += [item.address + item.length for item in items.reads]
            ends += [item.address + len(item.data) for item in items.writes]
            if max(ends, default=0) > capacity:
                raise OutOfRange(f"memory node {node} has {capacity} bytes, not {max(ends)}")


def apply_minitransaction(
    memory: Mapping[MemoryNodeId, bytearray], minitransaction: Minitransaction[Any]
) -> Result:
    """Execute ``minitransaction`` on ``memory`` in one step, as section 3.3 defines it."""
    failed = []
    for index, (node, position) in enumerate(minitransaction.compare_places):
        item = minitransaction.items[node].compares[position]
        found = bytes(memory[node][item.address : item.address + len(item.expected)])
        if found != item.expected:
            failed.append(FailedCompare(index, node, item.address, item.expected, found))
    reads: list[bytes] = []
    if not failed or minitransaction.reads_on_failure:
        for node, position in minitransaction.read_places:
            read = minitransaction.items[node].reads[position]
            reads.append(bytes(memory[node][read.address : read.address + read.length]))
    if failed:
        return Result(committed=False, reads=reads, failed_compares=failed)
    for node, items in minitransaction.items.items():
        for write in items.writes:
            memory[node][write.address : write.address + len(write.data)] = write.data
    return Result(committed=True, reads=reads)
