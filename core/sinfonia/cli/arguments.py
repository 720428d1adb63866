"""What users write on a command line, and how values and tables are shown to them, in one place.

A value is ``text:hello``, ``hex:00ff`` or ``file:PATH``; an address is ``NODE:OFFSET``, and a range
``NODE:OFFSET+LENGTH``.  Whatever is not understood is refused with the form it should have.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import click

from sinfonia.config import parse_size
from sinfonia.errors import ConfigError
from sinfonia.minitransaction import Relation
from sinfonia.operating.chosen_keys import keys_option

CLUSTER_VARIABLE = "SINFONIA_CLUSTER"
CLUSTER_DEFAULT = "./cluster"

CommandT = TypeVar("CommandT", bound=Callable[..., object])

# Bytes of an integer, unless another width is written.
WIDTH_DEFAULT = 8


_ADDRESS = re.compile(r"(\d+):(\d+)")
_CHECK = re.compile(r"(\d+):(\d+)(?:/(\d+))?(==|!=|<=|>=|<|>)(\d+)")
_ADD = re.compile(r"(\d+):(\d+)(?:/(\d+))?=([+-]\d+)")
_RANGE = re.compile(r"(\d+):(\d+)\+(\d+)")


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
        raise click.BadParameter(f"{text!r} is not an address; write NODE:OFFSET, as 0:100")
    return Place(int(match[1]), int(match[2]))


def parse_extent(text: str) -> Extent:
    """``NODE:OFFSET+LENGTH``.  Raises click.BadParameter."""
    match = _RANGE.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a range; write NODE:OFFSET+LENGTH, as 0:100+8")
    return Extent(int(match[1]), int(match[2]), int(match[3]))


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
        int(match[1]), int(match[2]), relation, int(match[5]), int(match[3] or WIDTH_DEFAULT)
    )


def parse_addition(text: str) -> Addition:
    """``NODE:OFFSET[/WIDTH]=+N`` or ``=-N``.  Raises click.BadParameter."""
    match = _ADD.fullmatch(text)
    if match is None:
        raise click.BadParameter(
            f"{text!r} adds nothing; write NODE:OFFSET[/WIDTH]=+NUMBER, as 0:8=+1 or 0:8/4=-2"
        )
    return Addition(int(match[1]), int(match[2]), int(match[4]), int(match[3] or WIDTH_DEFAULT))


def printable(data: bytes) -> str:
    """``data`` as ``parse_value`` reads it, as text if that is what it seems to be."""
    text = data.decode("utf-8", "replace")
    return f"text:{text}" if text.isprintable() and "\ufffd" not in text else f"hex:{data.hex()}"


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
