"""What a mount does when it was paused, when memory nodes do not answer, and when it has a bug."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.operating.processes import ProcessIdentity
from sinfonia.testing.plugin import ClusterFactory
from sinfoniafs import mounts
from sinfoniafs.mount_testing import can_mount, mounted, sinfoniafs, until

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.network,
    pytest.mark.skipif(not can_mount(), reason="mounting needs root and /dev/fuse"),
]

# In seconds: what the mounts of this module allow.
OPTIONS = "timeout=4,session=2"
MEMORY_NODES = ("node0", "node1")


@pytest.fixture(scope="module")
def cluster(shared_cluster_factory: ClusterFactory) -> LocalCluster:
    running = shared_cluster_factory(memory_nodes=2)
    made = sinfoniafs("mkfs", running.directory)
    assert made.returncode == 0, made.stderr
    return running


@pytest.fixture
def pair(cluster: LocalCluster, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two mounts, in which nothing is left behind."""
    with (
        mounted(cluster, tmp_path / "a", OPTIONS) as a,
        mounted(cluster, tmp_path / "b", OPTIONS) as b,
    ):
        yield a, b
        for path in a.iterdir():
            path.unlink()
    assert_sound(cluster)


def assert_sound(cluster: LocalCluster) -> None:
    checked = sinfoniafs("fsck", cluster.directory)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def process_of(mountpoint: Path) -> ProcessIdentity:
    record = mounts.read_record(mountpoint)
    assert record is not None
    return record.process


@contextmanager
def paused(process: ProcessIdentity) -> Iterator[None]:
    process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.signal(signal.SIGCONT)


@contextmanager
def outage(cluster: LocalCluster) -> Iterator[None]:
    """All memory nodes are down, and come back with what they had."""
    for name in MEMORY_NODES:
        cluster.kill(name)
    try:
        yield
    finally:
        cluster.start(MEMORY_NODES)


def fails_with(number: int) -> Any:  # noqa: ANN401 - pytest's own type is private
    return pytest.raises(OSError, check=lambda error: error.errno == number)


def sessions(cluster: LocalCluster) -> str:
    return sinfoniafs("info", cluster.directory).stdout


def test_a_mount_that_was_taken_for_dead_is_still_mounted_and_goes_on(
    cluster: LocalCluster, pair: tuple[Path, Path]
) -> None:
    a, b = pair
    # The kernel asks once whether closing a file needs anything.  If the paused mount were asked,
    # the commands that this test starts would wait for it: they close this test's files.
    (a / "closed").write_bytes(b"")
    kept = os.open(a / "kept", os.O_RDWR | os.O_CREAT)
    gone = os.open(a / "gone", os.O_RDWR | os.O_CREAT)
    for each in (kept, gone):
        os.write(each, b"before" * 5000)
    (b / "gone").unlink()
    with paused(process_of(a)):
        until(lambda: str(a) not in sessions(cluster))
    os.pwrite(kept, b"AFTER!", 6)
    assert (b / "kept").read_bytes() == b"beforeAFTER!" + b"before" * 4998
    (a / "new").write_bytes(b"x" * 300_000)
    assert (b / "new").read_bytes() == b"x" * 300_000
    assert str(a) in sessions(cluster)
    # What had lost its name was given back with the session: stale, and never written again.
    for work in (lambda: os.pwrite(gone, b"z", 0), lambda: os.fstat(gone)):
        with fails_with(errno.ESTALE):
            work()
    # What kept its name is kept alive again.
    (b / "kept").unlink()
    assert os.pread(kept, 12, 0) == b"beforeAFTER!"
    for each in (kept, gone):
        os.close(each)
    assert "session lost" in log_of(cluster, a)


def log_of(cluster: LocalCluster, mountpoint: Path) -> str:
    return (cluster.directory / "log" / f"mount-{mountpoint.name}.log").read_text(encoding="utf-8")


@contextmanager
def blocked(work: str, *arguments: str | Path) -> Iterator["subprocess.Popen[str]"]:
    """A program that does ``work``, once it waits for the mount."""
    program = f"import os, sys; print('ready', flush=True); {work}"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        # Asleep in the kernel, waiting for an answer of the mount.
        until(lambda: "request_wait_answer" in stack_of(process.pid))
        yield process
    finally:
        process.kill()
        process.communicate()


def stack_of(pid: int) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path("/proc", str(pid), "wchan").read_text() + Path(
            "/proc", str(pid), "stack"
        ).read_text(encoding="utf-8")
    return ""


BLOCKED: dict[str, str] = {
    "stat": "os.stat(sys.argv[1])",
    "open": "os.open(sys.argv[1], os.O_RDONLY)",
    "create": "os.open(sys.argv[1] + '-new', os.O_WRONLY | os.O_CREAT)",
    "unlink": "os.unlink(sys.argv[1])",
    "list": "os.listdir(os.path.dirname(sys.argv[1]))",
}


def test_a_blocked_caller_that_is_killed_is_gone_before_the_outage_is_over(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    with mounted(cluster, tmp_path / "a", "timeout=600") as a:
        for name in BLOCKED:
            (a / name).mkdir()
            (a / name / "file").write_bytes(b"x")
        with outage(cluster):
            for name, work in BLOCKED.items():
                with blocked(work, a / name / "file") as program:
                    program.kill()
                    # Far less than the mount's timeout: only a request that was given up ends.
                    assert program.wait(timeout=60) == -signal.SIGKILL, name
        shutil.rmtree(a, ignore_errors=True)  # the mountpoint itself stays
        assert not list(a.iterdir())


def test_a_blocked_reader_that_is_interrupted_is_told_so(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    with mounted(cluster, tmp_path / "a", "timeout=600") as a:
        (a / "file").write_bytes(b"x")
        with (
            outage(cluster),
            blocked("os.stat(sys.argv[1])", a / "file") as program,
        ):
            program.send_signal(signal.SIGINT)
            _, complaint = program.communicate(timeout=60)
            assert "KeyboardInterrupt" in complaint
        (a / "file").unlink()


def test_calls_fail_when_the_time_of_the_mount_option_is_up(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    with mounted(cluster, tmp_path / "a", "timeout=1.5") as a:
        (a / "file").write_bytes(b"x")
        (a / "file").stat()
        with outage(cluster):
            for work in (
                (a / "file").stat,
                lambda: (a / "file").write_bytes(b"y"),
                (a / "new").mkdir,
            ):
                with fails_with(errno.ETIMEDOUT):
                    work()
        until(lambda: answers(a))
        assert (a / "file").stat().st_size == 1
        assert not (a / "new").exists()
        (a / "file").unlink()
    assert_sound(cluster)


def answers(mountpoint: Path) -> bool:
    """Whether the mount has found the memory nodes again."""
    try:
        return bool(os.statvfs(mountpoint)) and bool(os.lstat(mountpoint / "file"))
    except TimeoutError:
        return False


def serve_broken(mountpoint: Path, broken: str) -> list[str]:
    """The command of a mount of a model with a bug."""
    program = f"""
import sys, trio
from pathlib import Path
from sinfoniafs import mount, mount_testing
{broken}
trio.run(mount_testing._serve_model, Path(sys.argv[1]), 64)
"""
    return [sys.executable, "-c", program, str(mountpoint)]


KEEP_ALIVE_FAILS_ONCE = """
kept, failed = mount.keep_alive, []
async def keep_alive(volume, times):
    if not failed:
        failed.append(True)
        await trio.sleep(0.2)
        raise ZeroDivisionError("a bug")
    print("alive again", flush=True)
    await kept(volume, times)
mount.keep_alive = keep_alive
"""

MAIN_LOOP_FAILS = """
import pyfuse3
main = pyfuse3.main
async def fail(signal):
    await trio.to_thread.run_sync(sys.stdin.read)
    raise ZeroDivisionError("a bug")
async def failing():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail, None)
        await main()
pyfuse3.main = failing
"""


@contextmanager
def broken_mount(mountpoint: Path, broken: str) -> Iterator["subprocess.Popen[str]"]:
    mountpoint.mkdir()
    with subprocess.Popen(
        serve_broken(mountpoint, broken),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline().strip() == "serving"
            yield server
        finally:
            server.kill()
    if mounts.mount_at(Path(os.path.realpath(mountpoint))) is not None:
        mounts.unmount(mountpoint, force=True)
    mountpoint.rmdir()


def test_a_bug_in_the_background_does_not_end_the_mount(tmp_path: Path) -> None:
    with broken_mount(tmp_path / "a", KEEP_ALIVE_FAILS_ONCE) as server:
        (tmp_path / "a/file").write_bytes(b"x")
        assert server.stdout is not None
        assert server.stdout.readline().strip() == "alive again"
        assert (tmp_path / "a/file").read_bytes() == b"x"
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0
        assert mounts.mount_at((tmp_path / "a").resolve()) is None


def test_a_mount_that_cannot_go_on_never_bares_the_directory_below(tmp_path: Path) -> None:
    with broken_mount(tmp_path / "a", MAIN_LOOP_FAILS) as server:
        (tmp_path / "a/file").write_bytes(b"x")
        assert server.stdin is not None
        server.stdin.close()
        assert server.wait(timeout=30) != 0
        works: list[Callable[[], object]] = [
            (tmp_path / "a/file").read_bytes,
            lambda: (tmp_path / "a/other").write_bytes(b"x"),
        ]
        for work in works:
            with fails_with(errno.ENOTCONN):
                work()
