"""Every address in a volume is computed here, and only here.

A memory node is divided as Figure 6 of the paper has it::

    block 0      1 .. 4         5 ..
    +-----------+--------------+-----------+-----------+------------+------------------+
    | superblock| session table| inode map | block map | inode area | data blocks ...  |
    +-----------+--------------+-----------+-----------+------------+------------------+

Blocks are counted from the start of the memory node, so that block *n* is at address *n* times the
block size, and no data block has index 0.  An inode or block number is the pair (memory node,
index) in one 64-bit integer; 0 is no number at all.

The maps have a byte, not a bit, for each inode or block.  Minitransactions compare and write
bytes: with a byte of its own, a block is freed by a blind write and taken with one comparison of
just that byte, where bits would make unrelated allocations collide on a shared word; and a byte
has room to say *which session* holds a block in reserve.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NewType

from sinfonia.addresses import Address, MemoryNodeId
from sinfoniafs.attributes import InodeNumber
from sinfoniafs.errors import CorruptVolume, FormatError

BlockNumber = NewType("BlockNumber", int)

BLOCK_SIZE: Final = 16 * 1024  # as in the paper, section 5.1
INODE_SIZE: Final = 512
INDEX_BITS: Final = 40  # 2**40 blocks of 16 KiB are 16 PiB on each of 2**23 memory nodes
VERSION_MAX: Final = 2**64 - 1
INDEX_MASK: Final = (1 << INDEX_BITS) - 1

# States of a byte in the inode map or the block map.
FREE: Final = b"\x00"
USED: Final = b"\x01"
ORPHAN: Final = b"\x02"  # an inode without a name that some session has, or had, open
FORMAT: Final = b"\x03"  # belongs to the format itself: never allocated, never freed
RESERVED_FIRST: Final = 16  # RESERVED_FIRST + n: held in reserve by the session in slot n

SESSIONS_MAX: Final = 256 - RESERVED_FIRST  # what is left of a byte
SESSION_SIZE: Final = 256
SESSION_TABLE_ADDRESS: Final = BLOCK_SIZE
INODE_MAP_ADDRESS: Final = 5 * BLOCK_SIZE

# Below this the tables leave no room worth having.
NODE_SIZE_MIN: Final = 1024 * 1024
INODES_PER_BLOCK: Final = BLOCK_SIZE // INODE_SIZE


def number(node: int, index: int) -> int:
    """The inode or block number of the pair (memory node, index)."""
    return node << INDEX_BITS | index


def memory_node_of(inode_or_block: int) -> MemoryNodeId:
    return MemoryNodeId(inode_or_block >> INDEX_BITS)


def index_of(inode_or_block: int) -> int:
    return inode_or_block & INDEX_MASK


def block_address(block: int) -> int:
    """The address, on its memory node, of the first byte of a block."""
    return (block & INDEX_MASK) * BLOCK_SIZE


def session_address(slot: int) -> int:
    """The address, on every memory node, of a slot of the session table."""
    return SESSION_TABLE_ADDRESS + slot * SESSION_SIZE


def next_version(version: int) -> int:
    """The version or iversion of what is changed: one more, and 0 after the largest."""
    return version + 1 & VERSION_MAX


def whole_blocks(length: int) -> int:
    """How many blocks ``length`` bytes need."""
    return -(-length // BLOCK_SIZE)


def runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Merge numbers into (first number, count), one for each contiguous run."""
    first, count = -1, 0
    for each in sorted(numbers):
        if each == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = each, 1
    if count:
        yield first, count


@dataclass(frozen=True, slots=True)
class NodeLayout:
    """Where everything is on one memory node."""

    node: MemoryNodeId
    blocks: int
    inodes: int

    @classmethod
    def of_size(cls, node: MemoryNodeId, size: int) -> "NodeLayout":
        """The layout that mkfs chooses for ``size`` bytes of a memory node.

        One inode for each block: a file that does not fit into its inode needs at least a block.
        """
        if size < NODE_SIZE_MIN:
            raise FormatError(
                f"memory node {node} gives the volume {size} bytes, at least {NODE_SIZE_MIN} are"
                " needed: make the memory node larger"
            )
        blocks = size // BLOCK_SIZE
        return cls(node, blocks, -(-blocks // INODES_PER_BLOCK) * INODES_PER_BLOCK)

    @property
    def block_map_address(self) -> int:
        return INODE_MAP_ADDRESS + whole_blocks(self.inodes) * BLOCK_SIZE

    @property
    def inode_area_address(self) -> int:
        return self.block_map_address + whole_blocks(self.blocks) * BLOCK_SIZE

    @property
    def first_data_block(self) -> int:
        return (self.inode_area_address + self.inodes * INODE_SIZE) // BLOCK_SIZE


class Layout:
    """The layouts of all memory nodes of a volume, made fast to ask."""

    __slots__ = ("_block_map", "_inode_area", "nodes")

    def __init__(self, nodes: Iterable[NodeLayout]) -> None:
        self.nodes: Mapping[MemoryNodeId, NodeLayout] = {each.node: each for each in nodes}
        self._inode_area = {n: each.inode_area_address for n, each in self.nodes.items()}
        self._block_map = {n: each.block_map_address for n, each in self.nodes.items()}

    def inode_slot(self, inode: InodeNumber) -> Address:
        """Where the inode's slot is.  Raises CorruptVolume for what is no inode number."""
        node, index = memory_node_of(inode), index_of(inode)
        if node not in self.nodes or not 0 < index < self.nodes[node].inodes:
            raise CorruptVolume(f"{inode:#x} is not the number of an inode")
        return Address(node, self._inode_area[node] + index * INODE_SIZE)

    def inode_map(self, inode: int) -> Address:
        """Where the inode's byte in the inode map is."""
        return Address(memory_node_of(inode), INODE_MAP_ADDRESS + index_of(inode))

    def block_map(self, block: int) -> Address:
        """Where the block's byte in the block map is."""
        node = memory_node_of(block)
        return Address(node, self._block_map[node] + index_of(block))

    def holds_block(self, block: int) -> bool:
        """Whether ``block`` is the number of a data block of this volume."""
        layout = self.nodes.get(memory_node_of(block))
        return layout is not None and layout.first_data_block <= index_of(block) < layout.blocks
