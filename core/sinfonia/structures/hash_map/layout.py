"""What a hash map looks like in memory; the tables of core/STRUCTURES.md are this file.

A bucket has the hashes whose low ``depth`` bits are its ``prefix``.  It knows which buckets took
over the rest: ``children[i]`` took those that agree with the prefix in the bits below i and differ
in bit i.  So a client with an old directory finds the way to a key from any bucket that ever had
it, and buckets never move and never go away.
"""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import NamedTuple, Self

from sinfonia.structures.errors import NotFormatted

MAP_MAGIC = b"SINFHM01"
REGION_MAGIC = b"SINFHR01"
BUCKET_MAGIC = b"SHB1"

_MAP = struct.Struct("<8sQII16sQ")
_MAP_REGION = struct.Struct("<QQ")
_BUCKET = struct.Struct("<4sB3xQQII")
_MARK = struct.Struct("<QQ")
_ENTRY = struct.Struct("<QQHBxI")
_EXTENT = struct.Struct("<QQII")

HASH_BITS = 64
SALT_BYTES = 16

# A header is read whole; more regions than memory nodes are there to spread allocation.
REGIONS_MAX = 64
MAP_HEADER_BYTES = _MAP.size + REGIONS_MAX * _MAP_REGION.size

# 2**32 buckets; it also bounds how far a client with an empty directory may have to walk.
DEPTH_MAX = 32

# A bucket remembers the writers of its last so many versions, so that a writer that lost the answer
# can be told, until so many others have written.
MARKS = 8

VERSION_OFFSET = 8
MARKS_OFFSET = _BUCKET.size
CHILDREN_OFFSET = MARKS_OFFSET + MARKS * _MARK.size
ENTRIES_OFFSET = CHILDREN_OFFSET + DEPTH_MAX * 8

ENTRY_HEADER_BYTES = _ENTRY.size
EXTENT_HEADER_BYTES = _EXTENT.size

# Extents have 2**8 .. 2**20 bytes, header included.
CLASS_MIN = 8
CLASS_MAX = 20
VALUE_BYTES_MAX = 2**CLASS_MAX - EXTENT_HEADER_BYTES

# A place is packed into 8 bytes: 16 bits of memory node, 48 of address.
NODE_MAX = 2**16 - 1
PLACE_ADDRESS_MAX = 2**48 - 1

_INLINE, _OUT_OF_LINE = 0, 1


class Place(NamedTuple):
    """A memory node and an address."""

    node: int
    address: int

    def pack(self) -> int:
        """As a word; never 0, for no place of a map is byte 0 of memory node 0."""
        return self.node << 48 | self.address

    @classmethod
    def unpack(cls, word: int) -> "Place":
        """The inverse of ``pack``."""
        return cls(word >> 48, word & PLACE_ADDRESS_MAX)


class Region(NamedTuple):
    """``length`` bytes at ``address`` of ``node``, for buckets and large values."""

    node: int
    address: int
    length: int


@dataclass(frozen=True, slots=True)
class MapHeader:
    """What a map says of itself; ``version`` counts its changes."""

    version: int
    bucket_bytes: int
    salt: bytes
    root: Place
    regions: tuple[Region, ...]

    @property
    def entry_bytes_max(self) -> int:
        """Of one entry, so that a bucket has room for four."""
        return (self.bucket_bytes - ENTRIES_OFFSET) // 4

    @property
    def key_bytes_max(self) -> int:
        """Of a key; its value may be out of line."""
        return min(2**16 - 1, self.entry_bytes_max - ENTRY_HEADER_BYTES - 8)

    def is_inline(self, key: bytes, value: bytes) -> bool:
        """Whether a bucket keeps ``value`` itself: a large one would slow the reads of all keys."""
        return ENTRY_HEADER_BYTES + len(key) + len(value) <= self.entry_bytes_max // 2

    def hash(self, key: bytes) -> int:
        """Of HASH_BITS bits; the salt keeps strangers from choosing keys that collide."""
        return int.from_bytes(blake2b(key, digest_size=8, salt=self.salt).digest(), "little")

    def encode(self) -> bytes:
        """The header's bytes."""
        head = _MAP.pack(
            MAP_MAGIC,
            self.version,
            self.bucket_bytes,
            len(self.regions),
            self.salt,
            self.root.pack(),
        )
        regions = b"".join(
            _MAP_REGION.pack(Place(region.node, region.address).pack(), region.length)
            for region in self.regions
        )
        return (head + regions).ljust(MAP_HEADER_BYTES, b"\0")

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``.  Raises NotFormatted."""
        magic, version, bucket_bytes, count, salt, root = _MAP.unpack_from(data)
        if magic != MAP_MAGIC or not 0 < count <= REGIONS_MAX or bucket_bytes <= ENTRIES_OFFSET:
            raise NotFormatted("there is no hash map at that address")
        regions = tuple(
            Region(*Place.unpack(word), length)
            for word, length in (
                _MAP_REGION.unpack_from(data, _MAP.size + k * _MAP_REGION.size)
                for k in range(count)
            )
        )
        return cls(version, bucket_bytes, salt, Place.unpack(root), regions)


class Mark(NamedTuple):
    """What made a version of a bucket: update ``number`` of ``writer``."""

    writer: int
    number: int

    def encode(self) -> bytes:
        """The bytes of it."""
        return _MARK.pack(*self)


class Extent(NamedTuple):
    """A value of ``length`` bytes outside of its bucket."""

    place: Place
    length: int

    @property
    def size_class(self) -> int:
        """The extent has 2**size_class bytes."""
        return size_class(self.length)


class Entry(NamedTuple):
    """What a bucket says of a key."""

    version: int
    hash: int
    value: bytes | Extent

    def byte_count(self, key: bytes) -> int:
        """Of the entry, key and all."""
        inline = 8 if isinstance(self.value, Extent) else len(self.value)
        return ENTRY_HEADER_BYTES + len(key) + inline


@dataclass(frozen=True, slots=True)
class BucketHead:
    """A bucket without its entries, of which there are ``count`` in ``used`` bytes."""

    place: Place
    depth: int
    version: int
    prefix: int
    used: int
    count: int
    marks: tuple[Mark, ...] = (Mark(0, 0),) * MARKS
    children: tuple[int, ...] = (0,) * DEPTH_MAX

    def covers(self, key_hash: int) -> bool:
        """Whether keys with this hash are here."""
        return key_hash & ((1 << self.depth) - 1) == self.prefix

    def child(self, key_hash: int) -> Place:
        """Where keys with ``key_hash`` went when they left this bucket.

        Raises NotFormatted if they never were here.
        """
        difference = (key_hash ^ self.prefix) & ((1 << self.depth) - 1)
        bit = (difference & -difference).bit_length() - 1
        if not self.children[bit]:
            raise NotFormatted(f"the bucket at {self.place} is not of this map")
        return Place.unpack(self.children[bit])

    def encode_start(self) -> bytes:
        """The first MARKS_OFFSET bytes."""
        return _BUCKET.pack(
            BUCKET_MAGIC, self.depth, self.version, self.prefix, self.used, self.count
        )

    def encode(self) -> bytes:
        """The first ENTRIES_OFFSET bytes."""
        marks = b"".join(mark.encode() for mark in self.marks)
        return self.encode_start() + marks + struct.pack(f"<{DEPTH_MAX}Q", *self.children)

    @classmethod
    def decode(cls, place: Place, data: bytes) -> Self:
        """The inverse of ``encode``.  Raises NotFormatted."""
        magic, depth, version, prefix, used, count = _BUCKET.unpack_from(data)
        if magic != BUCKET_MAGIC or depth > DEPTH_MAX or prefix >> depth:
            raise NotFormatted(f"no bucket at {place.address} of memory node {place.node}")
        marks = tuple(
            Mark(*_MARK.unpack_from(data, MARKS_OFFSET + k * _MARK.size)) for k in range(MARKS)
        )
        children = struct.unpack_from(f"<{DEPTH_MAX}Q", data, CHILDREN_OFFSET)
        return cls(place, depth, version, prefix, used, count, marks, children)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket as it is at one moment."""

    head: BucketHead
    entries: Mapping[bytes, Entry] = field(default_factory=dict)

    def changed(self, entries: Mapping[bytes, Entry], mark: Mark) -> "Bucket":
        """The next version, with other entries."""
        version = self.head.version + 1
        marks = list(self.head.marks)
        marks[version % MARKS] = mark
        used = sum(entry.byte_count(key) for key, entry in entries.items())
        head = replace(
            self.head, version=version, used=used, count=len(entries), marks=tuple(marks)
        )
        return Bucket(head, entries)

    def split(self, place: Place, mark: Mark) -> tuple["Bucket", "Bucket"]:
        """What stays, and what goes to a new bucket at ``place``."""
        head = self.head
        bit = 1 << head.depth
        children = list(head.children)
        children[head.depth] = place.pack()
        stays = {key: entry for key, entry in self.entries.items() if not entry.hash & bit}
        goes = {key: entry for key, entry in self.entries.items() if entry.hash & bit}
        old = Bucket(replace(head, depth=head.depth + 1, children=tuple(children)))
        new = BucketHead(place, head.depth + 1, head.version, head.prefix | bit, 0, 0)
        return old.changed(stays, mark), Bucket(new).changed(goes, mark)

    def encode_entries(self) -> bytes:
        """The ``used`` bytes after ENTRIES_OFFSET."""
        parts = []
        for key, (version, key_hash, value) in self.entries.items():
            if isinstance(value, Extent):
                kind, length, kept = _OUT_OF_LINE, value.length, _word(value.place.pack())
            else:
                kind, length, kept = _INLINE, len(value), value
            parts += [_ENTRY.pack(version, key_hash, len(key), kind, length), key, kept]
        return b"".join(parts)

    def encode(self) -> bytes:
        """The bucket's bytes, as far as they are used."""
        return self.head.encode() + self.encode_entries()

    @classmethod
    def decode(cls, place: Place, data: bytes) -> Self:
        """The inverse of ``encode``.  Raises NotFormatted."""
        head = BucketHead.decode(place, data)
        entries: dict[bytes, Entry] = {}
        at = ENTRIES_OFFSET
        end = at + head.used
        for _ in range(head.count):
            if at + ENTRY_HEADER_BYTES > min(end, len(data)):
                break
            version, key_hash, key_bytes, kind, length = _ENTRY.unpack_from(data, at)
            at += ENTRY_HEADER_BYTES
            key = data[at : at + key_bytes]
            at += key_bytes
            kept = data[at : at + (length if kind == _INLINE else 8)]
            at += len(kept)
            if kind == _OUT_OF_LINE:
                extent = Extent(Place.unpack(int.from_bytes(kept, "little")), length)
                entries[key] = Entry(version, key_hash, extent)
            else:
                entries[key] = Entry(version, key_hash, kept)
        if at != end or len(entries) != head.count:
            raise NotFormatted(
                f"the bucket at {place.address} of memory node {place.node} is damaged"
            )
        return cls(head, entries)


def size_class(length: int) -> int:
    """Of an extent for a value of ``length`` bytes."""
    return max(CLASS_MIN, (EXTENT_HEADER_BYTES + length - 1).bit_length())


def encode_extent(entry: Entry, value: bytes) -> bytes:
    """What the extent of ``entry`` holds."""
    checksum = zlib.crc32(value, entry.version & 0xFFFFFFFF)
    return _EXTENT.pack(entry.version, entry.hash, len(value), checksum) + value


def decode_extent(entry: Entry, data: bytes) -> bytes | None:
    """The value of ``entry``; None if the extent was used for another since."""
    version, key_hash, length, checksum = _EXTENT.unpack_from(data)
    value = data[EXTENT_HEADER_BYTES : EXTENT_HEADER_BYTES + length]
    if (version, key_hash, length) != (entry.version, entry.hash, len(value)):
        return None
    return value if zlib.crc32(value, version & 0xFFFFFFFF) == checksum else None


def _word(value: int) -> bytes:
    return value.to_bytes(8, "little")
