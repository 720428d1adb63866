"""Nobody is asked, told or kept waiting for what is settled already, or cannot be."""

import pytest

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.steps import minitransaction as unbound_minitransaction
from sinfonia.errors import NotExecuted, OutcomeUnknown, TimedOut
from sinfonia.minitransaction import AddItem, Result
from sinfonia.protocol import outcomes
from sinfonia.protocol.calls import TICK
from sinfonia.protocol.conversation import NOT_SERVING_RETRY, RESEND_AFTER
from sinfonia.protocol.messages import Commit, ExecCommit, Request, Requests, Resolve, Vote, Voted
from sinfonia.simulation.participant_harness import ParticipantHarness, prepare, tid
from sinfonia.simulation.world import Item, World

WRITE: Item = ("write", 0, 0, b"x")
WRITE_BOTH: tuple[Item, Item] = (("write", 0, 0, b"x"), ("write", 1, 0, b"y"))
ONE = MemoryNodeId(1)


def test_only_what_was_turned_away_is_asked_again() -> None:
    """A memory node that is full has the rest, and is busy with it."""
    world = World(1)
    calls = [world.begin(WRITE) for _ in range(20)]
    at_work, world.on_the_way = world.on_the_way[:-1], world.on_the_way[-1:]
    world.overloaded.add(MemoryNodeId(0))
    world.deliver()
    world.receive()
    world.pass_time(NOT_SERVING_RETRY + 2 * TICK)
    assert world.coordinator.calls.resent == 1
    world.overloaded.clear()
    world.on_the_way += at_work
    world.settle()
    assert all(call.result == Result(True, [], (), 1) for call in calls)
    world.check()


def test_a_participant_that_was_never_reached_is_not_told_of_an_abort() -> None:
    """It may be away for good, and the client would never stop telling it."""
    world = World()
    call = world.begin(*WRITE_BOTH, timeout=0.2)
    for each in world.on_the_way:
        if each.node == ONE:
            world.coordinator.on_unsent(ONE, each.batch.requests, world.now)
    world.on_the_way = [each for each in world.on_the_way if each.node != ONE]
    # Every later copy meets the same end.
    while call.error is None:
        world.deliver(to=[0])
        world.receive()
        for each in world.on_the_way:
            world.coordinator.on_unsent(ONE, each.batch.requests, world.now)
        world.on_the_way.clear()
        world.pass_time(TICK)
    assert isinstance(call.error, TimedOut)
    told = [node for node, request in world.sent if isinstance(request, Commit)]
    assert set(told) == {0}
    world.check()


def test_unacknowledged_outcomes_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outcomes, "COMMITTING_MAX", 3)
    world = World()
    for k in range(10):
        world.begin(("write", 0, 8 * k, b"x"), ("write", 1, 8 * k, b"y"))
        world.deliver()
        world.receive()
        world.lose_everything()
    before = len(world.sent)
    world.pass_time(RESEND_AFTER + TICK)
    assert len([node for node, request in world.sent[before:] if isinstance(request, Commit)]) == 6


def test_closing_says_what_is_known_of_each_call() -> None:
    world = World()
    busy = world.harnesses[MemoryNodeId(0)]
    assert busy.vote(prepare(1, write=[(64, b"other")], client=8), client=8).vote is Vote.OK
    retrying = world.begin(("write", 0, 64, b"x"))
    world.settle()
    done = world.begin(("read", 0, 0, 1))
    world.settle()
    reading = world.begin(("read", 0, 0, 1))
    writing = world.begin(*WRITE_BOTH)
    unreached = world.begin(("write", 1, 0, b"x"))
    last = world.on_the_way[-1]
    world.coordinator.on_unsent(ONE, last.batch.requests, world.now)
    world.coordinator.on_close()
    assert done.error is None
    for call in (retrying, reading, unreached):
        assert isinstance(call.error, NotExecuted)
    assert isinstance(writing.error, OutcomeUnknown)
    assert {*map(id, world.coordinator.calls.finished)} == {
        id(call) for call in (done, retrying, reading, writing, unreached)
    }


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 0), (0.0004, 1), (0.0016, 2), (0.05, 50)])
def test_a_wait_for_locks_is_not_rounded_to_none(seconds: float, expected: int) -> None:
    world = World(1)
    minitransaction = unbound_minitransaction(lock_wait=seconds)
    minitransaction.write(0, 0, b"x")
    world.execute(10.0, minitransaction)
    [(_, request)] = world.sent
    assert isinstance(request, ExecCommit)
    assert request.lock_wait_ms == expected


def test_a_promise_to_abort_outlives_the_line_in_which_its_tid_waits() -> None:
    harness = ParticipantHarness()
    assert harness.vote(prepare(1, write=[(0, bytes(8))])).vote is Vote.OK

    def deliver(request: Request) -> None:
        batch = Requests(1, 8, harness.participant.incarnation, 0, [request])
        harness.participant.on_requests(batch, harness.now, b"route")

    deliver(ExecCommit(counter=5, epoch=0, updates=[AddItem(0, 8, 1)], lock_wait_ms=20))
    deliver(Resolve(tid(5, client=8), [MemoryNodeId(0)]))
    harness.now += 1.0
    harness.participant.on_tick(harness.now)
    kept = {
        state.client: state.outcomes
        for state in harness.participant.state.checkpoint_state().sessions
    }
    assert kept[8] == [Voted(5, Vote.BAD_FORCED)], "a checkpoint would forget it"
