"""What one enemy can ask for must not outlast it, nor cost others more than it costs the enemy."""

import logging
import os
import resource
import socket
import time
from pathlib import Path

import pytest
import zmq
from msgspec.structs import replace

from sinfonia import ConfigError, connect_blocking
from sinfonia.addresses import MemoryNodeId
from sinfonia.minitransaction import WriteItem
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.lists import PROBE_PARTICIPANTS_MAX, first_of
from sinfonia.protocol.membership.configuration import COUNT_MAX, Refusal
from sinfonia.protocol.membership.messages import MemoryNodeEntry, Register
from sinfonia.protocol.membership.registering import on_register
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    ExecCommit,
    ExecPrepare,
    GetStatus,
    Requests,
    Resolve,
    Resolved,
    Unsettled,
    Vote,
    Voted,
)
from sinfonia.protocol.sessions import EPOCHS_AHEAD_MAX
from sinfonia.simulation.participant_harness import CLIENT, ParticipantHarness, prepare, tid
from sinfonia.testing.plugin import ClusterFactory
from sinfonia.transport import admission as admission_module
from sinfonia.transport.admission import COUNT_EVERY, Admission
from sinfonia.transport.allow_list import LOOK_EVERY, AllowList
from sinfonia.transport.codec import encode_requests
from sinfonia.transport.keygen import add_client, make_cluster_keys
from sinfonia.transport.keys import CLIENTS, load_keys, load_security
from sinfonia.transport.log_throttle import KINDS_MAX, LOG_EVERY, LogThrottle
from sinfonia.transport.permissions import Role
from sinfonia.transport.zeromq import connect_dealer

SENSIBLE = Register(
    node=MemoryNodeId(0),
    endpoint="tcp://a:1",
    capacity=4096,
    mode="LOG",
    identity="me",
    starts=1,
    empty=True,
)

WRITES = [WriteItem(0, b"x")]
BOTH = [MemoryNodeId(0), MemoryNodeId(1)]


# --- the manager ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nonsense",
    [
        replace(SENSIBLE, node=MemoryNodeId(-1)),
        replace(SENSIBLE, capacity=0),
        replace(SENSIBLE, lived=2**64 - 1),
        replace(SENSIBLE, epoch=2**62),
        replace(SENSIBLE, starts=COUNT_MAX + 1),
        replace(SENSIBLE, identity=""),
        replace(SENSIBLE, identity="x" * 1000),
        replace(SENSIBLE, mode="x" * 1000),
    ],
)
def test_the_directory_holds_nothing_that_cannot_be_stored(nonsense: Register) -> None:
    entry = on_register(None, SENSIBLE, [])
    assert isinstance(entry, MemoryNodeEntry)
    assert isinstance(on_register(None, nonsense, []), Refusal)
    assert isinstance(on_register(entry, nonsense, []), Refusal)


# --- locks, sessions and lists -------------------------------------------------------------------


def vote_on(harness: ParticipantHarness, request: ExecCommit | ExecPrepare) -> Vote:
    [voted] = harness.replies(request)
    assert isinstance(voted, Voted)
    return voted.vote


@pytest.mark.parametrize(
    "participants", [[0], [0, 0], [1, 0], [0, 1, 1], [1, 2], [*range(5000)]], ids=str
)
def test_what_recovery_could_not_settle_takes_no_locks(participants: list[int]) -> None:
    harness = ParticipantHarness()
    named = [MemoryNodeId(node) for node in participants]
    assert (
        vote_on(harness, ExecPrepare(tid=tid(1), participants=named, writes=WRITES))
        is Vote.BAD_RANGE
    )
    assert not harness.participant.state.in_doubt
    assert vote_on(harness, prepare(2, write=[(0, b"x")])) is Vote.OK


def test_no_session_lasts_for_ever() -> None:
    harness = ParticipantHarness()
    epoch = EPOCHS_AHEAD_MAX
    assert vote_on(harness, ExecCommit(counter=1, epoch=epoch, writes=WRITES)) is Vote.OK
    assert vote_on(harness, ExecCommit(counter=2, epoch=epoch + 1, writes=WRITES)) is Vote.BAD_EPOCH
    ahead = ExecPrepare(tid=Tid(epoch + 1, CLIENT, 3), participants=BOTH, writes=WRITES)
    assert vote_on(harness, ahead) is Vote.BAD_EPOCH
    assert not harness.replies(Resolve(Tid(epoch + 1, CLIENT, 4), BOTH))
    assert {session.epoch for session in harness.participant.state.sessions} == {epoch}


def test_promises_that_cannot_be_remembered_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sinfonia.protocol.sessions.PROMISES_PER_SESSION_MAX", 3)
    harness = ParticipantHarness()
    answers = [len(harness.replies(Resolve(tid(counter), BOTH))) for counter in range(5)]
    assert answers == [1, 1, 1, 0, 0]
    assert isinstance(harness.replies(Resolve(tid(0), BOTH))[0], Resolved)  # it stands by its word
    assert vote_on(harness, prepare(0, write=[(0, b"x")])) is Vote.BAD_FORCED


def test_what_is_in_doubt_is_counted_with_its_locks() -> None:
    harness = ParticipantHarness()
    many = [(2 * k, 1) for k in range(400)]
    assert vote_on(harness, prepare(1, read=many, write=[(1023, b"x")])) is Vote.OK
    session = harness.participant.state.sessions.get(CLIENT)
    assert session is not None
    assert session.in_doubt_bytes > 400 * 100


def test_a_probe_is_answered_in_a_message_of_bounded_size() -> None:
    crowd = [MemoryNodeId(node) for node in range(4000)]
    unsettled = [Unsettled(tid(counter), crowd) for counter in range(100)]
    reported = first_of(unsettled)
    assert 0 < sum(len(each.participants) for each in reported) <= PROBE_PARTICIPANTS_MAX
    endless = Unsettled(tid(1), crowd * 100)
    assert first_of([endless, endless]) == [endless]


# --- connections ---------------------------------------------------------------------------------


def test_who_takes_all_descriptors_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    admission = Admission(context, "tcp://127.0.0.1:*", None, plain=False, now=0.0)
    client = connect_dealer(context, admission.router.get_string(zmq.LAST_ENDPOINT).rstrip("\0"))
    now = 0.0

    def is_heard() -> bool:
        nonlocal now
        frames = encode_requests(Requests(PROTOCOL_VERSION, 0, 0, 0, [GetStatus()]))
        deadline = time.monotonic() + 20.0
        while time.monotonic() < deadline:
            if client.poll(10, zmq.POLLOUT):
                client.send_multipart(frames)
            # What is sent before it notices that it was hung up on is lost.
            time.sleep(0.005)
            now += COUNT_EVERY
            if list(admission.batches(now)):
                return True
        return False

    try:
        assert is_heard()
        monkeypatch.setattr(admission_module, "are_scarce", lambda: True)
        assert list(admission.batches(now + 1.0)) == []
        now += 1.0
        assert not admission._listening
        monkeypatch.setattr(admission_module, "are_scarce", lambda: False)
        assert is_heard(), "it does not listen any more"
    finally:
        client.close(0)
        admission.close()
        context.term()


@pytest.mark.network
@pytest.mark.slow
def test_connections_that_say_nothing_do_not_stop_a_memory_node(
    cluster_factory: ClusterFactory,
) -> None:
    cluster: LocalCluster = cluster_factory(mode="LOG")
    process = cluster.process("node0")
    assert process is not None
    host, _, port = cluster.endpoints["node0"].removeprefix("tcp://").rpartition(":")
    limit = len(list(Path(f"/proc/{process.pid}/fd").iterdir())) + 100
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (limit, limit))
    silent: list[socket.socket] = []
    try:
        with connect_blocking(cluster.endpoint) as connection:
            for number in range(40):
                for _ in range(10):
                    silent.append(socket.socket())
                    silent[-1].setblocking(False)
                    silent[-1].connect_ex((host, int(port)))
                connection.write(0, 0, bytes(4 << 20), timeout=30.0)
                assert connection.read(0, number, 1, timeout=30.0) == b"\0"
    finally:
        for each in silent:
            each.close()
    assert cluster.process("node0") == process


# --- keys and logs -------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_cluster_keys(tmp_path / "keys", cluster="test")
    return tmp_path / "keys"


def test_what_is_no_file_keeps_nobody_waiting_and_nobody_out(keys: Path) -> None:
    clients = keys / CLIENTS
    os.mkfifo(clients / "pipe.pub")
    (clients / "loop.pub").symlink_to("loop.pub")
    (clients / "folder.pub").mkdir()
    allowed = AllowList(clients, 0.0)
    add_client(keys, "alice", role=Role.CLIENT)
    allowed.refresh(LOOK_EVERY)
    assert {each.name for each in allowed.allowed.values()} == {"operator", "node", "alice"}
    os.mkfifo(keys / "bob.key", 0o600)
    with pytest.raises(ConfigError, match="no file"):
        load_keys(keys / "bob.key")


def test_an_allow_list_that_is_no_directory_is_refused_in_words(keys: Path) -> None:
    security = load_security(keys)
    (keys / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot use the allow-list"):
        AllowList(keys / "file", 0.0)
    assert AllowList(security.clients, 0.0).allowed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_who_owns_the_allow_list_could_add_anybody(keys: Path) -> None:
    clients = keys / CLIENTS
    os.chown(clients / "operator.pub", 12345, -1)
    assert {each.name for each in AllowList(clients, 0.0).allowed.values()} == {"node"}
    os.chown(clients, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        load_security(keys)


def test_nonsense_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    throttle = LogThrottle(logging.getLogger("test"))
    for _ in range(LOG_EVERY + 1):
        throttle.warn("malformed", "x\n" * 10_000)
    assert len(caplog.records) == 2
    assert all(len(record.getMessage()) < 1000 for record in caplog.records)
    assert "\n" not in caplog.text.rstrip("\n").replace("\nWARNING", "")
    for kind in range(10 * KINDS_MAX):
        throttle.warn(f"kind {kind}", "")
    assert len(throttle.times) <= KINDS_MAX + 1
