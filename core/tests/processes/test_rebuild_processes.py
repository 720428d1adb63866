"""Real processes whose manager's store is lost, or is put back from an older copy."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

from sinfonia import connect_blocking
from sinfonia.cli.main import main
from sinfonia.config import CONFIG_FILE
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.testing.real_cluster import real_cluster, wait_until, wait_until_well

pytestmark = pytest.mark.network

PRIMARY, STALE = "node0", "node0r1"

WRITES = 20


@contextmanager
def begun(cluster: LocalCluster, names: Sequence[str]) -> Iterator[None]:
    """The processes ``names`` run, in whatever state, until the end of the block."""
    config = ["--config", str(cluster.directory / CONFIG_FILE)]
    commands = {
        "manager": ["manager", *config],
        PRIMARY: ["memnode", *config, "--node", "0"],
        STALE: ["memnode", *config, "--node", "0", "--replica", "1"],
    }
    running = []
    try:
        for name in names:
            with cluster.log_file(name).open("a") as log:
                command = [sys.executable, "-m", "sinfonia.cli.main", *commands[name]]
                running.append(subprocess.Popen(command, stdout=log, stderr=log))
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(timeout=20)


def leave_a_stale_replica(cluster: LocalCluster) -> None:
    """The primary alone acknowledges writes, then everything is killed."""
    cluster.kill(STALE)
    wait_until(
        cluster,
        lambda status: not any(each.in_sync for each in status.memory_nodes[0].replicas),
        "the dead replica is dropped",
    )
    with connect_blocking(cluster.endpoint) as client:
        for number in range(WRITES):
            client.write(0, 8 * number, number.to_bytes(8, "little"))
    for name in (PRIMARY, "manager"):
        cluster.kill(name)


def assert_nothing_is_lost(cluster: LocalCluster) -> None:
    with connect_blocking(cluster.endpoint) as client:
        for number in range(WRITES):
            assert client.read(0, 8 * number, 8) == number.to_bytes(8, "little")


def wait_until_put_off(cluster: LocalCluster, name: str, why: str) -> None:
    """Until the member ``name`` is starting, and says why it waits."""

    def put_off(waiting: str, state: str) -> bool:
        return state == "starting" and why in waiting

    wait_until(
        cluster,
        lambda status: any(
            each.name == name and put_off(str(each.figures.get("waiting_for", "")), each.state)
            for each in status.processes
        ),
        f"{name} waits",
    )


def rebuild(cluster: LocalCluster, *options: str) -> str:
    result = CliRunner().invoke(
        main, ["rebuild-manager", "local", str(cluster.directory), *options]
    )
    assert result.exit_code == 0, result.output
    return result.output


def test_a_stale_replica_that_comes_first_does_not_win_over_a_manager_that_lost_its_store() -> None:
    with real_cluster(memory_nodes=1) as cluster:
        leave_a_stale_replica(cluster)
        shutil.rmtree(cluster.directory / "manager")
        with begun(cluster, ["manager", STALE]):
            wait_until_put_off(cluster, STALE, "the manager knows nothing of it")
            assert "not let in yet node=0 reason=" in cluster.log_file(STALE).read_text("utf-8")
            with begun(cluster, [PRIMARY]):
                wait_until_put_off(cluster, PRIMARY, "the manager knows nothing of it")
        output = rebuild(cluster)
        assert "nothing is lost" in output
        cluster.start(["manager", PRIMARY, STALE])
        status = wait_until_well(cluster)
        assert status.memory_nodes[0].primary == cluster.endpoints[PRIMARY]
        assert_nothing_is_lost(cluster)


def test_members_that_wait_are_let_in_when_the_store_is_rebuilt() -> None:
    with real_cluster(memory_nodes=1) as cluster:
        leave_a_stale_replica(cluster)
        shutil.rmtree(cluster.directory / "manager")
        with begun(cluster, [STALE, PRIMARY]):
            with begun(cluster, ["manager"]):
                for name in (STALE, PRIMARY):
                    wait_until_put_off(cluster, name, "sinfonia rebuild-manager local DIR")
            rebuild(cluster)
            with begun(cluster, ["manager"]):
                status = wait_until(
                    cluster,
                    lambda status: bool(status.memory_nodes) and status.memory_nodes[0].serving,
                    "the memory node serves",
                )
                assert status.memory_nodes[0].primary == cluster.endpoints[PRIMARY]
                assert_nothing_is_lost(cluster)


def test_a_store_that_is_put_back_from_an_older_copy_decides_nothing() -> None:
    with real_cluster(memory_nodes=1) as cluster:
        store = cluster.directory / "manager"
        cluster.stop()
        shutil.copytree(store, cluster.directory / "older")
        cluster.start()
        leave_a_stale_replica(cluster)
        shutil.rmtree(store)
        (cluster.directory / "older").rename(store)
        with begun(cluster, ["manager", PRIMARY]):
            wait_until_put_off(cluster, PRIMARY, "the manager knows only config epoch")
            with begun(cluster, [STALE]):
                wait_until(
                    cluster,
                    lambda status: any(
                        each.name == STALE and each.state in ("starting", "catching up")
                        for each in status.processes
                    ),
                    "the stale replica has come and does not lead",
                )
        rebuild(cluster, "--replace")
        cluster.start(["manager", PRIMARY, STALE])
        assert wait_until_well(cluster).memory_nodes[0].primary == cluster.endpoints[PRIMARY]
        assert_nothing_is_lost(cluster)


def test_if_the_good_copy_is_lost_too_an_operator_accepts_that_twice_and_the_rest_serves() -> None:
    """The rebuild needs --force, and so does the promotion of what is left."""
    with real_cluster(memory_nodes=1) as cluster:
        with connect_blocking(cluster.endpoint) as client:
            client.write(0, 4096, b"held by both")
        leave_a_stale_replica(cluster)
        shutil.rmtree(cluster.directory / "manager")
        shutil.rmtree(cluster.directory / PRIMARY)
        directory = str(cluster.directory)
        refused = CliRunner().invoke(main, ["rebuild-manager", "local", directory])
        assert refused.exit_code == 1
        assert f"at {cluster.endpoints[PRIMARY]} has not reported" in refused.output
        rebuild(cluster, "--force", "--yes")
        with begun(cluster, ["manager", STALE]):
            wait_until(
                cluster,
                lambda status: any(
                    each.name == STALE and each.role == "replica" and each.state != "down"
                    for each in status.processes
                ),
                "the replica is let in",
            )
            promote = ["replica", "promote", directory, "0", STALE]
            assert CliRunner().invoke(main, promote).exit_code == 1
            forced = CliRunner().invoke(main, [*promote, "--force", "--yes"])
            assert forced.exit_code == 0, forced.output
            with connect_blocking(cluster.endpoint) as client:
                assert client.read(0, 4096, 12) == b"held by both"


def test_a_rebuild_does_not_disturb_members_that_go_on() -> None:
    """In mode RAM-REPL all would be lost if they had to begin anew."""
    with real_cluster(memory_nodes=1, mode="RAM-REPL") as cluster:
        with connect_blocking(cluster.endpoint) as client:
            client.write(0, 0, b"in memory only")
        before = wait_until_well(cluster)
        cluster.kill("manager")
        shutil.rmtree(cluster.directory / "manager")
        rebuild(cluster)
        cluster.start(["manager"])
        after = wait_until_well(cluster)
        assert after.memory_nodes[0].incarnation == before.memory_nodes[0].incarnation
        assert after.memory_nodes[0].config_epoch > before.memory_nodes[0].config_epoch
        with connect_blocking(cluster.endpoint) as client:
            assert client.read(0, 0, 14) == b"in memory only"
