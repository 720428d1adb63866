"""A mount may be killed between any two minitransactions; the volume is sound all the same."""

from collections.abc import Awaitable, Callable

import pytest
import trio

from sinfoniafs.attributes import RENAME_EXCHANGE, Changes
from sinfoniafs.fsck import check_volume
from sinfoniafs.testing import MIB, SOMEBODY, Bomb, Site, list_directory, open_site
from sinfoniafs.volume import Volume

BLOCK = 16 * 1024
# More minitransactions than any operation here takes; so that no test goes on for ever.
STEPS_MAX = 400

Operation = Callable[[Volume], Awaitable[object]]


async def open_unlink_close(volume: Volume) -> None:
    file = (await volume.lookup(volume.root, b"scattered")).inode
    await volume.open_file(file)
    await volume.unlink(volume.root, b"scattered")
    await volume.close_file(file)


async def overwrite_and_extend(volume: Volume) -> None:
    file = (await volume.lookup(volume.root, b"scattered")).inode
    await volume.write(file, 30 * BLOCK - 5, b"z" * (9 * MIB))


async def truncate(volume: Volume) -> None:
    file = (await volume.lookup(volume.root, b"scattered")).inode
    await volume.setattr(file, Changes(size=5))


async def fill_a_directory(volume: Volume) -> None:
    for number in range(60):
        await volume.symlink(volume.root, b"%d" % number * 60, b"t" * 300, owner=SOMEBODY)


async def empty_a_directory(volume: Volume) -> None:
    directory = (await volume.lookup(volume.root, b"full")).inode
    for entry in await list_directory(volume, directory):
        await volume.unlink(directory, entry.name)
    await volume.rmdir(volume.root, b"full")


async def move(volume: Volume) -> None:
    full = (await volume.lookup(volume.root, b"full")).inode
    await volume.rename(volume.root, b"empty", full, b"moved")
    await volume.rename(full, b"moved", volume.root, b"scattered", flags=RENAME_EXCHANGE)
    await volume.rename(volume.root, b"small", full, b"moved")


async def make_a_directory(volume: Volume) -> None:
    made = await volume.mkdir(volume.root, b"new", mode=0o755, owner=SOMEBODY)
    await volume.create(made.inode, b"new", mode=0o644, owner=SOMEBODY)


async def mount_and_unmount(volume: Volume) -> None:
    await volume.aclose()


OPERATIONS: list[Operation] = [
    open_unlink_close,
    overwrite_and_extend,
    truncate,
    fill_a_directory,
    empty_a_directory,
    move,
    make_a_directory,
    mount_and_unmount,
]


async def furnish(site: Site) -> None:
    await site.file(b"small", b"inline")
    await site.directory(b"empty")
    full = await site.directory(b"full")
    for number in range(92):
        name = b"%d" % number * 80
        await site.volume.create(full, name, mode=0o644, owner=SOMEBODY)
    file = await site.file(b"scattered")
    other = await site.file(b"between")
    for number in range(0, 80, 2):
        await site.volume.write(file, number * 2000 * BLOCK, b"x" * BLOCK)
        await site.volume.write(other, number * BLOCK, b"x" * BLOCK)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.__name__)
def test_a_mount_killed_at_any_point_leaves_a_sound_volume(operation: Operation) -> None:
    async def main() -> None:
        for survived in range(STEPS_MAX):
            site = await open_site(mounts=1, memory_nodes=2, capacity=16 * MIB)
            await furnish(site)
            victim = await site.mount()
            with Bomb(site, survived) as bomb:
                await operation(victim)
            report = await check_volume(site.cluster)
            assert report.clean, (survived, report.problems)
            await site.volume.aclose()
            report = await check_volume(site.cluster, reclaim=True, patience_s=0)
            assert report.clean, (survived, report.problems)
            assert (report.orphans, report.blocks_reserved, report.inodes_reserved) == (0, 0, 0)
            if not bomb.exploded:
                return
        pytest.fail("the operation never came to its end")

    trio.run(main)
