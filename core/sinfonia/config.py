"""The description of a cluster is read whole, checked once, and refused at the first mistake.

It is one TOML file, ``cluster.toml``, written by ``sinfonia up`` or by hand and read by every
process of the cluster.  A ``ClusterConfig`` need not be checked again: names are known,
values are in range, nothing is there twice, and paths are absolute::

    cluster = "demo"

    [manager]
    endpoint = "tcp://127.0.0.1:7000"
    data_directory = "manager"              # as seen from this file
    metrics = "127.0.0.1:7100"              # for Prometheus, if it shall ask this process

    [[memory_node]]
    node = 0
    endpoint = "tcp://127.0.0.1:7001"
    capacity = "1GiB"
    mode = "LOG-REPL"
    data_directory = "node0"
    log_directory = "/nvram/node0"          # if the redo log has a device of its own

    [[memory_node.replica]]                 # of the memory node above it
    endpoint = "tcp://127.0.0.1:7002"
    data_directory = "node0r1"

    [times]                                 # in seconds; each may be left out
    in_doubt_timeout = 2.0

Off loopback, a cluster needs keys (see `sinfonia keygen`), or must say that it does without::

    [security]
    keys = "keys"                           # a key directory; or else: plain = true

Several managers, each a ``[[manager]]`` without a data directory, keep what they know on etcd::

    [etcd]
    endpoints = ["http://10.0.0.1:2379", "http://10.0.0.2:2379", "http://10.0.0.3:2379"]

Which member of a memory node is its primary is not said here: that changes while it runs.
"""

import re
import tomllib
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args

import msgspec

from sinfonia.addresses import ADDRESS_MAX, MemoryNodeId
from sinfonia.endpoints import normalise_endpoint
from sinfonia.errors import ConfigError
from sinfonia.protocol.membership.configuration import keeps_replicas
from sinfonia.toml_checks import (
    quoted,
    quoted_path,
    readable,
    refuse_twice,
    refuse_unknown,
    tables,
)

CONFIG_FILE = "cluster.toml"

Mode = Literal["RAM", "RAM-REPL", "LOG", "LOG-REPL", "NVRAM", "NVRAM-REPL"]
MODES: tuple[Mode, ...] = get_args(Mode)

# A memory node is known by a small integer; ids beyond this are surely a slip.
NODE_ID_MAX = 65_535

PORT_MAX = 65_535

# Where metrics are served if no host is named: for programs on this machine.
METRICS_HOST = "127.0.0.1"

ConfigT = TypeVar("ConfigT", bound="ClusterConfig")
EntryT = TypeVar("EntryT", bound="ProcessDescription")
MemberT = TypeVar("MemberT", bound="MemberDescription")

_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(r"\s*(\d+)\s*([A-Za-z]*)\s*")
_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9.:-]+")
_URL = re.compile(r"https?://[^/\s:]+:\d+")


class ByteCount(int):
    """A size; written as a number or with a unit, see ``parse_size``."""


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds; see ManagerSettings and MemoryNodeSettings, whose defaults these are.

    lease: how long a replica promises not to become primary.  fail_after: a primary silent for so
    long is replaced.  drop_after: a replica silent for so long is no longer waited for.
    ack_within: nor is one, until it is faster, whose acknowledgements take longer for some seconds.
    """

    in_doubt_timeout: float = 2.0
    epoch_length: float = 3600.0
    decided_age: float = 30.0
    read_lease: float = 0.25
    settle_max: float = 1.0
    lease: float = 0.5
    fail_after: float = 1.0
    drop_after: float = 1.0
    ack_within: float = 0.025


class Etcd(msgspec.Struct, frozen=True, kw_only=True):
    """Where the configuration store is, if it is not the file of a single manager."""

    endpoints: list[str]


class SecurityDescription(msgspec.Struct, frozen=True, kw_only=True):
    """The key directory ``keys`` says which peers may connect (see keys.py).

    Without one, processes listen on loopback only, unless ``plain``.
    """

    keys: str = ""
    plain: bool = False


class ProcessDescription(msgspec.Struct, frozen=True, kw_only=True):
    """One process; others reach it at ``endpoint``, it binds ``listen`` if that differs.

    ``name`` is what logs and pid files of a cluster on one machine are called.  ``metrics``: where
    it answers Prometheus, a HOST:PORT, or a PORT of loopback; empty if nowhere.
    """

    endpoint: str
    data_directory: str = ""
    listen: str = ""
    name: str = ""
    metrics: str = ""


class ManagerEntry(ProcessDescription, frozen=True, kw_only=True):
    """A manager; it has a data directory unless there is etcd."""


class MemberDescription(ProcessDescription, frozen=True, kw_only=True):
    """A process that holds a copy of a memory node.

    log_directory: where its redo log is, if not in the data directory.
    """

    log_directory: str = ""


class ReplicaDescription(MemberDescription, frozen=True, kw_only=True):
    """A further member; ``replaces`` is the endpoint of the one that goes when this is in sync."""

    replaces: str = ""


class MemoryNodeDescription(MemberDescription, frozen=True, kw_only=True):
    """One memory node, and the first of its members.

    checkpoint_log: a checkpoint begins when the log has grown by so much.  keep_log: so much log
    stays behind it, for replicas that were away.
    """

    node: MemoryNodeId
    capacity: ByteCount
    mode: Mode = "LOG"
    checkpoint_log: ByteCount = ByteCount(64 << 20)
    keep_log: ByteCount = ByteCount(256 << 20)
    replica: list[ReplicaDescription] = []

    @property
    def members(self) -> list[MemberDescription]:
        """All processes that hold it."""
        return [self, *self.replica]


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A whole cluster."""

    cluster: str
    manager: list[ManagerEntry]
    memory_node: list[MemoryNodeDescription]
    etcd: Etcd | None = None
    security: SecurityDescription = SecurityDescription()
    times: Times = Times()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the description at ``path``.  Raises ConfigError, naming file, key and remedy."""
        if path.is_dir():
            path /= CONFIG_FILE
        try:
            table = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not TOML: {error}") from error
        try:
            return cls.from_table(table, directory=path.resolve().parent)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    @classmethod
    def from_table(cls, table: Mapping[str, Any], *, directory: Path) -> Self:
        """Check a description; its paths are relative to ``directory``.  Raises ConfigError."""
        refuse_unknown(table, cls, "")
        structs: tuple[tuple[str, type[msgspec.Struct]], ...] = (
            ("manager", ManagerEntry),
            ("etcd", Etcd),
            ("security", SecurityDescription),
            ("times", Times),
        )
        for key, struct in structs:
            for where, part in tables(table, key):
                refuse_unknown(part, struct, where)
        for where, part in tables(table, "memory_node"):
            refuse_unknown(part, MemoryNodeDescription, where)
            for below, replica in tables(part, "replica"):
                refuse_unknown(replica, ReplicaDescription, where + below)
        alone = isinstance(table.get("manager"), Mapping)
        whole = {**table, "manager": [table["manager"]]} if alone else table
        try:
            config = msgspec.convert(whole, type=cls, dec_hook=_decode_size)
            return _checked(config, directory)
        except msgspec.ValidationError as error:
            raise ConfigError(_as_written(readable(error, MODES), alone=alone)) from error
        except ConfigError as error:
            raise ConfigError(_as_written(str(error), alone=alone)) from error

    @property
    def endpoint(self) -> str:
        """Where clients connect: the managers, separated by commas."""
        return ",".join(manager.endpoint for manager in self.manager)

    @property
    def processes(self) -> list[ProcessDescription]:
        """All of them, the managers first."""
        return [*self.manager, *chain.from_iterable(node.members for node in self.memory_node)]

    def describe(self, node: int) -> MemoryNodeDescription:
        """Memory node ``node``.  Raises ConfigError if there is none."""
        for each in self.memory_node:
            if each.node == node:
                return each
        known = ", ".join(str(each.node) for each in self.memory_node)
        raise ConfigError(f"cluster {self.cluster!r} has no memory node {node}; it has {known}")

    def to_toml(self, directory: Path) -> str:
        """The inverse of ``load`` for a file in ``directory``."""
        lines = [f"cluster = {quoted(self.cluster)}"]
        for position, manager in enumerate(self.manager):
            lines += ["", "[manager]" if len(self.manager) == 1 else "[[manager]]"]
            lines += _entry_lines(manager, directory, _manager_name(self.manager, position))
        if self.etcd is not None:
            listed = ", ".join(map(quoted, self.etcd.endpoints))
            lines += ["", "[etcd]", f"endpoints = [{listed}]"]
        lines += _security_lines(self.security, directory)
        for node in self.memory_node:
            lines += ["", "[[memory_node]]", f"node = {node.node}"]
            lines += _entry_lines(node, directory, _member_name(node, 0))
            lines += [f'capacity = "{format_size(node.capacity)}"', f'mode = "{node.mode}"']
            lines += [f'checkpoint_log = "{format_size(node.checkpoint_log)}"']
            lines += [f'keep_log = "{format_size(node.keep_log)}"']
            for position, replica in enumerate(node.replica, 1):
                lines += ["", "[[memory_node.replica]]"]
                lines += _entry_lines(replica, directory, _member_name(node, position))
        lines += ["", "# In seconds.", "[times]"]
        times = msgspec.structs.asdict(self.times)
        lines += [f"{key} = {seconds}" for key, seconds in times.items()]
        return "\n".join(lines) + "\n"


def as_mode(text: str) -> Mode:
    """The mode that ``text`` names.  Raises ConfigError."""
    for mode in MODES:
        if mode == text:
            return mode
    raise ConfigError(f"mode {text!r} is not one of {', '.join(MODES)}")


def parse_size(text: int | str) -> int:
    """``text`` in bytes: a number, or a number with KiB, MiB, GiB or TiB.  Raises ConfigError."""
    match = _SIZE.fullmatch(str(text))
    if match is None or match[2] not in _UNITS:
        raise ConfigError(f"{text!r} is not a size; write bytes, or 64KiB, 512MiB, 1GiB, 2TiB")
    size = int(match[1]) * _UNITS[match[2]]
    if not 0 < size <= ADDRESS_MAX:
        raise ConfigError(f"{text!r} is not a size: it must be from 1 to {ADDRESS_MAX} bytes")
    return size


def format_size(size: int) -> str:
    """The inverse of ``parse_size``, in the largest unit that needs no fraction."""
    unit = next(unit for unit in reversed(_UNITS) if size % _UNITS[unit] == 0)
    return f"{size // _UNITS[unit]}{unit}"


def count_of(number: int, what: str) -> str:
    """A number of things, as people say it: 1 memory node, 3 memory nodes."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def normalise_metrics(text: str) -> str:
    """``PORT`` or ``HOST:PORT`` as the latter, on loopback if no host is named.

    An address of IPv6 stands in brackets.  Raises ConfigError.
    """
    host, _, port = text.strip().rpartition(":")
    bare = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    right_host = not host or _HOST.fullmatch(bare) is not None
    if not right_host or (":" in bare) != host.startswith("[") or not port.isascii():
        raise ConfigError(f"{text!r} is not like 127.0.0.1:9100, or 9100 for that on loopback")
    if not port.isdigit() or not 0 < int(port) <= PORT_MAX:
        raise ConfigError(f"{text!r} has no port from 1 to {PORT_MAX}")
    return f"{host or METRICS_HOST}:{port}"


def resolve_endpoint(cluster: str) -> str:
    """Where the cluster that a user named answers: endpoints, separated by commas.

    ``cluster`` is that, a directory made by ``sinfonia up``, or a description's path.
    Raises ConfigError.
    """
    path = described_at(cluster)
    if path is None:
        return ",".join(normalise_endpoint(part.strip()) for part in cluster.split(","))
    return ClusterConfig.load(path).endpoint


def described_at(cluster: str) -> Path | None:
    """The description that a user named; None if it is an endpoint that was named.

    Raises ConfigError if there is none.
    """
    path = Path(cluster)
    if "tcp://" in cluster or not (path.exists() or "/" in cluster):
        return None
    return config_file(path)


def config_file(path: Path) -> Path:
    """The description at ``path``, a file or a directory.  Raises ConfigError if there is none."""
    file = path / CONFIG_FILE if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"there is no cluster at {path}; make one with `sinfonia up {path}`")
    return file


def _checked(config: ConfigT, directory: Path) -> ConfigT:
    """``config`` with full endpoints, absolute paths and names.  Raises ConfigError."""
    if not config.cluster:
        raise ConfigError("cluster: a cluster needs a name")
    if not config.memory_node:
        raise ConfigError("memory_node: a cluster needs at least one memory node")
    _check_times(config.times)
    _check_store(config)
    managers = [
        _placed(manager, directory, f"manager[{k}].", _manager_name(config.manager, k))
        for k, manager in enumerate(config.manager)
    ]
    nodes = [
        _memory_node(node, directory, f"memory_node[{k}].")
        for k, node in enumerate(config.memory_node)
    ]
    security = _security(config.security, directory)
    checked = msgspec.structs.replace(
        config, manager=managers, memory_node=nodes, security=security
    )
    processes = checked.processes
    refuse_twice("memory_node.node", (node.node for node in nodes))
    refuse_twice("endpoint", (process.endpoint for process in processes))
    refuse_twice("name", (process.name for process in processes))
    refuse_twice("metrics", (process.metrics for process in processes if process.metrics))
    data = [process.data_directory for process in processes if process.data_directory]
    refuse_twice("data_directory", data)
    members = [member for node in nodes for member in node.members]
    logs = [member.log_directory for member in members if member.log_directory]
    refuse_twice("log_directory", [*data, *logs])
    return checked


def _security(security: SecurityDescription, directory: Path) -> SecurityDescription:
    """``security`` with an absolute path.  Raises ConfigError."""
    if not security.keys:
        return security
    if security.plain:
        raise ConfigError("security.plain: there are keys, so that it says nothing; leave one out")
    return msgspec.structs.replace(security, keys=str(directory / security.keys))


def _security_lines(security: SecurityDescription, directory: Path) -> list[str]:
    if security.keys:
        return ["", "[security]", f"keys = {quoted_path(security.keys, directory)}"]
    return ["", "[security]", "plain = true"] if security.plain else []


def _check_times(times: Times) -> None:
    for key, seconds in msgspec.structs.asdict(times).items():
        if not 0 < seconds < float("inf"):
            raise ConfigError(f"times.{key}: {seconds} is not a time; it is in seconds")
    if times.lease >= times.fail_after:
        raise ConfigError(
            f"times.lease: {times.lease} is not less than fail_after ({times.fail_after}): a "
            "primary would be replaced while its leases may still hold; shorten the lease, or "
            "lengthen fail_after"
        )
    if times.drop_after <= times.fail_after / 2:
        raise ConfigError(
            f"times.drop_after: {times.drop_after} is not more than half of fail_after "
            f"({times.fail_after}): a primary that is cut off would give up its replicas before it "
            "is given up itself, and no replica could take over; lengthen drop_after"
        )


def _check_store(config: ClusterConfig) -> None:
    """One manager has a file, several share etcd."""
    if not config.manager:
        raise ConfigError("manager: a cluster needs at least one manager")
    if config.etcd is None:
        if len(config.manager) > 1:
            raise ConfigError(
                f"manager: {len(config.manager)} managers need etcd to agree; add [etcd] with its "
                "endpoints, or have one [manager]"
            )
        if not config.manager[0].data_directory:
            raise ConfigError("manager[0].data_directory: it must name a directory")
        return
    if not config.etcd.endpoints:
        raise ConfigError('etcd.endpoints: it must name etcd, as ["http://127.0.0.1:2379"]')
    for url in config.etcd.endpoints:
        if _URL.fullmatch(url) is None:
            raise ConfigError(f"etcd.endpoints: {url!r} is not like http://127.0.0.1:2379")
    for position, manager in enumerate(config.manager):
        if manager.data_directory:
            raise ConfigError(
                f"manager[{position}].data_directory: with etcd a manager has no file; leave it out"
            )


def _memory_node(node: MemoryNodeDescription, directory: Path, where: str) -> MemoryNodeDescription:
    """``node`` and its replicas, completed.  Raises ConfigError."""
    if not 0 <= node.node <= NODE_ID_MAX:
        raise ConfigError(f"memory_node.node: {node.node} is not from 0 to {NODE_ID_MAX}")
    if node.replica and not keeps_replicas(node.mode):
        raise ConfigError(
            f"{where}replica: mode {node.mode} keeps none; choose mode {node.mode}-REPL, or leave "
            "the replica out"
        )
    replicas = [
        _member(replica, directory, f"{where}replica[{k}].", node.mode, _member_name(node, k + 1))
        for k, replica in enumerate(node.replica)
    ]
    first = _member(node, directory, where, node.mode, _member_name(node, 0))
    return msgspec.structs.replace(first, replica=replicas)


def _member(member: MemberT, directory: Path, where: str, mode: Mode, default_name: str) -> MemberT:
    """``member``, completed."""
    if not member.data_directory:
        raise ConfigError(f"{where}data_directory: it must name a directory")
    if member.log_directory and mode.startswith("RAM"):
        raise ConfigError(f"{where}log_directory: mode {mode} writes no log; leave it out")
    logs = str(directory / member.log_directory) if member.log_directory else ""
    placed = _placed(member, directory, where, default_name)
    return msgspec.structs.replace(placed, log_directory=logs)


def _manager_name(managers: list[ManagerEntry], position: int) -> str:
    """What the manager at ``position`` is called if nothing else is said."""
    return "manager" if len(managers) == 1 else f"manager{position}"


def _member_name(node: MemoryNodeDescription, position: int) -> str:
    """What the member at ``position`` is called if nothing else is said."""
    return f"node{node.node}r{position}" if position else f"node{node.node}"


def _entry_lines(entry: ProcessDescription, directory: Path, default_name: str) -> list[str]:
    lines = [f"endpoint = {quoted(entry.endpoint)}"]
    if entry.listen not in ("", entry.endpoint):
        lines.append(f"listen = {quoted(entry.listen)}")
    if entry.name not in ("", default_name):
        lines.append(f"name = {quoted(entry.name)}")
    if entry.metrics:
        lines.append(f"metrics = {quoted(entry.metrics)}")
    if entry.data_directory:
        lines.append(f"data_directory = {quoted_path(entry.data_directory, directory)}")
    if isinstance(entry, MemberDescription) and entry.log_directory:
        lines.append(f"log_directory = {quoted_path(entry.log_directory, directory)}")
    if isinstance(entry, ReplicaDescription) and entry.replaces:
        lines.append(f"replaces = {quoted(entry.replaces)}")
    return lines


def _placed(entry: EntryT, directory: Path, where: str, default_name: str) -> EntryT:
    """``entry`` with a name, full endpoints and an absolute data directory."""
    if entry.name and _NAME.fullmatch(entry.name) is None:
        raise ConfigError(f"{where}name: {entry.name!r} is not made of letters, digits, . - and _")
    try:
        endpoint = normalise_endpoint(entry.endpoint)
        listen = normalise_endpoint(entry.listen) if entry.listen else endpoint
    except ConfigError as error:
        raise ConfigError(f"{where}endpoint: {error}") from error
    try:
        metrics = normalise_metrics(entry.metrics) if entry.metrics else ""
    except ConfigError as error:
        raise ConfigError(f"{where}metrics: {error}") from error
    data = str(directory / entry.data_directory) if entry.data_directory else ""
    name = entry.name or default_name
    return msgspec.structs.replace(
        entry, endpoint=endpoint, listen=listen, data_directory=data, name=name, metrics=metrics
    )


def _decode_size(kind: type[Any], value: object) -> ByteCount:
    assert kind is ByteCount, "the only type here that msgspec does not know"
    try:
        return ByteCount(parse_size(value if isinstance(value, int | str) else str(value)))
    except ConfigError as error:
        raise ValueError(str(error)) from error  # msgspec adds where it is


def _as_written(complaint: str, *, alone: bool) -> str:
    """A single manager is a table in the file, not the first of a list."""
    return complaint.replace("manager[0]", "manager") if alone else complaint
