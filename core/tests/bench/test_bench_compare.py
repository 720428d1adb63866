"""`bench.compare` and `bench.contention` measure real processes, check what these did, and leave
nothing behind.  No test looks at a time."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.compare.comparison import Goal, ratio_of
from bench.compare.peers.etcd_load import EtcdLoad, succeeded, txn
from bench.compare.peers.http2 import Connection, call_frames, numbered
from bench.compare.peers.programs import find_programs
from bench.compare.peers.redis_server import Driven
from bench.compare.peers.work import Piece, build, message_bytes, pieces
from bench.contention.figure_16 import ITEM_COUNTS, collision_probability
from sinfonia.errors import ConfigError
from sinfonia.operating.local_cluster import LOOPBACK
from sinfonia.operating.processes import uninterrupted
from sinfonia.testing.etcd import running_etcd
from sinfonia.testing.model import ModelCluster

DEADLINE = 110.0


def measure(directory: Path, benchmark: str, *arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", f"bench.{benchmark}", *arguments]
    command += ["--seconds", "0.1", "--directory", str(directory), "--json"]
    done = subprocess.run(command, capture_output=True, timeout=DEADLINE, check=True)
    assert list(directory.iterdir()) == []
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.network
@pytest.mark.slow
def test_everything_is_compared_and_nothing_is_left(tmp_path: Path) -> None:
    lines = measure(tmp_path, "compare")
    assert Counter(line["kind"] for line in lines) == {
        "throughput": 13,
        "ratio": 12,
        "round trip": 3,
        "memory": 3,
    }
    rates = [line for line in lines if line["kind"] == "throughput"]
    systems = Counter(line["system"] for line in rates)
    assert systems == {
        "Redis": 2,
        "Redis, always synced": 2,
        "Sinfonia RAM": 4,
        "Sinfonia LOG": 4,
        "etcd": 1,
    }
    assert all(0 < line["low"] <= line["per_s"] <= line["high"] for line in rates)
    assert all(0 < line["p50_us"] <= line["p99_us"] for line in rates)
    ratios = [line for line in lines if line["kind"] == "ratio"]
    assert all(0 < line["low"] <= line["ratio"] <= line["high"] for line in ratios)
    assert all(line["reached"] is (line["ratio"] >= line["goal"]) for line in ratios)
    memory = [line for line in lines if line["kind"] == "memory"]
    assert [line["mode"] for line in memory] == ["RAM", "NVRAM", "LOG"]
    assert all(line["grown_mb"] > 0.9 * line["stored_mb"] for line in memory)


@pytest.mark.network
@pytest.mark.slow
def test_counters_hold_what_was_added_to_them_at_every_collision_probability(
    tmp_path: Path,
) -> None:
    lines = measure(tmp_path, "contention", "--mode", "RAM")
    ways = ["cas", "optimistic", "add"]
    assert [(line["items"], line["way"]) for line in lines] == [
        (items, way) for items in ITEM_COUNTS for way in ways
    ]
    assert all(line["sum_exact"] for line in lines)
    assert all(line["per_s"] > 0 for line in lines)
    assert all(line["failed"] == 0 for line in lines if line["way"] != "optimistic")


@pytest.mark.network
@pytest.mark.slow
def test_a_hot_counter_holds_what_was_added_with_and_without_waiting(tmp_path: Path) -> None:
    lines = measure(tmp_path, "contention", "--lock-wait", "--mode", "RAM")
    assert [(line["two_node_share"], line["lock_wait_ms"] > 0) for line in lines] == [
        (share, waits) for share in (0.0, 0.1, 0.5) for waits in (False, True)
    ]
    assert all(line["sum_exact"] for line in lines)
    assert all(line["retries"] == 0 for line in lines[:2]), "nobody holds the lock for a round"


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_comparison_leaves_neither_files_nor_processes(
    tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "bench.compare", "--seconds", "60"]
    with subprocess.Popen([*command, "--directory", str(tmp_path)]) as process:
        try:
            deadline = time.monotonic() + DEADLINE
            while len(_who_works_on(tmp_path, apart_from=process.pid)) < 5:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(number)
            assert process.wait(DEADLINE) != 0
        finally:
            process.kill()
    assert list(tmp_path.iterdir()) == []
    assert _who_works_on(tmp_path, apart_from=process.pid) == []


def _who_works_on(directory: Path, *, apart_from: int) -> list[tuple[str, bytes]]:
    """Processes whose arguments, or working directory, are in ``directory``."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == apart_from:
            continue
        try:
            place = (entry / "cmdline").read_bytes() + bytes((entry / "cwd").readlink())
        except OSError:
            continue
        if str(directory).encode() in place:
            found.append((entry.name, place))
    return found


# --- what needs no processes --------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_waits_until_what_was_started_is_noted(number: signal.Signals) -> None:
    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, interrupt)
    noted = []

    def start() -> None:
        with uninterrupted():
            signal.raise_signal(number)
            noted.append("what was started")

    try:
        with pytest.raises(KeyboardInterrupt):
            start()
        assert signal.getsignal(number) is interrupt
    finally:
        signal.signal(number, before)
    assert noted


def test_what_is_missing_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _name, **_: None)
    with pytest.raises(ConfigError, match=r"apt-get install etcd-server redis-tools$"):
        find_programs("etcd", "redis-benchmark")


def test_collisions_are_as_likely_as_in_the_paper() -> None:
    likely = [collision_probability(items) for items in ITEM_COUNTS]
    assert likely == pytest.approx([0.0020, 0.0039, 0.0078, 0.0155, 0.031, 0.061], rel=0.03)


def test_a_ratio_is_of_turns_of_one_round() -> None:
    def turns(*rates: float) -> list[Driven]:
        return [Driven(rate, 1.0, 1.0, 1.0, 1.0) for rate in rates]

    goal = Goal(("ours", "x"), ("theirs", "y"), 2.0)
    ratio = ratio_of(goal, {goal.ours: turns(100, 900, 50), goal.theirs: turns(50, 300, 50)})
    assert (ratio.low, ratio.ratio, ratio.high, ratio.reached) == (1.0, 2.0, 3.0, True)


def test_the_work_is_three_compares_three_reads_and_three_writes_that_always_succeed() -> None:
    cluster = ModelCluster(memory_nodes=1)
    for piece in pieces()[:100]:
        [items] = build(cluster, piece).items.values()
        assert [len(items.compares), len(items.reads), len(items.writes)] == [3, 3, 3]
        written = {item.address for item in items.writes}
        assert not written & {item.address for item in items.compares}
    request_bytes, reply_bytes = message_bytes()
    assert 100 < request_bytes < 250
    assert 40 < reply_bytes < 100


# --- etcd's protocol ----------------------------------------------------------------------------


def test_a_prepared_call_gets_the_number_of_its_stream_in_both_frames() -> None:
    call = call_frames("/path", "host:1", b"message")
    sent = numbered(call, 0x01020305)
    assert len(sent) == len(call)
    header = int.from_bytes(sent[:3], "big")
    assert sent[5:9] == sent[9 + header + 5 : 9 + header + 9] == b"\1\2\3\5"
    assert sent.endswith(b"\0\0\0\0\7message")


@pytest.mark.network
def test_etcd_does_the_work_and_says_when_a_compare_fails() -> None:
    nothing = Piece((8000,), (1,), (2,))
    with running_etcd() as etcd:
        port = int(etcd.endpoints[0].rpartition(":")[2])
        connection = Connection(LOOPBACK, port)
        try:
            call = call_frames("/etcdserverpb.KV/Txn", f"{LOOPBACK}:{port}", txn(nothing))
            [stream] = connection.send([call])
            answers = _answers(connection, 1)
            assert [number for number, _ in answers] == [stream]
            assert not succeeded(answers[0][1]), "nobody has put there what it compares with"
        finally:
            connection.close()
        load = EtcdLoad(etcd)
        try:
            driven = load.drive(in_flight=8, seconds=0.1)
        finally:
            load.close()
    assert driven.per_s > 0


def _answers(connection: Connection, number: int) -> Sequence[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    while len(found) < number:
        found += connection.answers()
    return found
