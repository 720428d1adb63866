"""What the benchmarks of disturbances share: a private cluster, and a client that never stops.

The client executes one small minitransaction at a time, on a thread of its own in a process that
does little else, and remembers when each began and ended: how long anybody had to wait is then a
question about a stretch of time.
"""

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.blocking import connect_blocking
from sinfonia.config import ByteCount, Times
from sinfonia.errors import SinfoniaError
from sinfonia.minitransaction import Minitransaction
from sinfonia.operating.local_cluster import LocalCluster, free_ports
from sinfonia.operating.local_description import ports_needed
from sinfonia.operating.observer import Observer
from sinfonia.protocol.membership.messages import MemoryNodeEntry
from sinfonia.protocol.messages import Status

MIB = 1 << 20

# What is written before a measurement: in such pieces, so much of it under way at a time.
PIECE_BYTES = 64 * 1024
IN_FLIGHT_BYTES = 2 * MIB
IN_FLIGHT_MAX = 1024

# The small minitransactions go here, behind all that is written in pieces.
SMALL_ADDRESS = 1 << 30
SMALL_BYTES = 8
CAPACITY = SMALL_ADDRESS + MIB


@contextmanager
def private_cluster(
    mode: str,
    *,
    directory: Path | None,
    replicas: int = 0,
    checkpoint_log: int | None = None,
    keep_log: int | None = None,
    times: Times | None = None,
) -> Iterator[LocalCluster]:
    """One memory node that serves, and is gone afterwards; its files are under ``directory``."""
    with tempfile.TemporaryDirectory(prefix="sinfonia-bench-", dir=directory) as temporary:
        cluster = LocalCluster.create(
            Path(temporary) / "cluster",
            memory_nodes=1,
            mode=mode,
            capacity=CAPACITY,
            replicas=replicas,
            ports=free_ports(ports_needed(1, replicas)),
            times=times,
        )
        [node] = cluster.config.memory_node
        if checkpoint_log is not None:
            node = msgspec.structs.replace(node, checkpoint_log=ByteCount(checkpoint_log))
        if keep_log is not None:
            node = msgspec.structs.replace(node, keep_log=ByteCount(keep_log))
        cluster.change(msgspec.structs.replace(cluster.config, memory_node=[node]))
        with cluster:
            cluster.start()
            yield cluster


def fill(cluster: LocalCluster, total_bytes: int, *, piece_bytes: int = PIECE_BYTES) -> int:
    """Write so much from address 0 on, in pieces; returns how many minitransactions that took."""
    pieces = total_bytes // piece_bytes
    in_flight = min(IN_FLIGHT_MAX, IN_FLIGHT_BYTES // piece_bytes)
    content = bytes(range(256)) * (piece_bytes // 256) or bytes(piece_bytes)
    with connect_blocking(cluster.endpoint) as connection:

        def build(piece: int) -> Minitransaction[Any]:
            minitransaction = connection.minitransaction()
            minitransaction.write(0, piece * piece_bytes, content)
            return minitransaction

        connection.execute_many((build(piece) for piece in range(pieces)), in_flight=in_flight)
    return pieces


def look(cluster: LocalCluster) -> tuple[MemoryNodeEntry, dict[str, Status]]:
    """The members of the memory node, and what each process that is up says, by name."""
    with Observer(cluster.endpoints.values()) as observer:
        sight = observer.look()
    entry = None if sight.directory is None else sight.directory.entry(MemoryNodeId(0))
    if entry is None:
        raise SinfoniaError("no process of the cluster answers")
    names = {endpoint: name for name, endpoint in cluster.endpoints.items()}
    return entry, {names[endpoint]: status for endpoint, status in sight.statuses.items()}


def members(cluster: LocalCluster) -> tuple[str, list[str]]:
    """The names of the primary and of the replicas."""
    entry, _ = look(cluster)
    names = {endpoint: name for name, endpoint in cluster.endpoints.items()}
    return names[entry.endpoint], [names[replica.endpoint] for replica in entry.replicas]


class SteadyClient:
    """Small writes, one after another, for as long as the ``with`` lasts."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.failed = 0
        self._cluster = cluster
        self._calls: list[tuple[float, float]] = []  # when each began, and when it succeeded
        self._succeeded = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        self._thread.start()
        self.first_success_after(time.monotonic())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopping = True
        self._thread.join()

    def first_success_after(self, moment: float, *, timeout: float = 30.0) -> float:
        """Wait for the first success of a write that began after ``moment``; when that was."""
        with self._succeeded:
            if not self._succeeded.wait_for(lambda: self._began_after(moment), timeout):
                raise TimeoutError(f"no write succeeded within {timeout:g} s")
            return next(ended for began, ended in self._calls if began > moment)

    def longest(self, since: float, until: float) -> float:
        """The longest that a write took which was under way in that time; seconds."""
        calls = list(self._calls)
        return max((ended - began for began, ended in calls if ended > since and began < until))

    def count(self, since: float, until: float) -> int:
        """How many writes succeeded in that time."""
        return sum(since < ended <= until for _, ended in list(self._calls))

    def _began_after(self, moment: float) -> bool:
        return bool(self._calls) and self._calls[-1][0] > moment

    def _work(self) -> None:
        data = bytes(SMALL_BYTES)
        with connect_blocking(self._cluster.endpoint) as connection:
            while not self._stopping:
                began = time.monotonic()
                try:
                    connection.write(0, SMALL_ADDRESS, data)
                except SinfoniaError:
                    self.failed += 1
                    continue
                ended = time.monotonic()
                with self._succeeded:
                    self._calls.append((began, ended))
                    self._succeeded.notify()
