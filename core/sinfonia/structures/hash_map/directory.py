"""A client's directory of buckets is a memory of what it has seen, and may be as old as it likes.

An old entry leads to a bucket that once had the key, and each bucket knows which ones took over
what it gave away.  So the directory is never refreshed, only added to; one that is empty but for
the root is right too, and the first look-ups of a key then walk.
"""

from collections.abc import Iterable

from sinfonia.client.steps import Steps, execute, minitransaction
from sinfonia.structures.errors import NotFormatted
from sinfonia.structures.hash_map.layout import (
    DEPTH_MAX,
    ENTRIES_OFFSET,
    HASH_BITS,
    Bucket,
    BucketHead,
    Place,
)

# Buckets beyond these are found by walking; some 100 MB of a client's memory.
BUCKETS_KNOWN_MAX = 1 << 20

# A walk goes down by one bit at least with each round; meanwhile the buckets may be split further.
ROUNDS_MAX = 2 * DEPTH_MAX

_SPAN = 1 << HASH_BITS


class Directory:
    """Which bucket to ask for a hash."""

    def __init__(self, root: Place, bucket_bytes: int) -> None:
        self._root = root
        self._bucket_bytes = bucket_bytes
        self._depth = 0
        # By the prefix that a bucket began with, below a leading 1 bit.
        self._places: dict[int, Place] = {1: root}
        self._depths: dict[Place, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def find(self, key_hash: int) -> Place:
        """The bucket that has the hash, or had it once."""
        for depth in range(self._depth, 0, -1):
            bit = 1 << depth
            place = self._places.get(bit | key_hash & bit - 1)
            if place is not None:
                return place
        return self._root

    def learn(self, head: BucketHead) -> None:
        """Remember which buckets took over what from this one."""
        if self._depths.get(head.place) == head.depth:
            return
        if len(self._places) + DEPTH_MAX > BUCKETS_KNOWN_MAX:
            self._places = {1: self._root}
            self._depths = {}
        self._depths[head.place] = head.depth
        for bit, word in enumerate(head.children[: head.depth]):
            if word:
                prefix = head.prefix & (1 << bit) - 1 | ~head.prefix & 1 << bit
                self._places[2 << bit | prefix] = Place.unpack(word)
        self._depth = max(self._depth, head.depth)

    def locate(self, hashes: Iterable[int]) -> Steps[dict[int, Bucket]]:
        """The buckets of all ``hashes``, as they are at one moment.  One round trip if known.

        Raises NotFormatted, and LimitExceeded if they are too many for one minitransaction.
        """
        wanted = {key_hash: self.find(key_hash) for key_hash in hashes}
        for _ in range(ROUNDS_MAX):
            buckets = yield from self.read(dict.fromkeys(wanted.values()))
            arrived = True
            for key_hash, place in wanted.items():
                head = buckets[place].head
                if not head.covers(key_hash):
                    wanted[key_hash] = self._next(key_hash, head)
                    arrived = False
            if arrived:
                return {key_hash: buckets[place] for key_hash, place in wanted.items()}
        raise NotFormatted(f"the buckets of the map with the root {self._root} lead nowhere")

    def read(self, places: Iterable[Place]) -> Steps[dict[Place, Bucket]]:
        """The buckets at ``places``, as they are at one moment."""
        places = list(places)
        t = minitransaction()
        for place in places:
            t.read(place.node, place.address, self._bucket_bytes)
        reads = (yield from execute(t)).reads
        buckets = {
            place: Bucket.decode(place, data) for place, data in zip(places, reads, strict=True)
        }
        for bucket in buckets.values():
            self.learn(bucket.head)
        return buckets

    def read_heads(self, places: Iterable[Place]) -> Steps[list[BucketHead]]:
        """The heads of the buckets at ``places``, as they are at one moment."""
        places = list(places)
        t = minitransaction()
        for place in places:
            t.read(place.node, place.address, ENTRIES_OFFSET)
        reads = (yield from execute(t)).reads
        return [BucketHead.decode(place, data) for place, data in zip(places, reads, strict=True)]

    def in_order(self, point: int, count: int) -> list[Place]:
        """Up to ``count`` buckets that follow each other in the order of a scan, from ``point`` on.

        As far as they are known, and at least one; see ``span``.
        """
        places: list[Place] = []
        while point < _SPAN and len(places) < count:
            place = self.find(reverse_bits(point))
            places.append(place)
            if place not in self._depths:
                break
            point = (point & -(1 << HASH_BITS - self._depths[place])) + (
                1 << HASH_BITS - self._depths[place]
            )
        return list(dict.fromkeys(places))

    def _next(self, key_hash: int, head: BucketHead) -> Place:
        """Where to look for a hash that ``head``, of which we have learnt, gave away."""
        child = head.child(key_hash)
        known = self.find(key_hash)
        return child if known == head.place else known


def reverse_bits(value: int) -> int:
    """HASH_BITS bits, the other way round.

    In this order the hashes of a bucket are neighbours: a scan in it meets each hash once, whatever
    is split meanwhile.
    """
    return int(f"{value:0{HASH_BITS}b}"[::-1], 2)


def span(head: BucketHead) -> tuple[int, int]:
    """The points [start, end) of the bucket's hashes, bits reversed."""
    start = reverse_bits(head.prefix)
    return start, start + (1 << HASH_BITS - head.depth)
