"""Whatever arrives at its socket, a process goes on and serves the others.

The inputs are random but the seeds are fixed, so that a failure repeats.
"""

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import zmq

from sinfonia import connect_blocking
from sinfonia.addresses import MemoryNodeId
from sinfonia.client.seed import ask_for_directory
from sinfonia.minitransaction import CompareItem, ReadItem, WriteItem
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.operating.observer import ask_all
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.membership.messages import Recreate, Register
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    Commit,
    ExecCommit,
    ExecPrepare,
    Forget,
    GetDirectory,
    GetStatus,
    Probe,
    Request,
    Requests,
    Resolve,
)
from sinfonia.testing.plugin import ClusterFactory
from sinfonia.transport.codec import FRAME_BYTES_MAX, encode_requests

pytestmark = pytest.mark.network

SEEDS = range(4)
MESSAGES_PER_SEED = 300

# No memory node of these tests; what is said about it must not matter to the others.
STRANGER = MemoryNodeId(100)

TARGETS = ("manager", "node0")


@pytest.fixture(scope="module")
def cluster(shared_cluster_factory: ClusterFactory) -> LocalCluster:
    return shared_cluster_factory(memory_nodes=2)


@contextmanager
def enemy(endpoint: str) -> Iterator["zmq.Socket[bytes]"]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.set(zmq.LINGER, 1000)
    dealer.set(zmq.SNDTIMEO, 5000)
    dealer.connect(endpoint)
    try:
        yield dealer
    finally:
        dealer.close()
        context.term()


def assert_unharmed(cluster: LocalCluster) -> None:
    """All processes are the same as before and serve, over one node and over two."""
    assert set(cluster.running) == set(cluster.endpoints)
    answers = ask_all(cluster.endpoints.values(), timeout=5.0)
    assert {answer.state for answer in answers.values()} == {"serving"}
    assert len(answers) == len(cluster.endpoints)
    with connect_blocking(cluster.endpoint) as connection:
        for word in (b"unharmed", b"goes on."):
            minitransaction = connection.minitransaction()
            minitransaction.write(0, 4096, word)
            minitransaction.write(1, 4096, word)
            minitransaction.execute(timeout=10.0)
            assert connection.read(0, 4096, 8) == connection.read(1, 4096, 8) == word


def valid_requests(rng: random.Random, epoch: int) -> list[Request]:
    """One of each kind, so that changes to them reach every handler."""
    client = rng.randrange(2**64)
    tids = [Tid(epoch, client, rng.randrange(1000)) for _ in range(3)]
    both = [MemoryNodeId(0), MemoryNodeId(1)]
    compares, reads = [CompareItem(64, bytes(4))], [ReadItem(64, 8)]
    writes = [WriteItem(rng.randrange(2048), rng.randbytes(8))]
    return [
        ExecCommit(
            counter=rng.randrange(1000), epoch=epoch, compares=compares, reads=reads, writes=writes
        ),
        ExecPrepare(tid=tids[0], participants=both, compares=compares, reads=reads, writes=writes),
        ExecPrepare(
            tid=tids[1],
            participants=both,
            compares=compares,
            reads=reads,
            writes=[],
            read_only=True,
        ),
        Commit(tids[0], rng.random() < 0.5),
        Resolve(tids[2], both),
        Forget(tids),
        Probe(epoch, 0.5, 10.0),
        GetDirectory(),
        GetStatus(),
        Register(
            node=STRANGER,
            endpoint="tcp://127.0.0.1:9",
            capacity=4096,
            mode="LOG",
            identity="stranger",
            starts=1,
            empty=False,
        ),
        Recreate(STRANGER),
    ]


def batches(cluster: LocalCluster, rng: random.Random) -> Iterator[bytes]:
    """Valid batches without end, most of them for the present incarnation."""
    directory = ask_for_directory(cluster.endpoint)
    incarnation = next(entry.incarnation for entry in directory.nodes if entry.node == 0)
    while True:
        requests = valid_requests(rng, directory.epoch)
        chosen = rng.sample(requests, rng.randint(1, len(requests)))
        meant_for = incarnation if rng.random() < 0.8 else rng.randrange(2**64)
        batch = Requests(PROTOCOL_VERSION, rng.randrange(2**64), meant_for, 0, chosen)
        yield encode_requests(batch)[0]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", SEEDS)
def test_random_bytes_do_no_harm(cluster: LocalCluster, target: str, seed: int) -> None:
    rng = random.Random(seed)
    with enemy(cluster.endpoints[target]) as dealer:
        for _ in range(MESSAGES_PER_SEED):
            frames = [rng.randbytes(rng.randrange(200)) for _ in range(rng.randint(1, 4))]
            dealer.send_multipart(frames)
    assert_unharmed(cluster)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", SEEDS)
def test_truncated_batches_do_no_harm(cluster: LocalCluster, target: str, seed: int) -> None:
    rng = random.Random(seed)
    with enemy(cluster.endpoints[target]) as dealer:
        for _, batch in zip(range(MESSAGES_PER_SEED), batches(cluster, rng), strict=False):
            dealer.send(batch[: rng.randrange(len(batch))])
    assert_unharmed(cluster)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", SEEDS)
def test_batches_with_flipped_bits_do_no_harm(
    cluster: LocalCluster, target: str, seed: int
) -> None:
    rng = random.Random(seed)
    with enemy(cluster.endpoints[target]) as dealer:
        for _, batch in zip(range(MESSAGES_PER_SEED), batches(cluster, rng), strict=False):
            flipped = bytearray(batch)
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
            dealer.send(bytes(flipped))
    assert_unharmed(cluster)


@pytest.mark.parametrize("target", TARGETS)
def test_valid_batches_of_a_stranger_do_no_harm(cluster: LocalCluster, target: str) -> None:
    rng = random.Random(0)
    with enemy(cluster.endpoints[target]) as dealer:
        for _, batch in zip(range(MESSAGES_PER_SEED), batches(cluster, rng), strict=False):
            dealer.send(batch)
    assert_unharmed(cluster)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("version", [-1, 0, 2, 255, 2**63])
def test_other_versions_do_no_harm(cluster: LocalCluster, target: str, version: int) -> None:
    with enemy(cluster.endpoints[target]) as dealer:
        dealer.send(encode_requests(Requests(version, 1, 0, 0, [GetStatus()]))[0])
    assert_unharmed(cluster)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("number", [0, 2, 1000])
def test_an_odd_number_of_frames_does_no_harm(
    cluster: LocalCluster, target: str, number: int
) -> None:
    batch = encode_requests(Requests(PROTOCOL_VERSION, 1, 0, 0, [GetStatus()]))[0]
    with enemy(cluster.endpoints[target]) as dealer:
        dealer.send_multipart([batch] * number or [b""])
    assert_unharmed(cluster)


@pytest.mark.parametrize("target", TARGETS)
def test_a_huge_frame_costs_its_sender_the_connection_only(
    cluster: LocalCluster, target: str
) -> None:
    with enemy(cluster.endpoints[target]) as dealer:
        dealer.send(bytes(FRAME_BYTES_MAX + 1))
        assert_unharmed(cluster)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_not_even_zeromq_does_no_harm(
    cluster: LocalCluster, target: str, seed: int
) -> None:
    host, _, port = cluster.endpoints[target].removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5.0) as connection:
        connection.sendall(random.Random(seed).randbytes(5000))
        assert_unharmed(cluster)


@pytest.mark.parametrize("endpoint", ["", "nonsense", "tcp://", "tcp://host:99999", "tcp://*:1"])
def test_registering_at_an_impossible_place_does_no_harm(
    cluster: LocalCluster, endpoint: str
) -> None:
    register = Register(
        node=STRANGER,
        endpoint=endpoint,
        capacity=4096,
        mode="LOG",
        identity="stranger",
        starts=1,
        empty=False,
    )
    batch = Requests(PROTOCOL_VERSION, 1, 0, 0, [register])
    with enemy(cluster.endpoint) as dealer:
        dealer.send_multipart(encode_requests(batch))
    assert_unharmed(cluster)
