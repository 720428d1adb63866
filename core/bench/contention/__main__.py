"""``python -m bench.contention``: many clients that want the same bytes."""

from pathlib import Path

import click

from bench.contention import figure_16, hot_counter
from bench.standalone import directory_option, json_option, run
from sinfonia.memnode.settings import MODES
from sinfonia.operating.measuring.stage import (
    Report,
    private_cluster,
    spare_the_collector,
)

DEFAULT_SECONDS = 1.5
DEFAULT_MODE = "LOG"  # the paper's


@click.command()
@click.option("--lock-wait", is_flag=True, help="16 clients on one counter instead.")
@click.option(
    "--mode", type=click.Choice(MODES), default=DEFAULT_MODE, show_default=True, help="Of memory."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=DEFAULT_SECONDS,
    show_default=True,
    help="For each measurement, all its turns together.",
)
@directory_option
@json_option
def contention(
    *, lock_wait: bool, mode: str, seconds: float, directory: Path | None, as_json: bool
) -> None:
    """Minitransactions that want the same bytes, as in Figure 16 of the Sinfonia paper.

    4 memory nodes, 4 clients with 16 minitransactions under way each; a minitransaction changes 8
    items at two memory nodes, and two of them meet with a probability of .002 to .061.  In turns:
    compare-and-swap; increments by optimistic retry, as in the paper; increments by add items.

    With --lock-wait, 16 clients add to one counter, and a share of them holds its lock for a
    round, to add elsewhere too; with and without waiting for locks at the memory node.

    The counters are summed at the end; if they do not hold what was added, that is an error.

    \b
    With --json, one object a line: items, collisions (their probability), way, per_s,
    p50_us, p99_us, retries, failed, to_cas (low, high), sum_exact; with --lock-wait
    two_node_share, lock_wait_ms, per_s (low, high), p50_us, p99_us, longest_us,
    retries, sum_exact.
    """
    spare_the_collector()
    measured = hot_counter if lock_wait else figure_16
    with (
        private_cluster(
            mode, measured.MEMORY_NODES, directory, capacity=measured.CAPACITY
        ) as cluster,
        Report(as_json=as_json) as report,
    ):
        if lock_wait:
            hot_counter.measure_hot_counter(cluster.endpoint, seconds=seconds, report=report.add)
        else:
            figure_16.measure_contention(cluster.endpoint, seconds=seconds, report=report.add)


if __name__ == "__main__":
    run(contention)
