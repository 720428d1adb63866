"""Space for a hash map changes hands in the minitransaction that uses it.

A region is handed out from its start, for buckets and *extents* (large values), and extents that
are given back are kept in lists by size, each naming the next in its first word::

    region header, 256 bytes    magic 8 | end u64 | next u64 | reserved u64 | 13 heads u64

A writer that takes or gives compares the words that it goes by and writes them together with the
bucket that names the extent.  So there is nothing that is allocated and not linked, or the other
way round, at any moment, and a writer that dies leaks nothing.

What to take is computed from bytes that were read before.  Where some are missing the computation
says which (``MissingBytes``), they are read, and it begins again.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from sinfonia.client.steps import Steps, execute, minitransaction
from sinfonia.minitransaction import ITEMS_MAX, Minitransaction
from sinfonia.structures.errors import NoSpace, NotFormatted
from sinfonia.structures.hash_map.layout import (
    CLASS_MAX,
    CLASS_MIN,
    REGION_MAGIC,
    Extent,
    Place,
    Region,
)

T = TypeVar("T")

_CLASSES = CLASS_MAX - CLASS_MIN + 1
_HEADER = struct.Struct(f"<8sQQ8x{_CLASSES}Q")
_NEXT_OFFSET = 16
_HEADS_OFFSET = 32
_WORD = 8

REGION_HEADER_BYTES = 256

# One round brings a word of each list that is used, or a header of each region that is full.
ROUNDS_MAX = ITEMS_MAX


def encode_region(region: Region) -> bytes:
    """The header of a region of which nothing was handed out."""
    end = region.address + region.length
    first = region.address + REGION_HEADER_BYTES
    header = _HEADER.pack(REGION_MAGIC, end, first, *([0] * _CLASSES))
    return header.ljust(REGION_HEADER_BYTES, b"\0")


def free_bytes(header: bytes) -> int:
    """What was never handed out of the region with this header."""
    _, end, following, *_ = _HEADER.unpack_from(header)
    return int(end - following)


class MissingBytes(Exception):
    """A computation needs to know ``ranges`` (place, length)."""

    def __init__(self, ranges: Sequence[tuple[Place, int]]) -> None:
        super().__init__(ranges)
        self.ranges = ranges


class UnknownRegion(NotFormatted):
    """An extent is in no region of the map, or in one that this client has not heard of."""


class _Region:
    """The words of one region, as they were read and as they are to be."""

    def __init__(self, region: Region, header: bytes) -> None:
        magic, end, following, *heads = _HEADER.unpack_from(header)
        if magic != REGION_MAGIC or end != region.address + region.length:
            raise NotFormatted(
                f"no region of a hash map at {region.address} of memory node {region.node}"
            )
        self.region = region
        self.end = end
        self.words: dict[int, int] = {_NEXT_OFFSET: following}
        self.words |= {_HEADS_OFFSET + k * _WORD: head for k, head in enumerate(heads)}
        self.read = dict(self.words)
        self.used: set[int] = set()

    def add_items(self, t: Minitransaction[Any], *, compare: bool) -> None:
        node, start, _ = self.region
        for offset in sorted(self.used):
            if compare:
                t.compare(node, start + offset, _encode(self.read[offset]))
            t.write(node, start + offset, _encode(self.words[offset]))


class SpacePlan:
    """What one minitransaction takes and gives, computed from the ``known`` bytes."""

    def __init__(self, regions: Sequence[Region], known: dict[Place, bytes]) -> None:
        self._regions = regions
        self._known = known
        self._used: dict[Region, _Region] = {}
        self._followed: dict[Place, int] = {}
        self._given: dict[Place, int] = {}

    def expect(self, regions: Iterable[Region]) -> None:
        """These will be needed: learn of all of them at once.  Raises MissingBytes."""
        places = {Place(region.node, region.address) for region in regions}
        missing = sorted(place for place in places if place not in self._known)
        if missing:
            raise MissingBytes([(place, REGION_HEADER_BYTES) for place in missing])

    def order(self, node: int, chance: int) -> list[Region]:
        """The regions to try, those at ``node`` first; ``chance`` spreads the load over them."""
        start = chance % len(self._regions)
        turned = [*self._regions[start:], *self._regions[:start]]
        return sorted(turned, key=lambda region: region.node != node)

    def home(self, place: Place) -> Region:
        """The region that ``place`` is in.  Raises UnknownRegion."""
        for region in self._regions:
            inside = region.address <= place.address < region.address + region.length
            if region.node == place.node and inside:
                return region
        raise UnknownRegion(f"no region of the map has {place.address} of memory node {place.node}")

    def take(self, byte_count: int, order: Sequence[Region]) -> Place:
        """Fresh bytes.  Raises NoSpace or MissingBytes."""
        for region in order:
            used = self._region(region)
            start = used.words[_NEXT_OFFSET]
            if start + byte_count <= used.end:
                used.words[_NEXT_OFFSET] = start + byte_count
                used.used.add(_NEXT_OFFSET)
                return Place(region.node, start)
        raise NoSpace(
            f"no region of the hash map has {byte_count} bytes left; add one with add_region"
        )

    def take_extent(self, size_class: int, order: Sequence[Region]) -> Place:
        """An extent of 2**size_class bytes: one that was given back, or fresh bytes.

        Raises NoSpace or MissingBytes.
        """
        offset = _HEADS_OFFSET + (size_class - CLASS_MIN) * _WORD
        for region in order:
            used = self._region(region)
            if used.words[offset]:
                place = Place.unpack(used.words[offset])
                used.words[offset] = self._follow(place)
                used.used.add(offset)
                return place
            try:
                return self.take(1 << size_class, [region])
            except NoSpace:
                continue
        return self.take(1 << size_class, order)

    def give(self, extent: Extent) -> None:
        """Give an extent back.  Raises MissingBytes."""
        used = self._region(self.home(extent.place))
        offset = _HEADS_OFFSET + (extent.size_class - CLASS_MIN) * _WORD
        self._given[extent.place] = used.words[offset]
        used.words[offset] = extent.place.pack()
        used.used.add(offset)

    def add_words(self, t: Minitransaction[Any]) -> None:
        """Have ``t`` do so in regions that it makes itself."""
        for used in self._used.values():
            used.add_items(t, compare=False)

    def add_items(self, t: Minitransaction[Any]) -> None:
        """Have ``t`` do so, if it is still there to be taken."""
        for used in self._used.values():
            used.add_items(t, compare=True)
        for place, word in self._followed.items():
            t.compare(place.node, place.address, _encode(word))
        for place, word in self._given.items():
            t.write(place.node, place.address, _encode(word))

    def _region(self, region: Region) -> _Region:
        if region not in self._used:
            self.expect([region])
            header = self._known[Place(region.node, region.address)]
            self._used[region] = _Region(region, header)
        return self._used[region]

    def _follow(self, place: Place) -> int:
        """What comes after ``place`` in its list."""
        if place in self._given:
            return self._given.pop(place)
        if place not in self._known:
            raise MissingBytes([(place, _WORD)])
        self._followed[place] = int.from_bytes(self._known[place], "little")
        return self._followed[place]


def compute(build: Callable[[SpacePlan], T], regions: Sequence[Region]) -> Steps[T]:
    """What ``build`` returns, once all is known that it needs; as many round trips as it asks for.

    Raises what ``build`` raises, but for MissingBytes.
    """
    known: dict[Place, bytes] = {}
    for _ in range(ROUNDS_MAX):
        try:
            return build(SpacePlan(regions, known))
        except MissingBytes as missing:
            t = minitransaction()
            for place, length in missing.ranges:
                t.read(place.node, place.address, length)
            ranges = missing.ranges
        result = yield from execute(t)
        known |= {place: data for (place, _), data in zip(ranges, result.reads, strict=True)}
    raise NotFormatted("a list of free extents of the hash map has no end")


def _encode(word: int) -> bytes:
    return word.to_bytes(_WORD, "little")
