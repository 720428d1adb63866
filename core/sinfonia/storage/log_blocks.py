"""A block of the redo log is there as a whole or not at all.

What one sync makes stable is one block, in a segment file named by the LSN of its first byte::

    offset  bytes  field
         0      4  magic "SNRL"
         4      2  format version
         6      2  zero
         8      8  log id: the first 8 bytes of BLAKE2b of the memory node's identity
        16      8  LSN of the block: its position in the endless log
        24      4  length of what follows from byte 32 on
        28      4  CRC-32 of bytes 0-27 and of what follows from byte 32 on
        32      8  number of the first record
        40      8  incarnation: the life in which all its records were written
        48      5  MessagePack's header of an array: 0xdd, number of records (4 bytes, big-endian)
        53      n  the records, each in MessagePack
                   zeros up to the next multiple of 512 bytes

All other integers are little-endian.  Blocks begin on sectors of their own, so that no sector that
holds an acknowledged record is ever written again.  Where the checksum is and what it covers never
changes between versions.

A block is believed only where its LSN says that it belongs.  So neither the remains of another log
nor a copy of this one, which a client may well have stored as data, is ever taken for a block.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple, NewType

from sinfonia.errors import CorruptLog, StorageError
from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.records import ARRAY_HEADER_BYTES, Batch, array_header
from sinfonia.storage.files import LOG_PREFIX, SECTOR_BYTES, File

Lsn = NewType("Lsn", int)

LOG_FORMAT_VERSION = 2

# A reader believes no length above this, and a writer splits what is larger.  The largest record is
# a minitransaction of 16 MiB of data in at most 4096 items; four of them still make one sync.
BLOCK_BYTES_MAX = 64 * 1024 * 1024

_MAGIC = b"SNRL"
_HEADER = struct.Struct("<4sHHQQI")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
_NUMBERS = struct.Struct("<QQ")
_COUNT = struct.Struct(">xI")
_CONTENT_HEADER_BYTES = _NUMBERS.size + ARRAY_HEADER_BYTES

# What a block may hold of records.
BODY_BYTES_MAX = BLOCK_BYTES_MAX - HEADER_BYTES - _CONTENT_HEADER_BYTES

# How much of a damaged segment is searched at a time.
_SEARCH_BYTES = 1024 * 1024


class Block(NamedTuple):
    """A block that was read: it lies at [lsn, end) of the log."""

    lsn: Lsn
    end: Lsn
    incarnation: int
    batch: Batch


class Heading(NamedTuple):
    """What is in a block, by its header; its checksum was not verified."""

    first: Seq
    last: Seq
    end: Lsn


def log_id_of(identity: str) -> int:
    """What marks the blocks of the memory node with this identity."""
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), "little")


def segment_name(start: Lsn) -> str:
    """The name of the file whose first byte is ``start`` of the log."""
    return f"{LOG_PREFIX}{start:016x}"


def segment_start(name: str) -> Lsn | None:
    """The inverse of ``segment_name``; None if ``name`` is not a segment's."""
    digits = name.removeprefix(LOG_PREFIX)
    try:
        start = Lsn(int(digits, 16))
    except ValueError:
        return None
    return start if segment_name(start) == name else None


def encode_block(batch: Batch, *, log_id: int, lsn: Lsn, incarnation: int) -> bytes:
    """The block that holds ``batch``, padded to whole sectors."""
    numbers = _NUMBERS.pack(batch.first, incarnation) + array_header(batch.count)
    length = len(numbers) + len(batch.body)
    header = _HEADER.pack(_MAGIC, LOG_FORMAT_VERSION, 0, log_id, lsn, length)
    crc = zlib.crc32(batch.body, zlib.crc32(numbers, zlib.crc32(header)))
    padding = bytes(-(HEADER_BYTES + length) % SECTOR_BYTES)
    return b"".join((header, _CRC.pack(crc), numbers, batch.body, padding))


def read_block(file: File, *, start: Lsn, lsn: Lsn, log_id: int) -> Block | None:
    """The block at ``lsn`` of the segment that begins at ``start``, or None if none is whole there.

    Raises StorageError for a whole block of another memory node, place or format version: since
    blocks lie end to end, nothing but this log's own block can have been written there.
    """
    sealed = _read_sealed(file, lsn - start)
    if sealed is None:
        return None
    if sealed.version != LOG_FORMAT_VERSION:
        raise StorageError(
            f"{segment_name(start)} has format version {sealed.version}, this program reads "
            f"{LOG_FORMAT_VERSION}; use the version of the program that wrote it"
        )
    if sealed.log_id == log_id and sealed.lsn != lsn:
        raise CorruptLog(
            f"{segment_name(start)} holds at byte {lsn - start} the block of LSN {sealed.lsn}: "
            "the file is under another name, or a write went to the wrong place; put the files "
            "back, or restore this memory node from a backup or a replica"
        )
    if sealed.log_id != log_id:
        raise StorageError(
            f"{segment_name(start)} was written by another memory node or under another name; "
            "put this memory node's own log files back"
        )
    first, incarnation = _NUMBERS.unpack_from(sealed.content)
    (count,) = _COUNT.unpack_from(sealed.content, _NUMBERS.size)
    batch = Batch(first, count, sealed.content[_CONTENT_HEADER_BYTES:])
    return Block(lsn, _end_of_block(lsn, len(sealed.content)), incarnation, batch)


def read_heading(file: File, *, start: Lsn, lsn: Lsn, log_id: int) -> Heading | None:
    """The header of the block at ``lsn``, which was whole once, or None if it is not there."""
    header = file.read_at(lsn - start, HEADER_BYTES + _CONTENT_HEADER_BYTES)
    if len(header) < HEADER_BYTES + _CONTENT_HEADER_BYTES:
        return None
    magic, version, _, found_log_id, found_lsn, length = _HEADER.unpack_from(header)
    expected = (_MAGIC, LOG_FORMAT_VERSION, log_id, lsn)
    if (magic, version, found_log_id, found_lsn) != expected:
        return None
    first, _ = _NUMBERS.unpack_from(header, HEADER_BYTES)
    (count,) = _COUNT.unpack_from(header, HEADER_BYTES + _NUMBERS.size)
    return Heading(first, first + count - 1, _end_of_block(lsn, length))


class BlockCheck(NamedTuple):
    """How far a block was checked: ``whole`` if its checksum is right, and then where it ends."""

    read: int
    whole: bool = False
    end: Lsn = Lsn(0)


def check_block(
    file: File, start: Lsn, lsn: Lsn, log_id: int, bytes_max: int
) -> Iterator[BlockCheck]:
    """Check the block at ``lsn`` in steps of ``bytes_max``; the last says whether it is whole."""
    offset = lsn - start
    header = file.read_at(offset, HEADER_BYTES)
    if len(header) < HEADER_BYTES or not _is_header(file, offset, start, log_id):
        yield BlockCheck(HEADER_BYTES)
        return
    *_, length = _HEADER.unpack_from(header)
    (expected,) = _CRC.unpack_from(header, _HEADER.size)
    crc, done = zlib.crc32(header[: _HEADER.size]), 0
    while done < length:
        data = file.read_at(offset + HEADER_BYTES + done, min(bytes_max, length - done))
        if not data:
            break
        crc = zlib.crc32(data, crc)
        done += len(data)
        whole = done == length and crc == expected
        yield BlockCheck(len(data), whole, _end_of_block(lsn, length))


def refuse_corruption(file: File, *, start: Lsn, lsn: Lsn, log_id: int) -> None:
    """Tell a torn tail from corruption, where no whole block is at ``lsn``.

    A block is written only after the block before it was synced.  So if a later block was begun,
    the one at ``lsn`` was whole once, and what it held may have been acknowledged: raises
    CorruptLog.  A later header shows that, be its block whole or not.  If there is none, this is
    where the log was being written when it stopped, as far as the log can tell.
    """
    for extent_start, extent_end in file.data_extents():
        first = max(extent_start - extent_start % SECTOR_BYTES, lsn - start + SECTOR_BYTES)
        for window in range(first, extent_end, _SEARCH_BYTES):
            data = file.read_at(window, _SEARCH_BYTES)
            found = data.find(_MAGIC)
            while found >= 0:
                offset = window + found
                # Data of clients lies in here, too: a copy of a log is not this log.
                if found % SECTOR_BYTES == 0 and _is_header(file, offset, start, log_id):
                    raise CorruptLog(
                        f"{segment_name(start)} is damaged at byte {lsn - start}, before a later "
                        f"block at byte {offset}: acknowledged writes are lost; restore this "
                        "memory node from a backup or a replica, and check the disk"
                    )
                found = data.find(_MAGIC, found + 1)


def _end_of_block(lsn: Lsn, length: int) -> Lsn:
    end = lsn + HEADER_BYTES + length
    return Lsn(end + -end % SECTOR_BYTES)


def _is_header(file: File, offset: int, start: Lsn, log_id: int) -> bool:
    """Whether this log's own block was begun at ``offset``, whatever became of it."""
    header = file.read_at(offset, HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return False
    magic, _, _, found_log_id, found_lsn, length = _HEADER.unpack_from(header)
    return (magic, found_log_id, found_lsn) == (
        _MAGIC,
        log_id,
        start + offset,
    ) and _CONTENT_HEADER_BYTES < length <= BLOCK_BYTES_MAX


class _Sealed(NamedTuple):
    version: int
    log_id: int
    lsn: int
    content: bytes


def _read_sealed(file: File, offset: int) -> _Sealed | None:
    """What has a good checksum at ``offset``, whatever it is."""
    header = file.read_at(offset, HEADER_BYTES)
    if len(header) < HEADER_BYTES or not header.startswith(_MAGIC):
        return None
    _, version, _, log_id, lsn, length = _HEADER.unpack_from(header)
    (crc,) = _CRC.unpack_from(header, _HEADER.size)
    if length > BLOCK_BYTES_MAX:
        return None
    content = file.read_at(offset + HEADER_BYTES, length)
    if len(content) < length or crc != zlib.crc32(content, zlib.crc32(header[: _HEADER.size])):
        return None
    return _Sealed(version, log_id, lsn, content)
