"""A number that an attempt took from the reserve is linked if the attempt committed.

If the attempt did not commit, the number goes back to the reserve; if its outcome is unknown, the
number stays out of use until the mount ends.
"""

from collections.abc import Iterable
from enum import Enum

from sinfonia.addresses import MemoryNodeId
from sinfoniafs.allocator import Kind
from sinfoniafs.format.layout import FREE, runs
from sinfoniafs.volume.items import Items
from sinfoniafs.volume.volume import Volume


class Outcome(Enum):
    """What became of an attempt's minitransaction."""

    NOT_COMMITTED = "not committed"
    COMMITTED = "committed"
    UNKNOWN = "unknown"


class Numbers:
    """The numbers of inodes and blocks that one attempt takes and frees."""

    def __init__(self, volume: Volume, items: Items) -> None:
        self._allocator = volume.allocator
        self._items = items
        self._at_hand: dict[Kind, list[int]] = {kind: [] for kind in Kind}
        self._linked: dict[Kind, list[int]] = {kind: [] for kind in Kind}
        self._freed_blocks: list[int] = []

    async def provide(self, kind: Kind, near: MemoryNodeId, count: int) -> None:
        """Have ``count`` inodes or blocks at hand for ``take``.  Raises NoSpace."""
        missing = count - len(self._at_hand[kind])
        if missing > 0:
            self._at_hand[kind] += await self._allocator.take(kind, near, missing)

    def take(self, kind: Kind) -> int:
        """One of those at hand, to be linked by this attempt."""
        taken = self._at_hand[kind].pop(0)
        self._linked[kind].append(taken)
        return taken

    def free_blocks(self, blocks: Iterable[int]) -> None:
        """Free blocks that this attempt unlinks."""
        self._freed_blocks.extend(blocks)

    def write(self) -> None:
        """Add the items that link what was taken and free what was unlinked."""
        for kind, linked in self._linked.items():
            for first, count in runs(linked):
                self._items.link(kind, first, count)
        for first, count in runs(self._freed_blocks):
            self._items.mark(Kind.BLOCK, first, FREE * count)

    def settle(self, outcome: Outcome) -> None:
        """Give back, or put out of use, what was taken and is not known to be linked."""
        for kind in Kind:
            if self._at_hand[kind]:
                self._allocator.give_back(kind, self._at_hand[kind])
            if not self._linked[kind] or outcome is Outcome.COMMITTED:
                continue
            if outcome is Outcome.UNKNOWN:
                self._allocator.abandon(kind, self._linked[kind])
            else:
                self._allocator.give_back(kind, self._linked[kind])
