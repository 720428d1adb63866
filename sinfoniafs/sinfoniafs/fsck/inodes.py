"""Every inode that is marked is read, and every block of its file claimed.

Of each inode only what the check of the directories needs is kept.  Areas, and the maps of large
files, are checked and let go.
"""

import stat
from array import array
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from sinfonia.client.api import ClusterApi
from sinfoniafs.attributes import InodeNumber
from sinfoniafs.format.inode import AREA_SIZE, INLINE, Inode, opener_bit
from sinfoniafs.format.layout import (
    BLOCK_SIZE,
    INODE_SIZE,
    ORPHAN,
    Layout,
    block_address,
    index_of,
    memory_node_of,
    whole_blocks,
)
from sinfoniafs.fsck.maps import Maps
from sinfoniafs.volume.block_map import FANOUT, HEIGHT_MAX

# Inodes read together by one minitransaction, and minitransactions at a time.
INODES_AT_ONCE: Final = 1024
KINDS: Final = frozenset(
    {
        stat.S_IFREG,
        stat.S_IFDIR,
        stat.S_IFLNK,
        stat.S_IFIFO,
        stat.S_IFSOCK,
        stat.S_IFCHR,
        stat.S_IFBLK,
    }
)


class Links(NamedTuple):
    """What the directories are checked against."""

    kind: int
    nlink: int
    orphan: bool


class Inodes:
    """The inodes of the volume, and what they add up to."""

    def __init__(self) -> None:
        self.links: dict[InodeNumber, Links] = {}
        self.directories: dict[InodeNumber, Inode] = {}
        self.files = 0
        self.bytes = 0
        self.orphans = 0


async def check_inodes(
    cluster: ClusterApi,
    layout: Layout,
    maps: Maps,
    slots: set[int],
    progress: Callable[[str, int, int], None],
) -> Inodes:
    """Check all inodes that are marked, each for itself, and claim the blocks of files."""
    found = Inodes()
    numbers = maps.inodes_in_use()
    for start in range(0, len(numbers), INODES_AT_ONCE):
        progress("inodes", start, len(numbers))
        for inode in await _read_inodes(cluster, layout, numbers[start : start + INODES_AT_ONCE]):
            marked_orphan = (
                maps.inodes[memory_node_of(inode.number)][index_of(inode.number)] == ORPHAN[0]
            )
            problem = _check_fields(inode, slots, orphan=marked_orphan)
            if problem:
                maps.report("inode", f"inode {inode.number:#x} {problem}")
            if inode.kind not in KINDS:
                continue
            found.links[inode.number] = Links(inode.kind, inode.nlink, marked_orphan)
            found.orphans += marked_orphan
            if inode.is_directory:
                found.directories[inode.number] = inode
                continue
            found.files += 1
            found.bytes += inode.size
            if not inode.is_inline:
                await _FileCheck(cluster, maps, inode).run()
    progress("inodes", len(numbers), len(numbers))
    return found


async def _read_inodes(
    cluster: ClusterApi, layout: Layout, numbers: Sequence[InodeNumber]
) -> list[Inode]:
    reading = cluster.minitransaction()
    for number in numbers:
        reading.read(*layout.inode_slot(number), INODE_SIZE)
    return list(map(Inode.decode, numbers, (await cluster.execute(reading)).reads))


def _check_fields(inode: Inode, slots: set[int], *, orphan: bool) -> str:
    """What is wrong with an inode for itself; nothing if all is well."""
    if inode.kind not in KINDS:
        return f"is marked used, but its slot says kind {inode.kind:#o}"
    if orphan and inode.nlink:
        return f"is marked an orphan, but has {inode.nlink} links"
    if not orphan and not inode.nlink:
        return "has no links, but is not marked an orphan"
    if inode.flags & ~INLINE:
        return f"has unknown flags {inode.flags:#x}"
    if inode.is_inline and (inode.size > AREA_SIZE or inode.blocks or inode.is_directory):
        return "is said to be inline, and cannot be"
    if inode.openers & ~sum(map(opener_bit, slots)):
        return "is said to be open in sessions that do not exist"
    return ""


class _FileCheck:
    """The block map of one file, claimed block by block."""

    def __init__(self, cluster: ClusterApi, maps: Maps, inode: Inode) -> None:
        self._cluster = cluster
        self._maps = maps
        self._inode = inode
        self._owner = f"inode {inode.number:#x}"
        self._claimed = 0
        self._end = 0  # how many blocks the file has, up to the last one in use

    async def run(self) -> None:
        inode = self._inode
        if inode.height > HEIGHT_MAX:
            self._maps.report("height", f"{self._owner} has a block map of height {inode.height}")
            return
        span = FANOUT**inode.height
        for at, pointer in enumerate(inode.pointers):
            await self._claim(pointer, inode.height, at * span)
        if self._claimed != inode.blocks:
            self._maps.report(
                "block count", f"{self._owner} says {inode.blocks} blocks, has {self._claimed}"
            )
        if self._end > whole_blocks(inode.size):
            self._maps.report("size", f"{self._owner} has blocks beyond its size of {inode.size}")

    async def _claim(self, pointer: int, height: int, base: int) -> None:
        if not pointer:
            return
        if not self._maps.claim(pointer, self._owner):
            return
        self._claimed += 1
        if not height:
            self._end = base + 1
            return
        address = block_address(pointer)
        image = await self._cluster.read(memory_node_of(pointer), address, BLOCK_SIZE)
        span = FANOUT ** (height - 1)
        for at, below in enumerate(array("Q", image)):
            if below:
                await self._claim(below, height - 1, base + at * span)
