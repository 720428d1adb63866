"""`sinfonia load`: what each memory node did lately, over the paper's windows (section 3.6).

Each primary counts in its own life; whoever is silent is named, and the others are shown.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

import click
from rich.table import Table

from sinfonia.addresses import MemoryNodeId
from sinfonia.cli.arguments import cluster_or_default, json_option
from sinfonia.client.load import NodeLoad, WindowLoad, node_load
from sinfonia.client.seed import key_hint
from sinfonia.config import resolve_endpoint
from sinfonia.errors import Unreachable
from sinfonia.keys_option import keys_of
from sinfonia.operating.observer import ANSWER_WITHIN, Observer
from sinfonia.operating.tables import table_console
from sinfonia.protocol.messages import GetLoad, Load

_COLUMNS = ("MTX/s", "ABORTS/s", "RETRIES/s", "READ/s", "WRITTEN/s")

_UNITS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))

# What stands in the place of no tag.
NO_TAG = "-"


@dataclass(frozen=True, slots=True)
class ClusterLoad:
    """What the memory nodes of a cluster say; ``silent`` are those that say nothing."""

    cluster: str
    loads: Mapping[MemoryNodeId, NodeLoad]
    silent: list[MemoryNodeId]

    def as_dict(self, only: str | None = None) -> dict[str, object]:
        """For JSON; ``only``: the one tag to tell of."""
        nodes = [
            {
                "node": node,
                "windows": [_window_dict(window) for window in load.total],
                "by_tag": {
                    tag: [_window_dict(window) for window in windows]
                    for tag, windows in _classes(load, only)
                },
            }
            for node, load in sorted(self.loads.items())
        ]
        return {"cluster": self.cluster, "memory_nodes": nodes, "silent": self.silent}


@click.command(short_help="Show the load of each memory node, by class.")
@cluster_or_default
@click.option("--by-tag", is_flag=True, help="A row for each class of minitransactions.")
@click.option("--tag", metavar="TAG", help="Only minitransactions with this tag.")
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
    found = ask_for_load(cluster)
    _refuse_unknown(tag, found)
    if as_json:
        click.echo(json.dumps(found.as_dict(tag), indent=2))
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


def ask_for_load(cluster: str, *, timeout: float = ANSWER_WITHIN) -> ClusterLoad:
    """Ask the primaries of the cluster that a user named; ``timeout`` in seconds for each question.

    Raises ConfigError, or Unreachable if nobody says who belongs to the cluster.
    """
    endpoints = resolve_endpoint(cluster).split(",")
    keys = keys_of(cluster)
    with Observer(endpoints, keys) as observer:
        directory = observer.look(timeout).directory
        if directory is None:
            raise Unreachable(
                f"no manager or memory node answers at {', '.join(endpoints)} within {timeout:g} "
                f"s; is the cluster up, and is this its address? {key_hint(keys)}"
            )
        nodes = {
            entry.endpoint: entry.node
            for entry in directory.nodes
            if entry.identity and entry.endpoint in observer.endpoints
        }
        loads: dict[MemoryNodeId, NodeLoad] = {}
        observer.begin()
        deadline = time.monotonic() + timeout
        while len(loads) < len(nodes) and time.monotonic() < deadline:
            observer.ask([GetLoad()], [place for place, node in nodes.items() if node not in loads])
            for endpoint, reply in observer.receive():
                if isinstance(reply, Load) and endpoint in nodes:
                    loads[nodes[endpoint]] = node_load(nodes[endpoint], reply)
    silent = [entry.node for entry in directory.nodes if entry.node not in loads]
    return ClusterLoad(directory.cluster, loads, silent)


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
