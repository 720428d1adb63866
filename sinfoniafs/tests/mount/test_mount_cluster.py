"""Two mounts of one real cluster: what is written through one is seen through the other at once."""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.testing.plugin import ClusterFactory
from sinfoniafs import mounts
from sinfoniafs.mount_testing import can_mount, mounted, remove_mount, sinfoniafs

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.network,
    pytest.mark.skipif(not can_mount(), reason="mounting needs root and /dev/fuse"),
]

Pair = tuple[Path, Path]
Running = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def cluster(shared_cluster_factory: ClusterFactory) -> LocalCluster:
    """A cluster with an empty volume, for the tests of this module."""
    running = shared_cluster_factory(memory_nodes=2)
    made = sinfoniafs("mkfs", running.directory)
    assert made.returncode == 0, made.stderr
    return running


@pytest.fixture(scope="module")
def mount_pair(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two mounts, as on two machines; when the tests are done, the volume must be sound."""
    base = tmp_path_factory.mktemp("mounts")
    with mounted(cluster, base / "a") as a, mounted(cluster, base / "b") as b:
        yield a, b
        assert_sound(cluster)


@pytest.fixture
def pair(mount_pair: Pair, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """One empty directory, as both mounts see it."""
    a, b = (mount / request.node.name[:64] for mount in mount_pair)
    a.mkdir()
    yield a, b
    shutil.rmtree(a)
    assert not b.exists()


@pytest.fixture
def running() -> Iterator[Running]:
    """Starts processes that do not outlive the test, however it ends."""
    with contextlib.ExitStack() as stack:

        def start(command: list[str], *, stderr: int) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=stderr)
            )
            stack.callback(process.kill)
            return process

        yield start


def assert_sound(cluster: LocalCluster, *options: str) -> str:
    checked = sinfoniafs("fsck", cluster.directory, *options)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    return checked.stdout


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def fails_with(number: int) -> Any:  # noqa: ANN401 - pytest's own type is private
    return pytest.raises(OSError, check=lambda error: error.errno == number)


def in_both(work: Any, pair: Pair) -> list[Any]:  # noqa: ANN401 - any work, any result
    """Do ``work`` through both mounts at the same time; its results or errors."""
    results: list[Any] = [None, None]
    start = threading.Barrier(2)

    def run(side: int) -> None:
        start.wait(timeout=10)
        try:
            results[side] = work(pair[side])
        except OSError as error:
            results[side] = error.errno

    threads = [threading.Thread(target=run, args=(side,)) for side in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return results


def test_a_file_that_is_open_here_shows_what_is_written_there(pair: Pair) -> None:
    """The reader's page cache holds the old bytes, and must not show them."""
    rng = random.Random(1)
    a, b = (side / "file" for side in pair)
    a.write_bytes(b"")
    with opened(a, os.O_RDWR) as writer, opened(b, os.O_RDONLY) as reader:
        for _ in range(200):
            offset, data = rng.choice([0, 5, 4096, 40_000]), rng.randbytes(rng.choice([1, 3000]))
            os.pwrite(writer, data, offset)
            assert os.pread(reader, len(data), offset) == data
            assert os.fstat(reader).st_size == os.fstat(writer).st_size
            if rng.random() < 0.1:
                os.ftruncate(writer, offset // 2)
                assert os.fstat(reader).st_size == offset // 2
                assert os.pread(reader, 10, offset // 2) == b""


def test_both_sides_may_write_in_turn(pair: Pair) -> None:
    a, b = (side / "file" for side in pair)
    a.write_bytes(bytes(10_000))
    with opened(a, os.O_RDWR) as first, opened(b, os.O_RDWR) as second:
        for turn in range(100):
            mine, other = (first, second) if turn % 2 else (second, first)
            assert os.pread(mine, 3, 5000) == (b"%03d" % (turn - 1) if turn else bytes(3))
            os.pwrite(mine, b"%03d" % turn, 5000)
            assert os.pread(other, 3, 5000) == b"%03d" % turn


def test_names_and_attributes_are_never_old(pair: Pair) -> None:
    a, b = pair
    for turn in range(50):
        (a / "file").write_bytes(b"x" * turn)
        assert (b / "file").stat().st_size == turn
        (b / "file").chmod(0o600 + turn % 64)
        assert (a / "file").stat().st_mode & 0o777 == 0o600 + turn % 64
        (a / "file").rename(a / "renamed")
        assert not (b / "file").exists()
        assert [path.name for path in b.iterdir()] == ["renamed"]
        (b / "renamed").unlink()
        with fails_with(errno.ENOENT):
            (a / "renamed").stat()


def test_a_tree_written_here_is_the_same_there(pair: Pair) -> None:
    a, b = pair
    source = Path(os.__file__).parent / "json"
    shutil.copytree(source, a / "tree")
    compared = subprocess.run(
        ["diff", "-r", source, b / "tree"], capture_output=True, check=False, timeout=60
    )
    assert compared.returncode == 0, compared.stdout


def test_appends_through_both_mounts_lose_nothing(pair: Pair) -> None:
    def append(side: Path) -> None:
        with opened(side / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT) as log:
            for number in range(100):
                os.write(log, f"{side} {number}\n".encode())

    assert in_both(append, pair) == [None, None]
    lines = (pair[0] / "log").read_text().splitlines()
    assert len(lines) == 200
    for side in pair:
        mine = [line for line in lines if line.startswith(f"{side} ")]
        assert mine == [f"{side} {number}" for number in range(100)]


def test_of_two_exclusive_creates_one_wins(pair: Pair) -> None:
    for turn in range(30):

        def create(side: Path, turn: int = turn) -> None:
            os.close(os.open(side / f"file-{turn}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))

        assert sorted(in_both(create, pair), key=str) == [errno.EEXIST, None]


def test_of_two_creates_both_open_the_same_file(pair: Pair) -> None:
    for turn in range(30):

        def create(side: Path, turn: int = turn) -> int:
            with opened(side / f"file-{turn}", os.O_CREAT | os.O_WRONLY) as file:
                return os.fstat(file).st_ino

        first, second = in_both(create, pair)
        assert first == second == (pair[0] / f"file-{turn}").stat().st_ino


def test_of_two_renames_of_one_file_one_wins(pair: Pair) -> None:
    for turn in range(20):
        (pair[0] / "file").write_bytes(b"x")

        def rename(side: Path, turn: int = turn) -> None:
            (side / "file").rename(side / f"to-{side.parent.name}-{turn}")

        assert sorted(in_both(rename, pair), key=str) == [errno.ENOENT, None]
    assert len(list(pair[0].iterdir())) == 20


def test_a_file_unlinked_here_lives_while_it_is_open_there(pair: Pair) -> None:
    a, b = pair
    (a / "file").write_bytes(b"still here")
    with opened(b / "file", os.O_RDWR) as file:
        (a / "file").unlink()
        assert os.pread(file, 100, 0) == b"still here"
        os.pwrite(file, b"written", 0)
        assert os.pread(file, 100, 0) == b"writtenere"
        assert os.fstat(file).st_nlink == 0


def test_a_directory_removed_there_is_empty_here(pair: Pair) -> None:
    a, b = pair
    (a / "directory").mkdir()
    with opened(b / "directory", os.O_RDONLY | os.O_DIRECTORY) as directory:
        (a / "directory").rmdir()
        assert os.listdir(directory) == []  # noqa: PTH208 - of a descriptor
        with fails_with(errno.ENOENT):
            os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=directory)


def test_a_memory_node_that_restarts_is_only_a_pause(cluster: LocalCluster, pair: Pair) -> None:
    a, b = pair
    first_done, finished = threading.Event(), threading.Event()
    errors: list[OSError] = []

    def write() -> None:
        try:
            for number in range(150):
                (a / f"file-{number}").write_bytes(b"%d" % number * 1000)
                first_done.set()
        except OSError as error:
            errors.append(error)
        finished.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert first_done.wait(timeout=30)
    for name in ("node0", "node1"):
        cluster.kill(name)
        cluster.start([name])
    assert finished.wait(timeout=60)
    writer.join()
    assert not errors
    for number in range(150):
        assert (b / f"file-{number}").read_bytes() == b"%d" % number * 1000


def test_a_killed_mount_leaves_a_sound_volume(
    cluster: LocalCluster, pair: Pair, tmp_path: Path, running: Running
) -> None:
    with mounted(cluster, tmp_path / "c") as mountpoint:
        record = mounts.read_record(mountpoint)
        assert record is not None
        copying = running(
            ["cp", "-r", f"{Path(os.__file__).parent}/asyncio", str(mountpoint / pair[0].name)],
            stderr=subprocess.DEVNULL,
        )
        file = os.open(mountpoint / pair[0].name / "unlinked", os.O_RDWR | os.O_CREAT)
        os.write(file, bytes(100_000))
        (pair[1] / "unlinked").unlink()
        while not (pair[1] / "asyncio").exists():
            assert copying.poll() is None
        os.kill(record.process.pid, signal.SIGKILL)
        assert copying.wait(timeout=30) != 0
        with contextlib.suppress(OSError):
            os.close(file)
        with fails_with(errno.ENOTCONN):
            mountpoint.stat()
        refused = sinfoniafs("mount", cluster.directory, mountpoint)
        assert refused.returncode == 1
        assert "--force" in refused.stderr
        assert sinfoniafs("umount", mountpoint, "--force").returncode == 0
    assert_sound(cluster)
    assert "1 dead mounts" in assert_sound(cluster, "--reclaim")
    # The other mounts were not disturbed.
    (pair[0] / "after").write_bytes(b"after")
    assert (pair[1] / "after").read_bytes() == b"after"


def test_unmounting_ends_the_session(cluster: LocalCluster, tmp_path: Path) -> None:
    with mounted(cluster, tmp_path / "d") as mountpoint:
        record = mounts.read_record(mountpoint)
        assert record is not None
        assert str(mountpoint) in sinfoniafs("info", cluster.directory).stdout
        ended = sinfoniafs("umount", mountpoint, "--json")
        assert json.loads(ended.stdout) == {"unmounted": str(mountpoint)}
        assert not record.process.running
        assert mounts.read_record(mountpoint) is None
        assert mounts.mount_at(mountpoint) is None
        assert str(mountpoint) not in sinfoniafs("info", cluster.directory).stdout


def test_mount_takes_the_cluster_of_the_environment(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SINFONIA_CLUSTER", str(cluster.directory))
    try:
        log_file = cluster.directory / "log" / "of-the-environment.log"
        done = sinfoniafs("mount", tmp_path, "--log-file", log_file, "--json")
        assert json.loads(done.stdout) == {
            "cluster": str(cluster.directory),
            "volume": "default",
            "mountpoint": str(tmp_path),
        }
        assert str(tmp_path) in sinfoniafs("info").stdout
    finally:
        remove_mount(tmp_path)


def test_a_signal_unmounts(cluster: LocalCluster, tmp_path: Path, running: Running) -> None:
    mountpoint = tmp_path / "e"
    mountpoint.mkdir()
    command = [sys.executable, "-m", "sinfoniafs", "mount", "-f"]
    command += [str(cluster.directory), str(mountpoint)]
    server = running(command, stderr=subprocess.PIPE)
    assert server.stdout is not None
    assert "is mounted at" in server.stdout.readline()
    (mountpoint / "file").write_bytes(b"x")
    (mountpoint / "file").unlink()
    server.send_signal(signal.SIGINT)
    _, complaints = server.communicate(timeout=30)
    assert server.returncode == 0, complaints
    assert mounts.mount_at(mountpoint) is None


def test_a_busy_mount_names_the_processes_that_use_it(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    with mounted(cluster, tmp_path / "f") as mountpoint:
        with opened(mountpoint, os.O_RDONLY | os.O_DIRECTORY):
            refused = sinfoniafs("umount", mountpoint)
            assert refused.returncode == 1
            assert f"({os.getpid()})" in refused.stderr
            assert "--lazy" in refused.stderr
        assert sinfoniafs("umount", mountpoint).returncode == 0


def test_a_directory_is_mounted_once(cluster: LocalCluster, mount_pair: Pair) -> None:
    refused = sinfoniafs("mount", cluster.directory, mount_pair[0])
    assert refused.returncode == 1
    assert "already" in refused.stderr


def test_a_path_is_explained(pair: Pair) -> None:
    (pair[0] / "file").write_bytes(b"12345")
    shown = sinfoniafs("info", pair[1] / "file")
    assert shown.returncode == 0
    assert "file: regular file (-rw-r--r--), 5 bytes, 1 link\n" in shown.stdout
    assert "of memory node" in shown.stdout
    assert f" at {pair[1].parent}\n" in shown.stdout
    missing = sinfoniafs("info", pair[1] / "missing")
    assert missing.returncode == 1
    assert "No such file" in missing.stderr


def test_a_cluster_that_is_down_is_said_by_mount(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    log_file = tmp_path / "log"
    refused = sinfoniafs("mount", "tcp://127.0.0.1:1", tmp_path / "mnt", "--log-file", log_file)
    assert refused.returncode == 1
    assert "is the cluster up" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert mounts.mount_at(tmp_path / "mnt") is None
