"""Backups of real clusters under load, restored into other real clusters."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from sinfonia import BlockingCluster, connect_blocking
from sinfonia.addresses import MemoryNodeId
from sinfonia.backup.archive import Backup
from sinfonia.backup.copier import take_full, take_increment
from sinfonia.backup.moments import format_moment
from sinfonia.backup.restore import LIVES_SKIPPED
from sinfonia.cli.main import main
from sinfonia.client.seed import ask_for_directory
from sinfonia.errors import BackupError
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.operating.local_description import LOOPBACK, PRIVATE_PORTS, refuse_taken
from sinfonia.operating.refusals import StartFailed
from sinfonia.testing.bank import (
    ACCOUNTS,
    OPENING_BALANCE,
    Bank,
    bank_under_load,
    read_balances,
    read_ledger,
)
from sinfonia.testing.real_cluster import primary_of, real_cluster, wait_until_well

pytestmark = pytest.mark.network

DEADLINE = 60.0
PORTS_IN_A_ROW = 12
TELLERS = 3
MIB = 1 << 20


@pytest.fixture
def place() -> Iterator[Path]:
    """For backups and what is restored from them; data directories are large."""
    directory = Path(tempfile.mkdtemp(prefix="sinfonia-backup-"))
    yield directory
    shutil.rmtree(directory)


def command(*arguments: object) -> str:
    """What `sinfonia` prints, if it succeeds."""
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def refusal(*arguments: object) -> str:
    """What `sinfonia` says, in one line."""
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exit_code == 1, result.output
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr


def free_row() -> int:
    """The first of some free ports that follow one another."""
    while True:
        first = random.choice(PRIVATE_PORTS[:-PORTS_IN_A_ROW])
        with suppress(StartFailed):
            for port in range(first, first + PORTS_IN_A_ROW):
                refuse_taken(f"tcp://{LOOPBACK}:{port}")
            return first


@contextmanager
def restored(backup: Path, *options: object) -> Iterator[BlockingCluster]:
    """A cluster restored from ``backup``, up as long as the block."""
    directory = backup.with_name("restored")
    command("restore", backup, directory, "--port", free_row(), *options)
    cluster = LocalCluster(directory)
    try:
        cluster.start()
        with connect_blocking(cluster.endpoint) as connection:
            yield connection
    finally:
        killed = cluster.stop()
        shutil.rmtree(directory)
    assert not killed


def ledgers_explain_balances(connection: BlockingCluster, at_most: dict[int, int]) -> int:
    """Every transfer that is there is whole, none is there without those before it, and no other
    change was made; how many there are."""
    balances = dict.fromkeys(ACCOUNTS, OPENING_BALANCE)
    transfers = 0
    for teller, number in at_most.items():
        found = read_ledger(connection, teller, number + 1)
        assert sorted(each.number for each in found) == list(range(1, len(found) + 1))
        transfers += len(found)
        for each in found:
            balances[each.source] -= each.amount
            balances[each.target] += each.amount
    assert read_balances(connection) == balances
    assert sum(balances.values()) == OPENING_BALANCE * len(ACCOUNTS)
    return transfers


def done_by(bank: Bank) -> dict[int, int]:
    return dict.fromkeys(range(TELLERS), bank.transfers)


def test_a_backup_under_load_is_a_state_of_the_bank(place: Path) -> None:
    with (
        real_cluster(mode="LOG", replicas=0) as cluster,
        bank_under_load(cluster.endpoint, tellers=TELLERS) as bank,
    ):
        before = bank.transfers
        command("backup", cluster.directory, place / "backup")
        after = bank.transfers + TELLERS
        bank.wait_for_more()
        done = done_by(bank)
    with restored(place / "backup") as connection:
        assert before <= ledgers_explain_balances(connection, done) <= after


@pytest.mark.slow
def test_any_moment_of_a_chain_of_increments_is_a_state_of_the_bank(place: Path) -> None:
    with (
        real_cluster(mode="LOG", replicas=0) as cluster,
        bank_under_load(cluster.endpoint, tellers=TELLERS) as bank,
    ):
        take_full(cluster.endpoint, place / "backup")
        for _ in range(3):
            bank.wait_for_more()
            command("backup", "--incremental", cluster.directory, place / "backup")
        done = done_by(bank)
    first, last = Backup(place / "backup").moments
    counts = []
    for moment in (first, *sorted(random.Random(5).sample(range(first, last), 5)), last):
        with restored(place / "backup", "--at", format_moment(moment)) as connection:
            counts.append(ledgers_explain_balances(connection, done))
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


@pytest.mark.slow
def test_increments_go_on_over_fail_overs_and_restarts(place: Path) -> None:
    with (
        real_cluster() as cluster,
        bank_under_load(cluster.endpoint, tellers=TELLERS) as bank,
    ):
        command("backup", cluster.directory, place / "backup")
        victim = primary_of(cluster, 1)
        cluster.kill(victim)
        bank.wait_for_more()
        command("backup", "--incremental", cluster.directory, place / "backup")
        cluster.start([victim])
        wait_until_well(cluster)
        command("backup", "--incremental", cluster.directory, place / "backup")
        before = bank.transfers
        # A primary that dies in the middle does not end the backup.
        killer = threading.Thread(target=cluster.kill, args=(primary_of(cluster, 0),))
        killer.start()
        command("backup", "--incremental", cluster.directory, place / "backup")
        killer.join(DEADLINE)
        bank.wait_for_more()
        done = done_by(bank)
    lives = Backup(place / "backup").lives(MemoryNodeId(1))
    assert len(lives) > 1, "there was no fail-over"
    with restored(place / "backup") as connection:
        assert ledgers_explain_balances(connection, done) >= before


def test_a_cluster_without_a_log_is_restored_into_one_with(place: Path) -> None:
    with (
        real_cluster(mode="RAM", replicas=0) as cluster,
        bank_under_load(cluster.endpoint, tellers=TELLERS) as bank,
    ):
        command("backup", cluster.directory, place / "backup")
        assert "log nothing between two backups; take a full one" in refusal(
            "backup", "--incremental", cluster.directory, place / "backup"
        )
        done = done_by(bank)
    assert "restore with --mode LOG" in refusal("restore", place / "backup", place / "restored")
    with restored(place / "backup", "--mode", "LOG") as connection:
        assert ledgers_explain_balances(connection, done) > 0


def test_replicas_in_memory_are_backed_up_with_increments(place: Path) -> None:
    with (
        real_cluster(mode="RAM-REPL") as cluster,
        bank_under_load(cluster.endpoint, tellers=TELLERS) as bank,
    ):
        command("backup", cluster.directory, place / "backup")
        bank.wait_for_more()
        before = bank.transfers
        command("backup", "--incremental", cluster.directory, place / "backup")
        done = done_by(bank)
    with restored(place / "backup", "--mode", "LOG-REPL", "--replicas", 1) as connection:
        assert ledgers_explain_balances(connection, done) >= before


def test_a_restored_cluster_goes_on_where_the_original_was(place: Path) -> None:
    """Its lives are later than those of the original, so that nothing for that one is taken."""
    with real_cluster(memory_nodes=1, mode="LOG", replicas=0) as cluster:
        with connect_blocking(cluster.endpoint) as connection:
            connection.write(0, 100, b"before")
        command("backup", cluster.directory, place / "backup")
        known = ask_for_directory(cluster.endpoint)
    with restored(place / "backup") as connection:
        assert connection.read(0, 100, 6) == b"before"
        connection.write(0, 100, b"after!")
        directory = ask_for_directory(connection.nodes[MemoryNodeId(0)].endpoint)
        assert directory.nodes[0].incarnation > known.nodes[0].incarnation + LIVES_SKIPPED
        assert directory.nodes[0].identity != known.nodes[0].identity
        assert directory.nodes[0].config_epoch > known.nodes[0].config_epoch + LIVES_SKIPPED
        assert directory.version > known.version + LIVES_SKIPPED
        assert (directory.cluster, directory.epoch) == (known.cluster, known.epoch)
        take_full(directory.nodes[0].endpoint, place / "again")
    with restored(place / "again") as connection:
        assert connection.read(0, 100, 6) == b"after!"


def test_no_empty_member_is_taken_for_a_restored_one(place: Path) -> None:
    """The restored store names the members that hold the data, whichever comes first."""
    with real_cluster(memory_nodes=1) as cluster:
        with connect_blocking(cluster.endpoint) as connection:
            connection.write(0, 100, b"before")
        command("backup", cluster.directory, place / "backup")
    with restored(place / "backup") as connection:
        endpoint = connection.nodes[MemoryNodeId(0)].endpoint
        [entry] = ask_for_directory(endpoint).nodes
        assert (entry.wanted, len(entry.replicas)) == (1, 1)
        assert entry.incarnation > LIVES_SKIPPED
        assert connection.read(0, 100, 6) == b"before"
    directory = place / "members"
    command("restore", place / "backup", directory, "--port", free_row())
    (directory / "node0").rename(place / "late")
    with pytest.raises(StartFailed):
        LocalCluster(directory).start(["manager", "node0r1"], timeout=2.0)
    (place / "late").rename(directory / "node0")
    restored_again = LocalCluster(directory)
    try:
        restored_again.start()
        with connect_blocking(restored_again.endpoint) as connection:
            assert connection.read(0, 100, 6) == b"before"
    finally:
        assert not restored_again.stop()


def test_members_for_many_hosts_are_restored_one_by_one(place: Path) -> None:
    with real_cluster(memory_nodes=2, mode="LOG", replicas=0) as cluster:
        with connect_blocking(cluster.endpoint) as connection:
            connection.write(1, 100, b"here")
        command("backup", cluster.directory, place / "backup")
        cluster.stop()
        for node in (0, 1):
            data = Path(cluster.config.describe(node).data_directory)
            shutil.rmtree(data)
            command("restore", place / "backup", "--node", node, "--data-directory", data)
        shutil.rmtree(cluster.config.manager[0].data_directory)
        cluster.start()
        with connect_blocking(cluster.endpoint) as connection:
            assert connection.read(1, 100, 4) == b"here"


def test_a_backup_says_what_it_reaches(place: Path) -> None:
    with real_cluster(memory_nodes=1, mode="LOG", replicas=0) as cluster:
        said = json.loads(command("backup", "--json", cluster.directory, place / "backup"))
        command("backup", "--incremental", cluster.directory, place / "backup")
    listed = json.loads(command("backup", "--list", "--json", place / "backup"))
    assert [step["name"] for step in listed["steps"]] == ["full", "increment-0001"]
    assert listed["steps"][0] == said["steps"][0]
    [node] = listed["manager_store"]["memory_nodes"]
    assert (node["node"], node["wanted"]) == (0, 0)
    assert node["config_epoch"] > 0
    first, last = (step["moment"] for step in listed["steps"])
    assert f"from {first}" in command("backup", "--list", place / "backup")
    refused = refusal("restore", place / "backup", place / "x", "--at", "2001-01-01T00:00:00")
    assert f"reaches from {first} to {last}" in refused


def test_what_cannot_be_done_is_refused_with_the_reason(place: Path) -> None:
    with (
        real_cluster(memory_nodes=1, mode="LOG", replicas=0) as cluster,
        real_cluster(memory_nodes=2, mode="LOG", replicas=0) as other,
    ):
        backup = place / "backup"
        assert "there is no backup" in refusal("backup", "--incremental", cluster.directory, backup)
        command("backup", cluster.directory, backup)
        assert "is there already" in refusal("backup", cluster.directory, backup)
        said = refusal("backup", "--incremental", other.directory, backup)
        assert "has other memory nodes" in said
        said = refusal("restore", backup, "--node", 4, "--data-directory", place / "x")
        assert "there is no memory node 4" in said
        misused = CliRunner().invoke(main, ["restore", str(backup), str(cluster.directory)])
        assert misused.exit_code == 2
        assert "is a cluster" in misused.stderr
    assert not (place / "x").exists()


@pytest.mark.parametrize("keep_log", [256 * MIB, MIB], ids=["kept", "gone"])
def test_an_increment_needs_all_of_the_log_since(place: Path, keep_log: int) -> None:
    with real_cluster(
        memory_nodes=1, mode="LOG", replicas=0, checkpoint_log=MIB, keep_log=keep_log
    ) as cluster:
        take_full(cluster.endpoint, place / "backup")
        with connect_blocking(cluster.endpoint) as connection:
            for number in range(160):
                connection.write(0, number * MIB, bytes(MIB))
        if keep_log > MIB:
            take_increment(cluster.endpoint, place / "backup")
        else:
            with pytest.raises(BackupError, match="take a full backup"):
                take_increment(cluster.endpoint, place / "backup")


# --- ends that are not good ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def full_cluster() -> Iterator[LocalCluster]:
    """A cluster that takes a moment to be copied."""
    with real_cluster(memory_nodes=1, mode="LOG", replicas=0) as cluster:
        with connect_blocking(cluster.endpoint) as connection:
            for number in range(128):
                connection.write(0, number * MIB, os.urandom(MIB))
        yield cluster


def sinfonia(*arguments: object, limit: str = "") -> "subprocess.Popen[str]":
    """`sinfonia` as a process of its own, in a shell that sets ``limit``."""
    words = [sys.executable, "-m", "sinfonia.cli.main", *map(str, arguments)]
    if limit:
        words = ["bash", "-c", f'{limit}; exec "$@"', "bash", *words]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_backup_that_was_killed_is_not_there_and_not_in_the_way(
    full_cluster: LocalCluster, place: Path
) -> None:
    backup = place / "backup"
    image = place / "backup.partial" / "full" / "node0.image"
    with sinfonia("backup", full_cluster.directory, backup) as process:
        deadline = time.monotonic() + DEADLINE
        while not image.exists() or image.stat().st_size < MIB:
            assert process.poll() is None, "it was too fast to be killed"
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.kill()
    assert not backup.exists()
    assert "there is no backup" in refusal("backup", "--list", backup)
    command("backup", full_cluster.directory, backup)
    assert sorted(each.name for each in place.iterdir()) == ["backup"]
    Backup(backup)


@pytest.mark.parametrize("incremental", [False, True], ids=["full", "increment"])
def test_a_full_disk_is_one_clear_error_and_leaves_what_was_there(
    full_cluster: LocalCluster, place: Path, *, incremental: bool
) -> None:
    backup = place / "backup"
    if incremental:
        take_full(full_cluster.endpoint, backup)
        with connect_blocking(full_cluster.endpoint) as connection:
            connection.write(0, 0, bytes(4 * MIB))
    before = sorted(backup.rglob("*"))
    options = ["--incremental"] if incremental else []
    with sinfonia(
        "backup", *options, full_cluster.directory, backup, limit="ulimit -f 1024"
    ) as process:
        _, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    [line] = stderr.splitlines()
    assert line.startswith("Error: cannot write ")
    assert "nothing was backed up" in line
    assert sorted(backup.rglob("*")) == before
    assert not (place / "backup.partial").exists()
