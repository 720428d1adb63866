"""The exactly-once rule on a model: every operation is counted once, whatever is told of it."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.steps import Steps, execute, minitransaction
from sinfonia.errors import LimitExceeded, NotExecuted, OutcomeUnknown
from sinfonia.minitransaction import Minitransaction
from sinfonia.structures import ClientTable, Forgotten, Lane, OutOfSequence, TableFull
from sinfonia.structures.client_table import SLOT_BYTES, Slot
from sinfonia.testing.stepwise import FAULTS, Actor, Fate, Stage

NODE = MemoryNodeId(0)
TABLE = ClientTable(NODE, 1024, slots=8)
COUNTER = 8192
AGE = 1.0


def client(number: int) -> bytes:
    return number.to_bytes(16, "little")


def increment(t: Minitransaction[Any]) -> None:
    t.add(NODE, COUNTER, 1)


def counter(stage: Stage) -> int:
    return int.from_bytes(stage.memory[NODE][COUNTER : COUNTER + 8], "little")


def answer(sequence: int) -> bytes:
    return b"answer %09d" % sequence


def test_an_operation_asked_for_twice_is_carried_out_once() -> None:
    stage = Stage()
    [lane] = stage.run(TABLE.register(client(1)))
    first = stage.run(TABLE.once(lane, 1, increment, answer(1)))
    assert first.committed
    assert first.result is not None
    assert first.result.added == [0]
    again = stage.run(TABLE.once(lane, 1, increment, b"another"))
    assert again.committed
    assert again.result is None
    assert again.answer == first.answer == answer(1)
    assert counter(stage) == 1


def test_lanes_do_not_know_of_each_other() -> None:
    stage = Stage()
    lanes = stage.run(TABLE.register(client(1), lanes=3))
    assert len({lane.slot for lane in lanes}) == 3
    for lane in lanes:
        assert stage.run(TABLE.once(lane, 1, increment)).result is not None
    assert counter(stage) == 3


def test_a_compare_of_the_callers_does_not_use_the_number_up() -> None:
    stage = Stage()
    [lane] = stage.run(TABLE.register(client(1)))

    def vain(t: Minitransaction[Any]) -> None:
        t.compare(NODE, COUNTER, b"x")
        t.add(NODE, COUNTER, 1)

    failed = stage.run(TABLE.once(lane, 1, vain))
    assert not failed.committed
    assert failed.result is not None
    assert failed.result.failed_compares
    assert stage.run(TABLE.recall(lane, 1)) is None
    assert stage.run(TABLE.once(lane, 1, increment)).result is not None


@pytest.mark.parametrize("fate", [Fate.UNKNOWN_LATE, Fate.UNKNOWN_DONE, Fate.UNKNOWN_NEVER])
def test_an_operation_that_was_forgone_never_happens(fate: Fate) -> None:
    stage = Stage()
    [lane] = stage.run(TABLE.register(client(1)))
    open_still = stage.begin(TABLE.once(lane, 1, increment, answer(1)))
    while not open_still.over:
        stage.step(open_still, fate)
    kept = stage.run(TABLE.forgo(lane, 1))
    assert kept == (answer(1) if fate is Fate.UNKNOWN_DONE else None)
    while stage.late:
        assert not stage.arrive(0).committed
    assert stage.run(TABLE.forgo(lane, 1)) == kept
    again = stage.run(TABLE.once(lane, 1, increment, answer(1)))
    assert again.committed == (kept is not None)
    assert counter(stage) == again.committed
    assert stage.run(TABLE.once(lane, 2, increment)).committed


def test_what_was_done_is_found_even_if_only_the_callers_compare_is_said_to_fail() -> None:
    """A result may be silent on the guard, where the other memory node was faster to refuse."""
    stage = Stage(memory_nodes=2)
    [lane] = stage.run(TABLE.register(client(1)))

    def fill(t: Minitransaction[Any]) -> None:
        t.compare(1, COUNTER, bytes(8))
        t.write(1, COUNTER, answer(1))

    asking = stage.begin(TABLE.once(lane, 1, fill, answer(1)))
    stage.step(asking, Fate.UNKNOWN_DONE)
    step = asking.drive.step
    assert isinstance(step, Minitransaction)
    refused = stage.execute(step)
    [theirs] = [failed for failed in refused.failed_compares if failed.node == 1]
    asking.drive.go_on(structs.replace(refused, failed_compares=[theirs]))
    assert stage.finish(asking).committed


def test_the_last_answer_can_be_asked_for_and_no_other() -> None:
    stage = Stage()
    [lane] = stage.run(TABLE.register(client(1)))
    for sequence in (1, 2):
        stage.run(TABLE.once(lane, sequence, increment, answer(sequence)))
    assert stage.run(TABLE.recall(lane, 2)) == answer(2)
    assert stage.run(TABLE.recall(lane, 3)) is None
    for sequence in (1, 4):
        with pytest.raises(OutOfSequence):
            stage.run(TABLE.recall(lane, sequence))
        with pytest.raises(OutOfSequence):
            stage.run(TABLE.once(lane, sequence, increment))
    assert counter(stage) == 2


def test_the_guard_is_found_among_the_callers_items() -> None:
    stage = Stage()
    [lane] = stage.run(TABLE.register(client(1)))
    t = minitransaction()
    t.compare(NODE, COUNTER, b"x")
    guard = TABLE.guard(t, lane, 1)
    assert guard.holds(stage.run(execute(t)))
    t = minitransaction()
    guard = TABLE.guard(t, lane, 2)
    [failed] = guard.failures(stage.run(execute(t)))
    assert failed.address == TABLE.address + lane.slot * SLOT_BYTES


def test_a_client_that_only_seemed_dead_does_nothing_more() -> None:
    stage = Stage()
    [lane] = stage.run(TABLE.register(client(1)))
    slow = stage.begin(TABLE.once(lane, 1, increment))
    stage.step(slow, Fate.UNKNOWN_LATE)
    assert stage.run(TABLE.sweep(AGE)) == 1
    assert not stage.arrive(0).committed
    with pytest.raises(Forgotten) as caught:
        stage.finish(slow)
    assert not caught.value.definite
    with pytest.raises(Forgotten):
        stage.run(TABLE.touch([lane]))
    assert counter(stage) == 0


def test_a_client_that_gives_signs_of_life_or_works_keeps_its_slots() -> None:
    stage = Stage()
    [silent] = stage.run(TABLE.register(client(1)))
    [keeping] = stage.run(TABLE.register(client(2)))
    [working] = stage.run(TABLE.register(client(3)))
    keeper = stage.begin(TABLE.keep([keeping], AGE))
    sweeper = stage.begin(TABLE.sweep(AGE))
    stage.step(sweeper)
    stage.run(TABLE.once(working, 1, increment))
    for _ in range(2):
        stage.step(keeper)
    assert stage.finish(sweeper) == 1
    with pytest.raises(Forgotten):
        stage.run(TABLE.recall(silent, 1))
    stage.run(TABLE.touch([keeping, working]))


def test_a_sign_of_life_at_the_last_moment_is_seen() -> None:
    stage = Stage()
    [lane] = stage.run(TABLE.register(client(1)))
    sweeper = stage.begin(TABLE.sweep(AGE))
    for _ in range(3):  # it looks, waits, and looks again
        stage.step(sweeper)
    stage.run(TABLE.touch([lane]))
    assert stage.finish(sweeper) == 0
    stage.run(TABLE.touch([lane]))


def test_two_clients_that_want_one_slot_get_two() -> None:
    stage = Stage()
    table = ClientTable(NODE, 1024, slots=2)
    actors = [stage.begin(table.register(client(number))) for number in (1, 2)]
    for actor in actors:
        stage.step(actor)
    lanes = [lane for actor in actors for lane in stage.finish(actor)]
    assert len({lane.slot for lane in lanes}) == 2
    assert {slot.client for slot in stage.run(table.look())} == {client(1), client(2)}


def test_a_keeper_goes_on_through_an_outage_and_ends_when_forgotten() -> None:
    stage = Stage()
    lanes = stage.run(TABLE.register(client(1), lanes=2))
    keeper = stage.begin(TABLE.keep(lanes, AGE))
    for fate in (Fate.DONE, Fate.NOT_EXECUTED, Fate.DONE, Fate.DONE):
        stage.step(keeper, fate)
    stage.run(TABLE.unregister(lanes))
    while not keeper.over:
        stage.step(keeper)
    assert isinstance(keeper.error, Forgotten)


def test_a_full_table_says_so_and_sweeping_makes_room() -> None:
    stage = Stage()
    for number in range(1, 9):
        stage.run(TABLE.register(client(number)))
    with pytest.raises(TableFull, match="sweep"):
        stage.run(TABLE.register(client(9)))
    assert stage.run(TABLE.sweep(AGE)) == 8
    assert len(stage.run(TABLE.register(client(9), lanes=8))) == 8


def test_limits_are_named() -> None:
    with pytest.raises(LimitExceeded, match="slots"):
        ClientTable(NODE, 0, slots=0)
    with pytest.raises(LimitExceeded, match="lanes"):
        Stage().run(TABLE.register(client(1), lanes=65))
    with pytest.raises(LimitExceeded, match="not all zero"):
        Stage().run(TABLE.register(bytes(16)))
    for kept in (b"far too long for it", b"\xff" * 16):
        with pytest.raises(LimitExceeded, match="an answer"):
            TABLE.guard(minitransaction(), Lane(0, 0), 1, kept)
    with pytest.raises(LimitExceeded, match="from 1"):
        TABLE.guard(minitransaction(), Lane(0, 0), 0)
    with pytest.raises(LimitExceeded, match="slot 8"):
        TABLE.guard(minitransaction(), Lane(8, 0), 1)


@given(st.binary(min_size=SLOT_BYTES, max_size=SLOT_BYTES))
def test_any_bytes_are_a_slot(data: bytes) -> None:
    slot = Slot.decode(data)
    assert Slot.decode(slot.encode()) == slot


# --- schedules -----------------------------------------------------------------------------------

OPERATIONS = 3


def worker(number: int, told: Callable[[int, int], None], owned: dict[Lane, int]) -> Steps[None]:
    """Register, and carry out operations one after the other, again until each is known."""
    lanes: tuple[Lane, ...] = ()
    while not lanes:
        try:
            lanes = yield from TABLE.register(client(number))
        except (NotExecuted, OutcomeUnknown):
            continue
    assert owned.setdefault(lanes[0], number) == number, "two clients got one lane"
    for sequence in range(1, OPERATIONS + 1):
        done = False
        while not done:
            try:
                carried = yield from TABLE.once(lanes[0], sequence, increment, answer(sequence))
            except (NotExecuted, OutcomeUnknown):
                continue
            done = carried.committed
            assert carried.answer == answer(sequence)
        told(number, sequence)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_operation_is_counted_once_under_every_schedule(data: st.DataObject) -> None:
    """Steps, faults, deaths, sweeps and late copies as they come."""
    stage = Stage()
    known: dict[int, int] = {}
    owned: dict[Lane, int] = {}
    actors = [stage.begin(worker(number, known.__setitem__, owned)) for number in (1, 2, 3)]
    fates = st.sampled_from((Fate.DONE, Fate.DONE, Fate.DONE, *FAULTS))
    for _ in range(data.draw(st.integers(0, 50))):
        alive: list[Actor[None]] = [actor for actor in actors if not actor.over]
        chosen = data.draw(st.integers(0, len(alive) + bool(stage.late)))
        if chosen < len(alive):
            if data.draw(st.integers(0, 30)) == 0:
                stage.abandon(alive[chosen])
            else:
                stage.step(alive[chosen], data.draw(fates))
        elif chosen == len(alive):
            stage.run(TABLE.sweep(AGE))
        else:
            stage.arrive(data.draw(st.integers(0, len(stage.late) - 1)))
    for actor in actors:
        if not actor.over:
            _finish(stage, actor)
    at_rest = counter(stage)
    while stage.late:
        stage.arrive(0)
    lost = sum(isinstance(actor.error, Forgotten) or actor.abandoned for actor in actors)
    # A last operation that was not asked for again may have been heard or not: one for each.
    assert sum(known.values()) <= counter(stage) <= sum(known.values()) + lost
    if not lost:
        assert at_rest == counter(stage) == OPERATIONS * len(actors)


def _finish(stage: Stage, actor: Actor[None]) -> None:
    while not actor.over:
        stage.step(actor)
