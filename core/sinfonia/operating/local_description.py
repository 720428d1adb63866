"""A cluster on this machine is described as a value: made, grown and shrunk, then written whole.

Ports follow each other: managers, then the first member of each memory node, then their replicas.
What is added later takes the next free ones.  No name or data directory is used a second time: a
process never finds what another has left there.
"""

import contextlib
import os
import random
import socket
from collections.abc import Collection, Iterator, Sequence
from itertools import count, islice, repeat
from pathlib import Path

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.config import (
    CONFIG_FILE,
    PORT_MAX,
    ByteCount,
    ClusterConfig,
    Etcd,
    ManagerEntry,
    MemoryNodeDescription,
    Mode,
    ReplicaDescription,
    Times,
)
from sinfonia.errors import ConfigError
from sinfonia.operating.refusals import StartFailed
from sinfonia.protocol.membership.configuration import REPLICAS_MAX, keeps_replicas

LOOPBACK = "127.0.0.1"

# For clusters that need no known place: above the usual services, below the kernel's own choice.
PRIVATE_PORTS = range(20_000, 32_000)

# Processes that are added by one command: a memory node and its replicas.
ADDED_TOGETHER_MAX = 1 + REPLICAS_MAX


def new_cluster(
    name: str,
    *,
    memory_nodes: int,
    mode: Mode,
    capacity: int,
    ports: Sequence[int],
    replicas: int = 0,
    managers: int = 1,
    etcd: Sequence[str] = (),
    times: Times | None = None,
) -> ClusterConfig:
    """A cluster on ``ports`` of loopback; its paths are relative.  Raises ConfigError."""
    if len(ports) != ports_needed(memory_nodes, replicas, managers):
        raise ConfigError(f"{len(ports)} ports are not as many as there are processes")
    if not all(0 < port <= PORT_MAX for port in ports):
        raise ConfigError(f"ports {min(ports)}-{max(ports)} do not exist; they end at {PORT_MAX}")
    if replicas and not keeps_replicas(mode):
        raise ConfigError(f"mode {mode} keeps no replicas; choose mode {mode}-REPL")
    if managers > 1 and not etcd:
        raise ConfigError(f"{managers} managers need etcd to agree; say where it is with --etcd")
    endpoints = iter([f"tcp://{LOOPBACK}:{port}" for port in ports])
    entries = [
        ManagerEntry(endpoint=next(endpoints), data_directory="" if etcd else "manager")
        for _ in range(managers)
    ]
    nodes = [
        MemoryNodeDescription(
            node=MemoryNodeId(node),
            endpoint=next(endpoints),
            capacity=ByteCount(capacity),
            mode=mode,
            data_directory=f"node{node}",
        )
        for node in range(memory_nodes)
    ]
    return ClusterConfig(
        cluster=name,
        manager=entries,
        memory_node=[
            msgspec.structs.replace(
                node,
                replica=[
                    ReplicaDescription(
                        endpoint=next(endpoints), data_directory=f"node{node.node}r{k}"
                    )
                    for k in range(1, replicas + 1)
                ],
            )
            for node in nodes
        ],
        etcd=Etcd(endpoints=list(etcd)) if etcd else None,
        times=times or Times(),
    )


def with_metrics(config: ClusterConfig, ports: Sequence[int]) -> ClusterConfig:
    """``config`` with each process answering Prometheus on one of ``ports``, in the order of those
    of the endpoints.  Raises ConfigError."""
    if len(ports) != len(config.processes):
        raise ConfigError(f"{len(ports)} ports are not as many as there are processes")
    if max(ports) > PORT_MAX:
        raise ConfigError(f"ports {min(ports)}-{max(ports)} do not exist; they end at {PORT_MAX}")
    twice = {port_of(process.endpoint) for process in config.processes}.intersection(ports)
    if twice:
        raise ConfigError(f"port {min(twice)} is both a process's and for metrics; choose another")
    places = iter([f"{LOOPBACK}:{port}" for port in ports])
    replace = msgspec.structs.replace
    managers = [replace(manager, metrics=next(places)) for manager in config.manager]
    nodes = [replace(node, metrics=next(places)) for node in config.memory_node]
    nodes = [
        replace(node, replica=[replace(each, metrics=next(places)) for each in node.replica])
        for node in nodes
    ]
    return replace(config, manager=managers, memory_node=nodes)


def ports_needed(memory_nodes: int, replicas: int = 0, managers: int = 1) -> int:
    """One for each process."""
    return managers + memory_nodes * (1 + replicas)


def with_memory_node(
    config: ClusterConfig, directory: Path, node: int, *, capacity: int | None, replicas: int | None
) -> ClusterConfig:
    """``config`` with another memory node, like the first in what is not said."""
    model = config.memory_node[0]
    wanted = len(model.replica) if replicas is None else replicas
    if wanted and not keeps_replicas(model.mode):
        raise ConfigError(f"mode {model.mode} keeps no replicas")
    ports = _ports_to_add(config)
    metrics = _metrics_to_add(config)
    names = _names_to_add(config, directory, node)
    added = MemoryNodeDescription(
        node=MemoryNodeId(node),
        endpoint=f"tcp://{LOOPBACK}:{next(ports)}",
        capacity=ByteCount(model.capacity if capacity is None else capacity),
        mode=model.mode,
        checkpoint_log=model.checkpoint_log,
        keep_log=model.keep_log,
        data_directory=next(names),
        metrics=next(metrics),
        replica=[_replica(next(ports), next(names), next(metrics)) for _ in range(wanted)],
    )
    return msgspec.structs.replace(config, memory_node=[*config.memory_node, added])


def with_replica(
    config: ClusterConfig, directory: Path, node: int, *, replaces: str = ""
) -> ClusterConfig:
    """``config`` with another replica of memory node ``node``.  Raises ConfigError."""
    described = config.describe(node)
    if not keeps_replicas(described.mode):
        raise ConfigError(
            f"memory node {node} is in mode {described.mode}, which keeps no replicas; only a "
            f"cluster made with mode {described.mode}-REPL does"
        )
    name = next(_names_to_add(config, directory, node))
    port, metrics = next(_ports_to_add(config)), next(_metrics_to_add(config))
    added = _replica(port, name, metrics, replaces)
    return _with_node(
        config, msgspec.structs.replace(described, replica=[*described.replica, added])
    )


def without_member(config: ClusterConfig, node: int, endpoint: str) -> ClusterConfig:
    """``config`` without that member; if it was the first, the next takes its place.

    Raises ConfigError if there is no other.
    """
    described = config.describe(node)
    rest = [
        msgspec.structs.replace(member, replaces="") if member.replaces == endpoint else member
        for member in described.replica
        if member.endpoint != endpoint
    ]
    if described.endpoint != endpoint:
        return _with_node(config, msgspec.structs.replace(described, replica=rest))
    if not rest:
        raise ConfigError(f"{endpoint} is the only member of memory node {node} that is described")
    first = rest[0]
    return _with_node(
        config,
        msgspec.structs.replace(
            described,
            endpoint=first.endpoint,
            listen=first.listen,
            metrics=first.metrics,
            name=first.name,
            data_directory=first.data_directory,
            log_directory=first.log_directory,
            replica=rest[1:],
        ),
    )


def write_description(config: ClusterConfig, directory: Path) -> None:
    """Put the description into ``directory`` whole, and synced.

    A crash leaves the description that was there before, or this one.  Raises ConfigError.
    """
    file = directory / CONFIG_FILE
    new = file.with_suffix(".new")
    try:
        with new.open("w", encoding="utf-8") as stream:
            stream.write(config.to_toml(directory))
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(file)
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}") from error


def refuse_taken(endpoint: str) -> None:
    """Raise StartFailed if another process listens at ``endpoint``.

    The process that is to start there would say so itself, but only after its rival had answered in
    its place.
    """
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            raise StartFailed(
                f"{endpoint} is in use by another process; stop that one, or choose other ports: "
                f"for a new cluster with --port, else in {CONFIG_FILE}"
            ) from error


def free_ports(number: int) -> list[int]:
    """Ports of loopback on which no process listens."""
    # Not from the range that the kernel gives to connections: they would be taken at any time.
    found: list[int] = []
    for port in random.sample(PRIVATE_PORTS, len(PRIVATE_PORTS)):
        if _is_free(port):
            found.append(port)
        if len(found) == number:
            return found
    raise ConfigError(f"there are no {number} free ports on {LOOPBACK}")


def port_of(endpoint: str) -> int:
    """The last part of an endpoint."""
    return int(endpoint.rpartition(":")[2])


def _is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind((LOOPBACK, port))
        return True
    return False


def _replica(port: int, name: str, metrics: str, replaces: str = "") -> ReplicaDescription:
    return ReplicaDescription(
        endpoint=f"tcp://{LOOPBACK}:{port}",
        data_directory=name,
        name=name,
        metrics=metrics,
        replaces=replaces,
    )


def _with_node(config: ClusterConfig, changed: MemoryNodeDescription) -> ClusterConfig:
    nodes = [changed if node.node == changed.node else node for node in config.memory_node]
    return msgspec.structs.replace(config, memory_node=nodes)


def _ports_to_add(config: ClusterConfig) -> Iterator[int]:
    taken = {port_of(process.metrics) for process in config.processes if process.metrics}
    return _free_above([process.endpoint for process in config.processes], taken)


def _metrics_to_add(config: ClusterConfig) -> Iterator[str]:
    """Where further processes answer Prometheus: nowhere, if none does."""
    used = [process.metrics for process in config.processes if process.metrics]
    if not used:
        return repeat("")
    taken = {port_of(process.endpoint) for process in config.processes}
    # Beyond those that the processes themselves get, which come together with these.
    ports = _free_above(used, taken | set(islice(_ports_to_add(config), ADDED_TOGETHER_MAX)))
    return (f"{LOOPBACK}:{port}" for port in ports)


def _free_above(used: Sequence[str], taken: Collection[int]) -> Iterator[int]:
    highest = max(map(port_of, used))
    for port in range(highest + 1, PORT_MAX + 1):
        if port not in taken and _is_free(port):
            yield port
    raise ConfigError(f"there is no free port from {highest + 1} on")


def _names_to_add(config: ClusterConfig, directory: Path, node: int) -> Iterator[str]:
    used = {process.name for process in config.processes}
    for k in count():
        name = f"node{node}r{k}" if k else f"node{node}"
        if name not in used and not (directory / name).exists():
            yield name
