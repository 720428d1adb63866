"""A request is given up when its program is killed, or is interrupted and has waited too long.

The kernel tells that a signal came for the caller of a request, but not which signal.  The mount
can only see whether the program is about to end.  A program that has a handler for the signal (a
timer, the end of a child) does not expect EINTR from a file system.  So a program gets EINTR only
from a request that has already taken longer than a file system that answers would take, and never
from a request that is changing something, because EINTR says that nothing was changed.

The kernel tells of the first signal only.  So the mount looks at the caller of an interrupted
request again and again until the request is over.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio

from sinfoniafs.libfuse import Caller, Libfuse
from sinfoniafs.patience import Patience
from sinfoniafs.privileges import is_being_killed

# How long a request is left alone after a signal that does not kill.
ANSWER_EXPECTED_S: Final = 1.0
# How often the mount looks at interrupted callers, and for how long a killed caller waits for a
# request that may be about to end well.
LOOK_EVERY_S: Final = 0.1


class Interrupts:
    """The requests whose callers were interrupted."""

    def __init__(self, libfuse: Libfuse | None) -> None:
        self._libfuse = libfuse
        self._given_up: dict[Patience, Caller] = {}
        self._news = anyio.Event()

    @contextmanager
    def heeded(self, patience: Patience) -> Iterator[Caller | None]:
        """To be entered first of all in a request's handler; gives the caller of the request."""
        handle = self._libfuse.take_handle() if self._libfuse else 0
        if self._libfuse is None or not handle:
            yield None
            return
        caller = self._libfuse.caller(handle)

        def on_interrupt() -> None:
            self._given_up[patience] = caller
            self._news.set()

        with self._libfuse.watched(handle, on_interrupt):
            try:
                yield caller
            finally:
                self._given_up.pop(patience, None)

    async def watch(self) -> None:
        """Give up the requests whose callers end or have waited too long, until cancelled."""
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            while self._given_up:
                await anyio.sleep(LOOK_EVERY_S)
                for patience, caller in list(self._given_up.items()):
                    self._look(patience, caller)

    @staticmethod
    def _look(patience: Patience, caller: Caller) -> None:
        if is_being_killed(caller.pid):
            patience.abandon()
        elif anyio.current_time() - patience.started > ANSWER_EXPECTED_S:
            patience.interrupt()
