"""A volume is opened only if all its superblocks are there, readable, and of one volume."""

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.api import ClusterApi
from sinfoniafs.errors import FormatError
from sinfoniafs.format.layout import NODE_SIZE_MIN, Layout
from sinfoniafs.format.superblock import MAGIC, SUPERBLOCK_SIZE, Superblock


async def read_superblocks(cluster: ClusterApi, name: str) -> tuple[Superblock, Layout]:
    """The home node's superblock, and the layout of all memory nodes.

    Raises FormatError, saying what is wrong and what to do.
    """
    copies = await _read_all(cluster)
    if not any(image.startswith(MAGIC) for image in copies.values()):
        raise FormatError("the cluster holds no SinfoniaFS volume: make one with `sinfoniafs mkfs`")
    superblocks: dict[MemoryNodeId, Superblock] = {}
    for memory_node, image in copies.items():
        if image.startswith(MAGIC):
            superblocks[memory_node] = Superblock.decode(image)
    some = next(iter(superblocks.values()))
    if some.name != name:
        raise FormatError(f"the cluster holds volume {some.name!r}, not {name!r}")
    for memory_node in some.nodes:
        if memory_node not in cluster.nodes:
            raise FormatError(
                f"volume {name!r} needs memory node {memory_node}, which is not there"
            )
        copy = superblocks.get(memory_node)
        if copy is None or copy.uuid != some.uuid or copy.layout.node != memory_node:
            raise FormatError(
                f"memory node {memory_node} does not hold its part of volume {name!r}: restore it"
                " from a backup"
            )
    return superblocks[some.home], Layout(
        superblocks[memory_node].layout for memory_node in some.nodes
    )


async def _read_all(cluster: ClusterApi) -> dict[MemoryNodeId, bytes]:
    """The superblock of each memory node that is large enough to have one."""
    large = [
        memory_node for memory_node, info in cluster.nodes.items() if info.capacity >= NODE_SIZE_MIN
    ]
    reading = cluster.minitransaction()
    for memory_node in large:
        reading.read(memory_node, 0, SUPERBLOCK_SIZE)
    return dict(zip(large, (await cluster.execute(reading)).reads, strict=True))
