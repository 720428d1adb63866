"""`sinfonia load`: what each memory node did lately, over the paper's windows (section 3.6).

Memory nodes that are silent are named, and the others are shown.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict

import click
from rich.table import Table

from sinfonia.cli.arguments import cluster_or_default, json_option
from sinfonia.cli.reaching import reached
from sinfonia.client.load import NodeLoad, WindowLoad
from sinfonia.operating.cluster_load import ClusterLoad
from sinfonia.operating.tables import table_console

_COLUMNS = ("MTX/s", "ABORTS/s", "RETRIES/s", "READ/s", "WRITTEN/s")

_UNITS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))

# What stands in the place of no tag.
NO_TAG = "-"


@click.command(short_help="Show the load of each memory node, by class.")
@cluster_or_default
@click.option("--by-tag", is_flag=True, help="A row for each class of minitransactions.")
@click.option("--tag", metavar="TAG", help="Show only minitransactions with this tag.")
@json_option
def load(cluster: str, *, by_tag: bool, tag: str | None, as_json: bool) -> None:
    """Show what each memory node of CLUSTER did in the last 5 seconds to 12 hours.

    A minitransaction counts at each of its memory nodes.  Applications give minitransactions a tag
    to have them counted apart.  A node that began its life lately covers less than the window.
    Exit code 1 if a memory node does not answer, or none counts TAG.

    \b
        sinfonia load demo
        sinfonia load demo --by-tag
        sinfonia load demo --json
    """
    found = reached(cluster).load()
    _refuse_unknown(tag, found)
    if as_json:
        click.echo(json.dumps(_as_dict(found, tag), indent=2))
    else:
        table_console().print(_table(found.loads.values(), by_tag=by_tag, tag=tag))
    for node in found.silent:
        click.echo(f"! memory node {node} has no primary that answers", err=True)
    if found.silent:
        click.get_current_context().exit(1)


def _refuse_unknown(tag: str | None, found: ClusterLoad) -> None:
    """Raises click.ClickException if no memory node that answers has counted ``tag``."""
    known = {each for load in found.loads.values() for each in load.by_tag}
    if tag is None or tag in known:
        return
    names = ", ".join(sorted(filter(None, known))) or "none yet"
    silent = "".join(f"; memory node {node} does not answer" for node in found.silent)
    raise click.ClickException(f"no memory node counts the tag {tag!r}; tags: {names}{silent}")


def _as_dict(found: ClusterLoad, only: str | None) -> dict[str, object]:
    """The load for JSON; ``only``: the one tag to tell of."""
    nodes = [
        {
            "node": node,
            "windows": [_window_dict(window) for window in load.total],
            "by_tag": {
                tag: [_window_dict(window) for window in windows]
                for tag, windows in _classes(load, only)
            },
        }
        for node, load in sorted(found.loads.items())
    ]
    return {"cluster": found.cluster, "memory_nodes": nodes, "silent": found.silent}


def _table(loads: Iterable[NodeLoad], *, by_tag: bool, tag: str | None) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("NODE", no_wrap=True)
    tagged = by_tag or tag is not None
    for column in (*(("TAG",) if tagged else ()), "WINDOW", "COVERS"):
        table.add_column(column, no_wrap=True)
    for column in _COLUMNS:
        table.add_column(column, no_wrap=True, justify="right")
    for each in sorted(loads, key=lambda load: load.node):
        if not tagged:
            for window in each.total:
                table.add_row(str(each.node), *_cells(window))
            continue
        for name, windows in sorted(_classes(each, tag)):
            for window in windows:
                table.add_row(str(each.node), name or NO_TAG, *_cells(window))
    return table


def _classes(load: NodeLoad, tag: str | None) -> Iterator[tuple[str, tuple[WindowLoad, ...]]]:
    if tag is None:
        yield from load.by_tag.items()
    else:
        yield tag, tuple(load.window(each.window, tag) for each in load.total)


def _cells(window: WindowLoad) -> list[str]:
    return [
        _duration(window.window),
        _duration(window.seconds),
        _rate(window.executed_rate),
        _rate(window.aborted_rate),
        _rate(window.retried_rate),
        _bytes(window.bytes_read_rate),
        _bytes(window.bytes_written_rate),
    ]


def _duration(seconds: float) -> str:
    """As people say it: 5 s, 1 min, 12 h."""
    unit, name = next((each for each in _UNITS if seconds >= each[0]), _UNITS[-1])
    amount = seconds / unit
    return f"{amount:.0f} {name}" if abs(amount - round(amount)) < 0.05 else f"{amount:.1f} {name}"


def _rate(rate: float) -> str:
    return f"{rate:,.1f}" if 0 < rate < 10 else f"{rate:,.0f}"


def _bytes(rate: float) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if rate >= size:
            return f"{rate / size:,.1f}{unit}"
    return f"{rate:,.0f}B"


def _window_dict(window: WindowLoad) -> dict[str, float]:
    rates = {
        "executed_rate": window.executed_rate,
        "aborted_rate": window.aborted_rate,
        "retried_rate": window.retried_rate,
        "bytes_read_rate": window.bytes_read_rate,
        "bytes_written_rate": window.bytes_written_rate,
    }
    return {**asdict(window), **rates}
