"""Tasks of one mount take turns at what they would otherwise spoil for each other."""

import trio
import trio.testing

from sinfoniafs.turns import Turns


def test_turns_come_in_order_and_one_at_a_time() -> None:
    async def main() -> None:
        turns = Turns()
        order: list[str] = []

        async def work(number: int) -> None:
            async with turns.hold("key"):
                order.append(f"{number} begins")
                await trio.lowlevel.checkpoint()
                order.append(f"{number} ends")

        async with trio.open_nursery() as nursery:
            await turns.acquire("key")
            for number in range(4):
                nursery.start_soon(work, number)
                await trio.testing.wait_all_tasks_blocked()
            turns.release("key")
        assert order == [f"{number} {what}" for number in range(4) for what in ("begins", "ends")]
        assert not turns.is_held("key")

    trio.run(main)


def test_who_is_cancelled_while_waiting_holds_up_nobody() -> None:
    async def main() -> None:
        turns = Turns()
        await turns.acquire("key")
        with trio.move_on_after(0):
            await turns.acquire("key")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hold, turns)
            await trio.testing.wait_all_tasks_blocked()
            # The turn is passed on and its next holder cancelled at the same moment.
            turns.release("key")
            nursery.cancel_scope.cancel()
        assert not turns.is_held("key")

    trio.run(main)


def test_keys_are_independent_and_held_together() -> None:
    async def main() -> None:
        turns = Turns()
        async with turns.hold("a", "b"):
            assert turns.is_held("a")
            assert turns.is_held("b")
            async with turns.hold("c"):
                pass
        assert not turns.is_held("a")

    trio.run(main)


async def _hold(turns: Turns) -> None:
    async with turns.hold("key"):
        await trio.lowlevel.checkpoint()
