"""The items of an attempt's minitransaction, named by inode and block instead of by address.

What each compare item relies on is remembered: when the item fails, that is dropped from the cache.
"""

from sinfonia.addresses import MemoryNodeId
from sinfonia.minitransaction import Minitransaction, Result
from sinfoniafs.allocator import Kind, map_byte
from sinfoniafs.attributes import InodeNumber
from sinfoniafs.errors import CorruptVolume, SessionLost
from sinfoniafs.format.directory import VERSION
from sinfoniafs.format.inode import AREA_OFFSET
from sinfoniafs.format.layout import USED, BlockNumber, block_address, memory_node_of
from sinfoniafs.volume.volume import Volume


class Items:
    """One minitransaction of one session, in terms of the volume."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        # The mount may begin a new session at any time; an attempt is made in one.
        self.session = volume.session
        self.minitransaction = volume.cluster.minitransaction()
        # What a compare item relies on, by the index of the item.
        self._inodes: dict[int, InodeNumber] = {}
        self._tree_nodes: dict[int, BlockNumber] = {}
        self._fences: dict[int, MemoryNodeId] = {}

    # -- what is relied on

    @property
    def relies_on_inodes(self) -> bool:
        """Whether any compare item is of an inode."""
        return bool(self._inodes)

    def compare_inode(self, number: InodeNumber, offset: int, expected: bytes) -> None:
        """Rely on part of the inode's slot."""
        memory_node, address = self._volume.layout.inode_slot(number)
        index = self.minitransaction.compare(memory_node, address + offset, expected)
        self._inodes[index] = number

    def compare_tree_node(self, block: BlockNumber, version: int) -> None:
        """Rely on a node of a directory's tree: its version vouches for the rest."""
        index = self.minitransaction.compare(
            memory_node_of(block), block_address(block), VERSION.pack(version)
        )
        self._tree_nodes[index] = block

    def fence(self, memory_node: MemoryNodeId) -> None:
        """Commit only if no other mount has taken this session for dead."""
        if memory_node not in self._fences.values():
            self._fences[self.session.fence(self.minitransaction, memory_node)] = memory_node

    def confirmation(self) -> Minitransaction[bytes]:
        """A minitransaction of the same compare items, in the same order, and nothing else."""
        confirmation = self._volume.cluster.minitransaction()
        for memory_node, position in self.minitransaction.compare_places:
            item = self.minitransaction.items[memory_node].compares[position]
            confirmation.compare(memory_node, item.address, item.expected)
        return confirmation

    def drop_stale(self, result: Result) -> None:
        """Drop from the cache what the failed compare items relied on.

        Raises SessionLost if the session was fenced, and CorruptVolume if a number that this
        session held in reserve is no longer marked as its own.
        """
        cache = self._volume.cache
        failed = {each.index for each in result.failed_compares}
        if failed & self._fences.keys():
            raise SessionLost("this mount was taken for dead")
        for index in failed:
            if index in self._inodes:
                cache.drop_inode(self._inodes[index])
            elif index in self._tree_nodes:
                cache.tree_nodes.drop(self._tree_nodes[index])
            else:
                raise CorruptVolume("what this session held in reserve was taken: run fsck")

    # -- what is read along: each returns the index among the result's reads

    def read_slot(self, number: InodeNumber, length: int) -> int:
        """Read the start of an inode's slot."""
        memory_node, address = self._volume.layout.inode_slot(number)
        return self.minitransaction.read(memory_node, address, length)

    def read_block(self, block: int, offset: int, length: int) -> int:
        """Read part of a block, or of several that lie side by side."""
        address = block_address(block) + offset
        return self.minitransaction.read(memory_node_of(block), address, length)

    # -- what is written

    def write_slot(self, number: InodeNumber, offset: int, data: bytes) -> None:
        """Write part of an inode's slot."""
        memory_node, address = self._volume.layout.inode_slot(number)
        self.minitransaction.write(memory_node, address + offset, data)

    def write_area(self, number: InodeNumber, offset: int, data: bytes) -> None:
        """Write part of an inode's area."""
        self.write_slot(number, AREA_OFFSET + offset, data)

    def write_block(self, block: int, offset: int, data: bytes) -> None:
        """Write part of a block, or of several that lie side by side."""
        self.minitransaction.write(memory_node_of(block), block_address(block) + offset, data)

    def mark(self, kind: Kind, first: int, states: bytes) -> None:
        """Write the bytes in the map of the number ``first`` and of those after it."""
        self.minitransaction.write(*map_byte(self._volume.layout, kind, first), states)

    def link(self, kind: Kind, first: int, count: int) -> None:
        """Turn the bytes in the map from reserved by this session to used."""
        memory_node, address = map_byte(self._volume.layout, kind, first)
        self.minitransaction.compare(memory_node, address, self.session.reserved * count)
        self.minitransaction.write(memory_node, address, USED * count)
        self.fence(memory_node)
