"""Range locks are tried, never awaited: all of a minitransaction's ranges, or none.

Locks are on half-open byte ranges, shared (compare and read items) or exclusive (write items), and
held by a tid from its vote to its outcome.  The table is a sorted list of disjoint segments::

    address   0        8       12       20       28
              |  free  |  2 rd |   1 rd |  excl  |  free

A shared acquisition cuts segments at its two ends and counts itself into every segment between;
releasing counts it out and drops segments without a holder.  Finding the first segment is a
binary search, so a range of a gigabyte costs what a range of a byte does: O(log n) comparisons,
plus the segments it meets.  (Inserting moves the tail of a list in one memmove; at
LOCK_SEGMENTS_MAX segments that is some ten microseconds.)
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from sinfonia.minitransaction import CompareItem, ConditionItem, ReadItem, UpdateItem, WriteItem
from sinfonia.protocol.records import LockRange
from sinfonia.protocol.updates import locked_extent

# Bounds the memory and the memmove; a client that meets it gets BAD_LOCK and backs off.
LOCK_SEGMENTS_MAX = 64 * 1024

EXCLUSIVE = -1


class RangeLocks:
    """The locks of one memory node.  The caller keeps its ranges and releases the same."""

    __slots__ = ("_ends", "_holders", "_starts")

    def __init__(self) -> None:
        # Parallel lists: segment i is [_starts[i], _ends[i]), held by _holders[i] readers, or
        # EXCLUSIVE.  Segments are disjoint and in order; each has a holder.
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._holders: list[int] = []

    def __len__(self) -> int:
        return len(self._starts)

    def conflicts(self, start: int, end: int, *, exclusive: bool) -> bool:
        """Whether [start, end) cannot be locked now."""
        if start == end:
            return False
        i = self._first_reaching_past(start)
        while i < len(self._starts) and self._starts[i] < end:
            if exclusive or self._holders[i] == EXCLUSIVE:
                return True
            i += 1
        return False

    def try_acquire(self, ranges: Sequence[LockRange]) -> bool:
        """Lock all of ``ranges`` (disjoint, as ``lock_ranges`` gives them), or none."""
        if len(self._starts) + 2 * len(ranges) > LOCK_SEGMENTS_MAX:
            return False
        for wanted in ranges:
            if self.conflicts(wanted.start, wanted.end, exclusive=wanted.exclusive):
                return False
        for wanted in ranges:
            if wanted.exclusive:
                self._insert(
                    bisect_left(self._starts, wanted.start), wanted.start, wanted.end, EXCLUSIVE
                )
            else:
                self._share(wanted.start, wanted.end)
        return True

    def release(self, ranges: Iterable[LockRange]) -> None:
        """Give back ranges that were acquired together."""
        for held in ranges:
            if held.exclusive:
                i = bisect_left(self._starts, held.start)
                assert self._starts[i] == held.start, "an exclusive segment is never cut"
                assert self._holders[i] == EXCLUSIVE
                self._delete(i)
            else:
                self._unshare(held.start, held.end)

    def check_invariants(self) -> None:
        """Segments are non-empty, disjoint, in order and held."""
        assert len(self._starts) == len(self._ends) == len(self._holders)
        previous_end = -1
        for start, end, holders in zip(self._starts, self._ends, self._holders, strict=True):
            assert previous_end <= start < end
            assert holders == EXCLUSIVE or holders > 0
            previous_end = end

    def covers_the_same(self, other: "RangeLocks") -> bool:
        """Whether both tables lock the same bytes in the same way, however they are cut."""
        return self.coalesced() == other.coalesced()

    def coalesced(self) -> list[tuple[int, int, int]]:
        """The locked ranges as (start, end, holders), shared neighbours joined."""
        merged: list[tuple[int, int, int]] = []
        for start, end, holders in zip(self._starts, self._ends, self._holders, strict=True):
            if merged and merged[-1][1:] == (start, holders) and holders != EXCLUSIVE:
                merged[-1] = (merged[-1][0], end, holders)
            else:
                merged.append((start, end, holders))
        return merged

    def _share(self, start: int, end: int) -> None:
        i = self._cut(start)
        while start < end:
            if i == len(self._starts) or self._starts[i] >= end:
                self._insert(i, start, end, 1)
                return
            if start < self._starts[i]:
                self._insert(i, start, self._starts[i], 1)
            else:
                self._cut(end)
                self._holders[i] += 1
            start = self._ends[i]
            i += 1

    def _unshare(self, start: int, end: int) -> None:
        i = bisect_left(self._starts, start)
        while i < len(self._starts) and self._starts[i] < end:
            assert self._holders[i] > 0, "a shared segment was lost"
            self._holders[i] -= 1
            if self._holders[i] == 0:
                self._delete(i)
            else:
                i += 1

    def _cut(self, address: int) -> int:
        """Make ``address`` a boundary; the first segment that starts there or later."""
        i = self._first_reaching_past(address)
        if i < len(self._starts) and self._starts[i] < address:
            end, holders = self._ends[i], self._holders[i]
            self._ends[i] = address
            i += 1
            self._insert(i, address, end, holders)
        return i

    def _first_reaching_past(self, address: int) -> int:
        # Segments are disjoint, so their ends are sorted too.
        return bisect_right(self._ends, address)

    def _insert(self, i: int, start: int, end: int, holders: int) -> None:
        self._starts.insert(i, start)
        self._ends.insert(i, end)
        self._holders.insert(i, holders)

    def _delete(self, i: int) -> None:
        del self._starts[i], self._ends[i], self._holders[i]


def lock_ranges(
    compares: Iterable[CompareItem],
    reads: Iterable[ReadItem],
    writes: Iterable[WriteItem],
    conditions: Iterable[ConditionItem] = (),
    updates: Iterable[UpdateItem] = (),
) -> list[LockRange]:
    """The locks that these items need: disjoint, in order, and each byte as strongly as it must.

    A byte that is both read and written is locked exclusively, once.
    """
    written = [(item.address, item.address + len(item.data)) for item in writes]
    written += [locked_extent(item) for item in updates]
    shared = [(item.address, item.address + len(item.expected)) for item in compares]
    shared += [(item.address, item.address + len(item.operand)) for item in conditions]
    shared += [(item.address, item.address + item.length) for item in reads]
    exclusive = _union(written)
    ranges = [LockRange(start, end, True) for start, end in exclusive]
    ranges += [LockRange(start, end, False) for start, end in _minus(_union(shared), exclusive)]
    ranges.sort(key=lambda locked: locked.start)
    return ranges


def _union(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Disjoint ranges in order that cover the same bytes; empty ranges vanish."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if start == end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _minus(
    ranges: list[tuple[int, int]], holes: list[tuple[int, int]]
) -> Iterable[tuple[int, int]]:
    """The bytes of ``ranges`` that are in no hole; both sorted and disjoint."""
    for start, end in ranges:
        at = start
        first = max(0, bisect_left(holes, (start, start)) - 1)
        for hole_start, hole_end in holes[first:]:
            if hole_end <= at:
                continue
            if hole_start >= end:
                break
            if at < hole_start:
                yield at, hole_start
            at = max(at, hole_end)
        if at < end:
            yield at, end
