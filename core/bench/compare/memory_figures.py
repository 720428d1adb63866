"""What a memory node takes of its machine's memory: alone, for each client, for what it stores.

A figure is the growth of the process's resident memory (RSS), as the kernel counts it.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from bench.compare.peers.programs import resident_bytes
from sinfonia.client.blocking import BlockingCluster, connect_blocking
from sinfonia.minitransaction import Minitransaction
from sinfonia.operating.measuring.stage import private_cluster

MODES = ("RAM", "NVRAM", "LOG")

CLIENTS = 64
STORED_BYTES = 100 * 1000 * 1000
CAPACITY = 128 * 1024 * 1024

# What is stored comes in writes of so many bytes, a few at a time.
WRITE_BYTES = 50_000
IN_FLIGHT = 16

GOAL = 1.3


class MemoryFigures(msgspec.Struct, frozen=True, kw_only=True, tag="memory", tag_field="kind"):
    """Of one memory node; ``bytes_per_byte`` is the growth for each byte stored."""

    mode: str
    idle_mb: float
    kb_per_client: float
    stored_mb: float
    grown_mb: float
    bytes_per_byte: float
    goal: float
    reached: bool


def measure_memory(
    *,
    stored: int = STORED_BYTES,
    directory: Path | None,
    report: Callable[[msgspec.Struct], None],
) -> None:
    """Look at a memory node of each mode, before and after ``stored`` bytes were written."""
    for mode in MODES:
        with private_cluster(mode, 1, directory, capacity=CAPACITY) as cluster:
            pid = cluster.running["node0"].pid
            idle = resident_bytes(pid)
            with ExitStack() as stack:
                for _ in range(CLIENTS):
                    client = stack.enter_context(connect_blocking(cluster.endpoint))
                    client.write(0, 0, b"sinfonia")
                with_clients = resident_bytes(pid)
                client.execute_many(_writes(client, stored), in_flight=IN_FLIGHT)
                grown = resident_bytes(pid) - with_clients
        report(
            MemoryFigures(
                mode=mode,
                idle_mb=round(idle / 1e6, 1),
                kb_per_client=round((with_clients - idle) / CLIENTS / 1e3, 1),
                stored_mb=round(stored / 1e6, 1),
                grown_mb=round(grown / 1e6, 1),
                bytes_per_byte=round(grown / stored, 3),
                goal=GOAL,
                reached=grown < GOAL * stored,
            )
        )


def _writes(client: BlockingCluster, stored: int) -> Iterator[Minitransaction[Any]]:
    data = b"\xa5" * WRITE_BYTES
    for address in range(0, stored, WRITE_BYTES):
        minitransaction = client.minitransaction()
        minitransaction.write(0, address, data[: stored - address])
        yield minitransaction
