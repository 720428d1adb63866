"""A block of the redo log is there as a whole or not at all.

What one sync makes stable is one block, in a segment file named by the LSN of its first byte::

    offset  bytes  field
         0      4  magic "SNRL"
         4      2  format version
         6      2  zero
         8      8  log id: the first 8 bytes of BLAKE2b of the memory node's identity
        16      8  LSN of the block: its position in the endless log
        24      4  length of the payload
        28      4  CRC-32 of bytes 0-27 and the payload
        32      n  payload: a MessagePack array of records
                   zeros up to the next multiple of 512 bytes

All integers are little-endian.  Blocks begin on sectors of their own, so that no sector that holds
an acknowledged record is ever written again.  Where the checksum is and what it covers never
changes between versions.

A block is believed only where its LSN says that it belongs.  So neither the remains of another log
nor a copy of this one, which a client may well have stored as data, is ever taken for a block.
"""

import hashlib
import struct
import zlib
from typing import NamedTuple, NewType

from sinfonia.errors import CorruptLog, StorageError
from sinfonia.storage.files import SECTOR_BYTES, File

Lsn = NewType("Lsn", int)

LOG_FORMAT_VERSION = 1

# A reader believes no length above this, and a writer splits what is larger.  The largest record is
# a minitransaction of 16 MiB of data in at most 4096 items; four of them still make one sync.
BLOCK_BYTES_MAX = 64 * 1024 * 1024

_MAGIC = b"SNRL"
_HEADER = struct.Struct("<4sHHQQI")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size

# How much of a damaged segment is searched at a time.
_SEARCH_BYTES = 1024 * 1024

_SEGMENT_PREFIX = "log."


class Block(NamedTuple):
    """A block that was read: it lies at [lsn, end) of the log."""

    lsn: Lsn
    end: Lsn
    payload: bytes


def log_id_of(identity: str) -> int:
    """What marks the blocks of the memory node with this identity."""
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), "little")


def segment_name(start: Lsn) -> str:
    """The name of the file whose first byte is ``start`` of the log."""
    return f"{_SEGMENT_PREFIX}{start:016x}"


def segment_start(name: str) -> Lsn | None:
    """The inverse of ``segment_name``; None if ``name`` is not a segment's."""
    digits = name.removeprefix(_SEGMENT_PREFIX)
    try:
        start = Lsn(int(digits, 16))
    except ValueError:
        return None
    return start if segment_name(start) == name else None


def seal_block(block: bytearray, *, log_id: int, lsn: Lsn) -> None:
    """Fill in the header before the payload of ``block``, and pad it to whole sectors."""
    length = len(block) - HEADER_BYTES
    _HEADER.pack_into(block, 0, _MAGIC, LOG_FORMAT_VERSION, 0, log_id, lsn, length)
    with memoryview(block) as view:
        crc = zlib.crc32(view[HEADER_BYTES:], zlib.crc32(view[: _HEADER.size]))
    _CRC.pack_into(block, _HEADER.size, crc)
    block.extend(bytes(-len(block) % SECTOR_BYTES))


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
    if (sealed.log_id, sealed.lsn) != (log_id, lsn):
        raise StorageError(
            f"{segment_name(start)} was written by another memory node or under another name; "
            "put this memory node's own log files back"
        )
    end = lsn + HEADER_BYTES + len(sealed.payload)
    return Block(lsn, Lsn(end + -end % SECTOR_BYTES), sealed.payload)


def refuse_corruption(file: File, *, start: Lsn, lsn: Lsn, log_id: int) -> None:
    """Tell a torn tail from corruption, where no whole block is at ``lsn``.

    A block is written only after the block before it was synced.  So if any later block is whole,
    the one at ``lsn`` was whole once, and what it held may have been acknowledged: raises
    CorruptLog.  If there is none, this is where the log was being written when it stopped.
    """
    for extent_start, extent_end in file.data_extents():
        first = max(extent_start - extent_start % SECTOR_BYTES, lsn - start + SECTOR_BYTES)
        for window in range(first, extent_end, _SEARCH_BYTES):
            data = file.read_at(window, _SEARCH_BYTES)
            found = data.find(_MAGIC)
            while found >= 0:
                offset = window + found
                sealed = None if found % SECTOR_BYTES else _read_sealed(file, offset)
                # Data of clients lies in here, too: a copy of a log is not this log.
                if sealed and (sealed.log_id, sealed.lsn) == (log_id, start + offset):
                    raise CorruptLog(
                        f"{segment_name(start)} is damaged at byte {lsn - start}, before an intact "
                        f"block at byte {offset}: acknowledged writes are lost; restore this "
                        "memory node from a backup or a replica, and check the disk"
                    )
                found = data.find(_MAGIC, found + 1)


class _Sealed(NamedTuple):
    version: int
    log_id: int
    lsn: int
    payload: bytes


def _read_sealed(file: File, offset: int) -> _Sealed | None:
    """What has a good checksum at ``offset``, whatever it is."""
    header = file.read_at(offset, HEADER_BYTES)
    if len(header) < HEADER_BYTES or not header.startswith(_MAGIC):
        return None
    _, version, _, log_id, lsn, length = _HEADER.unpack_from(header)
    (crc,) = _CRC.unpack_from(header, _HEADER.size)
    if length > BLOCK_BYTES_MAX:
        return None
    payload = file.read_at(offset + HEADER_BYTES, length)
    if len(payload) < length or crc != zlib.crc32(payload, zlib.crc32(header[: _HEADER.size])):
        return None
    return _Sealed(version, log_id, lsn, payload)
