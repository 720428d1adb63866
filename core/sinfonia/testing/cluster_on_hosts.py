"""A cluster for one test, each of its processes on a host of its own; nothing of it is left.

The hosts are network namespaces of this machine (netns.py), which only root may make.  The test and
its clients are on a host, too, and can be cut off from every process.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from sinfonia.config import ClusterConfig, ProcessDescription, SecurityDescription
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.operating.local_description import new_cluster, ports_needed, write_description
from sinfonia.testing.netns import TEST, Network, private_network
from sinfonia.testing.real_cluster import STOP_PATIENCE

ProcessT = TypeVar("ProcessT", bound=ProcessDescription)

# Of every process: no two are on one host.
PORT = 7000

CAPACITY = 64 << 20


@contextmanager
def cluster_on_hosts(
    *, memory_nodes: int = 3, replicas: int = 1
) -> Iterator[tuple[LocalCluster, Network]]:
    """A cluster that serves, in sync, and the network of its hosts, which are named for it."""
    directory = Path(tempfile.mkdtemp(prefix="sinfonia-hosts-"))
    try:
        config = _described(directory, memory_nodes, replicas)
        names = [process.name for process in config.processes]
        with private_network(names) as network:
            write_description(_placed(config, network), directory)
            cluster = LocalCluster(directory, network=network)
            try:
                with network.inside(TEST):
                    cluster.start()
                    yield cluster, network
            finally:
                network.heal()
                killed = cluster.stop(patience=STOP_PATIENCE)
            assert not killed, f"{', '.join(killed)} did not end when asked"
    finally:
        shutil.rmtree(directory)


def _described(directory: Path, memory_nodes: int, replicas: int) -> ClusterConfig:
    """The cluster with the names of its processes, which are filled in as it is read."""
    ports = list(range(PORT, PORT + ports_needed(memory_nodes, replicas)))
    config = new_cluster(
        "hosts",
        memory_nodes=memory_nodes,
        mode="LOG-REPL",
        capacity=CAPACITY,
        ports=ports,
        replicas=replicas,
    )
    write_description(config, directory)
    return LocalCluster(directory).config


def _placed(config: ClusterConfig, network: Network) -> ClusterConfig:
    """Each process where its host is."""

    def at_home(process: ProcessT) -> ProcessT:
        endpoint = f"tcp://{network.addresses[process.name]}:{PORT}"
        return replace(process, endpoint=endpoint, listen="")

    nodes = [
        replace(at_home(node), replica=[at_home(each) for each in node.replica])
        for node in config.memory_node
    ]
    managers = [at_home(manager) for manager in config.manager]
    # No other machine is on this network.
    security = SecurityDescription(plain=True)
    return replace(config, manager=managers, memory_node=nodes, security=security)
