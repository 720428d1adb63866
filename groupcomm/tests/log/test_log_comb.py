"""What a turn costs and brings, and what a full log does."""

from typing import Any

import pytest

from groupcomm.errors import DamagedEntry
from groupcomm.log.comb import Comb
from groupcomm.log.creation import create_log
from groupcomm.log.layout import Log, Shape
from groupcomm.log.limits import DEFAULT_LIMITS, LogLimits
from groupcomm.log.turns import Ordered, Turn
from groupcomm.log.writers import Claim, claim
from sinfonia import Contended, LimitExceeded, Minitransaction, OutcomeUnknown
from sinfonia.structures import NotFormatted, Ring
from sinfonia.testing.stepwise import Fate, Stage

SHAPE = Shape(slots=16, slot_bytes=128, writers=4, area_bytes=1000)


class Table:
    """A log and combs on it; ``steps`` counts minitransactions."""

    def __init__(self, shape: Shape = SHAPE, limits: LogLimits = DEFAULT_LIMITS) -> None:
        self.log = Log(0, 0, shape)
        self.limits = limits
        self.stage = Stage(capacity=1 << 20)
        self.stage.run(create_log(self.log))
        self.count = 0

    def comb(self) -> Comb:
        self.count += 1
        found = self.stage.run(claim(self.log, self.count.to_bytes(16, "little")))
        assert isinstance(found, Claim)
        return Comb(self.log, found, lambda: 0, self.limits)

    def turn(self, comb: Comb, fate: Fate = Fate.DONE, cost: int = 1) -> Turn:
        """A turn of ``cost`` minitransactions, the first of which has ``fate``."""
        actor = self.stage.begin(comb.turn())
        for _ in range(cost):
            assert not actor.over
            self.stage.step(actor, fate)
        assert actor.over
        comb.check_invariants()
        return actor.value


def parts(turn: Turn) -> list[bytes]:
    return [part for entry in turn.entries for part in entry.parts]


def test_one_minitransaction_appends_and_reads_and_brings_the_own_entry_too() -> None:
    table = Table()
    ann, bob = table.comb(), table.comb()
    bob.post(b"from bob")
    table.turn(bob)
    assert [ann.post(b"1"), ann.post(b"2")] == [0, 1]
    turn = table.turn(ann)
    assert parts(turn) == [b"from bob", b"1", b"2"]
    assert turn.ordered == [Ordered(range(2), 1)]
    assert ann.position == 2
    assert not ann.due


def test_parts_of_one_kind_make_one_entry() -> None:
    table = Table()
    ann = table.comb()
    for kind in (1, 1, 2, 1):
        ann.post(b"%d" % kind, kind)
    kinds = []
    while ann.posted:
        kinds += [(entry.kind, len(entry.parts)) for entry in table.turn(ann).entries]
    assert kinds == [(1, 2), (2, 1), (1, 1)]


def test_a_turn_carries_the_items_that_are_counted_on() -> None:
    """Four reads at most for an inline entry: ring header, slots in one or two runs."""
    table = Table()
    ann = table.comb()
    ann.post(b"x")
    actor = table.stage.begin(ann.turn())
    step = actor.drive.step
    assert isinstance(step, Minitransaction)
    [items] = step.items.values()
    assert len(items.compares) == 1
    assert len(items.reads) == 2
    assert [len(write.data) for write in items.writes] == [32]
    assert len(items.updates) == 1
    assert not items.conditions


def test_a_body_in_an_area_is_sent_once_and_not_read_back_by_its_sender() -> None:
    table = Table()
    ann, bob = table.comb(), table.comb()
    ann.post(b"y" * 700)
    assert parts(table.turn(ann)) == [b"y" * 700]
    assert parts(table.turn(bob)) == []
    assert bob.due
    assert parts(table.turn(bob)) == [b"y" * 700]


def test_entries_behind_a_body_that_lacks_wait_for_it() -> None:
    table = Table(limits=LogLimits(fetch_bytes=300))
    ann, bob, eve = table.comb(), table.comb(), table.comb()
    ann.post(b"y" * 700)
    table.turn(ann)
    eve.post(b"small")
    table.turn(eve, cost=1)
    received = []
    for _ in range(4):
        received.append(parts(table.turn(bob)))
        cursor = bob.record.cursor
        assert cursor == 0, "the body may not be trimmed before it has come"
    assert received == [[], [], [], [b"y" * 700, b"small"]]


def test_a_large_part_goes_up_in_several_turns_and_is_ordered_by_the_last() -> None:
    table = Table(limits=LogLimits(upload_bytes=300))
    ann, bob = table.comb(), table.comb()
    ann.post(b"y" * 700)
    assert [table.turn(ann).ordered for _ in range(2)] == [[], []]
    assert parts(table.turn(bob)) == []
    assert table.turn(ann).ordered == [Ordered(range(1), 0)]
    table.turn(bob)
    assert parts(table.turn(bob)) == [b"y" * 700]


def test_a_reader_that_is_behind_reads_before_it_appends() -> None:
    table = Table(limits=LogLimits(reach_min=1, reach_max=1, read_only_turns=2))
    ann, bob = table.comb(), table.comb()
    for k in range(6):
        ann.post(b"%d" % k, kind=k % 2)
    while ann.posted:
        table.turn(ann)
    bob.see_tail(6)
    bob.post(b"bob")
    assert [bool(table.turn(bob).ordered) for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("size", [10, 700])
@pytest.mark.parametrize("fate", [Fate.UNKNOWN_DONE, Fate.UNKNOWN_NEVER, Fate.UNKNOWN_LATE])
def test_a_turn_with_an_unknown_outcome_is_taken_again(fate: Fate, size: int) -> None:
    table = Table()
    ann, bob = table.comb(), table.comb()
    ann.post(b"y" * size)
    with pytest.raises(OutcomeUnknown):
        table.turn(ann, fate)
    assert ann.due
    ann.post(b"later")
    received: list[bytes] = []
    ordered: list[Ordered] = []
    while ann.due:
        turn = table.turn(ann)
        received += parts(turn)
        ordered += turn.ordered
    while table.stage.late:
        assert not table.stage.arrive(0).committed
    assert received == [b"y" * size, b"later"]
    assert ordered == [Ordered(range(1), 0), Ordered(range(1, 2), 1)]
    heard = [part for _ in range(3) for part in parts(table.turn(bob))]
    assert heard == received


@pytest.mark.parametrize("executed", [True, False])
def test_a_turn_that_is_cancelled_is_taken_again(executed: bool) -> None:
    table = Table()
    ann = table.comb()
    ann.post(b"1")
    actor = table.stage.begin(ann.turn())
    if executed:
        assert isinstance(actor.drive.step, Minitransaction)
        table.stage.execute(actor.drive.step)
    actor.drive.close()
    assert ann.due
    turns = []
    while ann.due:
        turns.append(table.turn(ann))
    assert [part for turn in turns for part in parts(turn)] == [b"1"]
    assert [each for turn in turns for each in turn.ordered] == [Ordered(range(1), 0)]


def test_what_a_turn_brought_is_told_by_the_next_if_it_is_cancelled_while_it_trims() -> None:
    table = Table(Shape(slots=16, slot_bytes=128, writers=1, area_bytes=0))
    ann = table.comb()
    heard: list[bytes] = []
    told: list[int] = []
    cancelled = set()
    for k in range(60):
        ann.post(b"%d" % k)
        while ann.due:
            actor = table.stage.begin(ann.turn())
            table.stage.step(actor)
            if not actor.over and k not in cancelled:
                # It trims now; what it has brought is not told yet.
                actor.drive.close()
                cancelled.add(k)
                continue
            table.stage.finish(actor)
            heard += parts(actor.value)
            told += [ticket for each in actor.value.ordered for ticket in each.tickets]
    assert len(cancelled) > 5
    assert heard == [b"%d" % k for k in range(60)]
    assert told == list(range(60))


def test_a_turn_that_was_not_executed_is_made_anew() -> None:
    table = Table()
    ann = table.comb()
    ann.post(b"1")
    with pytest.raises(Contended):
        table.turn(ann, Fate.NOT_EXECUTED)
    ann.post(b"2")
    assert parts(table.turn(ann)) == [b"1"]
    assert parts(table.turn(ann)) == [b"2"]


def test_a_program_that_takes_no_more_keeps_its_cursor() -> None:
    table = Table()
    ann, bob = table.comb(), table.comb()
    ann.post(b"1")
    table.turn(ann)
    bob.post(b"mine")
    turn = table.stage.run(bob.turn(receive=False))
    assert (parts(turn), turn.ordered) == ([], [Ordered(range(1), 1)])
    assert bob.record.cursor == 0
    assert parts(table.turn(bob)) == [b"1", b"mine"]


def test_a_full_log_names_the_reader_that_holds_it_up_and_loses_nothing() -> None:
    table = Table(Shape(slots=4, slot_bytes=128, writers=4, area_bytes=0))
    ann, slow = table.comb(), table.comb()
    for k in range(4):
        ann.post(b"%d" % k, kind=k % 2)
        table.stage.run(ann.turn())
    ann.post(b"more")
    blocked = [table.stage.run(ann.turn()) for _ in range(4)]
    assert [turn.ordered for turn in blocked] == [[]] * 4
    assert blocked[-1].holding_up == (slow.writer,)
    slow_received = parts(table.stage.run(slow.turn()))
    assert slow_received == [b"0", b"1", b"2", b"3"]
    assert slow.due, "others may wait for its cursor"
    table.stage.run(slow.turn())
    received: list[bytes] = []
    while ann.posted:
        turn = table.stage.run(ann.turn())
        received += parts(turn)
    assert turn.holding_up == ()
    assert received == [b"more"]
    assert parts(table.stage.run(slow.turn())) == [b"more"]


def test_a_full_area_waits_for_readers_likewise() -> None:
    table = Table()
    ann, slow = table.comb(), table.comb()
    ann.post(b"a" * 900)
    table.turn(ann)
    ann.post(b"b" * 900)
    # It reports its cursor, looks, and cannot trim.
    assert table.turn(ann, cost=2).holding_up == (slow.writer,)
    table.turn(slow)
    table.turn(slow)
    table.turn(slow)
    turn = table.turn(ann, cost=3)
    assert turn.holding_up == ()
    assert parts(table.turn(ann)) == [b"b" * 900]


def test_a_writer_alone_trims_as_it_goes_and_keeps_most_of_the_ring() -> None:
    table = Table(Shape(slots=64, slot_bytes=128, writers=1, area_bytes=0))
    ann = table.comb()
    minitransactions = 0
    retained = []
    for k in range(1000):
        ann.post(b"%d" % k)
        actor = table.stage.begin(ann.turn())
        while not actor.over:
            table.stage.step(actor)
            minitransactions += 1
        assert parts(actor.value) == [b"%d" % k]
        header = table.stage.run(Ring(0, table.log.ring.address, 64, 128).header())
        retained.append(header.tail - header.trimmed)
    assert minitransactions <= 1000 * 1.3
    assert max(retained) < 64
    assert min(retained[64:]) >= 48


def test_parts_that_no_log_of_this_shape_can_hold_are_refused_at_once() -> None:
    table = Table()
    ann = table.comb()
    ann.post(b"x" * 996)
    with pytest.raises(LimitExceeded, match="at most 996"):
        ann.post(b"x" * 997)
    with pytest.raises(LimitExceeded):
        ann.post(b"x", kind=256)
    assert ann.posted == 1
    without = Table(Shape(slots=4, slot_bytes=128, writers=1, area_bytes=0)).comb()
    without.post(b"x" * 68)
    with pytest.raises(LimitExceeded, match="at most 68"):
        without.post(b"x" * 69)


@pytest.mark.parametrize("size", [68, 69])
def test_a_body_is_in_the_slot_as_long_as_it_fits(size: int) -> None:
    table = Table()
    ann = table.comb()
    ann.post(b"x" * size)
    table.turn(ann)
    assert ann.record.head == (0 if size == 68 else 73)


def test_a_record_that_another_program_changed_is_an_error() -> None:
    table = Table()
    ann = table.comb()
    table.stage.memory[0][table.log.record_address(ann.writer) + 8] ^= 64  # type: ignore[index]
    with pytest.raises(NotFormatted, match="another program"):
        table.turn(ann)


def test_an_entry_that_names_no_area_of_the_log_is_damaged() -> None:
    table = Table()
    ann, bob = table.comb(), table.comb()
    ann.post(b"y" * 700)
    table.turn(ann)
    bad: Any = bytearray(table.stage.memory[0])  # type: ignore[index]
    record = bytes(bad[table.log.ring.address + 48 : table.log.ring.address + 48 + 56])
    forged = record[:4] + (9).to_bytes(4, "little") + record[8:]
    table.stage.run(table.log.ring.append(forged))
    with pytest.raises(DamagedEntry, match="no area"):
        table.turn(bob)
