"""Real processes, killed at bad moments: what was acknowledged stays, and no wait is unbounded."""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sinfonia import BlockingCluster, Contended, Unreachable, connect_blocking
from sinfonia.config import Times
from sinfonia.operating.processes import ProcessIdentity
from sinfonia.operating.refusals import StartFailed
from sinfonia.testing.bank import (
    NODES,
    Account,
    Desk,
    Transfer,
    audit,
    entry_address,
    open_accounts,
)
from sinfonia.testing.plugin import ClusterFactory

pytestmark = pytest.mark.network

DEADLINE = 30.0
PREPARE_AND_WAIT = Path(__file__).with_name("prepare_and_wait.py")


class Writer(threading.Thread):
    """Counts upwards in a word on each of two memory nodes; stops at the first error."""

    def __init__(self, cluster: BlockingCluster, address: int) -> None:
        super().__init__(daemon=True)  # a failed test does not wait for it
        self.acknowledged = 0
        self.error: Exception | None = None
        self._cluster = cluster
        self._address = address
        self._progress = threading.Condition()
        self.stopping = False

    def run(self) -> None:
        try:
            while not self.stopping:
                word = (self.acknowledged + 1).to_bytes(8, "big")
                minitransaction = self._cluster.minitransaction()
                minitransaction.write(0, self._address, word)
                minitransaction.write(1, self._address, word)
                minitransaction.execute(DEADLINE)
                with self._progress:
                    self.acknowledged += 1
                    self._progress.notify_all()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            with self._progress:
                self.error = error
                self._progress.notify_all()

    def wait_for_more(self, number: int) -> None:
        """Until ``number`` more writes are acknowledged."""
        with self._progress:
            goal = self.acknowledged + number
            assert self._progress.wait_for(
                lambda: self.error is not None or self.acknowledged >= goal, DEADLINE
            )
            assert self.error is None

    def finish(self) -> None:
        self.join(DEADLINE)
        assert not self.is_alive()
        assert self.error is None


@contextmanager
def writers(cluster: BlockingCluster, number: int) -> Iterator[list[Writer]]:
    threads = [Writer(cluster, 64 * k) for k in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        for thread in threads:
            thread.stopping = True
    for thread in threads:
        thread.finish()


def assert_all_there(connection: BlockingCluster, threads: list[Writer]) -> None:
    for k, thread in enumerate(threads):
        for node in (0, 1):
            found = int.from_bytes(connection.read(node, 64 * k, 8), "big")
            assert found == thread.acknowledged


@pytest.mark.parametrize("victims", [["node0"], ["node0", "node1"]])
def test_a_killed_memory_node_loses_nothing_acknowledged_and_clients_see_no_error(
    cluster_factory: ClusterFactory, victims: list[str]
) -> None:
    cluster = cluster_factory(memory_nodes=2)
    with connect_blocking(cluster.endpoint) as connection:
        with writers(connection, 3) as threads:
            for _ in range(2):
                threads[0].wait_for_more(20)
                for victim in victims:
                    cluster.kill(victim)
                assert cluster.start() == victims
                threads[0].wait_for_more(20)
        assert_all_there(connection, threads)


def test_minitransactions_go_on_without_the_manager(cluster_factory: ClusterFactory) -> None:
    cluster = cluster_factory(memory_nodes=2)
    with connect_blocking(cluster.endpoint) as connection:
        with writers(connection, 2) as threads:
            cluster.kill("manager")
            threads[0].wait_for_more(50)
            # A new client finds its way by any memory node.
            with connect_blocking(cluster.endpoints["node1"]) as late:
                assert len(late.read(0, 0, 8)) == 8
            cluster.start()
            threads[0].wait_for_more(50)
        assert_all_there(connection, threads)


def test_everything_killed_at_once_comes_back_with_everything_acknowledged(
    cluster_factory: ClusterFactory,
) -> None:
    cluster = cluster_factory(memory_nodes=2)
    with connect_blocking(cluster.endpoint) as connection:
        with writers(connection, 2) as threads:
            threads[0].wait_for_more(20)
            for name in cluster.endpoints:
                cluster.kill(name)
            cluster.start()
            threads[0].wait_for_more(20)
        assert_all_there(connection, threads)


@pytest.mark.parametrize("prepared", [[0], [0, 1]])
def test_what_a_killed_client_left_in_doubt_is_settled_within_the_timeout(
    cluster_factory: ClusterFactory, prepared: list[int]
) -> None:
    """Killed between the votes and COMMIT: committed if all have voted OK, else aborted."""
    times = Times(in_doubt_timeout=1.0)
    cluster = cluster_factory(memory_nodes=2, times=times)
    command = [sys.executable, str(PREPARE_AND_WAIT), cluster.endpoint, *map(str, prepared)]
    with connect_blocking(cluster.endpoint) as connection:
        connection.write(0, 0, b"old")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            try:
                assert client.stdout is not None
                assert client.stdout.readline() == "voted\n"
                with pytest.raises(Contended):
                    connection.read(0, 0, 3, timeout=0.1)
            finally:
                client.kill()
        found = connection.read(0, 0, 3, timeout=times.in_doubt_timeout + 2.0)
        assert found == (b"new" if prepared == [0, 1] else b"old")
        assert connection.read(1, 0, 3) == (b"new" if prepared == [0, 1] else bytes(3))


def test_a_ram_node_that_restarted_is_refused_until_it_is_recreated(
    cluster_factory: ClusterFactory,
) -> None:
    cluster = cluster_factory(mode="RAM")
    with connect_blocking(cluster.endpoint) as connection:
        connection.write(0, 0, b"gone")
    cluster.kill("node0")
    with pytest.raises(StartFailed, match=r"restarted without its data.*sinfonia recreate"):
        cluster.start()
    recreate = run("recreate", str(cluster.directory), "0", "--yes")
    assert recreate.returncode == 0, recreate.stderr
    cluster.start()
    with connect_blocking(cluster.endpoint) as connection:
        assert connection.read(0, 0, 4) == bytes(4)


def test_a_second_process_on_the_same_data_directory_is_refused(
    cluster_factory: ClusterFactory,
) -> None:
    cluster = cluster_factory()
    holder = cluster.process("node0")
    assert holder is not None
    second = run("memnode", "--config", str(cluster.directory / "cluster.toml"), "--node", "0")
    assert one_error(second).endswith(
        f"is in use by process {holder.pid}; stop that process, or choose another directory"
    )
    assert cluster.process("node0") == holder


def test_a_port_in_use_is_named(cluster_factory: ClusterFactory, tmp_path: Path) -> None:
    cluster = cluster_factory()
    taken = cluster.endpoints["node0"]
    options = ["--listen", taken, "--manager", cluster.endpoint, "--data-directory", str(tmp_path)]
    assert f"{taken} is in use by another process" in one_error(
        run("memnode", "--node", "7", *options)
    )


def test_a_memory_node_without_a_manager_does_not_serve(cluster_factory: ClusterFactory) -> None:
    cluster = cluster_factory(started=False)
    with pytest.raises(StartFailed, match="node0 does not serve yet"):
        cluster.start(["node0"], timeout=2.0)
    assert cluster.running == {}
    with pytest.raises(Unreachable, match="is the cluster up"):
        connect_blocking(cluster.endpoint, timeout=0.2)


def test_a_damaged_redo_log_is_refused_and_shown(cluster_factory: ClusterFactory) -> None:
    cluster = cluster_factory()
    with connect_blocking(cluster.endpoint) as connection:
        for k in range(5):
            connection.write(0, 8 * k, b"recorded")
    cluster.kill("node0")
    flip_a_byte(cluster.directory / "node0")
    with pytest.raises(StartFailed, match=r"log\.0+ is damaged at byte \d+.*restore this"):
        cluster.start()
    assert "is damaged at byte" in one_error(run("log", str(cluster.directory / "node0")))


def test_a_slow_process_is_killed_in_the_end(cluster_factory: ClusterFactory) -> None:
    cluster = cluster_factory()
    stopped = cluster.process("node0")
    assert stopped is not None
    stopped.signal(signal.SIGSTOP)
    assert cluster.stop(patience=3.0) == ["node0"]
    assert cluster.running == {}


def enter_half(connection: BlockingCluster) -> None:
    """Another transfer is entered, of which one ledger knows nothing."""
    entry = Transfer(2, Account(0, 0), Account(1, 0), 5).encode()
    connection.write(0, entry_address(0, 2), entry)


def lose_a_transfer(connection: BlockingCluster) -> None:
    for node in range(NODES):
        connection.write(node, entry_address(0, 1), bytes(32))


def pay_twice(connection: BlockingCluster) -> None:
    connection.write(2, Account(2, 3).address, (10_000).to_bytes(8, "big"))


@pytest.mark.parametrize(
    ("harm", "finding"),
    [
        (enter_half, r"is entered at \{0\} only"),
        (lose_a_transfer, r"acknowledged transfers \{1\} are lost"),
        (pay_twice, "balances do not follow from the ledgers"),
    ],
)
def test_the_audit_of_a_bank_sees_what_is_wrong(
    cluster_factory: ClusterFactory, harm: Callable[[BlockingCluster], None], finding: str
) -> None:
    cluster = cluster_factory(memory_nodes=NODES)
    with connect_blocking(cluster.endpoint) as connection:
        open_accounts(connection)
        Desk(connection, 0).transfer(1)
        audit(cluster.endpoint, {0: 1})
        harm(connection)
    with pytest.raises(AssertionError, match=finding):
        audit(cluster.endpoint, {0: 1})


def flip_a_byte(data_directory: Path) -> None:
    """In the payload of the second block of the log, with good blocks behind it."""
    [segment] = data_directory.glob("log.*")
    content = bytearray(segment.read_bytes())
    second = [match.start() for match in re.finditer(b"SNRL", content)][1]
    content[second + 40] ^= 1
    segment.write_bytes(content)


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "sinfonia.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)


def one_error(done: "subprocess.CompletedProcess[str]") -> str:
    """The one line that it says before it exits with 1."""
    assert done.returncode == 1, done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


def test_identity_of_a_process_includes_its_start() -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            identity = ProcessIdentity.of(sleeper.pid)
            assert identity is not None
            earlier = ProcessIdentity(identity.pid, identity.start_time - 1)
            earlier.signal(signal.SIGKILL)
            assert not earlier.running
            assert identity.running
        finally:
            sleeper.kill()
    assert not identity.running
