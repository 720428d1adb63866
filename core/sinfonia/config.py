"""The description of a cluster is read whole, checked once, and refused at the first mistake.

It is one TOML file, ``cluster.toml``, written by ``sinfonia up`` or by hand and read by every
process of the cluster.  Whoever holds a ``ClusterConfig`` need not check it again: names are known,
values are in range, nothing is there twice, and paths are absolute::

    cluster = "demo"

    [manager]
    endpoint = "tcp://127.0.0.1:7000"
    data_directory = "manager"              # as seen from this file

    [[memory_node]]
    node = 0
    endpoint = "tcp://127.0.0.1:7001"
    capacity = "1GiB"
    mode = "LOG"                            # RAM: the data is gone with the process
    data_directory = "node0"

    [times]                                 # in seconds; each may be left out
    in_doubt_timeout = 2.0
"""

import difflib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args

import msgspec

from sinfonia.addresses import ADDRESS_MAX, MemoryNodeId
from sinfonia.client.seed import normalise_endpoint
from sinfonia.errors import ConfigError

CONFIG_FILE = "cluster.toml"

Mode = Literal["LOG", "RAM"]

# A memory node is known by a small integer; ids beyond this are surely a slip.
NODE_ID_MAX = 65_535

ConfigT = TypeVar("ConfigT", bound="ClusterConfig")
EntryT = TypeVar("EntryT", bound="ManagerEntry | MemoryNodeDescription")

_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(r"\s*(\d+)\s*([A-Za-z]*)\s*")


class ByteCount(int):
    """A size; written as a number or with a unit, see ``parse_size``."""


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds; see ManagerSettings and MemoryNodeSettings, whose defaults these are."""

    in_doubt_timeout: float = 2.0
    epoch_length: float = 3600.0
    decided_age: float = 30.0
    read_lease: float = 0.25
    settle_max: float = 1.0


class ManagerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Where the manager is; it binds ``listen`` if that is not its ``endpoint``."""

    endpoint: str
    data_directory: str
    listen: str = ""


class MemoryNodeDescription(msgspec.Struct, frozen=True, kw_only=True):
    """One memory node; others reach it at ``endpoint``, it binds ``listen`` if that differs.

    checkpoint_log: a checkpoint begins when the log has grown by so much.
    """

    node: MemoryNodeId
    endpoint: str
    capacity: ByteCount
    data_directory: str
    mode: Mode = "LOG"
    listen: str = ""
    checkpoint_log: ByteCount = ByteCount(64 << 20)


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A whole cluster."""

    cluster: str
    manager: ManagerEntry
    memory_node: list[MemoryNodeDescription]
    times: Times = Times()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the description at ``path``.  Raises ConfigError, naming file, key and remedy."""
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
        _refuse_unknown(table, cls, "")
        for key, struct in (("manager", ManagerEntry), ("times", Times)):
            if isinstance(table.get(key), Mapping):
                _refuse_unknown(table[key], struct, f"{key}.")
        nodes = table.get("memory_node", [])
        for position, node in enumerate(nodes if isinstance(nodes, list) else []):
            if isinstance(node, Mapping):
                _refuse_unknown(node, MemoryNodeDescription, f"memory_node[{position}].")
        try:
            config = msgspec.convert(table, type=cls, dec_hook=_decode_size)
        except msgspec.ValidationError as error:
            raise ConfigError(_readable(error)) from error
        return _checked(config, directory)

    def describe(self, node: int) -> MemoryNodeDescription:
        """Memory node ``node``.  Raises ConfigError if there is none."""
        for each in self.memory_node:
            if each.node == node:
                return each
        known = ", ".join(str(each.node) for each in self.memory_node)
        raise ConfigError(f"cluster {self.cluster!r} has no memory node {node}; it has {known}")

    def to_toml(self, directory: Path) -> str:
        """The inverse of ``load`` for a file in ``directory``."""
        lines = [f"cluster = {_quoted(self.cluster)}", "", "[manager]"]
        lines += _entry_lines(self.manager, directory)
        for node in self.memory_node:
            lines += ["", "[[memory_node]]", f"node = {node.node}"]
            lines += _entry_lines(node, directory)
            lines += [f'capacity = "{format_size(node.capacity)}"', f'mode = "{node.mode}"']
            lines += [f'checkpoint_log = "{format_size(node.checkpoint_log)}"']
        lines += ["", "# In seconds.", "[times]"]
        times = msgspec.structs.asdict(self.times)
        lines += [f"{key} = {seconds}" for key, seconds in times.items()]
        return "\n".join(lines) + "\n"


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


def resolve_endpoint(cluster: str) -> str:
    """An endpoint of the cluster that a user named.

    ``cluster`` is an endpoint, a directory made by ``sinfonia up``, or a description's path.
    Raises ConfigError.
    """
    path = Path(cluster)
    if cluster.startswith("tcp://") or not (path.exists() or "/" in cluster):
        return normalise_endpoint(cluster)
    return ClusterConfig.load(config_file(path)).manager.endpoint


def config_file(path: Path) -> Path:
    """The description at ``path``, a file or a directory.  Raises ConfigError if there is none."""
    file = path / CONFIG_FILE if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"there is no cluster at {path}; make one with `sinfonia up {path}`")
    return file


def _checked(config: ConfigT, directory: Path) -> ConfigT:
    """``config`` with full endpoints and absolute paths.  Raises ConfigError."""
    if not config.cluster:
        raise ConfigError("cluster: a cluster needs a name")
    if not config.memory_node:
        raise ConfigError("memory_node: a cluster needs at least one memory node")
    for key, seconds in msgspec.structs.asdict(config.times).items():
        if not 0 < seconds < float("inf"):
            raise ConfigError(f"times.{key}: {seconds} is not a time; it is in seconds")
    manager = _placed(config.manager, directory, "manager.")
    nodes = [
        _placed(node, directory, f"memory_node[{position}].")
        for position, node in enumerate(config.memory_node)
    ]
    for node in nodes:
        if not 0 <= node.node <= NODE_ID_MAX:
            raise ConfigError(f"memory_node.node: {node.node} is not from 0 to {NODE_ID_MAX}")
    processes: list[ManagerEntry | MemoryNodeDescription] = [manager, *nodes]
    _refuse_twice("memory_node.node", (node.node for node in nodes))
    _refuse_twice("endpoint", (process.endpoint for process in processes))
    _refuse_twice("data_directory", (process.data_directory for process in processes))
    return msgspec.structs.replace(config, manager=manager, memory_node=nodes)


def _quoted(text: str) -> str:
    # TOML's basic strings escape as JSON's do.
    return json.dumps(text, ensure_ascii=False)


def _entry_lines(entry: ManagerEntry | MemoryNodeDescription, directory: Path) -> list[str]:
    data = Path(entry.data_directory)
    if data.is_relative_to(directory):
        data = data.relative_to(directory)
    lines = [f"endpoint = {_quoted(entry.endpoint)}"]
    if entry.listen not in ("", entry.endpoint):
        lines.append(f"listen = {_quoted(entry.listen)}")
    return [*lines, f"data_directory = {_quoted(str(data))}"]


def _placed(entry: EntryT, directory: Path, where: str) -> EntryT:
    """``entry`` with full endpoints and an absolute data directory."""
    if not entry.data_directory:
        raise ConfigError(f"{where}data_directory: it must name a directory")
    try:
        endpoint = normalise_endpoint(entry.endpoint)
        listen = normalise_endpoint(entry.listen) if entry.listen else endpoint
    except ConfigError as error:
        raise ConfigError(f"{where}endpoint: {error}") from error
    absolute = str(directory / entry.data_directory)
    return msgspec.structs.replace(entry, endpoint=endpoint, listen=listen, data_directory=absolute)


def _decode_size(kind: type[Any], value: object) -> ByteCount:
    assert kind is ByteCount, "the only type here that msgspec does not know"
    try:
        return ByteCount(parse_size(value if isinstance(value, int | str) else str(value)))
    except ConfigError as error:
        raise ValueError(str(error)) from error  # msgspec adds where it is


def _refuse_unknown(table: Mapping[str, Any], struct: type[msgspec.Struct], where: str) -> None:
    allowed = struct.__struct_fields__
    for key in table:
        if key not in allowed:
            close = difflib.get_close_matches(key, allowed, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"{where}{key}: unknown; {hint}allowed: {', '.join(allowed)}")


def _refuse_twice(what: str, values: Iterable[object]) -> None:
    value, times = Counter(values).most_common(1)[0]
    if times > 1:
        raise ConfigError(f"{what}: {value} is there {times} times; each must have its own")


def _readable(error: msgspec.ValidationError) -> str:
    """msgspec's message, in the words of the file: "Expected `int`, got `str` - at `$.a[0].b`"."""
    what, _, place = str(error).partition(" - at ")
    place = place.strip("`").removeprefix("$").removeprefix(".")
    if what.startswith("Invalid enum value"):
        what += f"; allowed: {', '.join(get_args(Mode))}"
    what = what.replace("Object missing required field", "missing").replace("`", "")
    return f"{place}: {what}" if place else what
