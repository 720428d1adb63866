"""The connection of one thread: a wire that is driven while its thread waits, and only then.

Whatever a thread waits for, it handles all that comes meanwhile: votes of other calls, hints for
its watches, news of the cluster.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import zmq

from sinfonia import monotonic
from sinfonia.addresses import MemoryNodeId
from sinfonia.client.api import SEND_TOGETHER
from sinfonia.client.load import NodeLoad, loads_of
from sinfonia.client.wire import Wire
from sinfonia.errors import InvalidMinitransaction, OutcomeUnknown
from sinfonia.minitransaction import Minitransaction, Result
from sinfonia.protocol.attempts import Call
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.management_messages import Directory
from sinfonia.protocol.recovery import Outcome
from sinfonia.protocol.watching import Watched
from sinfonia.transport.keys import Keys

# Outcomes that are known should reach the participants; after this long the manager must see to it.
CLOSE_PATIENCE = 0.25

# The longest that a thread waits without looking at the time.
WAIT_MAX = 0.1


class Connection:
    """What ``BlockingCluster`` keeps for each thread that calls it."""

    def __init__(
        self,
        directory: Directory,
        seeds: Sequence[str],
        share: Callable[[Directory], None],
        keys: Keys | None,
    ) -> None:
        """``share`` is told what this thread learns by itself."""
        self.wire = Wire(directory, seeds, keys)
        self._share = share
        self._closed = False
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

    def begin_watch(self, node: int, address: int, length: int) -> Watched:
        return self.wire.begin_watch(node, address, length, monotonic.seconds())

    def end_watch(self, watched: Watched) -> None:
        if not self._closed:
            self.wire.end_watch(watched)
            self.wire.flush(monotonic.seconds())

    def wait_for_news(self, watched: Watched, version: int, timeout: float) -> None:
        """Until there is news of ``watched`` later than ``version``, at most ``timeout`` s."""
        deadline = monotonic.seconds() + timeout
        while watched.version == version:
            left = max(0.0, deadline - monotonic.seconds())
            # Of what has come something may be news, even if there is no time to wait for more.
            self._handle_next(left)
            self.wire.take_finished()
            self.wire.take_news()
            if left == 0.0 or watched.refused:
                return

    def load(self, node: int | None, timeout: float) -> dict[MemoryNodeId, NodeLoad]:
        now = monotonic.seconds()
        inquiry = self.wire.begin_inquiry(node, now)
        deadline = now + timeout
        try:
            while inquiry.unanswered and monotonic.seconds() < deadline:
                self._handle_next()
                self.wire.take_finished()  # of calls that were given up, which nobody waits for
        finally:
            self.wire.end_inquiry(inquiry)
        return loads_of(inquiry)

    def close(self) -> None:
        deadline = monotonic.seconds() + CLOSE_PATIENCE
        self.wire.flush(monotonic.seconds())
        while not self.wire.coordinator.idle and monotonic.seconds() < deadline:
            self._handle_next()
        self._closed = True
        self.wire.close()

    def _handle_next(self, wait_max: float = WAIT_MAX) -> None:
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
        wait = min(WAIT_MAX, wait_max)
        if wakeup is not None:
            wait = min(wait, max(0.0, wakeup - now))
        ready = self._poller.poll(round(wait * 1e3))
        for socket, _ in ready:
            wire.drain(self._node_of[socket])
        now = monotonic.seconds()
        if wakeup is not None and now >= wakeup:
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
