"""A clock that never runs behind what it has heard of.

Its readings (microseconds since 1970) are the wall clock's, but later than every reading that came
with a message.  So what was caused by something, at whichever memory node, reads later; and cutting
all logs at one reading gives a state without effects that lack their causes.
"""

from collections.abc import Callable

# A reading further ahead than this is some machine's broken clock, and is not followed; causes that
# come from there may then read later than their effects.
AHEAD_MAX_US = 24 * 3600 * 1_000_000


class HybridClock:
    """``latest`` is the highest reading given or heard of."""

    __slots__ = ("_wall", "latest")

    def __init__(self, wall: Callable[[], int]) -> None:
        """``wall`` gives microseconds since 1970, as well as the machine knows."""
        self._wall = wall
        self.latest = 0

    def notice(self, reading: int) -> None:
        """A message came with ``reading``."""
        if self.latest < reading <= self._wall() + AHEAD_MAX_US:
            self.latest = reading

    def resume(self, reading: int) -> None:
        """A former life gave ``reading``, so that it is followed wherever it is."""
        self.latest = max(self.latest, reading)

    def goes_beyond(self, reading: int) -> bool:
        """Whether the next stamp is later than ``reading``."""
        return max(self._wall(), self.latest + 1) > reading

    def stamp(self) -> int:
        """A reading later than all before."""
        self.latest = max(self._wall(), self.latest + 1)
        return self.latest
