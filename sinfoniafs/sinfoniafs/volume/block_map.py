"""A file's block map is a radix tree of pointers; what was never written has none.

The inode's area holds the 32 topmost pointers.  At height 0 they lead to the file's first 32
blocks (512 KiB); at height *h* each leads to a tree of *h* levels of pointer blocks, which have
2048 pointers each: 1 GiB at height 1, 2 TiB at height 2, and all that an offset can say at height
4.
A pointer of 0 is a hole and reads as zeros.

Bytes of a block beyond the file's size mean nothing: the operation that makes a file longer writes
zeros from the old size on.
"""

from array import array
from typing import Final

from sinfonia.addresses import MemoryNodeId
from sinfoniafs.allocator import Kind
from sinfoniafs.errors import CorruptVolume
from sinfoniafs.format.inode import POINTERS, Inode
from sinfoniafs.format.layout import BLOCK_SIZE, BlockNumber, memory_node_of
from sinfoniafs.volume.items import Items
from sinfoniafs.volume.numbers import Numbers
from sinfoniafs.volume.pointer_blocks import PointerBlocks

FANOUT: Final = BLOCK_SIZE // 8
HEIGHT_MAX: Final = 4  # 8 EiB, all that an offset can say


def blocks_covered(height: int) -> int:
    """How many blocks of a file a map of this height can hold."""
    return int(POINTERS * FANOUT**height)


class BlockMapEditor:
    """The block map of one file, read and changed within one attempt."""

    def __init__(
        self, inode: Inode, *, items: Items, pointer_blocks: PointerBlocks, numbers: Numbers
    ) -> None:
        assert not inode.is_inline
        if inode.height > HEIGHT_MAX:
            raise CorruptVolume(f"inode {inode.number:#x} has a block map too high to be one")
        self._items = items
        self._pointer_blocks = pointer_blocks
        self._numbers = numbers
        self._inode = inode
        self._near: MemoryNodeId = memory_node_of(inode.number)
        self._top = inode.pointers
        self._height = inode.height
        self._block_count = inode.blocks
        self._pointers: dict[int, array[int]] = {}
        # Changed positions of each changed pointer block, (first, last); the inode's own under 0.
        self._changed: dict[int, tuple[int, int]] = {}

    @property
    def inode(self) -> Inode:
        """The inode with the map as it now is."""
        return self._inode._replace(
            height=self._height, blocks=self._block_count, area=self._top.tobytes()
        )

    async def get(self, first: int, count: int) -> list[int]:
        """The pointers of ``count`` blocks of the file."""
        if not self._height:
            return (list(self._top[first : first + count]) + [0] * count)[:count]
        pointers: list[int] = []
        while len(pointers) < count:
            index = first + len(pointers)
            wanted = min(count - len(pointers), FANOUT - index % FANOUT)
            lowest = await self._lowest(index)
            at = index % FANOUT
            pointers += [0] * wanted if lowest is None else lowest[at : at + wanted]
        return pointers

    async def put(self, index: int, block: int) -> None:
        """Let a hole be filled by ``block``."""
        while index >= blocks_covered(self._height):
            await self._heighten()
        self._block_count += 1
        owner, pointers, height = 0, self._top, self._height
        while True:
            at = index // FANOUT**height if not owner else index // FANOUT**height % FANOUT
            if not height:
                self._set(owner, pointers, at=at, pointer=block)
                return
            below = pointers[at]
            if not below:
                below = await self._new_pointer_block()
                self._set(owner, pointers, at=at, pointer=below)
            owner, pointers = below, await self._pointers_in(below)
            height -= 1

    async def cut(self, keep: int, freed_max: int) -> int:
        """Free the file's blocks from number ``keep`` on, or the last ``freed_max`` of them.

        Returns how many blocks of the file, holes included, are left as they were.
        """
        span = FANOUT**self._height
        mapped: list[int] = []
        for at in reversed(range(POINTERS)):
            await self._collect(
                self._top[at],
                self._height,
                at * span,
                keep=keep,
                mapped=mapped,
                limit=freed_max,
            )
        if len(mapped) == freed_max:
            keep = max(keep, mapped[-1])
        freed: list[int] = []
        for at in range(keep // span, POINTERS):
            if self._top[at]:
                rest = await self._prune(
                    self._top[at], self._height, at * span, keep=keep, freed=freed
                )
                self._set(0, self._top, at=at, pointer=rest)
        self._numbers.free_blocks(freed)
        self._block_count -= len(freed)
        return keep

    def write(self) -> None:
        """Write what was changed."""
        for owner, (first, last) in self._changed.items():
            if not owner:
                data = self._top[first : last + 1].tobytes()
                self._items.write_area(self._inode.number, first * 8, data)
                continue
            pointers = self._pointers[owner]
            self._items.write_block(owner, first * 8, pointers[first : last + 1].tobytes())
            self._pointer_blocks.put(self._inode, BlockNumber(owner), pointers)

    def write_whole_area(self) -> None:
        """Write all pointers of the inode's area, which held something else before."""
        self._changed[0] = (0, POINTERS - 1)

    async def _collect(
        self, pointer: int, height: int, base: int, *, keep: int, mapped: list[int], limit: int
    ) -> None:
        """Append the numbers of blocks in use below ``pointer``, highest first."""
        span = FANOUT**height
        if not pointer or base + span <= keep or len(mapped) >= limit:
            return
        if not height:
            mapped.append(base)
            return
        pointers = await self._pointers_in(pointer)
        for at in reversed(range(FANOUT)):
            if pointers[at]:
                start = base + at * span // FANOUT
                await self._collect(
                    pointers[at], height - 1, start, keep=keep, mapped=mapped, limit=limit
                )

    async def _prune(
        self, pointer: int, height: int, base: int, *, keep: int, freed: list[int]
    ) -> int:
        """Cut the tree of ``pointer``; returns what leads to the rest of it, 0 if none is left."""
        if height:
            span = FANOUT ** (height - 1)
            pointers = await self._pointers_in(pointer)
            for at in range(max(0, keep - base) // span, FANOUT):
                if pointers[at]:
                    rest = await self._prune(
                        pointers[at], height - 1, base + at * span, keep=keep, freed=freed
                    )
                    if keep > base and rest != pointers[at]:
                        self._set(pointer, pointers, at=at, pointer=rest)
                        pointers = self._pointers[pointer]
        if keep > base:
            return pointer
        freed.append(pointer)
        return 0

    async def _lowest(self, index: int) -> "array[int] | None":
        """The lowest pointer block on the way to a block, None where there is a hole."""
        pointer = self._top[at] if (at := index // FANOUT**self._height) < POINTERS else 0
        for height in range(self._height, 0, -1):
            if not pointer:
                return None
            pointers = await self._pointers_in(pointer)
            if height == 1:
                return pointers
            pointer = pointers[index // FANOUT ** (height - 1) % FANOUT]
        return None

    async def _pointers_in(self, block: int) -> "array[int]":
        pointers = self._pointers.get(block)
        if pointers is None:
            pointers = await self._pointer_blocks.get(self._inode, BlockNumber(block))
            self._pointers[block] = pointers
        return pointers

    async def _new_pointer_block(self) -> int:
        await self._numbers.provide(Kind.BLOCK, self._near, 1)
        block = self._numbers.take(Kind.BLOCK)
        self._pointers[block] = array("Q", bytes(BLOCK_SIZE))
        self._changed[block] = (0, FANOUT - 1)
        self._block_count += 1
        return block

    async def _heighten(self) -> None:
        """Put a pointer block between the inode and its pointers."""
        if any(self._top):
            block = await self._new_pointer_block()
            self._pointers[block][:POINTERS] = self._top
            self._top = array("Q", [block] + [0] * (POINTERS - 1))
            self.write_whole_area()
        self._height += 1

    def _set(self, owner: int, pointers: "array[int]", *, at: int, pointer: int) -> None:
        if owner and owner not in self._changed:
            pointers = self._pointers[owner] = pointers[:]  # the cache keeps what was read
        elif owner:
            pointers = self._pointers[owner]
        pointers[at] = pointer
        first, last = self._changed.get(owner, (at, at))
        self._changed[owner] = (min(first, at), max(last, at))
