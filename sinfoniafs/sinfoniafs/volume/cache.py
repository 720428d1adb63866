"""A cached byte is a guess: it is believed only after a minitransaction has compared its version.

Entries do not expire, and no other mount tells this one of its changes.  An operation adds a
compare item for each entry that it relied on; an entry whose comparison fails is dropped and read
anew.  The caches are bounded; the least recently used entry goes first.
"""

from array import array
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from sinfoniafs.attributes import InodeNumber
from sinfoniafs.format.directory import TreeNode
from sinfoniafs.format.inode import Inode
from sinfoniafs.format.layout import BlockNumber

# About 1 KiB each in memory.
INODES_MAX: Final = 32 * 1024
# A decoded leaf of 300 entries takes about 100 KiB.
TREE_NODES_MAX: Final = 1024
# A file's pointer blocks are 16 KiB each, one for every 32 MiB of the file that was touched.
BLOCK_MAPS_MAX: Final = 1024

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A mapping that keeps the ``size_max`` entries used last."""

    __slots__ = ("_entries", "_size_max")

    def __init__(self, size_max: int) -> None:
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._size_max = size_max

    def get(self, key: K) -> V | None:
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._size_max:
            self._entries.popitem(last=False)

    def drop(self, key: K) -> None:
        self._entries.pop(key, None)

    def __len__(self) -> int:
        return len(self._entries)


class BlockMap:
    """The pointer blocks of a file that were read, good for one iversion of its inode."""

    __slots__ = ("iversion", "pointer_blocks")

    def __init__(self, iversion: int) -> None:
        self.iversion = iversion
        self.pointer_blocks: dict[BlockNumber, array[int]] = {}


class Cache:
    """What one mount believes about a volume."""

    __slots__ = ("block_maps", "inodes", "tree_nodes")

    def __init__(self) -> None:
        self.inodes: Recent[InodeNumber, Inode] = Recent(INODES_MAX)
        self.tree_nodes: Recent[BlockNumber, TreeNode] = Recent(TREE_NODES_MAX)
        self.block_maps: Recent[InodeNumber, BlockMap] = Recent(BLOCK_MAPS_MAX)

    def block_map(self, inode: Inode) -> BlockMap:
        """The block map that belongs to just this iversion of ``inode``, perhaps empty."""
        found = self.block_maps.get(inode.number)
        if found is None or found.iversion != inode.iversion:
            found = BlockMap(inode.iversion)
            self.block_maps.put(inode.number, found)
        return found

    def drop_inode(self, inode: InodeNumber) -> None:
        self.inodes.drop(inode)
        self.block_maps.drop(inode)
