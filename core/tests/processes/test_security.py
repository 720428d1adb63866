"""A cluster with keys, on real sockets: a peer without one is not heard, whatever it tries."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import zmq

from sinfonia import BlockingCluster, Keys, Unreachable, connect_blocking, load_keys
from sinfonia.addresses import MemoryNodeId
from sinfonia.client.seed import ask_for_directory
from sinfonia.minitransaction import WriteItem
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.operating.observer import ask_all
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.membership.messages import Recreate
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    Commit,
    ExecCommit,
    GetStatus,
    Replies,
    Request,
    Requests,
    Voted,
)
from sinfonia.testing.plugin import ClusterFactory
from sinfonia.testing.real_cluster import real_cluster, wait_until_well
from sinfonia.transport.codec import FRAME_BYTES_MAX, decode_replies, encode_requests
from sinfonia.transport.keygen import add_client
from sinfonia.transport.keys import CLIENTS
from sinfonia.transport.permissions import Role
from sinfonia.transport.zeromq import (
    HANDSHAKE_TIMEOUT_MS,
    UNREAD_QUEUE_MAX,
    bind_router,
    connect_dealer,
)

pytestmark = pytest.mark.network

DEADLINE = 30.0
COMMAND = [sys.executable, "-m", "sinfonia.cli.main"]

# How long is waited for an answer that must not come.
SILENCE = 0.4


@pytest.fixture(scope="module")
def cluster(shared_cluster_factory: ClusterFactory) -> LocalCluster:
    return shared_cluster_factory(memory_nodes=2, secure=True)


@pytest.fixture(scope="module")
def alice(cluster: LocalCluster) -> Keys:
    return new_client(cluster, "alice")


def new_client(cluster: LocalCluster, name: str, role: Role = Role.CLIENT) -> Keys:
    return load_keys(add_client(cluster.directory / "keys", name, role=role))


def revoke(cluster: LocalCluster, name: str) -> None:
    (cluster.directory / "keys" / CLIENTS / f"{name}.pub").unlink()


@contextmanager
def dealer_to(endpoint: str, keys: Keys | None) -> Iterator["zmq.Socket[bytes]"]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = connect_dealer(context, endpoint, keys)
    # So that what is said before there is a connection is not refused.
    dealer.set(zmq.SNDTIMEO, 1000)
    try:
        yield dealer
    finally:
        dealer.close(0)
        context.term()


def say(dealer: "zmq.Socket[bytes]", *requests: Request, client: int = 0) -> bool:
    batch = Requests(PROTOCOL_VERSION, client, 0, 0, list(requests))
    try:
        dealer.send_multipart(encode_requests(batch))
    except zmq.Again:
        return False
    return True


def answer(dealer: "zmq.Socket[bytes]", patience: float) -> Replies | None:
    if not dealer.poll(round(patience * 1e3)):
        return None
    return decode_replies(dealer.recv_multipart())


def answers(endpoint: str, keys: Keys | None, *requests: Request, client: int = 0) -> bool:
    """Whether a process answers; patiently if it should."""
    with dealer_to(endpoint, keys) as dealer:
        return say(dealer, *requests, client=client) and answer(dealer, SILENCE) is not None


def serves(cluster: LocalCluster, keys: Keys) -> None:
    """Everything goes on as before for a client that has a key."""
    with connect_blocking(cluster.endpoint, keys=keys) as connection:
        value = random.randbytes(8)
        connection.write(0, 512, value, timeout=DEADLINE)
        assert connection.read(0, 512, 8, timeout=DEADLINE) == value
    statuses = ask_all(cluster.endpoints.values(), keys, timeout=DEADLINE)
    assert statuses.keys() == set(cluster.endpoints.values())


def wait_for(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


# --- which peers may connect -------------------------------------------------------------------


def test_a_client_with_a_key_is_served(cluster: LocalCluster, alice: Keys) -> None:
    serves(cluster, alice)


@pytest.mark.parametrize("target", ["manager", "node0"])
def test_a_peer_without_a_key_is_not_heard(cluster: LocalCluster, alice: Keys, target: str) -> None:
    assert not answers(cluster.endpoints[target], None, GetStatus())
    assert answers(cluster.endpoints[target], alice, GetStatus())


@pytest.mark.parametrize("target", ["manager", "node0"])
def test_an_unknown_key_opens_nothing(cluster: LocalCluster, alice: Keys, target: str) -> None:
    public, secret = (half.decode("ascii") for half in zmq.curve_keypair())
    stranger = replace(alice, public=public, secret=secret)
    with dealer_to(cluster.endpoints[target], stranger) as dealer:
        assert not say(dealer, GetStatus()), "the handshake was accepted"
    # To know the public key of another is not to have the secret.
    assert not answers(cluster.endpoints[target], replace(alice, secret=secret), GetStatus())


def test_a_client_does_not_speak_to_a_server_that_only_claims_to_be_the_cluster(
    cluster: LocalCluster, alice: Keys
) -> None:
    other = zmq.curve_keypair()[0].decode("ascii")
    assert not answers(cluster.endpoint, replace(alice, cluster=other), GetStatus())


def test_a_client_that_is_refused_is_told_where_to_look(cluster: LocalCluster, alice: Keys) -> None:
    with pytest.raises(Unreachable, match="with --keys or keys="):
        connect_blocking(cluster.endpoint, timeout=0.5)
    public, secret = (half.decode("ascii") for half in zmq.curve_keypair())
    stranger = replace(alice, name="eve", public=public, secret=secret)
    with pytest.raises(Unreachable, match=r"key of 'eve'.*allow-list"):
        connect_blocking(cluster.endpoint, timeout=0.5, keys=stranger)


def test_a_revoked_key_ends_live_connections_too(cluster: LocalCluster, alice: Keys) -> None:
    bob = new_client(cluster, "bob")
    endpoint = cluster.endpoints["node0"]
    with dealer_to(endpoint, bob) as dealer:
        wait_for(lambda: say(dealer, GetStatus()), "a new key is refused")
        assert answer(dealer, DEADLINE) is not None
        revoke(cluster, "bob")

        def is_silenced() -> bool:
            say(dealer, GetStatus())
            return answer(dealer, SILENCE) is None

        wait_for(is_silenced, "a revoked key is still answered")
        write = ExecCommit(counter=1, epoch=0, writes=[WriteItem(1024, b"revoked")])
        _, incarnation = incarnation_of(cluster, alice)
        batch = Requests(PROTOCOL_VERSION, 2001, incarnation, 0, [write])
        dealer.send_multipart(encode_requests(batch))
        assert is_silenced()
    with connect_blocking(cluster.endpoint, keys=alice) as connection:
        assert connection.read(0, 1024, 7, timeout=DEADLINE) == bytes(7)
    assert not answers(endpoint, bob, GetStatus())
    serves(cluster, alice)


def test_a_key_that_is_added_while_its_holder_knocks_opens(cluster: LocalCluster) -> None:
    carol = new_client(cluster, "carol")
    entry = cluster.directory / "keys" / CLIENTS / "carol.pub"
    text = entry.read_text("utf-8")
    entry.unlink()
    with dealer_to(cluster.endpoints["node0"], carol) as dealer:
        assert not say(dealer, GetStatus())
        entry.write_text(text, "utf-8")
        entry.chmod(0o644)
        wait_for(lambda: say(dealer, GetStatus()), "a key that was added is refused")
        assert answer(dealer, DEADLINE) is not None


# --- what they may ask -------------------------------------------------------------------------


def test_a_client_may_not_manage(cluster: LocalCluster, alice: Keys) -> None:
    operator = load_keys(cluster.directory / "keys")
    # A memory node that does not exist: the manager says so, to a peer that it hears.
    nonsense = Recreate(MemoryNodeId(77))
    assert not answers(cluster.endpoint, alice, nonsense)
    assert answers(cluster.endpoint, operator, nonsense)
    log = cluster.log_file("manager").read_text("utf-8")
    assert "role client may not send Recreate" in log


def test_a_client_may_not_settle_what_another_has_begun(cluster: LocalCluster, alice: Keys) -> None:
    endpoint, incarnation = incarnation_of(cluster, alice)
    commit = Commit(Tid(0, 4711, 1), False)
    with dealer_to(endpoint, alice) as dealer:
        batch = Requests(PROTOCOL_VERSION, 4712, incarnation, 0, [commit])
        dealer.send_multipart(encode_requests(batch))
        assert answer(dealer, SILENCE) is None
        own = spoken_by(batch, client=4711)
        dealer.send_multipart(encode_requests(own))
        assert answer(dealer, DEADLINE) is not None


def test_a_client_incarnation_is_its_keys_own(cluster: LocalCluster, alice: Keys) -> None:
    mallory = new_client(cluster, "mallory")
    endpoint, incarnation = incarnation_of(cluster, alice)
    batch = Requests(PROTOCOL_VERSION, 815, incarnation, 0, [ExecCommit(counter=1, epoch=0)])
    with dealer_to(endpoint, alice) as first, dealer_to(endpoint, mallory) as second:
        first.send_multipart(encode_requests(batch))
        voted = answer(first, DEADLINE)
        assert voted is not None
        assert isinstance(voted.replies[0], Voted)
        second.send_multipart(encode_requests(batch))
        assert answer(second, SILENCE) is None
        second.send_multipart(encode_requests(spoken_by(batch, client=816)))
        assert answer(second, DEADLINE) is not None


def incarnation_of(cluster: LocalCluster, keys: Keys) -> tuple[str, int]:
    entry = ask_for_directory(cluster.endpoint, keys=keys).entry(MemoryNodeId(0))
    assert entry is not None
    return entry.endpoint, entry.incarnation


def spoken_by(batch: Requests, *, client: int) -> Requests:
    return Requests(batch.version, client, batch.incarnation, batch.floor, batch.requests)


# --- what is not even a client -----------------------------------------------------------------


@pytest.mark.parametrize("target", ["manager", "node0"])
def test_handshakes_that_stop_midway_do_no_harm(
    cluster: LocalCluster, alice: Keys, target: str
) -> None:
    """Of a real handshake so many bytes are said, and then nothing more."""
    whole = recorded_handshake(cluster.endpoints[target], alice)
    open_ends = [b"", whole[:1], whole[:10], whole[:64], whole[:100], whole[: len(whole) // 2]]
    connections = []
    try:
        for part in [*open_ends, whole] * 5:
            connection = raw_connection(cluster.endpoints[target])
            connection.sendall(part)
            connections.append(connection)
        serves(cluster, alice)
        # A peer that does not go on is given up.
        deadline = time.monotonic() + 3 * HANDSHAKE_TIMEOUT_MS / 1e3
        for connection in connections:
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            while connection.recv(65536):
                pass
    finally:
        for connection in connections:
            connection.close()
    serves(cluster, alice)


def recorded_handshake(endpoint: str, keys: Keys) -> bytes:
    """What a client says first: its greeting and its HELLO."""
    with socket.create_server(("127.0.0.1", 0)) as between:
        port = between.getsockname()[1]
        with dealer_to(f"tcp://127.0.0.1:{port}", keys):
            inner, _ = between.accept()
            with inner, raw_connection(endpoint) as outer:
                said = b""
                inner.settimeout(0.05)
                outer.settimeout(0.05)
                quiet_at = time.monotonic() + 1.0
                while time.monotonic() < quiet_at and len(said) < 64 + 200:
                    said += relay(inner, outer)
                    relay(outer, inner)
    assert len(said) >= 64 + 200, "a greeting has 64 bytes, a HELLO command some 200"
    return said


def relay(source: socket.socket, sink: socket.socket) -> bytes:
    try:
        data = source.recv(65536)
    except TimeoutError:
        return b""
    sink.sendall(data)
    return data


def raw_connection(endpoint: str) -> socket.socket:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=DEADLINE)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("target", ["manager", "node0"])
def test_garbage_does_no_harm(cluster: LocalCluster, alice: Keys, target: str, seed: int) -> None:
    rng = random.Random(seed)
    whole = recorded_handshake(cluster.endpoints[target], alice)
    for _ in range(20):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 5)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        with raw_connection(cluster.endpoints[target]) as connection:
            connection.sendall(rng.randbytes(3000) if rng.random() < 0.3 else damaged)
    serves(cluster, alice)


def test_a_huge_frame_costs_its_sender_the_connection_only(
    cluster: LocalCluster, alice: Keys
) -> None:
    with dealer_to(cluster.endpoints["node0"], alice) as dealer:
        assert say(dealer, GetStatus())
        assert answer(dealer, DEADLINE) is not None
        monitor = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        dealer.send(bytes(FRAME_BYTES_MAX + 1))
        assert monitor.poll(round(DEADLINE * 1e3)), "the sender is still connected"
        dealer.disable_monitor()
        monitor.close(0)
        serves(cluster, alice)


@pytest.mark.parametrize("target", ["manager", "node0"])
def test_garbage_of_a_peer_with_a_key_does_no_harm(
    cluster: LocalCluster, alice: Keys, target: str
) -> None:
    rng = random.Random(0)
    with dealer_to(cluster.endpoints[target], alice) as dealer:
        for _ in range(300):
            dealer.send_multipart([rng.randbytes(rng.randrange(200)) for _ in range(3)])
        serves(cluster, alice)


def test_what_is_not_read_waits_at_its_sender() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = bind_router(context, "tcp://127.0.0.1:*")
    place = router.get(zmq.LAST_ENDPOINT)
    dealer = context.socket(zmq.DEALER)
    dealer.set(zmq.LINGER, 0)
    dealer.set(zmq.SNDHWM, 1)
    dealer.set(zmq.SNDTIMEO, 1000)
    assert isinstance(place, bytes)
    dealer.connect(place.rstrip(b"\0").decode("ascii"))
    sent = 0
    try:
        with suppress(zmq.Again):
            while sent < 400:
                dealer.send(bytes(256 * 1024))
                sent += 1
    finally:
        dealer.close(0)
        router.close(0)
        context.term()
    # Beside these, some megabytes are in TCP.
    assert UNREAD_QUEUE_MAX <= sent < UNREAD_QUEUE_MAX + 100


# --- a whole cluster ---------------------------------------------------------------------------


def run(*arguments: object, **more: str) -> "subprocess.CompletedProcess[str]":
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SINFONIA_")}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
        env={**kept, **more},
    )


def succeeds(*arguments: object, **more: str) -> str:
    done = run(*arguments, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_commands_work_on_a_cluster_with_keys(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    # Only for its ports and its clean end: `up --secure` is what makes the cluster.
    model = cluster_factory(memory_nodes=2, mode="LOG-REPL", replicas=1, started=False)
    port = model.endpoint.rpartition(":")[2]
    shutil.rmtree(model.directory)
    here, keys = model.directory, model.directory / "keys"
    shape = ["--memory-nodes", 2, "--mode", "LOG-REPL", "--port", port]
    succeeds("up", here, "--secure", *shape)
    succeeds("put", here, "0:100", "text:hello")
    assert succeeds("get", here, "0:100+5") == "text:hello\n"
    assert json.loads(succeeds("status", here, "--json"))["cluster"] == here.name
    endpoint = f"tcp://127.0.0.1:{port}"
    without = run("get", endpoint, "0:100+5", "--timeout", 1)
    assert (without.returncode, without.stderr.count("\n")) == (1, 1)
    assert "--keys" in without.stderr
    succeeds("keygen", keys, "--client", "zoe")
    zoe = keys / "zoe.key"
    assert succeeds("get", endpoint, "0:100+5", "--keys", zoe) == "text:hello\n"
    assert succeeds("get", endpoint, "0:100+5", SINFONIA_KEYS=str(zoe)) == "text:hello\n"
    succeeds("backup", here, tmp_path / "backup")
    succeeds("replica", "add", here, 0)
    succeeds("status", here)
    succeeds("up", here, "--secure")
    assert "is down" in succeeds("down", here)


@pytest.mark.slow
def test_a_replica_takes_over_behind_closed_doors() -> None:
    with real_cluster(memory_nodes=1, secure=True) as cluster:
        zoe = new_client(cluster, "zoe")
        with connect_blocking(cluster.endpoint, keys=zoe) as connection:
            count_up(connection, 20)
            cluster.kill("node0")
            count_up(connection, 20)
            cluster.start()
            wait_until_well(cluster)
            count_up(connection, 20)
            assert connection.read(0, 0, 8, timeout=DEADLINE) == (60).to_bytes(8, "little")


def count_up(connection: BlockingCluster, times: int) -> None:
    for _ in range(times):
        now = connection.read(0, 0, 8, timeout=DEADLINE)
        minitransaction = connection.minitransaction()
        minitransaction.compare(0, 0, now)
        minitransaction.write(0, 0, (int.from_bytes(now, "little") + 1).to_bytes(8, "little"))
        assert minitransaction.execute(DEADLINE).committed


def test_off_loopback_without_keys_a_process_says_what_to_do(tmp_path: Path) -> None:
    place = ["--listen", "tcp://0.0.0.0:1", "--advertise", "tcp://127.0.0.1:1"]
    data = ["--data-directory", tmp_path / "data"]
    node = ["--node", 0, "--manager", "tcp://127.0.0.1:1", *place, *data]
    for command in (["memnode", *node], ["manager", "--cluster", "c", *place, *data]):
        done = run(*command)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "sinfonia keygen" in done.stderr
        assert "--plain" in done.stderr
