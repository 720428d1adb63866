"""Scraping never stops a loop, and a scraper never holds what another one needs.

A few threads answer HTTP beside the loop and read only what it has published (status_snapshot.py).
Each connection is for one request, is closed after REQUEST_SECONDS_MAX whatever it does, and gives
way to a newer one if there are too many: a scraper that reads slowly, or not at all, costs a thread
for some seconds.  A page is written once a second at most, so that a flood of scrapes costs little
more than its connections.

``/metrics`` is for Prometheus, ``/healthz`` for programs that ask whether the process works.
"""

import logging
import socket
import sys
import threading
import time
from collections.abc import Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from prometheus_client import ProcessCollector
from prometheus_client.core import CollectorRegistry, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from sinfonia import monotonic
from sinfonia.errors import ConfigError
from sinfonia.metrics.sources import families
from sinfonia.metrics.table import ADMISSION, FIGURES_AGE, MANAGER, MEMORY_NODE, NODE_LABEL
from sinfonia.status_snapshot import SnapshotPublisher

log = logging.getLogger(__name__)

# Connections, and so threads, at a time.
CONNECTIONS_MAX = 8

# A connection is closed after so long: scrapers in a hurry give up after 10 s, too.
REQUEST_SECONDS_MAX = 5.0

# How often that is looked at.
LOOK_EVERY = 0.5

# A loop that has published nothing for so long (seconds) stands still.
STALE_AFTER = 10.0

# Threads hand over the interpreter after so long: the loop never waits longer for a scrape.
SWITCH_INTERVAL = 0.0005

TEXT = "text/plain; charset=utf-8"


class ProcessFigures(Collector):
    """What a process has published, as metrics."""

    def __init__(self, publisher: SnapshotPublisher) -> None:
        self._publisher = publisher

    def collect(self) -> Iterable[Family]:
        """The families of the latest snapshot; none if there is none yet."""
        snapshot = self._publisher.latest
        if snapshot is None:
            return
        age = max(0.0, monotonic.seconds() - snapshot.taken_at)
        yield GaugeMetricFamily(FIGURES_AGE.name, FIGURES_AGE.help, value=age)
        if snapshot.node is None:
            yield from families(MANAGER, snapshot)
        else:
            yield from families(MEMORY_NODE, snapshot, [(NODE_LABEL, str(snapshot.node))])
        yield from families(ADMISSION, snapshot)


class MetricsServer:
    """Answers for one process until ``close``."""

    def __init__(self, host: str, port: int, publisher: SnapshotPublisher) -> None:
        """Listen at ``host`` and ``port`` (0: any).  Raises ConfigError if that is not possible."""
        self._publisher = publisher
        self._registry = CollectorRegistry()
        self._registry.register(ProcessFigures(publisher))
        ProcessCollector(registry=self._registry)
        self._pages: dict[str, tuple[object, int, bytes]] = {}
        try:
            self._server = _HttpServer(host, port, self)
        except OSError as error:
            raise ConfigError(
                f"metrics cannot be served at {host}:{port}: {error.strerror or error}; choose "
                "another port, or leave it out"
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(LOOK_EVERY,), name="metrics", daemon=True
        )
        sys.setswitchinterval(SWITCH_INTERVAL)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Answer no more requests."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """The page, and its type, for a scraper that understands ``accept``."""
        encode, content_type = choose_encoder(accept)
        snapshot, second = self._publisher.latest, int(monotonic.seconds())
        known = self._pages.get(content_type)
        if known is not None and known[0] is snapshot and known[1] == second:
            return known[2], content_type
        page = encode(self._registry)
        if len(self._pages) >= CONNECTIONS_MAX:
            self._pages.clear()  # of all the types that a scraper may make up
        self._pages[content_type] = (snapshot, second, page)
        return page, content_type

    def health(self) -> tuple[HTTPStatus, str]:
        """200 if the process does what it is there for, and says so lately."""
        snapshot = self._publisher.latest
        if snapshot is None:
            return HTTPStatus.SERVICE_UNAVAILABLE, "starting"
        age = monotonic.seconds() - snapshot.taken_at
        if age > STALE_AFTER:
            return HTTPStatus.SERVICE_UNAVAILABLE, f"nothing heard of it for {age:.0f} s"
        status = HTTPStatus.OK if snapshot.well else HTTPStatus.SERVICE_UNAVAILABLE
        return status, snapshot.state


class _HttpServer(ThreadingMixIn, TCPServer):
    """A thread per connection, of which there are few; the oldest makes room."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = CONNECTIONS_MAX

    def __init__(self, host: str, port: int, metrics: MetricsServer) -> None:
        self.metrics = metrics
        self._begun: dict[socket.socket, float] = {}
        self._guard = threading.Lock()
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as socketserver has it
        with self._guard:
            self._begun[request] = time.monotonic()
            crowd = list(self._begun)[: max(0, len(self._begun) - CONNECTIONS_MAX)]
        _end(crowd)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - as socketserver has it
        with self._guard:
            self._begun.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called again and again: end what has lasted too long."""
        now = time.monotonic()
        with self._guard:
            late = [each for each, at in self._begun.items() if now - at > REQUEST_SECONDS_MAX]
        _end(late)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as socketserver has it
        """A scraper may hang up: no error."""
        del request
        log.debug("scrape failed client=%s error=%s", client_address, sys.exc_info()[1])


def _end(connections: Iterable[socket.socket]) -> None:
    """Their threads find them closed, and end."""
    for connection in connections:
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue  # it has just ended by itself


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.0"
    server_version = "sinfonia"
    sys_version = ""
    timeout = REQUEST_SECONDS_MAX
    server: _HttpServer

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            page, content_type = self.server.metrics.metrics(self.headers.get("Accept", ""))
            self._say(HTTPStatus.OK, page, content_type)
        elif path == "/healthz":
            status, words = self.server.metrics.health()
            self._say(status, words.encode() + b"\n", TEXT)
        else:
            self._say(HTTPStatus.NOT_FOUND, b"There are /metrics and /healthz.\n", TEXT)

    do_HEAD = do_GET  # noqa: N815 - as http.server has it

    def _say(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as http.server has it
        """Scrapes are many, and no events."""
        log.debug(format, *args)
