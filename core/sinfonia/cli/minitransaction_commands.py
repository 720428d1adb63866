"""Minitransactions by hand, one per command.

The exit code of `exec` is the outcome, for scripts: 0 committed, 3 nothing happened because of what
was found, 4 unknown, 1 it definitely did not happen.
"""

import json
import sys
from collections.abc import Sequence

import click

from sinfonia.cli.arguments import (
    Addition,
    Check,
    Datum,
    Extent,
    Place,
    cluster_argument,
    hex_dump,
    json_option,
    parse_addition,
    parse_check,
    parse_datum,
    parse_extent,
    parse_place,
    parse_value,
    printable,
)
from sinfonia.cli.reaching import reached
from sinfonia.client.blocking import BlockingCluster
from sinfonia.config import count_of
from sinfonia.errors import OutcomeUnknown
from sinfonia.minitransaction import LOCK_WAIT_MAX, Result

COMPARE_FAILED_EXIT_CODE = 3
UNKNOWN_EXIT_CODE = 4

timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up after so long.",
)


@click.command(short_help="Print the bytes at an address.")
@cluster_argument
@click.argument("extent", metavar="NODE:OFFSET+LENGTH", type=parse_extent)
@click.option("--raw", is_flag=True, help="Print the bytes themselves, and nothing else.")
@timeout_option
def get(cluster: str, extent: Extent, *, raw: bool, timeout: float) -> None:
    """Print the bytes at an address.

    A terminal gets a hex dump.  A pipe or a file gets one line, text:... or hex:..., as `put` takes
    it.  OFFSET and LENGTH may have a unit.

    \b
        sinfonia get demo 0:100+5
        sinfonia get demo 0:1GiB+4KiB
        sinfonia get demo 0:100+5 --raw > file
    """
    with connected(cluster, timeout) as connection:
        data = connection.read(*extent, timeout=timeout)
    if raw:
        sys.stdout.buffer.write(data)
    elif sys.stdout.isatty():
        click.echo("\n".join(hex_dump(extent.address, data)))
    else:
        click.echo(printable(data))


@click.command(short_help="Put bytes at an address.")
@cluster_argument
@click.argument("place", metavar="NODE:OFFSET", type=parse_place)
@click.argument("value", metavar="VALUE", type=parse_value)
@timeout_option
@json_option
def put(cluster: str, place: Place, value: bytes, *, timeout: float, as_json: bool) -> None:
    """Put bytes at an address.  VALUE is text:..., hex:... or file:PATH.

    OFFSET may have a unit.

    \b
        sinfonia put demo 0:100 text:hello
        sinfonia put demo 1:64KiB file:picture.png
    """
    with connected(cluster, timeout) as connection:
        connection.write(*place, value, timeout=timeout)
    if as_json:
        click.echo(json.dumps({"node": place.node, "address": place.address, "bytes": len(value)}))
    else:
        click.echo(f"{count_of(len(value), 'byte')} written at {place.node}:{place.address}")


@click.command(name="exec", short_help="Execute one minitransaction.")
@cluster_argument
@click.option(
    "--compare",
    "compares",
    multiple=True,
    type=parse_datum,
    metavar="NODE:OFFSET=VALUE",
    help="Commit only if VALUE is there.",
)
@click.option(
    "--read",
    "reads",
    multiple=True,
    type=parse_extent,
    metavar="NODE:OFFSET+LENGTH",
    help="Print these bytes, as they were before.",
)
@click.option(
    "--write",
    "writes",
    multiple=True,
    type=parse_datum,
    metavar="NODE:OFFSET=VALUE",
    help="Put VALUE there.",
)
@click.option(
    "--check",
    "checks",
    multiple=True,
    type=parse_check,
    metavar="NODE:OFFSET[/WIDTH]>=N",
    help="Commit only if the little-endian integer there is as said: ==, !=, <, <=, > or >=.",
)
@click.option(
    "--add",
    "additions",
    multiple=True,
    type=parse_addition,
    metavar="NODE:OFFSET[/WIDTH]=+N",
    help="Add N to the little-endian integer there, and print what it was.",
)
@click.option(
    "--append",
    "appends",
    multiple=True,
    type=parse_datum,
    metavar="NODE:RING=VALUE",
    help="Append VALUE to the ring there (see `ring create`), and print its position.",
)
@click.option(
    "--lock-wait",
    type=click.IntRange(0, round(LOCK_WAIT_MAX * 1e3)),
    default=0,
    metavar="MS",
    help="Queue so long for a busy lock; only with items of one memory node.",
)
@click.option(
    "--tag", default="", help="Class under which the load of the minitransaction is counted."
)
@timeout_option
@json_option
def execute(
    cluster: str,
    *,
    compares: Sequence[Datum],
    reads: Sequence[Extent],
    writes: Sequence[Datum],
    checks: Sequence[Check],
    additions: Sequence[Addition],
    appends: Sequence[Datum],
    lock_wait: int,
    tag: str,
    timeout: float,
    as_json: bool,
) -> None:
    """Execute one minitransaction: compare items, read items and write items, atomically.

    VALUE is text:..., hex:... or file:PATH.  Each option may be given many times.  If every compare
    item matches and every check holds, the read items are returned and the write items, and then
    additions and appends, are applied, over any number of memory nodes; else nothing happens, and
    the answer says what was found instead.

    \b
    Exit codes: 0 committed; 3 a compare item did not match, a check did not
    hold or a ring is full, so that nothing happened; 4 the outcome is unknown;
    1 it did not happen, and the message says why.

    \b
        sinfonia exec demo --compare 0:100=text:hello --write 0:100=text:HELLO --read 1:0+8
        sinfonia exec demo --check '0:8>=10' --add 0:8=-10 --add 1:8=+10
    """
    if not any((compares, reads, writes, checks, additions, appends)):
        raise click.UsageError("there is nothing to execute; give --compare, --read, --write, ...")
    with connected(cluster, timeout) as connection:
        minitransaction = connection.minitransaction(lock_wait=lock_wait / 1e3, tag=tag)
        for compare in compares:
            minitransaction.compare(*compare)
        for read in reads:
            minitransaction.read(*read)
        for write in writes:
            minitransaction.write(*write)
        for node, address, relation, operand, width in checks:
            minitransaction.check(node, address, relation, operand, width=width)
        for node, address, delta, width in additions:
            minitransaction.add(node, address, delta, width=width)
        for append in appends:
            minitransaction.append(*append)
        try:
            result = minitransaction.execute(timeout)
        except OutcomeUnknown as error:
            if not as_json:
                raise
            click.echo(json.dumps({"outcome": "unknown", "tid": str(error.tid)}))
            click.get_current_context().exit(UNKNOWN_EXIT_CODE)
    if as_json:
        click.echo(json.dumps(_as_dict(result, reads, [*compares, *checks])))
    else:
        _print_result(result, reads, [*compares, *checks])
        _print_updates(result, additions, appends)
    if not result.committed:
        click.get_current_context().exit(COMPARE_FAILED_EXIT_CODE)


def connected(cluster: str, timeout: float) -> BlockingCluster:
    """Connect to the CLUSTER of a command."""
    return reached(cluster).connect(timeout)


def _print_result(result: Result, reads: Sequence[Extent], asked: Sequence[Datum | Check]) -> None:
    """``asked``: the compare items and then the checks, as their indices count."""
    if result.committed:
        click.echo("committed")
    else:
        click.echo(f"not committed: {_why_not(result, asked)}")
    for failed in result.failed_compares:
        item = asked[failed.index]
        if isinstance(item, Check):
            found = int.from_bytes(failed.found, "little")
            click.echo(f"check {item} does not hold, found {found}")
        else:
            click.echo(
                f"compare {failed.node}:{failed.address} expected {printable(failed.expected)}, "
                f"found {printable(failed.found)}"
            )
    for extent, data in zip(reads, result.reads, strict=False):
        click.echo(f"read {extent.node}:{extent.address}+{extent.length} = {printable(data)}")


def _print_updates(result: Result, additions: Sequence[Addition], appends: Sequence[Datum]) -> None:
    for addition, old in zip(additions, result.added, strict=False):
        click.echo(f"add {addition.node}:{addition.address} was {old}")
    for append, position in zip(appends, result.positions, strict=False):
        click.echo(f"append {append.node}:{append.address} at position {position}")
    for index in result.full_rings:
        click.echo(f"append {appends[index].node}:{appends[index].address} ring full")


def _why_not(result: Result, asked: Sequence[Datum | Check]) -> str:
    if not result.failed_compares:
        return "a ring is full"
    if all(isinstance(asked[failed.index], Check) for failed in result.failed_compares):
        return "a check did not hold"
    return "a compare item did not match"


def _outcome(result: Result) -> str:
    if result.committed:
        return "committed"
    return "compare_failed" if result.failed_compares else "ring_full"


def _as_dict(
    result: Result, reads: Sequence[Extent], asked: Sequence[Datum | Check]
) -> dict[str, object]:
    return {
        "outcome": _outcome(result),
        "attempts": result.attempts,
        "reads": [
            {"node": extent.node, "address": extent.address, "hex": data.hex()}
            for extent, data in zip(reads, result.reads, strict=False)
        ],
        "failed_compares": [
            {
                "node": failed.node,
                "address": failed.address,
                "relation": _relation(asked[failed.index]),
                "expected_hex": failed.expected.hex(),
                "found_hex": failed.found.hex(),
            }
            for failed in result.failed_compares
        ],
        "added": list(result.added),
        "positions": list(result.positions),
        "full_rings": list(result.full_rings),
    }


def _relation(item: Datum | Check) -> str:
    return item.sign if isinstance(item, Check) else "=="
