"""How long a memory node takes to come back for each gigabyte of log that it must replay.

It is killed before any checkpoint, so that all of the log is replayed, and started again.  What a
start without a log takes, measured first, is not counted.  The log is in the kernel's cache then:
a disk slower than the replay adds its own time.
"""

import time
from pathlib import Path

import click
import msgspec

from bench.steady_load import MIB, fill, look, private_cluster
from sinfonia.config import Times
from sinfonia.operating.local_cluster import LocalCluster

NEVER_BYTES = 1 << 40
NODE = "node0"

# A start waits until locks of readers have run out; that must not hide the replay.
AT_ONCE = Times(read_lease=0.001)

# The best counts: what else a machine does can only slow a start down.
RESTARTS = 3

# Of each minitransaction, and how much is written with such ones.
SHAPES = {64: 16 * MIB, 1024: 128 * MIB, 64 * 1024: 640 * MIB}

GB = 1e9


@click.command()
@click.option("--mode", default="LOG", show_default=True)
@click.option(
    "--scale", type=float, default=1.0, show_default=True, help="Write so many times as much."
)
@click.option("--directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(mode: str, scale: float, directory: Path | None) -> None:
    """Restart after minitransactions of three sizes; one JSON object a line."""
    for write_bytes, total_bytes in SHAPES.items():
        with private_cluster(
            mode, directory=directory, checkpoint_log=NEVER_BYTES, times=AT_ONCE
        ) as cluster:
            without = _restart(cluster)
            fill(cluster, round(total_bytes * scale), piece_bytes=write_bytes)
            with_log = _restart(cluster)
            _, statuses = look(cluster)
        log_bytes = int(statuses[NODE].figures["log_bytes"])
        records = int(statuses[NODE].figures["replayed_records"])
        replay = max(with_log - without, 1e-3)
        figures = {
            "write_bytes": write_bytes,
            "log_mb": round(log_bytes / 1e6, 1),
            "records": records,
            "restart_s": round(with_log, 2),
            "empty_restart_s": round(without, 2),
            "s_per_gb": round(replay / (log_bytes / GB), 1),
            "records_per_s": round(records / replay),
        }
        click.echo(msgspec.json.encode(figures))


def _restart(cluster: LocalCluster) -> float:
    """Kill the memory node, and start it; seconds until it serves, at best."""
    taken = []
    for _ in range(RESTARTS):
        cluster.kill(NODE)
        began = time.monotonic()
        cluster.start([NODE])
        taken.append(time.monotonic() - began)
    return min(taken)


if __name__ == "__main__":
    main()
