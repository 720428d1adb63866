"""One client that asks without end, or reads no answer, costs the others time and the node little.

What the flooding client sends it sends as fast as TCP takes it, over connections of its own.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest
import zmq

from sinfonia import connect_blocking
from sinfonia.addresses import MemoryNodeId
from sinfonia.client.seed import ask_for_directory
from sinfonia.cluster_keys import operator_keys
from sinfonia.minitransaction import ReadItem, WriteItem
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    ExecCommit,
    GetStatus,
    Request,
    Requests,
)
from sinfonia.testing.plugin import ClusterFactory
from sinfonia.transport.codec import encode_requests
from sinfonia.transport.zeromq import connect_dealer

DEADLINE = 60.0
MIB = 1 << 20

# How long a flood lasts while the others are looked at.
FLOOD_SECONDS = 3.0
FLOODERS = 3

# What a memory node may come to hold because of a flood: some unread messages of each connection,
# their decoded form, and what the allocator keeps.
RESIDENT_MIB_MAX = 400

pytestmark = [pytest.mark.network, pytest.mark.slow]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "secure"])
def cluster(shared_cluster_factory: ClusterFactory, request: pytest.FixtureRequest) -> LocalCluster:
    return shared_cluster_factory(mode="RAM", secure=request.param)


class Flood:
    """Connections over which batches leave as long as they can, in a thread each."""

    def __init__(self, cluster: LocalCluster, batches: list[list[bytes]], *, reads: bool) -> None:
        self.sent = [0] * FLOODERS
        self._endpoint = cluster.endpoints["node0"]
        self._keys = operator_keys(cluster.config)
        self._batches = batches
        self._reads = reads
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._flood, args=(k,), daemon=True) for k in range(FLOODERS)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()

    def _flood(self, number: int) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        dealer = connect_dealer(context, self._endpoint, self._keys)
        dealer.set(zmq.SNDTIMEO, 20)
        try:
            while not self._over.is_set():
                try:
                    dealer.send_multipart(self._batches[self.sent[number] % len(self._batches)])
                    self.sent[number] += 1
                except zmq.Again:
                    pass
                while self._reads and dealer.poll(0):
                    dealer.recv_multipart()
        finally:
            dealer.close(0)
            context.term()


def resident_mib(cluster: LocalCluster, name: str = "node0") -> float:
    process = cluster.process(name)
    assert process is not None
    status = Path(f"/proc/{process.pid}/status").read_text("ascii")
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


def batches_of(cluster: LocalCluster, client: int, *requests: Request) -> list[list[bytes]]:
    keys = operator_keys(cluster.config)
    entry = ask_for_directory(cluster.endpoint, usable=True, keys=keys).entry(MemoryNodeId(0))
    assert entry is not None
    batch = Requests(PROTOCOL_VERSION, client, entry.incarnation, 0, list(requests))
    return [encode_requests(batch, large=True)]


def small_requests() -> list[Request]:
    return [
        ExecCommit(counter=k, epoch=0, reads=[ReadItem(0, 8)], writes=[WriteItem(64, b"x" * 8)])
        for k in range(2000)
    ]


def large_writes() -> list[Request]:
    return [
        ExecCommit(counter=k, epoch=0, writes=[WriteItem(MIB, bytes(2 * MIB))]) for k in range(1)
    ]


def large_reads() -> list[Request]:
    return [ExecCommit(counter=k, epoch=0, reads=[ReadItem(MIB, 4 * MIB)]) for k in range(1)]


def questions() -> list[Request]:
    return [GetStatus()] * 50


FLOODS: dict[str, Callable[[], list[Request]]] = {
    "small": small_requests,
    "writes": large_writes,
    "reads": large_reads,
    "unread": large_reads,
    "status": questions,
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_starves_no_other_and_fills_no_memory(cluster: LocalCluster, kind: str) -> None:
    requests = FLOODS[kind]()
    keys = operator_keys(cluster.config)
    batches = batches_of(cluster, 999, *requests)
    with connect_blocking(cluster.endpoint, keys=keys) as connection:
        connection.write(0, 8, b"before", timeout=DEADLINE)
        before = most = resident_mib(cluster)
        served = 0
        with Flood(cluster, batches, reads=kind != "unread") as flood:
            until = time.monotonic() + FLOOD_SECONDS
            while time.monotonic() < until or served < 10:
                value = served.to_bytes(8, "little")
                connection.write(0, 8, value, timeout=DEADLINE)
                assert connection.read(0, 8, 8, timeout=DEADLINE) == value
                served += 1
                most = max(most, resident_mib(cluster))
        assert all(flood.sent), "nothing was flooded"
        assert most - before < RESIDENT_MIB_MAX
