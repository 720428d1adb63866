"""Every directory is walked from the root, every name followed, every link counted.

A tree is sound if each tree node belongs to the directory, is as high as its place says, and holds
only positions that belong there; a name is sound if its hash is its position.
"""

from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from sinfonia.client.api import ClusterApi
from sinfoniafs.attributes import InodeNumber
from sinfoniafs.errors import CorruptVolume
from sinfoniafs.format.directory import HASH_MASK, Interior, Leaf, entry_kind, position_of
from sinfoniafs.format.inode import Inode
from sinfoniafs.format.layout import BLOCK_SIZE, BlockNumber, block_address, memory_node_of
from sinfoniafs.format.superblock import Superblock
from sinfoniafs.fsck.inodes import Inodes
from sinfoniafs.fsck.maps import Maps

_POSITION_END: Final = 2**63


class DirectoriesCheck:
    """One walk over all directories that can be reached."""

    def __init__(
        self, cluster: ClusterApi, superblock: Superblock, inodes: Inodes, maps: Maps
    ) -> None:
        self._cluster = cluster
        self._superblock = superblock
        self._inodes = inodes
        self._maps = maps
        self._names: Counter[InodeNumber] = Counter()
        self._subdirectories: Counter[InodeNumber] = Counter()
        self._blocks: Counter[InodeNumber] = Counter()
        self._waiting: deque[InodeNumber] = deque()

    async def run(self, progress: Callable[[str, int, int], None]) -> None:
        root = self._superblock.root
        total = len(self._inodes.directories)
        if root not in self._inodes.directories:
            self._maps.report("root", "the root directory is not there")
            return
        self._names[root] = 1
        self._waiting.append(root)
        self._waiting.extend(
            number for number in self._inodes.directories if self._inodes.links[number].orphan
        )
        done = 0
        while self._waiting:
            progress("directories", done, total)
            directory = self._inodes.directories[self._waiting.popleft()]
            await self._walk(directory)
            done += 1
        progress("directories", done, total)
        self._check_links()

    async def _walk(self, directory: Inode) -> None:
        number = directory.number
        if directory.root:
            await self._check_node(
                directory,
                BlockNumber(directory.root),
                height=directory.height,
                low=0,
                end=_POSITION_END,
            )
        blocks = self._blocks[number]
        if (directory.blocks, directory.size) != (blocks, blocks * BLOCK_SIZE):
            self._maps.report(
                "directory size",
                f"directory {number:#x} says {directory.blocks} blocks and size"
                f" {directory.size}, has {blocks} blocks",
            )

    async def _check_node(
        self, directory: Inode, block: BlockNumber, *, height: int, low: int, end: int
    ) -> None:
        """Check a subtree whose positions are from ``low`` up to ``end``."""
        number = directory.number
        if not self._maps.claim(block, f"directory {number:#x}"):
            return
        self._blocks[number] += 1
        image = await self._cluster.read(memory_node_of(block), block_address(block), BLOCK_SIZE)
        try:
            tree_node = (Interior if height else Leaf).decode(block, image)
        except CorruptVolume as error:
            self._maps.report("directory node", f"directory {number:#x}: {error}")
            return
        if tree_node.owner != number:
            self._maps.report(
                "owner",
                f"block {block:#x} of directory {number:#x} says it is of {tree_node.owner:#x}",
            )
        if isinstance(tree_node, Leaf):
            self._check_leaf(directory, tree_node, low=low, end=end)
            return
        if tree_node.height != height:
            self._maps.report("height", f"block {block:#x} of directory {number:#x} is misplaced")
            return
        lows = (low, *tree_node.lows[1:])
        for child, start, stop in zip(tree_node.children, lows, (*lows[1:], end), strict=True):
            if not low <= start < stop <= end:
                self._maps.report("order", f"block {block:#x} of directory {number:#x}: order")
            await self._check_node(directory, child, height=height - 1, low=start, end=stop)

    def _check_leaf(self, directory: Inode, leaf: Leaf, *, low: int, end: int) -> None:
        where = f"directory {directory.number:#x}"
        if directory.height and not leaf.entries:
            self._maps.report("empty leaf", f"{where} has an empty leaf among others")
        names = [entry.name for entry in leaf.entries.values()]
        if len(set(names)) < len(names):
            self._maps.report("name twice", f"{where} has a name twice")
        for entry in leaf.entries.values():
            what = f"{where}, name {entry.name!r}:"
            hashed = position_of(entry.name, self._superblock.hash_key)
            if hashed != entry.position & HASH_MASK or not low <= entry.position < end:
                self._maps.report("hash order", f"{what} is not where its hash belongs")
            self._follow(directory.number, entry.inode, entry.kind, what)

    def _follow(self, parent: InodeNumber, number: InodeNumber, kind: int, what: str) -> None:
        """Follow a name to its inode."""
        links = self._inodes.links.get(number)
        if links is None:
            self._maps.report("dangling", f"{what} leads to inode {number:#x}, which is free")
            return
        expected = entry_kind(links.kind)
        if expected != kind:
            self._maps.report("kind", f"{what} says kind {kind}, its inode {expected}")
        if links.orphan:
            self._maps.report("orphan", f"{what} leads to inode {number:#x}, an orphan")
        self._names[number] += 1
        directory = self._inodes.directories.get(number)
        if directory is None:
            return
        self._subdirectories[parent] += 1
        if directory.parent != parent:
            self._maps.report("parent", f"{what} says its parent is {directory.parent:#x}")
        if self._names[number] > 1:
            self._maps.report("directory twice", f"{what} is a second name of a directory")
        elif not links.orphan:
            self._waiting.append(number)

    def _check_links(self) -> None:
        for number, links in self._inodes.links.items():
            names = self._names[number]
            if links.orphan:
                continue
            if not names:
                self._maps.report("unreachable", f"inode {number:#x} cannot be reached by a name")
                continue
            expected = names
            if number in self._inodes.directories:
                expected = 2 + self._subdirectories[number]
            if links.nlink != expected:
                self._maps.report(
                    "link count", f"inode {number:#x} says {links.nlink} links, has {expected}"
                )


async def check_directories(
    cluster: ClusterApi,
    superblock: Superblock,
    inodes: Inodes,
    maps: Maps,
    progress: Callable[[str, int, int], None],
) -> None:
    """Check all directories, claim their blocks, and check the link counts of all inodes."""
    await DirectoriesCheck(cluster, superblock, inodes, maps).run(progress)
