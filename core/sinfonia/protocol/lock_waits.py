"""Requests that may wait for a busy lock wait in one line, for a bounded time, and hold no locks.

A memory node votes BAD_LOCK rather than let a minitransaction wait: one that holds locks must never
wait for others.  A minitransaction with one participant holds none while it waits, so it may queue
without danger of deadlock.  Then a word that many clients want is handed on as fast as it is let
go, and clients need no random retries.

The line is first come, first served: a waiter stays behind each earlier one whose bytes are near
its own.  Near means within the same CELL.  So two waiters may wait for each other that want
different bytes, which costs time and never correctness.
"""

from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple

from sinfonia.minitransaction import LOCK_WAIT_MAX
from sinfonia.protocol.messages import ExecCommit
from sinfonia.protocol.updates import locked_extent

CELL_BYTES = 64

# A request that touches more cells than this is taken to touch all.
CELLS_MAX = 64
EVERYWHERE = frozenset({-1})


class Waiter(NamedTuple):
    """A request in the line; ``until`` is when it is voted BAD_LOCK after all."""

    route: bytes
    client: int
    request: ExecCommit
    until: float
    cells: frozenset[int]


@dataclass(frozen=True, slots=True)
class LockLimits:
    """waiters: beyond so many that wait at one memory node, the next is told BAD_LOCK at once.

    All of them are looked at when locks are let go, so that it bounds that step to a millisecond or
    so.
    """

    waiters: int = 512


class LockWaits:
    """The line of one memory node."""

    def __init__(self, limits: LockLimits) -> None:
        self._limits = limits
        self._line: dict[tuple[int, int], Waiter] = {}
        self._cells: Counter[int] = Counter()
        self.queued = 0
        self.expired = 0

    def __len__(self) -> int:
        return len(self._line)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(tuple(self._line.values()))

    def holds(self, client: int, counter: int) -> bool:
        """Whether this tid is in the line."""
        return (client, counter) in self._line

    def stands_before(self, request: ExecCommit) -> bool:
        """Whether a waiter in the line wants what ``request`` wants."""
        return meets(cells_of(request), self._cells.keys())

    def admit(self, route: bytes, client: int, request: ExecCommit, now: float) -> bool:
        """Let ``request`` join the line, if that is not too long."""
        if len(self._line) >= self._limits.waiters:
            return False
        until = now + min(request.lock_wait_ms / 1e3, LOCK_WAIT_MAX)
        waiter = Waiter(
            route=route, client=client, request=request, until=until, cells=cells_of(request)
        )
        self._line[client, request.counter] = waiter
        self._cells.update(waiter.cells)
        self.queued += 1
        return True

    def leave(self, waiter: Waiter) -> None:
        """``waiter`` is answered: it was executed, or its time is up."""
        del self._line[waiter.client, waiter.request.counter]
        self._cells.subtract(waiter.cells)
        for cell in waiter.cells:
            if not self._cells[cell]:
                del self._cells[cell]

    def overdue(self, now: float) -> list[Waiter]:
        """The waiters whose time is up."""
        return [waiter for waiter in self._line.values() if waiter.until <= now]

    @property
    def next_until(self) -> float | None:
        """When the first waiter's time is up."""
        return min((waiter.until for waiter in self._line.values()), default=None)

    def check_invariants(self) -> None:
        """Every waiter in the line is found by its cells, and nothing else is."""
        cells: Counter[int] = Counter()
        for (client, counter), waiter in self._line.items():
            assert (client, counter) == (waiter.client, waiter.request.counter)
            cells.update(waiter.cells)
        assert cells == self._cells
        assert len(self._line) <= self._limits.waiters


def cells_of(request: ExecCommit) -> frozenset[int]:
    """The cells that the items of ``request`` touch."""
    cells: set[int] = set()
    for start, end in _extents(request):
        first, last = start // CELL_BYTES, max(start, end - 1) // CELL_BYTES
        if last - first + len(cells) >= CELLS_MAX:
            return EVERYWHERE
        cells.update(range(first, last + 1))
    return frozenset(cells)


def meets(cells: frozenset[int], others: AbstractSet[int]) -> bool:
    """Whether two sets of cells have one in common."""
    if cells is EVERYWHERE or -1 in others:
        return bool(others)
    return not cells.isdisjoint(others)


def _extents(request: ExecCommit) -> Iterator[tuple[int, int]]:
    for write in request.writes:
        yield write.address, write.address + len(write.data)
    for update in request.updates:
        yield locked_extent(update)
    for compare in request.compares:
        yield compare.address, compare.address + len(compare.expected)
    for condition in request.conditions:
        yield condition.address, condition.address + len(condition.operand)
    for read in request.reads:
        yield read.address, read.address + read.length
