"""Waiting, as cheaply as the event loop allows: it is a third of what a call costs.

On trio these are AnyIO's own means.  On asyncio they are the loop's: a bare future instead of an
event, and a reader that stays registered instead of one that is registered anew for each message.
Both can be cancelled at any moment, like everything else.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import anyio
import anyio.lowlevel


class Waiter(Protocol):
    """One task waits until another calls ``set``, which may come first or more than once."""

    def set(self) -> None: ...

    async def wait(self) -> None: ...


class _FutureWaiter:
    """A waiter on asyncio, made and used in the thread of one loop."""

    __slots__ = ("_future",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._future = loop.create_future()

    def set(self) -> None:
        # The future of a task that was cancelled is done, too.
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        if self._future.done():
            # Others must have their turn, though there is nothing to wait for.
            await anyio.lowlevel.checkpoint()
        else:
            await self._future


def waiter_maker() -> Callable[[], Waiter]:
    """What makes waiters on the event loop that runs now."""
    if not _on_asyncio():
        return anyio.Event
    loop = asyncio.get_running_loop()
    return lambda: _FutureWaiter(loop)


async def whenever_readable(descriptor: int, handle: Callable[[], None]) -> None:
    """Call ``handle`` whenever ``descriptor`` is readable, until cancelled.

    What ``handle`` raises is raised here.
    """
    if not _on_asyncio():
        while True:
            await anyio.wait_readable(descriptor)
            handle()
    loop = asyncio.get_running_loop()
    failure: asyncio.Future[None] = loop.create_future()

    def on_readable() -> None:
        try:
            handle()
        except BaseException as error:  # noqa: BLE001 - raised again by the task that listens
            loop.remove_reader(descriptor)
            if not failure.done():
                failure.set_exception(error)

    loop.add_reader(descriptor, on_readable)
    try:
        await failure
    finally:
        loop.remove_reader(descriptor)


def _on_asyncio() -> bool:
    """Whether an asyncio task is at work; trio may be a guest of asyncio's loop without one."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False
