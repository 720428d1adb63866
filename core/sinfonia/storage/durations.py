"""How long something takes is told by how often it stayed below a bound, never by an average.

The bounds are fixed, so that noting a duration costs a search in a short list and no memory.
"""

import math
from bisect import bisect_left

# Seconds: from a device that caches writes to a disk in trouble.
BOUNDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
)


class Durations:
    """Durations of one kind; ``total`` is their sum in seconds.

    If threads note at the same moment, one may be lost; these are figures for people.
    """

    __slots__ = ("_counts", "total")

    def __init__(self) -> None:
        self.total = 0.0
        self._counts = [0] * (len(BOUNDS) + 1)

    def note(self, seconds: float) -> None:
        """It took so long once more."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> tuple[tuple[float, int], ...]:
        """How many took no longer than each bound; the last bound is infinite."""
        count = 0
        found = []
        for bound, more in zip((*BOUNDS, math.inf), self._counts, strict=True):
            count += more
            found.append((bound, count))
        return tuple(found)
