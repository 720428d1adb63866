"""A scan meets every key that is there throughout exactly once, however the map grows meanwhile.

It goes through the hashes in the order of their bits reversed, lowest bit first.  In that order the
hashes of a bucket are neighbours, and a split cuts them in two: where a scan has come to is a point
between hashes, whatever becomes of the buckets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sinfonia.client.steps import Steps, execute, minitransaction
from sinfonia.structures.hash_map.directory import reverse_bits, span
from sinfonia.structures.hash_map.layout import HASH_BITS, Bucket, BucketHead, Entry, Place
from sinfonia.structures.hash_map.map import Found, HashMap
from sinfonia.structures.hash_map.space import REGION_HEADER_BYTES, free_bytes

# A page has the entries of so many buckets, unless the caller wants fewer.
PAGE_BUCKETS = 16

# Heads are small; so many are read in one minitransaction.
HEADS_TOGETHER = 256


@dataclass(frozen=True, slots=True)
class Page:
    """Some entries, each bucket's as it is at one moment; go on from ``next``, None at the end."""

    entries: Sequence[tuple[bytes, Found]]
    next: int | None


@dataclass(frozen=True, slots=True)
class Statistics:
    """Sums over all buckets, each as it was when it was read.

    used_bytes: of the buckets, by entries; free_bytes: never handed out of the regions.
    """

    buckets: int
    entries: int
    used_bytes: int
    depth_max: int
    free_bytes: int


def scan(view: HashMap, point: int = 0, *, buckets: int = PAGE_BUCKETS) -> Steps[Page]:
    """The entries from ``point`` on, which is 0 or the ``next`` of another page.

    One round trip for as many buckets as the directory knows, up to ``buckets``; one more if there
    are values out of line.  It keeps no place anywhere: a scan that is abandoned costs nothing, and
    any client may go on with it.  Raises NotFormatted.
    """
    found = yield from _buckets_in_order(view, point, buckets)
    entries: dict[bytes, Entry] = {}
    end = point
    for bucket in found:
        entries |= {
            key: entry for key, entry in bucket.entries.items() if reverse_bits(entry.hash) >= point
        }
        end = span(bucket.head)[1]
    values = yield from view.read_values(entries)
    page: list[tuple[bytes, Found]] = []
    for key, entry in entries.items():
        now: Found | None
        if key in values:
            now = Found(values[key], entry.version)
        else:
            # Overwritten or removed since.
            now = yield from view.get(key)
        if now is not None:
            page.append((key, now))
    return Page(page, end if end < 1 << HASH_BITS else None)


def statistics(view: HashMap) -> Steps[Statistics]:
    """Count; one round trip for each level of the tree of buckets, or for HEADS_TOGETHER of them.

    No counter is kept anywhere, so that writers need not share one.
    """
    heads: list[BucketHead] = []
    waiting = [view.header.root]
    while waiting:
        now, waiting = waiting[:HEADS_TOGETHER], waiting[HEADS_TOGETHER:]
        for head in (yield from view.directory.read_heads(now)):
            heads.append(head)
            waiting += [Place.unpack(word) for word in head.children if word]
    t = minitransaction()
    for region in view.header.regions:
        t.read(region.node, region.address, REGION_HEADER_BYTES)
    result = yield from execute(t)
    return Statistics(
        buckets=len(heads),
        entries=sum(head.count for head in heads),
        used_bytes=sum(head.used for head in heads),
        depth_max=max(head.depth for head in heads),
        free_bytes=sum(map(free_bytes, result.reads)),
    )


def _buckets_in_order(view: HashMap, point: int, count: int) -> Steps[list[Bucket]]:
    """At least one bucket, the first of which has ``point``, without gaps."""
    places = view.directory.in_order(point, count)
    read = yield from view.directory.read(places)
    run: list[Bucket] = []
    for place in places:
        start, end = span(read[place].head)
        if not start <= point < end:
            break
        run.append(read[place])
        point = end
    if not run:
        wanted = reverse_bits(point)
        run = [(yield from view.directory.locate([wanted]))[wanted]]
    return run
