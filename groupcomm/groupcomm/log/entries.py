"""An entry is the parts that one writer appended in one step; a part's place never changes.

::

    head, 40 bytes    format u8 | kind u8 | flags u16 | writer u32 | generation u64 | sequence u64
                      | stamp u64 | count u32 | checksum u32
    then              the body, or, if it is in the writer's area, start u64 | length u64
    body              lengths of the parts, u32 each, or one if all have it; then the parts

``kind`` belongs to the program that appends.  ``sequence`` is the number of the first part among
all that the claimant of ``writer`` with ``generation`` appended, so that (writer, generation,
sequence) names a part for ever.  ``stamp`` is the writer's wall clock, in microseconds since 1970.
The slot of an entry has a checksum (core's ring); ``checksum`` is that of a body in the area.
"""

import struct
import zlib
from collections.abc import Sequence
from itertools import accumulate, pairwise

import msgspec

from groupcomm.errors import DamagedEntry
from sinfonia import LimitExceeded

_HEAD = struct.Struct("<BBHIQQQII")
_REFERENCE = struct.Struct("<QQ")
_LENGTH = struct.Struct("<I")

FORMAT = 1
HEAD_BYTES = _HEAD.size
REFERENCE_BYTES = _REFERENCE.size
LENGTH_BYTES = _LENGTH.size

IN_AREA = 1
UNIFORM = 2

KIND_MAX = 255

# Parts of one entry: a reader takes an entry whole, so that this bounds how long it takes for one.
PARTS_MAX = 4096

# A part and its entry are held in memory whole by its writer and by each reader.
BODY_BYTES_MAX = 256 << 20


class Head(msgspec.Struct, frozen=True, gc=False):
    """The head of an entry, and where its body is: ``body``, or in the area at ``start``."""

    kind: int
    flags: int
    writer: int
    generation: int
    sequence: int
    stamp: int
    count: int
    checksum: int
    length: int
    start: int = 0
    body: bytes = b""

    @property
    def in_area(self) -> bool:
        """Whether the body is in the writer's area."""
        return bool(self.flags & IN_AREA)


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An entry that was read: its place, its writer and its parts."""

    position: int
    kind: int
    writer: int
    generation: int
    sequence: int
    stamp: int
    parts: Sequence[bytes]


def body_bytes(lengths: Sequence[int]) -> int:
    """The size of the body of parts of these lengths."""
    table = 1 if len(set(lengths)) == 1 else len(lengths)
    return table * LENGTH_BYTES + sum(lengths)


def encode_body(parts: Sequence[bytes]) -> tuple[int, bytes]:
    """The flags and the bytes of a body.  Raises LimitExceeded."""
    if not 0 < len(parts) <= PARTS_MAX:
        raise LimitExceeded(f"an entry has 1 to {PARTS_MAX} parts, not {len(parts)}")
    lengths = [len(part) for part in parts]
    if body_bytes(lengths) > BODY_BYTES_MAX:
        raise LimitExceeded(f"an entry has at most {BODY_BYTES_MAX} bytes")
    if len(set(lengths)) == 1:
        return UNIFORM, b"".join((_LENGTH.pack(lengths[0]), *parts))
    return 0, b"".join((struct.pack(f"<{len(lengths)}I", *lengths), *parts))


def decode_body(head: Head, body: bytes) -> list[bytes]:
    """The parts.  Raises DamagedEntry unless ``body`` is one of ``head.count`` parts."""
    count = head.count
    uniform = bool(head.flags & UNIFORM)
    table = LENGTH_BYTES if uniform else LENGTH_BYTES * count
    if not 0 < count <= PARTS_MAX or len(body) < table:
        raise DamagedEntry(f"an entry of {count} parts whose body has {len(body)} bytes")
    if uniform:
        [length] = _LENGTH.unpack_from(body)
        if table + length * count != len(body):
            raise DamagedEntry(f"{count} parts of {length} bytes in a body of {len(body)}")
        if length == 0:
            return [b""] * count
        return [body[at : at + length] for at in range(table, len(body), length)]
    bounds = list(accumulate(struct.unpack_from(f"<{count}I", body), initial=table))
    if bounds[-1] != len(body):
        raise DamagedEntry(f"parts of {bounds[-1]} bytes in a body of {len(body)}")
    return [body[low:high] for low, high in pairwise(bounds)]


def encode_head(head: Head) -> bytes:
    """The record of the ring: the head, and the body or the reference to it."""
    fixed = _HEAD.pack(
        FORMAT,
        head.kind,
        head.flags,
        head.writer,
        head.generation,
        head.sequence,
        head.stamp,
        head.count,
        head.checksum,
    )
    return fixed + (_REFERENCE.pack(head.start, head.length) if head.in_area else head.body)


def decode_head(record: bytes) -> Head:
    """The inverse of ``encode_head``.  Raises DamagedEntry."""
    if len(record) < HEAD_BYTES:
        raise DamagedEntry(f"a record of {len(record)} bytes is no entry")
    form, kind, flags, writer, generation, sequence, stamp, count, checksum = _HEAD.unpack_from(
        record
    )
    if form != FORMAT:
        raise DamagedEntry(f"an entry of format {form}; this program knows {FORMAT}")
    length, start, body = len(record) - HEAD_BYTES, 0, record[HEAD_BYTES:]
    if flags & IN_AREA:
        if length != REFERENCE_BYTES:
            raise DamagedEntry("an entry with a damaged reference to its body")
        start, length = _REFERENCE.unpack(body)
        if length > BODY_BYTES_MAX:
            raise DamagedEntry(f"an entry of {length} bytes; one has at most {BODY_BYTES_MAX}")
        body = b""
    return Head(
        kind, flags, writer, generation, sequence, stamp, count, checksum, length, start, body
    )


def make_entry(position: int, head: Head, body: bytes) -> Entry:
    """The entry at ``position``.  Raises DamagedEntry if the body is not what was appended."""
    if head.in_area and (len(body) != head.length or zlib.crc32(body) != head.checksum):
        raise DamagedEntry(f"the body of entry {position} fails its checksum")
    return Entry(
        position,
        head.kind,
        head.writer,
        head.generation,
        head.sequence,
        head.stamp,
        decode_body(head, body),
    )
