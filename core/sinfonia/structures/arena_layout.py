"""The layout of an arena: what is allocated, and what is allocated and not linked yet.

::

    header    64 bytes                what the arena is, written once
    lease     64 bytes                whose arena it is (lease.py)
    intents   64 bytes each           allocations that are linked from nowhere
    bitmap    8 bytes for 64 blocks   bit i % 64 of word i // 64: block i is allocated

Little-endian throughout.  The blocks themselves lie elsewhere on the same memory node.  Bits beyond
the last block are set, so that no client takes them for free ones.
"""

import struct
from dataclasses import dataclass
from typing import Self

from sinfonia.structures.errors import NotFormatted
from sinfonia.structures.lease_layout import LEASE_BYTES, LeaseState

_HEADER = struct.Struct("<4sHHIIQQ32x")
_INTENT = struct.Struct("<QQQQQ24x")

HEADER_BYTES = _HEADER.size
INTENT_BYTES = _INTENT.size
WORD_BYTES = 8
WORD_BITS = 64

MAGIC = b"SARN"
VERSION = 1

# A look reads the whole bitmap, 128 KiB of it; more space is more arenas.
BLOCKS_MAX = 1 << 20
BLOCK_BYTES_MAX = 1 << 30
INTENTS_MAX = 1024


@dataclass(frozen=True, slots=True)
class Run:
    """``blocks`` blocks of an arena in a row, from number ``first``."""

    first: int
    blocks: int

    @property
    def bits(self) -> int:
        """A bit for each, as in the bitmap."""
        return (1 << self.blocks) - 1 << self.first

    def words(self) -> list[tuple[int, int]]:
        """The words of the bitmap that it touches: number of the word, mask in it."""
        end = self.first + self.blocks
        found = []
        for word in range(self.first // WORD_BITS, -(-end // WORD_BITS)):
            start = max(self.first - word * WORD_BITS, 0)
            stop = min(end - word * WORD_BITS, WORD_BITS)
            found.append((word, (1 << stop) - (1 << start)))
        return found


@dataclass(frozen=True, slots=True)
class Intent:
    """Blocks that were allocated under a ``fence`` of the arena's lease, for ``attempt``.

    It stands in a ``slot``, whose ``serial`` counts what has stood there.
    """

    slot: int
    serial: int
    fence: int = 0
    attempt: int = 0
    run: Run = Run(0, 0)

    @property
    def is_free(self) -> bool:
        """Whether no blocks are meant: the slot can be used."""
        return self.run.blocks == 0

    def cleared(self) -> "Intent":
        """The slot when this is over."""
        return Intent(self.slot, self.serial)

    def encode(self) -> bytes:
        """The bytes of the slot."""
        run = self.run
        return _INTENT.pack(self.serial, self.fence, self.attempt, run.first, run.blocks)

    @classmethod
    def decode(cls, slot: int, data: bytes) -> Self:
        """The inverse of ``encode``."""
        serial, fence, attempt, first, blocks = _INTENT.unpack(data)
        return cls(slot, serial, fence, attempt, Run(first, blocks))


@dataclass(frozen=True, slots=True)
class ArenaHeader:
    """What an arena is: ``blocks`` of ``block_bytes`` from address ``data``."""

    blocks: int
    block_bytes: int
    data: int
    intents: int

    @property
    def valid(self) -> bool:
        """Whether an arena can be so."""
        return (
            0 < self.blocks <= BLOCKS_MAX
            and 0 < self.block_bytes <= BLOCK_BYTES_MAX
            and 0 < self.intents <= INTENTS_MAX
        )

    @property
    def intents_offset(self) -> int:
        """Where the intents begin, from the start of the arena."""
        return HEADER_BYTES + LEASE_BYTES

    @property
    def bitmap_offset(self) -> int:
        """Where the bitmap begins, from the start of the arena."""
        return self.intents_offset + self.intents * INTENT_BYTES

    @property
    def bitmap_bytes(self) -> int:
        """Of the bitmap."""
        return -(-self.blocks // WORD_BITS) * WORD_BYTES

    @property
    def byte_count(self) -> int:
        """Of the arena without its blocks."""
        return self.bitmap_offset + self.bitmap_bytes

    def empty_bitmap(self) -> bytes:
        """With nothing allocated."""
        beyond = Run(self.blocks, self.bitmap_bytes * 8 - self.blocks)
        return beyond.bits.to_bytes(self.bitmap_bytes, "little")

    def encode(self) -> bytes:
        """The bytes of the header."""
        return _HEADER.pack(
            MAGIC, VERSION, 0, self.block_bytes, self.intents, self.blocks, self.data
        )

    @classmethod
    def decode(cls, data: bytes) -> Self | None:
        """The inverse of ``encode``; None if it is no arena's header."""
        magic, version, _, block_bytes, intents, blocks, start = _HEADER.unpack(data)
        header = cls(blocks, block_bytes, start, intents)
        return header if (magic, version) == (MAGIC, VERSION) and header.valid else None


@dataclass(frozen=True, slots=True)
class ArenaView:
    """An arena at one moment: its lease, its intents, and ``used``, the bitmap as an integer."""

    header: ArenaHeader
    lease: LeaseState
    intents: tuple[Intent, ...]
    used: int

    @classmethod
    def decode(cls, header: ArenaHeader, data: bytes) -> Self:
        """Of the bytes from the lease to the end of the bitmap.  Raises NotFormatted."""
        start, end = header.intents_offset, header.bitmap_offset
        base = HEADER_BYTES
        intents = tuple(
            Intent.decode(slot, data[place - base : place - base + INTENT_BYTES])
            for slot, place in enumerate(range(start, end, INTENT_BYTES))
        )
        # A number that makes no sense must not become one of so many bits.
        if any(intent.run.first + intent.run.blocks > header.blocks for intent in intents):
            raise NotFormatted("an intent of an arena is for blocks that it does not have")
        used = int.from_bytes(data[end - base :], "little")
        return cls(header, LeaseState.decode(data[:LEASE_BYTES]), intents, used)

    @property
    def free_blocks(self) -> int:
        """How many blocks are not allocated."""
        return self.header.bitmap_bytes * 8 - self.used.bit_count()

    def outstanding(self) -> list[Intent]:
        """Allocations that are linked from nowhere."""
        return [intent for intent in self.intents if not intent.is_free]

    def dead(self) -> list[Intent]:
        """Those of owners whose time is over."""
        fence = None if self.lease.is_free else self.lease.fence
        return [intent for intent in self.outstanding() if intent.fence != fence]

    def find(self, blocks: int, *, start: int = 0) -> Run | None:
        """The first run of so many free blocks from block ``start`` on, or else from the first."""
        return find_run(self.used, self.header.bitmap_bytes * 8, blocks, start)

    def swept(self) -> "ArenaView":
        """As it would be if all that is linked from nowhere were returned."""
        used = self.used
        for intent in self.outstanding():
            used &= ~intent.run.bits
        return ArenaView(self.header, self.lease, (), used)


def find_run(used: int, bits: int, blocks: int, start: int) -> Run | None:
    """The first ``blocks`` zeros in a row among ``bits`` bits, from ``start`` on or else at all."""
    # A bit stays if it and so many after it are free; the number doubles from step to step.
    room = ~used & ((1 << bits) - 1)
    length = 1
    while length < blocks and room:
        step = min(length, blocks - length)
        room &= room >> step
        length += step
    room = (room >> start << start) or room
    if not room:
        return None
    return Run((room & -room).bit_length() - 1, blocks)
