"""A replica whose disk is slow, and one that returns under load: real processes."""

import threading
from typing import Self

import pytest

from bench.slow_disk import replica_with_slow_disk
from sinfonia import connect_blocking
from sinfonia.client.blocking import BlockingCluster
from sinfonia.operating.cluster_status import ClusterStatus
from sinfonia.testing.real_cluster import (
    real_cluster,
    replicas_of,
    wait_until,
    wait_until_well,
)

pytestmark = [pytest.mark.network, pytest.mark.slow]

MIB = 1 << 20

# Of each sync, in seconds: some times as long as an acknowledgement may take.
DELAY = 0.2


class Writers:
    """Each overwrites a place of its own, until the ``with`` ends, with a number that grows."""

    def __init__(self, connection: BlockingCluster, count: int, size: int) -> None:
        self.told = [0] * count
        self._size = size
        self._connection = connection
        self._stopping = False
        self._threads = [threading.Thread(target=self._work, args=(i,)) for i in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        """What they were told is there."""
        for place, number in enumerate(self.told):
            found = self._connection.read(0, place * self._size, 8)
            assert int.from_bytes(found, "little") >= number > 0

    def _work(self, place: int) -> None:
        number = 0
        while not self._stopping:
            number += 1
            data = number.to_bytes(8, "little") * (self._size // 8)
            self._connection.write(0, place * self._size, data)
            self.told[place] = number


def _dropped_for_being_slow(status: ClusterStatus) -> bool:
    return any(each.figures.get("replicas_dropped_slow") for each in status.processes)


def test_a_replica_with_a_slow_disk_is_done_without_and_comes_back_once_it_is_mended() -> None:
    with real_cluster(memory_nodes=1) as cluster:
        [replica] = replicas_of(cluster, 0)
        with (
            replica_with_slow_disk(cluster, replica) as slow,
            connect_blocking(cluster.endpoint) as connection,
        ):
            wait_until_well(cluster)
            with Writers(connection, 4, 8) as writers:
                slow(DELAY)
                wait_until(cluster, _dropped_for_being_slow, "it is dropped")
                slow(0.0)
                wait_until_well(cluster)
            writers.check()


def test_a_replica_that_returns_while_megabytes_are_written_is_in_sync_under_load() -> None:
    with (
        real_cluster(memory_nodes=1, checkpoint_log=16 * MIB, keep_log=16 * MIB) as cluster,
        connect_blocking(cluster.endpoint) as connection,
    ):
        [replica] = replicas_of(cluster, 0)
        cluster.kill(replica)
        with Writers(connection, 6, MIB) as writers:
            cluster.start([replica])
            wait_until_well(cluster)
            before = sum(writers.told)
            wait_until(cluster, lambda _: sum(writers.told) > before, "there is load")
        writers.check()
