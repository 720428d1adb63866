"""Sinfonia, driven by its own client, in this process, on asyncio.

The minitransactions are built anew each time, as by an application, or were *prepared*, as
redis-benchmark prepares what it sends.  They are executed singly, each caller a task that waits
for its own, or *pipelined*: each task hands over a whole batch (``execute_many``).
"""

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import anyio

from bench.compare.peers.programs import cpu_seconds
from bench.compare.peers.redis_server import Driven
from bench.compare.peers.work import fill, stream
from sinfonia.client.api import ClusterApi
from sinfonia.client.blocking import connect_blocking
from sinfonia.client.cluster import connect
from sinfonia.minitransaction import Minitransaction
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.operating.measuring.benchmark import WARM_UP, Latencies

Source = Iterator[Minitransaction[Any]]


class SinfoniaLoad:
    """A cluster of one memory node that is filled, and what drives it."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.endpoint = cluster.endpoint
        [self.pid] = [
            process.pid for name, process in cluster.running.items() if name.startswith("node")
        ]
        with connect_blocking(self.endpoint) as connection:
            fill(connection)

    def drive(self, *, callers: int, batch: int, prepared: bool, seconds: float) -> Driven:
        """``callers`` tasks execute ``batch`` minitransactions at a time, again and again."""
        run = _Run(self.pid, callers, batch, prepared, seconds)
        return anyio.run(run.measure, self.endpoint)


class _Run:
    def __init__(self, pid: int, callers: int, batch: int, prepared: bool, seconds: float) -> None:
        self._pid = pid
        self._callers = callers
        self._batch = batch
        self._prepared = prepared
        self._seconds = seconds
        self._latencies = Latencies()

    async def measure(self, endpoint: str) -> Driven:
        async with await connect(endpoint) as cluster:
            source = stream(cluster, prepared=self._prepared)
            await cluster.execute_many(islice(source, WARM_UP))
            before = cpu_seconds(self._pid), time.process_time()
            started = time.perf_counter()
            async with anyio.create_task_group() as tasks:
                for _ in range(self._callers):
                    tasks.start_soon(self._work, cluster, source, started + self._seconds)
            elapsed = time.perf_counter() - started
            server = cpu_seconds(self._pid) - before[0]
            client = time.process_time() - before[1]
        number = len(self._latencies) * self._batch
        return Driven(
            number / elapsed,
            self._latencies.percentile_us(50),
            self._latencies.percentile_us(99),
            server / number * 1e6,
            client / number * 1e6,
        )

    async def _work(self, cluster: ClusterApi, source: Source, until: float) -> None:
        batch, add = self._batch, self._latencies.add
        while (started := time.perf_counter()) < until:
            if batch == 1:
                result = await next(source).execute()
                assert result.committed
            else:
                await cluster.execute_many(islice(source, batch))
            add(time.perf_counter() - started)
