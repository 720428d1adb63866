"""How full a volume is: the free bytes of its maps, counted."""

from sinfonia.client.api import ClusterApi
from sinfoniafs.allocator import Kind
from sinfoniafs.attributes import VolumeStatistics
from sinfoniafs.format.directory import NAME_MAX
from sinfoniafs.format.layout import BLOCK_SIZE, FREE, INODE_MAP_ADDRESS, Layout
from sinfoniafs.volume.volume import Volume

# The maps of a memory node of 16 GiB are 1 MiB each; larger ones are read in several parts.
PART_SIZE = 4 * 1024 * 1024


async def count_free(cluster: ClusterApi, layout: Layout, kind: Kind) -> int:
    """How many inodes or blocks of all memory nodes are free."""
    parts = []
    for memory_node, each in layout.nodes.items():
        inodes = kind is Kind.INODE
        address = INODE_MAP_ADDRESS if inodes else each.block_map_address
        size = each.inodes if inodes else each.blocks
        for start in range(0, size, PART_SIZE):
            part = cluster.minitransaction()
            part.read(memory_node, address + start, min(PART_SIZE, size - start))
            parts.append(part)
    results = await cluster.execute_many(parts)
    return sum(result.reads[0].count(FREE) for result in results)


async def volume_statistics(volume: Volume) -> VolumeStatistics:
    """How full the volume is; what other sessions hold in reserve counts as used."""
    layouts = volume.layout.nodes.values()
    return VolumeStatistics(
        block_size=BLOCK_SIZE,
        blocks=sum(each.blocks - each.first_data_block for each in layouts),
        blocks_free=await count_free(volume.cluster, volume.layout, Kind.BLOCK)
        + volume.allocator.in_reserve(Kind.BLOCK),
        inodes=sum(each.inodes - 1 for each in layouts),
        inodes_free=await count_free(volume.cluster, volume.layout, Kind.INODE)
        + volume.allocator.in_reserve(Kind.INODE),
        name_max=NAME_MAX,
    )
