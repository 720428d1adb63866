"""A directory is a B-tree of blocks, ordered by a keyed hash of the names.

The *position* of an entry is 63 bits: 59 of the name's hash, and a 4-bit ordinal that tells names
of equal hash apart.  The hash has a secret key of the volume's own, so that a user cannot choose
names that collide.  An entry keeps its position as long as it exists, and readdir gives entries in
this order; so a position is a cookie that stays good while other mounts insert, remove and split.

A *leaf* holds entries in order of arrival.  Adding one writes the leaf's head and the entry's own
bytes; removing one writes the head and eight zero bytes.  Holes are squeezed out when room is
short.  An *interior* node holds (lowest position, child) in order.  The first lowest position is
always 0, so that the first child also covers what an emptied neighbour on its left covered.  Each
tree node begins with a version, which every change changes.
"""

import hashlib
import struct
from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise
from typing import Final, NamedTuple

from sinfoniafs.attributes import InodeNumber
from sinfoniafs.errors import CorruptVolume
from sinfoniafs.format.layout import BLOCK_SIZE, BlockNumber

NAME_MAX: Final = 255
ORDINALS: Final = 16
HASH_MASK: Final = ~(ORDINALS - 1)
COOKIE_FIRST: Final = ORDINALS  # smaller positions are left to the caller of readdir

_LEAF: Final = struct.Struct("<Q4sIIIQ")
_INTERIOR: Final = struct.Struct("<Q4sIIIQ")
_ENTRY: Final = struct.Struct("<QQBB")
_TARGET: Final = struct.Struct("<QB")
_CHILD: Final = struct.Struct("<QQ")
_LEAF_MAGIC: Final = b"dLf1"
_INTERIOR_MAGIC: Final = b"dIn1"
HEAD_SIZE: Final = _LEAF.size
VERSION: Final = struct.Struct("<Q")
CHILDREN_MAX: Final = (BLOCK_SIZE - HEAD_SIZE) // _CHILD.size
# The length of an entry is rounded up so that numbers in a leaf stay aligned.
_ALIGNMENT: Final = 8
_INODE_IN_ENTRY: Final = 8


def position_of(name: bytes, key: bytes) -> int:
    """Where ``name`` belongs: its position with ordinal 0."""
    digest = hashlib.blake2b(name, key=key, digest_size=8).digest()
    return max(int.from_bytes(digest, "little") >> 1 & HASH_MASK, COOKIE_FIRST)


class Entry(NamedTuple):
    """A name in a leaf; ``offset`` is where its bytes are in the block."""

    position: int
    inode: InodeNumber
    kind: int
    name: bytes
    offset: int

    @classmethod
    def unplaced(cls, position: int, inode: InodeNumber, kind: int, name: bytes) -> "Entry":
        """An entry for an inode of that S_IFMT kind, which no leaf holds yet."""
        return cls(position, inode, kind=entry_kind(kind), name=name, offset=0)

    def encode(self) -> bytes:
        head = _ENTRY.pack(self.position, self.inode, self.kind, len(self.name))
        return (head + self.name).ljust(entry_size(self.name), b"\0")


class Leaf(NamedTuple):
    """A leaf; ``used`` is where the next entry goes.  Changes give a new Leaf."""

    block: BlockNumber
    version: int
    owner: InodeNumber
    used: int
    entries: dict[int, Entry]

    @classmethod
    def empty(cls, block: BlockNumber, version: int, owner: InodeNumber) -> "Leaf":
        return cls(block, version, owner, used=HEAD_SIZE, entries={})

    @classmethod
    def decode(cls, block: BlockNumber, image: bytes) -> "Leaf":
        version, magic, count, used, _, owner = _LEAF.unpack_from(image)
        if magic != _LEAF_MAGIC or not HEAD_SIZE <= used <= BLOCK_SIZE:
            raise CorruptVolume(f"block {block:#x} is not a directory leaf")
        entries = {}
        offset = HEAD_SIZE
        while offset + _ENTRY.size <= used:
            position, inode, kind, length = _ENTRY.unpack_from(image, offset)
            start = offset + _ENTRY.size
            name = image[start : start + length]
            if inode:
                entries[position] = Entry(position, inode, kind=kind, name=name, offset=offset)
            offset += entry_size(name)
        if len(entries) != count or offset != used:
            raise CorruptVolume(
                f"directory leaf {block:#x} has {len(entries)} entries, not {count}"
            )
        return cls(block, version, InodeNumber(owner), used=used, entries=entries)

    def encode(self) -> bytes:
        """The used part of the block.  Entries must have been packed, as ``pack`` leaves them."""
        return self.encode_head() + b"".join(
            entry.encode() for entry in sorted(self.entries.values(), key=lambda each: each.offset)
        )

    def encode_head(self) -> bytes:
        return _LEAF.pack(self.version, _LEAF_MAGIC, len(self.entries), self.used, 0, self.owner)

    def find(self, position: int, name: bytes) -> Entry | None:
        """The entry of ``name``, whose hash is ``position``."""
        for each in range(position, position + ORDINALS):
            entry = self.entries.get(each)
            if entry is not None and entry.name == name:
                return entry
        return None

    def fits(self, name: bytes) -> bool:
        return self.used + entry_size(name) <= BLOCK_SIZE

    def insert(self, entry: Entry) -> tuple["Leaf", Entry]:
        """Add an entry at the end of the used part; returns it as it was placed."""
        assert self.fits(entry.name)
        placed = entry._replace(offset=self.used)
        entries = {**self.entries, placed.position: placed}
        return self._replace(used=self.used + entry_size(entry.name), entries=entries), placed

    def remove(self, entry: Entry) -> "Leaf":
        entries = dict(self.entries)
        del entries[entry.position]
        return self._replace(entries=entries)

    def free_position(self, position: int) -> int:
        """The first ordinal that no name of equal hash has."""
        for each in range(position, position + ORDINALS):
            if each not in self.entries:
                return each
        raise CorruptVolume(f"{ORDINALS} names have the hash {position:#x}")

    def in_order(self) -> list[Entry]:
        return sorted(self.entries.values())

    def pack(self, entries: Iterable[Entry]) -> "Leaf":
        """This leaf with just these entries and no holes."""
        packed = {}
        offset = HEAD_SIZE
        for entry in entries:
            packed[entry.position] = entry._replace(offset=offset)
            offset += entry_size(entry.name)
        return self._replace(used=offset, entries=packed)


class Interior(NamedTuple):
    """An interior node: ``lows[i]`` is the lowest position of ``children[i]``."""

    block: BlockNumber
    version: int
    owner: InodeNumber
    height: int
    lows: tuple[int, ...]
    children: tuple[BlockNumber, ...]

    @classmethod
    def decode(cls, block: BlockNumber, image: bytes) -> "Interior":
        version, magic, count, height, _, owner = _INTERIOR.unpack_from(image)
        if magic != _INTERIOR_MAGIC or not 0 < count <= CHILDREN_MAX:
            raise CorruptVolume(f"block {block:#x} is not an interior node of a directory")
        pairs = list(_CHILD.iter_unpack(image[HEAD_SIZE : HEAD_SIZE + count * _CHILD.size]))
        lows, children = zip(*pairs, strict=True)
        if lows[0] != 0 or any(low >= high for low, high in pairwise(lows)):
            raise CorruptVolume(f"the positions in interior node {block:#x} are out of order")
        return cls(block, version, InodeNumber(owner), height=height, lows=lows, children=children)

    def encode(self) -> bytes:
        """The used part of the block."""
        head = _INTERIOR.pack(
            self.version, _INTERIOR_MAGIC, len(self.children), self.height, 0, self.owner
        )
        return head + b"".join(map(_CHILD.pack, self.lows, self.children))

    def child_at(self, position: int) -> int:
        """The place of the child that ``position`` belongs to."""
        return bisect_right(self.lows, position) - 1

    def insert(self, at: int, low: int, child: BlockNumber) -> "Interior":
        return self._replace(
            lows=(*self.lows[:at], low, *self.lows[at:]),
            children=(*self.children[:at], child, *self.children[at:]),
        )

    def remove(self, at: int) -> "Interior":
        """Without one child; its range falls to its left neighbour, the first one's to the next."""
        lows = (*self.lows[:at], *self.lows[at + 1 :])
        return self._replace(
            lows=(0, *lows[1:]),
            children=(*self.children[:at], *self.children[at + 1 :]),
        )

    def split(self, block: BlockNumber, version: int) -> tuple["Interior", int, "Interior"]:
        """The left half, the lowest position of the right half, and that half in ``block``."""
        half = len(self.children) // 2
        left = self._replace(lows=self.lows[:half], children=self.children[:half])
        right = self._replace(
            block=block,
            version=version,
            lows=(0, *self.lows[half + 1 :]),
            children=self.children[half:],
        )
        return left, self.lows[half], right


TreeNode = Leaf | Interior


def entry_kind(kind: int) -> int:
    """The DT_* value that an entry has for an inode of that S_IFMT kind."""
    return kind >> 12


def entry_size(name: bytes) -> int:
    """Bytes that an entry takes in a leaf."""
    return -(-(_ENTRY.size + len(name)) // _ALIGNMENT) * _ALIGNMENT


def hole_at(entry: Entry) -> tuple[int, bytes]:
    """What to write where to make a hole of an entry."""
    return entry.offset + _INODE_IN_ENTRY, bytes(8)


def target_at(entry: Entry) -> tuple[int, bytes]:
    """What to write where to let an entry lead to another inode."""
    return entry.offset + _INODE_IN_ENTRY, _TARGET.pack(entry.inode, entry.kind)


def middle(leaf: Leaf) -> int:
    """The position that cuts a leaf into halves of about equal bytes, hashes kept whole.

    Raises CorruptVolume where all entries have one hash, which 16 ordinals of 280 bytes exclude.
    """
    ordered = leaf.in_order()
    half = sum(entry_size(entry.name) for entry in ordered) // 2
    size = 0
    for entry in ordered:
        size += entry_size(entry.name)
        if size > half and entry.position & HASH_MASK > ordered[0].position:
            return entry.position & HASH_MASK
    last = ordered[-1].position & HASH_MASK
    if last > ordered[0].position:
        return last
    raise CorruptVolume(f"all names of directory leaf {leaf.block:#x} have one hash")
