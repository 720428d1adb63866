"""A block is used from the minitransaction that links it, and not before.

A session takes inodes and blocks from a memory node in bulk: one minitransaction turns the bytes of
free ones in the map from FREE to *reserved by this session*.  The minitransaction that links a
block from an inode, or an inode from a directory, also turns its byte from reserved to USED.  So
the map alone tells used from reserved at every moment, and what a killed mount held is found by its
marks, without a search from the root.

Only sessions that reserve the same free bytes at the same time disturb each other; each starts to
search at a place chosen at random.
"""

import random
import re
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Final

from sinfonia.addresses import Address, MemoryNodeId
from sinfonia.client.api import ClusterApi
from sinfoniafs.errors import NoSpace, SessionLost
from sinfoniafs.format.layout import FREE, Layout, index_of, memory_node_of, number, runs
from sinfoniafs.key_locks import KeyLocks
from sinfoniafs.session import Session

# How much of a map is read at a time in search of free bytes: 1 GiB worth of blocks.
SCAN_SIZE: Final = 64 * 1024
# A session reserves few numbers at first, so that the mounts of a small volume do not hold most of
# it in reserve, and twice as many each time, up to 16 MiB of blocks or 1024 new files.
RESERVE_FIRST: Final = 64
RESERVE_MAX: Final = 1024
# ... but never more than this part of a memory node at once, unless one operation needs more.
RESERVE_PART: Final = 32
# Compare and write one item for each run, well below the limit of a minitransaction.
RUNS_MAX: Final = 1024

_FREE_RUN: Final = re.compile(b"\\x00+")


class Kind(Enum):
    """What can be allocated."""

    INODE = "inodes"
    BLOCK = "blocks"


def map_byte(layout: Layout, kind: Kind, number: int) -> Address:
    """Where the byte of an inode or block is in its map."""
    return layout.inode_map(number) if kind is Kind.INODE else layout.block_map(number)


class Pool:
    """What this session holds in reserve of one kind on one memory node."""

    def __init__(self, cursor: int) -> None:
        self.held: list[tuple[int, int]] = []  # runs: (first number, count)
        self.available = 0
        self.cursor = cursor
        self.reserve_next = RESERVE_FIRST

    def add(self, first: int, count: int) -> None:
        self.held.append((first, count))
        self.available += count

    def take(self, count: int) -> list[int]:
        """Up to ``count`` numbers, as contiguous as they come."""
        taken: list[int] = []
        while self.held and len(taken) < count:
            first, held = self.held.pop()
            part = min(held, count - len(taken))
            taken.extend(range(first, first + part))
            if part < held:
                self.held.append((first + part, held - part))
        self.available -= len(taken)
        return taken


class Allocator:
    """The reserve of one session over all memory nodes."""

    def __init__(
        self, cluster: ClusterApi, layout: Layout, session: Session, rng: random.Random
    ) -> None:
        self._cluster = cluster
        self._layout = layout
        self._session = session
        self._key_locks = KeyLocks()
        self._ring = list(layout.nodes)
        self._unknown: dict[Kind, list[int]] = {kind: [] for kind in Kind}
        self._pools = {
            (kind, memory_node): Pool(rng.randrange(self._map_size(kind, memory_node)))
            for kind in Kind
            for memory_node in layout.nodes
        }

    async def take(self, kind: Kind, near: MemoryNodeId, count: int) -> list[int]:
        """``count`` numbers out of the reserve, of memory node ``near`` as far as it has room.

        The caller links, gives back or abandons each of them.  Raises NoSpace, taking nothing.
        """
        pool = self._pools[kind, near]
        if pool.available >= count:
            return pool.take(count)
        taken: list[int] = []
        try:
            await self._gather(kind, near, count, taken)
        except BaseException:
            self.give_back(kind, taken)
            raise
        return taken

    def give_back(self, kind: Kind, numbers: Iterable[int]) -> None:
        """Return to the reserve what was taken and not linked."""
        for first, count in runs(numbers):
            self._pools[kind, memory_node_of(first)].add(first, count)

    def abandon(self, kind: Kind, numbers: Iterable[int]) -> None:
        """Keep numbers out of use until ``leave``: it is not known whether they were linked."""
        self._unknown[kind].extend(numbers)

    def in_reserve(self, kind: Kind) -> int:
        """How many this session holds, and could still link."""
        return sum(pool.available for (each, _), pool in self._pools.items() if each is kind)

    async def leave(self) -> None:
        """Free all that is in reserve."""
        for (kind, memory_node), pool in self._pools.items():
            held = list(runs(pool.take(pool.available)))
            for start in range(0, len(held), RUNS_MAX):
                chosen = held[start : start + RUNS_MAX]
                await self._change(kind, memory_node, chosen, old=self._session.reserved, new=FREE)
        for kind, numbers in self._unknown.items():
            for each in numbers:
                await self._change(
                    kind,
                    memory_node_of(each),
                    [(each, 1)],
                    old=self._session.reserved,
                    new=FREE,
                )

    async def _gather(self, kind: Kind, near: MemoryNodeId, count: int, taken: list[int]) -> None:
        """Take from all memory nodes in turn, beginning with ``near``, as many as needed."""
        start = self._ring.index(near)
        for memory_node in self._ring[start:] + self._ring[:start]:
            pool = self._pools[kind, memory_node]
            while missing := count - len(taken):
                if not pool.available and not await self._reserve(kind, memory_node, missing):
                    break
                taken += pool.take(missing)
            if len(taken) == count:
                return
        raise NoSpace(f"no free {kind.value} left on any memory node")

    async def _reserve(self, kind: Kind, memory_node: MemoryNodeId, needed: int) -> bool:
        """Fill a pool; False if the memory node has nothing free."""
        pool = self._pools[kind, memory_node]
        async with self._key_locks.hold((kind, memory_node)):
            if pool.available:
                return True
            size = self._map_size(kind, memory_node)
            wanted = max(needed, min(pool.reserve_next, size // RESERVE_PART))
            for start, length in _windows(size, pool.cursor):
                address = map_byte(self._layout, kind, number(memory_node, start)).offset
                image = await self._cluster.read(memory_node, address, length)
                while found := _choose(image, wanted):
                    chosen = [(number(memory_node, start + first), count) for first, count in found]
                    if await self._mark(kind, memory_node, chosen):
                        self._fill(pool, chosen)
                        return True
                    image = await self._cluster.read(memory_node, address, length)
        return False

    async def _mark(
        self, kind: Kind, memory_node: MemoryNodeId, chosen: list[tuple[int, int]]
    ) -> bool:
        """Reserve free numbers; False if another session took one of them first."""
        try:
            return await self._change(
                kind, memory_node, chosen, old=FREE, new=self._session.reserved
            )
        except BaseException:
            for first, count in chosen:
                self.abandon(kind, range(first, first + count))
            raise

    def _fill(self, pool: Pool, chosen: list[tuple[int, int]]) -> None:
        for first, count in reversed(chosen):  # `Pool.take` begins with what came last
            pool.add(first, count)
        pool.cursor = index_of(chosen[-1][0])
        pool.reserve_next = min(2 * pool.reserve_next, RESERVE_MAX)

    async def _change(
        self,
        kind: Kind,
        memory_node: MemoryNodeId,
        chosen: list[tuple[int, int]],
        *,
        old: bytes,
        new: bytes,
    ) -> bool:
        """Turn bytes of a map from ``old`` to ``new``; False if they were not all ``old``.

        Raises SessionLost if this session was taken for dead.
        """
        change = self._cluster.minitransaction()
        fence = self._session.fence(change, memory_node)
        for first, count in chosen:
            _, address = map_byte(self._layout, kind, first)
            change.compare(memory_node, address, old * count)
            change.write(memory_node, address, new * count)
        result = await self._cluster.execute(change)
        if any(failed.index == fence for failed in result.failed_compares):
            raise SessionLost("this mount was taken for dead")
        return result.committed

    def _map_size(self, kind: Kind, memory_node: MemoryNodeId) -> int:
        layout = self._layout.nodes[memory_node]
        return layout.inodes if kind is Kind.INODE else layout.blocks


def _windows(size: int, cursor: int) -> Iterator[tuple[int, int]]:
    """(start, length) of the parts of a map in which to search, from ``cursor`` round to it."""
    for begin, end in ((cursor, size), (0, cursor)):
        for start in range(begin, end, SCAN_SIZE):
            yield start, min(SCAN_SIZE, end - start)


def _choose(image: bytes, wanted: int) -> list[tuple[int, int]]:
    """Runs of free bytes, (first, count): as many as wanted, or as there are."""
    missing = wanted
    chosen: list[tuple[int, int]] = []
    for run in _FREE_RUN.finditer(image):
        if not missing or len(chosen) == RUNS_MAX:
            break
        count = min(missing, run.end() - run.start())
        chosen.append((run.start(), count))
        missing -= count
    return chosen
