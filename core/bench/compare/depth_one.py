"""One at a time: how much longer than a bare echo of as many bytes a minitransaction takes.

The blocking client, the async one and the echo take turns of some milliseconds on one memory node.
"""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import msgspec

from bench.compare.peers.work import CAPACITY, fill, message_bytes, stream
from sinfonia.client.blocking import BlockingCluster, connect_blocking
from sinfonia.client.cluster import connect
from sinfonia.operating.measuring.benchmark import TURN, WARM_UP, Latencies
from sinfonia.operating.measuring.echo import EchoClient
from sinfonia.operating.measuring.stage import private_cluster, running_echo

GOAL = 1.3

BLOCKING, ASYNC, ECHO = "Sinfonia RAM, blocking", "Sinfonia RAM, async", "pyzmq echo"


class RoundTrip(msgspec.Struct, frozen=True, kw_only=True, tag="round trip", tag_field="kind"):
    """Latency at depth 1, and how many times that of the echo it is."""

    client: str
    p50_us: float
    p99_us: float
    p50_ratio: float
    p99_ratio: float
    goal: float
    reached: bool


def compare_round_trips(
    *, seconds: float, directory: Path | None, report: Callable[[msgspec.Struct], None]
) -> None:
    """Measure each side for ``seconds``."""
    with (
        private_cluster("RAM", 1, directory, capacity=CAPACITY) as cluster,
        running_echo(message_bytes) as echo,
        connect_blocking(cluster.endpoint) as blocking,
    ):
        fill(blocking)
        sides = anyio.run(_measure, cluster.endpoint, blocking, echo, seconds)
    bare = sides[ECHO]
    for client, latencies in sides.items():
        ratios = [latencies.percentile_us(p) / bare.percentile_us(p) for p in (50, 99)]
        report(
            RoundTrip(
                client=client,
                p50_us=latencies.percentile_us(50),
                p99_us=latencies.percentile_us(99),
                p50_ratio=round(ratios[0], 2),
                p99_ratio=round(ratios[1], 2),
                goal=GOAL,
                reached=max(ratios) <= GOAL,
            )
        )


async def _measure(
    endpoint: str, blocking: BlockingCluster, echo: EchoClient, seconds: float
) -> dict[str, Latencies]:
    async with await connect(endpoint) as cluster:
        singly = stream(cluster, prepared=False)
        blockingly = stream(blocking, prepared=False)

        async def wait_for_one() -> None:
            await next(singly).execute()

        async def block_for_one() -> None:
            next(blockingly).execute()

        async def echo_one() -> None:
            echo.round_trip()

        sides: dict[str, tuple[Callable[[], Awaitable[None]], Latencies]] = {
            BLOCKING: (block_for_one, Latencies()),
            ASYNC: (wait_for_one, Latencies()),
            ECHO: (echo_one, Latencies()),
        }
        for round_trip, _ in sides.values():
            for _ in range(WARM_UP):
                await round_trip()
        until = time.perf_counter() + len(sides) * seconds
        while time.perf_counter() < until:
            for round_trip, latencies in sides.values():
                for _ in range(TURN):
                    started = time.perf_counter()
                    await round_trip()
                    latencies.add(time.perf_counter() - started)
    return {name: latencies for name, (_, latencies) in sides.items()}
