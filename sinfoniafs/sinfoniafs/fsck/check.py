"""fsck believes nothing: it reads every inode, directory and map, and counts for itself.

fsck proves that every block and inode is used once, by something that can be reached from the root,
and that the maps, link counts, sizes, block counts, parents and hash order say so too.  On a quiet
volume the result is exact.  On a mounted volume, a change between two of fsck's reads may look like
a problem; so fsck looks again, and reports only the problems that it found every time.

Orphans and what sessions hold in reserve are no problems: fsck counts them, and with ``reclaim`` it
first gives back those of dead sessions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import anyio

from sinfonia.client.api import ClusterApi
from sinfoniafs.format.layout import SESSION_SIZE, SESSIONS_MAX, Layout, session_address
from sinfoniafs.format.superblock import Superblock
from sinfoniafs.fsck.directories import check_directories
from sinfoniafs.fsck.inodes import check_inodes
from sinfoniafs.fsck.maps import Maps
from sinfoniafs.session import IDENTITY, SessionRecord, read_sessions
from sinfoniafs.volume.mounting import DEFAULT_NAME, close_volume, open_volume
from sinfoniafs.volume.opening import read_superblocks
from sinfoniafs.volume.reclaim import Reclaimed, reap_orphans, reclaim_session

Progress = Callable[[str, int, int], None]

# How long a session's heartbeat must stand still before fsck takes it for dead: several beats.
PATIENCE_S: Final = 10.0

# A mounted volume with problems is checked this many times, this far apart: a mount frees what it
# has closed with its heartbeat, so a problem that outlives two heartbeats was not made by a mount.
PASSES: Final = 3
BETWEEN_PASSES_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Report:
    """What fsck found.  ``reclaimed`` is what dead sessions held, if fsck was told to reclaim."""

    problems: list[str] = field(default_factory=list)
    files: int = 0
    directories: int = 0
    bytes: int = 0
    blocks_used: int = 0
    orphans: int = 0
    blocks_reserved: int = 0
    inodes_reserved: int = 0
    sessions: tuple[SessionRecord, ...] = ()
    reclaimed: Reclaimed = field(default_factory=Reclaimed)

    @property
    def clean(self) -> bool:
        """Whether the volume is sound; orphans and reserves do not count against it."""
        return not self.problems


def _silent(_what: str, _done: int, _of: int) -> None:
    """The progress of a check that is not shown."""


async def check_volume(
    cluster: ClusterApi,
    *,
    name: str = DEFAULT_NAME,
    progress: Progress | None = None,
    reclaim: bool = False,
    patience_s: float = PATIENCE_S,
) -> Report:
    """Check the volume of that name; ``progress`` is told (what, done, of how many).

    Raises FormatError if the volume cannot be opened.
    """
    progress = progress or _silent
    superblock, layout = await read_superblocks(cluster, name)
    reclaimed = Reclaimed()
    if reclaim:
        reclaimed = await _reclaim(cluster, superblock, layout, patience_s)
    report = await _check_once(cluster, superblock, layout, progress)
    for _ in range(PASSES - 1):
        if report.clean or not report.sessions:
            break
        await anyio.sleep(BETWEEN_PASSES_S)
        again = await _check_once(cluster, superblock, layout, progress)
        before = set(report.problems)
        report = replace(again, problems=[each for each in again.problems if each in before])
    return replace(report, reclaimed=reclaimed)


async def _check_once(
    cluster: ClusterApi, superblock: Superblock, layout: Layout, progress: Progress
) -> Report:
    problems: list[str] = []
    sessions = await read_sessions(cluster, superblock)
    slots = {session.slot for session in sessions}
    maps = await Maps.read(cluster, layout, problems)
    await _check_session_tables(cluster, superblock, sessions, maps)
    maps.check_states(slots)
    inodes = await check_inodes(cluster, layout, maps, slots, progress)
    await check_directories(cluster, superblock, inodes, maps, progress)
    maps.check_claims()
    return Report(
        problems=problems,
        files=inodes.files,
        directories=len(inodes.directories),
        bytes=inodes.bytes,
        blocks_used=maps.blocks_claimed,
        orphans=inodes.orphans,
        blocks_reserved=maps.blocks_reserved,
        inodes_reserved=maps.inodes_reserved,
        sessions=tuple(sessions),
    )


async def _check_session_tables(
    cluster: ClusterApi, superblock: Superblock, sessions: list[SessionRecord], maps: Maps
) -> None:
    """Check that all memory nodes know the sessions that the home node knows."""
    expected = {session.slot: session.identity for session in sessions}
    for memory_node in superblock.nodes:
        table = await cluster.read(memory_node, session_address(0), SESSIONS_MAX * SESSION_SIZE)
        for slot in range(SESSIONS_MAX):
            (identity,) = IDENTITY.unpack_from(table, slot * SESSION_SIZE)
            if identity != expected.get(slot, 0):
                maps.report(
                    "session", f"memory node {memory_node}: session slot {slot} is not as at home"
                )


async def _reclaim(
    cluster: ClusterApi, superblock: Superblock, layout: Layout, patience_s: float
) -> Reclaimed:
    """Give back what is held by sessions whose heartbeat stands still for ``patience_s``."""
    before = await read_sessions(cluster, superblock)
    if before:
        await anyio.sleep(patience_s)
    dead = set(before) & set(await read_sessions(cluster, superblock))
    total = Reclaimed()
    for record in dead:
        total += await reclaim_session(cluster, superblock, layout, record)
    volume = await open_volume(cluster, name=superblock.name, mountpoint="(fsck)")
    try:
        return total + Reclaimed(orphans=await reap_orphans(volume))
    finally:
        await close_volume(volume)
