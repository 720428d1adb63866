"""A mount may be killed between any two minitransactions; the volume is sound all the same."""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from sinfonia.errors import OutcomeUnknown
from sinfonia.minitransaction import Minitransaction, Result
from sinfonia.testing.model import ModelCluster
from sinfoniafs.attributes import RENAME_EXCHANGE, Changes, Place
from sinfoniafs.fsck.check import check_volume
from sinfoniafs.testing import (
    MIB,
    OWNER,
    Bomb,
    Site,
    close_site,
    copy_site,
    list_directory,
    open_site,
)
from sinfoniafs.volume import contents, lifetime, namespace
from sinfoniafs.volume.inode_attributes import get_attributes, set_attributes
from sinfoniafs.volume.mounting import close_volume
from sinfoniafs.volume.rename import rename
from sinfoniafs.volume.volume import Volume

BLOCK = 16 * 1024
# More minitransactions than any operation here takes; so that no test goes on for ever.
STEPS_MAX = 400

Operation = Callable[[Volume], Awaitable[object]]


async def open_unlink_close(volume: Volume) -> None:
    file = (await namespace.lookup(volume, volume.root, b"scattered")).inode
    await lifetime.open_file(volume, file)
    await namespace.unlink(volume, volume.root, b"scattered")
    await lifetime.close_file(volume, file)


async def create_and_open(volume: Volume) -> None:
    made = await namespace.create(
        volume, volume.root, b"new", mode=0o644, owner=OWNER, register=True
    )
    await contents.write(volume, made.inode, 0, b"x" * 300_000)


async def overwrite_and_extend(volume: Volume) -> None:
    file = (await namespace.lookup(volume, volume.root, b"scattered")).inode
    await contents.write(volume, file, 30 * BLOCK - 5, b"z" * (9 * MIB))


async def truncate(volume: Volume) -> None:
    file = (await namespace.lookup(volume, volume.root, b"scattered")).inode
    await set_attributes(volume, file, Changes(size=5))


async def fill_a_directory(volume: Volume) -> None:
    directory = (await namespace.lookup(volume, volume.root, b"one leaf")).inode
    for number in range(6):
        await namespace.symlink(volume, directory, b"%d" % number * 200, b"t" * 300, owner=OWNER)
    assert (await get_attributes(volume, directory)).blocks == 3 * 32  # split, under a root


async def empty_a_directory(volume: Volume) -> None:
    directory = (await namespace.lookup(volume, volume.root, b"two leaves")).inode
    for entry in await list_directory(volume, directory):
        await namespace.unlink(volume, directory, entry.name)
    await namespace.rmdir(volume, volume.root, b"two leaves")


async def move(volume: Volume) -> None:
    target = (await namespace.lookup(volume, volume.root, b"one leaf")).inode
    await rename(volume, Place(volume.root, b"empty"), Place(target, b"moved"))
    await rename(
        volume, Place(target, b"moved"), Place(volume.root, b"scattered"), flags=RENAME_EXCHANGE
    )
    await rename(volume, Place(volume.root, b"small"), Place(target, b"moved"))


async def make_a_directory(volume: Volume) -> None:
    made = await namespace.mkdir(volume, volume.root, b"new", mode=0o755, owner=OWNER)
    await namespace.create(volume, made.inode, b"new", mode=0o644, owner=OWNER)


async def mount_and_unmount(volume: Volume) -> None:
    await close_volume(volume)


OPERATIONS: list[Operation] = [
    create_and_open,
    open_unlink_close,
    overwrite_and_extend,
    truncate,
    fill_a_directory,
    empty_a_directory,
    move,
    make_a_directory,
    mount_and_unmount,
]
# Each is killed at many points.
LONG_OPERATIONS = [open_unlink_close, truncate, empty_a_directory, move]


async def furnish(site: Site) -> None:
    await site.file(b"small", b"inline")
    await site.directory(b"empty")
    for name, count in ((b"one leaf", 60), (b"two leaves", 64)):
        directory = await site.directory(name)
        for number in range(count):
            await namespace.create(
                site.volume, directory, b"%240d" % number, mode=0o644, owner=OWNER
            )
    file = await site.file(b"scattered")
    other = await site.file(b"between")
    for number in range(0, 80, 2):
        await contents.write(site.volume, file, number * 2000 * BLOCK, b"x" * BLOCK)
        await contents.write(site.volume, other, number * BLOCK, b"x" * BLOCK)


class Doubt:
    """Hides the outcome of one minitransaction that writes, after a number of them."""

    def __init__(self, cluster: ModelCluster, told: int) -> None:
        self._execute = cluster.execute
        self._left = told
        self.hidden = False

    async def execute(
        self, minitransaction: Minitransaction[Any], *, timeout: float | None = None
    ) -> Result:
        result = await self._execute(minitransaction, timeout=timeout)
        if not minitransaction.read_only:
            self._left -= 1
            if self._left == -1:
                self.hidden = True
                raise OutcomeUnknown("the reply was lost", None)
        return result


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(each, marks=pytest.mark.slow) if each in LONG_OPERATIONS else each
        for each in OPERATIONS
    ],
    ids=lambda each: each.__name__,
)
def test_a_mount_killed_at_any_point_leaves_a_sound_volume(operation: Operation) -> None:
    async def main() -> None:
        furnished = await open_site(mounts=1, memory_nodes=2, capacity=16 * MIB)
        await furnish(furnished)
        await close_site(furnished)
        for survived in range(STEPS_MAX):
            site = await copy_site(furnished)
            await site.file(b"held", b"x" * BLOCK)  # the bystander has a reserve of both kinds
            victim = await site.mount()
            with Bomb(site, survived) as bomb:
                await operation(victim)
            report = await check_volume(site.cluster)
            assert report.clean, (survived, report.problems)
            await close_volume(site.volume)
            report = await check_volume(site.cluster, reclaim=True, patience_s=0)
            assert report.clean, (survived, report.problems)
            assert (report.orphans, report.blocks_reserved, report.inodes_reserved) == (0, 0, 0)
            if not bomb.exploded:
                return
        pytest.fail("the operation never came to its end")

    trio.run(main)


@pytest.mark.parametrize(
    "operation",
    [create_and_open, open_unlink_close, overwrite_and_extend, truncate, move, make_a_directory],
    ids=lambda each: each.__name__,
)
def test_an_outcome_that_was_never_learnt_leaks_nothing(
    operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        for told in range(STEPS_MAX):
            site = await open_site(mounts=1, memory_nodes=2, capacity=16 * MIB)
            await furnish(site)
            doubt = Doubt(site.cluster, told)
            with monkeypatch.context() as patch:
                patch.setattr(site.cluster, "execute", doubt.execute)
                with contextlib.suppress(OutcomeUnknown):
                    await operation(site.volume)
            await close_site(site)
            if not doubt.hidden:
                return
        pytest.fail("the operation never came to its end")

    trio.run(main)
