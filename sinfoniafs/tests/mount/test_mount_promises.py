"""The README's promises that need the kernel: whole writes, set-user-ID, directories that moved."""

import mmap
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.testing.plugin import ClusterFactory
from sinfoniafs.mount import PAGES_LIMIT
from sinfoniafs.mount_testing import can_mount, mounted, sinfoniafs

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.network,
    pytest.mark.skipif(not can_mount(), reason="mounting needs root and /dev/fuse"),
]

MIB = 1024 * 1024
OWNER, STRANGER = 2000, 3000


@pytest.fixture(scope="module")
def cluster(shared_cluster_factory: ClusterFactory) -> LocalCluster:
    running = shared_cluster_factory(memory_nodes=2)
    made = sinfoniafs("mkfs", running.directory)
    assert made.returncode == 0, made.stderr
    return running


@pytest.fixture(scope="module")
def pair(
    cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Path]]:
    base = tmp_path_factory.mktemp("mounts")
    with mounted(cluster, base / "a") as a, mounted(cluster, base / "b") as b:
        yield a, b
        checked = sinfoniafs("fsck", cluster.directory)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def as_stranger(work: Callable[[], object], directory: int) -> int:
    """Do ``work`` in a process of another user; 0, or the errno.

    Its working directory is ``directory``, as the way there may be closed to that user.
    """
    child = os.fork()
    if child == 0:
        status = 255
        try:
            os.fchdir(directory)
            os.setgroups([])
            os.setgid(STRANGER)
            os.setuid(STRANGER)
            work()
            status = 0
        except OSError as error:
            status = error.errno or 255
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def open_and_write(flags: int) -> None:
    os.write(os.open("file", os.O_WRONLY | flags), b"changed")


CHANGES: dict[str, Callable[[], object]] = {
    "open": lambda: os.open("file", os.O_WRONLY | os.O_TRUNC),
    "creat": lambda: os.open("file", os.O_WRONLY | os.O_TRUNC | os.O_CREAT),
    "write": lambda: open_and_write(0),
    "append": lambda: open_and_write(os.O_APPEND),
    "truncate": lambda: os.truncate("file", 3),
    "ftruncate": lambda: os.ftruncate(os.open("file", os.O_WRONLY), 3),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("before", [0o6777, 0o2767])
def test_set_user_id_does_not_outlive_a_change_by_a_stranger(
    pair: tuple[Path, Path], change: Callable[[], object], before: int
) -> None:
    file = pair[0] / "file"
    file.write_bytes(b"something")
    os.chown(file, OWNER, OWNER)
    file.chmod(before)
    directory = os.open(pair[0], os.O_RDONLY | os.O_DIRECTORY)
    assert as_stranger(change, directory) == 0
    os.close(directory)
    left = 0o777 if before == 0o6777 else 0o2767  # not executable by the group: it stays
    assert stat.S_IMODE((pair[1] / "file").stat().st_mode) == left
    file.unlink()


def test_set_user_id_outlives_a_change_by_root(pair: tuple[Path, Path]) -> None:
    file = pair[0] / "file"
    file.write_bytes(b"something")
    for flags in (os.O_TRUNC, os.O_APPEND):
        file.chmod(0o6777)
        descriptor = os.open(file, os.O_WRONLY | flags)
        os.write(descriptor, b"changed")
        os.close(descriptor)
        assert stat.S_IMODE(file.stat().st_mode) == 0o6777
    file.unlink()


needs_pages = pytest.mark.skipif(
    not PAGES_LIMIT.exists(), reason="before Linux 6.13 a request has at most 256 pages"
)


def pattern(number: int) -> bytes:
    return bytes([65 + number % 26])


@needs_pages
@pytest.mark.parametrize("offset", [0, 1, 100, 4095, 16384, 20_000])
def test_a_write_of_a_mebibyte_is_never_seen_in_parts(pair: tuple[Path, Path], offset: int) -> None:
    """Another mount reads past the page cache, so that each read is one request, too."""
    a, b = (mount / "whole" for mount in pair)
    a.write_bytes(pattern(0) * (offset + MIB))
    stop = threading.Event()
    torn: list[bytes] = []

    def read() -> None:
        buffer = memoryview(mmap.mmap(-1, MIB))
        descriptor = os.open(b, os.O_RDONLY | os.O_DIRECT)
        while not stop.is_set():
            assert os.preadv(descriptor, [buffer], offset) == MIB
            if bytes(buffer).count(buffer[:1]) != MIB:
                torn.append(bytes({*buffer}))
        os.close(descriptor)

    reader = threading.Thread(target=read)
    reader.start()
    descriptor = os.open(a, os.O_WRONLY)
    try:
        for number in range(12):
            os.pwrite(descriptor, pattern(number) * MIB, offset)
    finally:
        stop.set()
        reader.join(timeout=60)
        os.close(descriptor)
    assert not torn
    a.unlink()


@needs_pages
@pytest.mark.parametrize("misalignment", [0, 1, 48, 4095])
def test_appends_of_a_mebibyte_through_two_mounts_are_whole(
    pair: tuple[Path, Path], misalignment: int
) -> None:
    """Wherever the program has the bytes in its memory."""

    def append(mount: Path, letter: bytes) -> None:
        buffer = mmap.mmap(-1, MIB + 4096)
        buffer[:] = letter * len(buffer)
        descriptor = os.open(mount / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for _ in range(6):
            os.write(descriptor, memoryview(buffer)[misalignment : misalignment + MIB])
        os.close(descriptor)

    threads = [
        threading.Thread(target=append, args=(mount, letter))
        for mount, letter in zip(pair, (b"A", b"B"), strict=True)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join(timeout=60)
    content = (pair[0] / "log").read_bytes()
    parts = [content[start : start + MIB] for start in range(0, len(content), MIB)]
    assert sorted(part[:1] for part in parts) == [b"A"] * 6 + [b"B"] * 6
    assert all(part.count(part[:1]) == MIB for part in parts)
    (pair[0] / "log").unlink()


def test_a_directory_that_was_moved_there_can_be_renamed_here_at_once(
    pair: tuple[Path, Path],
) -> None:
    a, b = pair
    rng = random.Random(1)
    for name in "xyz":
        (a / name).mkdir()
    for number in range(15):
        first, second, third = rng.sample("xyz", 3)
        name = f"directory-{number}"
        (a / first / name).mkdir()
        (b / first / name).stat()
        (a / first / name).rename(a / second / name)
        (b / second / name).rename(b / third / name)
        assert (a / third / name).is_dir()
        (b / third / name).rename(b / first / name)
        (a / first / name).rename(a / second / name)
        assert (b / second / name).is_dir()
        (a / second / name).rmdir()
    for name in "xyz":
        (a / name).rmdir()


def test_an_inode_moved_while_it_is_open_here_can_be_renamed_here(
    pair: tuple[Path, Path],
) -> None:
    a, b = pair
    for name in ("from", "to"):
        (a / name).mkdir()
    (a / "from/directory").mkdir()
    inside = os.open(b / "from/directory", os.O_RDONLY | os.O_DIRECTORY)
    (a / "from/directory").rename(a / "to/directory")
    (b / "to/directory").rename(b / "from/renamed")
    assert os.fstat(inside).st_ino == (a / "from/renamed").stat().st_ino
    os.close(inside)
    (a / "from/renamed").rmdir()
    for name in ("from", "to"):
        (a / name).rmdir()
