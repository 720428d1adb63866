"""Programs find a file system like any other: the mount is driven through the kernel alone."""

import contextlib
import errno
import mmap
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sinfoniafs.mount_testing import can_mount, model_mount

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(not can_mount(), reason="mounting needs root and /dev/fuse"),
]

NOBODY = 65534


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One mount for the tests of this module; it is checked with fsck when they are done."""
    with model_mount(tmp_path_factory.mktemp("mounts") / "volume") as mountpoint:
        yield mountpoint


@pytest.fixture
def here(volume: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty directory of the test's own on the mount."""
    directory = volume / request.node.name[:64]
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)
    assert not directory.exists()


def fails_with(number: int) -> Any:  # noqa: ANN401 - pytest's own type is private
    return pytest.raises(OSError, check=lambda error: error.errno == number)


@contextlib.contextmanager
def opened(path: Path, flags: int, mode: int = 0o644) -> Iterator[int]:
    descriptor = os.open(path, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_tree_survives_tar_and_diff(here: Path) -> None:
    source = Path(os.__file__).parent / "email"
    run("tar", "-C", source.parent, "-cf", here / "email.tar", "email")
    run("tar", "-C", here, "-xf", here / "email.tar")
    assert run("diff", "-r", source, here / "email") == ""
    found = run("find", here / "email", "-type", "f").splitlines()
    assert len(found) == len(run("find", source, "-type", "f").splitlines())
    run("cp", "-a", here / "email", here / "again")
    assert run("diff", "-r", source, here / "again") == ""


def test_git_works(here: Path) -> None:
    def git(*arguments: str) -> str:
        return run("git", "-C", here, "-c", "user.name=a", "-c", "user.email=a@b", *arguments)

    git("init", "--quiet")
    for number in range(20):
        (here / f"file-{number}").write_text(f"{number}\n" * 100)
    git("add", ".")
    git("commit", "--quiet", "-m", "files")
    git("gc", "--quiet")
    git("mv", "file-0", "renamed")
    git("commit", "--quiet", "-m", "rename")
    assert git("status", "--porcelain") == ""
    assert "renamed" in git("ls-files")
    git("fsck", "--strict")


@pytest.mark.parametrize("journal", ["DELETE", "TRUNCATE", "WAL"])
def test_sqlite_works(here: Path, journal: str) -> None:
    with contextlib.closing(sqlite3.connect(here / "database")) as database:
        database.execute(f"PRAGMA journal_mode={journal}")
        database.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT)")
        with database:
            database.executemany("INSERT INTO t (text) VALUES (?)", [("x" * 100,)] * 500)
        with contextlib.suppress(ZeroDivisionError), database:
            database.execute("DELETE FROM t")
            raise ZeroDivisionError
    with contextlib.closing(sqlite3.connect(here / "database")) as database:
        assert database.execute("SELECT count(*) FROM t").fetchone() == (500,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_name_has_at_most_255_bytes(here: Path) -> None:
    (here / ("x" * 255)).write_bytes(b"fits")
    with fails_with(errno.ENAMETOOLONG):
        (here / ("x" * 256)).write_bytes(b"does not")
    assert [len(path.name) for path in here.iterdir()] == [255]


def test_a_name_is_any_bytes_but_slash_and_zero(here: Path) -> None:
    names = [bytes([value]) * 3 for value in range(1, 256) if value not in b"/."]
    for name in names:
        with opened(here / os.fsdecode(name), os.O_WRONLY | os.O_CREAT):
            pass
    assert sorted(os.fsencode(path.name) for path in here.iterdir()) == sorted(names)


def test_a_path_through_a_file_is_refused(here: Path) -> None:
    (here / "file").write_bytes(b"")
    with fails_with(errno.ENOTDIR):
        (here / "file" / "below").write_bytes(b"")
    with fails_with(errno.ENOTDIR):
        (here / "file" / "below").mkdir()
    assert names_in(here) == {"file"}


def test_a_sparse_file_beyond_4_gib(here: Path) -> None:
    path, far = here / "sparse", 5 * 1024**3
    with opened(path, os.O_RDWR | os.O_CREAT) as file:
        os.pwrite(file, b"start", 0)
        os.pwrite(file, b"end", far)
        assert os.fstat(file).st_size == far + 3
        assert os.fstat(file).st_blocks * 512 < 1024 * 1024
        assert os.pread(file, 10, 0) == b"start\0\0\0\0\0"
        assert os.pread(file, 10, far - 2) == b"\0\0end"
        assert os.pread(file, 4, 2**32 - 2) == bytes(4)
        os.ftruncate(file, 3)
        os.ftruncate(file, far)
        assert os.pread(file, 5, 0) == b"sta\0\0"


def test_a_file_larger_than_a_minitransaction(here: Path) -> None:
    data = os.urandom(1024 * 1024) * 20
    (here / "large").write_bytes(data)
    assert (here / "large").read_bytes() == data
    os.truncate(here / "large", 1_000_001)
    assert (here / "large").read_bytes() == data[:1_000_001]


def test_an_unlinked_file_lives_until_it_is_closed(here: Path) -> None:
    with opened(here / "file", os.O_RDWR | os.O_CREAT) as file:
        (here / "file").unlink()
        os.write(file, b"still here")
        assert os.pread(file, 100, 0) == b"still here"
        assert os.fstat(file).st_nlink == 0
        with fails_with(errno.ENOENT):
            (here / "file").stat()


def test_an_open_file_survives_being_renamed_over(here: Path) -> None:
    (here / "old").write_bytes(b"old")
    (here / "new").write_bytes(b"new")
    with opened(here / "old", os.O_RDONLY) as file:
        (here / "new").rename(here / "old")
        assert os.read(file, 100) == b"old"
        assert (here / "old").read_bytes() == b"new"
        assert names_in(here) == {"old"}


def test_rename_over_directories(here: Path) -> None:
    for name in ("full/file", "empty", "other/sub"):
        (here / name).mkdir(parents=True)
    (here / "empty").rename(here / "other" / "sub")
    with fails_with(errno.ENOTEMPTY):
        (here / "other").rename(here / "full")
    with fails_with(errno.EINVAL):
        (here / "other").rename(here / "other" / "sub" / "other")
    (here / "file").write_bytes(b"")
    with fails_with(errno.ENOTDIR):
        (here / "other").rename(here / "file")
    with fails_with(errno.EISDIR):
        (here / "file").rename(here / "other")


def test_hard_links_share_one_inode(here: Path) -> None:
    first, second = here / "first", here / "second"
    first.write_bytes(b"shared")
    second.hardlink_to(first)
    assert first.stat().st_ino == second.stat().st_ino
    assert first.stat().st_nlink == 2
    second.write_bytes(b"changed")
    assert first.read_bytes() == b"changed"
    first.unlink()
    assert second.read_bytes() == b"changed"
    assert second.stat().st_nlink == 1


@pytest.mark.parametrize("length", [1, 60, 300, 4095])
def test_symbolic_links_keep_targets_of_any_length(here: Path, length: int) -> None:
    target = ("/" + "t" * 100) * 50
    (here / "link").symlink_to(target[:length])
    assert str((here / "link").readlink()) == target[:length]
    assert (here / "link").lstat().st_size == length


def test_a_symbolic_link_is_followed(here: Path) -> None:
    (here / "file").write_bytes(b"data")
    (here / "link").symlink_to("file")
    assert (here / "link").read_bytes() == b"data"
    (here / "loop").symlink_to("loop")
    with fails_with(errno.ELOOP):
        (here / "loop").read_bytes()


def test_a_file_is_mapped_and_read(here: Path) -> None:
    (here / "file").write_bytes(bytes(range(256)) * 64)
    with (
        opened(here / "file", os.O_RDONLY) as file,
        mmap.mmap(file, 0, access=mmap.ACCESS_READ) as mapped,
    ):
        assert mapped[:] == bytes(range(256)) * 64


def test_a_shared_map_writes_back(here: Path) -> None:
    (here / "file").write_bytes(bytes(50_000))
    with opened(here / "file", os.O_RDWR) as file, mmap.mmap(file, 0) as mapped:
        mapped[20_000:20_005] = b"mmap!"
        mapped.flush()
        assert os.pread(file, 5, 20_000) == b"mmap!"
    assert (here / "file").read_bytes()[20_000:20_005] == b"mmap!"


def test_programs_run_from_the_mount(here: Path) -> None:
    shutil.copy("/bin/echo", here / "echo")
    assert run(here / "echo", "it", "runs") == "it runs\n"


def test_appends_of_several_processes_do_not_overwrite_each_other(here: Path) -> None:
    program = (
        "import os, sys\n"
        "log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n"
        "for number in range(50):\n"
        "    os.write(log, f'{sys.argv[2]} {number}\\n'.encode())\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", program, here / "log", name]) for name in "ab"
    ]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    lines = (here / "log").read_text().splitlines()
    for name in "ab":
        assert [line for line in lines if line.startswith(name)] == [
            f"{name} {number}" for number in range(50)
        ]


def test_files_and_directories_can_be_synced(here: Path) -> None:
    with opened(here / "file", os.O_WRONLY | os.O_CREAT) as file:
        os.write(file, b"data")
        os.fsync(file)
        os.fdatasync(file)
    with opened(here, os.O_RDONLY | os.O_DIRECTORY) as directory:
        os.fsync(directory)


def test_a_directory_of_5000_entries(here: Path) -> None:
    names = {f"entry-{number:05}" for number in range(5000)}
    with opened(here, os.O_RDONLY | os.O_DIRECTORY) as directory:
        for name in names:
            os.mknod(name, stat.S_IFREG | 0o644, dir_fd=directory)
        assert names_in(here) == names
        # Removing while listing skips no entry.
        with os.scandir(here) as entries:
            for entry in entries:
                os.unlink(entry.name, dir_fd=directory)
    assert names_in(here) == set()


def test_times_are_kept_to_the_nanosecond(here: Path) -> None:
    (here / "file").write_bytes(b"")
    os.utime(here / "file", ns=(1_000_000_000_123_456_789, 987_654_321))
    found = (here / "file").stat()
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_000_000_000_123_456_789, 987_654_321)
    os.utime(here / "file")
    assert (here / "file").stat().st_mtime_ns > 987_654_321


def test_permissions_are_checked_for_other_users(here: Path) -> None:
    (here / "secret").write_bytes(b"")
    (here / "secret").chmod(0o600)
    (here / "closed").mkdir(mode=0o700)
    program = (
        "import errno, os, sys\n"
        "os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))\n"
        "for path in sys.argv[2:]:\n"
        "    try: os.open(path, os.O_RDONLY | os.O_CREAT)\n"
        "    except PermissionError: print('refused')\n"
        "    else: print('opened')\n"
    )
    paths = [here / "secret", here / "closed" / "file", here / "new"]
    # The directories above the mount belong to pytest and keep others out: let them pass.
    with opened(here, os.O_RDONLY | os.O_DIRECTORY) as directory:
        inside = [f"/proc/self/fd/{directory}/{path.relative_to(here)}" for path in paths]
        command = [sys.executable, "-c", program, str(NOBODY), *inside]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, pass_fds=[directory], timeout=60
        )
    assert done.stdout.split() == ["refused"] * 3


def test_the_set_user_id_bit_goes_when_another_user_writes(here: Path) -> None:
    (here / "program").write_bytes(b"old")
    (here / "program").chmod(0o6777)
    os.chown(here / "program", NOBODY, NOBODY)
    assert stat.S_IMODE((here / "program").stat().st_mode) == 0o777
    (here / "program").chmod(0o6777)
    with opened(here / "program", os.O_RDWR) as program:
        script = f"import os; os.setuid({NOBODY}); os.write({program}, b'new')"
        subprocess.run([sys.executable, "-c", script], check=True, pass_fds=[program], timeout=60)
    assert stat.S_IMODE((here / "program").stat().st_mode) == 0o777


def test_special_files(here: Path) -> None:
    os.mkfifo(here / "pipe", 0o600)
    os.mknod(here / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert stat.S_ISFIFO((here / "pipe").stat().st_mode)
    assert (here / "null").stat().st_rdev == os.makedev(1, 3)
    with opened(here / "pipe", os.O_RDWR) as pipe:
        os.write(pipe, b"through")
        assert os.read(pipe, 100) == b"through"


def test_open_exclusively_finds_what_is_there(here: Path) -> None:
    with opened(here / "file", os.O_WRONLY | os.O_CREAT | os.O_EXCL):
        pass
    with fails_with(errno.EEXIST):
        os.open(here / "file", os.O_WRONLY | os.O_CREAT | os.O_EXCL)


def test_a_directory_that_is_not_empty_stays(here: Path) -> None:
    (here / "directory" / "below").mkdir(parents=True)
    with fails_with(errno.ENOTEMPTY):
        (here / "directory").rmdir()
    (here / "directory" / "below").rmdir()
    (here / "directory").rmdir()
    with fails_with(errno.ENOENT):
        (here / "directory").stat()


def test_the_mount_table_says_what_it_is(volume: Path) -> None:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    (line,) = [line for line in lines if line.split()[1] == str(volume)]
    assert line.split()[:1] == ["model"]
    assert line.split()[2] == "fuse.sinfoniafs"
    assert os.statvfs(volume).f_namemax == 255


def test_a_full_volume_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    with model_mount(tmp_path / "small", capacity_mib=4) as small:
        (small / "kept").write_bytes(b"kept")
        with opened(small / "large", os.O_WRONLY | os.O_CREAT) as large, fails_with(errno.ENOSPC):
            while True:
                os.write(large, bytes(100_000))
        written = (small / "large").stat().st_size
        assert (small / "large").read_bytes() == bytes(written)
        assert (small / "kept").read_bytes() == b"kept"
        (small / "large").unlink()
        (small / "again").write_bytes(bytes(500_000))
        assert (small / "again").read_bytes() == bytes(500_000)
