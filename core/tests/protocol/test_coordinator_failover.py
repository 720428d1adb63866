"""A memory node fails over while minitransactions are under way: each happens once, or not at all.

The replica that takes over has everything that was ever acknowledged, and perhaps more; what the
old primary said without logging it does not count.
"""

import msgspec
import pytest

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import OutcomeUnknown, OutOfRange, Overloaded, TimedOut
from sinfonia.minitransaction import Result
from sinfonia.protocol.calls import TICK
from sinfonia.protocol.conversation import CONNECT_RETRY, NOT_SERVING_RETRY, RESEND_AFTER
from sinfonia.protocol.known_cluster import DIRECTORY_EVERY
from sinfonia.protocol.membership.messages import MemoryNodeEntry
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    Commit,
    ExecCommit,
    ExecPrepare,
    NotServing,
    Replies,
    Vote,
    Voted,
    WrongConfig,
)
from sinfonia.protocol.recovery import Outcome
from sinfonia.simulation.participant_harness import CAPACITY, ParticipantHarness, one_phase, tid
from sinfonia.simulation.world import Item, World

N0, N1 = MemoryNodeId(0), MemoryNodeId(1)

# Executed a second time, it would find its own write and fail to compare.
SWAP: tuple[Item, ...] = (("compare", 0, 0, b"\0"), ("write", 0, 0, b"x"))
SWAP_BOTH: tuple[Item, ...] = (*SWAP, ("compare", 1, 0, b"\0"), ("write", 1, 0, b"y"))


def fail_over(world: World, *, told_by: str) -> MemoryNodeEntry:
    """Memory node 0 fails over, and the coordinator hears of it from somebody."""
    old = world.coordinator.known.entries[N0].endpoint
    entry = world.fail_over(0)
    match told_by:
        case "a directory":
            world.tell(world.directory)
        case "the old primary":
            world.wrong_config[old] = entry
            world.pass_time(RESEND_AFTER + TICK)
            world.deliver()
            world.receive()
        case "the new primary":
            # Somebody serves at the known address already, say behind a proxy.
            world.members[old] = world.harnesses[N0]
            world.pass_time(RESEND_AFTER + TICK)
            world.deliver()
            world.receive()
    return entry


TOLD_BY = pytest.mark.parametrize(
    "told_by", ["a directory", "the old primary", "the new primary", "nobody yet"]
)


@TOLD_BY
@pytest.mark.parametrize("executed", [False, True])
def test_one_phase_happens_once(told_by: str, executed: bool) -> None:
    world = World()
    call = world.begin(*SWAP)
    if executed:
        world.deliver()
    world.lose_everything()
    fail_over(world, told_by=told_by)
    if told_by == "nobody yet":
        world.pass_time(1.0)
        world.lose_everything()
        world.tell(world.directory)
    world.settle()
    assert call.result == Result(True, [], (), 1), "under the same tid"
    assert world.harnesses[N0].read(0, 1) == b"x"
    world.check()


@TOLD_BY
@pytest.mark.parametrize("prepared", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("voted", [(), (0,), (1,)])
def test_two_phases_happen_at_both_or_none(
    told_by: str, prepared: tuple[int, ...], voted: tuple[int, ...]
) -> None:
    """For every set of EXEC&PREPARE and of votes that got through before."""
    if not set(voted) <= set(prepared):
        return
    world = World()
    call = world.begin(*SWAP_BOTH)
    world.deliver(to=prepared)
    world.receive(of=voted)
    world.lose_everything()
    fail_over(world, told_by=told_by)
    if told_by == "nobody yet":
        world.pass_time(1.0)
        world.lose_everything()
        world.tell(world.directory)
    world.settle()
    world.pass_time(RESEND_AFTER + TICK)
    world.settle()
    assert call.result is not None
    assert call.result.committed
    assert call.attempts == 1
    world.check()
    assert [world.harnesses[node].read(0, 1) for node in (N0, N1)] == [b"x", b"y"]


@TOLD_BY
@pytest.mark.parametrize("committed", [(), (0,), (1,)])
def test_a_commit_follows_the_memory_node(told_by: str, committed: tuple[int, ...]) -> None:
    world = World()
    call = world.begin(*SWAP_BOTH)
    world.deliver()
    world.receive()
    assert call.result is not None
    world.deliver(to=committed)
    world.lose_everything()
    fail_over(world, told_by=told_by)
    world.pass_time(RESEND_AFTER + TICK)
    world.lose_everything()
    world.tell(world.directory)
    world.pass_time(RESEND_AFTER + TICK)
    world.check()
    assert [world.harnesses[node].read(0, 1) for node in (N0, N1)] == [b"x", b"y"]


def test_what_waits_is_sent_to_the_new_primary_at_once() -> None:
    world = World()
    world.begin(*SWAP)
    world.begin(*SWAP_BOTH)
    world.lose_everything()
    entry = world.fail_over(0)
    world.tell(world.directory)
    [each] = world.on_the_way
    assert (each.node, each.endpoint) == (N0, entry.endpoint)
    assert [type(request) for request in each.batch.requests] == [ExecCommit, ExecPrepare]
    assert each.batch.incarnation == entry.incarnation


def test_an_unknown_outcome_is_found_out_from_the_new_primary() -> None:
    world = World()
    call = world.begin(*SWAP_BOTH, timeout=0.2)
    world.deliver()
    world.lose_everything()
    world.pass_time(0.3)
    world.lose_everything()
    assert isinstance(call.error, OutcomeUnknown)
    world.fail_over(0)
    world.tell(world.directory)
    world.pass_time(RESEND_AFTER + TICK)
    world.check()
    assert [world.harnesses[node].read(0, 1) for node in (N0, N1)] == [b"x", b"y"]


def test_reads_of_several_nodes_are_asked_anew_and_all_of_them() -> None:
    """The other votes may be older than the new primary's first write."""
    world = World()
    call = world.begin(("read", 0, 0, 1), ("read", 1, 0, 1))
    world.deliver()
    world.receive(of=[1])
    world.lose_everything()
    world.fail_over(0)
    world.tell(world.directory)
    asked = [each.node for each in world.on_the_way for r in each.batch.requests if _asks(r)]
    assert sorted(asked) == [0, 1]
    assert call.attempts == 2
    world.settle()
    assert call.result is not None
    world.check()


def _asks(request: object) -> bool:
    return isinstance(request, ExecPrepare)


def test_reads_of_one_node_are_asked_of_the_new_primary() -> None:
    world = World()
    call = world.begin(("read", 0, 0, 1))
    world.lose_everything()
    world.fail_over(0)
    world.tell(world.directory)
    world.settle()
    assert call.result == Result(True, [b"\0"], (), 1)


def test_votes_of_the_old_primary_do_not_count_once_the_new_one_is_known() -> None:
    world = World()
    call = world.begin(("compare", 0, 0, b"!"), ("write", 0, 8, b"x"))
    world.deliver()
    old_no = world.coming_back.pop()
    world.fail_over(0)
    world.harnesses[N0].vote(one_phase(1, write=[(0, b"!")]), client=8)
    world.tell(world.directory)
    world.coming_back.append(old_no)
    world.receive()
    assert call.result is None
    world.settle()
    assert call.result is not None
    assert call.result.committed
    world.check()


def test_an_old_directory_changes_nothing() -> None:
    world = World()
    old = world.directory
    first = world.fail_over(0)
    older = world.directory
    entry = world.fail_over(0)
    world.begin(*SWAP)
    world.lose_everything()
    world.tell(world.directory)
    world.lose_everything()
    for stale in (old, older):
        world.tell(stale)
    world.wrong_config[entry.endpoint] = first
    world.pass_time(RESEND_AFTER + TICK)
    world.settle()
    assert world.coordinator.known.entries[N0] == entry
    assert world.coordinator.known.version == world.directory.version


def test_a_directory_of_another_cluster_changes_nothing() -> None:
    """Another cluster may have been started where this one was."""
    world = World()
    before = dict(world.coordinator.known.entries)
    world.fail_over(0)
    world.tell(msgspec.structs.replace(world.directory, cluster="another", epoch=9))
    assert world.coordinator.known.entries == before
    assert world.coordinator.calls.epoch == 0


def test_each_entry_is_compared_by_itself() -> None:
    """A directory may be newer, and yet behind what a member said of its own memory node."""
    world = World()
    between = world.directory
    entry = world.fail_over(0)
    world.coordinator.on_replies(N0, _says(WrongConfig(entry), incarnation=1), world.now)
    moved = msgspec.structs.replace(between.nodes[1], endpoint="elsewhere", config_epoch=1)
    newer = msgspec.structs.replace(between, version=9, nodes=[between.nodes[0], moved])
    world.tell(newer)
    known = world.coordinator.known.entries
    assert known[N0] == entry
    assert known[N1] == moved


def test_an_entry_older_than_the_life_that_was_heard_is_not_believed() -> None:
    world = World()
    entry = world.fail_over(0)
    world.coordinator.on_replies(N0, _says(NotServing(), incarnation=7), world.now)
    world.tell(world.directory)
    assert world.coordinator.known.entries[N0] != entry
    assert world.coordinator.known.incarnations[N0] == 7


def test_two_that_name_each_other_are_asked_in_turns_that_end() -> None:
    """Each says that the other is primary; nothing is sent faster than the time allows."""
    world = World()
    first = world.directory.nodes[0]
    second = world.fail_over(0)
    world.wrong_config = {first.endpoint: second, second.endpoint: first}
    world.begin(*SWAP, timeout=9.0)
    seconds = 2.0
    until = world.now + seconds
    while world.now < until:
        world.settle()
        world.pass_time(TICK)
    copies = sum(isinstance(request, ExecCommit) for _, request in world.sent)
    assert copies <= seconds / NOT_SERVING_RETRY + 2
    third = world.fail_over(0)
    world.wrong_config[second.endpoint] = third
    world.pass_time(2 * NOT_SERVING_RETRY)
    world.check()
    assert world.calls[0].result is not None


def test_a_memory_node_that_was_added_can_be_used() -> None:
    world = World()
    node = MemoryNodeId(2)
    with pytest.raises(OutOfRange, match="there is no memory node 2"):
        world.begin(("write", 2, 0, b"z"))
    harness = ParticipantHarness(2)
    world.harnesses[node] = world.members["node2"] = harness
    added = MemoryNodeEntry(
        node=node, endpoint="node2", capacity=CAPACITY, mode="LOG", identity="id2", incarnation=1
    )
    nodes = [*world.directory.nodes, added]
    world.tell(msgspec.structs.replace(world.directory, version=2, nodes=nodes))
    assert world.coordinator.known.changed == {N0, N1, node}
    call = world.begin(("write", 2, 0, b"z"), ("write", 0, 0, b"x"))
    world.settle()
    assert call.result is not None
    world.check()
    assert harness.read(0, 1) == b"z"


def test_a_process_of_another_memory_node_at_the_address_is_not_believed() -> None:
    world = World()
    call = world.begin(*SWAP)
    reply = Replies(PROTOCOL_VERSION, N1, 9, 9, [Voted(1, Vote.OK)], [], 9)
    world.coordinator.on_replies(N0, reply, world.now)
    assert call.result is None
    assert world.coordinator.known.incarnations[N0] == 1
    world.settle()
    assert call.result is not None


# --- when the directory is asked for ------------------------------------------------------------


def test_no_process_is_asked_for_the_directory_while_all_answer() -> None:
    world = World()
    for _ in range(20):
        world.begin(("read", 0, 0, 1), ("write", 1, 0, b"y"))
        world.settle()
        world.pass_time(TICK)
        assert not world.coordinator.wants_directory(world.now)


def test_silence_makes_it_ask_for_the_directory_again_and_again() -> None:
    world = World()
    world.begin(*SWAP)
    asked = 0
    for _ in range(100):
        world.lose_everything()
        world.pass_time(TICK)
        asked += world.coordinator.wants_directory(world.now)
    assert 2.0 / (RESEND_AFTER + 2 * TICK) - 1 <= asked <= 2.0 / RESEND_AFTER


def test_a_commit_that_is_not_acknowledged_makes_it_ask_for_the_directory() -> None:
    world = World()
    world.begin(*SWAP_BOTH)
    world.deliver()
    world.receive()
    world.deliver(to=[1])
    world.receive()
    world.lose_everything()
    assert not world.coordinator.wants_directory(world.now)
    world.pass_time(RESEND_AFTER + TICK)
    assert world.coordinator.wants_directory(world.now)


@pytest.mark.parametrize("incarnation", [1, 2])
def test_a_member_that_does_not_serve_makes_it_ask_but_not_too_often(incarnation: int) -> None:
    world = World()
    world.begin(*SWAP)
    if incarnation == 2:
        world.coordinator.known.incarnations[N0] = 2
    asked = 0
    for _ in range(100):
        world.now += TICK
        world.coordinator.on_replies(N0, _says(NotServing(), incarnation=1), world.now)
        asked += world.coordinator.wants_directory(world.now)
    assert 2.0 / (DIRECTORY_EVERY + TICK) - 1 <= asked <= 2.0 / DIRECTORY_EVERY + 1


def test_no_connection_makes_it_ask_for_the_directory_unless_one_is_just_coming_up() -> None:
    world = World()
    world.begin(*SWAP)
    asked_at = []
    while world.now < 4 * NOT_SERVING_RETRY:
        world.lose_everything()
        world.coordinator.on_unsent(N0, [], world.now)
        if world.coordinator.wants_directory(world.now):
            asked_at.append(world.now)
        world.pass_time(TICK)
    assert asked_at
    assert min(asked_at) > NOT_SERVING_RETRY


def test_a_connection_that_comes_up_is_used_at_once() -> None:
    world = World()
    world.pass_time(TICK)
    world.begin(*SWAP)
    world.lose_everything()
    world.coordinator.on_unsent(N0, [], world.now)
    wakeup = world.coordinator.next_wakeup()
    assert wakeup is not None
    assert wakeup <= world.now + CONNECT_RETRY
    assert world.coordinator.on_tick(wakeup)


def test_a_copy_that_never_left_is_no_earlier_copy() -> None:
    """Found by the fuzzer: a stale epoch, told to the second copy, was taken for "nobody knows"."""
    world = World()
    world.harnesses[N0].participant.state.epoch = 5
    call = world.begin(*SWAP)
    requests = [request for each in world.on_the_way for request in each.batch.requests]
    world.lose_everything()
    world.coordinator.on_unsent(N0, requests, world.now)
    world.pass_time(NOT_SERVING_RETRY + TICK)
    world.settle()
    assert call.error is None
    assert call.result is not None
    assert call.result.committed


def test_two_memory_nodes_that_come_back_at_once_are_asked_once_each() -> None:
    world = World()
    world.begin(*SWAP_BOTH)
    requests = {each.node: each.batch.requests for each in world.on_the_way}
    world.lose_everything()
    for node, lost in requests.items():
        world.coordinator.on_unsent(node, lost, world.now)
    world.pass_time(NOT_SERVING_RETRY + TICK)
    assert sorted(each.node for each in world.on_the_way) == sorted(requests)
    assert all(len(each.batch.requests) == 1 for each in world.on_the_way)


def test_a_memory_node_that_no_copy_reached_has_certainly_not_executed_it() -> None:
    world = World()
    call = world.begin(*SWAP, timeout=0.1)
    requests = [request for each in world.on_the_way for request in each.batch.requests]
    world.lose_everything()
    world.coordinator.on_unsent(N0, requests, world.now)
    while call.error is None:
        world.now += TICK
        for send in world.coordinator.on_tick(world.now):
            world.coordinator.on_unsent(send.node, [send.request], world.now)
    assert isinstance(call.error, TimedOut)
    assert call.error.definite


# --- clocks, limits -----------------------------------------------------------------------------


def test_the_highest_clock_that_was_heard_is_told_to_every_memory_node() -> None:
    world = World()
    for clock in (5, 17, 11):
        replies = Replies(PROTOCOL_VERSION, N0, 1, 0, [], [], clock)
        world.coordinator.on_replies(N0, replies, world.now)
    world.begin(*SWAP_BOTH)
    assert [each.batch.clock for each in world.on_the_way] == [17, 17]


def test_a_limit_that_is_reached_until_the_deadline_is_a_definite_no() -> None:
    world = World()
    world.overloaded.add(N0)
    call = world.begin(*SWAP, timeout=0.5)
    _until_over(world)
    assert isinstance(call.error, Overloaded)
    assert call.error.definite
    assert "memory node 0" in str(call.error)
    assert "`sinfonia status`" in str(call.error)
    world.overloaded.clear()
    world.check()
    assert world.harnesses[N0].read(0, 1) == b"\0"


def test_a_limit_that_is_reached_is_tried_again_until_it_is_not() -> None:
    world = World()
    world.overloaded.add(N0)
    call = world.begin(*SWAP, timeout=5.0)
    world.settle()
    world.overloaded.clear()
    world.pass_time(2 * NOT_SERVING_RETRY)
    world.settle()
    assert call.result == Result(True, [], (), 1)
    world.check()


def test_a_limit_reached_at_one_participant_aborts_at_the_others() -> None:
    world = World()
    world.overloaded.add(N0)
    call = world.begin(*SWAP_BOTH, timeout=0.5)
    _until_over(world)
    assert isinstance(call.error, Overloaded)
    world.overloaded.clear()
    assert any(isinstance(r, Commit) and not r.action for _, r in world.sent)
    world.check()
    assert world.harnesses[N1].read(0, 1) == b"\0"


def test_a_copy_that_was_not_answered_may_have_happened_whatever_was_said_to_the_others() -> None:
    world = World()
    call = world.begin(*SWAP, timeout=0.6)
    world.deliver()
    world.lose_everything()
    world.overloaded.add(N0)
    _until_over(world)
    assert isinstance(call.error, OutcomeUnknown)
    world.overloaded.clear()
    world.pass_time(RESEND_AFTER + TICK)
    world.settle()
    assert world.coordinator.outcome(tid(1)) is Outcome.COMMITTED


def _until_over(world: World) -> None:
    while world.calls[-1].error is None:
        assert world.now < 5.0
        world.settle()
        world.pass_time(TICK)


def _says(reply: NotServing | WrongConfig, *, incarnation: int) -> Replies:
    return Replies(PROTOCOL_VERSION, N0, incarnation, 0, [reply])
