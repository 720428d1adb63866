"""Fixtures that all rooms share; loaded by pytest through `-p sinfonia.testing.plugin`.

What a test starts ends with it, whatever becomes of the test: every process of every cluster made
by ``cluster_factory`` is gone, and its directory too, before the next test begins.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from sinfonia.config import Times
from sinfonia.operating.local_cluster import LocalCluster, free_ports

# Address space costs what is written to it, so tests need not be modest.
CAPACITY = 1 << 30

# A process that ignores SIGTERM for so long is killed, and the test has failed.
STOP_PATIENCE = 10.0


class ClusterFactory(Protocol):
    """Makes private clusters of real processes on free ports of loopback."""

    def __call__(
        self,
        *,
        memory_nodes: int = 1,
        mode: str = "LOG",
        replicas: int = 0,
        capacity: int = CAPACITY,
        times: Times | None = None,
        started: bool = True,
        secure: bool = False,
    ) -> LocalCluster: ...


def _factory(stack: ExitStack) -> ClusterFactory:
    def make(
        *,
        memory_nodes: int = 1,
        mode: str = "LOG",
        replicas: int = 0,
        capacity: int = CAPACITY,
        times: Times | None = None,
        started: bool = True,
        secure: bool = False,
    ) -> LocalCluster:
        # Not tmp_path: pytest keeps that, and these hold gigabytes of addresses.
        directory = Path(tempfile.mkdtemp(prefix="sinfonia-test-"))
        stack.callback(shutil.rmtree, directory)
        cluster = LocalCluster.create(
            directory / "cluster",
            memory_nodes=memory_nodes,
            mode=mode,
            capacity=capacity,
            ports=free_ports(1 + memory_nodes * (1 + replicas)),
            replicas=replicas,
            times=times,
            secure=secure,
        )
        stack.callback(_end, cluster)
        if started:
            cluster.start()
        return cluster

    return make


def _end(cluster: LocalCluster) -> None:
    killed = cluster.stop(patience=STOP_PATIENCE)
    assert not killed, f"{', '.join(killed)} did not end when asked"


@pytest.fixture
def cluster_factory() -> Iterator[ClusterFactory]:
    """Private clusters that end with the test."""
    with ExitStack() as stack:
        yield _factory(stack)


@pytest.fixture(scope="module")
def shared_cluster_factory() -> Iterator[ClusterFactory]:
    """Private clusters that end with the module; for tests that leave a cluster as it was."""
    with ExitStack() as stack:
        yield _factory(stack)
