"""The client of scripts and threads: the caller's own thread does the work, while it waits.

There is no thread behind the scenes, so that one round trip costs little more than the network.
ZeroMQ's sockets must not be shared between threads, so each thread that calls gets connections, and
a coordinator, of its own.  When a thread has ended, the next new one takes them over: there are no
more of them, and no more clients at the memory nodes, than there were threads at a time.  What one
learns of the cluster the others are told before their next call.  A forked process shares nothing
with its parent that may be used: it has to connect anew, and is told so.

Between two calls of a thread its coordinator stands still.  That is safe: what a participant does
not hear the manager finds out.
"""

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.api import (
    ClientStatistics,
    ConnectedApi,
    MemoryNodeInfo,
    documented_by,
    time_allowed,
)
from sinfonia.client.connection import Connection
from sinfonia.client.load import NodeLoad
from sinfonia.client.running import run_blocking
from sinfonia.client.seed import search_directory
from sinfonia.client.steps import Steps
from sinfonia.client.watch import BlockingWatch
from sinfonia.client.wire import node_info
from sinfonia.endpoints import endpoints_of
from sinfonia.minitransaction import Minitransaction, Result
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.known_cluster import KnownCluster
from sinfonia.protocol.membership.messages import Directory
from sinfonia.transport.keys import Keys, as_keys

T = TypeVar("T")


def connect_blocking(
    endpoint: str, *, timeout: float = 5.0, keys: Keys | Path | str | None = None
) -> "BlockingCluster":
    """Find the cluster that the process at ``endpoint`` belongs to; use it with ``with``.

    ``endpoint`` (``tcp://host:port``) is a manager's or any memory node's, or several with commas
    between them, of which any will do; ``timeout`` in seconds.  ``keys``, for a cluster that has
    them: a file made by `sinfonia keygen`, or what ``load_keys`` made of it.  Raises Unreachable or
    ConfigError; both are definite.
    """
    endpoints, loaded = endpoints_of(endpoint), as_keys(keys)
    directory = search_directory(endpoints, timeout=timeout, usable=True, keys=loaded)
    return BlockingCluster(directory, endpoints, loaded)


@documented_by(ConnectedApi)
class BlockingCluster:
    """An open connection to a cluster, within ``with``; for any number of threads.

    Its methods are those of ConnectedApi, and wait for what they return.
    """

    def __init__(
        self, directory: Directory, seeds: Sequence[str], keys: Keys | None = None
    ) -> None:
        """Use ``connect_blocking``."""
        self._keys = keys
        self._known = KnownCluster(directory)
        self._nodes = {entry.node: node_info(entry) for entry in directory.nodes}
        self._seeds = seeds
        self._own = threading.local()
        self._all: list[Connection] = []
        # Of connections that are no more, because the cluster was closed.
        self._past = ClientStatistics()
        self._process = os.getpid()
        self._guard = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def nodes(self) -> Mapping[MemoryNodeId, MemoryNodeInfo]:
        return self._nodes

    @property
    def statistics(self) -> ClientStatistics:
        total = ClientStatistics()
        with self._guard:
            total.add(self._past)
            for connection in self._all:
                total.add(connection.wire.statistics)
        return total

    def minitransaction(
        self, *, reads_on_failure: bool = False, lock_wait: float = 0.0, tag: str = ""
    ) -> Minitransaction[Result]:
        return Minitransaction(self, reads_on_failure, lock_wait=lock_wait, tag=tag)

    def execute(
        self, minitransaction: Minitransaction[Any], *, timeout: float | None = None
    ) -> Result:
        return self._connection().execute(minitransaction, time_allowed(timeout))

    def execute_many(
        self,
        minitransactions: Iterable[Minitransaction[Any]],
        *,
        timeout: float | None = None,
        in_flight: int = 1024,
    ) -> list[Result]:
        return self._connection().execute_many(minitransactions, time_allowed(timeout), in_flight)

    def read(self, node: int, address: int, length: int, *, timeout: float | None = None) -> bytes:
        minitransaction = self.minitransaction()
        minitransaction.read(node, address, length)
        return self.execute(minitransaction, timeout=timeout).reads[0]

    def write(self, node: int, address: int, data: bytes, *, timeout: float | None = None) -> None:
        minitransaction = self.minitransaction()
        minitransaction.write(node, address, data)
        self.execute(minitransaction, timeout=timeout)

    def outcome(self, tid: Tid, *, timeout: float | None = None) -> bool:
        return self._connection().outcome(tid, time_allowed(timeout))

    def watch(self, node: int, address: int, length: int) -> BlockingWatch:
        return BlockingWatch(self._connection, node, address, length)

    def load(
        self, node: int | None = None, *, timeout: float | None = None
    ) -> Mapping[MemoryNodeId, NodeLoad]:
        return self._connection().load(node, time_allowed(timeout))

    def run(self, steps: Steps[T], *, timeout: float | None = None) -> T:
        return run_blocking(self, steps, timeout=timeout)

    def refresh(self, *, timeout: float = 5.0) -> None:
        places = self._connection().wire.places()
        self._share(search_directory(places, timeout=timeout, usable=False, keys=self._keys))

    def close(self) -> None:
        """Close the connections of all threads, none of which may be in a call."""
        if self._process != os.getpid():
            return  # they are the parent's
        with self._guard:
            self._closed = True
            connections, self._all = self._all, []
            for connection in connections:
                self._past.add(connection.wire.statistics)
        for connection in connections:
            connection.close()

    def _connection(self) -> Connection:
        connection: Connection | None = getattr(self._own, "connection", None)
        if self._process != os.getpid():
            raise RuntimeError("a connection does not survive a fork: connect anew in the child")
        if connection is None or self._closed:
            connection = self._own.connection = self._connect()
        if connection.version < self._known.version:
            with self._guard:
                directory = self._known.directory()
            connection.learn(directory)
        # What one thread does may be caused by what another was answered.
        if len(self._all) > 1:
            coordinator = connection.wire.coordinator
            coordinator.clock = max(each.wire.coordinator.clock for each in tuple(self._all))
        return connection

    def _connect(self) -> Connection:
        with self._guard:
            if self._closed:
                raise RuntimeError("the cluster was closed")
            for connection in self._all:
                if connection.ended:
                    connection.take_over()
                    break
            else:
                connection = Connection(
                    self._known.directory(), self._seeds, self._share, self._keys
                )
                self._all.append(connection)
        return connection

    def _share(self, directory: Directory) -> None:
        """Keep what one thread has learned for all."""
        with self._guard:
            self._known.learn(directory)
            while self._known.changed:
                entry = self._known.entries[self._known.changed.pop()]
                self._nodes[entry.node] = node_info(entry)
