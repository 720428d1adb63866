"""Real mounts for tests: of a volume in a model, or of a real cluster on this machine.

``python -m sinfoniafs.mount_testing MOUNTPOINT MEBIBYTES`` makes a volume on an in-process cluster
of two memory nodes and serves it until it is unmounted or told to end; then it checks the volume.
``model_mount`` wraps that.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.testing.model import ModelCluster
from sinfoniafs import mounts
from sinfoniafs.fsck.check import check_volume
from sinfoniafs.mkfs import make_volume
from sinfoniafs.mount import MountRequest, serve

# Beyond any time that a loaded machine needs; a test that hangs is ended by it.
DEADLINE_SECONDS = 30.0

LOOK_EVERY_SECONDS = 0.05

SERVING = "serving"
CLEAN = "clean"


def can_mount() -> bool:
    """Whether this process may mount at all."""
    return os.geteuid() == 0 and os.access("/dev/fuse", os.R_OK | os.W_OK)


@contextmanager
def model_mount(mountpoint: Path, *, capacity_mib: int = 256) -> Iterator[Path]:
    """A fresh volume, mounted at ``mountpoint``, which is made and removed.

    Ends with fsck: every test of a mount is a test of what it left behind.
    """
    mountpoint.mkdir()
    command = [sys.executable, "-m", "sinfoniafs.mount_testing", str(mountpoint), str(capacity_mib)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline().strip() == SERVING, "the mount did not come up"
        yield mountpoint
        server.send_signal(signal.SIGTERM)
        verdict, _ = server.communicate(timeout=DEADLINE_SECONDS)
        assert (server.returncode, verdict.strip()) == (0, CLEAN)
    finally:
        server.kill()
        server.communicate()
        remove_mount(mountpoint)
        mountpoint.rmdir()


def sinfoniafs(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command, as a user would, and wait for it."""
    command = [sys.executable, "-m", "sinfoniafs", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS
    )


def until(true: Callable[[], bool]) -> None:
    """Wait for what must become true; a test that hangs is ended by its own deadline."""
    while not true():
        time.sleep(LOOK_EVERY_SECONDS)


@contextmanager
def mounted(cluster: LocalCluster, mountpoint: Path, options: str = "") -> Iterator[Path]:
    """The cluster's volume mounted at ``mountpoint`` by the real command, in the background."""
    mountpoint.mkdir()
    log_file = cluster.directory / "log" / f"mount-{mountpoint.name}.log"
    try:
        done = sinfoniafs(
            "mount", cluster.directory, mountpoint, "--log-file", log_file, "-o", options
        )
        assert done.returncode == 0, done.stderr
        yield mountpoint
    finally:
        remove_mount(mountpoint)
        mountpoint.rmdir()


def remove_mount(mountpoint: Path) -> None:
    """Unmount whatever is there, whether its process lives or not, and end that process."""
    mountpoint = Path(os.path.realpath(mountpoint))
    if mounts.mount_at(mountpoint) is None:
        return
    record = mounts.read_record(mountpoint)
    try:
        mounts.unmount(mountpoint, force=True)
    finally:
        if record is not None:
            record.process.signal(signal.SIGKILL)


async def _serve_model(mountpoint: Path, capacity_mib: int) -> None:
    async with ModelCluster(memory_nodes=2, capacity=capacity_mib * 1024 * 1024) as cluster:
        await make_volume(cluster)
        request = MountRequest("model", "default", mountpoint, frozenset({"allow_other"}))
        await serve(cluster, request, on_serving=lambda: _tell(SERVING))
        report = await check_volume(cluster)
        _tell(CLEAN if report.clean else "\n".join(report.problems))


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    trio.run(_serve_model, Path(sys.argv[1]), int(sys.argv[2]))
