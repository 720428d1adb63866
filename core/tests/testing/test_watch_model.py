"""Watches on the model, which libraries test on; and operations that wait for a change."""

from collections.abc import Awaitable, Callable

import anyio
import pytest

from sinfonia.addresses import MemoryNodeId
from sinfonia.client import running
from sinfonia.client.steps import Steps, execute, minitransaction, wait_for_change
from sinfonia.client.watch import Watch
from sinfonia.errors import OutOfRange, Refused, TimedOut
from sinfonia.rings import HEADER_BYTES, RingHeader
from sinfonia.testing.model import ModelCluster

# Virtually never: what is waited for in these tests comes.
PATIENCE = 30.0

AT_ONCE = 0.0


def run(program: Callable[[ModelCluster], Awaitable[None]]) -> None:
    async def main() -> None:
        with anyio.fail_after(PATIENCE / 2):
            async with ModelCluster(memory_nodes=2, capacity=4096) as cluster:
                await program(cluster)
                assert not cluster.watches, "a watch was left open"

    anyio.run(main)


def test_the_first_wait_ends_at_once_and_later_ones_with_a_commit() -> None:
    async def program(cluster: ModelCluster) -> None:
        async with cluster.watch(0, 100, 8) as watch:
            assert await watch.wait(PATIENCE)
            assert not await watch.wait(AT_ONCE)
            await cluster.write(0, 99, b"12")
            assert await watch.wait(AT_ONCE)
            await cluster.write(0, 92, b"12345678")
            await cluster.write(0, 108, b"1")
            await cluster.write(1, 100, b"1")
            assert not await watch.wait(AT_ONCE)

    run(program)


def test_what_did_not_commit_touches_nothing_and_updates_touch_what_they_change() -> None:
    ring, header = 1024, RingHeader(slot_bytes=32, slots=4)

    async def program(cluster: ModelCluster) -> None:
        await cluster.write(0, ring, header.encode())
        slots = [ring + header.place(position) for position in range(4)]
        async with (
            cluster.watch(0, 8, 8) as word,
            cluster.watch(0, ring, HEADER_BYTES) as head,
            cluster.watch(0, slots[0], 32) as first,
            cluster.watch(0, slots[1], 32) as second,
        ):
            for watch in (word, head, first, second):
                assert await watch.wait(AT_ONCE)
            failing = cluster.minitransaction()
            failing.compare(0, 0, b"something else")
            failing.write(0, 8, b"1")
            assert not (await failing.execute()).committed
            updates = cluster.minitransaction()
            updates.add(0, 12, 1, width=4)
            updates.append(0, ring, b"record")
            await updates.execute()
            touched = [await watch.wait(AT_ONCE) for watch in (word, head, first, second)]
            assert touched == [True, True, True, False]

    run(program)


def test_every_task_is_told_of_all_since_its_own_last_wait() -> None:
    async def program(cluster: ModelCluster) -> None:
        reads, written = anyio.Event(), anyio.Event()

        async def slow_reader(watch: Watch) -> None:
            assert await watch.wait(AT_ONCE)
            reads.set()
            await written.wait()
            assert await watch.wait(AT_ONCE), "another task was told, and this one not"
            assert not await watch.wait(AT_ONCE)

        async with cluster.watch(0, 0, 1) as watch, anyio.create_task_group() as tasks:
            assert await watch.wait(AT_ONCE)
            tasks.start_soon(slow_reader, watch)
            await reads.wait()
            await cluster.write(0, 0, b"1")
            assert await watch.wait(AT_ONCE)
            written.set()

    run(program)


def test_all_tasks_that_wait_are_woken() -> None:
    async def program(cluster: ModelCluster) -> None:
        async def reader(watch: Watch) -> None:
            while await cluster.read(0, 0, 1) != b"3":
                assert await watch.wait(PATIENCE)

        async with cluster.watch(0, 0, 1) as watch, anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(reader, watch)
            for value in (b"1", b"2", b"3"):
                await anyio.sleep(0.002)
                await cluster.write(0, 0, value)

    run(program)


def test_a_watch_can_be_iterated() -> None:
    async def program(cluster: ModelCluster) -> None:
        values: list[bytes] = []
        async with cluster.watch(0, 0, 1) as watch:
            async for _ in watch:
                values.append(await cluster.read(0, 0, 1))
                if len(values) == 3:
                    break
                await cluster.write(0, 0, b"%d" % len(values))
        assert values == [b"\0", b"1", b"2"]

    run(program)


def test_a_watch_must_be_open_and_within_the_memory() -> None:
    async def program(cluster: ModelCluster) -> None:
        with pytest.raises(RuntimeError, match="opened first"):
            await cluster.watch(0, 0, 1).wait()
        for node, address, length in ((0, 4090, 8), (0, 0, 0), (2, 0, 1), (0, -1, 1)):
            with pytest.raises(OutOfRange):
                async with cluster.watch(node, address, length):
                    pass

    run(program)


# --- operations --------------------------------------------------------------------------------


def wait_until_set(node: int, address: int) -> Steps[bytes]:
    """Read a byte until it is not zero; hints say when to look."""
    while True:
        t = minitransaction()
        t.read(node, address, 1)
        [value] = (yield from execute(t)).reads
        if value != b"\0":
            return value
        yield from wait_for_change(node, address, 1, seconds=PATIENCE)


def test_an_operation_waits_for_a_hint_and_reads_no_more_than_it_must() -> None:
    async def program(cluster: ModelCluster) -> None:
        async with anyio.create_task_group() as tasks:

            async def operation() -> None:
                assert await cluster.run(wait_until_set(0, 5)) == b"x"

            tasks.start_soon(operation)
            await anyio.sleep(0.02)
            assert cluster.watches
            await cluster.write(0, 6, b"y")
            await cluster.write(0, 5, b"x")
        # Before arming, after arming, and after the hint; and two writes.
        assert cluster.statistics.executed == 5

    run(program)


class Disturbed(ModelCluster):
    """Somebody else writes at one point of an operation that reads, arms, reads and waits."""

    def __init__(self, moment: str) -> None:
        super().__init__(capacity=4096)
        self._moment = moment
        self.before_execute = lambda _: self._reach(f"read {self.statistics.executed}")

    def watch(self, node: int, address: int, length: int) -> Watch:
        self._reach("arm")
        return super().watch(node, address, length)

    def _reach(self, moment: str) -> None:
        if moment == self._moment:
            self.memory[MemoryNodeId(0)][5:6] = b"x"
            self.touch(0, 5, 1)


@pytest.mark.parametrize("moment", ["read 0", "arm", "read 1"])
def test_a_change_at_any_point_of_the_operation_is_seen(moment: str) -> None:
    """Also between the read and the arming: then the arming itself is the hint."""

    async def main() -> None:
        with anyio.fail_after(PATIENCE / 2):
            assert await Disturbed(moment).run(wait_until_set(0, 5)) == b"x"

    anyio.run(main)


def test_an_operation_that_waits_in_vain_ends_at_its_deadline() -> None:
    async def program(cluster: ModelCluster) -> None:
        with pytest.raises(TimedOut, match="waited for a change"):
            await cluster.run(wait_until_set(0, 5), timeout=0.05)

    run(program)


def test_an_operation_watches_a_bounded_number_of_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "STEP_WATCHES_MAX", 3)
    most = 0

    def visit_all(cluster: ModelCluster) -> Steps[list[bool]]:
        nonlocal most
        answers = []
        for address in (0, 1, 2, 0, 3, 0, 1):
            answers.append((yield from wait_for_change(0, address, 1, seconds=0.01)))
            most = max(most, len(cluster.watches))
        return answers

    async def program(cluster: ModelCluster) -> None:
        # Armed anew: 0, 1, 2, 3 and 1 again, which was let go for 3.
        assert await cluster.run(visit_all(cluster)) == [True, True, True, False, True, False, True]
        assert most == 3

    run(program)


def test_where_no_watch_can_be_had_waiting_for_a_change_is_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(watch: Watch, timeout: float = 0.0) -> bool:
        raise Refused("too many")

    def operation() -> Steps[bool]:
        return (yield from wait_for_change(0, 0, 1, seconds=0.01))

    monkeypatch.setattr(Watch, "wait", refuse)

    async def program(cluster: ModelCluster) -> None:
        assert await cluster.run(operation()) is False

    run(program)


def test_a_range_that_is_not_there_is_the_operations_error() -> None:
    def operation() -> Steps[bool]:
        try:
            return (yield from wait_for_change(0, 5000, 1, seconds=PATIENCE))
        except OutOfRange:
            return False

    async def program(cluster: ModelCluster) -> None:
        assert await cluster.run(operation()) is False

    run(program)
