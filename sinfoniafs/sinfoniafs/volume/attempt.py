"""An attempt gathers what an operation relies on and changes; it happens at once or not at all.

What is read through an attempt comes from the cache, or is fetched into it, and becomes a compare
item; what is changed becomes write items, and enters the cache only after the minitransaction has
committed.  Within an attempt, what was changed is seen changed.

An attempt owns the view of the volume that its operation works on: inodes, trees of directories and
block maps of files, and the numbers taken from the reserve.
"""

from sinfonia.errors import SinfoniaError
from sinfonia.minitransaction import Result
from sinfoniafs.attributes import InodeNumber
from sinfoniafs.format.inode import Inode
from sinfoniafs.volume.block_map import BlockMapEditor
from sinfoniafs.volume.inodes import Inodes
from sinfoniafs.volume.items import Items
from sinfoniafs.volume.numbers import Numbers, Outcome
from sinfoniafs.volume.pointer_blocks import PointerBlocks
from sinfoniafs.volume.tree import Tree
from sinfoniafs.volume.tree_nodes import TreeNodes
from sinfoniafs.volume.volume import Volume


class Conflict(Exception):
    """Something relied on has changed; it was dropped from the cache.

    No caller sees it: the loop in ``running`` tries again.
    """


def life_key(number: InodeNumber) -> tuple[str, InodeNumber]:
    """The key of the lock to open or to free an inode."""
    return "life", number


class Attempt:
    """One try at an operation: at most one minitransaction that changes anything."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self.now = volume.clock()
        self.items = Items(volume)
        self.session = self.items.session
        self.numbers = Numbers(volume, self.items)
        self.inodes = Inodes(volume, self.items, self.now)
        self._tree_nodes = TreeNodes(volume, self.items, self.numbers)
        self._pointer_blocks = PointerBlocks(volume, self.inodes)
        self._lives: list[tuple[str, InodeNumber]] = []
        self._outcome = Outcome.NOT_COMMITTED

    def tree(self, directory: InodeNumber) -> Tree:
        """The tree of a directory's entries."""
        return Tree(
            self._volume,
            directory,
            inodes=self.inodes,
            tree_nodes=self._tree_nodes,
            numbers=self.numbers,
        )

    def block_map(self, inode: Inode) -> BlockMapEditor:
        """The block map of a file that is not inline."""
        return BlockMapEditor(
            inode, items=self.items, pointer_blocks=self._pointer_blocks, numbers=self.numbers
        )

    async def hold_life(self, number: InodeNumber) -> None:
        """Let no other task of this mount open or free the inode until this attempt is over.

        Taken after all other locks, and of one inode only, so that tasks never wait in a circle.
        """
        key = life_key(number)
        if key not in self._lives:
            await self._volume.key_locks.acquire(key)
            self._lives.append(key)

    async def commit(self) -> Result:
        """Execute the minitransaction.  Raises Conflict if something relied on has changed."""
        self.inodes.write()
        self._tree_nodes.write()
        self.numbers.write()
        minitransaction = self.items.minitransaction
        if not minitransaction.read_only:
            self._outcome = Outcome.UNKNOWN
        try:
            result = await self._volume.cluster.execute(minitransaction)
        except SinfoniaError as error:
            if error.definite:
                self._outcome = Outcome.NOT_COMMITTED
            raise
        if not result.committed:
            self._outcome = Outcome.NOT_COMMITTED
            self.items.drop_stale(result)
            raise Conflict
        self._outcome = Outcome.COMMITTED
        self.inodes.publish()
        self._tree_nodes.publish()
        self._pointer_blocks.publish()
        return result

    async def confirm(self) -> bool:
        """Whether all that was relied on is still so; if not, what is stale is dropped."""
        if not self.items.relies_on_inodes:
            return True
        result = await self._volume.cluster.execute(self.items.confirmation())
        self.items.drop_stale(result)
        return result.committed

    def finish(self) -> None:
        """Settle what becomes of the numbers taken, and pass on the locks held."""
        for key in self._lives:
            self._volume.key_locks.release(key)
        if self._outcome is Outcome.UNKNOWN and self.session is self._volume.session:
            self._volume.open_inodes.in_doubt = True
        self.numbers.settle(self._outcome)
