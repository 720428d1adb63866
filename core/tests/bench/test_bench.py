"""`sinfonia bench` measures real processes and leaves nothing behind.  No test looks at a time."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from sinfonia.cli.bench_commands import bench
from sinfonia.operating.measuring.benchmark import Builder, Latencies, message_sizes
from sinfonia.testing.model import ModelCluster

DEADLINE = 60.0
SCRIPTS = Path(__file__).parents[2] / "bench"
FIELDS = {
    "mode",
    "memory_nodes",
    "in_flight",
    "batch",
    "minitransactions_per_s",
    "p50_us",
    "p99_us",
    "echo_p50_us",
}


def command(directory: Path, *arguments: str) -> list[str]:
    options = ["--seconds", "0.1", "--directory", str(directory), *arguments]
    return [sys.executable, "-m", "sinfonia.cli.main", "bench", *options]


@pytest.mark.network
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_every_shape_is_measured_and_nothing_is_left(tmp_path: Path, backend: str) -> None:
    arguments = command(tmp_path, "--json", "--backend", backend)
    done = subprocess.run(arguments, capture_output=True, timeout=DEADLINE, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(set(line) == FIELDS for line in lines)
    shapes = [(line["in_flight"], line["batch"]) for line in lines]
    assert shapes == [(1, 1), (64, 1), (256, 16), (1024, 64)] * 4
    assert [(line["mode"], line["memory_nodes"]) for line in lines[::4]] == [
        ("RAM", 1),
        ("RAM", 2),
        ("LOG", 1),
        ("LOG", 2),
    ]
    assert all(0 < line["p50_us"] <= line["p99_us"] for line in lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.network
def test_modes_are_compared_at_each_depth(tmp_path: Path) -> None:
    modes = ["--compare-modes", "--mode", "RAM", "--mode", "LOG-REPL"]
    arguments = command(tmp_path, "--json", *modes)
    done = subprocess.run(arguments, capture_output=True, timeout=DEADLINE, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    depths = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert [(line["in_flight"], line["mode"]) for line in lines] == [
        (depth, mode) for depth in depths for mode in ("RAM", "LOG-REPL")
    ]
    assert all(0 < line["p50_us"] <= line["p99_us"] for line in lines)
    assert all(line["minitransactions_per_s"] > 0 for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_modes_are_compared_on_one_memory_node_only() -> None:
    refused = CliRunner().invoke(bench, ["--compare-modes", "--memory-nodes", "2"])
    assert refused.exit_code == 2
    assert "leave --memory-nodes out" in refused.output


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments", "shapes"),
    [
        ("fail_over", ["--trials", "1"], [{"mode": "LOG-REPL", "trials": 1, "failed_calls": 0}]),
        ("catch_up", ["--mib", "160"], [{"way": "log"}, {"way": "image"}]),
        (
            "stalls",
            ["--seconds", "0.2", "--turns", "1"],
            [{"checkpoints": "with"}, {"checkpoints": "without", "made": 0}],
        ),
        ("restart", ["--scale", "0.01"], [{"write_bytes": n} for n in (64, 1024, 65536)]),
    ],
)
def test_disturbances_are_measured_and_nothing_is_left(
    tmp_path: Path, script: str, arguments: list[str], shapes: list[dict[str, object]]
) -> None:
    program = [sys.executable, str(SCRIPTS / f"{script}.py"), "--directory", str(tmp_path)]
    done = subprocess.run([*program, *arguments], capture_output=True, timeout=DEADLINE, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [
        {key: line[key] for key in shape} for line, shape in zip(lines, shapes, strict=True)
    ] == shapes
    assert list(tmp_path.iterdir()) == []


@pytest.mark.network
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_bench_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    arguments = command(tmp_path, "--json", "--seconds", "60", "--mode", "RAM")
    with subprocess.Popen(
        [*arguments[:4], *arguments[4:], "--seconds", "0.1"], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()  # it is at work
            process.send_signal(number)
            assert process.wait(DEADLINE) != 0
        finally:
            process.kill()
    assert list(tmp_path.iterdir()) == []


def test_minitransactions_in_flight_do_not_want_each_others_bytes() -> None:
    cluster = ModelCluster(memory_nodes=2)
    builder = Builder(memory_nodes=2)
    touched: set[tuple[int, int]] = set()
    for minitransaction in builder.batch(cluster, 2000):
        for node, items in minitransaction.items.items():
            ranges = [(item.address, len(item.data)) for item in items.writes]
            ranges += [(item.address, len(item.expected)) for item in items.compares]
            ranges += [(item.address, item.length) for item in items.reads]
            bytes_of = {(node, byte) for at, length in ranges for byte in range(at, at + length)}
            assert not bytes_of & touched
            touched |= bytes_of


def test_percentiles_are_of_what_was_added() -> None:
    latencies = Latencies()
    for microseconds in range(100, 0, -1):
        latencies.add(microseconds / 1e6)
    assert (latencies.percentile_us(50), latencies.percentile_us(99)) == (51.0, 100.0)
    assert round(latencies.mean * 1e6, 1) == 50.5


def test_the_echo_carries_as_much_as_a_minitransaction() -> None:
    request_bytes, reply_bytes = message_sizes()
    assert 40 < reply_bytes < request_bytes < 120
