"""What an alive but slow replica costs: its disk becomes slow, and is mended.

Each sync of its log takes so much longer as ``delay_ms`` says.  Eight clients execute one small
minitransaction after another: how many a second in the first second of that, once the replica was
given up, and when it is in sync again.
"""

import threading
import time
from pathlib import Path

import click
import msgspec

from bench.slow_disk import replica_with_slow_disk
from bench.steady_load import SMALL_ADDRESS, SMALL_BYTES, look, members, private_cluster
from sinfonia.client.blocking import BlockingCluster, connect_blocking
from sinfonia.config import Times
from sinfonia.operating.local_cluster import LocalCluster

CLIENTS = 8
LOOK_EVERY = 0.2
MEASURE_S = 2.0
DELAYS_MS = (50.0, 900.0)


class SlowReplica(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report; minitransactions per second, and seconds (null: not by the limit)."""

    delay_ms: float
    before_per_s: float
    slow_per_s: float
    dropped_after_s: float | None
    without_it_per_s: float
    in_sync_again_s: float | None
    again_per_s: float


class Writers:
    """Small writes, one after another by each client."""

    def __init__(self, connection: BlockingCluster) -> None:
        self.done = 0
        self.stopping = False
        self._connection = connection
        self.threads = [threading.Thread(target=self._work, args=(i,)) for i in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def per_s(self, seconds: float) -> float:
        """How many a second in the next ``seconds``."""
        before = self.done
        time.sleep(seconds)
        return round((self.done - before) / seconds)

    def _work(self, number: int) -> None:
        address = SMALL_ADDRESS + number * SMALL_BYTES
        while not self.stopping:
            self._connection.write(0, address, bytes(SMALL_BYTES))
            self.done += 1


@click.command()
@click.option("--mode", default="LOG-REPL", show_default=True)
@click.option("--delay", "delays", type=float, multiple=True, metavar="MS")
@click.option("--ack-within", type=float, default=Times().ack_within, show_default=True)
@click.option("--limit", type=float, default=60.0, show_default=True, metavar="SECONDS")
@click.option("--directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(
    mode: str, delays: tuple[float, ...], ack_within: float, limit: float, directory: Path | None
) -> None:
    """Make the disk of the only replica slow; one JSON object a line for each delay."""
    times = Times(ack_within=ack_within)
    for delay in delays or DELAYS_MS:
        with private_cluster(mode, directory=directory, replicas=1, times=times) as cluster:
            click.echo(msgspec.json.encode(_measure(cluster, delay, limit)))


def _measure(cluster: LocalCluster, delay_ms: float, limit: float) -> SlowReplica:
    _, [replica] = members(cluster)
    with (
        replica_with_slow_disk(cluster, replica) as slow,
        connect_blocking(cluster.endpoint) as connection,
    ):
        _wait(cluster, replica, limit, in_sync=True)
        writers = Writers(connection)
        try:
            before = writers.per_s(MEASURE_S)
            slow(delay_ms / 1e3)
            slow_per_s = writers.per_s(1.0)
            dropped = _wait(cluster, replica, limit, in_sync=False)
            without = writers.per_s(MEASURE_S)
            slow(0.0)
            again = _wait(cluster, replica, limit, in_sync=True)
            return SlowReplica(
                delay_ms=delay_ms,
                before_per_s=before,
                slow_per_s=slow_per_s,
                dropped_after_s=None if dropped is None else round(1.0 + dropped, 1),
                without_it_per_s=without,
                in_sync_again_s=None if again is None else round(again, 1),
                again_per_s=writers.per_s(MEASURE_S),
            )
        finally:
            writers.stopping = True
            for thread in writers.threads:
                thread.join()


def _wait(cluster: LocalCluster, replica: str, limit: float, *, in_sync: bool) -> float | None:
    """Seconds until the replica follows in sync, or is not in sync; None: not by ``limit``."""
    began = time.monotonic()
    while time.monotonic() < began + limit:
        entry, statuses = look(cluster)
        figures = statuses[replica].figures if replica in statuses else {}
        follows = figures.get("phase") == "following" and figures.get("catching_up") == 0
        if (bool(entry.in_sync) and follows) if in_sync else not entry.in_sync:
            return time.monotonic() - began
        time.sleep(LOOK_EVERY)
    return None


if __name__ == "__main__":
    main()
