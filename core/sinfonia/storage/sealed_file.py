"""A small file that is replaced whole: a reader finds the old one or the new one, never a mixture.

::

    offset  bytes  field
         0      4  magic, naming the kind of file
         4      2  format version
         6      2  zero
         8      8  length of the payload
        16      4  CRC-32 of bytes 0-15 and the payload
        20      n  payload, MessagePack

All integers are little-endian.  The new file is written and synced under another name first, then
renamed, then the directory is synced: only then is it there to stay.
"""

import struct
import zlib

from sinfonia.errors import DamagedData, StorageError
from sinfonia.storage.files import Files

_HEADER = struct.Struct("<4sHHQ")
_CRC = struct.Struct("<I")
_HEADER_BYTES = _HEADER.size + _CRC.size

# The name under which a file is prepared; one left by a crash means nothing.
NEW_SUFFIX = ".new"


def write_sealed(files: Files, name: str, *, magic: bytes, version: int, payload: bytes) -> None:
    """Replace file ``name`` atomically; it is on stable storage on return."""
    header = _HEADER.pack(magic, version, 0, len(payload))
    crc = zlib.crc32(payload, zlib.crc32(header))
    file = files.open(name + NEW_SUFFIX, create=True)
    try:
        file.truncate(0)
        file.write_at(0, header + _CRC.pack(crc) + payload)
        file.sync()
    finally:
        file.close()
    files.rename(name + NEW_SUFFIX, name)
    files.sync_directory()


def read_sealed(files: Files, name: str, *, magic: bytes, version: int) -> bytes | None:
    """The payload of file ``name``, or None if there is no such file.

    Raises DamagedData if it is damaged or another kind of file, StorageError if its version is
    another one.
    """
    if not files.exists(name):
        return None
    file = files.open(name)
    try:
        data = file.read_at(0, file.size())
    finally:
        file.close()
    header, payload = data[: _HEADER.size], data[_HEADER_BYTES:]
    if len(data) < _HEADER_BYTES or not header.startswith(magic):
        raise DamagedData(f"file {name} is damaged or not a file of a memory node; restore it")
    _, found_version, _, length = _HEADER.unpack(header)
    (crc,) = _CRC.unpack_from(data, _HEADER.size)
    if length != len(payload) or crc != zlib.crc32(payload, zlib.crc32(header)):
        raise DamagedData(
            f"file {name} fails its checksum; restore the data directory from a backup, "
            "or re-create this memory node"
        )
    if found_version != version:
        raise StorageError(
            f"file {name} has format version {found_version}, this program reads {version}; "
            "use the version of the program that wrote it"
        )
    return payload
