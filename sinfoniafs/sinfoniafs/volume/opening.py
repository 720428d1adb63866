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
    for node, image in copies.items():
        if image.startswith(MAGIC):
            superblocks[node] = Superblock.decode(image)
    some = next(iter(superblocks.values()))
    if some.name != name:
        raise FormatError(f"the cluster holds volume {some.name!r}, not {name!r}")
    for node in some.nodes:
        if node not in cluster.nodes:
            raise FormatError(f"volume {name!r} needs memory node {node}, which is not there")
        copy = superblocks.get(node)
        if copy is None or copy.uuid != some.uuid or copy.layout.node != node:
            raise FormatError(
                f"memory node {node} does not hold its part of volume {name!r}: restore it from a"
                " backup"
            )
    return superblocks[some.home], Layout(superblocks[node].layout for node in some.nodes)


async def _read_all(cluster: ClusterApi) -> dict[MemoryNodeId, bytes]:
    """The superblock of each memory node that is large enough to have one."""
    large = [node for node, info in cluster.nodes.items() if info.capacity >= NODE_SIZE_MIN]
    reading = cluster.minitransaction()
    for node in large:
        reading.read(node, 0, SUPERBLOCK_SIZE)
    return dict(zip(large, (await cluster.execute(reading)).reads, strict=True))
