"""Replicated clusters of real processes, as an operator starts, breaks, grows and shrinks them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from sinfonia import connect_blocking
from sinfonia.addresses import MemoryNodeId
from sinfonia.cli.main import main
from sinfonia.config import MODES
from sinfonia.operating.actions import Promote
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.operating.local_description import free_ports, ports_needed, with_replica
from sinfonia.operating.named_cluster import look_at
from sinfonia.operating.refusals import OperationRefused, StartFailed
from sinfonia.protocol.membership.configuration import keeps_replicas
from sinfonia.testing.etcd import running_etcd

pytestmark = pytest.mark.network

MIB = 1 << 20
DEADLINE = 30.0


@contextmanager
def running(
    directory: Path,
    *,
    mode: str = "LOG-REPL",
    memory_nodes: int = 1,
    replicas: int = 1,
    managers: int = 1,
    etcd: tuple[str, ...] = (),
) -> Iterator[LocalCluster]:
    with LocalCluster.create(
        directory / "demo",
        memory_nodes=memory_nodes,
        mode=mode,
        capacity=MIB,
        ports=free_ports(ports_needed(memory_nodes, replicas, managers)),
        replicas=replicas,
        managers=managers,
        etcd=etcd,
    ) as cluster:
        cluster.start()
        yield cluster
    assert cluster.running == {}


def succeeds(*arguments: str) -> str:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("mode", MODES)
def test_a_cluster_of_every_mode_comes_up_in_sync(tmp_path: Path, mode: str) -> None:
    with running(tmp_path, mode=mode, replicas=int(keeps_replicas(mode))) as cluster:
        name = str(cluster.directory)
        status = look_at(name)
        assert status.healthy, status.problems
        assert status.primary_of(0) == "node0"
        succeeds("put", name, "0:0", "text:kept")
        if not mode.startswith("RAM"):
            cluster.stop()
            cluster.start()
            assert look_at(name).healthy
            assert succeeds("get", name, "0:0+4") == "text:kept\n"


def test_a_cluster_in_memory_that_was_down_begins_anew_by_consent_only(tmp_path: Path) -> None:
    with running(tmp_path, mode="RAM-REPL") as cluster:
        name = str(cluster.directory)
        succeeds("put", name, "0:0", "text:gone")
        cluster.stop()
        with pytest.raises(StartFailed, match=r"restarted without its data.*sinfonia recreate"):
            cluster.start()
        succeeds("recreate", name, "0", "--yes")
        cluster.start()
        assert look_at(name).healthy
        assert succeeds("get", name, "0:0+4") == "hex:00000000\n"


def test_a_replica_takes_over_and_the_old_primary_comes_back_as_one(tmp_path: Path) -> None:
    with running(tmp_path) as cluster:
        name = str(cluster.directory)
        succeeds("put", name, "0:0", "text:kept")
        cluster.kill("node0")
        assert succeeds("get", name, "0:0+4") == "text:kept\n"
        status = look_at(name)
        assert not status.healthy
        assert "node0 is down" in status.problems
        assert cluster.start() == ["node0"]
        status = look_at(name)
        assert status.healthy, status.problems
        assert status.primary_of(0) == "node0r1"


def test_a_member_moves_and_a_replica_goes_while_a_client_works(tmp_path: Path) -> None:
    with running(tmp_path) as cluster, connect_blocking(cluster.endpoint) as client:
        name = str(cluster.directory)
        client.write(0, 0, b"first")
        assert "has a replica at" in succeeds("replica", "add", name, "0")
        succeeds("replica", "move", name, "0", "node0")
        assert client.read(0, 0, 5, timeout=DEADLINE) == b"first"
        now = LocalCluster(cluster.directory)
        assert set(now.running) == {"manager", "node0r1", "node0r2", "node0r3"}
        assert look_at(name).primary_of(0) == "node0r3"
        succeeds("replica", "remove", name, "0", "node0r1")
        again = json.loads(succeeds("replica", "remove", name, "0", "node0r1", "--json"))
        assert again["changed"] is False
        client.write(0, 0, b"after", timeout=DEADLINE)
        LocalCluster(cluster.directory).stop()
        assert json.loads(succeeds("up", name, "--json"))["started"]
        assert look_at(name).healthy
        assert client.read(0, 0, 5, timeout=DEADLINE) == b"after"
        succeeds("down", name)


def test_what_an_interrupted_move_has_described_is_used_by_the_next(tmp_path: Path) -> None:
    with running(tmp_path, replicas=0) as cluster:
        name = str(cluster.directory)
        source = cluster.endpoints["node0"]
        cluster.change(with_replica(cluster.config, cluster.directory, 0, replaces=source))
        for changed in (True, False):
            said = json.loads(succeeds("replica", "move", name, "0", source, "--json"))
            assert said["changed"] is changed
        now = LocalCluster(cluster.directory)
        assert list(now.endpoints) == ["manager", "node0r1"]
        assert now.config.describe(0).replica == []
        assert look_at(name).memory_nodes[0].replicas_wanted == 0
        now.stop()


def test_an_added_memory_node_is_seen_by_clients_that_run(tmp_path: Path) -> None:
    with running(tmp_path) as cluster, connect_blocking(cluster.endpoint) as client:
        name = str(cluster.directory)
        for _ in range(2):
            said = succeeds("add-memnode", name, "--node", "4", "--capacity", "8KiB")
            assert "volumes that exist do not use the new memory node yet" in said
        client.refresh()
        assert client.nodes[MemoryNodeId(4)].capacity == 8 * 1024
        client.write(4, 0, b"new")
        assert look_at(name).healthy
        LocalCluster(cluster.directory).stop()


def test_another_manager_goes_on_when_the_leader_dies(tmp_path: Path) -> None:
    with (
        running_etcd() as etcd,
        running(tmp_path, managers=3, etcd=tuple(etcd.endpoints)) as cluster,
    ):
        name = str(cluster.directory)
        status = look_at(name)
        assert status.healthy, status.problems
        leader = status.leader
        assert leader is not None
        cluster.kill(leader)
        cluster.wait_until(lambda now: now.leader is not None, "a manager leads", DEADLINE)
        assert cluster.operate(Promote(0, "node0r1"), timeout=DEADLINE).changed
        cluster.kill("node0r1")
        cluster.wait_until(
            lambda now: now.primary_of(0) == "node0" and now.memory_node(0).serving,
            "node0 serves",
            DEADLINE,
        )
        assert len(succeeds("get", name, "0:0+1")) > 0


def test_a_process_that_is_paused_is_silent_and_not_down(tmp_path: Path) -> None:
    with running(tmp_path) as cluster:
        cluster.pause("node0r1")
        states = {each.name: each.state for each in cluster.status().processes}
        cluster.resume("node0r1")
        assert states == {"manager": "serving", "node0": "serving", "node0r1": "silent"}


def test_a_primary_is_not_handed_to_a_replica_that_is_down(tmp_path: Path) -> None:
    with running(tmp_path) as cluster:
        cluster.kill("node0r1")
        with pytest.raises(OperationRefused, match=r"is not in sync|does not answer"):
            cluster.operate(Promote(0, "node0r1"))
