"""A one-node minitransaction may queue for a lock: fair, bounded, executed once."""

from sinfonia.minitransaction import AddItem, ReadItem, WriteItem
from sinfonia.protocol.effects import Effect, Log, SendVia
from sinfonia.protocol.lock_waits import (
    CELL_BYTES,
    CELLS_MAX,
    EVERYWHERE,
    LOCK_WAITERS_MAX,
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
from sinfonia.simulation.parties import Party, prepare, tid


def deliver(party: Party, request: Request, *, client: int = 8, floor: int = 0) -> list[Effect]:
    """From ``client``, over a route of its own name."""
    batch = Requests(PROTOCOL_VERSION, client, party.participant.incarnation, floor, [request])
    return party.participant.on_requests(batch, party.now, b"route %d" % client)


def late(effects: list[Effect]) -> list[tuple[bytes, Vote]]:
    """Who is answered late, and what."""
    return [
        (effect.route, reply.vote)
        for effect in effects
        if isinstance(effect, SendVia)
        for reply in effect.replies
        if isinstance(reply, Voted)
    ]


def add(counter: int, *, wait: int = 20, address: int = 0) -> ExecCommit:
    return ExecCommit(counter, 0, updates=[AddItem(address, 8, 1)], lock_wait_ms=wait)


def locked() -> Party:
    """Somebody holds the word at 0, in two phases."""
    party = Party()
    assert party.vote(prepare(1, write=[(0, bytes(8))])).vote is Vote.OK
    return party


def test_who_does_not_ask_to_wait_is_told_at_once() -> None:
    party = locked()
    assert party.vote(add(2, wait=0), client=8).vote is Vote.BAD_LOCK


def test_waiters_are_served_in_order_when_the_lock_is_let_go() -> None:
    party = locked()
    for client in (8, 9, 10):
        assert deliver(party, add(1), client=client) == []
    effects = deliver(party, Commit(tid(1), True), client=7)
    assert late(effects) == [(b"route %d" % client, Vote.OK) for client in (8, 9, 10)]
    kinds = [type(effect) for effect in effects if isinstance(effect, Log | SendVia)]
    assert kinds == [Log, SendVia] * 3
    assert party.read(0, 1) == b"\3"
    party.check()


def test_nobody_who_waits_overtakes_and_who_does_not_meet_them_is_not_delayed() -> None:
    party = locked()
    assert party.vote(prepare(2, write=[(CELL_BYTES, b"x")])).vote is Vote.OK
    first = ExecCommit(
        1,
        0,
        reads=[ReadItem(0, 8), ReadItem(CELL_BYTES, 1)],
        updates=[AddItem(0, 8, 1)],
        lock_wait_ms=20,
    )
    assert deliver(party, first, client=8) == []
    assert deliver(party, add(1), client=9) == []
    far = ExecCommit(1, 0, writes=[WriteItem(4 * CELL_BYTES, b"y")], lock_wait_ms=20)
    assert deliver(party, far, client=10) != []
    # The word is free now, but the first in the line still lacks the other.
    assert late(deliver(party, Commit(tid(1), True), client=7)) == []
    assert deliver(party, add(1), client=11) == []
    served = late(deliver(party, Commit(tid(2), True), client=7))
    assert served == [(b"route %d" % client, Vote.OK) for client in (8, 9, 11)]
    party.check()


def test_waiting_ends_in_time_and_is_remembered_as_no() -> None:
    party = locked()
    deliver(party, add(5, wait=20))
    wakeup = party.participant.next_wakeup()
    assert wakeup is not None
    assert abs(wakeup - (party.now + 0.02)) < 1e-9
    party.now += 0.021
    assert late(party.participant.on_tick(party.now)) == [(b"route 8", Vote.BAD_LOCK)]
    party.commit(tid(1))
    assert party.vote(add(5), client=8).vote is Vote.BAD_LOCK
    assert party.participant.next_wakeup() is None
    party.check()


def test_a_wait_is_cut_to_the_longest_allowed() -> None:
    party = locked()
    deliver(party, add(5, wait=60_000))
    assert late(party.participant.on_tick(party.now + 0.06)) == [(b"route 8", Vote.BAD_LOCK)]


def test_a_second_copy_of_a_waiting_request_is_not_executed_twice() -> None:
    party = locked()
    deliver(party, add(5))
    assert deliver(party, add(5)) == []
    effects = deliver(party, Commit(tid(1), True), client=7)
    assert late(effects) == [(b"route 8", Vote.OK)]
    assert party.read(0, 1) == b"\1"
    assert party.vote(add(5), client=8).vote is Vote.OK
    assert party.read(0, 1) == b"\1"


def test_what_its_client_has_finished_with_is_not_executed_from_the_line() -> None:
    party = locked()
    deliver(party, add(5))
    deliver(party, ExecCommit(6, 0, reads=[ReadItem(512, 1)]), floor=6)
    effects = deliver(party, Commit(tid(1), True), client=7)
    assert late(effects) == [(b"route 8", Vote.BAD_FLOOR)]
    assert party.read(0, 1) == b"\0"


def test_a_line_that_is_too_long_takes_no_more() -> None:
    party = locked()
    for counter in range(1, LOCK_WAITERS_MAX + 1):
        assert deliver(party, add(counter)) == []
    assert party.vote(add(LOCK_WAITERS_MAX + 1), client=8).vote is Vote.BAD_LOCK
    assert len(late(deliver(party, Commit(tid(1), True), client=7))) == LOCK_WAITERS_MAX
    party.check()


def test_the_lease_of_a_reader_ends_the_wait_too() -> None:
    party = Party()
    reading = prepare(1, read=[(0, 8)], read_only=True)
    assert party.vote(reading).vote is Vote.OK
    party.now += 0.99
    deliver(party, add(5))
    party.now += 0.012
    wakeup = party.participant.next_wakeup()
    assert wakeup is not None
    assert wakeup <= party.now
    assert late(party.participant.on_tick(party.now)) == [(b"route 8", Vote.OK)]
    party.check()


def test_cells_are_those_of_all_items_and_many_count_as_all() -> None:
    few = ExecCommit(1, 0, writes=[WriteItem(0, bytes(CELL_BYTES + 1))], reads=[ReadItem(640, 0)])
    assert cells_of(few) == {0, 1, 10}
    many = ExecCommit(1, 0, reads=[ReadItem(0, CELL_BYTES * CELLS_MAX + 1)])
    assert cells_of(many) is EVERYWHERE
    assert meets(cells_of(many), cells_of(few))
    assert meets(cells_of(few), cells_of(many))
    assert not meets(cells_of(few), frozenset({2}))
    assert not meets(cells_of(many), frozenset())
