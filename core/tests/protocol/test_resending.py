"""What is asked again, and what only takes long: a busy memory node is not given more to do."""

from sinfonia.minitransaction import Result
from sinfonia.protocol.calls import TICK
from sinfonia.protocol.conversation import RESEND_AFTER
from sinfonia.simulation.world import Item, World

WRITE: Item = ("write", 0, 0, b"x")
QUEUE = 40


def answer_one(world: World) -> None:
    """The memory node works off the first of what waits for it."""
    first, *rest = world.on_the_way
    world.on_the_way = [first]
    world.deliver()
    world.on_the_way = rest
    world.receive()


def test_a_memory_node_that_answers_late_but_in_order_is_not_asked_again() -> None:
    world = World(1)
    calls = [world.begin(WRITE) for _ in range(QUEUE)]
    for _ in range(QUEUE):
        assert world.coordinator.calls.resent == 0
        assert not world.coordinator.known.doubtful
        world.pass_time(TICK)
        answer_one(world)
    assert world.now > 2 * RESEND_AFTER
    assert all(call.result == Result(True, [], (), 1) for call in calls)
    world.check()


def test_what_was_overtaken_is_asked_again_while_the_memory_node_goes_on_answering() -> None:
    world = World(1)
    lost = world.begin(WRITE)
    world.lose_everything()
    while world.coordinator.calls.resent == 0:
        assert world.now < RESEND_AFTER + 2 * TICK
        world.begin(WRITE)
        world.settle()
        world.pass_time(TICK)
    assert world.now >= RESEND_AFTER
    world.settle()
    assert lost.result == Result(True, [], (), 1)
    assert world.coordinator.calls.resent == 1
    world.check()


def test_a_memory_node_that_falls_silent_is_asked_again_for_everything() -> None:
    world = World(1)
    calls = [world.begin(WRITE) for _ in range(QUEUE)]
    answer_one(world)
    world.lose_everything()
    world.pass_time(RESEND_AFTER + TICK)
    assert world.coordinator.calls.resent == QUEUE - 1
    assert world.coordinator.known.doubtful
    world.settle()
    assert all(call.result is not None for call in calls)
    world.check()
