"""A volume for a test: over a model cluster, with a clock that ticks, and fsck at the end."""

import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import trio
import trio.testing

from sinfonia.minitransaction import Minitransaction
from sinfonia.testing.model import ModelCluster
from sinfoniafs.attributes import DirectoryEntry, InodeNumber, Owner
from sinfoniafs.fsck.check import Report, check_volume
from sinfoniafs.mkfs import make_volume
from sinfoniafs.volume import contents, namespace
from sinfoniafs.volume.mounting import close_volume, open_volume
from sinfoniafs.volume.volume import Volume

MIB: Final = 1024 * 1024
OWNER: Final = Owner(uid=1000, gid=100)
DEADLINE_S: Final = 60.0


class Clock:
    """Every look at it is later than the one before."""

    def __init__(self) -> None:
        self.now = 1_000_000_000

    def __call__(self) -> int:
        self.now += 1
        return self.now


@dataclass(frozen=True)
class Site:
    """A cluster with a volume on it, and mounts of that."""

    cluster: ModelCluster
    clock: Clock
    mounts: tuple[Volume, ...]

    @property
    def volume(self) -> Volume:
        return self.mounts[0]

    @property
    def root(self) -> InodeNumber:
        return self.volume.root

    async def mount(self, seed: int = 99) -> Volume:
        """One more mount, which the caller closes."""
        return await open_volume(self.cluster, clock=self.clock, rng=random.Random(seed))

    async def count(self, operation: Awaitable[object]) -> int:
        """How many minitransactions an operation takes."""
        before = self.cluster.statistics.executed
        await operation
        return self.cluster.statistics.executed - before

    async def file(self, name: bytes = b"file", data: bytes = b"") -> InodeNumber:
        made = await namespace.create(self.volume, self.root, name, mode=0o644, owner=OWNER)
        if data:
            await contents.write(self.volume, made.inode, 0, data)
        return made.inode

    async def directory(self, name: bytes = b"directory") -> InodeNumber:
        return (await namespace.mkdir(self.volume, self.root, name, mode=0o755, owner=OWNER)).inode

    async def names(self, directory: InodeNumber | None = None) -> set[bytes]:
        return {entry.name for entry in await list_directory(self.volume, directory or self.root)}


async def list_directory(
    volume: Volume, directory: InodeNumber, limit: int = 100
) -> list[DirectoryEntry]:
    found: list[DirectoryEntry] = []
    cookie = 0
    while entries := await namespace.read_directory(volume, directory, cookie, limit):
        found += entries
        cookie = entries[-1].cookie
    return found


async def open_site(*, mounts: int, memory_nodes: int, capacity: int) -> Site:
    cluster = ModelCluster(memory_nodes=memory_nodes, capacity=capacity)
    clock = Clock()
    await make_volume(cluster, clock=clock, rng=random.Random(0))
    volumes = [
        await open_volume(cluster, clock=clock, rng=random.Random(seed))
        for seed in range(1, mounts + 1)
    ]
    return Site(cluster, clock, tuple(volumes))


async def copy_site(site: Site) -> Site:
    """A site with a copy of what the memory nodes of ``site`` hold, and one new mount."""
    memory = site.cluster.memory
    cluster = ModelCluster(memory_nodes=len(memory), capacity=max(map(len, memory.values())))
    for memory_node, held in memory.items():
        cluster.memory[memory_node][:] = held
    volume = await open_volume(cluster, clock=site.clock, rng=random.Random(1))
    return Site(cluster, site.clock, (volume,))


async def close_site(site: Site) -> Report:
    """Unmount everything; the volume must be sound, and hold nothing back."""
    for volume in site.mounts:
        volume.check_invariants()
        await close_volume(volume)
    report = await check_volume(site.cluster)
    assert report.clean, report.problems
    assert (report.orphans, report.blocks_reserved, report.inodes_reserved) == (0, 0, 0)
    return report


def on_volume(
    body: Callable[[Site], Awaitable[None]],
    *,
    mounts: int = 1,
    memory_nodes: int = 1,
    capacity: int = 32 * MIB,
    virtual_time: bool = False,
) -> None:
    """Run ``body`` on a new volume; in the end, fsck must find it clean.

    With ``virtual_time``, waiting takes none.
    """

    async def main() -> None:
        with trio.fail_after(math.inf if virtual_time else DEADLINE_S):
            site = await open_site(mounts=mounts, memory_nodes=memory_nodes, capacity=capacity)
            await body(site)
            await close_site(site)

    clock = trio.testing.MockClock(autojump_threshold=0) if virtual_time else None
    trio.run(main, clock=clock)


class MountKilled(Exception):
    """The mount was killed in the middle of an operation."""


class Bomb:
    """Kills the mount that executes minitransactions, after a number of them."""

    def __init__(self, site: Site, survived: int) -> None:
        self._cluster = site.cluster
        self._left = survived
        self.exploded = False

    def __enter__(self) -> Self:
        self._cluster.before_execute = self._tick
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._cluster.before_execute = None
        return exc_type is MountKilled

    def _tick(self, _minitransaction: Minitransaction[Any]) -> None:
        if not self._left:
            self.exploded = True
            raise MountKilled
        self._left -= 1
