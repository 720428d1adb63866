"""What a file holds: reading, writing, truncating.

Every read is validated by the inode's iversion in the minitransaction that fetches the bytes, and
every write changes it; so a read sees each write whole or not at all, from whichever mount.
"""

import stat
from collections.abc import Callable
from functools import partial
from typing import Final

from sinfoniafs.allocator import Kind
from sinfoniafs.attributes import Attributes, Changes, InodeNumber
from sinfoniafs.errors import FileTooBig, InvalidArgument, IsADirectory
from sinfoniafs.format.inode import AREA_SIZE, INLINE, INODE_AREA_EMPTY, SIZE_MAX, Inode
from sinfoniafs.format.layout import BLOCK_SIZE, INODE_SIZE, node_of, whole_blocks
from sinfoniafs.privileges import without_set_id
from sinfoniafs.volume.attempt import Attempt
from sinfoniafs.volume.block_map import BlockMapEditor
from sinfoniafs.volume.running import until_committed
from sinfoniafs.volume.state import VolumeState

# How much one minitransaction reads or writes; its own limit is 16 MiB with all that goes along.
PIECE_MAX: Final = 8 * 1024 * 1024
# How many blocks one minitransaction frees: scattered, they are as many write items.
FREED_MAX: Final = 2048
# What chmod can change.
PERMISSIONS: Final = 0o7777
SET_ID: Final = stat.S_ISUID | stat.S_ISGID

# Whether the program that changes a file may leave its set-user-ID bits; asked if there are any.
Privileged = Callable[[], bool]


def always() -> bool:
    """The privilege of this library's own callers."""
    return True


async def read(state: VolumeState, number: InodeNumber, offset: int, length: int) -> bytes:
    """Up to ``length`` bytes at ``offset``; fewer only at the end of the file."""
    if offset < 0 or length < 0:
        raise InvalidArgument("offset and length of a read cannot be negative")
    if length <= PIECE_MAX:
        return await until_committed(state, lambda attempt: _read(attempt, number, offset, length))
    pieces: list[bytes] = []
    while length:
        wanted = min(length, PIECE_MAX)
        piece = await until_committed(
            state, partial(_read, number=number, offset=offset, length=wanted)
        )
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
        if len(piece) < wanted:
            break
    return b"".join(pieces)


async def write(
    state: VolumeState,
    number: InodeNumber,
    offset: int,
    data: bytes,
    privileged: Privileged = always,
) -> int:
    """Put ``data`` at ``offset``, extending the file; returns how many bytes were written."""
    if offset < 0:
        raise InvalidArgument("the offset of a write cannot be negative")
    for start in range(0, len(data), PIECE_MAX) or [0]:
        piece = data if len(data) <= PIECE_MAX else data[start : start + PIECE_MAX]
        body = partial(
            _write, number=number, offset=offset + start, data=piece, privileged=privileged
        )
        await until_committed(state, body, number)
    return len(data)


async def append(
    state: VolumeState, number: InodeNumber, data: bytes, privileged: Privileged = always
) -> int:
    """Put ``data`` at the end of the file, wherever that is; returns the offset it got."""
    if len(data) > PIECE_MAX:
        raise InvalidArgument(f"at most {PIECE_MAX} bytes can be appended at once")
    body = partial(_write, number=number, offset=None, data=data, privileged=privileged)
    return await until_committed(state, body, number)


async def readlink(state: VolumeState, number: InodeNumber) -> bytes:
    """The target of a symbolic link."""

    async def body(attempt: Attempt) -> bytes:
        inode = await attempt.handle(number)
        if inode.kind != stat.S_IFLNK:
            raise InvalidArgument("not a symbolic link")
        return await _fetch(attempt, inode, 0, inode.size)

    return await until_committed(state, body)


async def set_attributes(
    state: VolumeState,
    number: InodeNumber,
    changes: Changes,
    privileged: Privileged = always,
) -> Attributes:
    """Change attributes; those that are None stay as they are."""
    if changes.size is not None and not 0 <= changes.size <= SIZE_MAX:
        raise FileTooBig(f"a file has 0 to {SIZE_MAX} bytes")
    while True:
        inode = await until_committed(
            state,
            lambda attempt: _set_attributes_once(attempt, number, changes, privileged),
            number,
        )
        # A file in too many pieces to be cut at once grows shorter in several steps.
        if changes.size is None or inode.size == changes.size:
            return inode.attributes


async def cut(attempt: Attempt, inode: Inode, size: int) -> Inode:
    """The inode with its file cut to ``size`` bytes, or less far if that is too much at once."""
    if inode.is_inline:
        return inode._replace(size=size)
    editor = BlockMapEditor(attempt, inode)
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
        return await _put_in_blocks(attempt, inode, offset, data, b"")
    if size <= AREA_SIZE:
        start = min(offset, inode.size)
        filled = bytes(offset - start) + data
        attempt.write_area(inode, start, filled)
        area = inode.area[:start] + filled + inode.area[start + len(filled) :]
        return inode._replace(size=size, area=area)
    spill = inode.area[: inode.size]
    bare = inode._replace(flags=inode.flags & ~INLINE, height=0, area=INODE_AREA_EMPTY)
    return await _put_in_blocks(attempt, bare, offset, data, spill)


async def _read(attempt: Attempt, number: InodeNumber, offset: int, length: int) -> bytes:
    inode = await attempt.handle(number)
    if inode.is_directory:
        raise IsADirectory("a directory cannot be read like a file")
    return await _fetch(attempt, inode, offset, min(length, inode.size - offset))


async def _fetch(attempt: Attempt, inode: Inode, offset: int, length: int) -> bytes:
    if length <= 0 or inode.is_inline:
        await attempt.commit()
        return inode.area[offset : offset + length] if length > 0 else b""
    first = offset // BLOCK_SIZE
    count = whole_blocks(offset + length) - first
    pointers = await BlockMapEditor(attempt, inode).get(first, count)
    pieces: list[int | bytes] = []  # the index of a read item, or the zeros of a hole
    for at, run in _runs(pointers):
        start = max(offset, (first + at) * BLOCK_SIZE)
        end = min(offset + length, (first + at + run) * BLOCK_SIZE)
        if pointers[at]:
            pieces.append(attempt.read_block(pointers[at], start % BLOCK_SIZE, end - start))
        else:
            pieces.append(bytes(end - start))
    reads = (await attempt.commit()).reads
    parts = [reads[each] if isinstance(each, int) else each for each in pieces]
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _write(
    attempt: Attempt,
    number: InodeNumber,
    offset: int | None,
    data: bytes,
    privileged: Privileged,
) -> int:
    inode = await attempt.handle(number)
    if inode.is_directory:
        raise IsADirectory("a directory cannot be written like a file")
    if inode.kind != stat.S_IFREG:
        raise InvalidArgument("only a regular file can be written")
    if offset is None:
        offset = inode.size
    if data:
        inode = _changed_by(await put(attempt, inode, offset, data), privileged)
        attempt.change(inode._replace(mtime=attempt.now, ctime=attempt.now))
    await attempt.commit()
    return offset


async def _set_attributes_once(
    attempt: Attempt, number: InodeNumber, changes: Changes, privileged: Privileged
) -> Inode:
    inode = await attempt.handle(number)
    if changes.size is not None:
        inode = _changed_by(await _resize(attempt, inode, changes.size), privileged)
    inode = inode._replace(
        permissions=_chosen(changes.mode, inode.permissions) & PERMISSIONS,
        uid=_chosen(changes.uid, inode.uid),
        gid=_chosen(changes.gid, inode.gid),
        atime=_chosen(changes.atime_ns, inode.atime),
        mtime=_chosen(changes.mtime_ns, inode.mtime),
        ctime=_chosen(changes.ctime_ns, attempt.now),
    )
    attempt.change(inode)
    if not inode.is_directory:
        await attempt.commit()
        return inode
    # The cached times of a directory may be old; what is returned must not be.
    where = attempt.read_slot(inode.number, INODE_SIZE)
    before = Inode.decode(number, (await attempt.commit()).reads[where])
    return inode._replace(
        atime=_chosen(changes.atime_ns, before.atime),
        mtime=_chosen(changes.mtime_ns, before.mtime),
    )


async def _resize(attempt: Attempt, inode: Inode, size: int) -> Inode:
    if inode.is_directory:
        raise IsADirectory("a directory cannot be truncated")
    if inode.kind != stat.S_IFREG:
        raise InvalidArgument("only a regular file can be truncated")
    if size < inode.size:
        inode = await cut(attempt, inode, size)
    elif size > inode.size:
        inode = await put(attempt, inode, size, b"")
    return inode._replace(mtime=attempt.now)


def _changed_by(inode: Inode, privileged: Privileged) -> Inode:
    """The inode whose contents a program has changed: set-user-ID may no longer hold."""
    if not inode.permissions & SET_ID or privileged():
        return inode
    return inode._replace(permissions=without_set_id(inode.permissions))


def _chosen(wanted: int | None, present: int) -> int:
    return present if wanted is None else wanted


def _runs(pointers: list[int]) -> list[tuple[int, int]]:
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
    attempt: Attempt, inode: Inode, offset: int, data: bytes, spill: bytes
) -> Inode:
    """Put ``data`` in the file's blocks, and ``spill``, what was inline so far, at its start."""
    size = max(inode.size, offset + len(data))
    editor = BlockMapEditor(attempt, inode)
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
    await attempt.provide(Kind.BLOCK, node_of(inode.number), len(holes))
    for place in holes:
        pointers[place] = attempt.take(Kind.BLOCK)
    for place in holes:
        await editor.put(indexes[place], pointers[place])
        start = indexes[place] * BLOCK_SIZE
        _zero_around(attempt, pointers[place], start, offset=offset, data=data, size=size)
    editor.write()
    if spill:
        attempt.write_block(pointers[0], 0, spill)
    _write_runs(attempt, pointers[len(pointers) - count :], offset, data)
    return editor.inode._replace(size=size)


async def _zero_gap(attempt: Attempt, editor: BlockMapEditor, inode: Inode, offset: int) -> None:
    """Write zeros from the file's old end, as far as its last block goes or ``offset``."""
    last = inode.size // BLOCK_SIZE
    (pointer,) = await editor.get(last, 1)
    if pointer:
        end = min(offset, (last + 1) * BLOCK_SIZE)
        attempt.write_block(pointer, inode.size % BLOCK_SIZE, bytes(end - inode.size))


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
        attempt.write_block(block, 0, bytes(data_start - start))
    if data_end < end:
        attempt.write_block(block, data_end - start, bytes(end - data_end))


def _write_runs(attempt: Attempt, pointers: list[int], offset: int, data: bytes) -> None:
    begin = offset // BLOCK_SIZE * BLOCK_SIZE
    for at, count in _runs(pointers):
        start = max(offset, begin + at * BLOCK_SIZE)
        end = min(offset + len(data), begin + (at + count) * BLOCK_SIZE)
        piece = data[start - offset : end - offset]
        attempt.write_block(pointers[at], start % BLOCK_SIZE, piece)
