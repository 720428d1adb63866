"""What it takes to bring a replica back, and that clients of the primary hardly notice.

Twice the same bytes, written while the replica was away: as log, and as an image, where the log
is not kept for so long.  The time is from when the replica begins to catch up to when it is in
sync, saved on its disk.
"""

import time
from pathlib import Path

import click
import msgspec

from bench.steady_load import MIB, SteadyClient, fill, look, members, private_cluster
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.operating.sights import CATCHING_UP, Sight

# How long the client is looked at while nothing is copied.
QUIET_SECONDS = 3.0

# So much log is kept for replicas: all that is written, or too little.
KEEP_LOG = {"log": 256 * MIB, "image": MIB}

# A log loses whole segments of 64 MiB, by checkpoints that begin when it has grown by as much.
MIB_MIN, MIB_MAX = 160, 240


class CatchUp(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report; ``longest_ms``: that a client of the primary waited meanwhile."""

    way: str
    mib: float
    seconds: float
    mb_per_s: float
    longest_ms: float
    writes_per_s: int
    quiet_longest_ms: float
    quiet_writes_per_s: int


@click.command()
@click.option("--mode", default="LOG-REPL", show_default=True)
@click.option("--mib", type=click.IntRange(MIB_MIN, MIB_MAX), default=192, show_default=True)
@click.option("--directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(mode: str, mib: int, directory: Path | None) -> None:
    """Catch up by log and by image; one JSON object a line."""
    for way, keep_log in KEEP_LOG.items():
        with private_cluster(mode, directory=directory, replicas=1, keep_log=keep_log) as cluster:
            _, [replica] = members(cluster)
            cluster.kill(replica)
            fill(cluster, mib * MIB)
            click.echo(msgspec.json.encode(_catch_up(cluster, replica, way, mib)))


def _catch_up(cluster: LocalCluster, replica: str, way: str, mib: int) -> CatchUp:
    endpoint = cluster.endpoints[replica]
    began: list[float] = []

    def note(sight: Sight) -> None:
        status = sight.statuses.get(endpoint)
        if status is not None and status.state == CATCHING_UP and not began:
            began.append(sight.taken_at)

    with SteadyClient(cluster) as client:
        quiet_from = time.monotonic()
        time.sleep(QUIET_SECONDS)
        started_at = time.monotonic()
        cluster.start([replica], on_sight=note)
        ended_at = client.first_success_after(time.monotonic())
    _, statuses = look(cluster)
    copied = int(statuses[replica].figures["copied_bytes"])
    assert (copied > 0) == (way == "image"), f"{replica} did not catch up by {way}"
    transferred = copied or mib * MIB
    began_at = began[0] if began else started_at
    seconds = ended_at - began_at
    return CatchUp(
        way=way,
        mib=round(transferred / MIB, 1),
        seconds=round(seconds, 2),
        mb_per_s=round(transferred / 1e6 / seconds, 1),
        longest_ms=round(client.longest(began_at, ended_at) * 1e3, 1),
        writes_per_s=round(client.count(began_at, ended_at) / seconds),
        quiet_longest_ms=round(client.longest(quiet_from, started_at) * 1e3, 1),
        quiet_writes_per_s=round(client.count(quiet_from, started_at) / (started_at - quiet_from)),
    )


if __name__ == "__main__":
    main()
