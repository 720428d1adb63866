"""An attempt sees each pointer block of a file as it was found, with its own changes to it.

A pointer block has no version: the iversion of the file's inode validates it.
"""

from array import array

from sinfoniafs.attributes import InodeNumber
from sinfoniafs.format.inode import Inode
from sinfoniafs.format.layout import BlockNumber
from sinfoniafs.volume.inodes import Inodes
from sinfoniafs.volume.volume import Volume


class PointerBlocks:
    """The pointer blocks of files that one attempt has read and changed."""

    def __init__(self, volume: Volume, inodes: Inodes) -> None:
        self._volume = volume
        self._inodes = inodes
        self._changed: dict[InodeNumber, dict[BlockNumber, array[int]]] = {}

    async def get(self, inode: Inode, block: BlockNumber) -> "array[int]":
        """The pointers in ``block``, which belongs to the file of ``inode``."""
        changed = self._changed.get(inode.number, {}).get(block)
        if changed is not None:
            return changed
        cached = self._volume.cache.block_map(self._inodes.found(inode.number)).pointer_blocks
        found = cached.get(block)
        if found is None:
            found = cached[block] = array("Q", await self._volume.load_block(block))
        return found

    def put(self, inode: Inode, block: BlockNumber, pointers: "array[int]") -> None:
        """Let a pointer block be as given.  The caller writes its bytes."""
        self._changed.setdefault(inode.number, {})[block] = pointers

    def publish(self) -> None:
        """The attempt has committed: what the cache holds is good for the inodes' new iversions."""
        cache = self._volume.cache
        for found, inode in self._inodes.kept():
            known = cache.block_maps.get(inode.number)
            if known is not None and known.iversion == found.iversion:
                known.iversion = inode.iversion
            changed = self._changed.get(inode.number)
            if changed:
                cache.block_map(inode).pointer_blocks.update(changed)
