"""Contention, as in section 7.1.4 of the paper (Figure 16), and beyond it.

CLIENTS application nodes keep CALLERS minitransactions under way each, on 4 memory nodes.  Each has
8 items of 8 bytes, 4 at each of two memory nodes ("spread 2"), all chosen at random: the fewer
there are to choose from, the likelier is it that two meet.  Three ways:

- **cas**: 8 compare-and-swaps that always match; only locks can be in the way;
- **optimistic**: 8 increments as the paper had to do them: compare with what this client last saw,
  write one more, and if a compare fails learn what was there and try again;
- **add**: 8 increments by add items.

Each way has counters of its own.  At the end they are summed: what committed is in them, exactly.
"""

import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from math import comb
from statistics import median
from typing import Any

import anyio
import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.api import ClusterApi
from sinfonia.client.cluster import connect
from sinfonia.errors import SinfoniaError
from sinfonia.minitransaction import Minitransaction
from sinfonia.operating.measuring.benchmark import Latencies

MEMORY_NODES = 4
CLIENTS = 4
CALLERS = 16
ITEMS = 8
SPREAD = 2
ROUNDS = 3

# Paper's collision probabilities .002 to .061, by how many items there are to choose from.
ITEM_COUNTS = (32768, 16384, 8192, 4096, 2048, 1024)

WORD = 8
TABLE_BYTES = max(ITEM_COUNTS) // MEMORY_NODES * WORD
WAYS = ("cas", "optimistic", "add")
CAPACITY = len(WAYS) * TABLE_BYTES

SEED = 1

# Far beyond what the busiest locks delay anybody.
TIMEOUT = 60.0

Place = tuple[MemoryNodeId, int]


class ContentionFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One way at one collision probability: the median of its turns.

    ``collisions``: the probability that two have an item in common.  For each that committed,
    ``retries``: further tids because locks were busy; ``failed``: attempts whose compares failed.
    ``to_cas``: rate as a multiple of that of cas in the same round, with the lowest and highest.
    """

    items: int
    collisions: float
    way: str
    per_s: int
    p50_us: float
    p99_us: float
    retries: float
    failed: float
    to_cas: float
    low: float
    high: float
    sum_exact: bool


def collision_probability(items: int) -> float:
    """That two minitransactions on ``items`` items have one in common."""
    here, each = items // MEMORY_NODES, ITEMS // SPREAD
    apart = comb(here - each, each) / comb(here, each)
    pairs = comb(MEMORY_NODES, SPREAD)
    both, none = 1 / pairs, comb(MEMORY_NODES - SPREAD, SPREAD) / pairs
    return 1 - (both * apart**2 + (1 - both - none) * apart + none)


class _Way:
    """One way to change items, and what it did in its turns so far."""

    def __init__(self, name: str, items: int, clusters: list[ClusterApi]) -> None:
        self.name = name
        self.clusters = clusters
        self.per_s: list[float] = []
        self.latencies = Latencies()
        self.committed = 0
        self.failed = 0
        self.retried = 0
        self._items = items
        self._table = WAYS.index(name) * TABLE_BYTES
        self._rng = random.Random(SEED)
        # What each client last saw of the counters; they begin at zero.
        self._seen: list[dict[Place, int]] = [{} for _ in clusters]

    async def turn(self, seconds: float) -> None:
        """Everybody at once, for ``seconds``."""
        before = self.committed
        retried = self._retried()
        started = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for number, cluster in enumerate(self.clusters):
                for _ in range(CALLERS):
                    tasks.start_soon(self._work, number, cluster, started + seconds)
        self.per_s.append((self.committed - before) / (time.perf_counter() - started))
        self.retried += self._retried() - retried

    async def is_exact(self) -> bool:
        """Whether the counters hold what committed."""
        here = self._items // MEMORY_NODES * WORD
        tables = [await self.clusters[0].read(n, self._table, here) for n in range(MEMORY_NODES)]
        counters = memoryview(b"".join(tables)).cast("Q")
        changed = 0 if self.name == "cas" else self.committed * ITEMS
        return sum(counters) == changed

    async def clear(self) -> None:
        """Begin with zeros."""
        here = self._items // MEMORY_NODES * WORD
        for node in range(MEMORY_NODES):
            await self.clusters[0].write(node, self._table, bytes(here))

    async def _work(self, number: int, cluster: ClusterApi, until: float) -> None:
        change: Mapping[str, Callable[..., Awaitable[bool]]] = {
            "cas": self._swap,
            "optimistic": self._increment,
            "add": self._add,
        }
        try_once, seen = change[self.name], self._seen[number]
        places = self._choose()
        began = time.perf_counter()
        while time.perf_counter() < until:
            if await try_once(cluster, places, seen):
                now = time.perf_counter()
                self.latencies.add(now - began)
                self.committed += 1
                places, began = self._choose(), now
            else:
                self.failed += 1

    async def _swap(self, cluster: ClusterApi, places: list[Place], _: dict[Place, int]) -> bool:
        minitransaction: Minitransaction[Any] = cluster.minitransaction()
        for node, address in places:
            minitransaction.compare(node, address, bytes(WORD))
            minitransaction.write(node, address, bytes(WORD))
        return (await cluster.execute(minitransaction, timeout=TIMEOUT)).committed

    async def _increment(
        self, cluster: ClusterApi, places: list[Place], seen: dict[Place, int]
    ) -> bool:
        minitransaction: Minitransaction[Any] = cluster.minitransaction()
        values = [seen.get(place, 0) for place in places]
        for (node, address), value in zip(places, values, strict=True):
            minitransaction.compare(node, address, value.to_bytes(WORD, "little"))
            minitransaction.write(node, address, (value + 1).to_bytes(WORD, "little"))
        result = await cluster.execute(minitransaction, timeout=TIMEOUT)
        for failed in result.failed_compares:
            place = failed.node, failed.address
            # Counters only grow: what another caller has learned meanwhile is newer.
            seen[place] = max(seen.get(place, 0), int.from_bytes(failed.found, "little"))
        if result.committed:
            for place, value in zip(places, values, strict=True):
                seen[place] = max(seen.get(place, 0), value + 1)
        return result.committed

    async def _add(self, cluster: ClusterApi, places: list[Place], _: dict[Place, int]) -> bool:
        minitransaction: Minitransaction[Any] = cluster.minitransaction()
        for node, address in places:
            minitransaction.add(node, address, 1)
        return (await cluster.execute(minitransaction, timeout=TIMEOUT)).committed

    def _choose(self) -> list[Place]:
        sample = self._rng.sample
        here = range(self._items // MEMORY_NODES)
        return [
            (MemoryNodeId(node), self._table + item * WORD)
            for node in sample(range(MEMORY_NODES), SPREAD)
            for item in sample(here, ITEMS // SPREAD)
        ]

    def _retried(self) -> int:
        return sum(cluster.statistics.retried for cluster in self.clusters)


def measure_contention(
    endpoint: str, *, seconds: float, report: Callable[[ContentionFigures], None]
) -> None:
    """Each way at each collision probability, for ``seconds``.  Raises SinfoniaError.

    ``report`` is called as soon as one is known.
    """
    anyio.run(_measure, endpoint, seconds, report)


async def _measure(
    endpoint: str, seconds: float, report: Callable[[ContentionFigures], None]
) -> None:
    async with AsyncExitStack() as stack:
        clusters: list[ClusterApi] = [
            await stack.enter_async_context(await connect(endpoint)) for _ in range(CLIENTS)
        ]
        for items in ITEM_COUNTS:
            ways = [_Way(name, items, clusters) for name in WAYS]
            for way in ways:
                await way.clear()
            for _ in range(ROUNDS):
                for way in ways:
                    await way.turn(seconds / ROUNDS)
            for way in ways:
                figures = await _figures(way, items, ways[0])
                report(figures)
                if not figures.sum_exact:
                    raise SinfoniaError(f"the counters of {way.name} do not hold what committed")


async def _figures(way: _Way, items: int, cas: _Way) -> ContentionFigures:
    ratios = [rate / beside for rate, beside in zip(way.per_s, cas.per_s, strict=True)]
    return ContentionFigures(
        items=items,
        collisions=round(collision_probability(items), 4),
        way=way.name,
        per_s=round(median(way.per_s)),
        p50_us=way.latencies.percentile_us(50),
        p99_us=way.latencies.percentile_us(99),
        retries=round(way.retried / way.committed, 3),
        failed=round(way.failed / way.committed, 3),
        to_cas=round(median(ratios), 2),
        low=round(min(ratios), 2),
        high=round(max(ratios), 2),
        sum_exact=await way.is_exact(),
    )
