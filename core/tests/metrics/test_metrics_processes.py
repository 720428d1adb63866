"""Metrics of real processes: complete, in the eyes of Prometheus itself, and in no loop's way."""

import contextlib
import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

import sinfonia
from sinfonia.figures.figure import Figure, Role
from sinfonia.figures.manager import MANAGER as MANAGER_FIGURES
from sinfonia.figures.manager import PINNED
from sinfonia.figures.member import MEMBER as MEMBER_FIGURES
from sinfonia.metrics.exposition import CONNECTIONS_MAX
from sinfonia.metrics.table import (
    ADMISSION,
    CLIENT,
    MANAGER,
    MEMORY_NODE,
    PROCESS,
    client_collector,
)
from sinfonia.operating.local_cluster import LOOPBACK, LocalCluster, free_ports
from sinfonia.operating.local_description import with_metrics
from sinfonia.testing.real_cluster import primary_of, real_cluster, replicas_of

pytestmark = pytest.mark.network

DEADLINE = 30.0
LOOK_EVERY = 0.05
TAG = "scraped"


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with real_cluster(memory_nodes=1, mode="LOG-REPL", started=False) as cluster:
        ports = free_ports(len(cluster.config.processes))
        cluster.change(with_metrics(cluster.config, ports))
        cluster.start()
        eventually(lambda: is_shown_in_sync(cluster), "what is shown is as new as the cluster")
        yield cluster


def is_shown_in_sync(cluster: LocalCluster) -> bool:
    [replica] = replicas_of(cluster, 0)
    page = scrape(cluster, primary_of(cluster, 0))
    followed = value(scrape(cluster, replica), "sinfonia_state", state="following")
    return value(page, "sinfonia_replicas_in_sync") == followed == 1


def place_of(cluster: LocalCluster, name: str) -> str:
    """Where ``name`` answers Prometheus."""
    return next(each.metrics for each in cluster.config.processes if each.name == name)


def get(place: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(place, timeout=DEADLINE)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def scrape(cluster: LocalCluster, name: str) -> str:
    status, page = get(place_of(cluster, name), "/metrics")
    assert status == HTTPStatus.OK
    return page


def families(page: str) -> list[Family]:
    return list(text_string_to_metric_families(page))


def names(page: str) -> set[str]:
    """As the table has them: a counter's with its end."""
    suffix = {"counter": "_total"}
    return {family.name + suffix.get(family.type, "") for family in families(page)}


def value(page: str, name: str, **labels: str) -> float | None:
    """The sample of ``name`` that has these labels, among others."""
    for family in families(page):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    return None


def eventually(look: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not look():
        assert time.monotonic() < deadline, what
        time.sleep(LOOK_EVERY)


def write_tagged(cluster: LocalCluster, times: int) -> None:
    with sinfonia.connect_blocking(cluster.endpoint) as client:
        for _ in range(times):
            minitransaction = client.minitransaction(tag=TAG)
            minitransaction.write(0, 0, b"eightbyt")
            minitransaction.execute(timeout=DEADLINE)


def test_the_table_is_what_processes_show_and_nothing_else(cluster: LocalCluster) -> None:
    """A metric in the table that no process shows is a false promise; one beside it, a surprise."""
    [replica] = replicas_of(cluster, 0)
    members = names(scrape(cluster, primary_of(cluster, 0))) | names(scrape(cluster, replica))
    manager = names(scrape(cluster, "manager"))
    common = {metric.name for metric in ADMISSION + PROCESS}
    assert members == {metric.name for metric in MEMORY_NODE} | common
    assert manager == {metric.name for metric in MANAGER} | common


def test_processes_give_the_figures_that_are_listed_for_their_roles(cluster: LocalCluster) -> None:
    status = cluster.status()
    tables = {"manager": MANAGER_FIGURES, "primary": MEMBER_FIGURES, "replica": MEMBER_FIGURES}
    for process in status.processes:
        role = Role.MANAGING if process.role == "manager" else Role(process.role)
        complaints = list(tables[process.role].complaints(process.figures, role))
        assert complaints == [], process.name
    [manager] = [each for each in status.processes if each.role == "manager"]
    singles = {row.name for row in MANAGER_FIGURES.rows if isinstance(row, Figure)}
    assert singles <= set(manager.figures), "a figure of managers is listed and never given"
    assert dict(PINNED.read(manager.figures)) == {"0": 0}


def test_types_and_helps_are_those_of_the_table(cluster: LocalCluster) -> None:
    table = {metric.name.removesuffix("_total"): metric for metric in MEMORY_NODE + ADMISSION}
    for family in families(scrape(cluster, primary_of(cluster, 0))):
        if family.name in table:
            assert family.type == table[family.name].kind.value
            assert family.documentation == table[family.name].help


def test_each_member_is_in_one_state_and_has_one_role(cluster: LocalCluster) -> None:
    [replica] = replicas_of(cluster, 0)
    for name in (primary_of(cluster, 0), replica):
        for family in families(scrape(cluster, name)):
            if family.name in ("sinfonia_state", "sinfonia_role", "sinfonia_replica_phase"):
                assert sorted(sample.value for sample in family.samples)[-2:] == [0.0, 1.0]


def test_what_was_done_is_counted_by_tag(cluster: LocalCluster) -> None:
    name = primary_of(cluster, 0)
    before = value(scrape(cluster, name), "sinfonia_executed_total", tag=TAG) or 0.0
    write_tagged(cluster, 10)

    def is_counted() -> bool:
        page = scrape(cluster, name)
        return value(page, "sinfonia_executed_total", tag=TAG, node="0") == before + 10

    eventually(is_counted, "ten more minitransactions are shown")
    page = scrape(cluster, name)
    assert value(page, "sinfonia_written_bytes_total", tag=TAG) == 8 * (before + 10)
    assert (value(page, "sinfonia_log_sync_seconds_count") or 0) >= 10
    assert value(page, "sinfonia_replica_behind_records") == 0


def test_primary_and_replica_are_both_healthy(cluster: LocalCluster) -> None:
    [replica] = replicas_of(cluster, 0)
    for name, words in ((primary_of(cluster, 0), "serving"), (replica, "following")):
        assert get(place_of(cluster, name), "/healthz") == (HTTPStatus.OK, f"{words}\n")
    assert get(place_of(cluster, "manager"), "/healthz")[0] == HTTPStatus.OK


def test_a_member_that_no_manager_welcomes_is_not_healthy(tmp_path: Path) -> None:
    nowhere, here, metrics = free_ports(3)
    command = [
        *(sys.executable, "-m", "sinfonia.cli.main", "memnode", "--node", "0", "--mode", "RAM"),
        *("--listen", f"tcp://{LOOPBACK}:{here}", "--manager", f"tcp://{LOOPBACK}:{nowhere}"),
        *("--data-directory", str(tmp_path), "--capacity", "1MiB", "--metrics", str(metrics)),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:

        def says_so() -> bool:
            with contextlib.suppress(ConnectionError):
                page = get(f"{LOOPBACK}:{metrics}", "/metrics")[1]
                return value(page, "sinfonia_state", state="starting") == 1
            return False

        eventually(says_so, "it says that it is starting")
        health = get(f"{LOOPBACK}:{metrics}", "/healthz")
        assert health == (HTTPStatus.SERVICE_UNAVAILABLE, "starting\n")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0


def test_a_port_that_is_taken_stops_the_process_with_one_line(tmp_path: Path) -> None:
    """Better than to run, and be invisible to monitoring."""
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [
            *(sys.executable, "-m", "sinfonia.cli.main", "manager", "--cluster", "x"),
            *("--listen", f"tcp://{LOOPBACK}:{free_ports(1)[0]}", "--metrics", str(port)),
            *("--data-directory", str(tmp_path)),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DEADLINE, check=False
        )
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: metrics cannot be served at {LOOPBACK}:{port}")
    assert done.stderr.count("\n") == 1


def test_scrapers_that_hang_or_flood_do_not_disturb_the_node(cluster: LocalCluster) -> None:
    name = primary_of(cluster, 0)
    process = cluster.process(name)
    assert process is not None
    host, _, port = place_of(cluster, name).rpartition(":")
    over = threading.Event()
    scraped = 0

    def flood() -> None:
        nonlocal scraped
        while not over.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                scrape(cluster, name)
                scraped += 1

    def threads() -> int:
        return sum(1 for _ in Path(f"/proc/{process.pid}/task").iterdir())

    usual = threads()
    flooding = threading.Thread(target=flood)
    with contextlib.ExitStack() as stack:
        for _ in range(4 * CONNECTIONS_MAX):
            hanging = stack.enter_context(socket.create_connection((host, int(port)), DEADLINE))
            hanging.sendall(b"GET /metrics HTTP/1.1\r\n")
        flooding.start()
        try:
            write_tagged(cluster, 300)
            assert threads() <= usual + 2 * CONNECTIONS_MAX
        finally:
            over.set()
            flooding.join()
    assert scraped > 0
    eventually(lambda: threads() <= usual, "the threads of hanging scrapers are gone")


def test_an_application_shows_what_its_client_did(cluster: LocalCluster) -> None:
    registry = prometheus_client.CollectorRegistry()
    with sinfonia.connect_blocking(cluster.endpoint) as client:
        registry.register(client_collector(client))
        client.write(0, 0, b"once")
        page = prometheus_client.generate_latest(registry).decode()
    assert names(page) == {metric.name for metric in CLIENT}
    assert value(page, "sinfonia_client_executed_total") == 1


# --- Prometheus ----------------------------------------------------------------------------------


def test_promtool_has_nothing_to_say(cluster: LocalCluster) -> None:
    for name in cluster.endpoints:
        done = subprocess.run(
            ["promtool", "check", "metrics"],
            input=scrape(cluster, name),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.slow
def test_prometheus_scrapes_every_process(cluster: LocalCluster, tmp_path: Path) -> None:
    write_tagged(cluster, 10)
    targets = [process.metrics for process in cluster.config.processes]
    with running_prometheus(tmp_path, targets) as place:
        eventually(lambda: len(query(place, "up == 1")) == len(targets), "all are up")
        name = f'sinfonia_executed_total{{tag="{TAG}"}} > 0'
        eventually(lambda: len(query(place, name)) == 1, "the primary's counts are there")
        [primary] = query(place, 'sinfonia_role{role="primary"} == 1')
        assert primary["metric"]["node"] == "0"
        quantile = "histogram_quantile(0.99, sinfonia_log_sync_seconds_bucket)"
        assert all(float(each["value"][1]) > 0 for each in query(place, quantile))


@contextlib.contextmanager
def running_prometheus(directory: Path, targets: list[str]) -> Iterator[str]:
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [{"job_name": "sinfonia", "static_configs": [{"targets": targets}]}],
    }
    file = directory / "prometheus.yml"
    file.write_text(json.dumps(config), "utf-8")  # JSON is YAML
    place = f"{LOOPBACK}:{free_ports(1)[0]}"
    command = [
        *("prometheus", f"--config.file={file}", f"--storage.tsdb.path={directory / 'data'}"),
        f"--web.listen-address={place}",
    ]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield place
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE)
        shutil.rmtree(directory / "data", ignore_errors=True)


def query(place: str, expression: str) -> list[dict[str, Any]]:
    """What Prometheus answers; nothing while it is not up."""
    path = "/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    try:
        status, page = get(place, path)
    except OSError:
        return []
    found: list[dict[str, Any]] = json.loads(page)["data"]["result"] if status == 200 else []
    return found
