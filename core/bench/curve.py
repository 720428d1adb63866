"""What encryption costs: one memory node in mode RAM, with keys and without, by turns.

    python core/bench/curve.py --seconds 3

Minitransactions of one 8-byte compare item, one read item and one write item; one client on the
same machine, with one under way, with 64 sent singly, and with 1024 that share messages.
Prints JSON: minitransactions a second, the best of the rounds, and plain divided by secure.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

from sinfonia import Cluster, Minitransaction, connect
from sinfonia.cluster_keys import operator_keys
from sinfonia.operating.local_cluster import LocalCluster, free_ports

ROUNDS = 3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    seconds = parser.parse_args().seconds
    best: dict[str, dict[str, float]] = {"plain": {}, "secure": {}}
    with cluster(secure=False) as plain, cluster(secure=True) as secure:
        for _ in range(ROUNDS):
            for name, target in (("plain", plain), ("secure", secure)):
                for kind, rate in anyio.run(measure, target, seconds).items():
                    best[name][kind] = max(rate, best[name].get(kind, 0.0))
    ratio = {kind: best["plain"][kind] / best["secure"][kind] for kind in best["plain"]}
    found = {
        name: {kind: round(figure, 2) for kind, figure in figures.items()}
        for name, figures in {**best, "plain_by_secure": ratio}.items()
    }
    print(json.dumps(found, indent=2))


@contextmanager
def cluster(*, secure: bool) -> Iterator[LocalCluster]:
    """One memory node in mode RAM."""
    directory = Path(tempfile.mkdtemp(prefix="sinfonia-curve-"))
    try:
        with LocalCluster.create(
            directory / "cluster",
            memory_nodes=1,
            mode="RAM",
            capacity=64 << 20,
            ports=free_ports(2),
            secure=secure,
        ) as made:
            made.start()
            yield made
    finally:
        shutil.rmtree(directory)


async def measure(target: LocalCluster, seconds: float) -> dict[str, float]:
    """Rates by kind."""
    keys = operator_keys(target.config)
    async with await connect(target.endpoint, keys=keys) as connection:
        return {
            "depth_1": await singly(connection, 1, seconds),
            "depth_64": await singly(connection, 64, seconds),
            "together_1024": await together(connection, seconds),
        }


async def singly(connection: Cluster, depth: int, seconds: float) -> float:
    """``depth`` tasks, each with one minitransaction under way."""
    done = 0
    begun = time.perf_counter()

    async def work(number: int) -> None:
        nonlocal done
        while time.perf_counter() - begun < seconds:
            await connection.execute(one(connection, number))
            done += 1

    async with anyio.create_task_group() as tasks:
        for number in range(depth):
            tasks.start_soon(work, number)
    return done / (time.perf_counter() - begun)


async def together(connection: Cluster, seconds: float) -> float:
    """Ten thousand at a time, 1024 of them under way."""
    done = 0
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        batch = [one(connection, number) for number in range(10_000)]
        done += len(await connection.execute_many(batch, in_flight=1024))
    return done / (time.perf_counter() - begun)


def one(connection: Cluster, number: int) -> Minitransaction[object]:
    """Compare, read and write a word of one's own."""
    minitransaction = connection.minitransaction()
    address = 64 * number
    minitransaction.compare(0, address, bytes(8))
    minitransaction.read(0, address + 8, 8)
    minitransaction.write(0, address + 16, bytes(8))
    return minitransaction


if __name__ == "__main__":
    main()
