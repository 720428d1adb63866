"""The client of application nodes, for asyncio and trio alike.

There is no task per minitransaction or per message: one task per memory node waits for its socket,
one sends what has gathered, one minds the time.  Between two awaits the coordinator is consistent;
everything that touches it runs without one.

A socket is closed by the task that waited for it, once it waits no more.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import anyio.lowlevel
import zmq

from sinfonia import monotonic
from sinfonia.addresses import MemoryNodeId
from sinfonia.client.api import (
    SEND_SOON,
    SEND_TOGETHER,
    ClientStatistics,
    ConnectedApi,
    MemoryNodeInfo,
    documented_by,
    time_allowed,
)
from sinfonia.client.load import NodeLoad, loads_of
from sinfonia.client.running import run
from sinfonia.client.seed import ASK_EVERY, DirectorySearch
from sinfonia.client.steps import Steps
from sinfonia.client.waiting import Waiter, waiter_maker, whenever_readable
from sinfonia.client.watch import Watch
from sinfonia.client.wire import Wire
from sinfonia.endpoints import endpoints_of
from sinfonia.errors import InvalidMinitransaction, OutcomeUnknown
from sinfonia.minitransaction import Minitransaction, Result
from sinfonia.protocol.attempts import Call
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.membership.messages import Directory
from sinfonia.protocol.recovery import Outcome
from sinfonia.protocol.watching import Watched
from sinfonia.transport.keys import Keys, as_keys

T = TypeVar("T")

# How often ``outcome`` and ``load`` look whether the answer has come.
LOOK_EVERY = 0.01


async def connect(
    endpoint: str, *, timeout: float = 5.0, keys: Keys | Path | str | None = None
) -> "Cluster":
    """Find the cluster that the process at ``endpoint`` belongs to; use it with ``async with``.

    ``endpoint`` (``tcp://host:port``) is a manager's or any memory node's, or several with commas
    between them, of which any will do; ``timeout`` in seconds.  ``keys``, for a cluster that has
    them: a file made by `sinfonia keygen`, or what ``load_keys`` made of it.  Raises Unreachable or
    ConfigError; both are definite.
    """
    endpoints, loaded = endpoints_of(endpoint), as_keys(keys)
    directory = await _search(endpoints, loaded, timeout=timeout, usable=True)
    return Cluster(directory, endpoints, loaded)


async def _search(
    endpoints: Sequence[str], keys: Keys | None, *, timeout: float, usable: bool
) -> Directory:
    search = DirectorySearch(endpoints, usable=usable, keys=keys)
    try:
        with anyio.move_on_after(timeout):
            while True:
                directory = search.poll(monotonic.seconds())
                if directory is not None:
                    return directory
                await anyio.sleep(ASK_EVERY)
    finally:
        search.close()
    raise search.failure(timeout)


@documented_by(ConnectedApi)
class Cluster:
    """An open connection to a cluster, within ``async with``; for any number of tasks."""

    def __init__(
        self, directory: Directory, seeds: Sequence[str], keys: Keys | None = None
    ) -> None:
        """Use ``connect``."""
        self._wire = Wire(directory, seeds, keys)
        self._keys = keys
        self._tasks = anyio.create_task_group()
        # What ends the task that listens to a memory node.
        self._listening: dict[MemoryNodeId, anyio.CancelScope] = {}
        self._to_send = anyio.Event()
        self._timer = anyio.Event()
        self._new_waiter: Callable[[], Waiter] = anyio.Event
        self._sleeps_until = 0.0
        self._executing = 0  # callers in ``execute``
        self._entered = False
        self._closed = False

    async def __aenter__(self) -> Self:
        self._check_not_closed()
        await self._tasks.__aenter__()
        self._entered = True
        self._new_waiter = waiter_maker()
        self._listen()
        self._tasks.start_soon(self._send)
        self._tasks.start_soon(self._mind_the_time)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._closed:
            return
        # Outcomes that are known should reach the participants.
        self._wire.flush(monotonic.seconds())
        self._closed = True
        try:
            if self._entered:
                self._tasks.cancel_scope.cancel()
                # The body's exception is not told to the task group, which would wrap it.
                await self._tasks.__aexit__(None, None, None)
        finally:
            self._wire.close()
            self._wake_whose_calls_are_over()  # in tasks that are not of the body

    @property
    def nodes(self) -> Mapping[MemoryNodeId, MemoryNodeInfo]:
        return self._wire.nodes

    @property
    def statistics(self) -> ClientStatistics:
        return self._wire.statistics

    def minitransaction(
        self, *, reads_on_failure: bool = False, lock_wait: float = 0.0, tag: str = ""
    ) -> Minitransaction[Any]:
        return Minitransaction(self, reads_on_failure, lock_wait=lock_wait, tag=tag)

    async def execute(
        self, minitransaction: Minitransaction[Any], *, timeout: float | None = None
    ) -> Result:
        self._check_open()
        now = monotonic.seconds()
        wire = self._wire
        call = wire.submit(minitransaction, now=now, deadline=now + time_allowed(timeout))
        call.waiter = waiter = self._new_waiter()
        if not self._executing or wire.gathered >= SEND_SOON:
            self._flush_now()
        elif wire.gathered == 1:
            self._to_send.set()  # others are about to send as well, perhaps in the same message
        self._executing += 1
        try:
            await waiter.wait()
        except BaseException:
            self._abandon([call])
            raise
        finally:
            self._executing -= 1
        return _result(call)

    async def execute_many(
        self,
        minitransactions: Iterable[Minitransaction[Any]],
        *,
        timeout: float | None = None,
        in_flight: int = 1024,
    ) -> list[Result]:
        self._check_open()
        window = _Window(in_flight)
        calls: list[Call] = []
        try:
            for minitransaction in minitransactions:
                if window.full:
                    self._flush_now()
                    await window.has_room()
                elif self._wire.gathered >= SEND_TOGETHER:
                    # The memory nodes should not idle while the rest is being prepared.
                    self._flush_now()
                    await anyio.lowlevel.checkpoint()
                calls.append(self._submit(minitransaction, timeout, window))
            self._to_send.set()
            await window.is_empty()
        except BaseException:
            self._abandon(calls)
            raise
        return [_result(call) for call in calls]

    async def read(
        self, node: int, address: int, length: int, *, timeout: float | None = None
    ) -> bytes:
        minitransaction = self.minitransaction()
        minitransaction.read(node, address, length)
        return (await self.execute(minitransaction, timeout=timeout)).reads[0]

    async def write(
        self, node: int, address: int, data: bytes, *, timeout: float | None = None
    ) -> None:
        minitransaction = self.minitransaction()
        minitransaction.write(node, address, data)
        await self.execute(minitransaction, timeout=timeout)

    async def outcome(self, tid: Tid, *, timeout: float | None = None) -> bool:
        with anyio.move_on_after(time_allowed(timeout)):
            while True:
                outcome = self._wire.outcome(tid)
                if outcome is Outcome.FORGOTTEN:
                    break
                if outcome is not None:
                    return outcome is Outcome.COMMITTED
                await anyio.sleep(LOOK_EVERY)
        raise OutcomeUnknown(f"the outcome of {tid} cannot be found out", tid)

    def watch(self, node: int, address: int, length: int) -> Watch:
        return Watch(lambda waiter: self._begin_watch(node, address, length, waiter), self._unwatch)

    async def load(
        self, node: int | None = None, *, timeout: float | None = None
    ) -> Mapping[MemoryNodeId, NodeLoad]:
        self._check_open()
        inquiry = self._wire.begin_inquiry(node, monotonic.seconds())
        try:
            self._flush_now()
            with anyio.move_on_after(time_allowed(timeout)):
                while True:
                    await anyio.sleep(LOOK_EVERY)
                    if not inquiry.unanswered:
                        break
        finally:
            self._wire.end_inquiry(inquiry)
        return loads_of(inquiry)

    async def run(self, steps: Steps[T], *, timeout: float | None = None) -> T:
        return await run(self, steps, timeout=timeout)

    async def refresh(self, *, timeout: float = 5.0) -> None:
        self._check_open()
        directory = await _search(self._wire.places(), self._keys, timeout=timeout, usable=False)
        self._check_open()
        self._wire.learn(directory, monotonic.seconds())
        self._flush_now()

    async def aclose(self) -> None:
        await self.__aexit__(None, None, None)

    # --- tasks ---------------------------------------------------------------------------------

    def _flush_now(self) -> None:
        self._wire.flush(monotonic.seconds())
        self._wake_callers()

    def _check_open(self) -> None:
        self._check_not_closed()
        if not self._entered:
            raise RuntimeError("a cluster must be opened first: use it in an async with statement")

    def _check_not_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the cluster was closed")

    def _submit(
        self, minitransaction: Minitransaction[Any], timeout: float | None, window: "_Window"
    ) -> Call:
        """One call of a pipeline; that it cannot be executed must not stop the others."""
        self._check_open()
        now = monotonic.seconds()
        deadline = now + time_allowed(timeout)
        try:
            call = self._wire.submit(minitransaction, now=now, deadline=deadline)
        except InvalidMinitransaction as error:
            return Call(minitransaction, deadline, error=error)
        call.waiter = window
        window.outstanding += 1
        return call

    def _abandon(self, calls: Iterable[Call]) -> None:
        """The task was cancelled, and waits for these no more."""
        self._wire.abandon(calls, monotonic.seconds())
        self._to_send.set()  # what was not sent yet may not leave at some later time

    def _begin_watch(self, node: int, address: int, length: int, waiter: Watch) -> Watched:
        self._check_open()
        watched = self._wire.begin_watch(node, address, length, monotonic.seconds())
        watched.waiter = waiter
        self._to_send.set()  # with those of other tasks, if there are any
        return watched

    def _unwatch(self, watched: Watched) -> None:
        self._wire.end_watch(watched)
        self._to_send.set()

    def _listen(self) -> None:
        """Listen to the sockets that are new, and no more to those that they replace."""
        opened = self._wire.opened
        while opened:
            node, socket = opened.pop(0)
            if node in self._listening:
                self._listening[node].cancel()
            self._listening[node] = scope = anyio.CancelScope()
            self._tasks.start_soon(self._receive, node, socket, scope)

    async def _receive(
        self, node: MemoryNodeId, socket: "zmq.Socket[bytes]", scope: anyio.CancelScope
    ) -> None:
        descriptor = socket.get(zmq.FD)
        assert isinstance(descriptor, int)
        with scope:
            await whenever_readable(descriptor, lambda: self._handle(node))
        socket.close(0)

    def _handle(self, node: MemoryNodeId) -> None:
        """What has come from ``node``."""
        self._wire.drain(node)
        self._wire.flush(monotonic.seconds())
        self._wake_callers()

    async def _send(self) -> None:
        while True:
            await self._to_send.wait()
            self._to_send = anyio.Event()
            self._flush_now()

    async def _mind_the_time(self) -> None:
        while True:
            wakeup = self._wire.next_wakeup()
            self._sleeps_until = math.inf if wakeup is None else wakeup
            wait = None if wakeup is None else max(0.0, wakeup - monotonic.seconds())
            with anyio.move_on_after(wait):
                await self._timer.wait()
            self._timer = anyio.Event()
            now = monotonic.seconds()
            self._wire.tick(now)
            self._wire.flush(now)
            self._wake_callers()

    def _wake_whose_calls_are_over(self) -> None:
        for call in self._wire.take_finished():
            if call.waiter is not None:
                call.waiter.set()

    def _wake_callers(self) -> None:
        self._wake_whose_calls_are_over()
        for watched in self._wire.take_news():
            if watched.waiter is not None:
                watched.waiter.wake()
        if self._wire.opened:
            self._listen()
        wakeup = self._wire.next_wakeup()
        if wakeup is not None and wakeup < self._sleeps_until:
            self._timer.set()


class _Window:
    """How many calls of one ``execute_many`` are outstanding; ``set`` is called as one ends."""

    def __init__(self, size: int) -> None:
        self.outstanding = 0
        self._size = size
        self._low = 0
        self._event = anyio.Event()

    @property
    def full(self) -> bool:
        return self.outstanding >= self._size

    def set(self) -> None:
        self.outstanding -= 1
        if self.outstanding <= self._low:
            self._event.set()

    async def has_room(self) -> None:
        """Wait until half of the window is free, so that one wake-up refills it."""
        await self._falls_to(self._size // 2)

    async def is_empty(self) -> None:
        """Wait until all have ended."""
        await self._falls_to(0)

    async def _falls_to(self, low: int) -> None:
        if self.outstanding > low:
            self._low = low
            self._event = anyio.Event()
            await self._event.wait()


def _result(call: Call) -> Result:
    if call.error is not None:
        raise call.error
    assert call.result is not None
    return call.result
