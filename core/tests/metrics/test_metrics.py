"""The table of metrics, and the HTTP that shows it: true, complete, and in no loop's way."""

import contextlib
import http.client
import re
import socket
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

import sinfonia.metrics.exposition
from sinfonia import monotonic
from sinfonia.client.api import ClientStatistics
from sinfonia.errors import ConfigError
from sinfonia.figures.figure import Kind
from sinfonia.figures.member import PHASES
from sinfonia.memnode.settings import State
from sinfonia.metrics.exposition import CONNECTIONS_MAX, STALE_AFTER, MetricsServer
from sinfonia.metrics.sources import OneFigure, OneOf
from sinfonia.metrics.table import (
    ADMISSION,
    CLIENT,
    MANAGER,
    MEMORY_NODE,
    STATES,
    TABLES,
    client_collector,
    document,
)
from sinfonia.protocol.replication.following import Phase
from sinfonia.status_snapshot import PUBLISH_EVERY, Histogram, SnapshotPublisher, StatusSnapshot
from sinfonia.storage.durations import BOUNDS, Durations

LOOPBACK = "127.0.0.1"
DEADLINE = 30.0

EVERYTHING = [metric for _, _, metrics in TABLES for metric in metrics]

NAME = re.compile(r"(sinfonia|process)_[a-z]+(_[a-z]+)*")
SUFFIXES_OF_ABBREVIATIONS = ("_ms", "_us", "_kb", "_mb", "_kib", "_mib", "_minutes", "_count")


# --- the table -----------------------------------------------------------------------------------


def test_no_name_is_there_twice() -> None:
    names = [metric.name for metric in EVERYTHING]
    assert sorted(names) == sorted(set(names))


def test_names_follow_the_conventions() -> None:
    for metric in EVERYTHING:
        assert NAME.fullmatch(metric.name), metric.name
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        assert not metric.name.endswith(SUFFIXES_OF_ABBREVIATIONS), metric.name


def test_every_metric_says_what_it_is_in_a_sentence() -> None:
    for metric in EVERYTHING:
        assert metric.help.endswith("."), metric.name
        assert metric.help[0].isupper() or metric.help[0] == "1", metric.name


def test_the_words_of_states_are_those_of_the_code() -> None:
    assert list(STATES) == [state.value for state in State]
    assert list(PHASES) == [phase.value for phase in Phase]


def test_metrics_md_is_what_the_table_says() -> None:
    """If not: `python -m sinfonia.metrics > core/METRICS.md`."""
    page = Path(__file__).parents[2] / "METRICS.md"
    assert page.read_text("utf-8") == document()


# --- histograms ----------------------------------------------------------------------------------


def test_durations_are_counted_below_each_bound() -> None:
    durations = Durations()
    for seconds in (0.00005, BOUNDS[0], 0.003, 1000.0):
        durations.note(seconds)
    cumulative = dict(durations.cumulative())
    assert cumulative[BOUNDS[0]] == 2
    assert cumulative[0.0025] == 2
    assert cumulative[0.005] == 3
    assert cumulative[BOUNDS[-1]] == 3
    assert cumulative[float("inf")] == 4
    assert durations.total == pytest.approx(1000.00315)


# --- pages ---------------------------------------------------------------------------------------


def snapshot(state: str = "serving", *, well: bool = True, age: float = 0.0) -> StatusSnapshot:
    return StatusSnapshot(
        monotonic.seconds() - age,
        7,
        state,
        well,
        {"in_doubt": 3, "votes_ok": 10, "votes_bad_cmp": 2, "role": "primary", "unheard_of": 1},
        {"": (1, 2, 3, 4, 5), 'quoted "tag"\n': (6, 7, 8, 9, 10)},
        {"log_sync_seconds": Histogram(((0.001, 4), (float("inf"), 5)), 0.5)},
    )


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[SnapshotPublisher, MetricsServer]]:
    publisher = SnapshotPublisher()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sinfonia.metrics.exposition, "LOOK_EVERY", 0.02)
        server = MetricsServer(LOOPBACK, 0, publisher)
    yield publisher, server
    server.close()


@pytest.fixture
def publisher(shared: tuple[SnapshotPublisher, MetricsServer]) -> Iterator[SnapshotPublisher]:
    publisher, _ = shared
    yield publisher
    publisher.latest = None


@pytest.fixture
def server(shared: tuple[SnapshotPublisher, MetricsServer]) -> MetricsServer:
    return shared[1]


def get(server: MetricsServer, path: str, **headers: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(LOOPBACK, server.port, timeout=DEADLINE)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers["Content-Type"]


def samples(page: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_figures_become_samples(publisher: SnapshotPublisher, server: MetricsServer) -> None:
    publisher.publish(snapshot())
    status, page, _ = get(server, "/metrics")
    assert status == HTTPStatus.OK
    found = samples(page)
    node = ("node", "7")
    assert found["sinfonia_in_doubt", (node,)] == 3
    assert found["sinfonia_votes_total", (node, ("vote", "bad_cmp"))] == 2
    assert found["sinfonia_state", (node, ("state", "serving"))] == 1
    assert found["sinfonia_state", (node, ("state", "over"))] == 0
    assert found["sinfonia_written_bytes_total", (node, ("tag", 'quoted "tag"\n'))] == 10
    assert found["sinfonia_log_sync_seconds_bucket", (("le", "+Inf"), node)] == 5
    assert found["sinfonia_log_sync_seconds_sum", (node,)] == 0.5
    assert "unheard_of" not in page


def test_a_scraper_that_wants_openmetrics_gets_it(
    publisher: SnapshotPublisher, server: MetricsServer
) -> None:
    publisher.publish(snapshot())
    accept = "application/openmetrics-text;version=1.0.0"
    _, page, content_type = get(server, "/metrics", Accept=accept)
    assert content_type.startswith("application/openmetrics-text")
    assert page.endswith("# EOF\n")


def test_the_age_of_the_figures_grows_while_the_loop_stands_still(
    publisher: SnapshotPublisher, server: MetricsServer
) -> None:
    publisher.publish(snapshot(age=100.0))
    _, page, _ = get(server, "/metrics")
    assert 100 <= samples(page)["sinfonia_figures_age_seconds", ()] < 100 + DEADLINE


def test_a_page_is_not_written_for_each_scrape(
    publisher: SnapshotPublisher, server: MetricsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is an old one shown later, or once the loop has said something else."""
    now = 5000.0
    monkeypatch.setattr(monotonic, "seconds", lambda: now)
    written = []
    collect = sinfonia.metrics.exposition.ProcessFigures.collect

    def collect_and_count(figures: sinfonia.metrics.exposition.ProcessFigures) -> object:
        written.append(figures)
        return collect(figures)

    monkeypatch.setattr(sinfonia.metrics.exposition.ProcessFigures, "collect", collect_and_count)
    publisher.publish(snapshot())
    pages = {get(server, "/metrics")[1] for _ in range(20)}
    assert (len(written), len(pages)) == (1, 1)
    now += 7.0
    assert samples(get(server, "/metrics")[1])["sinfonia_figures_age_seconds", ()] == 7.0
    publisher.publish(snapshot("settling"))
    assert samples(get(server, "/metrics")[1])[
        "sinfonia_state", (("node", "7"), ("state", "settling"))
    ]


@pytest.mark.parametrize(
    ("state", "well", "age", "status", "words"),
    [
        ("serving", True, 0.0, HTTPStatus.OK, "serving"),
        ("following", True, 0.0, HTTPStatus.OK, "following"),
        ("catching up", False, 0.0, HTTPStatus.SERVICE_UNAVAILABLE, "catching up"),
        ("serving", True, STALE_AFTER + 100, HTTPStatus.SERVICE_UNAVAILABLE, "nothing heard of it"),
    ],
)
def test_health_is_whether_it_does_its_work(
    publisher: SnapshotPublisher,
    server: MetricsServer,
    *,
    state: str,
    well: bool,
    age: float,
    status: int,
    words: str,
) -> None:
    publisher.publish(snapshot(state, well=well, age=age))
    found, page, _ = get(server, "/healthz")
    assert (found, page.startswith(words)) == (status, True)


def test_a_process_that_has_published_nothing_yet_is_not_healthy(server: MetricsServer) -> None:
    assert get(server, "/healthz")[:2] == (HTTPStatus.SERVICE_UNAVAILABLE, "starting\n")


def test_other_pages_are_not_there(server: MetricsServer) -> None:
    assert get(server, "/")[0] == HTTPStatus.NOT_FOUND


def test_a_process_that_has_said_nothing_shows_only_what_linux_knows(
    server: MetricsServer,
) -> None:
    names = {name for name, _ in samples(get(server, "/metrics")[1])}
    assert names
    assert all(name.startswith("process_") for name in names)


def test_a_port_that_is_taken_is_named(server: MetricsServer, publisher: SnapshotPublisher) -> None:
    with pytest.raises(ConfigError, match=f"{LOOPBACK}:{server.port}.*in use.*another port"):
        MetricsServer(LOOPBACK, server.port, publisher)


# --- bad scrapers --------------------------------------------------------------------------------


def hang(server: MetricsServer) -> socket.socket:
    """A scraper that begins to ask, and then does nothing."""
    connection = socket.create_connection((LOOPBACK, server.port), timeout=DEADLINE)
    connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: sin")
    return connection


def drip(connection: socket.socket, *, until: float) -> str:
    """Send a byte again and again, as if more were to come."""
    while monotonic.seconds() < until:
        try:
            connection.sendall(b"x")
            if connection.recv(1) == b"":
                return "cut off"
        except TimeoutError:
            continue
        except ConnectionError:
            return "cut off"
    return "listened to"


def test_many_scrapers_that_hang_hold_up_no_other(
    publisher: SnapshotPublisher, server: MetricsServer
) -> None:
    publisher.publish(snapshot())
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        for _ in range(5 * CONNECTIONS_MAX):
            stack.enter_context(contextlib.closing(hang(server)))
            assert get(server, "/healthz")[0] == HTTPStatus.OK
        # Those that had to make room end as soon as they run.
        assert threading.active_count() - before <= 2 * CONNECTIONS_MAX


def test_a_scraper_that_hangs_is_cut_off(
    publisher: SnapshotPublisher, server: MetricsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinfonia.metrics.exposition, "REQUEST_SECONDS_MAX", 0.05)
    with contextlib.closing(hang(server)) as connection:
        assert connection.recv(1) == b""


def test_a_scraper_that_drips_is_cut_off_too(
    server: MetricsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit for each read would never end it."""
    monkeypatch.setattr(sinfonia.metrics.exposition, "REQUEST_SECONDS_MAX", 0.3)
    with contextlib.closing(hang(server)) as connection:
        connection.settimeout(0.05)
        assert drip(connection, until=monotonic.seconds() + DEADLINE) == "cut off"


def test_nonsense_costs_its_sender_an_error(
    publisher: SnapshotPublisher, server: MetricsServer
) -> None:
    publisher.publish(snapshot())
    for nonsense in (b"\0\xff\xfe\r\n\r\n", b"GET\r\n\r\n", b"A" * 100_000 + b"\r\n\r\n", b"\r\n"):
        connection = socket.create_connection((LOOPBACK, server.port), timeout=DEADLINE)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.sendall(nonsense)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    assert get(server, "/healthz")[0] == HTTPStatus.OK


# --- the publisher, and clients ------------------------------------------------------------------


def test_a_notice_is_due_about_once_a_second() -> None:
    publisher, first = SnapshotPublisher(), snapshot()
    assert publisher.is_due(0.0)
    publisher.publish(first)
    taken_at = first.taken_at
    assert not publisher.is_due(taken_at + PUBLISH_EVERY / 2)
    assert publisher.is_due(taken_at + PUBLISH_EVERY)


class FakeClient:
    """A client that has done something."""

    statistics = ClientStatistics(executed=4, retried=3, resent=2, unknown=1)


def test_an_application_shows_its_client_in_its_own_registry() -> None:
    registry = prometheus_client.CollectorRegistry()
    registry.register(client_collector(FakeClient()))
    found = samples(prometheus_client.generate_latest(registry).decode())
    assert {name for name, _ in found} == {metric.name for metric in CLIENT}
    assert found["sinfonia_client_retried_total", ()] == 3


def test_no_figure_is_shown_twice() -> None:
    for table in (MEMORY_NODE + ADMISSION, MANAGER + ADMISSION, CLIENT):
        figures = [
            metric.source.figure.name
            for metric in table
            if isinstance(metric.source, OneFigure | OneOf)
        ]
        assert len(figures) == len(set(figures))
