"""Commands as a user meets them: what they print, how they exit, and that they leave nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner

from sinfonia.cli.arguments import (
    hex_dump,
    parse_addition,
    parse_check,
    parse_extent,
    parse_place,
)
from sinfonia.cli.main import main
from sinfonia.cli.status_tables import MEMORY_NODE_COLUMNS, PROCESS_COLUMNS
from sinfonia.config import CONFIG_FILE
from sinfonia.figures.tables import tables_of
from sinfonia.operating.local_cluster import LocalCluster, free_ports
from sinfonia.operating.local_description import write_description
from sinfonia.operating.processes import ProcessIdentity
from sinfonia.rings import RingHeader
from sinfonia.testing.movable_cluster import MovableCluster
from sinfonia.testing.plugin import ClusterFactory

pytestmark = pytest.mark.network

DEADLINE = 60.0
COMMAND = [sys.executable, "-m", "sinfonia.cli.main"]


def run(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {k: v for k, v in os.environ.items() if k != "SINFONIA_CLUSTER"}
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        cwd=cwd,
        env=environment,
    )


def succeeds(*arguments: str, cwd: Path | None = None) -> str:
    done = run(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fails(*arguments: str, exit_code: int = 1, cwd: Path | None = None) -> str:
    """The last line on standard error; there is never a traceback."""
    done = run(*arguments, cwd=cwd)
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    if exit_code == 1:
        assert done.stderr.count("\n") == 1
    return last


@pytest.fixture(scope="module")
def cluster(shared_cluster_factory: ClusterFactory) -> LocalCluster:
    return shared_cluster_factory(memory_nodes=2)


@pytest.fixture
def name(cluster: LocalCluster) -> str:
    """The cluster as a user would name it."""
    return str(cluster.directory)


# --- up, down, status ----------------------------------------------------------------------------


def test_a_day_in_the_life_of_a_cluster(tmp_path: Path) -> None:
    ports = free_ports(1)
    succeeds("up", "demo", "--memory-nodes", "2", "--port", str(ports[0]), cwd=tmp_path)
    cluster = LocalCluster(tmp_path / "demo")
    try:
        assert set(cluster.running) == {"manager", "node0", "node1"}
        succeeds("put", "demo", "0:100", "text:kept", cwd=tmp_path)
        cluster.kill("node0")
        listing = run("status", "demo", cwd=tmp_path)
        assert listing.returncode == 1
        assert "node0    down" in listing.stdout
        again = succeeds("up", "demo", cwd=tmp_path)
        assert "Started: node0.\nRan already: manager, node1.\n" in again
        assert "was up already" in succeeds("up", "demo", cwd=tmp_path)
        assert "manager, node0, node1 ended" in succeeds("down", "demo", cwd=tmp_path)
        assert "was not running" in succeeds("down", "demo", cwd=tmp_path)
        said = json.loads(succeeds("up", "demo", "--json", cwd=tmp_path))
        assert (said["started"], said["ran_already"]) == (["manager", "node0", "node1"], [])
        assert succeeds("get", "demo", "0:100+4", cwd=tmp_path) == "text:kept\n"
    finally:
        cluster.stop()
    assert cluster.running == {}


def test_status_is_for_scripts_too(cluster: LocalCluster, name: str) -> None:
    found = json.loads(succeeds("status", name, "--json"))
    assert found["healthy"] is True
    states = {process["name"]: process["state"] for process in found["processes"]}
    assert states == {"manager": "serving", "node0": "serving", "node1": "serving"}
    pids = {process["name"]: process["pid"] for process in found["processes"]}
    assert pids == {each: process.pid for each, process in cluster.running.items()}


def test_status_from_afar_asks_any_process(cluster: LocalCluster) -> None:
    by_manager = json.loads(succeeds("status", cluster.endpoint, "--json"))
    by_node = json.loads(succeeds("status", cluster.endpoints["node1"], "--json"))
    for found in (by_manager, by_node):
        assert [each["name"] for each in found["processes"]] == ["manager", "node0", "node1"]
        assert [each["primary"] for each in found["memory_nodes"]] == [
            cluster.endpoints["node0"],
            cluster.endpoints["node1"],
        ]


def test_up_does_not_change_a_cluster(cluster: LocalCluster, name: str) -> None:
    del cluster
    assert "--memory-nodes 3: the cluster in" in fails("up", name, "--memory-nodes", "3")
    assert "was made with LOG" in fails("up", name, "--mode", "RAM")


def test_up_on_taken_ports_starts_nothing(cluster: LocalCluster, tmp_path: Path) -> None:
    taken = cluster.endpoint.rpartition(":")[2]
    complaint = fails("up", "other", "--port", taken, cwd=tmp_path)
    assert f"{cluster.endpoint} is in use by cluster '{cluster.config.cluster}'" in complaint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["other", "the same"])
def test_up_starts_nothing_while_another_cluster_holds_its_ports(
    cluster: LocalCluster, tmp_path: Path, name: str
) -> None:
    """The directory's own manager could have started: its port is free."""
    config = cluster.config
    [free] = free_ports(1)
    manager = msgspec.structs.replace(config.manager[0], endpoint=f"tcp://127.0.0.1:{free}")
    called = config.cluster if name == "the same" else name
    rival = msgspec.structs.replace(config, cluster=called, manager=[manager])
    write_description(rival, tmp_path)
    complaint = fails("up", str(tmp_path))
    place = cluster.endpoints["node0"]
    if name == "the same":
        assert f"{place} is in use by a cluster that is called {called!r}, too" in complaint
    else:
        assert f"{place} is in use by cluster {config.cluster!r}, not by 'other'" in complaint
    assert not (tmp_path / "log").exists()


def test_up_in_a_directory_of_something_else_leaves_it_alone(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear", "utf-8")
    assert "is not empty and holds no cluster" in fails("up", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["letter"]


def test_an_interrupted_up_leaves_nothing_running(cluster_factory: ClusterFactory) -> None:
    """The memory node looks for its manager where it is not, so that `up` waits."""
    cluster = cluster_factory(started=False)
    [elsewhere] = free_ports(1)
    description = cluster.directory / CONFIG_FILE
    wrong = description.read_text("utf-8").replace(
        f'endpoint = "{cluster.endpoint}"',
        f'endpoint = "tcp://127.0.0.1:{elsewhere}"\nlisten = "{cluster.endpoint}"',
    )
    description.write_text(wrong, "utf-8")
    with subprocess.Popen([*COMMAND, "up", str(cluster.directory)], stderr=subprocess.PIPE) as up:
        try:
            until(lambda: len(cluster.running) == 2)
            assert _interrupted(up) != 0
        finally:
            up.kill()
    assert cluster.running == {}


def _interrupted(process: "subprocess.Popen[bytes]") -> int:
    """Its exit code; like a person, press again if nothing happens.

    Python drops an interrupt that falls into a destructor.
    """
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return process.wait(DEADLINE / 3)
    process.send_signal(signal.SIGINT)
    return process.wait(DEADLINE / 3)


def test_top_shows_one_sample_whatever_is_down(cluster_factory: ClusterFactory) -> None:
    cluster = cluster_factory(memory_nodes=2)
    name = str(cluster.directory)
    cluster.kill("node1")
    sample = json.loads(succeeds("top", name, "--once", "--json", "--interval", "0.2"))
    first, second = sample["memory_nodes"]
    assert set(first["rates"]) >= {"minitransactions", "records", "logged_bytes", "syncs"}
    assert (second["rates"], second["serving"]) == ({}, False)
    assert "node1 is down" in sample["problems"]
    shown = succeeds("top", name, "--once", "--interval", "0.2")
    assert "MTX/s" in shown
    assert "! node1 is down" in shown


def test_down_does_not_touch_a_recycled_pid(cluster_factory: ClusterFactory) -> None:
    cluster = cluster_factory(started=False)
    with subprocess.Popen(["sleep", "60"]) as bystander:
        try:
            identity = ProcessIdentity.of(bystander.pid)
            assert identity is not None
            (cluster.directory / "run").mkdir()
            pid_file = cluster.directory / "run" / "node0.pid"
            ProcessIdentity(identity.pid, identity.start_time - 1).write(pid_file)
            assert "was not running" in succeeds("down", str(cluster.directory))
            assert identity.running
        finally:
            bystander.kill()


def test_down_where_there_is_no_cluster_says_so(tmp_path: Path) -> None:
    assert "there is no cluster at" in fails("down", str(tmp_path))
    assert "there is no cluster at cluster" in fails("status", cwd=tmp_path)


# --- get, put, exec ------------------------------------------------------------------------------


def test_what_is_put_can_be_got(name: str, tmp_path: Path) -> None:
    assert succeeds("put", name, "1:64", "hex:00ff") == "2 bytes written at 1:64\n"
    assert succeeds("get", name, "1:64+2") == "hex:00ff\n"
    (tmp_path / "value").write_bytes(b"from a file")
    succeeds("put", name, "1:64", f"file:{tmp_path / 'value'}")
    assert succeeds("get", name, "1:64+11", "--raw") == "from a file"


def test_put_is_for_scripts_too(name: str) -> None:
    written = json.loads(succeeds("put", name, "1:2KiB", "text:x", "--json"))
    assert written == {"node": 1, "address": 2048, "bytes": 1}
    assert succeeds("get", name, "1:2KiB+1") == succeeds("get", name, "1:2048+1") == "text:x\n"


def test_addresses_take_units() -> None:
    assert parse_place("0:1GiB") == (0, 1 << 30)
    assert parse_extent("0:1GiB+5") == (0, 1 << 30, 5)
    assert parse_extent("3:0+4KiB") == (3, 0, 4096)
    assert parse_check("0:1MiB/4>=5").address == 1 << 20
    assert parse_addition("0:1TiB=-1").address == 1 << 40
    for wrong in ("0:1GB+5", "0:-1+5", "0:1 KiB+5", "0:KiB+5"):
        with pytest.raises(click.BadParameter, match="write NODE:OFFSET"):
            parse_extent(wrong)


def test_get_shows_a_hex_dump_on_a_terminal(name: str) -> None:
    succeeds("put", name, "1:96", "text:sixteen letters, and 5")
    ours, theirs = os.openpty()
    try:
        command = [*COMMAND, "get", name, "1:96+23"]
        subprocess.run(command, stdout=theirs, timeout=DEADLINE, check=True)
        shown = os.read(ours, 4096).decode().splitlines()
    finally:
        os.close(ours)
        os.close(theirs)
    assert shown == [
        "000000000060  73 69 78 74 65 65 6e 20 6c 65 74 74 65 72 73 2c  |sixteen letters,|",
        "000000000070  20 61 6e 64 20 35 00                             | and 5.|",
        "000000000077",
    ]


def test_a_hex_dump_shows_equal_lines_once() -> None:
    lines = list(hex_dump(16, bytes(64) + b"x" + bytes(32)))
    assert [line.partition(" ")[0] for line in lines] == [
        *("000000000010", "*", "000000000050", "000000000060", "000000000070", "000000000071"),
    ]
    assert list(hex_dump(5, b"")) == ["000000000005"]


def test_exec_shows_reads_and_failed_compares(name: str) -> None:
    succeeds("put", name, "0:0", "text:hello")
    arguments = ["exec", name, "--compare", "0:0=text:hello", "--read", "0:0+5"]
    arguments += ["--write", "0:0=text:HELLO", "--write", "1:0=hex:01"]
    assert succeeds(*arguments) == "committed\nread 0:0+5 = text:hello\n"
    again = run(*arguments, "--json")
    assert again.returncode == 3
    assert json.loads(again.stdout)["failed_compares"] == [
        {
            "node": 0,
            "address": 0,
            "relation": "==",
            "expected_hex": b"hello".hex(),
            "found_hex": b"HELLO".hex(),
        }
    ]
    assert "found text:HELLO" in run(*arguments).stdout


def test_exec_checks_adds_and_appends(name: str) -> None:
    ring = RingHeader(slot_bytes=64, slots=1)
    succeeds("put", name, "1:4096", f"hex:{ring.encode().hex()}")
    succeeds("put", name, "0:512", "hex:0a00000000000000")
    arguments = ["exec", name, "--check", "0:512>=10", "--add", "0:512=-10", "--add", "1:512/4=+10"]
    arguments += ["--append", "1:4096=text:moved"]
    assert succeeds(*arguments, "--tag", "moves").splitlines() == [
        "committed",
        "add 0:512 was 10",
        "add 1:512 was 0",
        "append 1:4096 at position 0",
    ]
    arguments = arguments[:-2]  # the ring is full now, and might refuse first
    again = run(*arguments)
    assert again.returncode == 3
    assert again.stdout.splitlines() == [
        "not committed: a check did not hold",
        "check 0:512>=10 does not hold, found 0",
    ]
    [failed] = json.loads(run(*arguments, "--json").stdout)["failed_compares"]
    assert (failed["relation"], failed["found_hex"]) == (">=", bytes(8).hex())
    full = run("exec", name, "--append", "1:4096=text:x", "--lock-wait", "5", "--json")
    assert full.returncode == 3
    assert json.loads(full.stdout)["full_rings"] == [0]
    assert "ring full" in run("exec", name, "--append", "1:4096=text:x").stdout


def test_a_ring_is_made_once_and_appended_to(name: str) -> None:
    arguments = ["ring", "create", name, "0:1MiB", "--slots", "2", "--slot-bytes", "64"]
    assert succeeds(*arguments) == (
        "A ring of 2 records of up to 48 bytes is at 0:1048576; it ends before 0:1048736.\n"
    )
    append = ["exec", name, "--append", "0:1MiB=text:first"]
    assert succeeds(*append).splitlines()[1] == "append 0:1048576 at position 0"
    found = json.loads(succeeds(*arguments, "--json"))
    assert (found["payload_bytes_max"], found["bytes"]) == (48, 160)
    assert succeeds(*append).splitlines()[1] == "append 0:1048576 at position 1"
    assert "ring of 2 slots" in fails(*arguments[:-1], "128")
    end = ["ring", "create", name, "0:1073741760", "--slots", "1", "--slot-bytes", "64"]
    assert "the ring would end at 1073741856, and memory node 0 at 1073741824" in fails(*end)
    assert "there is no memory node 9" in fails("ring", "create", name, "9:0", *arguments[4:])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands(shell: str) -> None:
    assert "_SINFONIA_COMPLETE" in succeeds("completion", shell)
    environment = os.environ | {"_SINFONIA_COMPLETE": f"{shell}_complete"}
    words = {"COMP_WORDS": "sinfonia add", "COMP_CWORD": "add" if shell == "fish" else "1"}
    sinfonia = Path(sys.executable).parent / "sinfonia"
    done = subprocess.run(
        [sinfonia],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
        env=environment | words,
    )
    assert "add-memnode" in done.stdout


def test_exec_says_when_the_outcome_is_unknown() -> None:
    with MovableCluster() as cluster:
        cluster.silence(0)
        arguments = ["exec", cluster.endpoint, "--write", "0:0=hex:00", "--timeout", "0.5"]
        assert "ask for its outcome" in fails(*arguments, exit_code=4)
        unknown = run(*arguments, "--json")
        assert unknown.returncode == 4
        assert json.loads(unknown.stdout)["outcome"] == "unknown"


def test_exec_says_when_nothing_was_executed(cluster_factory: ClusterFactory) -> None:
    cluster = cluster_factory(memory_nodes=2)
    cluster.kill("node1")
    arguments = ["exec", str(cluster.directory), "--write", "1:0=hex:00", "--timeout", "0.3"]
    assert "memory node 1 could not be reached" in fails(*arguments)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "complaint"),
    [
        (["put", "NAME", "0:4294967296", "hex:00"], 1, "memory node 0 has 1073741824 bytes"),
        (["put", "NAME", "7:0", "hex:00"], 1, "there is no memory node 7; the cluster has 0, 1"),
        (["put", "NAME", "0:0", "file:/dev/null/x"], 2, "cannot read /dev/null/x"),
        (["put", "NAME", "0:0", "hello"], 2, "write text:hello, hex:00ff or file:PATH"),
        (["put", "NAME", "0:0", "hex:0g"], 2, "is not hexadecimal"),
        (["get", "NAME", "0:0"], 2, "write NODE:OFFSET+LENGTH"),
        (["get", "NAME", "0:0+16777217"], 1, "at most 16777216 bytes"),
        (["get", "tcp://127.0.0.1", "0:0+1", "--timeout", "0"], 2, "--timeout"),
        (["exec", "NAME"], 2, "nothing to execute; give --compare"),
        (["exec", "NAME", "--compare", "0:0"], 2, "has no value; write NODE:OFFSET=VALUE"),
        (["exec", "NAME", "--check", "0:0=5"], 2, "as '0:8>=5'"),
        (["exec", "NAME", "--check", "0:0/3>5"], 1, "a width of 3; it may be 1, 2, 4, 8"),
        (["exec", "NAME", "--add", "0:0+5"], 2, "as 0:8=+1"),
        (["exec", "NAME", "--append", "0:0=text:x"], 1, "no ring"),
        (["recreate", "NAME", "9", "--yes"], 1, "there is no memory node 9"),
        (["backup", "NAME"], 2, "is a cluster; DEST is a directory for the backup"),
        (["backup", "x", "NAME"], 2, "is a cluster; DEST is a directory for the backup"),
        (["backup", "x", "CONFIG"], 2, "is a cluster; DEST is a directory for the backup"),
        (["backup", "NAME", "tcp://127.0.0.1:7000"], 2, "is a cluster; DEST is a directory"),
        (["backup", "NAME", "127.0.0.1:7000"], 2, "is a cluster; DEST is a directory"),
        (["backup", "--incremental", "x", "NAME"], 2, "is a cluster; DEST is a directory"),
        (["restore", "NAME", "x"], 2, "is a cluster; SOURCE is a backup"),
        (["restore", "x", "NAME"], 2, "is a cluster; DIR is a new directory"),
        (["restore", "x", "tcp://127.0.0.1:7000"], 2, "is a cluster; DIR is a new directory"),
        (["backup", "x"], 1, "there is no cluster at cluster"),
        (["down", "tcp://127.0.0.1:7000"], 2, "takes no address"),
        (["up", "tcp://127.0.0.1:7000"], 2, "takes no address"),
        (["get", "nothing", "0:0+1", "--timeout", "0.1"], 1, "no directory 'nothing' here"),
        (["up", "x", "--capacity", "1GB"], 2, "'1GB' is not a size"),
        (["up", "x", "--port", "65535"], 1, "they end at 65535"),
        (["memnode", "--node", "0"], 2, "--listen is missing; give it, or --config FILE"),
        (["manager", "--config", "/none", "--listen", "x"], 2, "cannot be given with --config"),
        (["manager", "--config", "/none"], 1, "cannot read /none: No such file or directory"),
        (["manager", "--config", "CONFIG", "--number", "1"], 1, "--number 1 is none of them"),
        (["memnode", "--config", "CONFIG", "--node", "0", "--replica", "1"], 1, "has 0 replicas"),
        (["memnode", "--node", "0", "--replica", "1", "--listen", "x"], 2, "--manager is missing"),
        (["up", "x", "--replicas", "1"], 1, "mode LOG keeps no replicas; choose mode LOG-REPL"),
        (["up", "x", "--managers", "3"], 1, "3 managers need etcd to agree"),
        (["up", "x", "--mode", "FAST"], 2, "is not one of"),
        (["up", "NAME", "--replicas", "1"], 1, "was made with 0"),
        (["up", "NAME", "--etcd", "http://a:1"], 1, "was made with no etcd"),
        (["replica", "add", "NAME", "0"], 1, "mode LOG, which keeps no replicas"),
        (["replica", "add", "NAME", "0", "--to", "x"], 2, "cannot be given for a cluster on this"),
        (["replica", "remove", "NAME", "0", "node9"], 1, "there is no process 'node9' here"),
        (["replica", "promote", "NAME", "5", "node0"], 1, "there is no memory node 5"),
        (["drain", "NAME", "127.0.0.1"], 1, "memory nodes 0, 1 are in mode LOG, which keeps no"),
        (["add-memnode", "NAME", "--replicas", "1"], 1, "mode LOG keeps no replicas"),
        (["top", "NAME", "--json"], 2, "give --once, too"),
        (["log", "/"], 1, "/ is not the data directory of a memory node"),
    ],
)
def test_a_mistake_gets_one_clear_error(
    name: str, tmp_path: Path, arguments: list[str], exit_code: int, complaint: str
) -> None:
    places = {"NAME": name, "CONFIG": str(Path(name) / CONFIG_FILE)}
    filled = [places.get(argument, argument) for argument in arguments]
    assert complaint in fails(*filled, exit_code=exit_code, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_that_is_down_says_how_to_start_it(cluster_factory: ClusterFactory) -> None:
    cluster = cluster_factory(memory_nodes=1)
    cluster.stop()
    name = str(cluster.directory)
    for command in (["get", name, "0:0+1", "--timeout", "0.1"], ["load", name]):
        assert fails(*command) == (
            f"Error: the cluster in {name} is not running; start it: sinfonia up {name}"
        )


def test_a_value_over_the_limit_is_refused(name: str, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as large:
        large.truncate(16 * 1024 * 1024 + 1)
    assert "at most 16777216 bytes" in fails("put", name, "0:0", f"file:{tmp_path / 'large'}")


# --- processes and logs --------------------------------------------------------------------------


def test_a_typo_in_the_description_stops_a_process(name: str, tmp_path: Path) -> None:
    description = tmp_path / CONFIG_FILE
    text = (Path(name) / CONFIG_FILE).read_text("utf-8").replace("capacity", "capasity")
    description.write_text(text, "utf-8")
    complaint = fails("memnode", "--config", str(description), "--node", "0")
    assert f"{description}: memory_node[0].capasity: unknown; did you mean 'capacity'?" in complaint


def test_a_memory_node_tells_where_it_is_reached(cluster: LocalCluster, tmp_path: Path) -> None:
    wildcard = ["memnode", "--node", "5", "--listen", "tcp://0.0.0.0:7001"]
    wildcard += ["--manager", cluster.endpoint, "--data-directory", str(tmp_path / "n")]
    assert "--advertise must say where it is" in fails(*wildcard)


def test_the_log_shows_every_record(cluster_factory: ClusterFactory) -> None:
    cluster = cluster_factory(memory_nodes=2)
    name, data = str(cluster.directory), str(cluster.directory / "node0")
    succeeds("put", name, "0:0", "text:one phase")
    succeeds("exec", name, "--write", "0:64=text:two", "--write", "1:64=text:phases")
    assert "is in use by process" in fails("log", data)
    cluster.stop()
    lines = [json.loads(line) for line in succeeds("log", data, "--json").splitlines()]
    lines = [line for line in lines if line["kind"] != "Stamp"]
    assert [line["kind"] for line in lines[:3]] == ["OnePhase", "Prepared", "Decided"]
    assert lines[0]["writes"] == [{"address": 0, "data": b"one phase".hex()}]
    assert lines[1]["participants"] == [0, 1]
    assert [line["lsn"] for line in lines] == sorted(line["lsn"] for line in lines)
    assert "64=text:two" in succeeds("log", data)
    summary: dict[str, Any] = json.loads(succeeds("log", data, "--summary", "--json"))
    assert (summary["node"], summary["bytes_written"]) == (0, len(b"one phase" + b"two"))
    assert "1 OnePhase" in succeeds("log", data, "--summary")


def help_of(*command: str) -> str:
    """What a command says of itself; in this process, because there are many of them."""
    done = CliRunner().invoke(main, [*command, "--help"])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_command_explains_itself() -> None:
    listing = succeeds("--help")
    sections = ["Data:", "Cluster:", "Operate:", "Daemons:", "Measure:", "Shell:"]
    lines = [line for line in listing.partition("Data:\n")[2].splitlines() if line]
    commands = [line.split()[0] for line in lines if line not in sections]
    assert {"up", "down", "status", "top", "replica", "add-memnode", "drain"} <= set(commands)
    assert [line for line in listing.splitlines() if line in sections] == sections
    for command in commands:
        assert len(help_of(command).splitlines()) > 5


def test_the_help_of_status_explains_each_column() -> None:
    said = help_of("status")
    figures = [row.column for table in tables_of("core") for row in table.rows if row.column]
    for column in (*PROCESS_COLUMNS, *MEMORY_NODE_COLUMNS, *figures):
        assert f"    {column}  " in said


def test_no_summary_of_a_command_is_cut_off() -> None:
    for command in ((), ("replica",), ("rebuild-manager",), ("ring",)):
        assert "..." not in help_of(*command).partition("--help ")[2]


def test_a_process_of_a_cluster_imports_no_other_command() -> None:
    """The modules of all commands would take most of the time in which a process starts."""
    program = (
        "import sys, sinfonia.cli.main as m; m.main(['memnode', '--help'], standalone_mode=False)"
    )
    asked = f"{program}; print(*(name for name in sys.modules if name.startswith('sinfonia.')))"
    done = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    imported = done.stdout.splitlines()[-1].split()
    assert "sinfonia.cli.memnode_command" in imported
    others = {"sinfonia.operating.local_cluster", "sinfonia.backup.copier", "sinfonia.structures"}
    assert others.isdisjoint(imported), others.intersection(imported)


def until(condition: Callable[[], bool]) -> None:
    """Wait for another process to get so far."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
