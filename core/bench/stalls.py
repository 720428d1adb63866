"""Writers do not wait for a checkpoint: how long writes take while one runs, and without any.

The same load on two clusters in turns: one makes a checkpoint whenever its log has grown by a few
megabytes, and the other never does.
"""

import random
import statistics
import time
from pathlib import Path

import click
import msgspec

from bench.steady_load import CAPACITY, MIB, private_cluster
from sinfonia.client.blocking import connect_blocking
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.storage.disk_image import CHECKPOINT_FILE

# A page of a file system, at a random place: the image is written all over.
WRITE_BYTES = 16 * 1024

# Writes before a turn begins: connections come up.
WARM_UP = 50

WITH_CHECKPOINTS_BYTES = 16 * MIB
NEVER_BYTES = 1 << 40
CHECKPOINTS = {"with": WITH_CHECKPOINTS_BYTES, "without": NEVER_BYTES}


class Turn(msgspec.Struct, frozen=True):
    """What one stretch of writing met."""

    latencies: list[float]
    checkpoints: int
    seconds: float


@click.command()
@click.option("--mode", default="LOG", show_default=True)
@click.option("--seconds", type=float, default=3.5, show_default=True, help="For each turn.")
@click.option("--turns", type=click.IntRange(1), default=4, show_default=True)
@click.option("--directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(mode: str, seconds: float, turns: int, directory: Path | None) -> None:
    """Measure stalls by checkpoints; one JSON object a line.

    longest_ms: the longest latency of each turn.
    """
    measured: dict[str, list[Turn]] = {checkpoints: [] for checkpoints in CHECKPOINTS}
    for turn in range(turns):
        for checkpoints, log_bytes in CHECKPOINTS.items():
            with private_cluster(mode, directory=directory, checkpoint_log=log_bytes) as cluster:
                measured[checkpoints].append(_write_for(cluster, seconds, seed=turn))
    for checkpoints, taken in measured.items():
        latencies = sorted(latency for turn in taken for latency in turn.latencies)
        longest = sorted(max(turn.latencies) for turn in taken)
        figures = {
            "checkpoints": checkpoints,
            "made": sum(turn.checkpoints for turn in taken),
            "writes_per_s": round(len(latencies) / sum(turn.seconds for turn in taken)),
            "p50_ms": round(statistics.median(latencies) * 1e3, 2),
            "p99_ms": round(latencies[len(latencies) * 99 // 100] * 1e3, 1),
            "longest_ms": [round(latency * 1e3, 1) for latency in longest],
        }
        click.echo(msgspec.json.encode(figures))


def _write_for(cluster: LocalCluster, seconds: float, *, seed: int) -> Turn:
    rng = random.Random(seed)
    content = bytes(WRITE_BYTES)
    pages = CAPACITY // WRITE_BYTES
    latencies = []
    sealed = Path(cluster.config.memory_node[0].data_directory) / CHECKPOINT_FILE
    made = {sealed.stat().st_mtime_ns}
    with connect_blocking(cluster.endpoint) as connection:
        for _ in range(WARM_UP):
            connection.write(0, 0, content)
        begun = time.monotonic()
        while (began := time.monotonic()) < begun + seconds:
            connection.write(0, rng.randrange(pages) * WRITE_BYTES, content)
            latencies.append(time.monotonic() - began)
            made.add(sealed.stat().st_mtime_ns)
        return Turn(latencies, len(made) - 1, time.monotonic() - begun)


if __name__ == "__main__":
    main()
