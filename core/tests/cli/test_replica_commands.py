"""Operator commands against a fake cluster: it keeps the manager's real rules, and nothing else."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from click.testing import CliRunner, Result
from msgspec.structs import replace

from sinfonia.addresses import MemoryNodeId
from sinfonia.cli.main import main
from sinfonia.errors import ConfigError, Unreachable
from sinfonia.operating.actions import AddReplica, DrainHost, MoveMember, Promote
from sinfonia.operating.actions import RemoveReplica as RemoveReplicaAction
from sinfonia.operating.cluster_status import ClusterStatus
from sinfonia.operating.local_description import free_ports
from sinfonia.operating.named_cluster import look_at
from sinfonia.operating.observer import ask_all, ask_managers, members_of
from sinfonia.operating.operations.draining import is_on
from sinfonia.operating.refusals import NotYet, OperationRefused
from sinfonia.operating.remote_cluster import RemoteCluster
from sinfonia.protocol.membership.configuration import Change, Refusal
from sinfonia.protocol.membership.messages import (
    Changed,
    Directory,
    HandOver,
    Member,
    MemoryNodeEntry,
    NotLeading,
    Recreate,
    Recreated,
    RemoveReplica,
    WantReplicas,
)
from sinfonia.protocol.membership.operator_requests import (
    on_hand_over,
    on_recreate,
    on_remove_replica,
    on_want_replicas,
)
from sinfonia.protocol.messages import (
    MANAGER,
    PROTOCOL_VERSION,
    GetDirectory,
    GetStatus,
    Replies,
    Reply,
    Request,
    Status,
)
from sinfonia.transport.codec import decode_requests, encode_replies

MIB = 1 << 20
LAST_RECORD = 1000
TICK_MS = 20


class FakeCluster(threading.Thread):
    """Managers and members in one thread, which answer from one directory.

    A process in the directory is alive, unless it is in ``silent``.
    """

    def __init__(self, replicas: list[int], *, managers: int = 1, mode: str = "LOG-REPL") -> None:
        super().__init__(daemon=True)  # a failed test does not wait for it
        ports = free_ports(managers + sum(1 + each for each in replicas) + 4)
        self._free = [f"tcp://127.0.0.1:{port}" for port in ports]
        self.managers = [self._free.pop() for _ in range(managers)]
        self.leader: str | None = self.managers[0]
        self.silent: set[str] = set()
        self.asked: list[Request] = []
        self.last_record: dict[str, int] = {}
        self.statuses: dict[str, Status] = {}  # what members say instead of the usual
        nodes = [self._entry(node, number, mode) for node, number in enumerate(replicas)]
        self.directory = Directory(1, 0, "fake", nodes, self.managers)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._routers: dict[str, zmq.Socket[bytes]] = {}
        self._stopping = threading.Event()
        self._guard = threading.Lock()

    def spare(self) -> str:
        """An endpoint for a new member."""
        return self._free.pop()

    def entry(self, node: int) -> MemoryNodeEntry:
        found = self.directory.entry(MemoryNodeId(node))
        assert found is not None
        return found

    def change(self, entry: MemoryNodeEntry) -> None:
        """Put ``entry`` into the directory."""
        with self._guard:
            nodes = [entry if each.node == entry.node else each for each in self.directory.nodes]
            version = self.directory.version + 1
            self.directory = replace(self.directory, version=version, nodes=nodes)

    def arrive(self, node: int, endpoint: str, *, in_sync: bool = True) -> None:
        """A new replica has registered, and copied everything."""
        entry = self.entry(node)
        others = [each for each in entry.replicas if each.endpoint != endpoint]
        assert len(others) < entry.wanted, "the manager would not let it in"
        newcomer = Member(
            identity=f"identity of {endpoint}", endpoint=endpoint, starts=1, in_sync=in_sync
        )
        self.change(replace(entry, replicas=[*others, newcomer]))

    def run(self) -> None:
        poller = zmq.Poller()
        while not self._stopping.is_set():
            for endpoint in members_of(self.directory):
                if endpoint not in self._routers:
                    router = self._context.socket(zmq.ROUTER)
                    router.set(zmq.LINGER, 0)
                    router.bind(endpoint)
                    poller.register(router, zmq.POLLIN)
                    self._routers[endpoint] = router
            ready = dict(poller.poll(TICK_MS))
            for endpoint, router in self._routers.items():
                if router in ready:
                    self._answer(endpoint, router)
        for router in self._routers.values():
            router.close(0)
        self._context.term()

    def stop(self) -> None:
        self._stopping.set()
        self.join(10)
        assert not self.is_alive()

    def _entry(self, node: int, replicas: int, mode: str) -> MemoryNodeEntry:
        return MemoryNodeEntry(
            node=MemoryNodeId(node),
            endpoint=self._free.pop(),
            capacity=MIB,
            mode=mode,
            identity=f"primary {node}",
            incarnation=1,
            starts=1,
            config_epoch=1,
            replicas=[
                Member(
                    identity=f"replica {node}.{k}",
                    endpoint=self._free.pop(),
                    starts=1,
                    in_sync=True,
                )
                for k in range(replicas)
            ],
            wanted=replicas,
        )

    def _answer(self, endpoint: str, router: "zmq.Socket[bytes]") -> None:
        frames = router.recv_multipart()
        if endpoint in self.silent:
            return
        replies = [self._reply(endpoint, each) for each in decode_requests(frames[1:]).requests]
        node = MANAGER if endpoint in self.managers else 0
        batch = Replies(PROTOCOL_VERSION, node, 0, 0, replies)
        router.send_multipart([frames[0], *encode_replies(batch)])

    def _reply(self, endpoint: str, request: Request) -> Reply:
        if isinstance(request, GetDirectory):
            return self.directory
        if isinstance(request, GetStatus):
            return self._status(endpoint)
        assert endpoint in self.managers, f"{request} is not for a member"
        self.asked.append(request)
        if endpoint != self.leader:
            return NotLeading(self.leader or "")
        assert isinstance(request, WantReplicas | HandOver | RemoveReplica | Recreate)
        change = self._decide(request)
        refusal = change.reason if isinstance(change, Refusal) else ""
        if isinstance(change, MemoryNodeEntry):
            self.change(change)
        return Recreated(refusal) if isinstance(request, Recreate) else Changed(refusal)

    def _decide(self, request: WantReplicas | HandOver | RemoveReplica | Recreate) -> Change:
        entry = self.entry(request.node)
        if isinstance(request, WantReplicas):
            return on_want_replicas(entry, request)
        if isinstance(request, RemoveReplica):
            return on_remove_replica(entry, request)
        if isinstance(request, Recreate):
            return on_recreate(entry, primary_is_up=False)
        alive = [each.identity for each in entry.replicas if each.endpoint not in self.silent]
        up = entry.endpoint not in self.silent
        return on_hand_over(entry, request, alive, primary_is_up=up)

    def _status(self, endpoint: str) -> Status:
        if endpoint in self.statuses:
            return self.statuses[endpoint]
        if endpoint in self.managers:
            return Status(MANAGER, "serving", {"leading": int(endpoint == self.leader)})
        for entry in self.directory.nodes:
            if endpoint == entry.endpoint:
                figures: dict[str, int | float | str] = {"last_record": LAST_RECORD}
                return Status(entry.node, "serving", {**figures, "votes_ok": 7, "in_doubt": 0})
            for replica in entry.replicas:
                if endpoint == replica.endpoint:
                    last = self.last_record.get(endpoint, LAST_RECORD)
                    return Status(entry.node, "following", {"last_record": last})
        return Status(0, "starting", {})


Make = Callable[..., FakeCluster]


@pytest.fixture
def make() -> Iterator[Make]:
    clusters: list[FakeCluster] = []

    def start(*replicas: int, managers: int = 1, mode: str = "LOG-REPL") -> FakeCluster:
        cluster = FakeCluster(list(replicas), managers=managers, mode=mode)
        cluster.start()
        clusters.append(cluster)
        return cluster

    yield start
    for cluster in clusters:
        cluster.stop()


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def status_of(cluster: FakeCluster) -> ClusterStatus:
    return look_at(cluster.managers[0])


# --- asking managers -----------------------------------------------------------------------------


def test_the_manager_that_leads_is_found_by_the_others(make: Make) -> None:
    cluster = make(1, managers=3)
    cluster.leader = cluster.managers[2]
    cluster.silent = {cluster.managers[1]}
    heir = cluster.entry(0).replicas[0].endpoint
    ask_managers(cluster.managers[:2], HandOver(MemoryNodeId(0), heir))
    assert cluster.entry(0).endpoint == heir


def test_without_a_leader_the_managers_are_named(make: Make) -> None:
    cluster = make(0, managers=2)
    cluster.leader = None
    with pytest.raises(Unreachable, match=r"none of the managers leads .* is etcd up"):
        ask_managers(cluster.managers, WantReplicas(MemoryNodeId(0), 0), timeout=0.3)
    cluster.silent = set(cluster.managers)
    with pytest.raises(Unreachable, match=r"no manager answers at .* within 0\.3 s"):
        ask_managers(cluster.managers, WantReplicas(MemoryNodeId(0), 0), timeout=0.3)


def test_a_silent_process_costs_one_time_limit_and_hides_no_other(make: Make) -> None:
    cluster = make(0, 0, 0)
    silent, *speaking = [entry.endpoint for entry in cluster.directory.nodes]
    cluster.silent = {silent}
    assert set(ask_all([silent, *speaking], timeout=0.5)) == set(speaking)


# --- status --------------------------------------------------------------------------------------


def test_status_says_how_far_a_replica_is_behind(make: Make) -> None:
    cluster = make(2)
    entry = cluster.entry(0)
    late = entry.replicas[1]
    cluster.last_record[late.endpoint] = 750
    cluster.change(replace(entry, replicas=[entry.replicas[0], replace(late, in_sync=False)]))
    status = status_of(cluster)
    [node] = status.memory_nodes
    assert node.primary == entry.endpoint
    assert [replica.in_sync for replica in node.replicas] == [True, False]
    assert (node.replicas[1].records_behind, node.replicas[1].percent) == (250, 75.0)
    assert status.problems == [f"memory node 0: {late.endpoint} is not in sync"]
    shown = invoke("status", cluster.managers[0])
    assert shown.exit_code == 1
    assert "250 records behind (75 %)" in shown.stdout


def test_status_is_healthy_when_all_serve_and_follow(make: Make) -> None:
    cluster = make(1, 1, managers=3)
    shown = invoke("status", cluster.entry(1).endpoint, "--json")
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert found["healthy"]
    roles = {each["name"]: each["role"] for each in found["processes"]}
    assert roles == {
        "manager0": "manager",
        "manager1": "manager",
        "manager2": "manager",
        "node0": "primary",
        "node0r1": "replica",
        "node1": "primary",
        "node1r1": "replica",
    }


def test_status_says_what_a_member_waits_for_and_what_is_damaged(make: Make) -> None:
    cluster = make(2)
    entry = cluster.entry(0)
    waiting, damaged = (each.endpoint for each in entry.replicas)
    cluster.statuses[waiting] = Status(
        MemoryNodeId(0), "starting", {"waiting_for": "the manager knows nothing of it"}
    )
    cluster.statuses[damaged] = Status(
        MemoryNodeId(0), "catching up", {"damaged": 1, "damage": "a page fails its checksum"}
    )
    assert status_of(cluster).problems == [
        "node0r1 is starting: the manager knows nothing of it",
        "node0r2 is catching up: its data is damaged: a page fails its checksum",
    ]
    assert "REPAIRS" not in invoke("status", cluster.managers[0]).stdout
    cluster.statuses[damaged] = Status(MemoryNodeId(0), "following", {"repairs": 2})
    assert "REPAIRS" in invoke("status", cluster.managers[0]).stdout
    assert [each.repairs for each in status_of(cluster).processes] == [0, 0, 0, 2]


@pytest.mark.parametrize("wanted", ["a replica", "a primary", "a leader"])
def test_status_says_what_is_missing(make: Make, wanted: str) -> None:
    cluster = make(1, managers=2)
    entry = cluster.entry(0)
    if wanted == "a replica":
        cluster.change(replace(entry, replicas=[]))
        assert status_of(cluster).problems == ["memory node 0 lacks 1 of its replicas"]
    elif wanted == "a primary":
        cluster.silent = {entry.endpoint}
        problems = ["node0 is down", "memory node 0 has no primary that serves"]
        assert status_of(cluster).problems == problems
    else:
        cluster.leader = None
        assert status_of(cluster).problems == ["none of the managers leads"]


# --- replicas ------------------------------------------------------------------------------------


def test_a_replica_elsewhere_is_waited_for_until_it_is_in_sync(make: Make) -> None:
    cluster = make(1)
    place = cluster.spare()
    told: list[str] = []

    def start_it(line: str) -> None:
        told.append(line)
        cluster.arrive(0, place, in_sync=False)

    def copy_it(_status: ClusterStatus) -> None:
        if told:
            cluster.arrive(0, place, in_sync=True)

    handle = RemoteCluster(cluster.managers[0])
    add = AddReplica(0, place)
    done = handle.operate(add, tell=start_it, on_status=copy_it)
    assert done.changed
    assert cluster.entry(0).wanted == 2
    [line] = told
    assert f"sinfonia memnode --node 0 --listen {place} --manager {cluster.managers[0]}" in line
    assert "--mode LOG-REPL --capacity 1MiB" in line
    assert not handle.operate(add, tell=start_it, on_status=copy_it).changed
    assert len(told) == 1


def test_an_operator_that_waits_no_longer_may_go_on_later(make: Make) -> None:
    cluster = make(0)
    place = cluster.spare()
    handle = RemoteCluster(cluster.managers[0])
    for _ in range(2):
        with pytest.raises(NotYet, match=r"is not in sync: not within 0\.2 s"):
            handle.operate(AddReplica(0, place), timeout=0.2)
        assert cluster.entry(0).wanted == 1
    cluster.arrive(0, place)
    assert not handle.operate(AddReplica(0, place), timeout=0.2).changed


def test_a_mode_without_replicas_gets_none(make: Make) -> None:
    cluster = make(0, mode="LOG")
    with pytest.raises(OperationRefused, match="mode LOG, which keeps no replicas"):
        RemoteCluster(cluster.managers[0]).operate(AddReplica(0, cluster.spare()))
    assert cluster.asked == []


def test_the_only_replica_in_sync_is_removed_by_force_only(make: Make) -> None:
    cluster = make(1)
    place = cluster.entry(0).replicas[0].endpoint
    name = cluster.managers[0]
    refused = invoke("replica", "remove", name, "0", place)
    assert refused.exit_code == 1
    assert "accept with --force" in refused.stderr
    assert cluster.entry(0).replicas
    done = invoke("replica", "remove", name, "0", place, "--force")
    assert done.exit_code == 0, done.output
    assert (cluster.entry(0).replicas, cluster.entry(0).wanted) == ([], 0)
    again = invoke("replica", "remove", name, "0", place, "--json")
    assert again.exit_code == 0
    assert json.loads(again.stdout)["changed"] is False


def test_a_primary_is_not_removed(make: Make) -> None:
    cluster = make(1)
    remove = RemoveReplicaAction(0, cluster.entry(0).endpoint, force=True)
    with pytest.raises(OperationRefused, match="is the primary of memory node 0"):
        RemoteCluster(cluster.managers[0]).operate(remove)


def test_a_promoted_replica_serves_when_the_command_returns(make: Make) -> None:
    cluster = make(2)
    first, heir = cluster.entry(0).endpoint, cluster.entry(0).replicas[1].endpoint
    handle = RemoteCluster(cluster.managers[0])
    assert handle.operate(Promote(0, heir)).changed
    assert cluster.entry(0).endpoint == heir
    assert not handle.operate(Promote(0, heir)).changed
    with pytest.raises(OperationRefused, match="is not in sync"):
        handle.operate(Promote(0, first))
    with pytest.raises(ConfigError, match="there is no memory node 1; the cluster has 0"):
        handle.operate(Promote(1, heir))


def test_a_replica_that_may_lack_something_is_promoted_by_force_once_that_is_confirmed(
    make: Make,
) -> None:
    cluster = make(1)
    entry = cluster.entry(0)
    stale = replace(entry.replicas[0], in_sync=False)
    cluster.change(replace(entry, replicas=[stale]))
    command = ("replica", "promote", cluster.managers[0], "0", stale.endpoint)
    refused = invoke(*command)
    assert refused.exit_code == 1
    assert f"sinfonia replica promote --force CLUSTER 0 {stale.endpoint}" in refused.output
    cluster.asked.clear()
    asked = CliRunner().invoke(main, [*command, "--force"], input="n\n")
    assert asked.exit_code == 1
    assert "will be lost" in asked.output
    assert cluster.asked == []
    up = invoke(*command, "--force", "--yes")
    assert "nothing needs to be given up by force" in up.output
    cluster.silent.add(entry.endpoint)
    done = CliRunner().invoke(main, [*command, "--force"], input="y\n")
    assert done.exit_code == 0, done.output
    assert cluster.entry(0).endpoint == stale.endpoint
    assert cluster.entry(0).loss_accepted == cluster.entry(0).incarnation


@pytest.mark.parametrize(
    ("replicas", "moved"),
    [(0, "primary"), (1, "primary"), (1, "replica"), (2, "primary"), (2, "replica")],
)
def test_a_member_moves_without_a_moment_with_fewer_copies(
    make: Make, replicas: int, moved: str
) -> None:
    cluster = make(replicas)
    entry, place = cluster.entry(0), cluster.spare()
    source = entry.endpoint if moved == "primary" else entry.replicas[-1].endpoint
    copies: list[int] = []

    def count_copies(_status: ClusterStatus) -> None:
        now = cluster.entry(0)
        copies.append(1 + len(now.replicas))

    def start_it(line: str) -> None:
        if "Start the replica" in line:
            cluster.arrive(0, place)

    handle, move = RemoteCluster(cluster.managers[0]), MoveMember(0, source, place)
    assert handle.operate(move, tell=start_it, on_status=count_copies).changed
    assert not handle.operate(move, tell=start_it, on_status=count_copies).changed
    after = cluster.entry(0)
    members = {after.endpoint, *(each.endpoint for each in after.replicas)}
    assert place in members
    assert source not in members
    assert (len(members), after.wanted) == (1 + replicas, replicas)
    assert min(copies) == 1 + replicas
    if moved == "primary":
        assert after.endpoint == place


def test_a_move_that_was_interrupted_is_finished_by_the_same_command(make: Make) -> None:
    cluster = make(1)
    source, place = cluster.entry(0).endpoint, cluster.spare()
    handle, move = RemoteCluster(cluster.managers[0]), MoveMember(0, source, place)
    with pytest.raises(NotYet):
        handle.operate(move, timeout=0.2)
    cluster.arrive(0, place)
    handle.operate(Promote(0, place), timeout=0.2)
    assert handle.operate(move, timeout=0.2).changed
    assert (cluster.entry(0).endpoint, cluster.entry(0).wanted) == (place, 1)


# --- draining ------------------------------------------------------------------------------------


def test_all_primaries_leave_a_drained_host(make: Make) -> None:
    cluster = make(1, 1, 0)
    port = cluster.entry(0).endpoint.rpartition(":")[2]
    handle, drain = RemoteCluster(cluster.managers[0]), DrainHost(f"127.0.0.1:{port}")
    assert handle.operate(drain).changed
    assert cluster.entry(0).endpoint.rpartition(":")[2] != port
    assert cluster.entry(1).incarnation == 1
    assert not handle.operate(drain).changed


def test_a_host_is_drained_whole_or_not_at_all(make: Make) -> None:
    """All members are on one host here, so that none of them has anywhere to go."""
    cluster = make(1, 0, 2)
    refused = invoke("drain", cluster.managers[0], "127.0.0.1")
    assert refused.exit_code == 1
    assert "memory nodes 0, 1, 2 have no in-sync replica that is not on 127.0.0.1" in refused.stderr
    assert cluster.asked == []
    assert {entry.incarnation for entry in cluster.directory.nodes} == {1}


def test_a_host_without_primaries_is_drained_already(make: Make) -> None:
    cluster = make(1)
    done = invoke("drain", cluster.managers[0], "10.0.0.9")
    assert done.exit_code == 0
    assert done.stdout == "No memory node has its primary on 10.0.0.9; they are on 127.0.0.1.\n"


@pytest.mark.parametrize(
    ("endpoint", "host", "matches"),
    [
        ("tcp://10.0.0.1:7000", "10.0.0.1", True),
        ("tcp://10.0.0.1:7000", "10.0.0.1:7000", True),
        ("tcp://10.0.0.1:7000", "tcp://10.0.0.1:7000", True),
        ("tcp://10.0.0.1:7000", "10.0.0.1:7001", False),
        ("tcp://10.0.0.11:7000", "10.0.0.1", False),
    ],
)
def test_a_host_is_matched_as_it_is_written(endpoint: str, host: str, matches: bool) -> None:
    assert is_on(endpoint, host) is matches


# --- usage ---------------------------------------------------------------------------------------


def test_what_is_no_local_cluster_gets_no_processes(make: Make) -> None:
    cluster = make(0)
    refused = invoke("replica", "add", cluster.managers[0], "0")
    assert "Say it with --to tcp://HOST:PORT" in refused.stderr


def test_memory_nodes_are_added_to_local_clusters_only(tmp_path: Path) -> None:
    refused = invoke("add-memnode", str(tmp_path))
    assert refused.exit_code == 1
    assert "there is no cluster at" in refused.stderr
