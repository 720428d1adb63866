"""The checker on histories whose verdict any textbook gives."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinfonia.addresses import MemoryNodeId
from sinfonia.checking.history import (
    Added,
    Extent,
    Found,
    HistoryRecorder,
    Located,
    Operation,
    Outcome,
)
from sinfonia.checking.serializability.check import Serializability, check
from sinfonia.checking.serializability.definition import explained

Places = dict[str, bytes]
PLACES = {"x": (0, 0), "y": (1, 0), "z": (0, 64)}


def operation(
    interval: tuple[int, int],
    *,
    compare: Places | None = None,
    read: Places | None = None,
    write: Places | None = None,
    outcome: Outcome = Outcome.COMMITTED,
    found: Places | None = None,
) -> Operation:
    """An operation on words of one byte at x, y and z; ``read`` maps places to values seen."""
    compares = tuple(_located(compare or {}))
    reads = tuple(Extent(node, at, len(data)) for node, at, data in _located(read or {}))
    names = list(compare or {})
    return Operation(
        number=interval[0],
        process="client",
        invoked_at=interval[0],
        returned_at=interval[1],
        outcome=outcome,
        compares=compares,
        reads=reads,
        writes=tuple(_located(write or {})),
        values=tuple((read or {}).values()) if outcome is Outcome.COMMITTED else (),
        failed=tuple(Found(names.index(name), data) for name, data in (found or {}).items()),
    )


def _located(places: Places) -> list[Located]:
    return [
        Located(MemoryNodeId(PLACES[name][0]), PLACES[name][1], data)
        for name, data in places.items()
    ]


def verdict(*operations: Operation) -> Serializability:
    return check(operations).result


OK, ILLEGAL = Serializability.OK, Serializability.ILLEGAL


def test_an_empty_history_is_legal() -> None:
    assert verdict() is OK


def test_a_read_after_a_write_sees_it() -> None:
    write = operation((1, 2), write={"x": b"1"})
    assert verdict(write, operation((3, 4), read={"x": b"1"})) is OK


def test_a_stale_read_is_illegal() -> None:
    write = operation((1, 2), write={"x": b"1"})
    assert verdict(write, operation((3, 4), read={"x": b"\0"})) is ILLEGAL


def test_a_real_time_violation_that_plain_serializability_allows_is_illegal() -> None:
    """Two clients, each in order by itself; one total order exists, but not in real time."""
    writes = [operation((1, 2), write={"x": b"1"}), operation((3, 4), write={"y": b"2"})]
    late = operation((5, 6), read={"x": b"\0", "y": b"\0"})
    assert verdict(*writes, late) is ILLEGAL
    assert verdict(*writes, operation((0, 7), read={"x": b"\0", "y": b"\0"})) is OK


def test_new_then_old_is_illegal_even_while_the_write_runs() -> None:
    write = operation((1, 10), write={"x": b"1"})
    new, old = operation((2, 3), read={"x": b"1"}), operation((4, 5), read={"x": b"\0"})
    assert verdict(write, new, old) is ILLEGAL
    assert verdict(write, new) is OK


def test_a_lost_update_is_illegal() -> None:
    swaps = [
        operation((1, 10), read={"x": b"\0"}, write={"x": b"1"}),
        operation((2, 9), read={"x": b"\0"}, write={"x": b"2"}),
    ]
    assert verdict(*swaps) is ILLEGAL


def test_write_skew_is_illegal() -> None:
    skew = [
        operation((1, 10), compare={"y": b"\0"}, write={"x": b"1"}),
        operation((2, 9), compare={"x": b"\0"}, write={"y": b"2"}),
    ]
    assert verdict(*skew) is ILLEGAL


def test_a_cycle_over_two_nodes_is_illegal() -> None:
    """Each read alone can be explained; the two together order the writes both ways."""
    history = [
        operation((1, 10), write={"x": b"1"}),
        operation((2, 9), write={"y": b"2"}),
        operation((3, 8), read={"x": b"1", "y": b"\0"}),
        operation((4, 7), read={"x": b"\0", "y": b"2"}),
    ]
    assert verdict(*history) is ILLEGAL
    assert verdict(*history[:3]) is OK


def test_a_read_of_two_nodes_that_sees_half_a_write_is_illegal() -> None:
    transfer = operation((1, 10), write={"x": b"1", "y": b"2"})
    assert verdict(transfer, operation((2, 9), read={"x": b"1", "y": b"\0"})) is ILLEGAL


def test_a_read_of_a_write_that_failed_is_illegal() -> None:
    failed = operation(
        (1, 2),
        compare={"x": b"7"},
        write={"x": b"1"},
        outcome=Outcome.FAILED,
        found={"x": b"\0"},
    )
    assert verdict(failed) is OK
    assert verdict(failed, operation((3, 4), read={"x": b"1"})) is ILLEGAL


def test_a_read_of_a_write_that_was_not_executed_is_illegal() -> None:
    refused = operation((1, 2), write={"x": b"1"}, outcome=Outcome.NOT_EXECUTED)
    assert verdict(refused, operation((3, 4), read={"x": b"1"})) is ILLEGAL
    assert verdict(refused, operation((3, 4), read={"x": b"\0"})) is OK


def test_a_read_of_bytes_that_were_never_written_is_illegal() -> None:
    assert verdict(operation((1, 2), read={"x": b"9"})) is ILLEGAL


def test_an_unknown_write_may_have_happened_or_not() -> None:
    unknown = operation((1, 2), write={"x": b"1"}, outcome=Outcome.UNKNOWN)
    assert verdict(unknown, operation((3, 4), read={"x": b"1"})) is OK
    assert verdict(unknown, operation((3, 4), read={"x": b"\0"})) is OK


def test_an_unknown_write_may_happen_late_but_only_once() -> None:
    unknown = operation((1, 2), write={"x": b"1"}, outcome=Outcome.UNKNOWN)
    before, after = operation((3, 4), read={"x": b"\0"}), operation((5, 6), read={"x": b"1"})
    assert verdict(unknown, before, after) is OK
    overwrite = operation((7, 8), write={"x": b"2"})
    again = operation((9, 10), read={"x": b"1"})
    assert verdict(unknown, before, after, overwrite, again) is ILLEGAL


def test_an_unknown_write_cannot_happen_before_it_was_invoked() -> None:
    read = operation((1, 2), read={"x": b"1"})
    unknown = operation((3, 4), write={"x": b"1"}, outcome=Outcome.UNKNOWN)
    assert verdict(read, unknown) is ILLEGAL


def test_an_unknown_write_happens_at_all_its_nodes_or_at_none() -> None:
    unknown = operation((1, 2), write={"x": b"1", "y": b"2"}, outcome=Outcome.UNKNOWN)
    assert verdict(unknown, operation((3, 4), read={"x": b"1", "y": b"\0"})) is ILLEGAL


def test_an_unknown_write_whose_compare_never_matched_did_not_happen() -> None:
    unknown = operation((1, 2), compare={"y": b"7"}, write={"x": b"1"}, outcome=Outcome.UNKNOWN)
    assert verdict(unknown, operation((3, 4), read={"x": b"1"})) is ILLEGAL


def test_an_unknown_write_may_be_what_made_another_unknown_one_possible() -> None:
    first = operation((1, 2), write={"y": b"7"}, outcome=Outcome.UNKNOWN)
    second = operation((3, 4), compare={"y": b"7"}, write={"x": b"1"}, outcome=Outcome.UNKNOWN)
    assert verdict(first, second, operation((5, 6), read={"x": b"1"})) is OK


def test_a_failed_compare_must_have_found_what_was_there() -> None:
    def failing(found: bytes) -> Operation:
        return operation((3, 4), compare={"x": b"7"}, outcome=Outcome.FAILED, found={"x": found})

    write = operation((1, 2), write={"x": b"1"})
    assert verdict(write, failing(b"1")) is OK
    assert verdict(write, failing(b"\0")) is ILLEGAL


def test_a_failure_without_a_failed_compare_is_illegal() -> None:
    assert verdict(operation((1, 2), compare={"x": b"7"}, outcome=Outcome.FAILED)) is ILLEGAL


def test_a_failed_compare_that_found_what_it_expected_is_illegal() -> None:
    contradiction = operation(
        (1, 2), compare={"x": b"\0"}, outcome=Outcome.FAILED, found={"x": b"\0"}
    )
    assert verdict(contradiction) is ILLEGAL


def test_what_two_nodes_found_need_not_have_been_there_together() -> None:
    """x becomes right before y becomes wrong; a participant that votes BAD_CMP keeps no locks."""
    history = [
        operation((2, 3), write={"x": b"7"}),
        operation((4, 5), write={"y": b"8"}),
        operation(
            (1, 6),
            compare={"x": b"7", "y": b"\0"},
            outcome=Outcome.FAILED,
            found={"x": b"\0", "y": b"8"},
        ),
    ]
    assert verdict(*history) is OK


def test_overlapping_items_are_one_memory() -> None:
    node = MemoryNodeId(0)
    wide = Operation(1, "a", 1, 2, Outcome.COMMITTED, writes=(Located(node, 0, b"abcd"),))
    narrow = Operation(2, "b", 3, 4, Outcome.COMMITTED, writes=(Located(node, 1, b"XY"),))

    def reading(value: bytes) -> Operation:
        return Operation(
            3, "c", 5, 6, Outcome.COMMITTED, reads=(Extent(node, 0, 4),), values=(value,)
        )

    assert verdict(wide, narrow, reading(b"aXYd")) is OK
    assert verdict(wide, narrow, reading(b"abYd")) is ILLEGAL


def test_of_two_writes_of_one_minitransaction_the_later_item_wins() -> None:
    node = MemoryNodeId(0)
    both = Operation(
        1,
        "a",
        1,
        2,
        Outcome.COMMITTED,
        writes=(Located(node, 0, b"ab"), Located(node, 1, b"c")),
    )
    read = Operation(2, "a", 3, 4, Outcome.COMMITTED, reads=(Extent(node, 0, 2),), values=(b"ac",))
    assert verdict(both, read) is OK


def test_reads_see_memory_before_the_writes_of_the_same_minitransaction() -> None:
    assert verdict(operation((1, 2), read={"x": b"\0"}, write={"x": b"1"})) is OK
    assert verdict(operation((1, 2), read={"x": b"1"}, write={"x": b"1"})) is ILLEGAL


def test_the_explanation_names_only_what_contradicts() -> None:
    noise = [operation((i, i + 1), write={"z": bytes([i])}) for i in range(10, 60, 2)]
    write = operation((1, 2), write={"x": b"1"})
    stale = operation((61, 62), read={"x": b"\0"})
    explanation = check([write, *noise, stale]).explanation
    assert str(write) in explanation
    assert str(stale) in explanation
    assert len(explanation.splitlines()) == 3


def test_a_witness_lists_the_operations_in_an_order_that_explains_them() -> None:
    read = operation((1, 10), read={"x": b"2"})
    first, second = operation((2, 9), write={"x": b"1"}), operation((3, 8), write={"x": b"2"})
    order = check([read, first, second]).order
    assert order.index(second.number) < order.index(read.number)


def test_a_search_without_budget_is_undecided() -> None:
    """Equal values leave the search without clues, and no order exists."""
    swaps = [
        operation((i, 100 + i), read={"x": bytes([i % 3])}, write={"x": bytes([i % 5])})
        for i in range(1, 30)
    ]
    assert check(swaps, steps_max=50).result is Serializability.UNKNOWN


class _Memory:
    """Two words of memory that execute one operation in one step."""

    def __init__(self) -> None:
        self.words = {"x": b"\0", "y": b"\0", "z": b"\0"}

    def execute(self, compare: Places, read: Sequence[str], write: Places) -> Operation:
        found = {name: self.words[name] for name in compare if self.words[name] != compare[name]}
        values = {name: self.words[name] for name in read}
        if not found:
            self.words |= write
        outcome = Outcome.FAILED if found else Outcome.COMMITTED
        return operation(
            (0, 0), compare=compare, read=values, write=write, outcome=outcome, found=found
        )


def _generated_history(seed: int, operations: int) -> list[Operation]:
    """Operations that really were executed one by one, with intervals that overlap."""
    rng = random.Random(seed)
    memory = _Memory()
    history = []
    for number in range(operations):
        names = rng.sample("xyz", rng.randint(1, 3))
        compare = {names[0]: memory.words[names[0]]} if rng.random() < 0.4 else {}
        if compare and rng.random() < 0.3:
            compare = {names[0]: b"?"}
        write = {name: bytes([rng.randint(1, 250)]) for name in names[1:]}
        done = memory.execute(compare, rng.sample("xyz", rng.randint(0, 2)), write)
        at = 100 * number + 50
        start, end = at - rng.randint(1, 400), at + rng.randint(1, 400)
        lost = rng.random() < 0.1
        history.append(
            Operation(
                number,
                "client",
                start,
                None if lost else end,
                Outcome.UNKNOWN if lost else done.outcome,
                done.compares,
                done.reads,
                done.writes,
                () if lost else done.values,
                () if lost else done.failed,
            )
        )
    return history


@pytest.mark.parametrize("seed", range(40))
def test_what_was_executed_one_by_one_is_always_legal(seed: int) -> None:
    history = _generated_history(seed, 120)
    assert check(history, steps_max=20_000).result is OK


_values = st.sampled_from([b"\0", b"1", b"2"])


@st.composite
def _small_operations(draw: st.DrawFn) -> Operation:
    start = draw(st.integers(0, 8))
    kind = draw(st.sampled_from([Outcome.COMMITTED, Outcome.COMMITTED, Outcome.UNKNOWN]))
    places = st.dictionaries(st.sampled_from(["x", "y"]), _values, max_size=2)
    if draw(st.booleans()):
        name, expected = draw(st.sampled_from(["x", "y"])), draw(_values)
        found = draw(_values.filter(lambda value: value != expected))
        return operation(
            (start, start + draw(st.integers(0, 6))),
            compare={name: expected},
            write=draw(places),
            outcome=Outcome.FAILED,
            found={name: found},
        )
    return operation(
        (start, start + draw(st.integers(0, 6))),
        compare=draw(places) if draw(st.booleans()) else {},
        read=draw(places),
        write=draw(places),
        outcome=kind,
    )


@settings(max_examples=400, deadline=None)
@given(st.lists(_small_operations(), max_size=4))
def test_the_verdict_is_that_of_the_definition(history: list[Operation]) -> None:
    assert (verdict(*history) is OK) == explained(history)


def test_a_recorder_keeps_what_never_returned_as_unknown() -> None:
    recorder = HistoryRecorder()
    lost = recorder.invoke("a", writes=(Located(MemoryNodeId(0), 0, b"1"),))
    done = recorder.invoke("b", reads=(Extent(MemoryNodeId(0), 0, 1),))
    recorder.complete(done, Outcome.COMMITTED, values=(b"\0",))
    assert recorder.operations[lost].outcome is Outcome.UNKNOWN
    assert recorder.operations[lost].returned_at is None
    assert recorder.operations[done].invoked_at < (recorder.operations[done].returned_at or 0)


def test_unknown_outcomes_are_no_reason_to_give_up() -> None:
    """Each of them may have happened, and what was seen needs none: all their orders are too many
    to try."""
    rng = random.Random(1)
    unknown = [
        Operation(
            number,
            "lost",
            number,
            None,
            Outcome.UNKNOWN,
            updates=tuple(
                Added(MemoryNodeId(node), 0, 1, rng.randint(1, 255)) for node in range(2)
            ),
        )
        for number in range(1, 15)
    ]
    # Which of two writes was the last shows at the very end; that it was not overtaken by one that
    # would have found something else there, too.
    seen = [
        operation((15, 18), write={"z": b"\1"}),
        operation((16, 17), write={"z": b"\2"}),
        operation((19, 100), compare={"z": b"\7"}, write={"z": b"\2"}, outcome=Outcome.UNKNOWN),
        operation((200, 201), read={"z": b"\2"}),
    ]
    for moment in range(20, 100, 4):
        value = bytes([rng.randint(1, 255)])
        seen.append(operation((moment, moment + 1), write={"x": value, "y": value}))
        seen.append(operation((moment + 2, moment + 3), read={"x": value, "y": value}))
    assert check([*unknown, *seen], steps_max=1000).result is OK
