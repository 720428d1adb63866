"""A backup as files: damage is named, what is not whole is not there, the rest is restored."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from sinfonia.addresses import MemoryNodeId
from sinfonia.backup import archive
from sinfonia.backup.archive import (
    MANIFEST_FILE,
    Backup,
    writing_full,
    writing_increment,
)
from sinfonia.backup.moments import format_moment, parse_moment
from sinfonia.backup.restore import (
    LIVES_SKIPPED,
    Restoration,
    RestoredMember,
    restored_directory,
)
from sinfonia.errors import BackupError, DamagedBackup
from sinfonia.memnode.node import MemoryNode
from sinfonia.memnode.settings import MemoryNodeSettings
from sinfonia.minitransaction import WriteItem
from sinfonia.protocol.load.counters import LoadCounters
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry
from sinfonia.protocol.messages import PROTOCOL_VERSION, ExecCommit, Requests, Voted
from sinfonia.protocol.participant import Participant
from sinfonia.protocol.records import OnePhase, decode_body
from sinfonia.simulation.participant_harness import PlainMemory
from sinfonia.simulation.workloads.bank import CAPACITY, simulated_bank
from sinfonia.storage.files import OsFiles

FLIPS_PER_FILE = 12
NODE = MemoryNodeId(1)
INCREMENT_NAME = "increment-0001"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full backup and an increment."""
    root = tmp_path_factory.mktemp("backup") / "bank"
    simulated_bank(7, root, increments=1).run()
    return root


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "backup"))


def read_everything(root: Path, moment: int | None = None) -> None:
    restoration = Restoration(Backup(root), moment)
    for origin in restoration.backup.nodes:
        restoration.recovered(origin, PlainMemory(CAPACITY))


def files_of(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


# --- damage --------------------------------------------------------------------------------------


def flip_a_bit(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def test_a_flipped_bit_in_any_file_is_found_and_the_file_is_named(root: Path) -> None:
    rng = random.Random(1)
    for path in files_of(root):
        whole = path.read_bytes()
        for _ in range(FLIPS_PER_FILE):
            flip_a_bit(path, rng)
            with pytest.raises(DamagedBackup, match=str(path)) as caught:
                read_everything(root)
            assert "restore from another" in str(caught.value)
            path.write_bytes(whole)
    read_everything(root)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def remove(path: Path) -> None:
    path.unlink()


def exchange(path: Path) -> None:
    """The same file of another memory node, or of another step, is whole, too."""
    other = path.with_name(path.name.replace("node0", "node1"))
    if other == path:
        other = path.parent.with_name("full") / path.name
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("damage", [cut_off, lengthen, remove, exchange])
@pytest.mark.parametrize(
    "name",
    [
        "full/node0.image",
        "full/node0.log",
        f"{INCREMENT_NAME}/node0.log",
        f"{INCREMENT_NAME}/directory",
    ],
)
def test_a_file_that_is_another_is_named(
    root: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(root / name)
    with pytest.raises(DamagedBackup, match=name):
        read_everything(root)


def test_moments_before_a_damaged_increment_can_still_be_restored(root: Path) -> None:
    first, last = Backup(root).moments
    flip_a_bit(root / INCREMENT_NAME / "node1.log", random.Random(2))
    with pytest.raises(DamagedBackup, match=f"a moment up to {format_moment(first)[:-6]}"):
        read_everything(root, last)
    read_everything(root, first)


def test_a_directory_without_a_manifest_is_no_backup(root: Path) -> None:
    (root / MANIFEST_FILE).unlink()
    with pytest.raises(BackupError, match="there is no backup"):
        Backup(root)


def test_a_moment_outside_is_refused_with_what_there_is(root: Path) -> None:
    first, last = Backup(root).moments
    for moment in (first - 1, last + 1):
        with pytest.raises(BackupError, match=r"reaches from .* to .* is outside"):
            Restoration(Backup(root), moment)


# --- the manager's store ------------------------------------------------------------------------


def test_each_step_has_what_the_managers_store_held(root: Path) -> None:
    backup = Backup(root)
    first, last = (backup.directory(moment) for moment in backup.moments)
    assert first is not None
    assert last is not None
    assert [entry.node for entry in last.nodes] == [origin.node for origin in backup.nodes]
    assert last.version > first.version, "memory nodes restarted in between"


def test_a_backup_of_an_older_version_is_restored_without_the_store(root: Path) -> None:
    manifest = Backup(root).manifest
    older = [replace(step, directory=None) for step in manifest.steps]
    archive._write_manifest(root, replace(manifest, steps=older))
    for directory in root.glob("*/directory"):
        directory.unlink()
    assert Restoration(Backup(root)).directory is None
    read_everything(root)


def test_a_restored_store_names_the_restored_members_and_goes_on_after_the_original() -> None:
    original = Directory(
        30,
        4,
        "c",
        [
            MemoryNodeEntry(
                node=NODE,
                endpoint="at-p",
                capacity=64,
                mode="LOG-REPL",
                identity="p",
                incarnation=7,
                starts=5,
                config_epoch=20,
                wanted=2,
            )
        ],
    )
    entry = MemoryNodeEntry(
        node=NODE,
        endpoint="at-new",
        capacity=64,
        mode="LOG-REPL",
        identity="",
        incarnation=0,
        wanted=1,
    )
    for lived, incarnation in ((3, 7 + LIVES_SKIPPED), (5000, 5000)):
        member = RestoredMember("new", 1, lived, epoch=6)
        after = restored_directory(original, [entry], {NODE: member})
        assert (after.version, after.epoch, after.cluster) == (30 + LIVES_SKIPPED, 6, "c")
        [restored] = after.nodes
        assert (restored.identity, restored.starts, restored.endpoint) == ("new", 1, "at-new")
        assert restored.incarnation == incarnation
        assert (restored.config_epoch, restored.wanted) == (20 + LIVES_SKIPPED, 1)


# --- writing -------------------------------------------------------------------------------------


def test_a_full_backup_goes_only_where_nothing_is(root: Path) -> None:
    with pytest.raises(BackupError, match="is there already"), writing_full(root):
        pass


def test_what_an_interrupted_backup_left_is_used_again(tmp_path: Path) -> None:
    place = tmp_path / "new"
    left = tmp_path / "new.partial"
    left.mkdir()
    (left / "lock").write_text("123\n")
    (left / "full").mkdir()
    (left / "full" / "node0.image").write_bytes(b"half")
    with writing_full(place) as partial:
        assert partial == left
        assert not any((partial / "full").iterdir())
    assert not left.exists()
    assert not place.exists()


def test_a_directory_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "precious").touch()
    with pytest.raises(BackupError, match="is in the way"), writing_full(tmp_path / "new"):
        pass
    assert (tmp_path / "new.partial" / "precious").exists()


def test_two_backups_do_not_write_to_one_place(tmp_path: Path) -> None:
    with (
        writing_full(tmp_path / "new"),
        pytest.raises(BackupError, match="another backup is being written"),
        writing_full(tmp_path / "new"),
    ):
        pass


def test_an_increment_is_not_added_to_what_another_has_added_to(root: Path) -> None:
    manifest = (root / MANIFEST_FILE).read_bytes()
    steps = Backup(root).manifest.steps
    archive._write_manifest(root, replace(Backup(root).manifest, steps=steps[:1]))
    opened_before = Backup(root)
    (root / MANIFEST_FILE).write_bytes(manifest)
    with (
        pytest.raises(BackupError, match="was added to just now"),
        writing_increment(opened_before),
    ):
        pass
    assert (root / MANIFEST_FILE).read_bytes() == manifest


# --- restoring -----------------------------------------------------------------------------------


def test_a_restored_memory_node_is_started_like_any_other(root: Path, tmp_path: Path) -> None:
    backup = Backup(root)
    restoration = Restoration(backup)
    origin = backup.nodes[0]
    expected = PlainMemory(CAPACITY)
    known = restoration.recovered(origin, expected)
    restoration.write_member(origin, tmp_path / "node0", mode="LOG-REPL")
    node = MemoryNode(
        MemoryNodeSettings(
            node=origin.node, endpoint="here", capacity=origin.capacity, mode="LOG-REPL"
        ),
        OsFiles(tmp_path / "node0"),
        new_identity="not used",
        send=lambda _route, _replies: None,
        wall=lambda: 0,
        now=0.0,
    )
    try:
        assert node.space.memory[:CAPACITY] == expected[0:CAPACITY]
        registration = node.registration()
        assert not registration.empty
        assert registration.lived == LIVES_SKIPPED + max(
            life.incarnation for life in backup.lives(origin.node)
        )
        state = node.participant_state
        assert state.checkpoint_state() == known.checkpoint_state()
        assert state.stamped >= restoration.moment
    finally:
        node.close()


def test_an_old_client_is_told_what_the_restored_memory_shows(root: Path) -> None:
    """The last minitransaction before the moment is answered; one after it never happened."""
    backup = Backup(root)
    first, last = backup.moments
    node = MemoryNodeId(0)
    batches = backup.log(node, last)
    all_of_them = [record for batch in batches for record in decode_body(batch.body, batch.count)]
    late = next(record for record in reversed(all_of_them) if isinstance(record, OnePhase))
    early = next(
        record
        for batch in reversed(list(backup.log(node, first)))
        for record in reversed(decode_body(batch.body, batch.count))
        if isinstance(record, OnePhase)
    )
    memory = PlainMemory(CAPACITY)
    participant = Participant(
        Restoration(backup, first).recovered(backup.nodes[0], memory),
        node=node,
        incarnation=0,
        read_lease=0.0,
        load=LoadCounters(),
    )
    participant.serving = True

    def ask_again(record: OnePhase) -> int:
        """With other bytes, which are written only if it is executed."""
        again = ExecCommit(
            counter=record.counter, epoch=record.epoch, writes=[WriteItem(64, b"executed")]
        )
        batch = Requests(PROTOCOL_VERSION, record.client, 0, 0, [again])
        [voted] = participant.on_requests(batch, 0.0).replies
        assert isinstance(voted, Voted)
        return participant.votes.duplicates

    assert ask_again(early) == 1
    assert memory[64:72] != b"executed"
    assert ask_again(late) == 1
    assert memory[64:72] == b"executed"


def test_a_failed_restore_leaves_nothing(root: Path, tmp_path: Path) -> None:
    restoration = Restoration(Backup(root))
    flip_a_bit(root / "full" / "node0.image", random.Random(3))
    with pytest.raises(DamagedBackup):
        restoration.write_member(restoration.backup.nodes[0], tmp_path / "node0", mode="LOG")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("node0")]


def test_a_member_is_restored_only_where_nothing_is(root: Path, tmp_path: Path) -> None:
    (tmp_path / "node0").mkdir()
    (tmp_path / "node0" / "precious").touch()
    restoration = Restoration(Backup(root))
    with pytest.raises(BackupError, match="is there already"):
        restoration.write_member(restoration.backup.nodes[0], tmp_path / "node0", mode="LOG")


# --- moments -------------------------------------------------------------------------------------


def test_a_moment_is_written_and_read_to_the_microsecond() -> None:
    assert format_moment(1_700_000_000_123_456) == "2023-11-14T22:13:20.123456+00:00"
    assert parse_moment("2023-11-14T22:13:20.123456+00:00") == 1_700_000_000_123_456
    assert parse_moment("2023-11-14T23:13:20+01:00") == 1_700_000_000_000_000


@pytest.mark.parametrize("text", ["yesterday", "", "2023-13-01T00:00:00"])
def test_what_is_not_a_moment_is_refused_with_the_form_it_should_have(text: str) -> None:
    with pytest.raises(BackupError, match="is not a time; write 2026-"):
        parse_moment(text)
