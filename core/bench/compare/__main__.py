"""``python -m bench.compare``: beside Redis, etcd and a bare echo, and what a memory node holds."""

from pathlib import Path

import click

from bench.compare.comparison import compare_throughput
from bench.compare.depth_one import compare_round_trips
from bench.compare.memory_figures import STORED_BYTES, measure_memory
from bench.standalone import directory_option, json_option, run
from sinfonia.operating.measuring.stage import Report, spare_the_collector

DEFAULT_SECONDS = 2.5

# What is stored to see how memory grows, in a run that is too short to be believed.
SHORT = 0.5
STORED_BYTES_SHORT = 2_000_000


@click.command()
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=DEFAULT_SECONDS,
    show_default=True,
    help="For each contestant, all its turns together.",
)
@directory_option
@json_option
def compare(*, seconds: float, directory: Path | None, as_json: bool) -> None:
    """Sinfonia beside Redis, etcd and a bare ZeroMQ echo, on this machine.

    The work is the same for all: 3 compares, 3 reads and 3 writes of 8 bytes, as one atomic step;
    an EVALSHA in Redis, a Txn in etcd.  Redis and etcd are started for this run, on loopback, and
    are gone afterwards; Debian's packages are redis-server, redis-tools and etcd-server.

    Redis is driven by redis-benchmark, 64 connections with 1 or 32 steps under way on each; etcd by
    64 prepared gRPC calls at a time; Sinfonia by its async client, singly (64 callers) and
    pipelined (64 tasks of 32 each).  Its minitransactions are prepared, as redis-benchmark prepares
    what it sends, or built anew each time, as an application would.  A ratio is the median over
    5 rounds in which all take turns, with the lowest and the highest.

    \b
    With --json, one object a line, by "kind":
      throughput   system, client, in_flight, per_s (low, high), p50_us, p99_us;
                   server_us and client_us: processor time for each step
      ratio        ours, theirs, client, goal, ratio, low, high, reached
      round trip   one at a time, beside the echo: client, p50_us, p99_us, ratios
      memory       of a memory node: idle_mb, kb_per_client, bytes_per_byte stored
    """
    spare_the_collector()
    with Report(as_json=as_json) as report:
        compare_throughput(seconds=seconds, directory=directory, report=report.add)
        compare_round_trips(seconds=seconds, directory=directory, report=report.add)
        stored = STORED_BYTES_SHORT if seconds < SHORT else STORED_BYTES
        measure_memory(stored=stored, directory=directory, report=report.add)


if __name__ == "__main__":
    run(compare)
