"""The client of scripts and threads: the caller's own thread does the work, while it waits.

There is no thread behind the scenes, so that one round trip costs little more than the network.
ZeroMQ's sockets must not be shared between threads, so each thread that calls gets connections, and
a coordinator, of its own; all end with ``close``.  What one learns of the cluster the others are
told before their next call.

Between two calls of a thread nobody drives its coordinator.  That is safe: what a participant does
not hear the manager finds out.
"""

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import zmq

from sinfonia import monotonic
from sinfonia.addresses import MemoryNodeId
from sinfonia.client.api import SEND_TOGETHER, ClientStatistics, MemoryNodeInfo, time_allowed
from sinfonia.client.seed import endpoints_of, search_directory
from sinfonia.client.steps import NOTHING, Drive, Pause, Steps
from sinfonia.client.wire import Wire, node_info
from sinfonia.errors import InvalidMinitransaction, OutcomeUnknown, SinfoniaError
from sinfonia.minitransaction import Minitransaction, Result
from sinfonia.protocol.attempts import Call
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.known_cluster import KnownCluster
from sinfonia.protocol.management_messages import Directory
from sinfonia.protocol.recovery import Outcome

T = TypeVar("T")

# Outcomes that are known should reach the participants; after this long the manager must see to it.
CLOSE_PATIENCE = 0.25

# The longest that a thread waits without looking at the time.
WAIT_MAX = 0.1


def connect_blocking(endpoint: str, *, timeout: float = 5.0) -> "BlockingCluster":
    """Find the cluster that the process at ``endpoint`` belongs to; use it with ``with``.

    ``endpoint`` (``tcp://host:port``) is a manager's or any memory node's, or several with commas
    between them, of which any will do; ``timeout`` in seconds.  Raises Unreachable or ConfigError;
    both are definite.
    """
    endpoints = endpoints_of(endpoint)
    return BlockingCluster(search_directory(endpoints, timeout=timeout, usable=True), endpoints)


class BlockingCluster:
    """An open connection to a cluster, for any number of threads."""

    def __init__(self, directory: Directory, seeds: Sequence[str]) -> None:
        """Use ``connect_blocking``."""
        self._known = KnownCluster(directory)
        self._nodes = {entry.node: node_info(entry) for entry in directory.nodes}
        self._seeds = seeds
        self._own = threading.local()
        self._all: list[_Connection] = []
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
        """The memory nodes, by id."""
        return self._nodes

    @property
    def statistics(self) -> ClientStatistics:
        """Counts of all threads together."""
        total = ClientStatistics()
        with self._guard:
            for connection in self._all:
                counts = connection.wire.statistics
                total.executed += counts.executed
                total.retried += counts.retried
                total.resent += counts.resent
                total.unknown += counts.unknown
        return total

    def minitransaction(
        self, *, reads_on_failure: bool = False, lock_wait: float = 0.0, tag: str = ""
    ) -> Minitransaction[Result]:
        """An empty minitransaction; with ``reads_on_failure`` a failed compare does not keep the
        read items from being returned; ``lock_wait`` and ``tag`` as Minitransaction has them."""
        return Minitransaction(self, reads_on_failure, lock_wait=lock_wait, tag=tag)

    def execute(
        self, minitransaction: Minitransaction[Any], *, timeout: float | None = None
    ) -> Result:
        """Execute and commit ``minitransaction``; ``timeout`` in seconds.

        Busy locks are retried until the timeout.  Raises InvalidMinitransaction or NotExecuted
        (definite: it did not happen) or OutcomeUnknown.
        """
        return self._connection().execute(minitransaction, time_allowed(timeout))

    def execute_many(
        self,
        minitransactions: Iterable[Minitransaction[Any]],
        *,
        timeout: float | None = None,
        in_flight: int = 1024,
    ) -> list[Result]:
        """Execute independent minitransactions, at most ``in_flight`` at a time.

        They are not ordered among each other; ``timeout`` (seconds) is for each.  Returns their
        results in the order given.  If some fail, the others are executed all the same, and the
        first error is raised then.
        """
        return self._connection().execute_many(minitransactions, time_allowed(timeout), in_flight)

    def read(self, node: int, address: int, length: int, *, timeout: float | None = None) -> bytes:
        """The ``length`` bytes at ``address`` of ``node``; errors as ``execute``."""
        minitransaction = self.minitransaction()
        minitransaction.read(node, address, length)
        return self.execute(minitransaction, timeout=timeout).reads[0]

    def write(self, node: int, address: int, data: bytes, *, timeout: float | None = None) -> None:
        """Put ``data`` at ``address`` of ``node``; errors as ``execute``."""
        minitransaction = self.minitransaction()
        minitransaction.write(node, address, data)
        self.execute(minitransaction, timeout=timeout)

    def outcome(self, tid: Tid, *, timeout: float | None = None) -> bool:
        """Whether the minitransaction of an OutcomeUnknown happened; if not, it never will.

        To be asked by the thread that got the OutcomeUnknown.  Raises OutcomeUnknown if that cannot
        be found out within ``timeout`` seconds, or is too long ago.
        """
        return self._connection().outcome(tid, time_allowed(timeout))

    def run(self, steps: Steps[T], *, timeout: float | None = None) -> T:
        """Carry out an operation of several minitransactions (steps.py).

        ``timeout`` (seconds) is for all of it; each minitransaction gets what is left.  Raises
        what the operation raises; and TimedOut (definite: what it has executed it has executed,
        and no more is under way) if it would pause beyond the deadline.
        """
        drive = Drive(steps, math.inf if timeout is None else monotonic.seconds() + timeout)
        while not drive.over:
            step = drive.step
            if isinstance(step, Pause):
                time.sleep(drive.pause(step, monotonic.seconds()))
                drive.go_on(NOTHING)
                continue
            try:
                left = None if timeout is None else drive.time_left(monotonic.seconds())
                result = self.execute(step, timeout=left)
            except SinfoniaError as error:
                drive.fail(error)
            else:
                drive.go_on(result)
        return drive.value

    def refresh(self, *, timeout: float = 5.0) -> None:
        """Ask where the memory nodes are now (section 4.11); new ones are in ``nodes`` then.

        There is no need to ask when one fails over.  Raises Unreachable if nobody answers within
        ``timeout`` seconds.
        """
        places = self._connection().wire.places()
        self._share(search_directory(places, timeout=timeout, usable=False))

    def close(self) -> None:
        """Close the connections of all threads, none of which may be in a call."""
        with self._guard:
            self._closed = True
            connections, self._all = self._all, []
        for connection in connections:
            connection.close()

    def _connection(self) -> "_Connection":
        connection: _Connection | None = getattr(self._own, "connection", None)
        if connection is None or self._closed:
            with self._guard:
                if self._closed:
                    raise RuntimeError("the cluster was closed")
                connection = self._own.connection = _Connection(
                    self._known.directory(), self._seeds, self._share
                )
                self._all.append(connection)
        elif connection.version < self._known.version:
            with self._guard:
                directory = self._known.directory()
            connection.learn(directory)
        # What one thread does may be caused by what another was answered.
        coordinator = connection.wire.coordinator
        coordinator.clock = max(each.wire.coordinator.clock for each in tuple(self._all))
        return connection

    def _share(self, directory: Directory) -> None:
        """Keep what one thread has learned for all."""
        with self._guard:
            self._known.learn(directory)
            while self._known.changed:
                entry = self._known.entries[self._known.changed.pop()]
                self._nodes[entry.node] = node_info(entry)


class _Connection:
    """The wire of one thread, driven while the thread waits."""

    def __init__(
        self, directory: Directory, seeds: Sequence[str], share: Callable[[Directory], None]
    ) -> None:
        """``share`` is told what this thread learns by itself."""
        self.wire = Wire(directory, seeds)
        self._share = share
        self._poller = zmq.Poller()
        self._sockets: dict[MemoryNodeId, zmq.Socket[bytes]] = {}
        self._node_of: dict[zmq.Socket[bytes], MemoryNodeId] = {}
        self._listen()

    @property
    def version(self) -> int:
        """Of the directory that is known here."""
        return self.wire.coordinator.known.version

    def learn(self, directory: Directory) -> None:
        """Take what another thread knows."""
        self.wire.learn(directory, monotonic.seconds())
        self._listen()

    def execute(self, minitransaction: Minitransaction[Any], timeout: float) -> Result:
        now = monotonic.seconds()
        call = self.wire.submit(minitransaction, now=now, deadline=now + timeout)
        while not _is_over(call):
            self._handle_next()
        self.wire.take_finished()
        return _result(call)

    def execute_many(
        self, minitransactions: Iterable[Minitransaction[Any]], timeout: float, in_flight: int
    ) -> list[Result]:
        pipeline = object()
        calls: list[Call] = []
        outstanding = 0
        for minitransaction in minitransactions:
            if outstanding >= in_flight:
                # Half of the window is freed at once, so that one message refills it.
                while outstanding > in_flight // 2:
                    self._handle_next()
                    outstanding -= self._finished_of(pipeline)
            elif len(calls) % SEND_TOGETHER == 0:
                self.wire.flush(monotonic.seconds())
                outstanding -= self._finished_of(pipeline)
            call = self._submit(minitransaction, timeout)
            calls.append(call)
            if call.error is None:
                call.waiter = pipeline
                outstanding += 1
        self.wire.flush(monotonic.seconds())
        outstanding -= self._finished_of(pipeline)
        while outstanding:
            self._handle_next()
            outstanding -= self._finished_of(pipeline)
        return [_result(call) for call in calls]

    def _submit(self, minitransaction: Minitransaction[Any], timeout: float) -> Call:
        """One call of a pipeline; that it cannot be executed must not stop the others."""
        now = monotonic.seconds()
        try:
            return self.wire.submit(minitransaction, now=now, deadline=now + timeout)
        except InvalidMinitransaction as error:
            return Call(minitransaction, now, error=error)

    def outcome(self, tid: Tid, timeout: float) -> bool:
        deadline = monotonic.seconds() + timeout
        while monotonic.seconds() < deadline:
            outcome = self.wire.outcome(tid)
            if outcome is Outcome.FORGOTTEN:
                break
            if outcome is not None:
                return outcome is Outcome.COMMITTED
            self._handle_next()
        raise OutcomeUnknown(f"the outcome of {tid} cannot be found out", tid)

    def close(self) -> None:
        deadline = monotonic.seconds() + CLOSE_PATIENCE
        self.wire.flush(monotonic.seconds())
        while not self.wire.coordinator.idle and monotonic.seconds() < deadline:
            self._handle_next()
        self.wire.close()

    def _handle_next(self) -> None:
        """Send what is ready, wait until something has come or the time has, and handle it."""
        wire = self.wire
        now = monotonic.seconds()
        wire.flush(now)
        if wire.coordinator.finished:
            return  # the flush has seen it come
        if wire.opened:
            self._listen()
            self._share(wire.coordinator.known.directory())
        wakeup = wire.next_wakeup()
        wait = WAIT_MAX if wakeup is None else min(WAIT_MAX, max(0.0, wakeup - now))
        ready = self._poller.poll(round(wait * 1e3))
        for socket, _ in ready:
            wire.drain(self._node_of[socket])
        now = monotonic.seconds()
        wire.tick(now)
        wire.flush(now)

    def _listen(self) -> None:
        """Listen to the sockets that are new, and close those that they replace."""
        opened = self.wire.opened
        while opened:
            node, socket = opened.pop(0)
            old = self._sockets.get(node)
            if old is not None:
                self._poller.unregister(old)
                del self._node_of[old]
                old.close(0)
            self._sockets[node] = socket
            self._node_of[socket] = node
            self._poller.register(socket, zmq.POLLIN)

    def _finished_of(self, pipeline: object) -> int:
        return sum(call.waiter is pipeline for call in self.wire.take_finished())


def _is_over(call: Call) -> bool:
    return call.result is not None or call.error is not None


def _result(call: Call) -> Result:
    if call.error is not None:
        raise call.error
    assert call.result is not None
    return call.result
