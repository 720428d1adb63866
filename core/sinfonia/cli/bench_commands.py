"""`sinfonia bench`: how fast this machine is, on a private cluster that is gone afterwards.

Real processes on loopback and real files, so that the figures are those of a deployed cluster,
except for its network.
"""

import gc
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import click
import msgspec
from rich.table import Table

from sinfonia.cli.arguments import json_option, table_console
from sinfonia.cli.benchmark import (
    BATCHES_IN_FLIGHT,
    CAPACITY,
    COMPARED_IN_FLIGHT,
    Figures,
    ModeFigures,
    compare_modes,
    measure_round_trips,
    measure_throughput,
    message_sizes,
)
from sinfonia.cli.echo import EchoClient
from sinfonia.cli.local_cluster import LOOPBACK, LocalCluster, free_ports
from sinfonia.cli.local_description import ports_needed
from sinfonia.cli.processes import end, spawn_detached
from sinfonia.client.blocking import connect_blocking
from sinfonia.memnode.settings import MODES, is_replicated

# Allocations between two runs of the garbage collector.
COLLECT_AFTER = 100_000

SINGLY_IN_FLIGHT = 64
BATCHES = (16, 64)
STOP_PATIENCE = 5.0

# What the plain benchmark measures: without a disk, and with one.
PLAIN_MODES = ("RAM", "LOG")
PLAIN_SECONDS = 3.0

# For each of six modes at each of nine depths: less than a minute for all.
COMPARISON_SECONDS = 0.75


@click.command()
@click.option(
    "--compare-modes",
    "side_by_side",
    is_flag=True,
    help="All modes side by side, 1 to 256 in flight, on one memory node.",
)
@click.option(
    "--mode",
    "modes",
    type=click.Choice(MODES),
    multiple=True,
    help=f"[default: {' and '.join(PLAIN_MODES)}; with --compare-modes all]",
)
@click.option(
    "--memory-nodes",
    "node_counts",
    type=click.IntRange(1, 2),
    multiple=True,
    help="1: one phase; 2: two phases.  [default: both]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help=f"For each measurement.  [default: {PLAIN_SECONDS:g}; "
    f"with --compare-modes {COMPARISON_SECONDS:g}]",
)
@click.option(
    "--backend",
    type=click.Choice(["asyncio", "trio"]),
    default="asyncio",
    show_default=True,
    help="What the concurrent clients run on.",
)
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The disk to measure: where the redo logs go.  [default: the system's temporary one]",
)
@json_option
def bench(
    *,
    side_by_side: bool,
    modes: tuple[str, ...],
    node_counts: tuple[int, ...],
    seconds: float | None,
    backend: str,
    directory: Path | None,
    as_json: bool,
) -> None:
    """Measure minitransactions on this machine.

    One at a time against a bare ZeroMQ echo of the same message sizes, in turns; 64 in flight, one
    task each; and in batches, 16 of them under way.  On one memory node (one phase) and on two (two
    phases), in mode RAM and LOG.

    With --compare-modes, all modes in turns, as in Figure 12 of the Sinfonia paper: 6 random items
    of 4 bytes are written, out of 50,000 on one memory node; modes that end with -REPL have one
    replica, on this machine as well.

    All of the client's work is in the figures, but for Python's garbage collector, which runs less
    often than by default.

    \b
    With --json, one object a line: mode, memory_nodes, in_flight, batch,
    minitransactions_per_s, p50_us, p99_us, echo_p50_us; with --compare-modes mode,
    in_flight, minitransactions_per_s, p50_us, p99_us.  Latencies are those of a
    whole batch where there are batches.
    """
    if side_by_side and node_counts:
        raise click.UsageError("--compare-modes is about one memory node; leave --memory-nodes out")
    # As the suite's own processes do: what is alive now stays, and minitransactions form no cycles.
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    if side_by_side:
        with _Report(ModeFigures, as_json=as_json) as report:
            _compare(modes or MODES, seconds or COMPARISON_SECONDS, backend, directory, report)
        return
    with _Report(Figures, as_json=as_json) as report:
        for mode in modes or PLAIN_MODES:
            for memory_nodes in node_counts or (1, 2):
                measured = _measure(
                    mode, memory_nodes, seconds or PLAIN_SECONDS, backend, directory
                )
                for figures in measured:
                    report.add(figures)


class _Report:
    """JSON lines as they come, or a table at the end."""

    def __init__(self, line: type[msgspec.Struct], *, as_json: bool) -> None:
        self._as_json = as_json
        self._table = Table(box=None, pad_edge=False)
        for column in msgspec.structs.fields(line):
            self._table.add_column(column.name, justify="right", no_wrap=True)

    def __enter__(self) -> Self:
        return self

    def add(self, figures: msgspec.Struct) -> None:
        """One more line."""
        if self._as_json:
            click.echo(msgspec.json.encode(figures))
            sys.stdout.flush()
        else:
            click.echo(".", nl=False, err=True)
            self._table.add_row(*(f"{value}" for value in msgspec.structs.astuple(figures)))

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._as_json and exc is None:
            click.echo(err=True)
            table_console().print(self._table)


def _compare(
    modes: Sequence[str],
    seconds: float,
    backend: str,
    directory: Path | None,
    report: _Report,
) -> None:
    with ExitStack() as stack:
        clusters = {
            mode: stack.enter_context(_private_cluster(mode, 1, directory)) for mode in modes
        }
        compare_modes(
            {mode: cluster.endpoint for mode, cluster in clusters.items()},
            depths=COMPARED_IN_FLIGHT,
            seconds=seconds,
            backend=backend,
            report=report.add,
        )


def _measure(
    mode: str, memory_nodes: int, seconds: float, backend: str, directory: Path | None
) -> Iterator[Figures]:
    with _private_cluster(mode, memory_nodes, directory) as cluster, _echo() as echo:
        with connect_blocking(cluster.endpoint) as connection:
            ours, theirs = measure_round_trips(
                connection, echo, memory_nodes=memory_nodes, seconds=seconds
            )
        echo_p50_us = theirs.percentile_us(50)
        yield Figures(
            mode=mode,
            memory_nodes=memory_nodes,
            in_flight=1,
            batch=1,
            minitransactions_per_s=round(1 / ours.mean),
            p50_us=ours.percentile_us(50),
            p99_us=ours.percentile_us(99),
            echo_p50_us=echo_p50_us,
        )
        shapes = [(SINGLY_IN_FLIGHT, 1), *((BATCHES_IN_FLIGHT * size, size) for size in BATCHES)]
        for in_flight, batch in shapes:
            rate, latencies = measure_throughput(
                cluster.endpoint,
                memory_nodes=memory_nodes,
                in_flight=in_flight,
                batch=batch,
                seconds=seconds,
                backend=backend,
            )
            yield Figures(
                mode=mode,
                memory_nodes=memory_nodes,
                in_flight=in_flight,
                batch=batch,
                minitransactions_per_s=round(rate),
                p50_us=latencies.percentile_us(50),
                p99_us=latencies.percentile_us(99),
                echo_p50_us=echo_p50_us,
            )


@contextmanager
def _private_cluster(
    mode: str, memory_nodes: int, directory: Path | None
) -> Iterator[LocalCluster]:
    with tempfile.TemporaryDirectory(prefix="sinfonia-bench-", dir=directory) as temporary:
        replicas = 1 if is_replicated(mode) else 0
        cluster = LocalCluster.create(
            Path(temporary) / "cluster",
            memory_nodes=memory_nodes,
            mode=mode,
            capacity=CAPACITY,
            replicas=replicas,
            ports=free_ports(ports_needed(memory_nodes, replicas)),
        )
        with cluster:
            cluster.start()
            yield cluster


@contextmanager
def _echo() -> Iterator[EchoClient]:
    request_bytes, reply_bytes = message_sizes()
    [port] = free_ports(1)
    endpoint = f"tcp://{LOOPBACK}:{port}"
    arguments = ["-m", "sinfonia.cli.echo", endpoint, str(reply_bytes)]
    process = spawn_detached(arguments, log_file=Path(os.devnull))
    client = EchoClient(endpoint, request_bytes)
    try:
        yield client
    finally:
        client.close()
        end([process], patience=STOP_PATIENCE)
