"""A replicated cluster of real processes for one test; nothing of it is left afterwards.

A wait here looks at what the processes say of themselves, again and again, and for no longer than
a deadline.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from sinfonia.config import ByteCount, Times
from sinfonia.operating.cluster_status import ClusterStatus, ProcessStatus
from sinfonia.operating.handle import HEAL_TIMEOUT, ClusterHandle
from sinfonia.operating.local_cluster import LocalCluster, free_ports
from sinfonia.operating.local_description import ports_needed

# A process that ignores SIGTERM for so long is killed, and the test has failed.
STOP_PATIENCE = 10.0

CAPACITY = 256 << 20


@contextmanager
def real_cluster(
    *,
    memory_nodes: int = 3,
    mode: str = "LOG-REPL",
    replicas: int = 1,
    managers: int = 1,
    etcd: Sequence[str] = (),
    times: Times | None = None,
    capacity: int = CAPACITY,
    checkpoint_log: int | None = None,
    keep_log: int | None = None,
    started: bool = True,
    secure: bool = False,
) -> Iterator[LocalCluster]:
    """A cluster on free ports of loopback that serves, in sync."""
    # Not pytest's directory: that is kept, and address spaces are large.
    directory = Path(tempfile.mkdtemp(prefix="sinfonia-real-"))
    try:
        cluster = LocalCluster.create(
            directory / "cluster",
            memory_nodes=memory_nodes,
            mode=mode,
            capacity=capacity,
            ports=free_ports(ports_needed(memory_nodes, replicas, managers)),
            replicas=replicas,
            managers=managers,
            etcd=etcd,
            times=times,
            secure=secure,
        )
        _set_log_sizes(cluster, checkpoint_log, keep_log)
        try:
            if started:
                cluster.start()
            yield cluster
        finally:
            # Operators may have added processes since.
            killed = LocalCluster(cluster.directory).stop(patience=STOP_PATIENCE)
        assert not killed, f"{', '.join(killed)} did not end when asked"
    finally:
        shutil.rmtree(directory)


def _set_log_sizes(cluster: LocalCluster, checkpoint_log: int | None, keep_log: int | None) -> None:
    nodes = [
        msgspec.structs.replace(
            node,
            checkpoint_log=ByteCount(checkpoint_log or node.checkpoint_log),
            keep_log=ByteCount(keep_log or node.keep_log),
        )
        for node in cluster.config.memory_node
    ]
    cluster.change(msgspec.structs.replace(cluster.config, memory_node=nodes))


@contextmanager
def paused(cluster: ClusterHandle, name: str) -> Iterator[None]:
    """The process ``name`` stands still until the end of the block."""
    cluster.pause(name)
    try:
        yield
    finally:
        cluster.resume(name)


def wait_until(
    cluster: ClusterHandle, reached: Callable[[ClusterStatus], bool], what: str
) -> ClusterStatus:
    """Look until ``reached`` says so; fails with what was seen last."""
    return cluster.wait_until(reached, what, HEAL_TIMEOUT)


def wait_until_well(cluster: ClusterHandle) -> ClusterStatus:
    """Until every process serves and every replica is in sync."""
    return cluster.wait_until_healthy()


def process_status(cluster: ClusterHandle, name: str) -> ProcessStatus:
    """What ``name`` says of itself."""
    return cluster.status().process(name)


def primary_of(cluster: ClusterHandle, node: int) -> str:
    """The name of the primary of memory node ``node``."""
    primary = cluster.status().primary_of(node)
    assert primary is not None, f"memory node {node} has no primary"
    return primary


def replicas_of(cluster: ClusterHandle, node: int) -> list[str]:
    """The names of the replicas of memory node ``node``."""
    return cluster.status().replicas_of(node)
