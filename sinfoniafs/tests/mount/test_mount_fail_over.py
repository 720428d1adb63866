"""A mount goes on when a primary dies, and nothing that was written is missing."""

import threading
import time
from pathlib import Path

import pytest

from sinfonia.operating.named_cluster import look_at
from sinfonia.testing.plugin import ClusterFactory
from sinfoniafs.mount_testing import can_mount, mounted, sinfoniafs

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.skipif(not can_mount(), reason="mounting needs root and /dev/fuse"),
]

FILES_MIN = 100
FILE_BYTES = 20_000
SLOWEST_MAX = 10.0


def test_files_are_written_while_primaries_die(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    cluster = cluster_factory(memory_nodes=2, mode="LOG-REPL", replicas=1)
    made = sinfoniafs("mkfs", cluster.directory)
    assert made.returncode == 0, made.stderr
    with mounted(cluster, tmp_path / "a") as here, mounted(cluster, tmp_path / "b") as there:
        stop = threading.Event()
        took: list[float] = []

        def write() -> None:
            number = 0
            while not stop.is_set() or number < FILES_MIN:
                began = time.monotonic()
                (here / f"f{number}").write_bytes(_content(number))
                took.append(time.monotonic() - began)
                number += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for node in (0, 1):
                before = len(took)
                _wait_for_more(took, before)
                cluster.kill(_primary_of(str(cluster.directory), node))
                after = len(took)
                _wait_for_more(took, after)
        finally:
            stop.set()
            writer.join(60)
        assert not writer.is_alive()
        assert max(took) < SLOWEST_MAX
        for number in range(len(took)):
            assert (there / f"f{number}").read_bytes() == _content(number)
    checked = sinfoniafs("fsck", cluster.directory)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def _content(number: int) -> bytes:
    return number.to_bytes(4) * (FILE_BYTES // 4)


def _primary_of(cluster: str, node: int) -> str:
    for process in look_at(cluster).processes:
        if process.figures.get("role") == "primary" and process.name.startswith(f"node{node}"):
            return process.name
    raise AssertionError(f"memory node {node} has no primary")


def _wait_for_more(took: list[float], than: int) -> None:
    """Until ten more files were written."""
    deadline = time.monotonic() + 30.0
    while len(took) <= than + 10:
        assert time.monotonic() < deadline, "nothing was written for 30 s"
        time.sleep(0.01)
