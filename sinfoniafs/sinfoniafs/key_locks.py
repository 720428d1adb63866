"""Tasks of one mount lock keys, so that they do not make each other's comparisons fail.

Safety does not depend on these locks: other mounts do not know them, and minitransactions are safe
without them.  They save the round trips that two writers of one directory, in one process, would
cost each other.
"""

from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

import anyio

from sinfonia.errors import TimedOut
from sinfoniafs.patience import time_left


class KeyLocks:
    """A lock for each key, that exists only while a task holds it or waits for it."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[anyio.Event]] = {}

    @asynccontextmanager
    async def hold(self, *keys: Hashable) -> AsyncIterator[None]:
        """Hold all ``keys`` at once; all tasks must name them in one order."""
        held: list[Hashable] = []
        try:
            for key in keys:
                await self.acquire(key)
                held.append(key)
            yield
        finally:
            for key in held:
                self.release(key)

    def is_held(self, key: Hashable) -> bool:
        """Whether a task holds the lock of this key."""
        return key in self._waiting

    async def acquire(self, key: Hashable) -> None:
        """Wait for the lock of ``key``; locks are granted in the order of the calls.

        Raises TimedOut when the time of the request is up.
        """
        queue = self._waiting.get(key)
        if queue is None:
            self._waiting[key] = deque()
            return
        granted = anyio.Event()
        queue.append(granted)
        try:
            with anyio.fail_after(time_left()):
                await granted.wait()
        except BaseException as reason:
            # Cancelled: leave the queue, or pass the lock on if it was granted at the same moment.
            if granted.is_set():
                self.release(key)
            else:
                queue.remove(granted)
            if isinstance(reason, TimeoutError):
                raise TimedOut("requests before this one took all of its time") from reason
            raise

    def release(self, key: Hashable) -> None:
        """Pass on the lock of ``key``."""
        queue = self._waiting[key]
        if queue:
            queue.popleft().set()
        else:
            del self._waiting[key]
