"""Range locks against the obvious: a dictionary with an entry for every byte."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinfonia.minitransaction import CompareItem, ReadItem, WriteItem
from sinfonia.protocol import locks as locks_module
from sinfonia.protocol.locks import RangeLocks, lock_ranges
from sinfonia.protocol.records import LockRange

SPAN = 24


def shared(start: int, end: int) -> LockRange:
    return LockRange(start, end, False)


def exclusive(start: int, end: int) -> LockRange:
    return LockRange(start, end, True)


def ranges_of(items: Sequence[tuple[str, int, int]]) -> list[LockRange]:
    """The locks of items given as (kind, start, length)."""
    return lock_ranges(
        [CompareItem(start, bytes(length)) for kind, start, length in items if kind == "compare"],
        [ReadItem(start, length) for kind, start, length in items if kind == "read"],
        [WriteItem(start, bytes(length)) for kind, start, length in items if kind == "write"],
    )


class ByteLocks:
    """A lock per byte."""

    def __init__(self) -> None:
        self.readers = [0] * (2 * SPAN)
        self.writers = [0] * (2 * SPAN)

    def try_acquire(self, ranges: Sequence[LockRange]) -> bool:
        for wanted in ranges:
            for byte in range(wanted.start, wanted.end):
                if self.writers[byte] or (wanted.exclusive and self.readers[byte]):
                    return False
        self._count(ranges, 1)
        return True

    def release(self, ranges: Sequence[LockRange]) -> None:
        self._count(ranges, -1)

    def _count(self, ranges: Sequence[LockRange], change: int) -> None:
        for each in ranges:
            held = self.writers if each.exclusive else self.readers
            for byte in range(each.start, each.end):
                held[byte] += change


items_strategy = st.lists(
    st.tuples(
        st.sampled_from(["compare", "read", "write"]),
        st.integers(0, SPAN),
        st.integers(0, SPAN // 2),
    ),
    max_size=6,
)


@given(st.lists(st.one_of(items_strategy, st.integers(0, 20)), max_size=40))
def test_range_locks_agree_with_a_lock_per_byte(
    steps: list[list[tuple[str, int, int]] | int],
) -> None:
    """A step is a minitransaction's items to lock, or the number of a holder to release."""
    locks, model = RangeLocks(), ByteLocks()
    held: list[list[LockRange]] = []
    for step in steps:
        if isinstance(step, int):
            if held:
                ranges = held.pop(step % len(held))
                locks.release(ranges)
                model.release(ranges)
        else:
            ranges = ranges_of(step)
            acquired = locks.try_acquire(ranges)
            assert acquired == model.try_acquire(ranges)
            if acquired:
                held.append(ranges)
        locks.check_invariants()
    for ranges in held:
        locks.release(ranges)
    assert len(locks) == 0


@given(items_strategy)
def test_the_locks_of_a_minitransaction_are_disjoint_and_as_strong_as_needed(
    items: list[tuple[str, int, int]],
) -> None:
    strongest: dict[int, bool] = {}
    for kind, start, length in items:
        for byte in range(start, start + length):
            strongest[byte] = strongest.get(byte, False) or kind == "write"
    ranges = ranges_of(items)
    found = {byte: each.exclusive for each in ranges for byte in range(each.start, each.end)}
    assert found == strongest
    assert sum(each.end - each.start for each in ranges) == len(strongest), "they overlap"
    assert all(each.start < each.end for each in ranges)


def test_two_readers_coexist_and_a_writer_does_not() -> None:
    locks = RangeLocks()
    assert locks.try_acquire([shared(0, 8)])
    assert locks.try_acquire([shared(4, 12)])
    assert not locks.try_acquire([exclusive(11, 12)])
    assert locks.try_acquire([exclusive(12, 13)])


def test_adjacent_ranges_do_not_meet() -> None:
    locks = RangeLocks()
    assert locks.try_acquire([exclusive(0, 8)])
    assert locks.try_acquire([exclusive(8, 16)])


def test_all_ranges_or_none() -> None:
    locks = RangeLocks()
    assert locks.try_acquire([exclusive(100, 101)])
    assert not locks.try_acquire([exclusive(0, 8), exclusive(100, 104)])
    assert locks.try_acquire([exclusive(0, 8)]), "the first range was kept by a failed attempt"


def test_a_lock_on_a_gigabyte_is_one_segment() -> None:
    locks = RangeLocks()
    assert locks.try_acquire([shared(0, 2**30)])
    assert len(locks) == 1


def test_a_thousand_held_ranges_are_searched_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts what a conflict test compares: a walk would touch every segment before the last."""
    locks = RangeLocks()
    for i in range(1000):
        assert locks.try_acquire([exclusive(i * 16, i * 16 + 8)])
    touched = CountingList(locks._starts)
    monkeypatch.setattr(locks, "_starts", touched)
    assert locks.conflicts(999 * 16, 999 * 16 + 1, exclusive=False)
    assert not locks.conflicts(999 * 16 + 8, 999 * 16 + 9, exclusive=False)
    assert touched.touched <= 4


class CountingList(list[int]):
    """Counts subscriptions."""

    touched = 0

    def __getitem__(self, key):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204 -- a probe
        self.touched += 1
        return super().__getitem__(key)


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks_module, "LOCK_SEGMENTS_MAX", 4)
    locks = RangeLocks()
    assert locks.try_acquire([exclusive(0, 1)])
    assert locks.try_acquire([exclusive(2, 3)])
    assert locks.try_acquire([exclusive(4, 5)])
    assert not locks.try_acquire([exclusive(6, 7)])
