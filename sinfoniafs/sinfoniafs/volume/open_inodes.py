"""An inode that a program has open through this mount is registered, or about to be.

A registration is this session's bit in the inode's openers.  The bit stays set for a while after
the last close, so that opening the same file again costs nothing; meanwhile the inode is *closing*.
"""

from collections import Counter

from sinfoniafs.attributes import InodeNumber


class OpenInodes:
    """Which inodes are open through this mount, and in which its session is registered."""

    def __init__(self) -> None:
        self._counts: Counter[InodeNumber] = Counter()
        self._registered: set[InodeNumber] = set()
        self._closing: set[InodeNumber] = set()
        # Whether some outcome was never learnt, so that more may be registered than is known.
        self.in_doubt = False

    def is_open(self, number: InodeNumber) -> bool:
        return number in self._counts

    def is_registered(self, number: InodeNumber) -> bool:
        return number in self._registered

    def is_closing(self, number: InodeNumber) -> bool:
        return number in self._closing

    @property
    def closing(self) -> list[InodeNumber]:
        """The inodes that are registered and no longer open."""
        return sorted(self._closing)

    @property
    def closing_count(self) -> int:
        return len(self._closing)

    @property
    def unregistered(self) -> list[InodeNumber]:
        """The inodes that are open and not registered."""
        return sorted(self._counts.keys() - self._registered)

    def count(self, number: InodeNumber) -> None:
        """Count one open."""
        self._counts[number] += 1
        self._closing.discard(number)

    def uncount(self, number: InodeNumber) -> None:
        """Count one close."""
        self._counts[number] -= 1
        if not self._counts[number]:
            del self._counts[number]
            if number in self._registered:
                self._closing.add(number)

    def register(self, number: InodeNumber) -> None:
        """The session's bit is set in the inode's openers."""
        self._registered.add(number)
        if number not in self._counts:  # closed while the minitransaction was under way
            self._closing.add(number)

    def unregister(self, number: InodeNumber) -> None:
        """The session's bit is cleared, or the inode was freed."""
        self._registered.discard(number)
        self._closing.discard(number)

    def lose_registrations(self) -> None:
        """A new session has begun: it is registered in nothing."""
        self._registered.clear()
        self._closing.clear()
        self.in_doubt = False

    def close_all(self) -> None:
        """The mount ends: nothing is open any more."""
        # What was open when a session was lost may have been orphaned before it was registered.
        self.in_doubt |= not self._counts.keys() <= self._registered
        self._counts.clear()
        self._closing = set(self._registered)

    def check_invariants(self) -> None:
        """What is always true between operations."""
        assert all(count > 0 for count in self._counts.values()), "a count of nothing"
        assert self._closing == self._registered - self._counts.keys()
