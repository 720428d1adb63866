"""The checker on conditions, adds and appends, some of them of unknown outcome."""

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from sinfonia.addresses import MemoryNodeId
from sinfonia.checking.history import (
    Added,
    Appended,
    Conditioned,
    Extent,
    Found,
    Located,
    Operation,
    Outcome,
)
from sinfonia.checking.serializability.check import Serializability, check
from sinfonia.checking.serializability.definition import execute, explained
from sinfonia.minitransaction import Relation
from sinfonia.rings import HEADER_BYTES, TRIMMED_OFFSET, RingHeader, encode_slot

OK, ILLEGAL = Serializability.OK, Serializability.ILLEGAL


def verdict(*operations: Operation) -> Serializability:
    return check(operations).result


def operation(interval: tuple[int, int], *, read: bytes = b"", write: bytes = b"") -> Operation:
    """One that reads or writes the byte at 0 of NODE."""
    return Operation(
        interval[0],
        "client",
        *interval,
        Outcome.COMMITTED,
        reads=(Extent(NODE, 0, 1),) if read else (),
        writes=(Located(NODE, 0, write),) if write else (),
        values=(read,) if read else (),
    )


NODE = MemoryNodeId(0)
RING = 128
SHAPE = RingHeader(slot_bytes=17, slots=2)
RING_MADE = Operation(
    0, "maker", -2, -1, Outcome.COMMITTED, writes=(Located(NODE, RING, SHAPE.encode()),)
)
# A word, one that lies over it, one at another memory node, and a count of the ring.
WORDS = (
    Extent(NODE, 0, 1),
    Extent(NODE, 0, 2),
    Extent(MemoryNodeId(1), 0, 1),
    Extent(NODE, RING + TRIMMED_OFFSET, 8),
)


def _add(at: int, met: int | None, delta: int = 1, word: Extent = WORDS[0]) -> Operation:
    """An add that returned before the next moment; what it met is not known if that is None."""
    outcome = Outcome.UNKNOWN if met is None else Outcome.COMMITTED
    return Operation(
        at,
        "adder",
        at,
        at + 1,
        outcome,
        updates=(Added(*word, delta),),
        answers=None if met is None else (met,),
    )


def _append(
    at: int, position: int | None, payload: bytes = b"a", *, full: bool = False
) -> Operation:
    known = Outcome.UNKNOWN if position is None else Outcome.COMMITTED
    return Operation(
        at,
        "appender",
        at,
        at + 1,
        Outcome.FAILED if full else known,
        updates=(Appended(NODE, RING, payload, SHAPE.slot_bytes, SHAPE.slots),),
        answers=None if position is None else (position,),
        full=(0,) if full else (),
    )


def _trim(at: int, position: int) -> Operation:
    data = position.to_bytes(8, "little")
    trimmed = Located(NODE, RING + TRIMMED_OFFSET, data)
    return Operation(at, "trimmer", at, at + 1, Outcome.COMMITTED, writes=(trimmed,))


def _check(at: int, relation: Relation, operand: bytes, mask: bytes = b"") -> Operation:
    condition = Conditioned(NODE, 0, operand, relation, mask)
    return Operation(at, "checker", at, at + 1, Outcome.COMMITTED, compares=(condition,))


def test_an_add_that_happened_twice_is_illegal() -> None:
    assert verdict(_add(1, 0), _add(3, 1)) is OK
    assert verdict(_add(1, 0), _add(3, 2)) is ILLEGAL


def test_two_adds_that_met_the_same_are_illegal() -> None:
    """The second one was computed from what the first one had not written yet: a lost update."""
    together = [replace(_add(1, 0), returned_at=9), replace(_add(2, 0), returned_at=9)]
    assert verdict(*together) is ILLEGAL


def test_an_add_wraps() -> None:
    assert verdict(_add(1, 0, 250), _add(3, 250, 10), _add(5, 4)) is OK


def test_an_unknown_add_happened_once_or_never() -> None:
    unknown = _add(1, None, 5)
    read = operation((3, 4), read=b"\5")
    assert verdict(unknown, read) is OK
    assert verdict(unknown, operation((3, 4), read=b"\0")) is OK
    assert verdict(unknown, operation((3, 4), read=b"\n")) is ILLEGAL
    assert verdict(unknown, read, operation((5, 6), read=b"\0")) is ILLEGAL


def test_what_an_unknown_add_left_depends_on_where_it_happened() -> None:
    """It may come before the write, which hides it, or after, but not both."""
    history = [_add(1, None, 5), operation((3, 4), write=b"\x10")]
    for seen, expected in ((b"\x10", OK), (b"\x15", OK), (b"\5", ILLEGAL)):
        assert verdict(*history, operation((5, 6), read=seen)) is expected


def test_unknown_adds_make_up_a_sum() -> None:
    adds = [_add(1, None, delta) for delta in (1, 2, 4, 8)]
    assert verdict(*adds, _add(3, 11)) is OK
    assert verdict(*adds, _add(3, 16)) is ILLEGAL


def test_a_carry_goes_into_the_next_byte() -> None:
    wide = _add(1, 0, 255, WORDS[1])
    assert verdict(wide, _add(3, None, 1, WORDS[1]), _add(5, 256, 1, WORDS[1])) is OK
    # An add to the low byte alone wraps there.
    assert verdict(wide, _add(3, None, 1, WORDS[0]), _add(5, 0, 1, WORDS[1])) is OK
    assert verdict(wide, _add(3, None, 1, WORDS[0]), _add(5, 256, 1, WORDS[1])) is ILLEGAL


def test_two_appends_at_one_position_are_illegal() -> None:
    assert verdict(RING_MADE, _append(1, 0), _append(3, 1)) is OK
    assert verdict(RING_MADE, _append(1, 0), _append(3, 0)) is ILLEGAL


def test_a_ring_is_full_until_it_is_trimmed() -> None:
    both = [RING_MADE, _append(1, 0), _append(3, 1)]
    assert verdict(*both, _append(5, 2)) is ILLEGAL
    assert verdict(*both, _trim(5, 1), _append(7, 2)) is OK
    assert verdict(*both, _append(5, None, full=True)) is OK
    assert verdict(*both[:2], _append(5, None, full=True)) is ILLEGAL
    assert verdict(*both, _trim(5, 1), _append(7, None, full=True)) is ILLEGAL


def test_an_unknown_append_may_have_filled_the_ring() -> None:
    history = [RING_MADE, _append(1, 0), _append(3, None), _append(5, None, full=True)]
    assert verdict(*history) is OK


def test_an_append_leaves_its_payload_in_its_slot() -> None:
    slot = encode_slot(SHAPE, 0, b"a")
    place = Extent(NODE, RING + SHAPE.place(0), len(slot))

    def reading(value: bytes) -> Operation:
        return Operation(5, "r", 5, 6, Outcome.COMMITTED, reads=(place,), values=(value,))

    assert verdict(RING_MADE, _append(1, 0), reading(slot)) is OK
    assert verdict(RING_MADE, _append(1, None), reading(slot)) is OK
    assert verdict(RING_MADE, _append(1, 0), reading(bytes(len(slot)))) is ILLEGAL


def test_nothing_is_appended_where_there_is_no_ring() -> None:
    assert verdict(_append(1, 0)) is ILLEGAL
    assert verdict(_append(1, None), operation((3, 4), read=b"\0")) is OK


def test_a_condition_must_have_held() -> None:
    write = operation((1, 2), write=b"\5")
    for relation, operand, expected in (
        (Relation.LESS, b"\5", ILLEGAL),
        (Relation.AT_MOST, b"\5", OK),
        (Relation.NOT_EQUAL, b"\5", ILLEGAL),
        (Relation.GREATER, b"\4", OK),
    ):
        assert verdict(write, _check(3, relation, operand)) is expected
    assert verdict(write, _check(3, Relation.EQUAL, b"\4", mask=b"\6")) is OK
    assert verdict(write, _check(3, Relation.EQUAL, b"\5", mask=b"\6")) is ILLEGAL


def test_a_condition_sees_an_unknown_add_or_not() -> None:
    unknown = _add(1, None, 5)
    assert verdict(unknown, _check(3, Relation.AT_LEAST, b"\5")) is OK
    assert verdict(unknown, _check(3, Relation.LESS, b"\5")) is OK
    both = [_check(3, Relation.AT_LEAST, b"\5"), _check(5, Relation.LESS, b"\5")]
    assert verdict(unknown, *both) is ILLEGAL
    assert verdict(unknown, *both[::-1]) is ILLEGAL


def test_a_refusal_names_all_that_did_not_hold() -> None:
    """A memory node that names one item says that the others held."""
    wrong = Operation(
        1,
        "c",
        1,
        2,
        Outcome.FAILED,
        compares=(Located(NODE, 0, b"1"), Conditioned(NODE, 1, b"1", Relation.GREATER)),
        failed=(Found(0, b"\0"),),
    )
    assert verdict(wrong) is ILLEGAL
    assert verdict(replace(wrong, failed=(Found(0, b"\0"), Found(1, b"\0")))) is OK


def _rich_operation(rng: random.Random, number: int) -> Operation:
    """Something to ask, with items of all kinds over the same few bytes."""

    def perhaps(share: float, most: int = 1) -> range:
        return range(rng.randint(1, most) if rng.random() < share else 0)

    def data(length: int) -> bytes:
        return rng.randrange(3).to_bytes(length, "little")

    looked_at = [word for word in WORDS if word.node == NODE or rng.random() < 0.2]
    updates: list[Added | Appended] = []
    for _ in perhaps(0.8, 2):
        if rng.random() < 0.5:
            updates.append(Added(*rng.choice(WORDS), delta=rng.choice((1, 2, 255))))
        else:
            payload = bytes([rng.randrange(2)])
            updates.append(Appended(NODE, RING, payload, SHAPE.slot_bytes, SHAPE.slots))
    compares: list[Located | Conditioned] = []
    for _ in perhaps(0.4, 2):
        word = rng.choice([each for each in looked_at if each.node == NODE])
        mask = rng.choice((b"", data(word.length)))
        compares.append(
            Located(word.node, word.address, data(word.length))
            if rng.random() < 0.3
            else Conditioned(
                word.node, word.address, data(word.length), rng.choice(list(Relation)), mask
            )
        )
    places = [*WORDS, Extent(NODE, RING, HEADER_BYTES), Extent(NODE, RING + HEADER_BYTES, 17)]
    return Operation(
        number,
        "client",
        0,
        None,
        Outcome.UNKNOWN,
        tuple(compares),
        tuple(rng.choice(places) for _ in perhaps(0.5)),
        tuple(
            Located(word.node, word.address, data(word.length))
            for word in [rng.choice(WORDS) for _ in perhaps(0.3)]
        ),
        updates=tuple(updates),
    )


def _tampered(rng: random.Random, each: Operation) -> Operation:
    """The same with one part of its reply changed."""
    if each.outcome is Outcome.FAILED:
        return replace(each, outcome=Outcome.COMMITTED, reads=(), failed=(), full=(), answers=None)
    if each.answers and rng.random() < 0.7:
        changed = (rng.randrange(3), *each.answers[1:])
        return replace(each, answers=changed)
    if each.values and rng.random() < 0.7:
        value = bytearray(each.values[0])
        value[rng.randrange(len(value))] ^= 1
        return replace(each, values=(bytes(value),))
    return each


def _rich_history(seed: int) -> list[Operation]:
    """What a memory executed one by one and told with intervals that overlap; and now and then a
    lie, or an outcome that got lost."""
    rng = random.Random(seed)
    memory = {node: bytearray(256) for node in range(2)}
    execute(memory, RING_MADE)
    history = [RING_MADE]
    for number in range(1, rng.randint(2, 5)):
        asked = _rich_operation(rng, number)
        done = execute(memory, asked)
        start = max(0, 4 * number - rng.randint(0, 8))
        done = replace(done, invoked_at=start, returned_at=4 * number + rng.randint(1, 8))
        match rng.randrange(10):
            case 0 | 1:
                done = _tampered(rng, done)
            case 2 | 3 | 4 if done.outcome is not Outcome.FAILED:
                done = replace(asked, invoked_at=start)
            case 5 if done.outcome is Outcome.COMMITTED:
                done = replace(done, reads=(), values=(), answers=None)
        history.append(done)
    return history


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32))
def test_the_verdict_on_richer_items_is_that_of_the_definition(seed: int) -> None:
    history = [each for each in _rich_history(seed) if each.outcome is not Outcome.NOT_EXECUTED]
    assert (verdict(*history) is OK) == explained(history)


def test_the_richer_histories_are_of_both_kinds() -> None:
    verdicts = [verdict(*_rich_history(seed)) for seed in range(200)]
    assert 20 <= verdicts.count(ILLEGAL) <= 100
