"""A one-node minitransaction may queue for a lock: fair, bounded, executed once."""

from sinfonia.minitransaction import AddItem, ReadItem, WriteItem
from sinfonia.protocol.effects import Step
from sinfonia.protocol.lock_waits import (
    CELL_BYTES,
    CELLS_MAX,
    EVERYWHERE,
    LockLimits,
    cells_of,
    meets,
)
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    Commit,
    ExecCommit,
    Request,
    Requests,
    Vote,
    Voted,
)
from sinfonia.protocol.records import Decided, OnePhase
from sinfonia.simulation.participant_harness import (
    ParticipantHarness,
    asks_nothing,
    prepare,
    tid,
)

WAITERS_MAX = LockLimits().waiters


def deliver(
    harness: ParticipantHarness, request: Request, *, client: int = 8, floor: int = 0
) -> Step:
    """From ``client``, over a route of its own name."""
    batch = Requests(PROTOCOL_VERSION, client, harness.participant.incarnation, floor, [request])
    return harness.participant.on_requests(batch, harness.now, b"route %d" % client)


def late(step: Step) -> list[tuple[bytes, Vote]]:
    """The votes on waiters, with their routes."""
    return [(route, reply.vote) for route, reply in step.elsewhere if isinstance(reply, Voted)]


def add(counter: int, *, wait: int = 20, address: int = 0) -> ExecCommit:
    return ExecCommit(counter=counter, epoch=0, updates=[AddItem(address, 8, 1)], lock_wait_ms=wait)


def locked() -> ParticipantHarness:
    """Somebody holds the word at 0, in two phases."""
    harness = ParticipantHarness()
    assert harness.vote(prepare(1, write=[(0, bytes(8))])).vote is Vote.OK
    return harness


def test_who_does_not_ask_to_wait_is_told_at_once() -> None:
    harness = locked()
    assert harness.vote(add(2, wait=0), client=8).vote is Vote.BAD_LOCK


def test_waiters_are_served_in_order_when_the_lock_is_let_go() -> None:
    harness = locked()
    for client in (8, 9, 10):
        assert asks_nothing(deliver(harness, add(1), client=client))
    step = deliver(harness, Commit(tid(1), True), client=7)
    assert late(step) == [(b"route %d" % client, Vote.OK) for client in (8, 9, 10)]
    assert [type(record) for record in step.records] == [Decided, OnePhase, OnePhase, OnePhase]
    assert step.must_sync
    assert harness.read(0, 1) == b"\3"
    harness.check()


def test_nobody_who_waits_overtakes_and_who_does_not_meet_them_is_not_delayed() -> None:
    harness = locked()
    assert harness.vote(prepare(2, write=[(CELL_BYTES, b"x")])).vote is Vote.OK
    first = ExecCommit(
        counter=1,
        epoch=0,
        reads=[ReadItem(0, 8), ReadItem(CELL_BYTES, 1)],
        updates=[AddItem(0, 8, 1)],
        lock_wait_ms=20,
    )
    assert asks_nothing(deliver(harness, first, client=8))
    assert asks_nothing(deliver(harness, add(1), client=9))
    far = ExecCommit(counter=1, epoch=0, writes=[WriteItem(4 * CELL_BYTES, b"y")], lock_wait_ms=20)
    assert len(deliver(harness, far, client=10).replies) == 1
    # The word is free now, but the first in the line still lacks the other.
    assert late(deliver(harness, Commit(tid(1), True), client=7)) == []
    assert asks_nothing(deliver(harness, add(1), client=11))
    served = late(deliver(harness, Commit(tid(2), True), client=7))
    assert served == [(b"route %d" % client, Vote.OK) for client in (8, 9, 11)]
    harness.check()


def test_waiting_ends_in_time_and_is_remembered_as_no() -> None:
    harness = locked()
    deliver(harness, add(5, wait=20))
    wakeup = harness.participant.next_wakeup()
    assert wakeup is not None
    assert abs(wakeup - (harness.now + 0.02)) < 1e-9
    harness.now += 0.021
    assert late(harness.participant.on_tick(harness.now)) == [(b"route 8", Vote.BAD_LOCK)]
    harness.commit(tid(1))
    assert harness.vote(add(5), client=8).vote is Vote.BAD_LOCK
    assert harness.participant.next_wakeup() is None
    harness.check()


def test_a_wait_is_cut_to_the_longest_allowed() -> None:
    harness = locked()
    deliver(harness, add(5, wait=60_000))
    assert late(harness.participant.on_tick(harness.now + 0.06)) == [(b"route 8", Vote.BAD_LOCK)]


def test_a_second_copy_of_a_waiting_request_is_not_executed_twice() -> None:
    harness = locked()
    deliver(harness, add(5))
    assert asks_nothing(deliver(harness, add(5)))
    step = deliver(harness, Commit(tid(1), True), client=7)
    assert late(step) == [(b"route 8", Vote.OK)]
    assert harness.read(0, 1) == b"\1"
    assert harness.vote(add(5), client=8).vote is Vote.OK
    assert harness.read(0, 1) == b"\1"


def test_what_its_client_has_finished_with_is_not_executed_from_the_line() -> None:
    harness = locked()
    deliver(harness, add(5))
    deliver(harness, ExecCommit(counter=6, epoch=0, reads=[ReadItem(512, 1)]), floor=6)
    step = deliver(harness, Commit(tid(1), True), client=7)
    assert late(step) == [(b"route 8", Vote.BAD_FLOOR)]
    assert harness.read(0, 1) == b"\0"


def test_a_line_that_is_too_long_takes_no_more() -> None:
    harness = locked()
    for counter in range(1, WAITERS_MAX + 1):
        assert asks_nothing(deliver(harness, add(counter)))
    assert harness.vote(add(WAITERS_MAX + 1), client=8).vote is Vote.BAD_LOCK
    assert len(late(deliver(harness, Commit(tid(1), True), client=7))) == WAITERS_MAX
    harness.check()


def test_the_lease_of_a_reader_ends_the_wait_too() -> None:
    harness = ParticipantHarness()
    reading = prepare(1, read=[(0, 8)], read_only=True)
    assert harness.vote(reading).vote is Vote.OK
    harness.now += 0.99
    deliver(harness, add(5))
    harness.now += 0.012
    wakeup = harness.participant.next_wakeup()
    assert wakeup is not None
    assert wakeup <= harness.now
    assert late(harness.participant.on_tick(harness.now)) == [(b"route 8", Vote.OK)]
    harness.check()


def test_cells_are_those_of_all_items_and_many_count_as_all() -> None:
    few = ExecCommit(
        counter=1, epoch=0, writes=[WriteItem(0, bytes(CELL_BYTES + 1))], reads=[ReadItem(640, 0)]
    )
    assert cells_of(few) == {0, 1, 10}
    many = ExecCommit(counter=1, epoch=0, reads=[ReadItem(0, CELL_BYTES * CELLS_MAX + 1)])
    assert cells_of(many) is EVERYWHERE
    assert meets(cells_of(many), cells_of(few))
    assert meets(cells_of(few), cells_of(many))
    assert not meets(cells_of(few), frozenset({2}))
    assert not meets(cells_of(many), frozenset())
