"""Tasks of one mount take turns at a key, and a cancelled task passes its turn on."""

import trio
import trio.testing

from sinfoniafs.key_locks import KeyLocks


def test_turns_come_in_order_and_one_at_a_time() -> None:
    async def main() -> None:
        key_locks = KeyLocks()
        order: list[str] = []

        async def work(number: int) -> None:
            async with key_locks.hold("key"):
                order.append(f"{number} begins")
                await trio.lowlevel.checkpoint()
                order.append(f"{number} ends")

        async with trio.open_nursery() as nursery:
            await key_locks.acquire("key")
            for number in range(4):
                nursery.start_soon(work, number)
                await trio.testing.wait_all_tasks_blocked()
            key_locks.release("key")
        assert order == [f"{number} {what}" for number in range(4) for what in ("begins", "ends")]
        assert not key_locks.is_held("key")

    trio.run(main)


def test_a_task_that_is_cancelled_while_waiting_holds_up_no_other() -> None:
    async def main() -> None:
        key_locks = KeyLocks()
        await key_locks.acquire("key")
        with trio.move_on_after(0):
            await key_locks.acquire("key")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hold, key_locks)
            await trio.testing.wait_all_tasks_blocked()
            # The turn is passed on and its next holder cancelled at the same moment.
            key_locks.release("key")
            nursery.cancel_scope.cancel()
        assert not key_locks.is_held("key")

    trio.run(main)


def test_keys_are_independent_and_held_together() -> None:
    async def main() -> None:
        key_locks = KeyLocks()
        async with key_locks.hold("a", "b"):
            assert key_locks.is_held("a")
            assert key_locks.is_held("b")
            async with key_locks.hold("c"):
                pass
        assert not key_locks.is_held("a")

    trio.run(main)


async def _hold(key_locks: KeyLocks) -> None:
    async with key_locks.hold("key"):
        await trio.lowlevel.checkpoint()
