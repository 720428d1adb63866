"""The cheap ways to wait keep the promises of the dear ones, on asyncio and on trio."""

import os
from collections.abc import Iterator

import anyio
import anyio.abc
import pytest

from sinfonia.client.waiting import waiter_maker, whenever_readable

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The reading and the writing end."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@BACKENDS
def test_a_waiting_task_goes_on_when_it_is_set_and_not_before(backend: str) -> None:
    async def main() -> None:
        waiter = waiter_maker()()
        happened = []

        async def wait() -> None:
            await waiter.wait()
            happened.append("woken")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            happened.append("set")
            waiter.set()
            waiter.set()
        assert happened == ["set", "woken"]

    anyio.run(main, backend=backend)


@BACKENDS
def test_what_is_set_already_is_not_waited_for_but_others_get_their_turn(backend: str) -> None:
    async def main() -> None:
        make = waiter_maker()
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count_turns)
            for _ in range(100):
                waiter = make()
                waiter.set()
                await waiter.wait()
            tasks.cancel_scope.cancel()
        assert turns > 10

    anyio.run(main, backend=backend)


@BACKENDS
def test_a_waiting_task_can_be_cancelled_and_is_set_in_vain(backend: str) -> None:
    async def main() -> None:
        waiter = waiter_maker()()
        with anyio.move_on_after(0.01) as scope:
            await waiter.wait()
        assert scope.cancelled_caught
        waiter.set()
        await waiter.wait()

    anyio.run(main, backend=backend)


@BACKENDS
def test_whatever_comes_is_handled_until_cancelled(backend: str, pipe: tuple[int, int]) -> None:
    async def main() -> None:
        read, write = pipe
        came: list[bytes] = []
        handled = anyio.Event()

        def handle() -> None:
            came.append(os.read(read, 1))
            handled.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(whenever_readable, read, handle)
            for number in range(3):
                handled = anyio.Event()
                os.write(write, b"%d" % number)
                await handled.wait()
            tasks.cancel_scope.cancel()
        os.write(write, b"x")
        await anyio.wait_readable(read)
        assert came == [b"0", b"1", b"2"]

    anyio.run(main, backend=backend)


@BACKENDS
def test_what_the_handler_raises_is_raised_where_it_is_waited(
    backend: str, pipe: tuple[int, int]
) -> None:
    async def main() -> None:
        read, write = pipe
        calls = 0

        def fail() -> None:
            nonlocal calls
            calls += 1
            raise LookupError("no such thing")

        os.write(write, b"x")
        with pytest.raises(LookupError, match="no such thing"):
            await whenever_readable(read, fail)
        await anyio.sleep(0.01)
        assert calls == 1

    anyio.run(main, backend=backend)
