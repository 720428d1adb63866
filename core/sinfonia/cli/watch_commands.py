"""Look on while bytes change: a line for each hint, with what is there then."""

import json
import math
from collections.abc import Callable

import click

from sinfonia import monotonic
from sinfonia.cli.arguments import Extent, cluster_argument, json_option, parse_extent, printable
from sinfonia.cli.reaching import reached
from sinfonia.client.blocking import BlockingCluster
from sinfonia.client.watch import POLL_EVERY, BlockingWatch
from sinfonia.operating.handle import CONNECT_TIMEOUT


@click.command(short_help="Print bytes now and after each change.")
@cluster_argument
@click.argument("extent", metavar="NODE:OFFSET+LENGTH", type=parse_extent)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N changes.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="End after so long; with --count, too few changes are a failure then.",
)
@json_option
def watch(
    cluster: str, extent: Extent, *, count: int | None, timeout: float | None, as_json: bool
) -> None:
    """Print the bytes at an address now, and again whenever a commit has touched them.

    Commits that follow closely on each other may show as one, and a line may repeat the one before
    it: what is written may be what was there.  Ends with Ctrl-C, or as --count and --timeout say.

    \b
        sinfonia watch demo 0:100+5
        sinfonia watch demo 0:100+5 --count 1 --timeout 60 && echo changed
    """
    deadline = math.inf if timeout is None else monotonic.seconds() + timeout
    with (
        reached(cluster).connect(CONNECT_TIMEOUT) as connection,
        connection.watch(*extent) as hints,
    ):
        try:
            show = _show_json if as_json else _show
            changes = _look_on(connection, hints, extent, deadline, count=count, show=show)
        except KeyboardInterrupt:
            return
    if count is not None and changes < count:
        raise click.ClickException(f"{changes} of {count} changes in {timeout:g} s")


def _look_on(
    connection: BlockingCluster,
    hints: BlockingWatch,
    extent: Extent,
    deadline: float,
    *,
    count: int | None,
    show: Callable[[Extent, int, bytes], None],
) -> int:
    """Show what is there until there is no more to wait for; how often it has changed."""
    changes = -1  # the first line says what there was before
    last = None
    while count is None or changes < count:
        left = deadline - monotonic.seconds()
        if left <= 0:
            break
        hinted = hints.wait(min(POLL_EVERY, left))
        data = connection.read(*extent)
        if hinted or data != last:
            changes += 1
            last = data
            show(extent, changes, data)
    return max(changes, 0)


def _show(extent: Extent, _change: int, data: bytes) -> None:
    click.echo(f"{extent.node}:{extent.address}+{extent.length} = {printable(data)}")


def _show_json(extent: Extent, change: int, data: bytes) -> None:
    place = {"node": extent.node, "address": extent.address}
    click.echo(json.dumps({"change": change, **place, "hex": data.hex()}))
