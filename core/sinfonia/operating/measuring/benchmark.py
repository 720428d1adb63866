"""Both sides of a comparison are measured in one run, interleaved, on the same machine.

A minitransaction here has one compare, one read and one write item of 8 bytes each; over two
memory nodes it has a write item at the second one, too, so that it takes two phases.  It is built
anew each time, as an application would.  Slots are used in turn, so that no two in flight want the
same lock.

Modes are compared as in the paper's Figure 12: a minitransaction writes 6 random items of 4 bytes,
out of 50,000 on one memory node, and one application node executes up to 256 at a time.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from itertools import count
from typing import Any

import anyio
import msgspec

from sinfonia.client.api import ClusterApi
from sinfonia.client.blocking import BlockingCluster
from sinfonia.client.cluster import connect
from sinfonia.minitransaction import CompareItem, Minitransaction, ReadItem, WriteItem
from sinfonia.operating.measuring.echo import EchoClient
from sinfonia.protocol.messages import PROTOCOL_VERSION, ExecCommit, Replies, Requests, Vote, Voted

ITEM_BYTES = 8
SLOT_BYTES = 64
SLOTS = 64 * 1024
CAPACITY = SLOTS * SLOT_BYTES

# So many round trips of one side before it is the other's turn: some milliseconds.
TURN = 100

# Before a measurement begins: connections come up, caches fill.
WARM_UP = 200

# Batches under way at a time when pipelining: enough to keep a memory node busy while the client
# handles what came back.
BATCHES_IN_FLIGHT = 16


# Figure 12 of the paper.
RANDOM_ITEMS = 50_000
RANDOM_ITEM_BYTES = 4
RANDOM_WRITES = 6
COMPARED_IN_FLIGHT = (1, 2, 4, 8, 16, 32, 64, 128, 256)

# A mode is measured so many times at each depth, in turns with the others; the best turn counts,
# since what else a machine does can only slow it down.
COMPARED_TURNS = 3


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report; latencies are of a minitransaction, or of a whole batch."""

    mode: str
    memory_nodes: int
    in_flight: int
    batch: int
    minitransactions_per_s: int
    p50_us: float
    p99_us: float
    echo_p50_us: float


class ModeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the comparison of modes; latencies are of a minitransaction."""

    mode: str
    in_flight: int
    minitransactions_per_s: int
    p50_us: float
    p99_us: float


class Latencies:
    """How long each of many things took."""

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self.add = self._seconds.append

    def __len__(self) -> int:
        return len(self._seconds)

    @property
    def mean(self) -> float:
        """Seconds."""
        return sum(self._seconds) / len(self._seconds)

    def percentile_us(self, percent: int) -> float:
        """Microseconds that ``percent`` of all did not exceed."""
        ordered = sorted(self._seconds)
        position = min(len(ordered) * percent // 100, len(ordered) - 1)
        return round(ordered[position] * 1e6, 1)


class Builder:
    """Makes the minitransactions of one measurement."""

    def __init__(self, *, memory_nodes: int) -> None:
        self._second = memory_nodes - 1
        self._slots = count()

    def build(self, cluster: "ClusterApi | BlockingCluster") -> Minitransaction[Any]:
        """The next one."""
        address = next(self._slots) % SLOTS * SLOT_BYTES
        minitransaction: Minitransaction[Any] = cluster.minitransaction()
        minitransaction.compare(0, address, bytes(ITEM_BYTES))
        minitransaction.read(0, address + ITEM_BYTES, ITEM_BYTES)
        minitransaction.write(0, address + 2 * ITEM_BYTES, b"sinfonia")
        if self._second:
            minitransaction.write(self._second, address, b"sinfonia")
        return minitransaction

    def batch(self, cluster: ClusterApi, size: int) -> Iterator[Minitransaction[Any]]:
        """The next ``size``."""
        for _ in range(size):
            yield self.build(cluster)


def message_sizes() -> tuple[int, int]:
    """Bytes of the request and of the reply of one minitransaction on one memory node."""
    far = CAPACITY - SLOT_BYTES
    word = bytes(ITEM_BYTES)
    execute = ExecCommit(
        counter=2**20,
        epoch=0,
        compares=[CompareItem(far, word)],
        reads=[ReadItem(far, ITEM_BYTES)],
        writes=[WriteItem(far, word)],
    )
    request = Requests(PROTOCOL_VERSION, 2**63, 2**32, 2**20, [execute])
    reply = Replies(PROTOCOL_VERSION, 0, 2**32, 0, [Voted(2**20, Vote.OK, [word])])
    encode = msgspec.msgpack.encode
    return len(encode(request)), len(encode(reply))


def measure_round_trips(
    cluster: BlockingCluster, echo: EchoClient, *, memory_nodes: int, seconds: float
) -> tuple[Latencies, Latencies]:
    """One at a time: of minitransactions, and of the echo in between."""
    builder = Builder(memory_nodes=memory_nodes)
    sides: list[tuple[Callable[[], object], Latencies]] = [
        (lambda: builder.build(cluster).execute(), Latencies()),
        (echo.round_trip, Latencies()),
    ]
    for round_trip, _ in sides:
        for _ in range(WARM_UP):
            round_trip()
    until = time.perf_counter() + 2 * seconds
    while time.perf_counter() < until:
        for round_trip, latencies in sides:
            for _ in range(TURN):
                started = time.perf_counter()
                round_trip()
                latencies.add(time.perf_counter() - started)
    return sides[0][1], sides[1][1]


def measure_throughput(
    endpoint: str, *, memory_nodes: int, in_flight: int, batch: int, seconds: float, backend: str
) -> tuple[float, Latencies]:
    """Minitransactions a second with ``in_flight`` of them under way, and latencies.

    With ``batch`` 1 each is executed by a task of its own; else tasks execute whole batches.
    """
    measurement = _Throughput(memory_nodes, in_flight // batch, batch, seconds)
    return anyio.run(measurement.run, endpoint, backend=backend)


class _Throughput:
    def __init__(self, memory_nodes: int, tasks: int, batch: int, seconds: float) -> None:
        self._builder = Builder(memory_nodes=memory_nodes)
        self._tasks = tasks
        self._batch = batch
        self._seconds = seconds
        self._latencies = Latencies()

    async def run(self, endpoint: str) -> tuple[float, Latencies]:
        async with await connect(endpoint) as cluster:
            await cluster.execute_many(self._builder.batch(cluster, WARM_UP))
            started = time.perf_counter()
            async with anyio.create_task_group() as tasks:
                for _ in range(self._tasks):
                    tasks.start_soon(self._work, cluster, started + self._seconds)
            elapsed = time.perf_counter() - started
        return len(self._latencies) * self._batch / elapsed, self._latencies

    async def _work(self, cluster: ClusterApi, until: float) -> None:
        builder, batch, add = self._builder, self._batch, self._latencies.add
        while (started := time.perf_counter()) < until:
            if batch == 1:
                await builder.build(cluster).execute()
            else:
                await cluster.execute_many(builder.batch(cluster, batch))
            add(time.perf_counter() - started)


def compare_modes(
    endpoints: Mapping[str, str],
    *,
    depths: tuple[int, ...],
    seconds: float,
    backend: str,
    report: Callable[[ModeFigures], None],
) -> None:
    """Measure the clusters at ``endpoints``, by mode, with ``depths`` in flight, in turns.

    ``seconds`` is for each mode at each depth; ``report`` is called as soon as one is known.
    """
    anyio.run(_Comparison(depths, seconds, report).run, endpoints, backend=backend)


class _Comparison:
    def __init__(
        self, depths: tuple[int, ...], seconds: float, report: Callable[[ModeFigures], None]
    ) -> None:
        self._depths = depths
        self._turn = seconds / COMPARED_TURNS
        self._report = report
        self._rng = random.Random(1)

    async def run(self, endpoints: Mapping[str, str]) -> None:
        async with AsyncExitStack() as stack:
            clusters = {
                mode: await stack.enter_async_context(await connect(endpoint))
                for mode, endpoint in endpoints.items()
            }
            for cluster in clusters.values():
                await cluster.execute_many(self._build(cluster) for _ in range(WARM_UP))
            for depth in self._depths:
                best: dict[str, ModeFigures] = {}
                for _ in range(COMPARED_TURNS):
                    for mode, cluster in clusters.items():
                        figures = await self._measure(mode, cluster, depth)
                        known = best.setdefault(mode, figures)
                        if figures.minitransactions_per_s > known.minitransactions_per_s:
                            best[mode] = figures
                for figures in best.values():
                    self._report(figures)

    def _build(self, cluster: ClusterApi) -> Minitransaction[Any]:
        minitransaction = cluster.minitransaction()
        for item in self._rng.sample(range(RANDOM_ITEMS), RANDOM_WRITES):
            minitransaction.write(0, item * RANDOM_ITEM_BYTES, b"item")
        return minitransaction

    async def _measure(self, mode: str, cluster: ClusterApi, depth: int) -> ModeFigures:
        latencies = Latencies()
        started = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(depth):
                tasks.start_soon(self._work, cluster, latencies, started + self._turn)
        elapsed = time.perf_counter() - started
        return ModeFigures(
            mode=mode,
            in_flight=depth,
            minitransactions_per_s=round(len(latencies) / elapsed),
            p50_us=latencies.percentile_us(50),
            p99_us=latencies.percentile_us(99),
        )

    async def _work(self, cluster: ClusterApi, latencies: Latencies, until: float) -> None:
        while (started := time.perf_counter()) < until:
            await self._build(cluster).execute()
            latencies.add(time.perf_counter() - started)
