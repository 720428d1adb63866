"""`sinfonia rebuild-manager` reads data directories as they are and stores what follows."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sinfonia.addresses import MemoryNodeId
from sinfonia.cli.main import main
from sinfonia.management.rebuilt_store import REPLACED_FILE, RebuiltValue
from sinfonia.management.store import DIRECTORY_FILE, read_directory, write_directory
from sinfonia.minitransaction import WriteItem
from sinfonia.protocol.membership.messages import Directory, Member, MemoryNodeEntry
from sinfonia.protocol.membership.rebuilding import MARGIN
from sinfonia.protocol.records import OnePhase
from sinfonia.storage.damage import note_damage
from sinfonia.storage.data_directory import DataDirectory, DirectoryLock
from sinfonia.storage.files import OsFiles
from sinfonia.storage.known_configuration import CONFIGURATION_FILE, KnownConfiguration
from sinfonia.storage.stable_storage import open_stable_storage
from sinfonia.testing.etcd import running_etcd

NODE = MemoryNodeId(4)


def entry(config_epoch: int) -> MemoryNodeEntry:
    replica = Member(identity="a", endpoint="tcp://a:1", starts=1, in_sync=True)
    return MemoryNodeEntry(
        node=NODE,
        endpoint="tcp://p:1",
        capacity=4096,
        mode="LOG-REPL",
        identity="p",
        incarnation=7,
        starts=1,
        config_epoch=config_epoch,
        replicas=[replica],
        wanted=1,
    )


def make_member(data: Path, identity: str, config_epoch: int) -> Path:
    """A member that has logged two records and has seen ``config_epoch``."""
    data.mkdir()
    files = OsFiles(data)
    DataDirectory.create_or_open(
        files, node=NODE, capacity=4096, mode="LOG-REPL", new_identity=identity
    )
    storage = open_stable_storage(files, identity=identity, capacity=4096)
    storage.log.begin_life(7)
    for number in (1, 2):
        storage.log.append(OnePhase(7, 3, number, 0, [WriteItem(64, b"hello")]))
        storage.log.sync()
    storage.close()
    known = entry(config_epoch)
    KnownConfiguration().seen(files, Directory(config_epoch, 0, "c", [known]), known)
    return data


@pytest.fixture
def members(tmp_path: Path) -> list[str]:
    """The data directories of a primary and its replica; the primary has seen more."""
    return [
        str(make_member(tmp_path / identity, identity, config_epoch))
        for identity, config_epoch in (("p", 21), ("a", 20))
    ]


def run(*arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(main, ["rebuild-manager", *arguments], input=answer)


def stored_in(store: Path) -> Directory | None:
    return read_directory(OsFiles(store))


def contents(directory: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def test_a_store_is_rebuilt_from_data_directories_that_stay_as_they_are(
    tmp_path: Path, members: list[str]
) -> None:
    before = [contents(member) for member in members]
    result = run("restore", "--store", str(tmp_path / "manager"), *members)
    assert result.exit_code == 0, result.output
    assert [contents(member) for member in members] == before
    directory = stored_in(tmp_path / "manager")
    assert directory is not None
    assert directory.cluster == "c"
    assert [(each.identity, each.config_epoch) for each in directory.nodes] == [("p", 21 + MARGIN)]
    assert "7:2" in result.output
    assert "from config epoch 21" in result.output
    assert "nothing is lost" in result.output


def test_reports_are_carried_between_hosts_as_files(tmp_path: Path, members: list[str]) -> None:
    printed = []
    for number, member in enumerate(members):
        printed.append(tmp_path / f"m{number}.json")
        printed[-1].write_text(run("report", member).output)
    result = run("restore", "--store", str(tmp_path / "manager"), "--json", *map(str, printed))
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["stored"]
    assert [(each["incarnation"], each["last_record"]) for each in found["reports"]] == [(7, 2)] * 2
    assert [each["role"] for each in found["reports"]] == ["primary", "in-sync replica"]
    assert [each["config_epoch"] for each in found["reports"]] == [21, 20]


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    for text in ("{}", "no JSON"):
        wrong.write_text(text)
        result = run("restore", "--store", str(tmp_path / "manager"), str(wrong))
        assert result.exit_code == 1
        assert "is not what `sinfonia rebuild-manager report` prints" in result.output


def test_nothing_is_stored_while_a_member_is_missing_unless_the_risk_is_taken(
    tmp_path: Path, members: list[str]
) -> None:
    store = tmp_path / "manager"
    restore = ("restore", "--store", str(store), members[0])
    refused = run(*restore)
    assert refused.exit_code == 1
    assert "its in-sync replica at tcp://a:1 has not reported" in refused.output
    assert "nothing was stored" in refused.output
    hesitant = run(*restore, "--force", answer="n\n")
    assert hesitant.exit_code == 1
    assert stored_in(store) is None
    assert run(*restore, "--force", answer="y\n").exit_code == 0
    directory = stored_in(store)
    assert directory is not None
    assert directory.nodes[0].in_sync == []


def test_a_store_that_names_memory_nodes_is_replaced_only_if_that_is_said(
    tmp_path: Path, members: list[str]
) -> None:
    store = tmp_path / "manager"
    store.mkdir()
    older = Directory(9, 0, "c", [entry(12)])
    write_directory(OsFiles(store), older)
    restore = ("restore", "--store", str(store), *members)
    refused = run(*restore)
    assert refused.exit_code == 1
    assert "knows 1 memory node (version 9)" in refused.output
    assert stored_in(store) == older
    assert run(*restore, "--replace").exit_code == 0
    directory = stored_in(store)
    assert directory is not None
    assert directory.nodes[0].config_epoch == 21 + MARGIN
    assert (store / REPLACED_FILE).exists()


def test_a_store_that_cannot_be_read_is_replaced_only_if_that_is_said(
    tmp_path: Path, members: list[str]
) -> None:
    store = tmp_path / "manager"
    store.mkdir()
    (store / DIRECTORY_FILE).write_bytes(b"rotten")
    restore = ("restore", "--store", str(store), *members)
    refused = run(*restore)
    assert refused.exit_code == 1
    assert "cannot be read" in refused.output
    assert run(*restore, "--replace").exit_code == 0


def test_a_manager_that_runs_keeps_its_store(tmp_path: Path, members: list[str]) -> None:
    lock = DirectoryLock(tmp_path / "manager")
    try:
        result = run("restore", "--store", str(tmp_path / "manager"), *members)
    finally:
        lock.release()
    assert result.exit_code == 1
    assert "in use by process" in result.output


def test_a_member_that_runs_reports_what_it_keeps_but_no_log(members: list[str]) -> None:
    lock = DirectoryLock(Path(members[0]))
    try:
        running = json.loads(run("report", members[0]).output)
    finally:
        lock.release()
    assert (running["running"], running["last"]) == (True, 0)
    assert running["entry"] is not None
    ended = json.loads(run("report", members[0]).output)
    assert (ended["running"], ended["lived"], ended["last"]) == (False, 7, 2)


def test_damage_is_reported_as_such(tmp_path: Path, members: list[str]) -> None:
    note_damage(OsFiles(Path(members[0])), "a page fails its checksum")
    [log] = [path for path in Path(members[1]).iterdir() if path.name.startswith("log.")]
    log.write_bytes(b"\0" * log.stat().st_size)
    (Path(members[1]) / CONFIGURATION_FILE).write_bytes(b"rotten")
    result = run("restore", "--store", str(tmp_path / "manager"), "--json", *members)
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert not found["stored"]
    assert found["reports"][0]["damage"] == "a page fails its checksum"
    assert found["reports"][1]["configuration_damaged"]
    [node] = found["memory_nodes"]
    assert any("is damaged; it may have been later" in each for each in node["objections"])


def test_a_dry_run_stores_nothing(tmp_path: Path, members: list[str]) -> None:
    result = run("restore", "--store", str(tmp_path / "manager"), "--dry-run", *members)
    assert result.exit_code == 0
    assert "from config epoch 21" in result.output
    assert stored_in(tmp_path / "manager") is None


def test_either_a_store_or_etcd_is_named(members: list[str]) -> None:
    for wrong in ((), ("--etcd", "http://e:1"), ("--store", "x", "--etcd", "http://e:1")):
        assert run("restore", *wrong, *members).exit_code == 2


@pytest.mark.network
def test_a_store_in_etcd_is_rebuilt_where_managers_look_for_it(members: list[str]) -> None:
    with running_etcd() as etcd:
        urls = [part for url in etcd.endpoints for part in ("--etcd", url)]
        restore = ("restore", *urls, "--cluster", "c", *members)
        result = run(*restore)
        assert result.exit_code == 0, result.output
        value = RebuiltValue(etcd.endpoints, cluster="c")
        value.close()
        assert value.known is not None
        assert value.known.nodes[0].config_epoch == 21 + MARGIN
        refused = run(*restore)
        assert refused.exit_code == 1
        assert "--replace" in refused.output
        assert run(*restore, "--replace").exit_code == 0
        wrong = run("restore", *urls, "--cluster", "d", *members)
        assert "these are members of cluster 'c', not 'd'" in wrong.output
