"""A memory node with replicas: what is acknowledged, who may serve, and how others catch up."""

import math

import msgspec
import pytest

from sinfonia.errors import StorageError
from sinfonia.memnode.settings import State
from sinfonia.protocol.attempts import CLOCK_DRIFT_MARGIN
from sinfonia.protocol.membership.messages import Member, MemoryNodeEntry, Register
from sinfonia.protocol.records import Batch, Stamp, encode_body
from sinfonia.protocol.replication.agreement import common_prefix, new_lives
from sinfonia.protocol.replication.following import (
    LOST_AFTER,
    ApplyUpTo,
    Follower,
    Resign,
    SaveCopy,
    TellNow,
    TellOnceStable,
)
from sinfonia.protocol.replication.limits import ReplicationLimits
from sinfonia.protocol.replication.messages import (
    Appended,
    GetImage,
    GetLog,
    ImageBegun,
    Join,
    Joined,
    Life,
    LogPart,
    Pages,
)
from sinfonia.protocol.replication.pacing import Pacing
from sinfonia.protocol.replication.peer import PeerPhase
from sinfonia.protocol.replication.shipping import Shipping
from sinfonia.simulation.member_group import NODE, TIMES, MemberGroup
from sinfonia.simulation.participant_harness import one_phase
from sinfonia.storage.journal import MemoryLog

LIMITS = ReplicationLimits()

# A replica that was away for a moment has to pull.
SMALL_WINDOW = ReplicationLimits(window=2048)


def in_sync_group(
    *names: str,
    mode: str = "LOG-REPL",
    keep_log_bytes: int = 1 << 20,
    limits: ReplicationLimits = LIMITS,
) -> MemberGroup:
    """All replicas have joined and are counted in sync."""
    group = MemberGroup(*names, mode=mode, keep_log_bytes=keep_log_bytes, limits=limits)
    group.settle(1.0)
    assert set(group.entry.in_sync) == set(names[1:])
    return group


# --- joining -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["LOG-REPL", "RAM-REPL", "NVRAM-REPL"])
def test_replicas_join_and_are_counted_in_sync(mode: str) -> None:
    group = in_sync_group("a", "b", "c", mode=mode)
    assert group.nodes["a"].state is State.SERVING
    assert group.nodes["b"].state is State.FOLLOWING
    group.write(0, b"hello")
    group.settle(1.0)
    assert all(node.space.read(0, 5) == b"hello" for node in group.nodes.values())


def test_a_replica_is_not_in_sync_before_it_has_all_that_was_acknowledged() -> None:
    group = MemberGroup("a", "b")
    group.cut.add("b")
    group.settle(0.1)
    for i in range(20):
        group.write(i * 8, b"%08d" % i)
    acknowledged = group.nodes["a"].member_state.last
    group.cut.clear()
    group.tell("b")
    while not group.entry.in_sync:
        group.settle(0.01)
    assert group.nodes["b"].member_state.last >= acknowledged


def test_a_member_that_is_not_the_primary_names_the_primary_to_clients() -> None:
    group = in_sync_group("a", "b")
    group.ask("b", one_phase(1, write=[(0, b"x")]))
    group.settle()
    [reply] = group.answers
    assert reply.entry == group.entry  # type: ignore[union-attr]


# --- acknowledging -------------------------------------------------------------------------------


def test_a_write_is_acknowledged_only_when_every_in_sync_replica_has_it() -> None:
    group = in_sync_group("a", "b", "c")
    group.cut.add("c")
    counter = group.begin_write("a", 0, b"x")
    group.settle(TIMES.drop_after / 2)
    assert group.answer(counter) is None
    assert group.nodes["b"].member_state.last == group.nodes["a"].member_state.last
    group.cut.clear()
    group.settle(0.3)
    assert group.answer(counter) is not None


def test_a_silent_replica_is_dropped_by_a_new_configuration_and_only_then_not_waited_for() -> None:
    group = in_sync_group("a", "b")
    group.crash("b")
    group.manager_grants = False
    counter = group.begin_write("a", 0, b"x")
    group.settle(3.0)
    assert group.wishes[-1].in_sync == []
    assert group.answer(counter) is None, "the configuration still says that b is in sync"
    group.manager_grants = True
    group.settle(0.5)
    assert group.answer(counter) is not None


def test_a_read_is_answered_at_once_while_the_lease_lasts() -> None:
    group = in_sync_group("a", "b")
    counter = group.begin_read("a", 0, 8)
    group.wake("a")
    group.settle()
    assert group.answer(counter) is not None


def test_a_primary_without_a_lease_answers_no_read() -> None:
    group = in_sync_group("a", "b")
    group.manager_grants = False
    group.cut.add("b")
    group.settle(TIMES.lease)
    counter = group.begin_read("a", 0, 8)
    group.settle(3.0)
    assert group.answer(counter) is None
    group.cut.clear()
    group.settle(0.5)
    assert group.answer(counter) is not None, "b still follows, and says so"


# --- fail-over -----------------------------------------------------------------------------------


def fail_over(group: MemberGroup, to: str) -> None:
    """The manager appoints ``to``; who was primary is a replica from now on, out of sync."""
    old = group.entry.identity
    rest = [each for each in group.entry.in_sync if each != to]
    group.appoint(to, in_sync=rest, others=[old])


def test_the_promoted_replica_has_every_acknowledged_write() -> None:
    group = in_sync_group("a", "b")
    for i in range(10):
        group.write(i * 8, b"%08d" % i)
    group.crash("a")
    fail_over(group, "b")
    group.settle(1.5)
    assert group.nodes["b"].state is State.SERVING
    for i in range(10):
        assert group.read(i * 8, 8) == b"%08d" % i


def test_the_same_request_is_answered_the_same_by_the_promoted_replica() -> None:
    group = in_sync_group("a", "b")
    swap = one_phase(500, read=[(0, 3)], write=[(0, b"new")])
    group.ask("a", swap)
    group.settle(0.1)
    first = group.answer(500)
    group.crash("a")
    fail_over(group, "b")
    group.settle(1.5)
    group.answers.clear()
    group.ask("b", swap)
    group.settle(0.1)
    assert group.answer(500) == first


def test_a_promoted_replica_serves_only_when_its_lease_and_read_locks_have_run_out() -> None:
    group = in_sync_group("a", "b")
    group.write(0, b"x")
    group.cut.add("a")
    node = group.nodes["b"]
    assert node.replica is not None
    granted_until = node.replica.follower.granted_until
    assert granted_until >= group.now + TIMES.lease - 0.2, "it has acknowledged just now"
    fail_over(group, "b")
    while node.state is not State.SERVING:
        group.settle(0.01)
    read_locks = node.settings.read_lease * (1 + CLOCK_DRIFT_MARGIN)
    assert granted_until + read_locks <= group.now < granted_until + read_locks + 0.05


def test_a_restarted_replica_waits_as_long_as_it_may_have_granted() -> None:
    group = in_sync_group("a", "b")
    group.write(0, b"x")
    group.cut.add("a")
    group.crash("b")
    restarted = group.now
    group.start("b")
    group.register("b")
    fail_over(group, "b")
    while group.nodes["b"].state is not State.SERVING:
        group.settle(0.01)
    assert group.now >= restarted + TIMES.granted_lease + group.nodes["b"].settings.read_lease


def test_a_replaced_primary_answers_no_client_though_it_does_not_know() -> None:
    group = in_sync_group("a", "b")
    group.write(0, b"old")
    group.cut.add("a")
    fail_over(group, "b")
    group.settle(1.5)
    group.write(0, b"new")
    group.cut.clear()  # it is back, and nobody has told it
    read = group.begin_read("a", 0, 3)
    write = group.begin_write("a", 8, b"lost")
    group.settle(2.0)
    assert group.answer(read) is None
    assert group.answer(write) is None
    group.tell("a")
    assert group.nodes["a"].state is State.OVER


def test_a_replaced_primary_comes_back_as_a_replica_and_gives_up_what_was_not_acknowledged() -> (
    None
):
    group = in_sync_group("a", "b")
    group.write(0, b"kept")
    group.cut.add("a")
    lost = group.begin_write("a", 8, b"lost")
    group.settle(0.2)
    fail_over(group, "b")
    group.settle(1.5)
    group.write(16, b"more")
    group.cut.clear()
    group.nodes["a"].close()
    group.start("a")
    group.register("a")
    group.settle(3.0)
    assert group.entry.in_sync == ["a"]
    assert group.answer(lost) is None
    assert group.nodes["a"].space.memory[:] == group.nodes["b"].space.memory[:]
    assert group.nodes["a"].space.read(0, 24) == b"kept" + bytes(12) + b"more" + bytes(4)


def test_an_image_that_shows_what_only_the_former_primary_had_is_not_believed() -> None:
    """A primary's checkpoint takes pages as they are, acknowledged or not."""
    group = in_sync_group("a", "b")
    group.write(0, b"kept")
    group.cut.add("a")
    leading = group.nodes["a"].leading
    assert leading is not None
    leading.begin_checkpoint(group.now)
    group.begin_write("a", 8, b"lost")  # on the page that the checkpoint is about to save
    group.settle(0.2)
    assert leading.member_state.checkpointer is not None
    assert leading.member_state.checkpointer.made == 1
    fail_over(group, "b")
    group.settle(1.5)
    group.cut.clear()
    group.crash("a")
    group.start("a")
    group.register("a")
    group.settle(3.0)
    assert group.entry.in_sync == ["a"]
    assert group.nodes["a"].space.read(0, 16) == b"kept" + bytes(12)


def test_a_replica_throws_away_what_the_new_primary_has_not() -> None:
    group = in_sync_group("a", "b", "c")
    group.write(0, b"kept")
    group.cut.add("c")
    lost = group.begin_write("a", 8, b"lost")
    group.settle(0.1)
    assert group.nodes["b"].member_state.last > group.nodes["c"].member_state.last
    group.cut.clear()
    group.crash("a")
    group.wires.clear()
    group.appoint("c", in_sync=["b"], others=["a"])
    group.settle(1.5)
    assert group.answer(lost) is None
    assert group.read(8, 4) == bytes(4)
    group.settle(0.5)
    assert group.nodes["b"].space.read(8, 4) == bytes(4)
    assert group.nodes["b"].member_state.last == group.nodes["c"].member_state.last


def test_all_members_crash_and_the_acknowledged_is_there() -> None:
    group = in_sync_group("a", "b")
    for i in range(50):
        group.write(i * 8, b"%08d" % i)
    for name in ("a", "b"):
        group.crash(name)
    group.start("b")
    group.start("a")
    group.appoint("a", in_sync=["b"], others=["b"])
    group.settle(2.0)
    assert group.entry.in_sync == ["b"]
    assert all(group.read(i * 8, 8) == b"%08d" % i for i in range(50))


# --- catching up ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["LOG-REPL", "RAM-REPL"])
def test_a_replica_that_was_away_for_too_long_copies_everything_while_writes_go_on(
    mode: str,
) -> None:
    group = in_sync_group("a", "b", mode=mode, keep_log_bytes=2048, limits=SMALL_WINDOW)
    group.crash("b")
    group.settle(1.5)
    for i in range(200):
        group.write(i * 4096, b"%08d" % i * 32)
    if mode == "LOG-REPL":
        leading = group.nodes["a"].leading
        assert leading is not None
        leading.begin_checkpoint(group.now)
        group.settle(0.5)
    group.start("b")
    group.register("b")
    written = 200
    while not group.entry.in_sync:
        group.write(written % 250 * 4096, b"%08d" % written * 32)
        written += 1
        assert written < 2000, "the copy never ends"
    group.settle(1.0)
    replica = group.nodes["b"].replica
    assert replica is not None
    assert replica.copied_bytes > 0
    assert group.nodes["b"].space.memory[:] == group.nodes["a"].space.memory[:]


def test_a_copy_that_is_interrupted_begins_again() -> None:
    group = in_sync_group("a", "b", keep_log_bytes=2048, limits=SMALL_WINDOW)
    group.crash("b")
    group.settle(1.5)
    for i in range(250):
        group.write(i * 4096, bytes([i % 255 + 1]) * 4096)
    leading = group.nodes["a"].leading
    assert leading is not None
    leading.begin_checkpoint(group.now)
    group.settle(0.5)
    for crashes in range(20):
        group.start("b")
        group.register("b")
        for _ in range(crashes):
            group.settle()
            group.now += 0.01
        group.crash("b")
        group.settle(0.2)
    group.start("b")
    group.register("b")
    group.settle(3.0)
    assert group.entry.in_sync == ["b"]
    assert group.nodes["b"].space.memory[:] == group.nodes["a"].space.memory[:]


# --- logs ----------------------------------------------------------------------------------------


def test_logs_are_the_same_as_far_as_the_same_lives_wrote_them() -> None:
    first, second, third = Life(1, 1), Life(2, 9), Life(3, 6)
    assert common_prefix([first], 10, [first], 8) == 8
    assert common_prefix([first], 10, [first, second], 12) == 8
    assert common_prefix([first, second], 9, [first, third], 9) == 5
    assert common_prefix([], 0, [first], 9) == 0
    assert common_prefix([Life(7, 1)], 4, [first], 9) == 0


def test_new_lives_are_those_that_wrote_what_comes_and_are_not_known() -> None:
    lives = [Life(1, 1), Life(2, 9), Life(4, 9), Life(5, 20)]
    assert new_lives(lives, [], 1, 30) == [Life(1, 1), Life(4, 9), Life(5, 20)]
    assert new_lives(lives, [Life(1, 1)], 5, 12) == [Life(4, 9)]
    assert new_lives(lives, [Life(1, 1)], 5, 8) == []


# --- messages that come late, or never -----------------------------------------------------------


def a_follower(*, config_epoch: int = 1) -> Follower:
    """It is in sync with the primary "a", and has ten records, all of them shown."""
    entry = MemoryNodeEntry(
        node=NODE,
        endpoint="a",
        capacity=1024,
        mode="LOG-REPL",
        identity="a",
        incarnation=2,
        starts=1,
        config_epoch=config_epoch,
        replicas=[Member(identity="b", endpoint="b", starts=1, in_sync=True)],
    )
    return Follower(
        entry,
        identity="b",
        starts=1,
        times=TIMES,
        log=(10, 10, [Life(1, 1)]),
        expendable=False,
        now=0.0,
    )


def an_image(seq: int) -> ImageBegun:
    return ImageBegun(
        incarnation=2,
        seq=seq,
        history=[Life(2, 1)],
        state=b"",
        pages=1,
        capacity=1024,
        page_bytes=4096,
    )


def copy_everything(follower: Follower) -> None:
    """Its memory turned out to show what the primary has not."""
    assert Resign() in follower.on_reply(
        Joined(config_epoch=1, incarnation=2, starts=1, common=5, image=True), 0.1
    )
    resigned = msgspec.structs.replace(
        follower.entry,
        config_epoch=2,
        replicas=[Member(identity="b", endpoint="b", starts=1, in_sync=False)],
    )
    follower.follow(resigned)
    assert TellNow(GetImage("b")) in follower.on_resigned(0.2)
    follower.on_reply(an_image(20), 0.3)
    assert SaveCopy() in follower.on_reply(
        LogPart(incarnation=2, first=21, count=0, body=b"", last=20, committed=20, history=[]), 0.3
    ) + (follower.on_reply(Pages(incarnation=2, start=0, following=0, upto=20, runs=[]), 0.4))
    assert any(isinstance(effect, TellOnceStable) for effect in follower.on_copy_saved(0.5))


def test_a_late_answer_to_join_makes_no_replica_give_up_a_copy_that_may_count_already() -> None:
    follower = a_follower()
    copy_everything(follower)
    assert (
        follower.on_reply(
            Joined(config_epoch=1, incarnation=2, starts=1, common=5, image=True), 0.6
        )
        == []
    )
    assert follower.on_reply(
        Joined(config_epoch=2, incarnation=2, starts=1, common=5, image=True), 0.7
    ) == [Resign()]


def test_what_is_committed_is_applied_before_a_copy_is_saved() -> None:
    follower = a_follower()
    follower.on_reply(Joined(config_epoch=1, incarnation=2, starts=1, common=5, image=True), 0.1)
    follower.on_resigned(0.2)
    follower.on_reply(an_image(20), 0.3)
    body = encode_body([Stamp(1), Stamp(2)])
    follower.on_reply(
        LogPart(
            incarnation=2, first=21, count=2, body=body, last=22, committed=22, history=[Life(2, 1)]
        ),
        0.4,
    )
    effects = follower.on_reply(Pages(incarnation=2, start=0, following=0, upto=21, runs=[]), 0.5)
    assert effects.index(ApplyUpTo(22)) < effects.index(SaveCopy())
    follower.check_invariants()


def test_no_record_is_applied_while_pages_are_to_come() -> None:
    """A page may be older than the record, and would undo it."""
    follower = a_follower()
    follower.on_reply(Joined(config_epoch=1, incarnation=2, starts=1, common=5, image=True), 0.1)
    follower.on_resigned(0.2)
    follower.on_reply(an_image(20), 0.3)
    body = encode_body([Stamp(1), Stamp(2)])
    effects = follower.on_reply(
        LogPart(
            incarnation=2, first=21, count=2, body=body, last=22, committed=22, history=[Life(2, 1)]
        ),
        0.4,
    )
    effects += follower.on_reply(
        Pages(incarnation=2, start=0, following=4096, upto=21, runs=[]), 0.5
    )
    assert not any(isinstance(effect, ApplyUpTo) for effect in effects)


def test_a_copy_is_saved_only_when_all_that_its_pages_may_show_is_certain() -> None:
    follower = a_follower()
    follower.on_reply(Joined(config_epoch=1, incarnation=2, starts=1, common=5, image=True), 0.1)
    follower.on_resigned(0.2)
    follower.on_reply(an_image(20), 0.3)
    effects = follower.on_reply(Pages(incarnation=2, start=0, following=0, upto=22, runs=[]), 0.4)
    body = encode_body([Stamp(1), Stamp(2)])
    effects += follower.on_reply(
        LogPart(
            incarnation=2, first=21, count=2, body=body, last=22, committed=21, history=[Life(2, 1)]
        ),
        0.5,
    )
    assert SaveCopy() not in effects, "record 22 may yet be taken back"
    assert follower.applied == 22, "and no primary without it may be followed with this memory"
    assert SaveCopy() in follower.on_reply(
        LogPart(incarnation=2, first=23, count=0, body=b"", last=22, committed=22, history=[]), 0.6
    )


def test_a_second_copy_of_a_piece_of_the_log_is_no_reason_to_ask_for_the_next() -> None:
    follower = a_follower()
    follower.on_reply(Joined(config_epoch=1, incarnation=2, starts=1, common=10, pull=True), 0.1)
    part = LogPart(
        incarnation=2,
        first=11,
        count=1,
        body=encode_body([Stamp(1)]),
        last=20,
        committed=10,
        history=[Life(2, 11)],
    )
    assert TellNow(GetLog(11, identity="b")) in follower.on_reply(part, 0.2)
    assert not any(isinstance(effect, TellNow) for effect in follower.on_reply(part, 0.2))


def a_shipping(*, in_sync: bool) -> Shipping:
    entry = MemoryNodeEntry(
        node=NODE,
        endpoint="a",
        capacity=1024,
        mode="LOG-REPL",
        identity="a",
        incarnation=2,
        starts=1,
        config_epoch=1,
        replicas=[Member(identity="b", endpoint="b", starts=1, in_sync=in_sync)],
    )
    return Shipping(
        entry,
        times=TIMES,
        history=[Life(2, 1)],
        last=10,
        now=0.0,
        limits=LIMITS,
        pacing=Pacing(LIMITS),
    )


def test_what_a_replica_acknowledged_before_it_resigned_does_not_count_it_in_sync() -> None:
    primary = a_shipping(in_sync=False)
    primary.ship(Batch(11, 2, encode_body([Stamp(1), Stamp(2)])), 0.0)
    primary.on_join(
        b"b",
        Join(
            node=NODE,
            identity="b",
            starts=1,
            config_epoch=1,
            last=10,
            applied=10,
            history=[Life(2, 1)],
        ),
        0.1,
    )
    assert primary.wish(0.1) is None
    resigned = msgspec.structs.replace(primary.entry, config_epoch=2)
    primary.on_configuration(resigned, 0.2)
    primary.on_appended(
        b"b", Appended(identity="b", starts=1, config_epoch=1, last=12, sent_at=0.1), 0.3
    )
    assert primary.wish(0.5) is None
    primary.on_appended(
        b"b", Appended(identity="b", starts=1, config_epoch=2, last=12, sent_at=0.4), 0.6
    )
    assert primary.wish(0.7) is not None


def test_a_log_of_lives_that_the_primary_has_forgotten_is_not_cut_but_copied_over() -> None:
    """Found by simulation (seed 30797): it was cut to nothing, below what a checkpoint that a crash
    interrupted had put into the image, so that the member never started again."""
    shipping = a_shipping(in_sync=False)  # its log knows of life 2 only
    old = Join(
        node=NODE, identity="b", starts=1, config_epoch=1, last=5, applied=0, history=[Life(1, 1)]
    )
    [(_, answer)] = shipping.on_join(b"b", old, 0.1)
    assert isinstance(answer, Joined)
    assert answer.image
    new = Join(node=NODE, identity="b", starts=1, config_epoch=1, last=0, applied=0, history=[])
    answers = [each for _, each in shipping.on_join(b"b", new, 0.2) if isinstance(each, Joined)]
    assert [each.image for each in answers] == [False], "who has nothing can be sent everything"


def test_an_acknowledgement_of_an_earlier_life_says_nothing_in_this_one() -> None:
    primary = a_shipping(in_sync=True)
    primary.on_join(
        b"b",
        Join(
            node=NODE,
            identity="b",
            starts=1,
            config_epoch=1,
            last=10,
            applied=10,
            history=[Life(2, 1)],
        ),
        0.1,
    )
    primary.ship(Batch(11, 1, encode_body([Stamp(1)])), 0.2)
    primary.on_stable(11)
    primary.on_appended(
        b"b", Appended(identity="b", starts=1, config_epoch=0, last=11, sent_at=0.2), 0.3
    )
    assert not primary.may_leave(11, 0.2, 0.3)
    primary.on_appended(
        b"b", Appended(identity="b", starts=1, config_epoch=1, last=11, sent_at=0.2), 0.4
    )
    assert primary.may_leave(11, 0.2, 0.4)


def test_a_primary_does_not_wake_up_all_the_time_because_a_replica_is_away() -> None:
    primary = a_shipping(in_sync=False)
    assert primary.next_wakeup() is None
    primary = a_shipping(in_sync=True)
    wakeup = primary.next_wakeup()
    assert wakeup is not None
    assert wakeup >= TIMES.drop_after


def test_a_wish_that_is_due_has_a_time_that_a_poll_can_be_given() -> None:
    """It was minus infinity after each new configuration: the memory node's loop, which waits a
    number of milliseconds, ended with an OverflowError (test_real_partitions, one run in ten)."""
    primary = a_shipping(in_sync=True)
    lost = msgspec.structs.replace(primary.entry, config_epoch=2)
    primary.on_configuration(lost, 3.0)
    primary.on_join(
        b"b",
        Join(
            node=NODE,
            identity="b",
            starts=1,
            config_epoch=1,
            last=5,
            applied=0,
            history=[Life(1, 1)],
        ),
        3.0,
    )
    assert any(peer.phase is PeerPhase.LOST for peer in primary.peers.values())
    assert primary.next_wakeup() == 3.0
    assert primary.wish(3.0) is not None
    wakeup = primary.next_wakeup()
    assert wakeup is not None
    assert 3.0 < wakeup < math.inf


def test_a_replica_that_was_removed_and_not_told_asks_a_manager() -> None:
    group = in_sync_group("a", "b")
    group.cut.add("b")
    group.configure(
        msgspec.structs.replace(group.entry, config_epoch=group.entry.config_epoch + 1, replicas=[])
    )
    group.cut.clear()
    group.settle(2 * LOST_AFTER)
    [registration] = group.nodes["b"].to_managers(group.now + LOST_AFTER)
    assert isinstance(registration, Register)


def test_a_disk_that_fails_while_a_primary_begins_ends_the_process_with_a_message() -> None:
    group = in_sync_group("a", "b")
    group.crash("a")
    group.disks["b"].fail_sync = True
    with pytest.raises(StorageError, match="data directory"):
        fail_over(group, "b")


def test_a_log_in_memory_that_has_dropped_records_can_still_forget_them() -> None:
    log = MemoryLog(keep_bytes=1)
    log.begin_life(1)
    for reading in range(20):
        log.append(Stamp(reading))
        log.sync()
    assert log.first > 6
    log.truncate_after(5)
    log.check_invariants()
    assert (log.first, log.last) == (6, 5)
