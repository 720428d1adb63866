"""An audit of the space of a hash map, by nothing but what is written there."""

from sinfonia.client.steps import Steps, execute, minitransaction
from sinfonia.structures import HashMap, Place
from sinfonia.structures.hash_map.layout import CLASS_MAX, CLASS_MIN, Extent
from sinfonia.structures.hash_map.space import REGION_HEADER_BYTES, free_bytes


def audit(map_: HashMap) -> Steps[int]:
    """Every byte that was handed out is one bucket's or extent's, in use or in one list of those.

    Returns how many buckets there are.
    """
    used: list[tuple[int, int, int]] = []
    waiting = [map_.header.root]
    buckets = 0
    while waiting:
        place = waiting.pop()
        bucket = (yield from map_.directory.read([place]))[place]
        buckets += 1
        used.append((*place, map_.header.bucket_bytes))
        waiting += [Place.unpack(child) for child in bucket.head.children if child]
        for key, entry in bucket.entries.items():
            assert entry.hash == map_.header.hash(key)
            assert bucket.head.covers(entry.hash)
            assert entry.version <= bucket.head.version
            if isinstance(entry.value, Extent):
                used.append((*entry.value.place, 1 << entry.value.size_class))
    for region in map_.header.regions:
        header = yield from read(Place(region.node, region.address), REGION_HEADER_BYTES)
        used.append((region.node, region.address, REGION_HEADER_BYTES))
        for number in range(CLASS_MIN, CLASS_MAX + 1):
            start = 32 + 8 * (number - CLASS_MIN)
            free = int.from_bytes(header[start : start + 8], "little")
            while free:
                place = Place.unpack(free)
                assert place.node == region.node
                used.append((*place, 1 << number))
                free = int.from_bytes((yield from read(place, 8)), "little")
        at = region.address
        for _, address, length in sorted(each for each in used if each[0] == region.node):
            if region.address <= address < region.address + region.length:
                assert address == at, f"bytes {at} to {address} of node {region.node} are lost"
                at += length
        assert at == region.address + region.length - free_bytes(header)
    return buckets


def read(place: Place, length: int) -> Steps[bytes]:
    t = minitransaction()
    t.read(place.node, place.address, length)
    return (yield from execute(t)).reads[0]
