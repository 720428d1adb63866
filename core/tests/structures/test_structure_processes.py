"""Ring and hash map on real processes: the same operations, by several threads at a time."""

import threading

import pytest

from sinfonia import connect_blocking
from sinfonia.addresses import MemoryNodeId
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.structures import (
    ClientTable,
    Full,
    HashMap,
    Place,
    Records,
    Region,
    Ring,
    Stamped,
    Trimmed,
    Writer,
    create_hash_map,
    follow,
    scan,
    statistics,
)
from sinfonia.testing.hash_map_audit import audit
from sinfonia.testing.plugin import ClusterFactory

pytestmark = pytest.mark.network

CAPACITY = 16 * 1024 * 1024
MIB = 1 << 20

CLIENTS = 3
EACH = 60


@pytest.fixture(scope="module")
def cluster(shared_cluster_factory: ClusterFactory) -> LocalCluster:
    return shared_cluster_factory(memory_nodes=2, mode="RAM", capacity=CAPACITY)


def side_by_side(work: list[threading.Thread]) -> None:
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()


def test_writers_share_a_ring_and_a_follower_sees_all_in_order(cluster: LocalCluster) -> None:
    ring = Ring(0, MIB, slots=CLIENTS * EACH, slot_bytes=64)
    table = ClientTable(MemoryNodeId(0), 4096, slots=8)
    positions: dict[int, list[int | Full | Trimmed]] = {}

    def write(number: int) -> None:
        with connect_blocking(cluster.endpoint) as connection:
            [lane] = connection.run(table.register(number.to_bytes(16, "little")))
            writer = Writer(ring, table, lane)
            positions[number] = [
                connection.run(writer.append(k, b"%d" % number)) for k in range(1, EACH + 1)
            ]

    with connect_blocking(cluster.endpoint) as connection:
        connection.run(ring.create())
        work = [threading.Thread(target=write, args=(number,)) for number in range(1, CLIENTS + 1)]
        for thread in work:
            thread.start()
        seen: list[Stamped] = []
        while len(seen) < CLIENTS * EACH:
            found = connection.run(follow(ring, len(seen), 16), timeout=30.0)
            assert isinstance(found, Records)
            seen += map(Stamped.decode, found.payloads)
        for thread in work:
            thread.join()
        assert connection.run(ring.append(b"")) == Full()
    for number in range(1, CLIENTS + 1):
        mine = [k for k, stamped in enumerate(seen) if stamped.body == b"%d" % number]
        assert positions[number] == mine
        assert [seen[k].sequence for k in mine] == list(range(1, EACH + 1))


def test_clients_fill_one_map_while_it_grows(cluster: LocalCluster) -> None:
    home = Place(0, 8192)
    regions = [Region(node, 2 * MIB, 2 * MIB) for node in (0, 1)]

    def key(number: int, k: int) -> bytes:
        return b"%d of %d" % (k, number)

    def write(number: int) -> None:
        with connect_blocking(cluster.endpoint) as connection:
            map_ = connection.run(HashMap.open(home))
            for k in range(EACH):
                connection.run(map_.put(key(number, k), bytes(10 * k)))
                assert connection.run(map_.get(key(number, k // 2))) is not None

    with connect_blocking(cluster.endpoint) as connection:
        connection.run(create_hash_map(home, regions, bucket_bytes=1024))
        side_by_side([threading.Thread(target=write, args=(k,)) for k in range(CLIENTS)])
        map_ = connection.run(HashMap.open(home))
        met = []
        point: int | None = 0
        while point is not None:
            page = connection.run(scan(map_, point))
            met += [(name, len(found.value)) for name, found in page.entries]
            point = page.next
        wanted = [(key(number, k), 10 * k) for number in range(CLIENTS) for k in range(EACH)]
        assert sorted(met) == sorted(wanted)
        assert connection.run(statistics(map_)).entries == CLIENTS * EACH
        assert connection.run(audit(map_)) > 8
