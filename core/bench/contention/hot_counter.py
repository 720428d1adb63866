"""Many clients add to one counter, and some of them hold its lock for a round.

A minitransaction on one memory node takes no locks that others could meet.  One over two memory
nodes does, from its first round to its second; a client that meets them backs off and tries again,
or, with ``lock_wait``, queues at the memory node.  So the share of those over two memory nodes is
what makes the counter hot.
"""

import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from statistics import median

import anyio
import msgspec

from sinfonia.client.api import ClusterApi
from sinfonia.client.cluster import connect
from sinfonia.errors import SinfoniaError
from sinfonia.minitransaction import LOCK_WAIT_MAX
from sinfonia.operating.measuring.benchmark import Latencies

CLIENTS = 16
MEMORY_NODES = 2
SHARES = (0.0, 0.1, 0.5)
LOCK_WAITS = (0.0, LOCK_WAIT_MAX)
ROUNDS = 3

HOT = 0  # the address of the counter on the first memory node
COLD = 4096  # where each client has a counter of its own on the second
WORD = 8
CAPACITY = COLD + CLIENTS * WORD

SEED = 1
TIMEOUT = 60.0


class HotCounterFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Adds to one counter by 16 clients; ``retries`` for each because its lock was busy."""

    two_node_share: float
    lock_wait_ms: int
    per_s: int
    low: int
    high: int
    p50_us: float
    p99_us: float
    longest_us: float
    retries: float
    sum_exact: bool


class _Side:
    """With, or without, ``lock_wait``."""

    def __init__(self, clusters: list[ClusterApi], share: float, lock_wait: float) -> None:
        self.lock_wait = lock_wait
        self.share = share
        self.clusters = clusters
        self.per_s: list[float] = []
        self.latencies = Latencies()
        self.retried = 0

    async def turn(self, seconds: float) -> None:
        before = len(self.latencies)
        retried = self._retried()
        started = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for number, cluster in enumerate(self.clusters):
                tasks.start_soon(self._work, number, cluster, started + seconds)
        self.per_s.append((len(self.latencies) - before) / (time.perf_counter() - started))
        self.retried += self._retried() - retried

    async def _work(self, number: int, cluster: ClusterApi, until: float) -> None:
        rng = random.Random(SEED + number)
        while (started := time.perf_counter()) < until:
            minitransaction = cluster.minitransaction(lock_wait=self.lock_wait)
            minitransaction.add(0, HOT, 1)
            if rng.random() < self.share:
                minitransaction.add(1, COLD + number * WORD, 1)
            result = await cluster.execute(minitransaction, timeout=TIMEOUT)
            assert result.committed
            self.latencies.add(time.perf_counter() - started)

    def _retried(self) -> int:
        return sum(cluster.statistics.retried for cluster in self.clusters)


def measure_hot_counter(
    endpoint: str, *, seconds: float, report: Callable[[HotCounterFigures], None]
) -> None:
    """Each share, with and without ``lock_wait``, for ``seconds`` in turns.

    Raises SinfoniaError, also if the counter is not what was added.
    """
    anyio.run(_measure, endpoint, seconds, report)


async def _measure(
    endpoint: str, seconds: float, report: Callable[[HotCounterFigures], None]
) -> None:
    async with AsyncExitStack() as stack:
        clusters: list[ClusterApi] = [
            await stack.enter_async_context(await connect(endpoint)) for _ in range(CLIENTS)
        ]
        for share in SHARES:
            await clusters[0].write(0, HOT, bytes(WORD))
            sides = [_Side(clusters, share, lock_wait) for lock_wait in LOCK_WAITS]
            for _ in range(ROUNDS):
                for side in sides:
                    await side.turn(seconds / ROUNDS)
            counter = int.from_bytes(await clusters[0].read(0, HOT, WORD), "little")
            exact = counter == sum(len(side.latencies) for side in sides)
            for side in sides:
                report(_figures(side, exact=exact))
            if not exact:
                raise SinfoniaError("the counter is not what was added to it")


def _figures(side: _Side, *, exact: bool) -> HotCounterFigures:
    return HotCounterFigures(
        two_node_share=side.share,
        lock_wait_ms=round(side.lock_wait * 1e3),
        per_s=round(median(side.per_s)),
        low=round(min(side.per_s)),
        high=round(max(side.per_s)),
        p50_us=side.latencies.percentile_us(50),
        p99_us=side.latencies.percentile_us(99),
        longest_us=side.latencies.percentile_us(100),
        retries=round(side.retried / len(side.latencies), 4),
        sum_exact=exact,
    )
