"""`sinfonia top`: what a cluster does at this moment, whichever parts of it are down."""

import contextlib
import json
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sinfonia.cli.arguments import cluster_or_default, json_option
from sinfonia.cli.reaching import reached
from sinfonia.cli.status_tables import progress_of
from sinfonia.figures.figure import Unit
from sinfonia.figures.member import RATES
from sinfonia.operating.cluster_status import ClusterStatus
from sinfonia.operating.cluster_view import ClusterView
from sinfonia.operating.rates import ClusterRates, NodeRates, Rates, rates_between
from sinfonia.operating.sights import ANSWER_WITHIN
from sinfonia.operating.tables import table_console

QUIT_KEYS = {b"q", b"Q"}

# What is shown of the rates, in this order, if members tell it.
_SHOWN = {figure.rate.name: figure for figure in RATES if figure.rate is not None}


@click.command(short_help="Show live what a cluster does.")
@cluster_or_default
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
@click.option("--once", is_flag=True, help="Show one sample, and end.")
@json_option
def top(cluster: str, *, interval: float, once: bool, as_json: bool) -> None:
    """Show live what CLUSTER does: rates, replication, which members are primary.

    A minitransaction counts at each of its memory nodes, and its votes to abort by reason.  q or
    Ctrl-C ends it.

    \b
        sinfonia top demo
        sinfonia top demo --once --json --interval 5
    """
    if as_json and not once:
        raise click.UsageError("--json shows one sample; give --once, too")
    with reached(cluster).view() as view:
        samples = _samples(view, interval)
        if once:
            rates = next(samples)
            if as_json:
                click.echo(json.dumps(rates.as_dict(), indent=2))
            else:
                table_console().print(_page(rates, how_to_end=""))
        else:
            with contextlib.suppress(KeyboardInterrupt):
                _show(samples)


def _show(samples: Iterator[ClusterRates]) -> None:
    console = table_console()
    if not console.is_terminal:
        for rates in samples:
            console.print(_page(rates))
        return
    waiting = Text("The first figures come after one interval.")
    with _keys(), Live(waiting, console=console, screen=True, auto_refresh=False) as live:
        for rates in samples:
            live.update(_page(rates), refresh=True)


def _samples(view: ClusterView, interval: float) -> Iterator[ClusterRates]:
    """A sample each ``interval``, until a key says to end."""
    earlier, seen_at = _look(view, interval)
    # Looks begin at their time, however long the one before had to wait for silent processes.
    while not _quit_within(seen_at + interval - time.monotonic()):
        later, now = _look(view, interval)
        yield rates_between(earlier, later, now - seen_at)
        earlier, seen_at = later, now


def _look(view: ClusterView, interval: float) -> tuple[ClusterStatus, float]:
    sight = view.look(min(interval, ANSWER_WITHIN))
    return view.status(sight), sight.taken_at


def _quit_within(seconds: float) -> bool:
    """Wait; True at once if a key was pressed that says to end."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if not sys.stdin.isatty():
            time.sleep(left)
        elif select.select([sys.stdin], [], [], left)[0]:
            # Not by sys.stdin, which would read ahead, so that the next select knows of nothing.
            key = os.read(sys.stdin.fileno(), 1)
            if key in QUIT_KEYS or not key:
                return True
    return False


@contextmanager
def _keys() -> Iterator[None]:
    """Keys come one by one, not as lines."""
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _page(rates: ClusterRates, how_to_end: str = "; q ends") -> Group:
    told = [name for name in _SHOWN if name in rates.total]
    table = Table(box=None, pad_edge=False)
    table.add_column("NODE", no_wrap=True)
    table.add_column("PRIMARY", no_wrap=True)
    for name in told:
        rate = _SHOWN[name].rate
        assert rate is not None
        table.add_column(rate.column, no_wrap=True, justify="right")
    for column in ("ABORTS/s", "IN DOUBT", "REPLICAS"):
        table.add_column(column)
    for node in rates.memory_nodes:
        table.add_row(*_row(node, told))
    if len(rates.memory_nodes) > 1:
        table.add_row("all", "", *_cells(rates.total, told), _reasons(rates.aborts), "", "")
    title = Text(f"Cluster {rates.cluster!r}, over {rates.interval:.1f} s{how_to_end}")
    problems = [Text(f"! {problem}", style="bold red") for problem in rates.problems]
    return Group(title, Text(), table, Text(), *problems)


def _row(node: NodeRates, told: list[str]) -> list[str]:
    primary = node.primary or "none"
    if not node.serving:
        primary = f"[bold red]{primary}[/]"
    replicas = "\n".join(f"{each.endpoint} {progress_of(each)}" for each in node.replicas)
    return [
        str(node.node),
        primary,
        *_cells(node.rates, told),
        _reasons(node.aborts),
        "" if node.in_doubt is None else str(node.in_doubt),
        replicas,
    ]


def _cells(rates: Rates, told: list[str]) -> list[str]:
    return [_amount(rates[name], name) if name in rates else "-" for name in told]


def _amount(rate: float, name: str) -> str:
    return f"{rate / 2**20:,.2f}MiB" if _SHOWN[name].unit is Unit.BYTES else f"{rate:,.0f}"


def _reasons(aborts: Rates) -> str:
    return " ".join(f"{name} {rate:,.0f}" for name, rate in aborts.items() if rate)
