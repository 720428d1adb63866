"""How an operation finds, adds and removes an entry of a directory's tree.

All tree nodes on the way down are compared, so that a leaf is known to be the right one.  Interior
nodes change only when a tree node below splits or empties, so that this costs other mounts no
retries.  A leaf that overflows is split in the minitransaction that adds the entry.  A leaf that
empties is freed in the minitransaction that removes its last entry, with all interior nodes above
that empty in turn ("free at empty"); so a directory without entries has at most one tree node, and
rmdir need not search.
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
    entry_kind,
    hole_at,
    middle,
    position_of,
    target_at,
)
from sinfoniafs.format.inode import Inode
from sinfoniafs.format.layout import BLOCK_SIZE, BlockNumber, memory_node_of
from sinfoniafs.volume.inodes import Inodes
from sinfoniafs.volume.numbers import Numbers
from sinfoniafs.volume.tree_nodes import TreeNodes
from sinfoniafs.volume.volume import Volume

# A leaf is squeezed rather than split if that leaves a quarter of it free: less would not last.
SQUEEZED_MAX: Final = BLOCK_SIZE * 3 // 4


class Descent(NamedTuple):
    """The way down to a position: the interior nodes passed, and the leaf.

    ``following`` is the lowest position of the next leaf, None at the last.
    """

    path: tuple[tuple[Interior, int], ...]
    leaf: Leaf | None
    following: int | None


class Tree:
    """The tree of one directory, within one attempt."""

    def __init__(
        self,
        volume: Volume,
        directory: InodeNumber,
        *,
        inodes: Inodes,
        tree_nodes: TreeNodes,
        numbers: Numbers,
    ) -> None:
        self._volume = volume
        self._number = directory
        self._key = volume.superblock.hash_key
        self._inodes = inodes
        self._tree_nodes = tree_nodes
        self._numbers = numbers

    async def descend(self, position: int) -> Descent:
        """The leaf that ``position`` belongs to."""
        directory = await self._inodes.get(self._number)
        if not directory.root:
            return Descent((), None, None)
        path: list[tuple[Interior, int]] = []
        following = None
        block = BlockNumber(directory.root)
        for height in range(directory.height, 0, -1):
            interior = await self._tree_nodes.get(block, height)
            if not isinstance(interior, Interior) or interior.height != height:
                raise CorruptVolume(f"directory {self._number:#x} has a tree of uneven height")
            at = interior.child_at(position)
            if at + 1 < len(interior.lows):
                following = interior.lows[at + 1]
            path.append((interior, at))
            block = interior.children[at]
        leaf = await self._tree_nodes.get(block, 0)
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
        position = position_of(name, self._key)
        entry = Entry.unplaced(position, inode.number, inode.kind, name)
        path, leaf, _ = await self.descend(position)
        if leaf is None:
            leaf = await self._new_leaf()
            self._tree_nodes.put(leaf.insert(entry)[0])
            await self._grow(1, root=leaf.block, height=0)
            return
        entry = entry._replace(position=leaf.free_position(position))
        if leaf.fits(name):
            leaf, placed = leaf.insert(entry)
            self._tree_nodes.put(leaf, (placed.offset, placed.encode()))
            return
        squeezed = leaf.pack(leaf.in_order())
        if squeezed.used <= SQUEEZED_MAX:
            self._tree_nodes.put(squeezed.insert(entry)[0])
            return
        await self._split(path, leaf, entry)

    async def retarget(self, name: bytes, inode: Inode) -> None:
        """Let the entry of ``name`` lead to another inode."""
        position = position_of(name, self._key)
        leaf = (await self.descend(position)).leaf
        assert leaf is not None
        entry = leaf.find(position, name)
        assert entry is not None
        changed = entry._replace(inode=inode.number, kind=entry_kind(inode.kind))
        entries = {**leaf.entries, entry.position: changed}
        self._tree_nodes.put(leaf._replace(entries=entries), target_at(changed))

    async def remove(self, name: bytes) -> None:
        """Remove the entry of ``name``, which has one."""
        position = position_of(name, self._key)
        path, leaf, _ = await self.descend(position)
        assert leaf is not None
        entry = leaf.find(position, name)
        assert entry is not None
        rest = leaf.remove(entry)
        if rest.entries:
            self._tree_nodes.put(rest, hole_at(entry))
        elif not path:
            self._tree_nodes.put(rest.pack(()))
        else:
            await self._free_empty(path, leaf)

    async def _split(
        self, path: tuple[tuple[Interior, int], ...], leaf: Leaf, entry: Entry
    ) -> None:
        low = middle(leaf)
        ordered = leaf.in_order()
        left = leaf.pack(each for each in ordered if each.position < low)
        new = await self._new_leaf()
        right = new.pack(each for each in ordered if each.position >= low)
        if entry.position < low:
            left, _ = left.insert(entry)
        else:
            right, _ = right.insert(entry)
        self._tree_nodes.put(left)
        self._tree_nodes.put(right)
        await self._add_child(path, left=left.block, low=low, right=right.block)

    async def _add_child(
        self,
        path: tuple[tuple[Interior, int], ...],
        *,
        left: BlockNumber,
        low: int,
        right: BlockNumber,
    ) -> None:
        """Enter ``right``, split off ``left``, in the interior node above; split a full one."""
        if not path:
            directory = await self._inodes.get(self._number)
            block = await self._new_block()
            height = directory.height + 1
            root = Interior(
                block=block,
                version=self._volume.new_version(),
                owner=self._number,
                height=height,
                lows=(0, low),
                children=(left, right),
            )
            self._tree_nodes.put(root)
            await self._grow(2, root=block, height=height)
            return
        above, at = path[-1]
        above = above.insert(at + 1, low, right)
        if len(above.children) <= CHILDREN_MAX:
            self._tree_nodes.put(above)
            await self._grow(1)
            return
        half, low, other = above.split(await self._new_block(), self._volume.new_version())
        self._tree_nodes.put(half)
        self._tree_nodes.put(other)
        await self._grow(1)
        await self._add_child(path[:-1], left=half.block, low=low, right=other.block)

    async def _free_empty(self, path: tuple[tuple[Interior, int], ...], leaf: Leaf) -> None:
        self._tree_nodes.drop(leaf)
        freed = 1
        for depth, (interior, at) in reversed(list(enumerate(path))):
            if len(interior.children) == 1:
                self._tree_nodes.drop(interior)
                freed += 1
                continue
            rest = interior.remove(at)
            if depth or len(rest.children) > 1:
                self._tree_nodes.put(rest)
                await self._grow(-freed)
            else:  # a root with one child gives way to it
                self._tree_nodes.drop(interior)
                await self._grow(-freed - 1, root=rest.children[0], height=interior.height - 1)
            return
        await self._grow(-freed, root=0, height=0)

    async def _new_leaf(self) -> Leaf:
        return Leaf.empty(await self._new_block(), self._volume.new_version(), self._number)

    async def _new_block(self) -> BlockNumber:
        await self._numbers.provide(Kind.BLOCK, memory_node_of(self._number), 1)
        return BlockNumber(self._numbers.take(Kind.BLOCK))

    async def _grow(self, blocks: int, *, root: int | None = None, height: int = 0) -> None:
        directory = await self._inodes.get(self._number)
        total = directory.blocks + blocks
        directory = directory._replace(blocks=total, size=total * BLOCK_SIZE)
        if root is not None:
            directory = directory._replace(root=root, height=height)
        self._inodes.change(directory)
