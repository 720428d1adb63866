"""A replicated cluster of real processes for one test; nothing of it is left afterwards.

Processes are found by their pid files, never by name.  Whoever waits here looks at what the
processes say of themselves, again and again, and for no longer than a deadline.
"""

import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from sinfonia.config import ByteCount, Times
from sinfonia.operating.cluster_status import (
    PRIMARY,
    REPLICA,
    ClusterStatus,
    ClusterView,
    ProcessStatus,
    look_at,
)
from sinfonia.operating.local_cluster import LocalCluster, free_ports
from sinfonia.operating.local_description import ports_needed

# A process that ignores SIGTERM for so long is killed, and the test has failed.
STOP_PATIENCE = 10.0

# The longest that a cluster which is whole again may take to be in sync again.
HEAL_PATIENCE = 40.0

LOOK_EVERY = 0.05
LOOK_WITHIN = 0.3

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
def paused(cluster: LocalCluster, name: str) -> Iterator[None]:
    """The process ``name`` stands still until the end of the block."""
    process = cluster.process(name)
    assert process is not None, f"{name} does not run"
    process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.signal(signal.SIGCONT)


def wait_until(
    cluster: LocalCluster, reached: Callable[[ClusterStatus], bool], what: str
) -> ClusterStatus:
    """Look until ``reached`` says so; fails with what was seen last."""
    view = ClusterView(str(cluster.directory))
    deadline = time.monotonic() + HEAL_PATIENCE
    try:
        while True:
            status = view.status(view.look(LOOK_WITHIN))
            if reached(status):
                return status
            assert time.monotonic() < deadline, f"{what}: not yet; {status.problems}"
            time.sleep(LOOK_EVERY)
    finally:
        view.close()


def wait_until_well(cluster: LocalCluster) -> ClusterStatus:
    """Until every process serves and every replica is in sync."""
    return wait_until(cluster, lambda status: status.healthy, "the cluster is well")


def process_status(cluster: LocalCluster, name: str) -> ProcessStatus:
    """What ``name`` says of itself."""
    status = look_at(str(cluster.directory))
    return next(each for each in status.processes if each.name == name)


def primary_of(cluster: LocalCluster, node: int) -> str:
    """The name of the primary of memory node ``node``."""
    [name] = _members(cluster, node, PRIMARY)
    return name


def replicas_of(cluster: LocalCluster, node: int) -> list[str]:
    """The names of the replicas of memory node ``node``."""
    return _members(cluster, node, REPLICA)


def _members(cluster: LocalCluster, node: int, role: str) -> list[str]:
    status = look_at(str(cluster.directory))
    return [each.name for each in status.processes if (each.node, each.role) == (node, role)]
