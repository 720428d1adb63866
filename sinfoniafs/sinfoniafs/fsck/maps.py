"""Every byte of the maps is accounted for: the format's, one owner's, reserved, or free.

A file or directory that is found to use a block *claims* it here.  A block may be claimed once, and
must be marked as used; in the end, every block that is marked as used must have been claimed.
"""

from collections import Counter
from typing import Final

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.api import ClusterApi
from sinfoniafs.attributes import InodeNumber
from sinfoniafs.format.layout import (
    FORMAT,
    FREE,
    INODE_MAP_ADDRESS,
    ORPHAN,
    RESERVED_FIRST,
    USED,
    Layout,
    NodeLayout,
    index_of,
    memory_node_of,
    number,
)

PART_SIZE: Final = 4 * 1024 * 1024
# After so many problems of one kind, listing more of them helps no operator.
PROBLEMS_OF_A_KIND_MAX: Final = 100

_CLAIMED: Final = 255


class Maps:
    """The maps of all memory nodes as they were read, and what was claimed since."""

    def __init__(
        self,
        layout: Layout,
        inodes: dict[MemoryNodeId, bytes],
        blocks: dict[MemoryNodeId, bytes],
        problems: list[str],
    ) -> None:
        self.layout = layout
        self.inodes = inodes
        self._blocks = blocks
        self._claimed = {memory_node: bytearray(len(each)) for memory_node, each in blocks.items()}
        self._problems = problems
        self._reported: Counter[str] = Counter()
        self.blocks_claimed = 0
        self.blocks_reserved = 0
        self.inodes_reserved = 0

    @classmethod
    async def read(cls, cluster: ClusterApi, layout: Layout, problems: list[str]) -> "Maps":
        inodes = {}
        blocks = {}
        for memory_node, each in layout.nodes.items():
            inodes[memory_node] = await _read_map(
                cluster, memory_node, INODE_MAP_ADDRESS, each.inodes
            )
            blocks[memory_node] = await _read_map(
                cluster, memory_node, each.block_map_address, each.blocks
            )
        return cls(layout, inodes, blocks, problems)

    def inodes_in_use(self) -> list[InodeNumber]:
        """The inodes that are marked as used, orphans included."""
        return [
            InodeNumber(number(memory_node, index))
            for memory_node, states in self.inodes.items()
            for index, state in enumerate(states)
            if state in USED + ORPHAN
        ]

    def report(self, kind: str, problem: str) -> None:
        """Note a problem, unless many of its kind were noted already."""
        self._reported[kind] += 1
        if self._reported[kind] <= PROBLEMS_OF_A_KIND_MAX:
            self._problems.append(problem)
        elif self._reported[kind] == PROBLEMS_OF_A_KIND_MAX + 1:
            self._problems.append(f"more problems like these: {kind}")

    def claim(self, block: int, owner: str) -> bool:
        """Note that ``owner`` uses a block; False if it is no data block, or claimed already."""
        if not self.layout.holds_block(block):
            self.report("not a block", f"{owner} uses {block:#x}, which is not a data block")
            return False
        memory_node, index = memory_node_of(block), index_of(block)
        if self._claimed[memory_node][index]:
            self.report("used twice", f"{owner} uses block {block:#x}, which is used already")
            return False
        self._claimed[memory_node][index] = _CLAIMED
        self.blocks_claimed += 1
        state = self._blocks[memory_node][index]
        if state != USED[0]:
            self.report("not marked", f"{owner} uses block {block:#x}, marked {_name(state)}")
        return True

    def check_states(self, slots: set[int]) -> None:
        """Check each byte for itself; ``slots`` are those of the sessions that exist."""
        known = FREE + USED + FORMAT + bytes(RESERVED_FIRST + slot for slot in slots)
        for memory_node, layout in self.layout.nodes.items():
            self._check_states("inode", memory_node, self.inodes, known=known + ORPHAN)
            self._check_states("block", memory_node, self._blocks, known=known)
            self._check_format(layout)
        self.inodes_reserved = sum(map(_count_reserved, self.inodes.values()))
        self.blocks_reserved = sum(map(_count_reserved, self._blocks.values()))

    def check_claims(self) -> None:
        """Once all claims are made: what is marked as used must have been claimed."""
        for memory_node, states in self._blocks.items():
            claimed = self._claimed[memory_node]
            index = states.find(USED)
            while index >= 0:
                if not claimed[index]:
                    block = number(memory_node, index)
                    self.report("not used", f"block {block:#x} is marked used, but nothing uses it")
                index = states.find(USED, index + 1)

    def _check_states(
        self, what: str, memory_node: MemoryNodeId, maps: dict[MemoryNodeId, bytes], *, known: bytes
    ) -> None:
        states = maps[memory_node]
        if not states.translate(None, delete=known):
            return
        for index, state in enumerate(states):
            if state not in known:
                which = f"{what} {number(memory_node, index):#x}"
                self.report(f"{what} state", f"{which} is marked {_name(state)}, wrongly")

    def _check_format(self, layout: NodeLayout) -> None:
        memory_node, first = layout.node, layout.first_data_block
        states = self._blocks[memory_node]
        if states[:first] != FORMAT * first or FORMAT in states[first:]:
            self.report(
                "format", f"memory node {memory_node}: the format's own blocks are mismarked"
            )
        if self.inodes[memory_node][:1] != FORMAT or FORMAT in self.inodes[memory_node][1:]:
            self.report("format", f"memory node {memory_node}: the inode that is none is mismarked")


async def _read_map(
    cluster: ClusterApi, memory_node: MemoryNodeId, address: int, size: int
) -> bytes:
    parts = [
        await cluster.read(memory_node, address + start, min(PART_SIZE, size - start))
        for start in range(0, size, PART_SIZE)
    ]
    return b"".join(parts)


def _count_reserved(states: bytes) -> int:
    return len(states) - sum(states.count(state) for state in (FREE, USED, ORPHAN, FORMAT))


def _name(state: int) -> str:
    names = {FREE[0]: "free", USED[0]: "used", ORPHAN[0]: "orphan", FORMAT[0]: "format"}
    if state >= RESERVED_FIRST:
        return f"reserved by session slot {state - RESERVED_FIRST}"
    return names.get(state, f"with unknown state {state}")
