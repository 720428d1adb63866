"""What users write on a command line, and how values and tables are shown to them, in one place.

A value is ``text:hello``, ``hex:00ff`` or ``file:PATH``; an address is ``NODE:OFFSET``, and a range
``NODE:OFFSET+LENGTH``.  OFFSET and LENGTH may have a unit: ``0:1GiB+5``.  Whatever is not
understood is refused with the form it should have.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import click

from sinfonia.config import CONFIG_FILE, parse_size
from sinfonia.errors import ConfigError
from sinfonia.keys_option import keys_option
from sinfonia.minitransaction import Relation

CLUSTER_VARIABLE = "SINFONIA_CLUSTER"
CLUSTER_DEFAULT = "./cluster"

CommandT = TypeVar("CommandT", bound=Callable[..., object])

# Bytes of an integer, unless another width is written.
WIDTH_DEFAULT = 8


# A number of bytes, with a unit or without.
_BYTES = r"(\d+(?:[KMGT]iB)?)"
_ADDRESS = re.compile(rf"(\d+):{_BYTES}")
_CHECK = re.compile(rf"(\d+):{_BYTES}(?:/(\d+))?(==|!=|<=|>=|<|>)(\d+)")
_ADD = re.compile(rf"(\d+):{_BYTES}(?:/(\d+))?=([+-]\d+)")
_RANGE = re.compile(rf"(\d+):{_BYTES}\+{_BYTES}")

_ENDPOINT = re.compile(r"[^/]+:\d+")

# A hex dump shows so many bytes on a line, as hexdump(1) and xxd(1) do.
DUMP_WIDTH = 16


class Place(NamedTuple):
    """A byte of the cluster."""

    node: int
    address: int


class Extent(NamedTuple):
    """A range of bytes of one memory node."""

    node: int
    address: int
    length: int


class Datum(NamedTuple):
    """Bytes and where they are, or shall be."""

    node: int
    address: int
    data: bytes


class Check(NamedTuple):
    """A condition on an integer of ``width`` bytes."""

    node: int
    address: int
    relation: Relation
    operand: int
    width: int

    @property
    def sign(self) -> str:
        """The relation as it is written."""
        return next(sign for sign, relation in RELATIONS.items() if relation is self.relation)

    def __str__(self) -> str:
        width = "" if self.width == WIDTH_DEFAULT else f"/{self.width}"
        return f"{self.node}:{self.address}{width}{self.sign}{self.operand}"


class Addition(NamedTuple):
    """What to add to an integer of ``width`` bytes."""

    node: int
    address: int
    delta: int
    width: int


RELATIONS = {
    "==": Relation.EQUAL,
    "!=": Relation.NOT_EQUAL,
    "<": Relation.LESS,
    "<=": Relation.AT_MOST,
    ">": Relation.GREATER,
    ">=": Relation.AT_LEAST,
}


def parse_size_option(text: str) -> int:
    """A number of bytes, with a unit or without.  Raises click.BadParameter."""
    try:
        return parse_size(text)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


def parse_place(text: str) -> Place:
    """``NODE:OFFSET``.  Raises click.BadParameter."""
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise click.BadParameter(
            f"{text!r} is not an address; write NODE:OFFSET, as 0:100 or 0:4KiB"
        )
    return Place(int(match[1]), _bytes(match[2]))


def parse_extent(text: str) -> Extent:
    """``NODE:OFFSET+LENGTH``.  Raises click.BadParameter."""
    match = _RANGE.fullmatch(text)
    if match is None:
        raise click.BadParameter(
            f"{text!r} is not a range; write NODE:OFFSET+LENGTH, as 0:100+8 or 0:1GiB+8"
        )
    return Extent(int(match[1]), _bytes(match[2]), _bytes(match[3]))


def _bytes(text: str) -> int:
    """What matched ``_BYTES``; 0 is a number of bytes here, unlike among sizes."""
    digits = text.rstrip("KMGTiB")
    unit = text.removeprefix(digits)
    return int(digits) * parse_size(f"1{unit}")


def parse_value(text: str) -> bytes:
    """``text:``, ``hex:`` or ``file:`` and what it is.  Raises click.BadParameter."""
    kind, _, rest = text.partition(":")
    if kind == "text":
        return rest.encode("utf-8", "surrogateescape")
    if kind == "hex":
        try:
            return bytes.fromhex(rest)
        except ValueError as error:
            raise click.BadParameter(f"{rest!r} is not hexadecimal; write hex:00ff") from error
    if kind == "file":
        try:
            return Path(rest).read_bytes()
        except OSError as error:
            raise click.BadParameter(f"cannot read {rest}: {error.strerror}") from error
    raise click.BadParameter(f"{text!r} is not a value; write text:hello, hex:00ff or file:PATH")


def parse_datum(text: str) -> Datum:
    """``NODE:OFFSET=VALUE``.  Raises click.BadParameter."""
    place, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} has no value; write NODE:OFFSET=VALUE, as 0:8=hex:00ff")
    return Datum(*parse_place(place), parse_value(value))


def parse_check(text: str) -> Check:
    """``NODE:OFFSET[/WIDTH]`` and a comparison with a number.  Raises click.BadParameter."""
    match = _CHECK.fullmatch(text.replace(" ", ""))
    if match is None:
        raise click.BadParameter(
            f"{text!r} is not a condition; write NODE:OFFSET[/WIDTH] and ==, !=, <, <=, > or >= "
            "with a number, as '0:8>=5'"
        )
    relation = RELATIONS[match[4]]
    return Check(
        int(match[1]), _bytes(match[2]), relation, int(match[5]), int(match[3] or WIDTH_DEFAULT)
    )


def parse_addition(text: str) -> Addition:
    """``NODE:OFFSET[/WIDTH]=+N`` or ``=-N``.  Raises click.BadParameter."""
    match = _ADD.fullmatch(text)
    if match is None:
        raise click.BadParameter(
            f"{text!r} adds nothing; write NODE:OFFSET[/WIDTH]=+NUMBER, as 0:8=+1 or 0:8/4=-2"
        )
    return Addition(int(match[1]), _bytes(match[2]), int(match[4]), int(match[3] or WIDTH_DEFAULT))


def printable(data: bytes) -> str:
    """``data`` as ``parse_value`` reads it, as text if that is what it seems to be."""
    text = data.decode("utf-8", "replace")
    return f"text:{text}" if text.isprintable() and "\ufffd" not in text else f"hex:{data.hex()}"


def hex_dump(address: int, data: bytes) -> Iterator[str]:
    """Lines that show ``data``, which begins at ``address``; a line like the one before is ``*``.

    The last line is the address after the last byte.
    """
    before, repeated = None, False
    for start in range(0, len(data), DUMP_WIDTH):
        piece = data[start : start + DUMP_WIDTH]
        if piece != before:
            text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in piece)
            yield f"{address + start:012x}  {piece.hex(' '):{3 * DUMP_WIDTH - 1}}  |{text}|"
        elif not repeated:
            yield "*"
        before, repeated = piece, piece == before
    yield f"{address + len(data):012x}"


def cluster_argument(command: CommandT) -> CommandT:
    """CLUSTER, and the keys with which to connect."""
    return click.argument("cluster", metavar="CLUSTER")(keys_option(command))


def cluster_or_default(command: CommandT) -> CommandT:
    """As ``cluster_argument``, for commands that can do without."""
    return click.argument(
        "cluster", metavar="[CLUSTER]", envvar=CLUSTER_VARIABLE, default=CLUSTER_DEFAULT
    )(keys_option(command))


def _refuse_endpoint(_ctx: click.Context, _parameter: click.Parameter, value: Path) -> Path:
    if str(value).startswith("tcp:"):
        raise click.BadParameter(
            "DIR is a directory made by `sinfonia up`; this command acts on processes of this "
            "machine, and takes no address"
        )
    return value


def names_cluster(place: str) -> bool:
    """Whether ``place`` is an endpoint, a directory made by `sinfonia up`, or a description."""
    path = Path(place)
    if path.exists():
        return path.name == CONFIG_FILE or (path / CONFIG_FILE).is_file()
    return place.startswith("tcp:") or _ENDPOINT.fullmatch(place) is not None


def default_cluster() -> str:
    """The CLUSTER that is meant when none is named."""
    return os.environ.get(CLUSTER_VARIABLE) or CLUSTER_DEFAULT


directory_argument = click.argument(
    "directory",
    metavar="[DIR]",
    envvar=CLUSTER_VARIABLE,
    default=CLUSTER_DEFAULT,
    type=click.Path(path_type=Path),
    callback=_refuse_endpoint,
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
