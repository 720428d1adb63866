"""Where everything of a log is, byte by byte.

A log lies on one memory node, so that whatever is done to it is one minitransaction in one phase.
From its address on::

    header, 64 bytes         magic "SGCLOG01" | slot_bytes u32 | slots u32 | writers u32 | 0 u32
                             | area_bytes u64 | checksum u32 | 0 u32 | claims u64 | zeros
    ring                     core's ring (STRUCTURES.md) of ``slots`` slots of ``slot_bytes``
    zeros                    up to a multiple of 64
    writer records           ``writers`` times 64 bytes
    areas                    ``writers`` times ``area_bytes``

    writer record            generation u64 | turn u64 | sequence u64 | head u64 | cursor u64
                             | owner, 16 bytes | zeros

Little-endian throughout.  The header is written once; only ``claims`` changes.  Memory that is zero
is an unclaimed writer record, and an area of which nothing was used.

An entry is a record of the ring.  Its body is in the slot if it fits, and else in the area of its
writer, a ring of bytes: byte ``k`` of all that was ever put there is at ``k mod area_bytes``.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Self

from groupcomm.errors import NotALog
from sinfonia import LimitExceeded
from sinfonia.rings import HEADER_BYTES as RING_HEADER_BYTES
from sinfonia.structures import Ring

_MAGIC = b"SGCLOG01"
_SHAPE = struct.Struct("<8sIIIIQ")
_CHECKSUM = struct.Struct("<I")
_RECORD = struct.Struct("<QQQQQ16s8x")

LOG_HEADER_BYTES = 64
SHAPE_BYTES = _SHAPE.size + _CHECKSUM.size
CLAIMS_OFFSET = 40
RECORD_BYTES = _RECORD.size
OWNER_BYTES = 16
WORD_BYTES = 8

# A trim reads all writer records at once: 64 KiB.
WRITERS_MAX = 1024

# Readers read several slots at a time, and whole, so that large slots make them slow; a body
# that does not fit costs a reader one more round trip instead.
SLOT_BYTES_MAX = 1 << 20

# Of the memory node's address space; it bounds what one log can take, not what it uses.
AREA_BYTES_MAX = 1 << 40

# A writer that does not read holds nothing up.
CURSOR_NONE = 2**64 - 1

# The smallest slot has room for the head of an entry (entries.py) and a reference or a short body.
SLOT_BYTES_MIN = 128


def _aligned(offset: int) -> int:
    return -(-offset // RECORD_BYTES) * RECORD_BYTES


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a log.

    ``slots`` entries are retained at most, of ``slot_bytes`` bytes each in the ring; ``writers``
    programs may have a claim at a time, each with ``area_bytes`` for larger bodies.
    """

    slots: int
    slot_bytes: int
    writers: int
    area_bytes: int

    def __post_init__(self) -> None:
        """Raises LimitExceeded."""
        if not SLOT_BYTES_MIN <= self.slot_bytes <= SLOT_BYTES_MAX:
            raise LimitExceeded(
                f"a slot has {SLOT_BYTES_MIN} to {SLOT_BYTES_MAX} bytes, not {self.slot_bytes}"
            )
        if not 0 < self.slots < 2**32:
            raise LimitExceeded(f"a log has 1 to {2**32 - 1} slots, not {self.slots}")
        if not 0 < self.writers <= WRITERS_MAX:
            raise LimitExceeded(f"a log has 1 to {WRITERS_MAX} writer records, not {self.writers}")
        if not 0 <= self.area_bytes <= AREA_BYTES_MAX:
            raise LimitExceeded(f"an area has at most {AREA_BYTES_MAX} bytes")

    @property
    def ring_bytes(self) -> int:
        """Of the ring, header and slots."""
        return RING_HEADER_BYTES + self.slots * self.slot_bytes

    @property
    def records_offset(self) -> int:
        """Of the first writer record, from the address of the log on."""
        return _aligned(LOG_HEADER_BYTES + self.ring_bytes)

    @property
    def areas_offset(self) -> int:
        """Of the first area, from the address of the log on."""
        return self.records_offset + self.writers * RECORD_BYTES

    @property
    def byte_count(self) -> int:
        """Of the whole log."""
        return self.areas_offset + self.writers * self.area_bytes

    def encode(self) -> bytes:
        """The part of the header that never changes."""
        shape = _SHAPE.pack(_MAGIC, self.slot_bytes, self.slots, self.writers, 0, self.area_bytes)
        return shape + _CHECKSUM.pack(zlib.crc32(shape))

    @classmethod
    def decode(cls, header: bytes) -> Self:
        """The inverse of ``encode``; of at least SHAPE_BYTES bytes.  Raises NotALog."""
        magic, slot_bytes, slots, writers, _, area_bytes = _SHAPE.unpack_from(header)
        [checksum] = _CHECKSUM.unpack_from(header, _SHAPE.size)
        if magic != _MAGIC or checksum != zlib.crc32(header[: _SHAPE.size]):
            raise NotALog("no log begins there")
        try:
            return cls(slots, slot_bytes, writers, area_bytes)
        except LimitExceeded as error:
            raise NotALog(f"no log of sensible sizes begins there: {error}") from error


@dataclass(frozen=True, slots=True)
class Log:
    """A log of ``shape`` at ``address`` of ``node``; an address, never a connection."""

    node: int
    address: int
    shape: Shape

    @property
    def ring(self) -> Ring:
        """The ring of its entries."""
        shape = self.shape
        return Ring(self.node, self.address + LOG_HEADER_BYTES, shape.slots, shape.slot_bytes)

    @property
    def claims_address(self) -> int:
        """Of the counter of claims."""
        return self.address + CLAIMS_OFFSET

    @property
    def records_address(self) -> int:
        """Of the first writer record."""
        return self.address + self.shape.records_offset

    def record_address(self, writer: int) -> int:
        """Of one writer record."""
        return self.records_address + writer * RECORD_BYTES

    def area_pieces(self, writer: int, start: int, length: int) -> list[tuple[int, int]]:
        """Where bytes [start, start + length) of the area of ``writer`` are: (address, length)."""
        size = self.shape.area_bytes
        area = self.address + self.shape.areas_offset + writer * size
        pieces = []
        while length > 0:
            place = start % size
            piece = min(length, size - place)
            pieces.append((area + place, piece))
            start += piece
            length -= piece
        return pieces


@dataclass(frozen=True, slots=True)
class WriterRecord:
    """What a log knows of one of its writers.

    generation: odd while it is claimed; it grows with each claim and each release.  turn: how many
    minitransactions the claimants have committed through it.  sequence: parts that the claimant has
    appended.  head: bytes that were ever put into its area.  cursor: the entries below it the
    claimant has received, and may be trimmed as far as it is concerned.  owner: the claimant.
    """

    generation: int = 0
    turn: int = 0
    sequence: int = 0
    head: int = 0
    cursor: int = 0
    owner: bytes = bytes(OWNER_BYTES)

    @property
    def claimed(self) -> bool:
        """Whether there is a claimant."""
        return self.generation % 2 == 1

    def encode(self) -> bytes:
        """The RECORD_BYTES bytes of it."""
        return _RECORD.pack(
            self.generation, self.turn, self.sequence, self.head, self.cursor, self.owner
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``; any RECORD_BYTES bytes are a writer record."""
        return cls(*_RECORD.unpack(data))


def decode_records(data: bytes) -> list[WriterRecord]:
    """Writer records that stand side by side."""
    return [WriterRecord(*fields) for fields in _RECORD.iter_unpack(data)]
