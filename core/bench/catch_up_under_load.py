"""How long a replica that was away is out of sync while others go on to write, by how much they do.

While it is away so much is written that the log does not reach back: it copies the image.  Then it
is started again, and the writers, which never stopped, go on until it is in sync.  Until then the
death of the primary is an outage, so what counts is that it ends, and how much slower writers are.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import msgspec

from bench.steady_load import MIB, fill, look, members, private_cluster
from sinfonia.addresses import MemoryNodeId
from sinfonia.client.blocking import BlockingCluster, connect_blocking
from sinfonia.minitransaction import Minitransaction
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.operating.observer import Observer
from sinfonia.operating.refusals import StartFailed
from sinfonia.operating.sights import Sight

# Writers overwrite this over and over; it is all that is in the image.
IMAGE_BYTES = 6 * MIB
PIECE_BYTES = MIB

# Writes under way at a time.
IN_FLIGHT = 8

# While the replica is away: more than is kept of the log.
MISSED_BYTES = 640 * MIB

# How often the cluster is looked at.
LOOK_EVERY = 0.1

# For how long writers are looked at once the replica is in sync.
AFTERWARDS = 2.0

RATES = (23.0, 45.0, 112.0, 0.0)


class UnderLoad(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report; ``offered_mb_per_s`` 0: as fast as possible.

    ``in_sync_s``: from the start of the replica's process; null if it was not within ``limit_s``.
    ``paced_s``: for how long writers were delayed for the replica's sake.
    """

    offered_mb_per_s: float
    before_mb_per_s: float
    meanwhile_mb_per_s: float
    after_mb_per_s: float
    in_sync_s: float | None
    limit_s: float
    image_copies: float
    log_kept_mib: float
    paced_s: float
    longest_write_s: float


class Writer:
    """Writes of 1 MiB, ``rate`` bytes a second or as many as possible, until the ``with`` ends."""

    def __init__(self, cluster: LocalCluster, rate: float) -> None:
        self._cluster = cluster
        self._rate = rate
        self._stopping = False
        self._done: list[tuple[float, float]] = []  # when each began, and when it ended
        self._thread = threading.Thread(target=self._work)

    @contextmanager
    def running(self) -> Iterator["Writer"]:
        """Write meanwhile."""
        self._thread.start()
        try:
            yield self
        finally:
            self._stopping = True
            self._thread.join()

    def mb_per_s(self, since: float, until: float) -> float:
        """What was written in that time."""
        count = sum(since < ended <= until for _, ended in list(self._done))
        return round(count * PIECE_BYTES / 1e6 / (until - since), 1)

    def longest(self, since: float, until: float) -> float:
        """The longest that a write took of those that ended in that time; seconds."""
        return max((e - b for b, e in list(self._done) if since < e <= until), default=0.0)

    def _work(self) -> None:
        with connect_blocking(self._cluster.endpoint) as connection:
            threads = [
                threading.Thread(target=self._write, args=(connection, slot))
                for slot in range(IN_FLIGHT)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def _write(self, connection: BlockingCluster, slot: int) -> None:
        content = bytes([slot + 1]) * PIECE_BYTES
        number, due = slot, time.monotonic() + slot * self._interval
        while not self._stopping:
            if self._rate:
                time.sleep(max(0.0, due - time.monotonic()))
                # What cannot be done in time is not made up for.
                due = max(due + IN_FLIGHT * self._interval, time.monotonic())
            minitransaction: Minitransaction[Any] = connection.minitransaction()
            minitransaction.write(0, number * PIECE_BYTES % IMAGE_BYTES, content)
            began = time.monotonic()
            connection.execute(minitransaction)
            self._done.append((began, time.monotonic()))
            number += IN_FLIGHT

    @property
    def _interval(self) -> float:
        return PIECE_BYTES / 1e6 / self._rate if self._rate else 0.0


@click.command()
@click.option("--mode", default="LOG-REPL", show_default=True)
@click.option("--rate", "rates", type=float, multiple=True, help="MB/s; 0: as fast as possible.")
@click.option("--limit", type=float, default=60.0, show_default=True, metavar="SECONDS")
@click.option("--directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(mode: str, rates: tuple[float, ...], limit: float, directory: Path | None) -> None:
    """A replica returns under writes of 1 MiB; one JSON object a line for each rate."""
    for rate in rates or RATES:
        with private_cluster(mode, directory=directory, replicas=1) as cluster:
            _, [replica] = members(cluster)
            cluster.kill(replica)
            fill(cluster, IMAGE_BYTES)
            with Writer(cluster, rate).running() as writer:
                report = _return_under_load(cluster, replica, writer, rate, limit)
        click.echo(msgspec.json.encode(report))


class _Seen:
    """What a series of looks at the cluster showed."""

    def __init__(self, cluster: LocalCluster, replica: str, until: float) -> None:
        """``note`` raises StartFailed after ``until``: a start itself waits for a catch-up."""
        self.in_sync_at: float | None = None
        self.log_kept = 0
        self.copies = 0.0
        self.paced_s = 0.0
        self._replica = cluster.endpoints[replica]
        self._until = until

    def note(self, sight: Sight) -> None:
        """Look."""
        entry = None if sight.directory is None else sight.directory.entry(MemoryNodeId(0))
        if entry is None:
            return
        if entry.in_sync and self.in_sync_at is None:
            self.in_sync_at = sight.taken_at
        primary = sight.statuses.get(entry.endpoint)
        if primary is not None:
            self.log_kept = max(self.log_kept, int(primary.figures.get("log_bytes", 0)))
            self.paced_s = float(primary.figures.get("paced_seconds", 0.0))
        replica = sight.statuses.get(self._replica)
        if replica is not None:
            self.copies = float(replica.figures.get("copied_bytes", 0)) / IMAGE_BYTES
        if self.in_sync_at is None and sight.taken_at > self._until:
            raise StartFailed("the replica is not in sync yet")


def _return_under_load(
    cluster: LocalCluster, replica: str, writer: Writer, rate: float, limit: float
) -> UnderLoad:
    began = time.monotonic()
    _wait_until_missed(cluster)
    started = time.monotonic()
    seen = _Seen(cluster, replica, started + limit)
    with suppress(StartFailed), Observer(cluster.endpoints.values()) as observer:
        cluster.start([replica], on_sight=seen.note)
        while seen.in_sync_at is None:
            time.sleep(LOOK_EVERY)
            seen.note(observer.look())
    ended = seen.in_sync_at or time.monotonic()
    time.sleep(AFTERWARDS if seen.in_sync_at else 0.0)
    return UnderLoad(
        offered_mb_per_s=rate,
        before_mb_per_s=writer.mb_per_s(began, started),
        meanwhile_mb_per_s=writer.mb_per_s(started, ended),
        after_mb_per_s=writer.mb_per_s(ended, ended + AFTERWARDS) if seen.in_sync_at else 0.0,
        in_sync_s=round(ended - started, 2) if seen.in_sync_at else None,
        limit_s=limit,
        image_copies=round(seen.copies, 1),
        log_kept_mib=round(seen.log_kept / MIB),
        paced_s=round(seen.paced_s, 2),
        longest_write_s=round(writer.longest(started, ended), 2),
    )


def _wait_until_missed(cluster: LocalCluster) -> None:
    logged = 0
    while logged < MISSED_BYTES:
        time.sleep(LOOK_EVERY)
        # On a busy machine not all answer in time; a replica that is away logs nothing.
        _, statuses = look(cluster)
        logged = max([int(s.figures.get("logged_bytes", 0)) for s in statuses.values()], default=0)


if __name__ == "__main__":
    main()
