"""What a file or a symbolic link holds is read, written and appended to.

Every read is validated by the inode's iversion in the minitransaction that fetches the bytes, and
every write changes it; so a read sees each write of any mount whole or not at all.
"""

import stat
from functools import partial
from typing import Final

from sinfoniafs.attributes import InodeNumber
from sinfoniafs.errors import InvalidArgument, IsADirectory
from sinfoniafs.format.inode import Inode
from sinfoniafs.format.layout import BLOCK_SIZE, whole_blocks
from sinfoniafs.privileges import Privileged, always
from sinfoniafs.volume.attempt import Attempt
from sinfoniafs.volume.file_blocks import put, runs_of
from sinfoniafs.volume.inode_attributes import changed_by
from sinfoniafs.volume.running import until_committed
from sinfoniafs.volume.volume import Volume

# How much one minitransaction reads or writes; its own limit is 16 MiB with all that goes along.
PIECE_MAX: Final = 8 * 1024 * 1024


async def read(volume: Volume, number: InodeNumber, offset: int, length: int) -> bytes:
    """Up to ``length`` bytes at ``offset``; fewer only at the end of the file."""
    if offset < 0 or length < 0:
        raise InvalidArgument("offset and length of a read cannot be negative")
    if length <= PIECE_MAX:
        return await until_committed(volume, lambda attempt: _read(attempt, number, offset, length))
    pieces: list[bytes] = []
    while length:
        wanted = min(length, PIECE_MAX)
        piece = await until_committed(
            volume, partial(_read, number=number, offset=offset, length=wanted)
        )
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
        if len(piece) < wanted:
            break
    return b"".join(pieces)


async def write(
    volume: Volume,
    number: InodeNumber,
    offset: int,
    data: bytes,
    *,
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
        await until_committed(volume, body, number)
    return len(data)


async def append(
    volume: Volume, number: InodeNumber, data: bytes, *, privileged: Privileged = always
) -> int:
    """Put ``data`` at the end of the file as it is then; returns the offset of ``data``."""
    if len(data) > PIECE_MAX:
        raise InvalidArgument(f"at most {PIECE_MAX} bytes can be appended at once")
    body = partial(_write, number=number, offset=None, data=data, privileged=privileged)
    return await until_committed(volume, body, number)


async def readlink(volume: Volume, number: InodeNumber) -> bytes:
    """The target of a symbolic link."""

    async def body(attempt: Attempt) -> bytes:
        inode = await attempt.inodes.get_alive(number)
        if inode.kind != stat.S_IFLNK:
            raise InvalidArgument("not a symbolic link")
        return await _fetch(attempt, inode, 0, inode.size)

    return await until_committed(volume, body)


async def fsync(volume: Volume, number: InodeNumber) -> None:
    """Wait until what was written is as safe as the memory nodes' mode makes it.

    It is already: a minitransaction's acknowledgement says so, and the mount holds nothing back.
    """
    volume.layout.inode_slot(number)


async def _read(attempt: Attempt, number: InodeNumber, offset: int, length: int) -> bytes:
    inode = await attempt.inodes.get_alive(number)
    if inode.is_directory:
        raise IsADirectory("a directory cannot be read like a file")
    return await _fetch(attempt, inode, offset, min(length, inode.size - offset))


async def _fetch(attempt: Attempt, inode: Inode, offset: int, length: int) -> bytes:
    if length <= 0 or inode.is_inline:
        await attempt.commit()
        return inode.area[offset : offset + length] if length > 0 else b""
    first = offset // BLOCK_SIZE
    count = whole_blocks(offset + length) - first
    pointers = await attempt.block_map(inode).get(first, count)
    pieces: list[int | bytes] = []  # the index of a read item, or the zeros of a hole
    for at, run in runs_of(pointers):
        start = max(offset, (first + at) * BLOCK_SIZE)
        end = min(offset + length, (first + at + run) * BLOCK_SIZE)
        if pointers[at]:
            pieces.append(attempt.items.read_block(pointers[at], start % BLOCK_SIZE, end - start))
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
    inode = await attempt.inodes.get_alive(number)
    if inode.is_directory:
        raise IsADirectory("a directory cannot be written like a file")
    if inode.kind != stat.S_IFREG:
        raise InvalidArgument("only a regular file can be written")
    if offset is None:
        offset = inode.size
    if data:
        inode = changed_by(await put(attempt, inode, offset, data), privileged)
        attempt.inodes.change(inode._replace(mtime=attempt.now, ctime=attempt.now))
    await attempt.commit()
    return offset
