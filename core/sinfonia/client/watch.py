"""A watch tells its reader when to read again; what is there only reading tells.

Arm it, read, and wait: the first ``wait`` returns as soon as the memory node has armed the watch,
because what was written until then went unwatched; from then on it returns when a commit has
touched the range.  True may be said too often, False only if no hint came in the time allowed;
then it is as well to read all the same, for a hint may be lost::

    async with cluster.watch(node, address, 8) as watch:
        while True:
            value = await cluster.read(node, address, 8)
            ...
            await watch.wait()

Several tasks may wait for one watch: each is told of everything since its own last ``wait``.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

import anyio
import anyio.lowlevel

from sinfonia.protocol.watching import Watched

# How long a reader relies on hints before it reads unasked (seconds).  A hint is lost only with its
# connection, and the watch's renewal finds that out; this is the belt to those braces.
POLL_EVERY = 2.0

# Tasks whose last ``wait`` is remembered; one that is forgotten reads once more than it need.
TASKS_MAX = 64


class Watch:
    """A range that is watched within ``async with``; see the module's text."""

    def __init__(self, begin: Callable[["Watch"], Watched], end: Callable[[Watched], None]) -> None:
        """Use ``Cluster.watch``."""
        self._begin = begin
        self._end = end
        self._watched: Watched | None = None
        self._changed = anyio.Event()
        # The version that each task has been told of; a task that follows on one that has ended
        # read later than that one was told.
        self._told: dict[int, int] = {}

    async def __aenter__(self) -> Self:
        """Begin to watch.  Raises OutOfRange or LimitExceeded; both are definite."""
        assert self._watched is None, "the watch is open already"
        self._watched = self._begin(self)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Watch no more."""
        watched, self._watched = self._watched, None
        if watched is not None:
            self._end(watched)

    async def wait(self, timeout: float = POLL_EVERY) -> bool:
        """Wait until the range may have changed since this task's last ``wait``.

        True: it may have, or the watch had to be armed (again).  False: not for ``timeout``
        seconds, as far as is known.  Raises Refused (definite) if the memory node takes no such
        watch; then there is nothing for it but to read from time to time.
        """
        watched = _opened(self._watched)
        task = anyio.get_current_task().id
        told = self._told.pop(task, 0)
        if watched.version == told and not watched.refused:
            with anyio.move_on_after(timeout):
                while watched.version == told and not watched.refused:
                    await self._changed.wait()
        else:
            await anyio.lowlevel.checkpoint()
        if watched.refused:
            raise watched.refusal()
        self._told[task] = watched.version
        if len(self._told) > TASKS_MAX:
            del self._told[next(iter(self._told))]
        return watched.version != told

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bool:
        """What ``wait`` says; the iteration does not end by itself."""
        return await self.wait()

    def wake(self) -> None:
        """There is news; called by the client."""
        self._changed.set()
        self._changed = anyio.Event()


class WatchConnection(Protocol):
    """The connection of one thread."""

    def begin_watch(self, node: int, address: int, length: int) -> Watched: ...
    def end_watch(self, watched: Watched) -> None: ...
    def wait_for_news(self, watched: Watched, version: int, timeout: float) -> None: ...


class BlockingWatch:
    """A range that one thread watches, within ``with``; see the module's text.

    It belongs to the thread that opens it: hints come in while that thread waits, for this watch or
    for a minitransaction.
    """

    def __init__(
        self, connection_of: Callable[[], WatchConnection], node: int, address: int, length: int
    ) -> None:
        """Use ``BlockingCluster.watch``; ``connection_of`` gives the calling thread's."""
        self._connection_of = connection_of
        self._range = node, address, length
        self._open: tuple[WatchConnection, Watched] | None = None
        self._told = 0

    def __enter__(self) -> Self:
        """Begin to watch.  Raises OutOfRange or LimitExceeded; both are definite."""
        assert self._open is None, "the watch is open already"
        connection = self._connection_of()
        self._open = connection, connection.begin_watch(*self._range)
        self._told = 0
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Watch no more."""
        if self._open is not None:
            connection, watched = self._open
            self._open = None
            connection.end_watch(watched)

    def wait(self, timeout: float = POLL_EVERY) -> bool:
        """Wait until the range may have changed since the last ``wait``.

        True: it may have, or the watch had to be armed (again).  False: not for ``timeout``
        seconds, as far as is known.  Raises Refused (definite) if the memory node takes no such
        watch; and RuntimeError in another thread than the one that opened it.
        """
        if self._open is None:
            raise RuntimeError(_NOT_OPEN)
        connection, watched = self._open
        if self._connection_of() is not connection:
            raise RuntimeError("a watch belongs to the thread that opened it")
        connection.wait_for_news(watched, self._told, timeout)
        if watched.refused:
            raise watched.refusal()
        told, self._told = self._told, watched.version
        return told != watched.version

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bool:
        """What ``wait`` says; the iteration does not end by itself."""
        return self.wait()


_NOT_OPEN = "a watch must be opened first: use it in a with statement"


def _opened(watched: Watched | None) -> Watched:
    if watched is None:
        raise RuntimeError(_NOT_OPEN)
    return watched
