"""The ring on a model: no record lost, doubled, reordered or mistaken for another."""

from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.steps import Steps, minitransaction
from sinfonia.errors import LimitExceeded, OutcomeUnknown, OutOfRange
from sinfonia.minitransaction import BYTES_MAX, UPDATES_MAX, Minitransaction
from sinfonia.rings import RingHeader, decode_slot
from sinfonia.structures import ClientTable, NotFormatted, WrongPosition
from sinfonia.structures.ring.cursors import Cursor, fetch, follow, trim_behind
from sinfonia.structures.ring.ring import Full, Records, Ring, Trimmed
from sinfonia.structures.ring.writers import STAMP_BYTES, Stamped, Writer
from sinfonia.testing.stepwise import Fate, Stage

T = TypeVar("T")

NODE = MemoryNodeId(0)
RING = Ring(NODE, 4096, slots=4, slot_bytes=64)
CURSOR = Cursor(NODE, 512)
OTHER_CURSOR = Cursor(NODE, 520)
TABLE = ClientTable(NODE, 1024, slots=4)


@pytest.fixture
def stage() -> Stage:
    made = Stage()
    made.run(RING.create())
    return made


def positions(stage: Stage, *payloads: bytes) -> list[int]:
    """Append one by one."""
    found = [stage.run(RING.append(payload)) for payload in payloads]
    return [position for position in found if isinstance(position, int)]


def read(stage: Stage, position: int, count: int = 4) -> list[bytes]:
    found = stage.run(RING.read(position, count))
    assert isinstance(found, Records)
    return list(found.payloads)


def test_what_is_appended_is_read_in_order(stage: Stage) -> None:
    assert positions(stage, b"a", b"", b"ccc") == [0, 1, 2]
    assert stage.run(RING.read(0, 2)) == Records(0, (b"a", b""), trimmed=0, tail=3)
    assert read(stage, 1) == [b"", b"ccc"]
    assert read(stage, 3) == []


def test_to_create_it_again_changes_nothing(stage: Stage) -> None:
    positions(stage, b"kept")
    stage.run(RING.create())
    assert read(stage, 0) == [b"kept"]


def test_what_is_no_ring_or_another_one_is_not_formatted_over() -> None:
    stage = Stage()
    stage.memory[NODE][4096] = 1
    with pytest.raises(NotFormatted, match="no ring of 4 slots"):
        stage.run(RING.create())
    another = Stage()
    another.run(Ring(NODE, 4096, slots=5, slot_bytes=64).create())
    for steps in (RING.create(), RING.read(0, 1), RING.header()):
        with pytest.raises(NotFormatted):
            another.run(steps)


def test_without_a_ring_nothing_is_appended_or_trimmed() -> None:
    stage = Stage()
    with pytest.raises(OutOfRange):
        stage.run(RING.append(b"lost"))
    with pytest.raises(WrongPosition):
        stage.run(RING.trim(1))
    assert not any(stage.memory[NODE])


def test_a_full_ring_says_so_and_keeps_what_it_has(stage: Stage) -> None:
    positions(stage, b"a", b"b", b"c", b"d")
    assert stage.run(RING.append(b"e")) == Full()
    assert read(stage, 0) == [b"a", b"b", b"c", b"d"]
    assert stage.run(RING.trim(1)) == 1
    assert positions(stage, b"e") == [4]
    assert read(stage, 1) == [b"b", b"c", b"d", b"e"]


def test_several_are_appended_side_by_side_or_not_at_all(stage: Stage) -> None:
    assert stage.run(RING.append_many([b"a", b"b"])) == range(2)
    assert stage.run(RING.append_many([b"c", b"d", b"e"])) == Full()
    assert stage.run(RING.append_many([])) == range(0)
    assert stage.run(RING.append_many([b"c", b"d"])) == range(2, 4)
    assert read(stage, 0) == [b"a", b"b", b"c", b"d"]


def test_a_client_that_never_saw_the_ring_trims_it(stage: Stage) -> None:
    """Not a cached tail decides, but the memory node."""
    positions(stage, b"a", b"b", b"c")
    assert stage.run(RING.trim(2)) == 2
    assert stage.run(RING.read(1, 1)) == Trimmed(2, tail=3)
    assert read(stage, 2) == [b"c"]


def test_a_trim_never_goes_back_nor_beyond_the_tail(stage: Stage) -> None:
    positions(stage, b"a", b"b", b"c")
    stage.run(RING.trim(2))
    assert stage.run(RING.trim(1)) == 2
    assert stage.run(RING.trim(2)) == 2
    with pytest.raises(WrongPosition, match="ends at 3"):
        stage.run(RING.trim(4))
    assert stage.run(RING.header()).trimmed == 2
    assert stage.run(RING.trim(3)) == 3


def test_a_trim_does_not_pass_a_checkpoint(stage: Stage) -> None:
    """The trim compares the checkpoint that it goes by; if that moves back meanwhile, no trim."""
    positions(stage, b"a", b"b", b"c")
    t = minitransaction()
    RING.add_trim(t, 3)
    t.compare(NODE, 600, b"checkpoint 3")
    stage.memory[NODE][600:612] = b"checkpoint 1"
    assert not stage.execute(t).committed
    assert read(stage, 0) == [b"a", b"b", b"c"]


def test_a_position_beyond_the_tail_is_no_wait_but_an_error(stage: Stage) -> None:
    """As after a restore from a backup: a reader must not wait there for other records."""
    positions(stage, b"a")
    with pytest.raises(WrongPosition, match="ends at 1"):
        stage.run(RING.read(2, 1))
    with pytest.raises(WrongPosition):
        stage.run(RING.read(-1, 1))


def test_what_an_earlier_ring_left_is_no_record() -> None:
    """The same slots, in the same generation: only the tail can tell."""
    stage = Stage()
    stage.run(RING.create())
    positions(stage, b"old", b"old", b"old")
    stage.memory[NODE][RING.address : RING.address + 32] = bytes(32)
    stage.run(RING.create())
    assert read(stage, 0) == []
    positions(stage, b"new")
    assert read(stage, 0) == [b"new"]


def test_a_late_look_at_a_slot_finds_another_generation(stage: Stage) -> None:
    header = RingHeader(RING.slot_bytes, RING.slots)
    positions(stage, b"a", b"b", b"c", b"d")
    stage.run(RING.trim(4))
    positions(stage, b"e")
    start = RING.address + header.place(0)
    slot = bytes(stage.memory[NODE][start : start + RING.slot_bytes])
    assert decode_slot(header, 0, slot) is None
    assert decode_slot(header, 4, slot) == b"e"


def test_a_damaged_slot_is_not_read_as_a_record(stage: Stage) -> None:
    positions(stage, b"a", b"b")
    stage.memory[NODE][RING.address + RingHeader(64, 4).place(1) + 16] ^= 1
    assert read(stage, 0, 1) == [b"a"]
    with pytest.raises(NotFormatted, match="position 1 of the ring at 4096"):
        stage.run(RING.read(0, 2))


def test_rings_are_read_together_with_other_things(stage: Stage) -> None:
    other = Ring(NODE, 8192, slots=2, slot_bytes=32)
    stage.run(other.create())
    stage.run(other.append(b"x"))
    positions(stage, b"a")
    t = minitransaction()
    t.read(NODE, 0, 1)
    readings = [RING.add_read(t, 0, 4), other.add_read(t, 0, 4)]
    result = stage.execute(t)
    found = [reading.take(result) for reading in readings]
    assert [each.payloads for each in found if isinstance(each, Records)] == [(b"a",), (b"x",)]


def test_the_only_writer_need_not_wait(stage: Stage) -> None:
    """Minitransactions that overtake each other fail, and no more."""
    sent = []
    for position, payloads in ((0, [b"a"]), (1, [b"b", b"c"]), (3, [b"d"]), (4, [b"e"])):
        t = minitransaction()
        RING.add_append_at(t, position, payloads)
        sent.append(t)
    first, second, third, fourth = sent
    outcomes = [stage.execute(t).committed for t in (first, third, second, third, first, fourth)]
    assert outcomes == [True, False, True, True, False, False]
    assert read(stage, 0) == [b"a", b"b", b"c", b"d"]
    stage.run(RING.trim(1))
    assert stage.execute(fourth).committed
    assert read(stage, 1) == [b"b", b"c", b"d", b"e"]
    assert positions(stage, b"f") == []


def test_limits_are_named(stage: Stage) -> None:
    for slots, slot_bytes in ((0, 64), (2**32, 64), (1, 16), (1, 2**23 + 1)):
        with pytest.raises(LimitExceeded):
            Ring(NODE, 0, slots, slot_bytes)
    with pytest.raises(LimitExceeded, match="slots are for 48"):
        stage.run(RING.append(bytes(49)))
    with pytest.raises(LimitExceeded):
        stage.run(RING.append_many([b""] * (UPDATES_MAX + 1)))
    large = Ring(NODE, 0, slots=100, slot_bytes=2**23)
    assert large.records_together_max == 1
    t = minitransaction()
    large.add_read(t, 0, 100)
    assert t.byte_count <= BYTES_MAX


@given(
    slots=st.integers(1, 7),
    work=st.lists(st.tuples(st.sampled_from("atr"), st.integers(0, 9)), max_size=40),
)
def test_a_ring_is_a_list_of_which_the_head_is_given_up(
    slots: int, work: list[tuple[str, int]]
) -> None:
    ring = Ring(NODE, 64, slots, 24)
    stage = Stage(capacity=1024)
    stage.run(ring.create())
    model: list[bytes] = []
    trimmed = 0
    for kind, number in work:
        if kind == "a":
            payloads = [b"%d" % len(model)] * (number % 4)
            found = stage.run(ring.append_many(payloads))
            if len(model) + len(payloads) - trimmed > slots:
                assert found == Full()
            else:
                assert found == range(len(model), len(model) + len(payloads)) or not payloads
                model += payloads
        elif kind == "t" and number <= len(model):
            trimmed = max(trimmed, number)
            assert stage.run(ring.trim(number)) == trimmed
        elif kind == "r" and number < trimmed:
            assert stage.run(ring.read(number, 3)) == Trimmed(trimmed, len(model))
        elif kind == "r" and number <= len(model):
            wanted = tuple(model[number : number + min(3, slots)])
            assert stage.run(ring.read(number, 3)) == Records(number, wanted, trimmed, len(model))


# --- cursors -------------------------------------------------------------------------------------


def test_a_cursor_moves_with_the_effect_of_the_records(stage: Stage) -> None:
    positions(stage, b"a", b"b", b"c")
    found = stage.run(fetch(RING, CURSOR, 2))
    assert isinstance(found, Records)
    committed = []
    for _ in range(2):  # another reader fetched the same
        t = minitransaction()
        CURSOR.add_advance(t, found.first, found.next)
        t.add(NODE, 600, len(found.payloads))
        committed.append(stage.execute(t).committed)
    assert committed == [True, False]
    assert stage.memory[NODE][600] == 2
    assert stage.run(CURSOR.position()) == 2


def test_no_reader_is_trimmed_away(stage: Stage) -> None:
    positions(stage, b"a", b"b", b"c")
    assert stage.run(trim_behind(RING, [])) == 0
    for cursor, to in ((CURSOR, 3), (OTHER_CURSOR, 2)):
        t = minitransaction()
        cursor.add_advance(t, 0, to)
        assert stage.execute(t).committed
    assert stage.run(trim_behind(RING, [CURSOR, OTHER_CURSOR])) == 2
    assert stage.run(fetch(RING, OTHER_CURSOR, 4)) == Records(2, (b"c",), trimmed=2, tail=3)


def test_a_cursor_that_is_set_back_stops_the_trim(stage: Stage) -> None:
    positions(stage, b"a", b"b", b"c")
    stage.memory[NODE][CURSOR.address] = 3
    trim = stage.begin(trim_behind(RING, [CURSOR]))
    stage.step(trim)
    stage.memory[NODE][CURSOR.address] = 1
    assert stage.finish(trim) == 0
    assert stage.run(trim_behind(RING, [CURSOR])) == 1
    stage.memory[NODE][CURSOR.address] = 9
    with pytest.raises(WrongPosition):
        stage.run(trim_behind(RING, [CURSOR]))


def test_a_follower_waits_for_the_next_record(stage: Stage) -> None:
    follower = stage.begin(follow(RING, 0, 10))
    for _ in range(20):
        stage.step(follower)
    assert not follower.over
    assert follower.pauses > 0
    positions(stage, b"a", b"b")
    assert stage.finish(follower) == Records(0, (b"a", b"b"), trimmed=0, tail=2)
    stage.run(RING.trim(1))
    assert stage.run(follow(RING, 0, 10)) == Trimmed(1, tail=2)


# --- writers -------------------------------------------------------------------------------------


def make_writer(stage: Stage, number: int = 1) -> Writer:
    [lane] = stage.run(TABLE.register(number.to_bytes(16, "little")))
    return Writer(RING, TABLE, lane)


@pytest.mark.parametrize("fate", [Fate.UNKNOWN_DONE, Fate.UNKNOWN_NEVER, Fate.UNKNOWN_LATE])
def test_a_writer_that_lost_the_answer_finds_its_record(stage: Stage, fate: Fate) -> None:
    writer = make_writer(stage)
    positions(stage, b"another writer")
    append = stage.begin(writer.append(1, b"mine"))
    stage.step(append, fate)
    assert stage.finish(append) == 1
    assert stage.run(writer.append(1, b"mine")) == 1
    for late in list(stage.late):
        assert not stage.execute(late).committed
    assert read(stage, 0) == [b"another writer", Stamped(writer.lane, 1, b"mine").encode()]


def test_a_writer_that_is_never_told_may_ask_again_later(stage: Stage) -> None:
    writer = make_writer(stage)
    append = stage.begin(writer.append(1, b"mine"))
    while not append.over:
        stage.step(append, Fate.UNKNOWN_DONE)
    with pytest.raises(OutcomeUnknown):
        _ = append.value
    assert stage.run(writer.append(1, b"mine")) == 0
    assert stage.run(writer.append(2, b"next", after=0)) == 1


def test_a_record_may_be_trimmed_before_its_writer_asks(stage: Stage) -> None:
    writer = make_writer(stage)
    append = stage.begin(writer.append(1, b"mine"))
    stage.step(append, Fate.UNKNOWN_DONE)
    stage.run(RING.trim(1))
    assert stage.finish(append) == Trimmed(1, tail=1)


def test_a_writer_in_a_full_ring_keeps_its_number(stage: Stage) -> None:
    writer = make_writer(stage)
    positions(stage, b"a", b"b", b"c", b"d")
    assert stage.run(writer.append(1, b"mine")) == Full()
    stage.run(RING.trim(1))
    assert stage.run(writer.append(1, b"mine")) == 4
    found = Stamped.decode(read(stage, 4)[0])
    assert found == (writer.lane, 1, b"mine")
    with pytest.raises(LimitExceeded):
        stage.run(writer.append(2, bytes(RING.payload_bytes_max - STAMP_BYTES + 1)))
    with pytest.raises(NotFormatted):
        Stamped.decode(b"short")


def test_the_record_that_filled_the_ring_is_not_taken_for_a_full_one(stage: Stage) -> None:
    writer = make_writer(stage)
    positions(stage, b"a", b"b", b"c")
    append = stage.begin(writer.append(1, b"mine"))
    stage.step(append, Fate.UNKNOWN_DONE)
    assert stage.finish(append) == 3


# --- cost ----------------------------------------------------------------------------------------


def test_what_operations_cost(stage: Stage) -> None:
    """The table in STRUCTURES.md."""
    ring = Ring(NODE, 4096, slots=500, slot_bytes=64)
    stage.memory[NODE][4096:8192] = bytes(4096)
    stage.run(ring.create())
    writer = replace(make_writer(stage), ring=ring)

    def cost(steps: Steps[T]) -> int:
        actor = stage.begin(steps)
        count = 0
        while not actor.over:
            count += isinstance(actor.drive.step, Minitransaction)
            stage.step(actor)
        return count

    assert cost(ring.append(b"a")) == 1
    assert cost(ring.append_many([b"a"] * 64)) == 1
    assert cost(writer.append(1, b"a")) == 1
    assert cost(ring.read(0, 500)) == 1
    assert cost(follow(ring, 0, 500)) == 1
    assert cost(ring.trim(10)) == 1
    assert cost(fetch(ring, CURSOR, 10)) == 2
    assert cost(trim_behind(ring, [CURSOR])) == 1


def test_items_go_into_the_callers_minitransaction(stage: Stage) -> None:
    def two_rings(t: Minitransaction[Any]) -> None:
        RING.add_append(t, b"a")
        other.add_append(t, b"a")

    other = Ring(NODE, 8192, slots=1, slot_bytes=32)
    stage.run(other.create())
    t = minitransaction()
    two_rings(t)
    assert stage.execute(t).positions == [0, 0]
    assert stage.execute(t).full_rings == [1]
    assert read(stage, 0) == [b"a"]
