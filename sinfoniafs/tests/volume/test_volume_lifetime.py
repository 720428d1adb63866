"""Orphans are freed by the last session to close them, and dead sessions are reclaimed."""

import pytest
import trio

from sinfoniafs.attributes import Changes, Place
from sinfoniafs.errors import NoSuchEntry, StaleHandle
from sinfoniafs.fsck.check import check_volume
from sinfoniafs.testing import MIB, OWNER, Bomb, Site, on_volume, open_site
from sinfoniafs.volume import contents, lifetime, namespace
from sinfoniafs.volume.inode_attributes import get_attributes, set_attributes
from sinfoniafs.volume.lifetime import flush_closing
from sinfoniafs.volume.mounting import close_volume, keep_alive
from sinfoniafs.volume.rename import rename

LARGE = b"x" * (3 * MIB)


@pytest.mark.parametrize("opener", [0, 1], ids=["own mount", "other mount"])
def test_an_open_file_outlives_its_name(opener: int) -> None:
    async def body(site: Site) -> None:
        file = await site.file(b"file", LARGE)
        holder = site.mounts[opener]
        await lifetime.open_file(holder, file)
        await namespace.unlink(site.volume, site.root, b"file")
        with pytest.raises(NoSuchEntry):
            await namespace.lookup(site.volume, site.root, b"file")
        assert await contents.read(holder, file, 0, len(LARGE)) == LARGE
        await contents.write(holder, file, 0, b"still here")
        assert (await get_attributes(holder, file)).nlink == 0
        assert (await check_volume(site.cluster)).orphans == 1
        await lifetime.close_file(holder, file)
        with pytest.raises(StaleHandle):
            await get_attributes(holder, file)
        assert (await check_volume(site.cluster)).orphans == 0

    on_volume(body, mounts=2)


def test_an_orphan_lives_until_the_last_of_all_mounts_closes_it() -> None:
    async def body(site: Site) -> None:
        file = await site.file(b"file", b"data")
        for mount in site.mounts:
            await lifetime.open_file(mount, file)
        await lifetime.open_file(site.volume, file)
        await namespace.unlink(site.mounts[1], site.root, b"file")
        for mount in (site.mounts[2], site.volume, site.volume):
            await lifetime.close_file(mount, file)
            await flush_closing(mount)
            assert await contents.read(site.mounts[1], file, 0, 10) == b"data"
        await lifetime.close_file(site.mounts[1], file)
        with pytest.raises(StaleHandle):
            await get_attributes(site.volume, file)

    on_volume(body, mounts=3)


def test_an_open_file_that_is_replaced_lives_on() -> None:
    async def body(site: Site) -> None:
        old = await site.file(b"old", b"old data")
        await site.file(b"new", b"new data")
        await lifetime.open_file(site.mounts[1], old)
        await rename(site.volume, Place(site.root, b"new"), Place(site.root, b"old"))
        assert await contents.read(site.mounts[1], old, 0, 10) == b"old data"
        await lifetime.close_file(site.mounts[1], old)

    on_volume(body, mounts=2)


def test_a_removed_directory_that_is_open_takes_no_new_entries() -> None:
    async def body(site: Site) -> None:
        directory = await site.directory()
        await lifetime.open_file(site.volume, directory)
        await namespace.rmdir(site.volume, site.root, b"directory")
        assert (await get_attributes(site.volume, directory)).nlink == 0
        assert await namespace.read_directory(site.volume, directory, 0, 10) == []
        with pytest.raises(NoSuchEntry):
            await namespace.create(site.volume, directory, b"x", mode=0o644, owner=OWNER)
        await lifetime.close_file(site.volume, directory)

    on_volume(body, memory_nodes=2)


def test_a_removed_file_cannot_be_opened_or_linked_again() -> None:
    async def body(site: Site) -> None:
        one, other = site.mounts
        file = await site.file()
        await lifetime.open_file(one, file)
        await namespace.unlink(one, site.root, b"file")
        with pytest.raises(NoSuchEntry):
            await lifetime.open_file(other, file)
        with pytest.raises(NoSuchEntry):
            await namespace.link(one, file, site.root, b"back")
        await lifetime.close_file(one, file)

    on_volume(body, mounts=2)


def test_a_file_that_was_closed_lately_is_freed_at_once() -> None:
    """A mount stays registered for a while, but frees its own closed files at once."""

    async def body(site: Site) -> None:
        file = await site.file(b"file", LARGE)
        await lifetime.open_file(site.volume, file)
        await lifetime.close_file(site.volume, file)
        await namespace.unlink(site.volume, site.root, b"file")
        with pytest.raises(StaleHandle):
            await get_attributes(site.volume, file)

    on_volume(body)


def test_what_another_mount_closed_lately_is_freed_when_that_looks() -> None:
    async def body(site: Site) -> None:
        one, other = site.mounts
        file = await site.file(b"file", LARGE)
        await lifetime.open_file(other, file)
        await lifetime.close_file(other, file)
        await namespace.unlink(one, site.root, b"file")
        assert (await get_attributes(one, file)).nlink == 0
        await flush_closing(other)
        with pytest.raises(StaleHandle):
            await get_attributes(one, file)

    on_volume(body, mounts=2)


def test_open_with_truncate_empties_the_file() -> None:
    async def body(site: Site) -> None:
        file = await site.file(b"file", LARGE)
        await lifetime.open_file(site.volume, file, truncate=True)
        assert (await get_attributes(site.volume, file)).size == 0
        await lifetime.close_file(site.volume, file)

    on_volume(body)


def test_opens_and_unlinks_at_the_same_time_lose_no_open_file() -> None:
    async def body(site: Site) -> None:
        async def open_read_close(name: bytes) -> None:
            try:
                found = await namespace.lookup(site.mounts[1], site.root, name)
                await lifetime.open_file(site.mounts[1], found.inode)
            except (StaleHandle, NoSuchEntry):
                return
            await trio.lowlevel.checkpoint()
            assert await contents.read(site.mounts[1], found.inode, 0, 10) == b"data"
            await lifetime.close_file(site.mounts[1], found.inode)

        for number in range(50):
            name = b"%d" % number
            await site.file(name, b"data")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(open_read_close, name)
                nursery.start_soon(open_read_close, name)
                nursery.start_soon(namespace.unlink, site.mounts[number % 2], site.root, name)

    on_volume(body, mounts=2)


def test_what_a_killed_mount_held_is_found_and_reclaimed() -> None:
    async def main() -> None:
        site = await open_site(mounts=2, memory_nodes=3, capacity=32 * MIB)
        killed = site.mounts[1]
        names = [b"%d" % number for number in range(5)]
        for name in names:
            made = await namespace.create(
                killed, site.root, name, mode=0o644, owner=OWNER, register=True
            )
            await contents.write(killed, made.inode, 0, LARGE)
        await namespace.unlink(killed, site.root, names[0])
        found = await check_volume(site.cluster)
        assert found.clean
        assert found.orphans == 1
        assert found.blocks_reserved > 0
        await close_volume(site.volume)
        report = await check_volume(site.cluster, reclaim=True, patience_s=0)
        assert report.clean, report.problems
        assert report.sessions == ()
        assert (report.orphans, report.blocks_reserved, report.inodes_reserved) == (0, 0, 0)
        assert (report.reclaimed.sessions, report.reclaimed.orphans) == (1, 1)
        assert (report.files, report.bytes) == (4, 4 * len(LARGE))
        # If it was not killed, it goes on with a new session, and gives back what that holds.
        await namespace.create(killed, site.root, b"late", mode=0o644, owner=OWNER)
        assert len((await check_volume(site.cluster)).sessions) == 1
        await close_volume(killed)
        report = await check_volume(site.cluster)
        assert report.clean, report.problems
        assert report.sessions == ()
        assert (report.files, report.blocks_reserved, report.inodes_reserved) == (5, 0, 0)

    trio.run(main)


def test_a_live_mount_is_not_reclaimed() -> None:
    async def body(site: Site) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_alive, site.volume)
            report = await check_volume(site.cluster, reclaim=True, patience_s=10)
            nursery.cancel_scope.cancel()
        assert report.reclaimed.sessions == 0
        await site.file()

    on_volume(body, virtual_time=True)


def test_a_live_mount_reclaims_what_a_dead_one_left() -> None:
    async def body(site: Site) -> None:
        dead = await site.mount()
        file = await site.file(b"file", LARGE)
        await lifetime.open_file(dead, file)
        await namespace.unlink(site.volume, site.root, b"file")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_alive, site.volume)
            await trio.sleep(120)
            nursery.cancel_scope.cancel()
        with pytest.raises(StaleHandle):
            await get_attributes(site.volume, file)

    on_volume(body, virtual_time=True)


def test_a_reclaimer_that_dies_halfway_is_followed_by_another() -> None:
    async def main() -> None:
        for survived in range(40):
            site = await open_site(mounts=2, memory_nodes=2, capacity=8 * MIB)
            file = await site.file(b"file", LARGE)
            await lifetime.open_file(site.mounts[1], file)
            await namespace.unlink(site.volume, site.root, b"file")
            await set_attributes(site.volume, site.root, Changes(mode=0o700))
            await close_volume(site.volume)
            with Bomb(site, survived) as bomb:
                await check_volume(site.cluster, reclaim=True, patience_s=0)
            report = await check_volume(site.cluster, reclaim=True, patience_s=0)
            assert report.clean, report.problems
            assert (report.orphans, report.blocks_reserved, len(report.sessions)) == (0, 0, 0)
            if not bomb.exploded:
                return
        raise AssertionError("the reclaimer never came to its end")

    trio.run(main)
