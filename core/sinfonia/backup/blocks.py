"""A file of a backup is a row of blocks, each with its place and checksum, and an end.

So whatever happens to it, a flipped bit, a lost tail, two pieces exchanged, is noticed at the first
block that is not what was written, and nothing behind it is used.

::

    offset  bytes  field
         0      4  magic, naming the kind of file
         4      4  number of the block, from 0 on
         8      4  length of the payload; 0 in the last block of a file, and only there
        12      4  CRC-32 of bytes 0-11 and the payload
        16      n  payload, MessagePack

All integers are little-endian.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

from sinfonia.errors import BackupError, DamagedBackup

_HEAD = struct.Struct("<4sII")
_CRC = struct.Struct("<I")
_HEADER_BYTES = _HEAD.size + _CRC.size

# Larger than any block that is written: an image's state with all its lists.
_BLOCK_BYTES_MAX = 2**31


class WrittenFile(msgspec.Struct, frozen=True):
    """What the manifest says of a file; ``name`` is as seen from the backup."""

    name: str
    bytes: int
    sha256: str


class BlockWriter:
    """Writes one file, in the directory ``root`` of a backup; use it with ``with``."""

    def __init__(self, root: Path, name: str, magic: bytes) -> None:
        """Raises BackupError."""
        self._path = root / name
        self._name = name
        self._magic = magic
        self._number = 0
        self._bytes = 0
        self._digest = hashlib.sha256()
        try:
            self._stream = self._path.open("wb")
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def write(self, payload: bytes) -> None:
        """Append a block; ``payload`` is not empty.  Raises BackupError."""
        assert payload
        self._append(payload)

    def finish(self) -> WrittenFile:
        """Return when the whole file is on stable storage.  Raises BackupError."""
        self._append(b"")
        try:
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise cannot_write(self._path, error) from error
        return WrittenFile(self._name, self._bytes, self._digest.hexdigest())

    def _append(self, payload: bytes) -> None:
        head = _HEAD.pack(self._magic, self._number, len(payload))
        header = head + _CRC.pack(zlib.crc32(payload, zlib.crc32(head)))
        try:
            self._stream.write(header)
            self._stream.write(payload)
        except OSError as error:
            raise cannot_write(self._path, error) from error
        self._digest.update(header)
        self._digest.update(payload)
        self._number += 1
        self._bytes += len(header) + len(payload)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._stream.close()
        except OSError as error:
            # What could not be written before cannot be flushed now, and that was said already.
            if exc is None:
                raise cannot_write(self._path, error) from error


def read_blocks(root: Path, file: WrittenFile, magic: bytes, *, remedy: str) -> Iterator[bytes]:
    """The payloads of ``file``, which is compared with what the manifest says when all are read.

    Raises DamagedBackup, which ends with ``remedy``: what to do instead.
    """
    path = root / file.name
    digest = hashlib.sha256()
    place = 0
    try:
        found = path.stat().st_size
        if found != file.bytes:
            raise _damaged(path, f"it has {found} bytes and not {file.bytes}", remedy)
        with path.open("rb") as stream:
            number = 0
            while payload := _read_block(stream, magic, number, digest):
                yield payload
                place += _HEADER_BYTES + len(payload)
                number += 1
            if stream.read(1) or digest.hexdigest() != file.sha256:
                raise _damaged(path, "it is not the file that was written", remedy)
    except OSError as error:
        raise _damaged(path, f"it cannot be read: {error.strerror}", remedy) from error
    except _NotABlock as error:
        raise _damaged(path, f"the block at byte {place} {error}", remedy) from error


class _NotABlock(Exception):
    """Says what is wrong with it."""


def _read_block(stream: BinaryIO, magic: bytes, number: int, digest: "hashlib._Hash") -> bytes:
    header = stream.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES:
        raise _NotABlock("is cut off")
    head = header[: _HEAD.size]
    found_magic, found_number, length = _HEAD.unpack(head)
    if (found_magic, found_number) != (magic, number) or length > _BLOCK_BYTES_MAX:
        raise _NotABlock("is not the one that belongs there")
    payload = stream.read(length)
    (crc,) = _CRC.unpack_from(header, _HEAD.size)
    if len(payload) < length or crc != zlib.crc32(payload, zlib.crc32(head)):
        raise _NotABlock("fails its checksum")
    digest.update(header)
    digest.update(payload)
    return payload


def cannot_write(path: Path, error: OSError) -> BackupError:
    """The error of a backup that has no place."""
    return BackupError(
        f"cannot write {path}: {error.strerror}; nothing was backed up, and what was there before "
        "is as it was"
    )


def _damaged(path: Path, what: str, remedy: str) -> DamagedBackup:
    return DamagedBackup(f"{path} is damaged: {what}; {remedy}")
