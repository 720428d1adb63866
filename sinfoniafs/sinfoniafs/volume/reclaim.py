"""What a dead session held is found by the marks it left, and given back.

The order keeps every crash of the reclaimer harmless: fence the session on all memory nodes; free
what its slot holds in reserve; unregister it from all inodes; free the slot.  A slot is freed only
when no mark of it is left, so that the next session in it finds none.  Orphans that no session has
open any more are freed last.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import anyio

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.api import ClusterApi
from sinfonia.minitransaction import ITEMS_MAX
from sinfoniafs.attributes import InodeNumber
from sinfoniafs.errors import SessionLost, StaleHandle
from sinfoniafs.format.inode import opener_bit, opener_place
from sinfoniafs.format.layout import (
    FREE,
    INODE_MAP_ADDRESS,
    ORPHAN,
    RESERVED_FIRST,
    USED,
    Layout,
    number,
)
from sinfoniafs.format.superblock import Superblock
from sinfoniafs.session import Session, SessionRecord, fence_session, free_slot, read_sessions
from sinfoniafs.volume.lifetime import reap
from sinfoniafs.volume.volume import Volume

T = TypeVar("T")

# A part of a map is read at a time.
PART_SIZE: Final = 256 * 1024
# One minitransaction compares and writes this many places.
PLACES_MAX: Final = ITEMS_MAX // 2 - 8


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What was given back."""

    sessions: int = 0
    blocks: int = 0
    inodes: int = 0
    orphans: int = 0

    def __add__(self, other: "Reclaimed") -> "Reclaimed":
        return Reclaimed(
            sessions=self.sessions + other.sessions,
            blocks=self.blocks + other.blocks,
            inodes=self.inodes + other.inodes,
            orphans=self.orphans + other.orphans,
        )


class SessionWatch:
    """Watches other sessions' heartbeats, and reclaims what dead sessions held."""

    def __init__(self, volume: Volume, silence: float) -> None:
        self._volume = volume
        self._silence = silence
        self._seen: dict[tuple[int, int, int], float] = {}

    async def look(self) -> None:
        """Look once; to be called from time to time."""
        volume = self._volume
        now = anyio.current_time()
        records = await read_sessions(volume.cluster, volume.superblock)
        others = [record for record in records if record.slot != volume.session.slot]
        keys = [(record.slot, record.identity, record.heartbeat) for record in others]
        self._seen = {key: self._seen.get(key, now) for key in keys}
        for record, key in zip(others, keys, strict=True):
            if now - self._seen[key] > self._silence:
                await reclaim_session(volume.cluster, volume.superblock, volume.layout, record)
                await reap_orphans(volume)


async def reclaim_session(
    cluster: ClusterApi, superblock: Superblock, layout: Layout, record: SessionRecord
) -> Reclaimed:
    """Give back all that a dead session held; nothing if it turns out to be alive."""
    fenced = await fence_session(cluster, superblock, record)
    if fenced is None:
        return Reclaimed()
    mark = bytes([RESERVED_FIRST + record.slot])
    blocks = inodes = 0
    for memory_node, each in layout.nodes.items():
        inodes += await _free_marked(
            cluster, memory_node, address=INODE_MAP_ADDRESS, size=each.inodes, mark=mark
        )
        blocks += await _free_marked(
            cluster, memory_node, address=each.block_map_address, size=each.blocks, mark=mark
        )
    await unregister_from_all(cluster, layout, record.slot)
    await free_slot(cluster, superblock, fenced)
    return Reclaimed(sessions=1, blocks=blocks, inodes=inodes)


async def reap_orphans(volume: Volume) -> int:
    """Free all orphans that no session has open; returns how many were freed."""
    before = await find_inodes(volume.cluster, volume.layout, ORPHAN)
    for inode in before:
        with contextlib.suppress(StaleHandle):  # another mount has freed it
            await reap(volume, inode)
    return len(before) - len(await find_inodes(volume.cluster, volume.layout, ORPHAN))


async def find_inodes(cluster: ClusterApi, layout: Layout, states: bytes) -> list[InodeNumber]:
    """The inodes whose byte in the inode map is one of ``states``."""
    pattern = re.compile(b"[" + re.escape(states) + b"]")
    found: list[InodeNumber] = []
    for memory_node, each in layout.nodes.items():
        for start in range(0, each.inodes, PART_SIZE):
            length = min(PART_SIZE, each.inodes - start)
            image = await cluster.read(memory_node, INODE_MAP_ADDRESS + start, length)
            indexes = (start + match.start() for match in pattern.finditer(image))
            found += [InodeNumber(number(memory_node, index)) for index in indexes]
    return found


async def _free_marked(
    cluster: ClusterApi, memory_node: MemoryNodeId, *, address: int, size: int, mark: bytes
) -> int:
    """Turn all bytes of a map that are ``mark`` to FREE; returns how many."""
    marked = re.compile(re.escape(mark) + b"+")
    freed = 0
    for start in range(0, size, PART_SIZE):
        image = await cluster.read(memory_node, address + start, min(PART_SIZE, size - start))
        for batch in _batches([match.span() for match in marked.finditer(image)]):
            change = cluster.minitransaction()
            for first, end in batch:
                change.compare(memory_node, address + start + first, mark * (end - first))
                change.write(memory_node, address + start + first, FREE * (end - first))
                freed += end - first
            # The session is fenced: only another reclaimer may change its marks meanwhile.
            await cluster.execute(change)
    return freed


async def unregister_from_all(
    cluster: ClusterApi, layout: Layout, slot: int, *, living: Session | None = None
) -> None:
    """Remove the session in ``slot`` from the openers of all inodes.

    ``living`` is that session if it is this mount's own.  Raises SessionLost if it was fenced.
    """
    places = [
        (memory_node, address + opener_place(slot))
        for memory_node, address in map(
            layout.inode_slot, await find_inodes(cluster, layout, USED + ORPHAN)
        )
    ]
    bit = opener_bit(slot % 8)
    for batch in _batches(places):
        while True:
            looking = cluster.minitransaction()
            for memory_node, address in batch:
                looking.read(memory_node, address, 1)
            reads = (await cluster.execute(looking)).reads
            change = cluster.minitransaction()
            for (memory_node, address), (found,) in zip(batch, reads, strict=True):
                if found & bit:
                    change.compare(memory_node, address, bytes([found]))
                    change.write(memory_node, address, bytes([found & ~bit]))
            fences = [
                living.fence(change, memory_node) for memory_node in {n for n, _ in batch} if living
            ]
            result = await cluster.execute(change)
            if any(each.index in fences for each in result.failed_compares):
                raise SessionLost("this mount was taken for dead")
            # A live session whose bit is in the same byte may have changed it: look again.
            if result.committed:
                break


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), PLACES_MAX):
        yield items[start : start + PLACES_MAX]
