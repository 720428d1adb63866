"""`sinfonia bench`: how fast this machine is, on a private cluster that is gone afterwards."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from sinfonia.cli.arguments import json_option
from sinfonia.client.blocking import connect_blocking
from sinfonia.memnode.settings import MODES
from sinfonia.operating.measuring.benchmark import (
    BATCHES_IN_FLIGHT,
    CAPACITY,
    COMPARED_IN_FLIGHT,
    Figures,
    compare_modes,
    measure_round_trips,
    measure_throughput,
    message_sizes,
)
from sinfonia.operating.measuring.stage import (
    Report,
    private_cluster,
    running_echo,
    spare_the_collector,
)

SINGLY_IN_FLIGHT = 64
BATCHES = (16, 64)

# What the plain benchmark measures: without a disk, and with one.
PLAIN_MODES = ("RAM", "LOG")
PLAIN_SECONDS = 3.0

# For each of six modes at each of nine depths: less than a minute for all.
COMPARISON_SECONDS = 0.75

directory_option = click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory for the redo logs, on the disk to measure.  [default: a temporary one]",
)


@click.command(short_help="Measure minitransactions on this machine.")
@click.option(
    "--compare-modes",
    "side_by_side",
    is_flag=True,
    help="Measure all modes side by side, 1 to 256 in flight, on one memory node.",
)
@click.option(
    "--mode",
    "modes",
    type=click.Choice(MODES),
    multiple=True,
    help=f"Modes to measure.  [default: {' and '.join(PLAIN_MODES)}; with --compare-modes all]",
)
@click.option(
    "--memory-nodes",
    "node_counts",
    type=click.IntRange(1, 2),
    multiple=True,
    help="Memory nodes of a minitransaction: 1 (one phase) or 2 (two phases).  [default: both]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help=f"Duration of each measurement.  [default: {PLAIN_SECONDS:g}; "
    f"with --compare-modes {COMPARISON_SECONDS:g}]",
)
@click.option(
    "--backend",
    type=click.Choice(["asyncio", "trio"]),
    default="asyncio",
    show_default=True,
    help="Event loop of the concurrent clients.",
)
@directory_option
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
    spare_the_collector()
    with Report(as_json=as_json) as report:
        if side_by_side:
            _compare(modes or MODES, seconds or COMPARISON_SECONDS, backend, directory, report)
            return
        for mode in modes or PLAIN_MODES:
            for memory_nodes in node_counts or (1, 2):
                measured = _measure(
                    mode, memory_nodes, seconds or PLAIN_SECONDS, backend, directory
                )
                for figures in measured:
                    report.add(figures)


def _compare(
    modes: Sequence[str],
    seconds: float,
    backend: str,
    directory: Path | None,
    report: Report,
) -> None:
    with ExitStack() as stack:
        clusters = {
            mode: stack.enter_context(private_cluster(mode, 1, directory, capacity=CAPACITY))
            for mode in modes
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
    with (
        private_cluster(mode, memory_nodes, directory, capacity=CAPACITY) as cluster,
        running_echo(message_sizes) as echo,
    ):
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
