"""What a client asked and was told, in the words of a history."""

from typing import Any

from sinfonia.addresses import MemoryNodeId
from sinfonia.checking.history import (
    Added,
    Appended,
    Compared,
    Conditioned,
    Extent,
    Found,
    Located,
    Update,
)
from sinfonia.minitransaction import AddItem, Minitransaction, Result
from sinfonia.rings import SLOT_HEADER_BYTES, RingHeader

# The shape of all rings of a run: so small that they are full all the time.
PAYLOAD_BYTES = (4, 8, 12)
RING = RingHeader(SLOT_HEADER_BYTES + max(PAYLOAD_BYTES), slots=3)


def compare_items(minitransaction: Minitransaction[Any]) -> tuple[Compared, ...]:
    """The compare items and conditions in order of addition."""
    found: list[Compared] = []
    for node, position in minitransaction.compare_places:
        items = minitransaction.items[node]
        if position >= 0:
            item = items.compares[position]
            found.append(Located(node, item.address, item.expected))
        else:
            check = items.conditions[~position]
            found.append(
                Conditioned(node, check.address, check.operand, check.relation, check.mask)
            )
    return tuple(found)


def read_items(minitransaction: Minitransaction[Any]) -> tuple[Extent, ...]:
    """The read items in order of addition."""
    found = []
    for node, position in minitransaction.read_places:
        item = minitransaction.items[node].reads[position]
        found.append(Extent(node, item.address, item.length))
    return tuple(found)


def write_items(minitransaction: Minitransaction[Any]) -> tuple[Located, ...]:
    """The write items, those of one memory node in order of addition."""
    return tuple(
        Located(node, item.address, item.data)
        for node, items in minitransaction.items.items()
        for item in items.writes
    )


def update_items(minitransaction: Minitransaction[Any]) -> tuple[Update, ...]:
    """The add and append items, those of one memory node in order of addition."""
    return tuple(
        Added(node, item.address, item.width, item.delta)
        if isinstance(item, AddItem)
        else Appended(node, item.address, item.data, RING.slot_bytes, RING.slots)
        for node, items in minitransaction.items.items()
        for item in items.updates
    )


def failed_items(result: Result) -> tuple[Found, ...]:
    """The compare items and conditions that did not hold."""
    return tuple(Found(failed.index, failed.found) for failed in result.failed_compares)


def answers(minitransaction: Minitransaction[Any], result: Result) -> tuple[int, ...]:
    """What a committed minitransaction was told, for each of its ``update_items``."""
    if not result.committed:
        return ()
    told = dict(zip(minitransaction.add_places, result.added, strict=True))
    told |= zip(minitransaction.append_places, result.positions, strict=True)
    return tuple(told[place] for place in _update_places(minitransaction))


def full_rings(minitransaction: Minitransaction[Any], result: Result) -> tuple[int, ...]:
    """Which of its ``update_items`` met a full ring."""
    places = _update_places(minitransaction)
    met = [minitransaction.append_places[index] for index in result.full_rings]
    return tuple(places.index(place) for place in met)


def _update_places(minitransaction: Minitransaction[Any]) -> list[tuple[MemoryNodeId, int]]:
    return [
        (node, position)
        for node, items in minitransaction.items.items()
        for position in range(len(items.updates))
    ]
