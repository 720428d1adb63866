"""A map grows by one bucket at a time, in one minitransaction of the client that meets a full one.

The new bucket, the half that stays, the pointer between them and the space taken are written
together, if the old bucket still has the version that was read.  A client that dies before has done
nothing; of two clients that try, one does it, and both look again.
"""

from sinfonia.client.steps import Steps, execute, minitransaction
from sinfonia.errors import OutcomeUnknown
from sinfonia.structures.errors import NoSpace
from sinfonia.structures.hash_map.directory import Directory
from sinfonia.structures.hash_map.drafts import add_change, add_version
from sinfonia.structures.hash_map.layout import DEPTH_MAX, Bucket, MapHeader, Mark, Place
from sinfonia.structures.hash_map.space import SpacePlan, compute

# Spreads successive buckets over the regions; the golden ratio in 64 bits.
_SPREAD = 0x9E3779B97F4A7C15


def split(header: MapHeader, bucket: Bucket, mark: Mark) -> Steps[bool]:
    """Give half of ``bucket``, as it was read, to a new one; whether this did it.

    Two round trips.  If it is False or unknown, the caller reads the bucket again.  Raises NoSpace,
    and NotExecuted (definite).
    """
    head = bucket.head
    if head.depth >= DEPTH_MAX:
        raise NoSpace(f"the bucket at {head.place} cannot be split further: too many keys collide")
    number = head.prefix | 1 << head.depth
    chance = number * _SPREAD % (1 << 64) >> 32

    def take(space: SpacePlan) -> tuple[Place, SpacePlan]:
        order = space.order(-1, chance)
        return space.take(header.bucket_bytes, order), space

    place, space = yield from compute(take, header.regions)
    stays, goes = bucket.split(place, mark)
    t = minitransaction()
    add_version(t, bucket)
    add_change(t, bucket, stays)
    t.write(place.node, place.address, goes.encode())
    space.add_items(t)
    try:
        return (yield from execute(t)).committed
    except OutcomeUnknown:
        # It happened or not; no other change depends on which.
        return False


def grow_to(header: MapHeader, directory: Directory, depth: int, mark: Mark) -> Steps[int]:
    """Split until every bucket has ``depth``: 2**depth of them at least; returns how many it split.

    For maps that are going to be large: they begin on all their memory nodes.  A client may stop
    at any time, and any client go on.  Raises as ``split``.
    """
    done = 0
    for prefix in range(1 << min(depth, DEPTH_MAX)):
        while True:
            bucket = (yield from directory.locate([prefix]))[prefix]
            if bucket.head.depth >= depth:
                break
            done += yield from split(header, bucket, mark)
    return done
