"""A data directory belongs to one memory node from its making on, and to one process at a time."""

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import DataDirectoryInUse, StorageError
from sinfonia.simulation.disk import PowerLost, VirtualDisk
from sinfonia.storage.data_directory import IDENTITY_FILE, DataDirectory, DirectoryLock
from sinfonia.storage.files import Files, OsFiles

LOCKER = """
import sys
from pathlib import Path
from sinfonia.storage.data_directory import DirectoryLock
DirectoryLock(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["real", "virtual"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return OsFiles(tmp_path) if request.param == "real" else VirtualDisk(Random(1))


def enter(
    files: Files, *, node: int = 1, capacity: int = 4096, mode: str = "LOG", new: str = "first"
) -> DataDirectory:
    return DataDirectory.create_or_open(
        files, node=MemoryNodeId(node), capacity=capacity, mode=mode, new_identity=new
    )


def test_the_identity_is_made_once_and_incarnations_are_counted(files: Files) -> None:
    first = enter(files)
    assert (first.identity, first.starts, first.restarted) == ("first", 1, False)
    second = enter(files, new="second")
    assert (second.identity, second.starts, second.restarted) == ("first", 2, True)


def test_a_directory_remembers_that_it_was_a_primarys(files: Files) -> None:
    entered = enter(files)
    assert entered.led is False
    marked = entered.mark_led(files, led=True)
    assert DataDirectory.read(files) == marked
    assert enter(files).led is True
    assert enter(files).mark_led(files, led=False).led is False
    assert enter(files).led is False


def test_looking_at_a_directory_begins_no_new_life(files: Files) -> None:
    assert DataDirectory.read(files) is None
    entered = enter(files)
    assert DataDirectory.read(files) == entered
    assert DataDirectory.read(files) == entered


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        ({"node": 2}, "made for memory node 1, not memory node 2"),
        ({"capacity": 8192}, "made for capacity 4096, not capacity 8192"),
        ({"mode": "RAM"}, "made for mode LOG, not mode RAM"),
    ],
)
def test_another_memory_node_is_refused_and_nothing_changes(
    files: Files, difference: dict[str, int | str], message: str
) -> None:
    entered = enter(files)
    with pytest.raises(StorageError, match=message):
        enter(files, **difference)  # type: ignore[arg-type]  # one keyword of its own type
    assert DataDirectory.read(files) == entered


def test_a_directory_with_other_files_in_it_is_refused(files: Files) -> None:
    files.open("letter.txt", create=True).close()
    with pytest.raises(StorageError, match=r"holds 'letter\.txt' but no file 'identity'"):
        enter(files)
    assert files.names() == ["letter.txt"]


def test_a_damaged_identity_is_refused_at_any_byte() -> None:
    disk = VirtualDisk(Random(1))
    entered = enter(disk)
    for offset in range(disk.open(IDENTITY_FILE).size()):
        disk.corrupt(IDENTITY_FILE, offset)
        with pytest.raises(StorageError, match=r"identity (fails its checksum|is damaged)"):
            enter(disk)
        disk.corrupt(IDENTITY_FILE, offset)
    assert DataDirectory.read(disk) == entered


def test_an_identity_cut_short_is_refused(files: Files) -> None:
    enter(files)
    file = files.open(IDENTITY_FILE)
    size = file.size()
    for length in reversed(range(size)):
        file.truncate(length)
        with pytest.raises(StorageError, match="identity"):
            enter(files)
    file.close()


def test_what_a_crash_left_of_a_longer_file_does_not_get_into_a_new_one(files: Files) -> None:
    file = files.open(IDENTITY_FILE + ".new", create=True)
    file.write_at(0, bytes(5000))
    file.close()
    assert enter(files).starts == 1
    assert enter(files).starts == 2


@pytest.mark.parametrize("seed", range(10))
def test_no_incarnation_is_ever_given_twice(seed: int) -> None:
    """Power is lost at every operation in turn, and once more after each success."""
    disk = VirtualDisk(Random(seed))
    given = 0
    for cut in [*range(8), *range(8)]:
        disk.lose_power_at = disk.operations + cut
        try:
            starts = enter(disk).starts
        except PowerLost:
            pass
        else:
            assert starts > given
            given = starts
        disk.crash()
    assert given > 1
    found = DataDirectory.read(disk)
    assert found is not None
    assert found.identity == "first"


def test_a_second_process_is_told_which_one_holds_the_directory(tmp_path: Path) -> None:
    path = tmp_path / "made" / "on the way"
    with subprocess.Popen(
        [sys.executable, "-c", LOCKER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "locked\n"
            with pytest.raises(DataDirectoryInUse, match=f"in use by process {holder.pid};"):
                DirectoryLock(path)
        finally:
            # Killed, not asked: the lock must not outlive its process.
            holder.kill()
    lock = DirectoryLock(path)
    assert (path / "lock").read_text() == f"{os.getpid()}\n"
    lock.release()


def test_a_lock_is_held_within_one_process_too_and_can_be_released(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path)
    with pytest.raises(DataDirectoryInUse, match=str(os.getpid())):
        DirectoryLock(tmp_path)
    lock.release()
    DirectoryLock(tmp_path).release()
    assert enter(OsFiles(tmp_path)).starts == 1, "the lock file is no foreign file"


def test_a_path_that_is_no_directory_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot use .*file as a data directory"):
        DirectoryLock(tmp_path / "file")
