"""Where the bytes of a file go: into its inode's area while they fit, else into blocks."""

from typing import Final

from sinfoniafs.allocator import Kind
from sinfoniafs.errors import FileTooBig
from sinfoniafs.format.inode import AREA_SIZE, INLINE, INODE_AREA_EMPTY, SIZE_MAX, Inode
from sinfoniafs.format.layout import BLOCK_SIZE, memory_node_of, whole_blocks
from sinfoniafs.volume.attempt import Attempt
from sinfoniafs.volume.block_map import BlockMapEditor

# How many blocks one minitransaction frees: scattered, they are as many write items.
FREED_MAX: Final = 2048


async def cut(attempt: Attempt, inode: Inode, size: int) -> Inode:
    """The inode with its file cut to ``size`` bytes, or less far if that is too much at once."""
    if inode.is_inline:
        return inode._replace(size=size)
    editor = attempt.block_map(inode)
    left = await editor.cut(whole_blocks(size), FREED_MAX)
    editor.write()
    if not left:
        return editor.inode._replace(
            size=0, height=0, flags=inode.flags | INLINE, area=INODE_AREA_EMPTY
        )
    return editor.inode._replace(size=size if left == whole_blocks(size) else left * BLOCK_SIZE)


async def put(attempt: Attempt, inode: Inode, offset: int, data: bytes) -> Inode:
    """The inode with ``data`` in its file at ``offset``.  Without data, it is only made longer."""
    size = max(inode.size, offset + len(data))
    if size > SIZE_MAX:
        raise FileTooBig(f"a file has at most {SIZE_MAX} bytes")
    if not inode.is_inline:
        return await _put_in_blocks(attempt, inode, offset=offset, data=data, spill=b"")
    if size <= AREA_SIZE:
        start = min(offset, inode.size)
        filled = bytes(offset - start) + data
        attempt.items.write_area(inode.number, start, filled)
        area = inode.area[:start] + filled + inode.area[start + len(filled) :]
        return inode._replace(size=size, area=area)
    spill = inode.area[: inode.size]
    bare = inode._replace(flags=inode.flags & ~INLINE, height=0, area=INODE_AREA_EMPTY)
    return await _put_in_blocks(attempt, bare, offset=offset, data=data, spill=spill)


def runs_of(pointers: list[int]) -> list[tuple[int, int]]:
    """(position, count) of pointers to blocks side by side, or of holes side by side."""
    found: list[tuple[int, int]] = []
    start = 0
    for at in range(1, len(pointers) + 1):
        expected = pointers[start] and pointers[start] + at - start
        if at == len(pointers) or pointers[at] != expected:
            found.append((start, at - start))
            start = at
    return found


async def _put_in_blocks(
    attempt: Attempt, inode: Inode, *, offset: int, data: bytes, spill: bytes
) -> Inode:
    """Put ``data`` in the file's blocks, and ``spill``, what was inline so far, at its start."""
    size = max(inode.size, offset + len(data))
    editor = attempt.block_map(inode)
    if spill or not any(inode.pointers):
        editor.write_whole_area()
    elif offset > inode.size and inode.size % BLOCK_SIZE:
        await _zero_gap(attempt, editor, inode, offset)
    first = offset // BLOCK_SIZE
    count = whole_blocks(offset + len(data)) - first if data else 0
    indexes = list(range(first, first + count))
    if spill and 0 not in indexes:
        indexes.insert(0, 0)
    pointers = (await editor.get(0, 1) if len(indexes) > count else []) + (
        await editor.get(first, count)
    )
    holes = [place for place, pointer in enumerate(pointers) if not pointer]
    await attempt.numbers.provide(Kind.BLOCK, memory_node_of(inode.number), len(holes))
    for place in holes:
        pointers[place] = attempt.numbers.take(Kind.BLOCK)
    for place in holes:
        await editor.put(indexes[place], pointers[place])
        start = indexes[place] * BLOCK_SIZE
        _zero_around(attempt, pointers[place], start, offset=offset, data=data, size=size)
    editor.write()
    if spill:
        attempt.items.write_block(pointers[0], 0, spill)
    _write_runs(attempt, pointers[len(pointers) - count :], offset, data)
    return editor.inode._replace(size=size)


async def _zero_gap(attempt: Attempt, editor: BlockMapEditor, inode: Inode, offset: int) -> None:
    """Write zeros from the file's old end, as far as its last block goes or ``offset``."""
    last = inode.size // BLOCK_SIZE
    (pointer,) = await editor.get(last, 1)
    if pointer:
        end = min(offset, (last + 1) * BLOCK_SIZE)
        attempt.items.write_block(pointer, inode.size % BLOCK_SIZE, bytes(end - inode.size))


def _zero_around(
    attempt: Attempt, block: int, start: int, *, offset: int, data: bytes, size: int
) -> None:
    """Write zeros in a new block, that begins at ``start`` of the file, where ``data`` is not."""
    end = min(start + BLOCK_SIZE, size)
    data_start = min(max(offset, start), end)
    data_end = min(max(offset + len(data), start), end)
    if data_end <= data_start:
        data_start = data_end = start
    if data_start > start:
        attempt.items.write_block(block, 0, bytes(data_start - start))
    if data_end < end:
        attempt.items.write_block(block, data_end - start, bytes(end - data_end))


def _write_runs(attempt: Attempt, pointers: list[int], offset: int, data: bytes) -> None:
    begin = offset // BLOCK_SIZE * BLOCK_SIZE
    for at, count in runs_of(pointers):
        start = max(offset, begin + at * BLOCK_SIZE)
        end = min(offset + len(data), begin + (at + count) * BLOCK_SIZE)
        piece = data[start - offset : end - offset]
        attempt.items.write_block(pointers[at], start % BLOCK_SIZE, piece)
