"""A call that met a busy lock runs again after a random, growing delay, never after its deadline.

The randomness comes from outside, so that a seed replays it.
"""

import heapq
from collections.abc import Iterator
from itertools import count
from typing import Protocol

from sinfonia.protocol.attempts import Call

# First and longest delay before a busy lock is tried again; doubled each time, and then a random
# part of it taken.  The first is about one round trip on a local network.  With a longer last one
# a lock that many want stays idle while all of them have backed off; with a shorter one callers
# that wait for the locks of a dead client ask in vain too often.
BACKOFF_FIRST = 0.0004
BACKOFF_MAX = 0.03


class Random(Protocol):
    """The part of random.Random that a coordinator needs."""

    def random(self) -> float: ...


class Backoff:
    """Calls that wait for their next attempt; ``first_at`` needs at least one."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._calls: list[tuple[float, int, Call]] = []
        self._order = count()

    def __bool__(self) -> bool:
        return bool(self._calls)

    @property
    def first_at(self) -> float:
        """When the first of them is due."""
        return self._calls[0][0]

    def add(self, call: Call, now: float) -> None:
        """``call`` waits from ``now`` on."""
        longest = min(BACKOFF_MAX, BACKOFF_FIRST * 2 ** min(call.attempts, 16))
        at = min(now + longest * self._rng.random(), call.deadline)
        heapq.heappush(self._calls, (at, next(self._order), call))

    def drop(self) -> list[Call]:
        """All of them; they wait no more."""
        calls = [call for _, _, call in self._calls]
        self._calls.clear()
        return calls

    def due(self, now: float) -> Iterator[Call]:
        """Those that have waited long enough."""
        while self._calls and self._calls[0][0] <= now:
            yield heapq.heappop(self._calls)[2]
