"""The connection of one thread: a wire that is driven while its thread waits, and only then.

Whatever a thread waits for, it handles all that comes meanwhile: votes of other calls, hints for
its watches, news of the cluster.
"""

import threading
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
from sinfonia.protocol.membership.messages import Directory
from sinfonia.protocol.recovery import Outcome
from sinfonia.protocol.watching import Watched
from sinfonia.transport.keys import Keys

# Outcomes that are known should reach the participants; after this long the manager must see to it.
CLOSE_PATIENCE = 0.25

# The longest that a thread waits without looking at the time.
WAIT_MAX = 0.1


class _Pipeline:
    """How many calls of one ``execute_many`` are outstanding; ``set`` is called as one ends."""

    __slots__ = ("outstanding",)

    def __init__(self) -> None:
        self.outstanding = 0

    def set(self) -> None:
        self.outstanding -= 1


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
        self._thread = threading.current_thread()
        self._closed = False
        self._poller = zmq.Poller()
        self._sockets: dict[MemoryNodeId, zmq.Socket[bytes]] = {}
        self._node_of: dict[zmq.Socket[bytes], MemoryNodeId] = {}
        self._listen()

    @property
    def version(self) -> int:
        """Of the directory that is known here."""
        return self.wire.coordinator.known.version

    @property
    def ended(self) -> bool:
        """Whether its thread has ended, so that it will not be used again."""
        return not self._thread.is_alive()

    def take_over(self) -> None:
        """The calling thread uses it from now on, in place of one that has ended.

        What that has left undone goes on, but for its watches.
        """
        self._thread = threading.current_thread()
        self.wire.end_all_watches()

    def learn(self, directory: Directory) -> None:
        """Take what another thread knows."""
        self.wire.learn(directory, monotonic.seconds())
        self._listen()

    def execute(self, minitransaction: Minitransaction[Any], timeout: float) -> Result:
        now = monotonic.seconds()
        call = self.wire.submit(minitransaction, now=now, deadline=now + timeout)
        try:
            while not _is_over(call):
                self._handle_next()
        except BaseException:
            self._abandon([call])
            raise
        return _result(call)

    def execute_many(
        self, minitransactions: Iterable[Minitransaction[Any]], timeout: float, in_flight: int
    ) -> list[Result]:
        pipeline = _Pipeline()
        calls: list[Call] = []
        try:
            for minitransaction in minitransactions:
                if pipeline.outstanding >= in_flight:
                    # Half of the window is freed at once, so that one message refills it.
                    while pipeline.outstanding > in_flight // 2:
                        self._handle_next()
                elif len(calls) % SEND_TOGETHER == 0:
                    self._flush()
                call = self._submit(minitransaction, timeout)
                calls.append(call)
                if call.error is None:
                    call.waiter = pipeline
                    pipeline.outstanding += 1
            while pipeline.outstanding:
                self._handle_next()
        except BaseException:
            self._abandon(calls)
            raise
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
        while (outcome := self.wire.outcome(tid)) is None and monotonic.seconds() < deadline:
            self._handle_next()
        if outcome is not None and outcome is not Outcome.FORGOTTEN:
            return outcome is Outcome.COMMITTED
        raise OutcomeUnknown(f"the outcome of {tid} cannot be found out", tid)

    def begin_watch(self, node: int, address: int, length: int) -> Watched:
        return self.wire.begin_watch(node, address, length, monotonic.seconds())

    def end_watch(self, watched: Watched) -> None:
        if not self._closed:
            self.wire.end_watch(watched)
            self._flush()

    def wait_for_news(self, watched: Watched, version: int, timeout: float) -> None:
        """Until there is news of ``watched`` later than ``version``, at most ``timeout`` s."""
        deadline = monotonic.seconds() + timeout
        while watched.version == version:
            left = max(0.0, deadline - monotonic.seconds())
            # Of what has come something may be news, even if there is no time to wait for more.
            self._handle_next(left)
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
        finally:
            self.wire.end_inquiry(inquiry)
        return loads_of(inquiry)

    def close(self, patience: float = CLOSE_PATIENCE) -> None:
        deadline = monotonic.seconds() + patience
        self._flush()
        while not self.wire.coordinator.idle and monotonic.seconds() < deadline:
            self._handle_next()
        self._closed = True
        self.wire.close()

    def _handle_next(self, wait_max: float = WAIT_MAX) -> None:
        """Send what is ready, wait until something has come or the time has, and handle it."""
        wire = self.wire
        now = monotonic.seconds()
        wire.flush(now)
        if self._settle():
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
        self._settle()

    def _flush(self) -> None:
        self.wire.flush(monotonic.seconds())
        self._settle()

    def _settle(self) -> bool:
        """Report the calls that are over to the metrics; whether there were any.

        They may be another's than that which drives the wire now: the thread may execute something
        while it prepares a pipeline, and calls that it has abandoned end in their own time.
        """
        finished = self.wire.take_finished()
        for call in finished:
            if call.waiter is not None:
                call.waiter.set()
        return bool(finished)

    def _abandon(self, calls: Iterable[Call]) -> None:
        """The thread was interrupted, and waits for these no more."""
        now = monotonic.seconds()
        self.wire.abandon(calls, now)
        self.wire.flush(now)  # what was not sent yet may not leave at some later time

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


def _is_over(call: Call) -> bool:
    return call.result is not None or call.error is not None


def _result(call: Call) -> Result:
    if call.error is not None:
        raise call.error
    assert call.result is not None
    return call.result
