"""The minitransactions of the paper's Figures 14 and 15: compare-and-swaps that always succeed.

Memory is all zeros, and each compare-and-swap puts a zero in the place of a zero: what is measured
is the protocol, and the only thing that can be in the way is a lock.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.steps import minitransaction as unbound_minitransaction
from sinfonia.minitransaction import Minitransaction
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry

# As in section 7.1.3: so many items of so many bytes at each memory node.
ITEMS_PER_NODE = 1_000_000
ITEM_BYTES = 4
CAPACITY = ITEMS_PER_NODE * ITEM_BYTES

ZERO = bytes(ITEM_BYTES)


@dataclass(frozen=True, slots=True)
class Workload:
    """``compare_and_swaps`` of random items, in turn at each of ``spread`` random memory nodes."""

    memory_nodes: int
    spread: int
    compare_and_swaps: int

    def __post_init__(self) -> None:
        assert 1 <= self.spread <= min(self.memory_nodes, self.compare_and_swaps)

    def minitransaction(self, rng: random.Random) -> Minitransaction[Any]:
        """The next one."""
        chosen = rng.sample(range(self.memory_nodes), self.spread)
        return minitransaction_of(
            (chosen[number % self.spread], rng.randrange(ITEMS_PER_NODE))
            for number in range(self.compare_and_swaps)
        )


def minitransaction_of(places: Iterable[tuple[int, int]]) -> Minitransaction[Any]:
    """A compare-and-swap at each (memory node, number of the item)."""
    minitransaction = unbound_minitransaction()
    for node, number in places:
        address = number * ITEM_BYTES
        minitransaction.compare(node, address, ZERO)
        minitransaction.write(node, address, ZERO)
    return minitransaction


def directory_of(memory_nodes: int) -> Directory:
    """So many memory nodes, all in their first life."""
    entries = [
        MemoryNodeEntry(
            node=MemoryNodeId(node),
            endpoint=f"node{node}",
            capacity=CAPACITY,
            mode="RAM",
            identity=f"node{node}",
            incarnation=1,
        )
        for node in range(memory_nodes)
    ]
    return Directory(version=1, epoch=0, cluster="scale", nodes=entries)
