"""What ClusterHandle promises holds of every kind of cluster; these tests know nothing else of one.

A new implementation joins by one entry in HANDLES (processes within reach) or REACHABLE.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from sinfonia.errors import ConfigError
from sinfonia.operating.actions import Promote
from sinfonia.operating.handle import (
    ClusterHandle,
    Condition,
    ProcessKind,
    ReachableCluster,
)
from sinfonia.operating.named_cluster import find_cluster
from sinfonia.operating.refusals import NotRunning, NotYet
from sinfonia.testing.cluster_on_hosts import cluster_on_hosts
from sinfonia.testing.netns import TEST, missing_for_networks
from sinfonia.testing.real_cluster import real_cluster

pytestmark = [pytest.mark.network, pytest.mark.slow]

DEADLINE = 40.0

# A memory node with a replica: the smallest cluster on which every method can be seen to work.
NAMES = ["manager", "node0", "node0r1"]

Make = Callable[[], AbstractContextManager[ClusterHandle]]


@contextmanager
def local() -> Iterator[ClusterHandle]:
    with real_cluster(memory_nodes=1) as cluster:
        yield cluster


@contextmanager
def on_hosts() -> Iterator[ClusterHandle]:
    if missing := missing_for_networks():
        pytest.skip(missing)
    with cluster_on_hosts(memory_nodes=1) as (cluster, _):
        yield cluster


HANDLES: dict[str, Make] = {"local": local, "on hosts": on_hosts}

Reach = Callable[[ClusterHandle], ReachableCluster]


def by_endpoints(handle: ClusterHandle) -> ReachableCluster:
    return find_cluster(handle.contact)


def by_description(handle: ClusterHandle) -> ReachableCluster:
    return find_cluster(str(Path(handle.name) / "cluster.toml"))


REACHABLE: dict[str, Reach] = {
    "itself": lambda handle: handle,
    "by endpoints": by_endpoints,
    "by description": by_description,
}


@pytest.fixture(scope="module", params=HANDLES)
def shared(request: pytest.FixtureRequest) -> Iterator[ClusterHandle]:
    with ExitStack() as stack:
        yield stack.enter_context(HANDLES[request.param]())


@pytest.fixture
def handle(shared: ClusterHandle) -> Iterator[ClusterHandle]:
    """A cluster that is well, and is put right again when a test ends."""
    yield shared
    for name in NAMES:
        shared.resume(name)
    if shared.network is not None:
        shared.network.heal()
    shared.start()
    shared.wait_until_healthy(DEADLINE)


# --- what answers ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", REACHABLE)
def test_a_cluster_tells_its_processes_and_how_they_are(handle: ClusterHandle, way: str) -> None:
    cluster = REACHABLE[way](handle)
    places = {place.name: place for place in cluster.places()}
    assert list(places) == NAMES
    assert [place.kind for place in places.values()] == [
        ProcessKind.MANAGER,
        ProcessKind.MEMBER,
        ProcessKind.MEMBER,
    ]
    assert [place.node for place in places.values()] == [None, 0, 0]
    assert all(place.host for place in places.values())
    status = cluster.wait_until_healthy(DEADLINE)
    assert {each.name: each.endpoint for each in status.processes} == {
        name: place.endpoint for name, place in places.items()
    }
    primary = status.primary_of(0)
    assert [primary, *status.replicas_of(0)] in (["node0", "node0r1"], ["node0r1", "node0"])
    assert status.process("manager").role == "manager"


@pytest.mark.parametrize("way", REACHABLE)
def test_clients_connect_and_operators_act(handle: ClusterHandle, way: str) -> None:
    cluster = REACHABLE[way](handle)
    [replica] = cluster.status().replicas_of(0)
    endpoint = cluster.status().process(replica).endpoint
    with cluster.connect() as client:
        client.write(0, 0, way.encode())
        # Without a description, a process is named for its part, which changes here.
        seen: list[str] = []
        promote = Promote(0, endpoint)
        done = cluster.operate(
            promote,
            timeout=DEADLINE,
            on_status=lambda now: seen.append(now.memory_node(0).primary),
        )
        assert done.changed
        assert not cluster.operate(promote, timeout=DEADLINE).changed
        assert client.read(0, 0, len(way), timeout=DEADLINE) == way.encode()
    assert seen[-1] == endpoint
    assert cluster.status().memory_node(0).primary == endpoint


def test_what_does_not_come_about_is_an_error_with_what_was_seen(handle: ClusterHandle) -> None:
    handle.kill("node0")
    begun = time.monotonic()
    with pytest.raises(NotYet, match=r"all serve: not within 0\.5 s; .*node0 is down"):
        handle.wait_until(lambda status: status.healthy, "all serve", timeout=0.5)
    assert time.monotonic() - begun >= 0.5


def test_a_status_does_not_wait_for_a_process_that_has_ended(handle: ClusterHandle) -> None:
    """A look at a cluster with a dead process is as quick as at one without."""
    handle.kill("node0r1")
    begun = time.monotonic()
    assert handle.status(timeout=DEADLINE).process("node0r1").state == "down"
    assert time.monotonic() - begun < DEADLINE / 2


# --- what is done to processes -----------------------------------------------------------------


def test_a_killed_primary_is_replaced_and_started_again(handle: ClusterHandle) -> None:
    victim = handle.status().primary_of(0)
    assert victim is not None
    handle.kill(victim)
    assert handle.condition(victim) is Condition.ENDED
    heir = handle.wait_until(
        lambda status: status.primary_of(0) not in (None, victim) and status.memory_node(0).serving,
        "the replica takes over",
        DEADLINE,
    ).primary_of(0)
    assert handle.status().process(victim).state == "down"
    assert handle.start([victim]) == [victim]
    assert handle.start([victim]) == []
    assert handle.condition(victim) is Condition.RUNNING
    status = handle.wait_until_healthy(DEADLINE)
    assert (status.primary_of(0), status.replicas_of(0)) == (heir, [victim])


def test_a_paused_process_is_silent_until_it_goes_on(handle: ClusterHandle) -> None:
    [replica] = handle.status().replicas_of(0)
    handle.pause(replica)
    assert handle.condition(replica) is Condition.PAUSED
    assert handle.status(timeout=0.3).process(replica).state == "silent"
    handle.resume(replica)
    assert handle.condition(replica) is Condition.RUNNING
    handle.wait_until_healthy(DEADLINE)


def test_only_what_runs_can_be_paused(handle: ClusterHandle) -> None:
    handle.kill("node0r1")
    with pytest.raises(NotRunning, match="node0r1"):
        handle.pause("node0r1")
    handle.kill("node0r1")
    handle.resume("node0r1")
    assert handle.condition("node0r1") is Condition.ENDED


def test_all_processes_end_and_come_back_with_what_was_written(handle: ClusterHandle) -> None:
    with handle.connect() as client:
        client.write(0, 64, b"kept")
    assert handle.stop() == []
    assert {handle.condition(name) for name in NAMES} == {Condition.ENDED}
    assert sorted(handle.start()) == NAMES
    with handle.connect() as client:
        assert client.read(0, 64, 4, timeout=DEADLINE) == b"kept"


def test_a_launched_process_is_not_waited_for(handle: ClusterHandle) -> None:
    """Its primary is away, so that it could not serve."""
    primary = handle.status().primary_of(0)
    assert primary is not None
    handle.stop()
    [other] = {"node0", "node0r1"} - {primary}
    assert handle.launch([other]) == [other]
    assert handle.launch([other]) == []
    assert handle.condition(other) is Condition.RUNNING
    assert handle.condition(primary) is Condition.ENDED


def test_an_unknown_name_is_refused_whatever_is_wanted_of_it(handle: ClusterHandle) -> None:
    wanted: list[Callable[[str], object]] = [
        lambda name: handle.start([name]),
        lambda name: handle.launch([name]),
        lambda name: handle.stop([name]),
        handle.kill,
        handle.pause,
        handle.resume,
        handle.condition,
        handle.log_text,
    ]
    for ask in wanted:
        with pytest.raises(ConfigError, match=r"no process 'nosuch'.*manager, node0, node0r1"):
            ask("nosuch")
    assert {handle.condition(name) for name in NAMES} == {Condition.RUNNING}


def test_logs_can_be_read_from_their_ends(handle: ClusterHandle) -> None:
    whole = handle.log_text("node0")
    assert "level=INFO" in whole
    end = handle.log_text("node0", last_bytes=20)
    assert len(end.encode()) <= 20
    assert end
    # It may have gone on logging in between.
    assert end in handle.log_text("node0")


# --- what only some can ------------------------------------------------------------------------


def test_files_of_processes_are_where_faults_can_find_them(handle: ClusterHandle) -> None:
    if handle.files is None:
        pytest.skip("the files of these processes are out of reach")
    directory = handle.files.data_directory("node0")
    assert directory is not None
    assert list(directory.glob("log.*")), "the redo log is in the data directory"
    assert handle.files.log_directory("node0") is None
    with pytest.raises(ConfigError, match="no process 'nosuch'"):
        handle.files.data_directory("nosuch")


def test_a_host_that_is_cut_off_is_silent_until_the_network_heals(handle: ClusterHandle) -> None:
    network = handle.network
    if network is None:
        pytest.skip("the network of these processes cannot be cut")
    hosts = {place.name: place.host for place in handle.places()}
    assert {*hosts.values(), TEST} == set(network.addresses)
    [replica] = handle.status().replicas_of(0)
    network.cut(hosts[replica], TEST)
    handle.wait_until(
        lambda status: status.process(replica).state == "silent", "nothing is heard", DEADLINE
    )
    assert handle.condition(replica) is Condition.RUNNING
    network.heal()
    handle.wait_until_healthy(DEADLINE)
