"""The directory in a real etcd: compare-and-swap, leadership, and everything that etcd may do."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest
import zmq

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import ConfigError, StorageError
from sinfonia.management.etcd_gateway import EtcdGateway
from sinfonia.management.etcd_store import CALL_TIMEOUT, EtcdStore
from sinfonia.management.leadership import LEASE_TTL, Election
from sinfonia.management.server import ManagerServer
from sinfonia.management.store import StoreConflict, StoreUnavailable
from sinfonia.operating.local_cluster import free_ports
from sinfonia.protocol.membership.manager import ManagerSettings
from sinfonia.protocol.membership.messages import Directory, NotLeading, Register, Registered
from sinfonia.protocol.messages import PROTOCOL_VERSION, Reply, Request, Requests
from sinfonia.testing.etcd import Etcd, running_etcd
from sinfonia.transport.codec import decode_replies, encode_requests
from sinfonia.transport.zeromq import connect_dealer

pytestmark = pytest.mark.network

PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    """One member that no test harms; each test has a cluster name of its own."""
    with running_etcd() as running:
        yield running


@contextmanager
def opened(etcd: Etcd, cluster: str, candidate: str = "me") -> Iterator[EtcdStore]:
    with closing(EtcdStore(etcd.endpoints, cluster=cluster, candidate=candidate)) as store:
        yield store


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.02)


def refreshed(store: EtcdStore) -> Directory:
    store.refresh()
    return store.directory


def following(store: EtcdStore, epoch: int = 0) -> Directory:
    old = store.directory
    return Directory(old.version + 1, epoch, old.cluster, [])


def test_what_one_stores_another_finds(etcd: Etcd) -> None:
    with opened(etcd, "found") as store:
        assert store.directory == Directory(0, 0, "found", [])
        store.replace(following(store, epoch=4))
        store.replace(following(store, epoch=5))
    with opened(etcd, "found") as store:
        assert store.directory == Directory(2, 5, "found", [])


def test_no_manager_overwrites_what_it_has_not_seen(etcd: Etcd) -> None:
    with opened(etcd, "race", "first") as first, opened(etcd, "race", "second") as second:
        mine, yours = following(first, epoch=1), following(second, epoch=2)
        first.replace(mine)
        with pytest.raises(StoreConflict):
            second.replace(yours)
        assert second.directory == mine
        second.replace(following(second, epoch=3))


def test_what_others_store_is_noticed(etcd: Etcd) -> None:
    with opened(etcd, "news", "first") as first, opened(etcd, "news", "second") as second:
        first.replace(following(first, epoch=1))
        wait_for(lambda: refreshed(second) == first.directory, "the watcher reads it")


def test_one_candidate_leads_and_the_next_one_when_it_resigns(etcd: Etcd) -> None:
    with opened(etcd, "lead", "first") as first:
        wait_for(lambda: first.leading, "the first leads")
        with opened(etcd, "lead", "second") as second:
            wait_for(lambda: second.leader == "first", "the second knows that")
            assert not second.leading
            first.close()
            wait_for(lambda: second.leading, "the second leads")


def test_a_leader_that_is_not_heard_of_is_replaced_when_its_lease_has_run_out(etcd: Etcd) -> None:
    gateway = EtcdGateway(etcd.endpoints, timeout=CALL_TIMEOUT)
    with closing(gateway):
        silent = Election(gateway, key="/silent/leader", candidate="silent")
        began = time.monotonic()
        assert silent.campaign(began).mine
        other = Election(gateway, key="/silent/leader", candidate="other")
        assert other.campaign(time.monotonic()).leader == "silent"
        wait_for(lambda: other.campaign(time.monotonic()).mine, "the lease runs out")
        assert time.monotonic() - began >= LEASE_TTL * 0.9
        assert silent.campaign(time.monotonic()).leader == "other", "it notices"


def test_a_store_of_something_else_is_refused(etcd: Etcd) -> None:
    gateway = EtcdGateway(etcd.endpoints, timeout=CALL_TIMEOUT)
    with closing(gateway):
        gateway.swap("/sinfonia/strange/directory", 0, b"what is this?")
    with pytest.raises(StorageError, match="cannot be read"):
        EtcdStore(etcd.endpoints, cluster="strange", candidate="me")


@pytest.mark.parametrize(
    ("endpoints", "why"), [([], "no endpoint is given"), (["10.0.0.1:2379"], "http://host:2379")]
)
def test_bad_endpoints_are_refused(endpoints: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        EtcdStore(endpoints, cluster="any", candidate="me")


def test_a_swap_whose_answer_is_lost_is_looked_up_before_the_next(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(etcd, "lost") as store:
        store.replace(following(store, epoch=1))
        before = store.directory
        with monkeypatch.context() as patch:
            patch.setattr(EtcdGateway, "swap", _losing_the_answer(EtcdGateway.swap))
            with pytest.raises(StoreUnavailable):
                store.replace(following(store, epoch=2))
        assert store.directory == before, "nobody knows"
        with pytest.raises(StoreConflict):
            store.replace(following(store, epoch=7))
        assert store.directory.epoch == 2, "it happened"
        store.replace(following(store, epoch=8))


def _losing_the_answer(swap: Callable[..., int | None]) -> Callable[..., int | None]:
    def broken(self: EtcdGateway, key: str, expected_revision: int, value: bytes) -> int | None:
        swap(self, key, expected_revision, value)
        raise StoreUnavailable("the answer was lost")

    return broken


def test_an_etcd_that_stands_still_is_not_waited_for_and_goes_on_afterwards(etcd: Etcd) -> None:
    with opened(etcd, "still") as store:
        store.replace(following(store, epoch=1))
        before = store.directory
        etcd.pause()
        try:
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                store.replace(following(store, epoch=2))
            assert time.monotonic() - began < 2 * CALL_TIMEOUT
            assert store.directory == before
        finally:
            etcd.resume()
        wait_for(lambda: _stored(store, following(store, epoch=8)), "it goes on")
        assert store.directory.version <= before.version + 2, "what was on its way, and this"


def test_an_etcd_that_is_away_costs_no_time_and_no_manager() -> None:
    with running_etcd() as etcd, opened(etcd, "away") as store:
        wait_for(lambda: store.leading, "it leads")
        etcd.kill()
        wait_for(lambda: not store.leading, "a lease that is not extended ends")
        assert store.leader == ""
        began = time.monotonic()
        for _ in range(100):
            store.refresh()
            with pytest.raises(StoreUnavailable):
                store.replace(following(store))
        assert time.monotonic() - began < 1.0
        etcd.start()
        wait_for(lambda: store.leading, "it leads again")
        store.replace(following(store))


def test_a_manager_may_begin_while_etcd_is_away() -> None:
    with running_etcd() as etcd:
        with opened(etcd, "later") as store:
            store.replace(following(store, epoch=3))
        etcd.kill()
        with opened(etcd, "later") as store:
            assert store.directory.version == 0
            with pytest.raises(StoreUnavailable):
                store.replace(following(store))
            etcd.start()
            wait_for(lambda: refreshed(store).epoch == 3, "it finds what was stored")


@pytest.mark.slow
def test_the_death_of_one_of_three_members_is_survived_even_of_their_leader() -> None:
    with running_etcd(3) as etcd, opened(etcd, "three") as store:
        for _ in range(3):
            victim = etcd.leader()
            etcd.kill(victim)
            before = store.directory.version
            wait_for(lambda: _stored(store, following(store)), "two members are enough")
            assert store.directory.version > before
            etcd.start(victim)
        etcd.kill(0, 1)
        with pytest.raises(StoreUnavailable):
            store.replace(following(store))
        etcd.start(0, 1)
        wait_for(lambda: _stored(store, following(store)), "the quorum is back")


def _stored(store: EtcdStore, directory: Directory) -> bool:
    try:
        store.replace(directory)
    except (StoreConflict, StoreUnavailable):
        return False
    return True


# --- managers on it ------------------------------------------------------------------------------


class RunningManager:
    """A manager on a socket, awake when the test says so."""

    def __init__(self, etcd: Etcd, endpoint: str, endpoints: list[str]) -> None:
        self.server = ManagerServer(
            endpoint=endpoint,
            store=EtcdStore(etcd.endpoints, cluster="managers", candidate=endpoint),
            settings=ManagerSettings(),
            managers=endpoints,
        )
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = connect_dealer(self._context, endpoint)

    def ask(self, request: Request) -> Reply:
        """Ask as a member does: again and again."""
        frames = encode_requests(Requests(PROTOCOL_VERSION, 1, 0, 0, [request]))
        deadline = time.monotonic() + PATIENCE_S
        asked_at = 0.0
        while time.monotonic() < deadline:
            if time.monotonic() - asked_at > 1.0 and self._socket.poll(0, zmq.POLLOUT):
                self._socket.send_multipart(frames)
                asked_at = time.monotonic()
            self.server.wake_up()
            if self._socket.poll(10):
                return decode_replies(self._socket.recv_multipart()).replies[0]
        raise AssertionError(f"no answer to {request}")

    def close(self) -> None:
        self._socket.close(0)
        self._context.term()
        self.server.close()


def test_managers_on_etcd_have_one_leader_and_its_successor_knows_all_it_knew(etcd: Etcd) -> None:
    endpoints = [f"tcp://127.0.0.1:{port}" for port in free_ports(2)]
    register = Register(
        node=MemoryNodeId(0),
        endpoint="tcp://127.0.0.1:9",
        capacity=1024,
        mode="LOG",
        identity="one",
        starts=1,
        empty=True,
    )
    with closing(RunningManager(etcd, endpoints[0], endpoints)) as first:
        wait_for(lambda: _leads(first), "the first leads")
        with closing(RunningManager(etcd, endpoints[1], endpoints)) as second:
            wait_for(lambda: _leader_of(second) == endpoints[0], "the second hears of it")
            assert second.ask(register) == NotLeading(endpoints[0])
            welcome = first.ask(register)
            assert isinstance(welcome, Registered)
            assert not welcome.refusal
            first.close()
            wait_for(lambda: _leads(second), "the second leads")
            again = second.ask(register)
            assert isinstance(again, Registered)
            assert again.directory.entry(MemoryNodeId(0)) == welcome.directory.entry(
                MemoryNodeId(0)
            )
            wait_for(lambda: _managers_of(second) == endpoints, "the directory names both")


def _leads(manager: RunningManager) -> bool:
    manager.server.wake_up()
    return manager.server.manager.leading


def _leader_of(manager: RunningManager) -> str:
    manager.server.wake_up()
    return manager.server.manager.leader


def _managers_of(manager: RunningManager) -> list[str]:
    manager.server.wake_up()
    return manager.server.manager.directory.managers
