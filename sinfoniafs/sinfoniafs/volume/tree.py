"""How an operation finds, adds and removes an entry of a directory's tree.

All nodes on the way down are compared, so that a leaf is known to be the right one; as interior
nodes change only when a node below splits or empties, that costs no rivals their turn.  A leaf that
overflows is split in the minitransaction that adds the entry.  One that empties is freed in the
minitransaction that removes it, with all above it that empty in turn ("free at empty"); so a
directory without entries has at most one node, and rmdir need not search.
"""

from typing import Final, NamedTuple

from sinfoniafs.allocator import Kind
from sinfoniafs.attributes import InodeNumber
from sinfoniafs.errors import CorruptVolume
from sinfoniafs.format.directory import (
    CHILDREN_MAX,
    Entry,
    Interior,
    Leaf,
    hole_at,
    middle,
    position_of,
    target_at,
)
from sinfoniafs.format.inode import Inode
from sinfoniafs.format.layout import BLOCK_SIZE, BlockNumber, node_of
from sinfoniafs.volume.attempt import Attempt

# A leaf is squeezed rather than split if that leaves a quarter of it free: less would not last.
SQUEEZED_MAX: Final = BLOCK_SIZE * 3 // 4


class Descent(NamedTuple):
    """Where a position is in a tree: the interior nodes passed, and the leaf.

    ``following`` is the lowest position of the next leaf, None at the last.
    """

    path: tuple[tuple[Interior, int], ...]
    leaf: Leaf | None
    following: int | None


class Tree:
    """The tree of one directory, within one attempt."""

    def __init__(self, attempt: Attempt, directory: InodeNumber, key: bytes) -> None:
        self._attempt = attempt
        self._number = directory
        self._key = key

    async def descend(self, position: int) -> Descent:
        """The leaf that ``position`` belongs to."""
        directory = await self._attempt.inode(self._number)
        if not directory.root:
            return Descent((), None, None)
        path: list[tuple[Interior, int]] = []
        following = None
        block = BlockNumber(directory.root)
        for height in range(directory.height, 0, -1):
            node = await self._attempt.directory_node(block, height)
            if not isinstance(node, Interior) or node.height != height:
                raise CorruptVolume(f"directory {self._number:#x} has a tree of uneven height")
            at = node.child_at(position)
            if at + 1 < len(node.lows):
                following = node.lows[at + 1]
            path.append((node, at))
            block = node.children[at]
        leaf = await self._attempt.directory_node(block, 0)
        if not isinstance(leaf, Leaf):
            raise CorruptVolume(f"directory {self._number:#x} has a tree of uneven height")
        return Descent(tuple(path), leaf, following)

    async def find(self, name: bytes) -> Entry | None:
        """The entry of ``name``."""
        position = position_of(name, self._key)
        leaf = (await self.descend(position)).leaf
        return None if leaf is None else leaf.find(position, name)

    async def insert(self, name: bytes, inode: Inode) -> None:
        """Add an entry for ``name``, which has none."""
        await self._insert(name, inode.number, inode.kind >> 12)

    async def retarget(self, name: bytes, inode: Inode) -> None:
        """Let the entry of ``name`` lead to another inode."""
        position = position_of(name, self._key)
        leaf = (await self.descend(position)).leaf
        assert leaf is not None
        entry = leaf.find(position, name)
        assert entry is not None
        changed = entry._replace(inode=inode.number, kind=inode.kind >> 12)
        entries = {**leaf.entries, entry.position: changed}
        self._attempt.put_node(leaf._replace(entries=entries), target_at(changed))

    async def remove(self, name: bytes) -> None:
        """Remove the entry of ``name``, which has one."""
        position = position_of(name, self._key)
        path, leaf, _ = await self.descend(position)
        assert leaf is not None
        entry = leaf.find(position, name)
        assert entry is not None
        rest = leaf.remove(entry)
        if rest.entries:
            self._attempt.put_node(rest, hole_at(entry))
        elif not path:
            self._attempt.put_node(rest.pack(()))
        else:
            await self._free_empty(path, leaf)

    async def _insert(self, name: bytes, inode: InodeNumber, kind: int) -> None:
        position = position_of(name, self._key)
        path, leaf, _ = await self.descend(position)
        if leaf is None:
            leaf = Leaf.empty(await self._new_block(), self._attempt.new_version(), self._number)
            entry = Entry(position, inode, kind, name, 0)
            self._attempt.put_node(leaf.insert(entry)[0])
            await self._grow(1, root=leaf.block, height=0)
            return
        entry = Entry(leaf.free_position(position), inode, kind, name, 0)
        if leaf.fits(name):
            leaf, placed = leaf.insert(entry)
            self._attempt.put_node(leaf, (placed.offset, placed.encode()))
            return
        squeezed = leaf.pack(leaf.in_order())
        if squeezed.used <= SQUEEZED_MAX:
            self._attempt.put_node(squeezed.insert(entry)[0])
            return
        await self._split(path, leaf, entry)

    async def _split(
        self, path: tuple[tuple[Interior, int], ...], leaf: Leaf, entry: Entry
    ) -> None:
        low = middle(leaf)
        ordered = leaf.in_order()
        left = leaf.pack(each for each in ordered if each.position < low)
        right = Leaf.empty(await self._new_block(), self._attempt.new_version(), self._number).pack(
            each for each in ordered if each.position >= low
        )
        if entry.position < low:
            left, _ = left.insert(entry)
        else:
            right, _ = right.insert(entry)
        self._attempt.put_node(left)
        self._attempt.put_node(right)
        await self._add_child(path, left.block, low, right.block)

    async def _add_child(
        self,
        path: tuple[tuple[Interior, int], ...],
        left: BlockNumber,
        low: int,
        right: BlockNumber,
    ) -> None:
        """Enter ``right``, split off ``left``, in the node above; split that too if it is full."""
        if not path:
            directory = await self._attempt.inode(self._number)
            block = await self._new_block()
            height = directory.height + 1
            version = self._attempt.new_version()
            root = Interior(block, version, self._number, height, (0, low), (left, right))
            self._attempt.put_node(root)
            await self._grow(2, root=block, height=height)
            return
        node, at = path[-1]
        node = node.insert(at + 1, low, right)
        if len(node.children) <= CHILDREN_MAX:
            self._attempt.put_node(node)
            await self._grow(1)
            return
        half, low, other = node.split(await self._new_block(), self._attempt.new_version())
        self._attempt.put_node(half)
        self._attempt.put_node(other)
        await self._grow(1)
        await self._add_child(path[:-1], half.block, low, other.block)

    async def _free_empty(self, path: tuple[tuple[Interior, int], ...], leaf: Leaf) -> None:
        self._attempt.drop_node(leaf)
        freed = 1
        for depth, (node, at) in reversed(list(enumerate(path))):
            if len(node.children) == 1:
                self._attempt.drop_node(node)
                freed += 1
                continue
            rest = node.remove(at)
            if depth or len(rest.children) > 1:
                self._attempt.put_node(rest)
                await self._grow(-freed)
            else:  # a root with one child gives way to it
                self._attempt.drop_node(node)
                await self._grow(-freed - 1, root=rest.children[0], height=node.height - 1)
            return
        await self._grow(-freed, root=0, height=0)

    async def _new_block(self) -> BlockNumber:
        await self._attempt.provide(Kind.BLOCK, node_of(self._number), 1)
        return BlockNumber(self._attempt.take(Kind.BLOCK))

    async def _grow(self, blocks: int, *, root: int | None = None, height: int = 0) -> None:
        directory = await self._attempt.inode(self._number)
        total = directory.blocks + blocks
        directory = directory._replace(blocks=total, size=total * BLOCK_SIZE)
        if root is not None:
            directory = directory._replace(root=root, height=height)
        self._attempt.change(directory)
