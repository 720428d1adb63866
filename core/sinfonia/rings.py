"""The layout of a ring of slots, which memory nodes append to and programs read.

::

    header, 32 bytes         slot_bytes u32 | slots u32 | tail u64 | trimmed u64 | reserved u64
    slot 0 .. slots - 1      generation u64 | length u32 | checksum u32 | payload | unused

Little-endian throughout.  Positions count from 0 and never come back: position ``k`` is in slot ``k
mod slots``, and its generation is ``k div slots + 1``, so that a reader that was overtaken finds
another generation, never another record that it takes for its own.  ``tail`` is the next position
to be written; positions below ``trimmed`` may be overwritten.  A ring is full when ``tail - trimmed
== slots``: nothing that has not been trimmed is ever lost.
"""

import struct
import zlib
from dataclasses import dataclass

_HEADER = struct.Struct("<IIQQQ")
_SLOT = struct.Struct("<QII")

HEADER_BYTES = _HEADER.size
SLOT_HEADER_BYTES = _SLOT.size

# Where in the header, for programs that compare or write these by themselves.
TAIL_OFFSET = 8
TRIMMED_OFFSET = 16


@dataclass(frozen=True, slots=True)
class RingHeader:
    """What a ring says of itself; ``slot_bytes`` includes the header of a slot."""

    slot_bytes: int
    slots: int
    tail: int = 0
    trimmed: int = 0

    @property
    def valid(self) -> bool:
        """Whether this can be a ring."""
        return (
            self.slots > 0
            and self.slot_bytes > SLOT_HEADER_BYTES
            and self.trimmed <= self.tail <= self.trimmed + self.slots
        )

    @property
    def full(self) -> bool:
        """Whether nothing can be appended before something is trimmed."""
        return self.tail - self.trimmed >= self.slots

    @property
    def byte_count(self) -> int:
        """Of the whole ring, header and all."""
        return HEADER_BYTES + self.slots * self.slot_bytes

    def place(self, position: int) -> int:
        """Where the slot of ``position`` begins, in bytes from the start of the ring."""
        return HEADER_BYTES + position % self.slots * self.slot_bytes

    def generation(self, position: int) -> int:
        """What the slot of ``position`` must say to hold it."""
        return position // self.slots + 1

    def appended(self) -> "RingHeader":
        """The header after one more record."""
        return RingHeader(self.slot_bytes, self.slots, self.tail + 1, self.trimmed)

    def encode(self) -> bytes:
        """The header's bytes."""
        return _HEADER.pack(self.slot_bytes, self.slots, self.tail, self.trimmed, 0)

    @classmethod
    def decode(cls, data: bytes) -> "RingHeader":
        """The inverse of ``encode``; of any HEADER_BYTES bytes."""
        slot_bytes, slots, tail, trimmed, _ = _HEADER.unpack(data)
        return cls(slot_bytes, slots, tail, trimmed)


def encode_slot(header: RingHeader, position: int, payload: bytes) -> bytes:
    """What the slot of ``position`` holds, as far as it is used."""
    generation = header.generation(position)
    return _SLOT.pack(generation, len(payload), zlib.crc32(payload, generation)) + payload


def decode_slot(header: RingHeader, position: int, slot: bytes) -> bytes | None:
    """The payload at ``position``; None if the slot holds another position, or nothing yet."""
    generation, length, checksum = _SLOT.unpack_from(slot)
    payload = slot[SLOT_HEADER_BYTES : SLOT_HEADER_BYTES + length]
    if generation != header.generation(position):
        return None
    return payload if zlib.crc32(payload, generation) == checksum else None
