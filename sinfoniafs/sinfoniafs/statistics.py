"""How full a volume is: the free bytes of its maps, counted."""

from sinfonia.client.api import ClusterApi
from sinfoniafs.allocator import Kind
from sinfoniafs.format.layout import FREE, INODE_MAP_ADDRESS, Layout

# The maps of a memory node of 16 GiB are 1 MiB each; larger ones are read in several parts.
PART_SIZE = 4 * 1024 * 1024


async def count_free(cluster: ClusterApi, layout: Layout, kind: Kind) -> int:
    """How many inodes or blocks of all memory nodes are free."""
    parts = []
    for node, each in layout.nodes.items():
        inodes = kind is Kind.INODE
        address = INODE_MAP_ADDRESS if inodes else each.block_map_address
        size = each.inodes if inodes else each.blocks
        for start in range(0, size, PART_SIZE):
            part = cluster.minitransaction()
            part.read(node, address + start, min(PART_SIZE, size - start))
            parts.append(part)
    results = await cluster.execute_many(parts)
    return sum(result.reads[0].count(FREE) for result in results)
