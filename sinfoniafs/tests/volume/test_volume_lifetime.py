"""Inodes without names, and sessions without life."""

import pytest
import trio

from sinfoniafs.attributes import Changes
from sinfoniafs.errors import NoSuchEntry, StaleHandle
from sinfoniafs.fsck.check import check_volume
from sinfoniafs.testing import MIB, SOMEBODY, Bomb, Site, on_volume, open_site

LARGE = b"x" * (3 * MIB)


@pytest.mark.parametrize("opener", [0, 1], ids=["own mount", "other mount"])
def test_an_open_file_outlives_its_name(opener: int) -> None:
    async def body(site: Site) -> None:
        file = await site.file(b"file", LARGE)
        holder = site.mounts[opener]
        await holder.open_file(file)
        await site.volume.unlink(site.root, b"file")
        with pytest.raises(NoSuchEntry):
            await site.volume.lookup(site.root, b"file")
        assert await holder.read(file, 0, len(LARGE)) == LARGE
        await holder.write(file, 0, b"still here")
        assert (await holder.getattr(file)).nlink == 0
        assert (await check_volume(site.cluster)).orphans == 1
        await holder.close_file(file)
        with pytest.raises(StaleHandle):
            await holder.getattr(file)
        assert (await check_volume(site.cluster)).orphans == 0

    on_volume(body, mounts=2)


def test_an_orphan_lives_until_the_last_of_all_mounts_closes_it() -> None:
    async def body(site: Site) -> None:
        file = await site.file(b"file", b"data")
        for mount in site.mounts:
            await mount.open_file(file)
        await site.volume.open_file(file)
        await site.mounts[1].unlink(site.root, b"file")
        for mount in (site.mounts[2], site.volume, site.volume):
            await mount.close_file(file)
            await mount.flush()
            assert await site.mounts[1].read(file, 0, 10) == b"data"
        await site.mounts[1].close_file(file)
        with pytest.raises(StaleHandle):
            await site.volume.getattr(file)

    on_volume(body, mounts=3)


def test_an_open_file_that_is_replaced_lives_on() -> None:
    async def body(site: Site) -> None:
        old = await site.file(b"old", b"old data")
        await site.file(b"new", b"new data")
        await site.mounts[1].open_file(old)
        await site.volume.rename(site.root, b"new", site.root, b"old")
        assert await site.mounts[1].read(old, 0, 10) == b"old data"
        await site.mounts[1].close_file(old)

    on_volume(body, mounts=2)


def test_a_removed_directory_that_is_open_takes_no_new_entries() -> None:
    async def body(site: Site) -> None:
        directory = await site.directory()
        await site.volume.open_file(directory)
        await site.volume.rmdir(site.root, b"directory")
        assert (await site.volume.getattr(directory)).nlink == 0
        assert await site.volume.read_directory(directory, 0, 10) == []
        with pytest.raises(NoSuchEntry):
            await site.volume.create(directory, b"x", mode=0o644, owner=SOMEBODY)
        await site.volume.close_file(directory)

    on_volume(body, memory_nodes=2)


def test_a_removed_file_cannot_be_opened_or_linked_again() -> None:
    async def body(site: Site) -> None:
        one, other = site.mounts
        file = await site.file()
        await one.open_file(file)
        await one.unlink(site.root, b"file")
        with pytest.raises(NoSuchEntry):
            await other.open_file(file)
        with pytest.raises(NoSuchEntry):
            await one.link(file, site.root, b"back")
        await one.close_file(file)

    on_volume(body, mounts=2)


def test_a_file_that_was_closed_lately_is_freed_at_once() -> None:
    """A mount stays registered for a while; of its own files it knows better."""

    async def body(site: Site) -> None:
        file = await site.file(b"file", LARGE)
        await site.volume.open_file(file)
        await site.volume.close_file(file)
        await site.volume.unlink(site.root, b"file")
        with pytest.raises(StaleHandle):
            await site.volume.getattr(file)

    on_volume(body)


def test_what_another_mount_closed_lately_is_freed_when_that_looks() -> None:
    async def body(site: Site) -> None:
        one, other = site.mounts
        file = await site.file(b"file", LARGE)
        await other.open_file(file)
        await other.close_file(file)
        await one.unlink(site.root, b"file")
        assert (await one.getattr(file)).nlink == 0
        await other.flush()
        with pytest.raises(StaleHandle):
            await one.getattr(file)

    on_volume(body, mounts=2)


def test_open_with_truncate_empties_the_file() -> None:
    async def body(site: Site) -> None:
        file = await site.file(b"file", LARGE)
        await site.volume.open_file(file, truncate=True)
        assert (await site.volume.getattr(file)).size == 0
        await site.volume.close_file(file)

    on_volume(body)


def test_opens_and_unlinks_at_the_same_time_lose_no_open_file() -> None:
    async def body(site: Site) -> None:
        async def open_read_close(name: bytes) -> None:
            try:
                found = await site.mounts[1].lookup(site.root, name)
                await site.mounts[1].open_file(found.inode)
            except (StaleHandle, NoSuchEntry):
                return
            await trio.lowlevel.checkpoint()
            assert await site.mounts[1].read(found.inode, 0, 10) == b"data"
            await site.mounts[1].close_file(found.inode)

        for number in range(50):
            name = b"%d" % number
            await site.file(name, b"data")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(open_read_close, name)
                nursery.start_soon(open_read_close, name)
                nursery.start_soon(site.mounts[number % 2].unlink, site.root, name)

    on_volume(body, mounts=2)


def test_what_a_killed_mount_held_is_found_and_reclaimed() -> None:
    async def main() -> None:
        site = await open_site(mounts=2, memory_nodes=3, capacity=32 * MIB)
        killed = site.mounts[1]
        names = [b"%d" % number for number in range(5)]
        for name in names:
            made = await killed.create(site.root, name, mode=0o644, owner=SOMEBODY, register=True)
            await killed.write(made.inode, 0, LARGE)
        await killed.unlink(site.root, names[0])
        found = await check_volume(site.cluster)
        assert found.clean
        assert found.orphans == 1
        assert found.blocks_reserved > 0
        await site.volume.aclose()
        report = await check_volume(site.cluster, reclaim=True, patience_s=0)
        assert report.clean, report.problems
        assert report.sessions == ()
        assert (report.orphans, report.blocks_reserved, report.inodes_reserved) == (0, 0, 0)
        assert (report.reclaimed.sessions, report.reclaimed.orphans) == (1, 1)
        assert (report.files, report.bytes) == (4, 4 * len(LARGE))
        # If it was not killed, it goes on with a new session, and gives back what that holds.
        await killed.create(site.root, b"late", mode=0o644, owner=SOMEBODY)
        assert len((await check_volume(site.cluster)).sessions) == 1
        await killed.aclose()
        report = await check_volume(site.cluster)
        assert report.clean, report.problems
        assert report.sessions == ()
        assert (report.files, report.blocks_reserved, report.inodes_reserved) == (5, 0, 0)

    trio.run(main)


def test_a_live_mount_is_not_reclaimed() -> None:
    async def body(site: Site) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.volume.keep_alive)
            report = await check_volume(site.cluster, reclaim=True, patience_s=10)
            nursery.cancel_scope.cancel()
        assert report.reclaimed.sessions == 0
        await site.file()

    on_volume(body, virtual_time=True)


def test_a_live_mount_reclaims_what_a_dead_one_left() -> None:
    async def body(site: Site) -> None:
        dead = await site.mount()
        file = await site.file(b"file", LARGE)
        await dead.open_file(file)
        await site.volume.unlink(site.root, b"file")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.volume.keep_alive)
            await trio.sleep(120)
            nursery.cancel_scope.cancel()
        with pytest.raises(StaleHandle):
            await site.volume.getattr(file)

    on_volume(body, virtual_time=True)


def test_a_reclaimer_that_dies_halfway_is_followed_by_another() -> None:
    async def main() -> None:
        for survived in range(40):
            site = await open_site(mounts=2, memory_nodes=2, capacity=8 * MIB)
            file = await site.file(b"file", LARGE)
            await site.mounts[1].open_file(file)
            await site.volume.unlink(site.root, b"file")
            await site.volume.setattr(site.root, Changes(mode=0o700))
            await site.volume.aclose()
            with Bomb(site, survived) as bomb:
                await check_volume(site.cluster, reclaim=True, patience_s=0)
            report = await check_volume(site.cluster, reclaim=True, patience_s=0)
            assert report.clean, report.problems
            assert (report.orphans, report.blocks_reserved, len(report.sessions)) == (0, 0, 0)
            if not bomb.exploded:
                return
        raise AssertionError("the reclaimer never came to its end")

    trio.run(main)
