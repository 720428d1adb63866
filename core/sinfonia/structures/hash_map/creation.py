"""A hash map is made, and given more space, by one minitransaction each."""

from collections.abc import Sequence
from itertools import pairwise

from sinfonia.client.steps import Steps, execute, minitransaction
from sinfonia.errors import LimitExceeded
from sinfonia.structures.errors import NotFormatted
from sinfonia.structures.hash_map.layout import (
    MAP_HEADER_BYTES,
    NODE_MAX,
    PLACE_ADDRESS_MAX,
    REGIONS_MAX,
    SALT_BYTES,
    Bucket,
    BucketHead,
    MapHeader,
    Place,
    Region,
)
from sinfonia.structures.hash_map.space import REGION_HEADER_BYTES, SpacePlan, encode_region
from sinfonia.structures.settling import execute_until_known

# A page, in which some forty small entries fit: a read brings all of it.
BUCKET_BYTES = 4096
BUCKET_BYTES_MIN = 1024
BUCKET_BYTES_MAX = 1 << 20

# Buckets begin at multiples of it.
ALIGNMENT = 64


def create_hash_map(
    home: Place,
    regions: Sequence[Region],
    *,
    bucket_bytes: int = BUCKET_BYTES,
    salt: bytes = b"",
) -> Steps[MapHeader]:
    """Make a map with its header at ``home``: MAP_HEADER_BYTES of zeros.

    What the regions hold is lost.  Several at one memory node share the load of allocation there.
    ``salt``: up to 16 random bytes, if the keys come from strangers.  If this very map is there
    already, that is all right.  Raises LimitExceeded, NotFormatted (something else is there), and
    OutcomeUnknown: create it again.
    """
    _check(home, regions, bucket_bytes, salt)
    root = Place(regions[0].node, regions[0].address + REGION_HEADER_BYTES)
    header = MapHeader(1, bucket_bytes, salt.ljust(SALT_BYTES, b"\0"), root, tuple(regions))
    t = minitransaction()
    t.compare(home.node, home.address, bytes(MAP_HEADER_BYTES))
    t.write(home.node, home.address, header.encode())
    for region in regions:
        t.write(region.node, region.address, encode_region(region))
    # The root is taken as any bucket is.
    start = {Place(*region[:2]): encode_region(region) for region in regions}
    space = SpacePlan(regions, start)
    assert space.take(bucket_bytes, [regions[0]]) == root
    t.write(root.node, root.address, Bucket(BucketHead(root, 0, 1, 0, 0, 0)).encode())
    space.add_words(t)
    result = yield from execute_until_known(t)
    if result.committed:
        return header
    found = MapHeader.decode(result.failed_compares[0].found)
    if (found.bucket_bytes, found.salt, found.root) != (bucket_bytes, header.salt, root):
        raise NotFormatted(f"another hash map is at {home.address} of memory node {home.node}")
    return found


def read_header(home: Place) -> Steps[MapHeader]:
    """The header of the map at ``home``.  Raises NotFormatted."""
    t = minitransaction()
    t.read(home.node, home.address, MAP_HEADER_BYTES)
    return MapHeader.decode((yield from execute(t)).reads[0])


def add_region(home: Place, region: Region) -> Steps[MapHeader]:
    """Give the map more space, on any memory node; what the region holds is lost.

    Clients that do not know of it learn of it when they find no room.  Adding it again is all
    right.  Raises LimitExceeded, NotFormatted, and OutcomeUnknown: add it again.
    """
    while True:
        old = yield from read_header(home)
        if region in old.regions:
            return old
        _check(home, (*old.regions, region), old.bucket_bytes, old.salt)
        new = MapHeader(
            old.version + 1, old.bucket_bytes, old.salt, old.root, (*old.regions, region)
        )
        t = minitransaction()
        t.compare(home.node, home.address, old.encode())
        t.write(home.node, home.address, new.encode())
        t.write(region.node, region.address, encode_region(region))
        if (yield from execute_until_known(t)).committed:
            return new


def _check(home: Place, regions: Sequence[Region], bucket_bytes: int, salt: bytes) -> None:
    if not BUCKET_BYTES_MIN <= bucket_bytes <= BUCKET_BYTES_MAX or bucket_bytes % ALIGNMENT:
        raise LimitExceeded(
            f"a bucket has {BUCKET_BYTES_MIN} to {BUCKET_BYTES_MAX} bytes, a multiple of"
            f" {ALIGNMENT}, not {bucket_bytes}"
        )
    if len(salt) > SALT_BYTES:
        raise LimitExceeded(f"a salt has at most {SALT_BYTES} bytes")
    if not 0 < len(regions) <= REGIONS_MAX:
        raise LimitExceeded(f"a hash map has 1 to {REGIONS_MAX} regions, not {len(regions)}")
    extents = sorted([Region(*home, MAP_HEADER_BYTES), *regions])
    for region in extents:
        end = region.address + region.length
        if not 0 <= region.node <= NODE_MAX or region.address < 0 or end > PLACE_ADDRESS_MAX:
            raise LimitExceeded(f"{region} is beyond what a hash map can name")
    for before, after in pairwise(extents):
        if before.node == after.node and before.address + before.length > after.address:
            raise LimitExceeded(f"{before} and {after} of a hash map overlap")
    least = REGION_HEADER_BYTES + bucket_bytes
    if min(region.length for region in regions) < least:
        raise LimitExceeded(f"a region of this hash map has at least {least} bytes")
