"""What a backup costs the clients of a cluster: latencies without one, and while one is taken.

``python core/bench/backup_latency.py [--mib 256] [--mode LOG] [--clients 4]`` makes a cluster of
three memory nodes on this machine, fills it, and prints one JSON object; times in milliseconds.
"""

import argparse
import json
import os
import random
import tempfile
import threading
import time
from pathlib import Path

from sinfonia import BlockingCluster, connect_blocking
from sinfonia.backup.copier import take_full
from sinfonia.operating.local_cluster import LocalCluster, free_ports
from sinfonia.operating.local_description import ports_needed

NODES = 3
MIB = 1 << 20
CAPACITY = 4 << 30
SECONDS = 5.0


class Client(threading.Thread):
    """Writes a word at each of two memory nodes, one minitransaction after the other."""

    def __init__(self, cluster: BlockingCluster, number: int) -> None:
        super().__init__(daemon=True)
        self.latencies: list[tuple[float, float]] = []  # when it began, and how long it took
        self.stopping = threading.Event()
        self._cluster = cluster
        self._rng = random.Random(number)

    def run(self) -> None:
        while not self.stopping.is_set():
            minitransaction = self._cluster.minitransaction()
            for node in self._rng.sample(range(NODES), 2):
                minitransaction.write(node, 8 * self._rng.randrange(CAPACITY // 64), b"whatever")
            begun = time.monotonic()
            minitransaction.execute()
            self.latencies.append((begun, time.monotonic() - begun))


def figures(latencies: list[float], seconds: float) -> dict[str, float]:
    """In milliseconds."""
    ordered = sorted(latencies)
    return {
        "minitransactions_per_s": round(len(ordered) / seconds),
        "median": round(ordered[len(ordered) // 2] * 1e3, 3),
        "p99": round(ordered[len(ordered) * 99 // 100] * 1e3, 3),
        "max": round(ordered[-1] * 1e3, 3),
    }


def measure(cluster: LocalCluster, directory: Path, mib: int, clients: int) -> dict[str, object]:
    """Fill the cluster, and compare."""
    with connect_blocking(cluster.endpoint) as connection:
        for number in range(mib):
            connection.write(number % NODES, number // NODES * MIB, os.urandom(MIB))
        workers = [Client(connection, number) for number in range(clients)]
        for worker in workers:
            worker.start()
        before = time.monotonic()
        time.sleep(SECONDS)
        begun = time.monotonic()
        take_full(cluster.endpoint, directory / "backup")
        ended = time.monotonic()
        for worker in workers:
            worker.stopping.set()
        for worker in workers:
            worker.join()
    taken = [each for worker in workers for each in worker.latencies]
    without = [latency for at, latency in taken if before <= at < begun]
    during = [latency for at, latency in taken if begun <= at < ended]
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    return {
        "without": figures(without, begun - before),
        "during": figures(during, ended - begun),
        "backup_s": round(ended - begun, 3),
        "backup_mib": round(size / MIB, 1),
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256, help="how much memory is filled")
    parser.add_argument("--mode", default="LOG")
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    replicas = int(options.mode.endswith("-REPL"))
    with tempfile.TemporaryDirectory(prefix="sinfonia-bench-") as name:
        directory = Path(name)
        cluster = LocalCluster.create(
            directory / "cluster",
            memory_nodes=NODES,
            mode=options.mode,
            capacity=CAPACITY,
            ports=free_ports(ports_needed(NODES, replicas)),
            replicas=replicas,
        )
        with cluster:
            cluster.start()
            (directory / "out").mkdir()
            found = measure(cluster, directory / "out", options.mib, options.clients)
    print(json.dumps({"mode": options.mode, "clients": options.clients, **found}, indent=2))


if __name__ == "__main__":
    main()
