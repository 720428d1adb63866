"""Bytes of an area are used again only when the entry whose body they were is trimmed.

The writer keeps account of that by itself: only it puts anything there, and ``trimmed`` only grows.
A claimant does not know which entries have bodies of its predecessors, so it takes all of them for
bodies of entries that were there when it claimed.
"""

from collections import deque

from groupcomm.log.writers import Claim


class Area:
    """What one claimant knows of its area.

    ``head``: bytes that were ever put there, by the entries that are certain.
    """

    def __init__(self, area_bytes: int, claim: Claim) -> None:
        self._size = area_bytes
        self.head = claim.record.head
        self._free_below = max(0, self.head - area_bytes)
        # Bytes below the first number are free once the log is trimmed up to the second.
        self._used: deque[tuple[int, int]] = deque()
        if self.head:
            self._used.append((self.head, claim.tail))

    def note_trimmed(self, trimmed: int) -> None:
        """The log is trimmed up to ``trimmed``."""
        while self._used and self._used[0][1] <= trimmed:
            self._free_below = self._used.popleft()[0]

    def trim_needed(self, length: int) -> int:
        """Up to where the log must be trimmed before ``length`` more bytes can be put there.

        0 if there is room now.
        """
        assert length <= self._size
        lacking = self.head + length - self._size
        if lacking <= self._free_below:
            return 0
        return next(needed for end, needed in self._used if end >= lacking)

    def use(self, length: int, position: int) -> None:
        """Bytes were put there as the body of an entry that is at ``position`` or before."""
        assert self.trim_needed(length) == 0
        self.head += length
        self._used.append((self.head, position + 1))

    def check_invariants(self) -> None:
        """What is true between any two calls."""
        ends = [end for end, _ in self._used]
        positions = [needed for _, needed in self._used]
        assert ends == sorted(set(ends))
        assert positions == sorted(positions)
        assert (ends or [self.head])[-1] == self.head
        assert self._free_below <= self.head <= self._free_below + self._size
