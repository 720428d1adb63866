"""An inode is one slot of 512 bytes; its first eight bytes, the iversion, vouch for the rest.

The *iversion* changes in every minitransaction that changes the slot, so that a cached inode is
validated by comparing eight bytes (Figure 7 of the paper).  Two parts change without it: the mtime
and ctime of a *directory*, which every new entry sets and no operation relies on, and the
*openers*, one bit for each session that may have the inode open, which only the operations that
rely on them compare.

The last 256 bytes are the *area*: the contents of a small file or symbolic link, or the 32 topmost
pointers of a block map.
"""

import stat
import struct
from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple

from sinfoniafs.attributes import Attributes, InodeNumber
from sinfoniafs.format.layout import BLOCK_SIZE

_FIELDS: Final = struct.Struct("<QIIQIIIIIIQQQQ")
_HEADER: Final = struct.Struct("<QIIQIIIIIIQQQQqqqq")

IVERSION: Final = struct.Struct("<Q")
NLINK: Final = struct.Struct("<I")
NLINK_OFFSET: Final = 36
TIMES_OFFSET: Final = _FIELDS.size
TIME_SIZE: Final = 8
MTIME_OFFSET: Final = TIMES_OFFSET + TIME_SIZE
CTIME_OFFSET: Final = TIMES_OFFSET + 2 * TIME_SIZE
HEADER_SIZE: Final = _HEADER.size
OPENERS_OFFSET: Final = 160
OPENERS_SIZE: Final = 32
AREA_OFFSET: Final = 256
AREA_SIZE: Final = 256
POINTERS: Final = AREA_SIZE // 8

# Flags.
INLINE: Final = 1  # the contents are in the area, and ``size`` is their length

LINKS_MAX: Final = 2**31  # programs keep a link count in 32 bits
GENERATION_MAX: Final = 2**32 - 1
SIZE_MAX: Final = 2**63 - 1  # off_t

_SECTORS_PER_BLOCK: Final = BLOCK_SIZE // 512
INODE_AREA_EMPTY: Final = bytes(AREA_SIZE)


Fields = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int]
Times = tuple[int, int, int, int]


class Inode(NamedTuple):
    """A slot's contents, and the number it has.  ``kind`` is the S_IFMT part of st_mode; 0: free.

    ``root`` and ``height`` are those of a directory's tree; a file's block map has only a height.
    ``parent`` is the directory that holds a directory.  ``blocks`` counts blocks of the volume.
    """

    number: InodeNumber
    iversion: int
    generation: int
    kind: int
    root: int
    height: int
    flags: int
    permissions: int
    nlink: int
    uid: int
    gid: int
    size: int
    blocks: int
    rdev: int
    parent: int
    atime: int
    mtime: int
    ctime: int
    btime: int
    openers: int = 0
    area: bytes = INODE_AREA_EMPTY

    @classmethod
    def new(
        cls,
        number: InodeNumber,
        *,
        iversion: int,
        generation: int,
        mode: int,
        uid: int,
        gid: int,
        now: int,
    ) -> "Inode":
        """An inode with one name and no contents; ``mode`` has its kind and permissions."""
        return cls(
            number=number,
            iversion=iversion,
            generation=generation & GENERATION_MAX,
            kind=stat.S_IFMT(mode),
            root=0,
            height=0,
            flags=0,
            permissions=stat.S_IMODE(mode),
            nlink=1,
            uid=uid,
            gid=gid,
            size=0,
            blocks=0,
            rdev=0,
            parent=0,
            atime=now,
            mtime=now,
            ctime=now,
            btime=now,
        )

    @classmethod
    def decode(cls, inode: InodeNumber, slot: bytes) -> "Inode":
        """Read a whole slot; times, openers and area included."""
        openers = int.from_bytes(slot[OPENERS_OFFSET : OPENERS_OFFSET + OPENERS_SIZE], "little")
        return cls._make((inode, *_HEADER.unpack_from(slot), openers, slot[AREA_OFFSET:]))

    @classmethod
    def decode_header(cls, inode: InodeNumber, header: bytes) -> "Inode":
        """Read the first HEADER_SIZE bytes: all that ``attributes`` needs."""
        return cls._make((inode, *_HEADER.unpack_from(header), 0, INODE_AREA_EMPTY))

    def encode(self) -> bytes:
        """The whole slot."""
        return self.encode_start() + bytes(AREA_OFFSET - OPENERS_OFFSET - OPENERS_SIZE) + self.area

    def encode_start(self) -> bytes:
        """The slot up to and with the openers."""
        openers = self.openers.to_bytes(OPENERS_SIZE, "little")
        return self.encode_header().ljust(OPENERS_OFFSET, b"\0") + openers

    def encode_header(self) -> bytes:
        """The iversion, the fields and the times."""
        return _HEADER.pack(self.iversion, *self.fields, *self.times)

    def encode_fields(self) -> bytes:
        """The header without the times."""
        return _FIELDS.pack(self.iversion, *self.fields)

    @property
    def fields(self) -> Fields:
        """What the iversion vouches for, but for the times and the area."""
        return (
            self.generation,
            self.kind,
            self.root,
            self.height,
            self.flags,
            self.permissions,
            self.nlink,
            self.uid,
            self.gid,
            self.size,
            self.blocks,
            self.rdev,
            self.parent,
        )

    @property
    def times(self) -> Times:
        """In the order in which they are stored."""
        return self.atime, self.mtime, self.ctime, self.btime

    def same_fields(self, other: "Inode") -> bool:
        """Whether nothing but iversion, times, openers and area differs."""
        return self.fields == other.fields

    def same_times(self, other: "Inode") -> bool:
        """Whether all four times are those of ``other``."""
        return self.times == other.times

    def changed_times(self, before: "Inode") -> Iterator[tuple[int, int]]:
        """Each time that is not as in ``before``: (its offset in the slot, nanoseconds)."""
        for place, (old, new) in enumerate(zip(before.times, self.times, strict=True)):
            if old != new:
                yield TIMES_OFFSET + TIME_SIZE * place, new

    @property
    def is_directory(self) -> bool:
        return self.kind == stat.S_IFDIR

    @property
    def is_inline(self) -> bool:
        return bool(self.flags & INLINE)

    @property
    def pointers(self) -> "array[int]":
        """The topmost pointers of the block map, of a file that is not inline."""
        return array("Q", self.area)

    @property
    def attributes(self) -> Attributes:
        return Attributes(
            inode=self.number,
            generation=self.generation,
            mode=self.kind | self.permissions,
            nlink=self.nlink,
            uid=self.uid,
            gid=self.gid,
            rdev=self.rdev,
            size=self.size,
            blocks=self.blocks * _SECTORS_PER_BLOCK,
            atime_ns=self.atime,
            mtime_ns=self.mtime,
            ctime_ns=self.ctime,
            btime_ns=self.btime,
        )


def encode_time(nanoseconds: int) -> bytes:
    """One of the four times."""
    return nanoseconds.to_bytes(TIME_SIZE, "little", signed=True)


def opener_place(slot: int) -> int:
    """The offset in an inode's slot of the byte that has the bit of the session in ``slot``."""
    return OPENERS_OFFSET + slot // 8


def opener_byte(openers: int, slot: int) -> bytes:
    """That byte."""
    return bytes([openers >> slot // 8 * 8 & 0xFF])


def opener_bit(slot: int) -> int:
    """The bit that the session in ``slot`` has among an inode's openers."""
    return 1 << slot
