"""mkfs destroys data only if it is told to, and a volume can be opened only once it is complete.

Old superblocks are erased first, then maps and session tables are cleared, then the root directory
is made and all superblocks appear in one minitransaction.
"""

import hashlib
import random
import stat
import time
from collections.abc import Callable, Iterable
from typing import Final

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.api import ClusterApi
from sinfoniafs.attributes import InodeNumber
from sinfoniafs.errors import FormatError
from sinfoniafs.format.inode import Inode
from sinfoniafs.format.layout import (
    FORMAT,
    INODE_MAP_ADDRESS,
    SESSION_TABLE_ADDRESS,
    USED,
    Layout,
    NodeLayout,
    number,
)
from sinfoniafs.format.superblock import (
    HASH_KEY_SIZE,
    MAGIC,
    NAME_MAX,
    NODES_MAX,
    SUPERBLOCK_SIZE,
    Superblock,
)

# Cleared a part at a time; parts that are zero already are not written, so that they stay sparse.
PART_SIZE: Final = 1024 * 1024
ROOT_INDEX: Final = 1


async def make_volume(
    cluster: ClusterApi,
    *,
    name: str = "default",
    size_per_node: int | None = None,
    overwrite: bool = False,
    owner: tuple[int, int] = (0, 0),
    clock: Callable[[], int] = time.time_ns,
    rng: random.Random | None = None,
) -> Superblock:
    """Make an empty volume over all memory nodes, of their whole size unless told otherwise.

    Raises FormatError if the cluster is too small, or holds something and ``overwrite`` is not
    set.  The caller sees to it that no mount has the old volume.
    """
    if not 0 < len(name.encode()) <= NAME_MAX:
        raise FormatError(f"the name of a volume has 1 to {NAME_MAX} bytes")
    if len(cluster.nodes) > NODES_MAX:
        raise FormatError(f"a volume has at most {NODES_MAX} memory nodes")
    layouts = [
        NodeLayout.of_size(memory_node, _size_of(memory_node, info.capacity, size_per_node))
        for memory_node, info in sorted(cluster.nodes.items())
    ]
    await _erase_superblocks(cluster, overwrite=overwrite)
    for layout in layouts:
        await _clear(cluster, layout)
    rng = rng or random.SystemRandom()
    superblocks = _superblocks(name, layouts, rng, clock())
    root = _root(superblocks[0], owner, rng)
    finish = cluster.minitransaction()
    finish.write(*Layout(layouts).inode_slot(root.number), root.encode())
    finish.write(*Layout(layouts).inode_map(root.number), USED)
    for superblock in superblocks:
        finish.write(superblock.layout.node, 0, superblock.encode())
    await cluster.execute(finish)
    return superblocks[0]


def _size_of(memory_node: MemoryNodeId, capacity: int, wanted: int | None) -> int:
    if wanted is not None and wanted > capacity:
        raise FormatError(f"memory node {memory_node} has {capacity} bytes, not {wanted}")
    return capacity if wanted is None else wanted


async def _erase_superblocks(cluster: ClusterApi, *, overwrite: bool) -> None:
    looking = cluster.minitransaction()
    for memory_node in cluster.nodes:
        looking.read(memory_node, 0, SUPERBLOCK_SIZE)
    found = dict(zip(cluster.nodes, (await cluster.execute(looking)).reads, strict=True))
    occupied = [memory_node for memory_node, image in found.items() if any(image)]
    if occupied and not overwrite:
        what = "a SinfoniaFS volume" if found[occupied[0]].startswith(MAGIC) else "other data"
        raise FormatError(
            f"memory node {occupied[0]} holds {what}: to destroy that and overwrite it, use --force"
        )
    erasing = cluster.minitransaction()
    for memory_node in occupied:
        erasing.compare(memory_node, 0, found[memory_node])
        erasing.write(memory_node, 0, bytes(SUPERBLOCK_SIZE))
    if not (await cluster.execute(erasing)).committed:
        raise FormatError("another process writes to the memory nodes at the same time: try again")


async def _clear(cluster: ClusterApi, layout: NodeLayout) -> None:
    """Clear the session table and the maps, and mark what the format itself takes."""
    for start in range(SESSION_TABLE_ADDRESS, layout.inode_area_address, PART_SIZE):
        length = min(PART_SIZE, layout.inode_area_address - start)
        if any(await cluster.read(layout.node, start, length)):
            await cluster.write(layout.node, start, bytes(length))
    await cluster.write(layout.node, INODE_MAP_ADDRESS, FORMAT)  # index 0 is no inode
    for start in range(0, layout.first_data_block, PART_SIZE):
        count = min(PART_SIZE, layout.first_data_block - start)
        await cluster.write(layout.node, layout.block_map_address + start, FORMAT * count)


def _superblocks(
    name: str, layouts: Iterable[NodeLayout], rng: random.Random, now: int
) -> list[Superblock]:
    layouts = list(layouts)
    uuid = rng.randbytes(16)
    hash_key = hashlib.blake2b(rng.randbytes(32), digest_size=HASH_KEY_SIZE).digest()
    nodes = tuple(layout.node for layout in layouts)
    return [
        Superblock(
            name=name,
            uuid=uuid,
            hash_key=hash_key,
            root=InodeNumber(number(nodes[0], ROOT_INDEX)),
            created_ns=now,
            layout=layout,
            nodes=nodes,
        )
        for layout in layouts
    ]


def _root(superblock: Superblock, owner: tuple[int, int], rng: random.Random) -> Inode:
    uid, gid = owner
    root = Inode.new(
        superblock.root,
        iversion=rng.getrandbits(64),
        generation=rng.getrandbits(32),
        mode=stat.S_IFDIR | 0o755,
        uid=uid,
        gid=gid,
        now=superblock.created_ns,
    )
    return root._replace(nlink=2, parent=superblock.root)
