"""Rename in all its cases."""

import pytest

from sinfoniafs.attributes import RENAME_EXCHANGE, RENAME_NOREPLACE, InodeNumber
from sinfoniafs.errors import (
    DirectoryNotEmpty,
    EntryExists,
    InvalidArgument,
    IsADirectory,
    NameTooLong,
    NoSuchEntry,
    NotADirectory,
    StaleHandle,
)
from sinfoniafs.testing import SOMEBODY, Site, on_volume


async def directory_in(site: Site, parent: InodeNumber, name: bytes) -> InodeNumber:
    return (await site.volume.mkdir(parent, name, mode=0o755, owner=SOMEBODY)).inode


def test_a_renamed_file_is_the_same_file() -> None:
    async def body(site: Site) -> None:
        file = await site.file(b"old", b"contents")
        before = await site.volume.getattr(file)
        await site.volume.rename(site.root, b"old", site.root, b"new")
        assert await site.names() == {b"new"}
        after = await site.volume.lookup(site.root, b"new")
        assert after.inode == file
        assert after.ctime_ns > before.ctime_ns
        assert await site.volume.read(file, 0, 100) == b"contents"

    on_volume(body)


def test_a_file_takes_the_place_of_another() -> None:
    async def body(site: Site) -> None:
        one = await site.file(b"one", b"1")
        two = await site.file(b"two", b"2" * 100_000)
        directory = await site.directory()
        await site.volume.link(two, directory, b"also two")
        await site.volume.rename(site.root, b"one", site.root, b"two")
        assert (await site.volume.lookup(site.root, b"two")).inode == one
        assert (await site.volume.getattr(two)).nlink == 1
        await site.volume.rename(site.root, b"two", directory, b"also two")
        with pytest.raises(StaleHandle):
            await site.volume.getattr(two)
        assert await site.names() == {b"directory"}
        assert await site.names(directory) == {b"also two"}

    on_volume(body, memory_nodes=2)


def test_a_directory_takes_the_place_of_an_empty_one_only() -> None:
    async def body(site: Site) -> None:
        moved, empty, full = [await site.directory(name) for name in (b"moved", b"empty", b"full")]
        await directory_in(site, full, b"x")
        with pytest.raises(DirectoryNotEmpty):
            await site.volume.rename(site.root, b"moved", site.root, b"full")
        await site.volume.rename(site.root, b"moved", site.root, b"empty")
        assert (await site.volume.lookup(site.root, b"empty")).inode == moved
        assert (await site.volume.getattr(site.root)).nlink == 4
        with pytest.raises(StaleHandle):
            await site.volume.getattr(empty)

    on_volume(body, memory_nodes=3)


def test_files_and_directories_do_not_take_each_others_place() -> None:
    async def body(site: Site) -> None:
        await site.file(b"file")
        await site.directory(b"directory")
        with pytest.raises(IsADirectory):
            await site.volume.rename(site.root, b"file", site.root, b"directory")
        with pytest.raises(NotADirectory):
            await site.volume.rename(site.root, b"directory", site.root, b"file")
        assert await site.names() == {b"file", b"directory"}

    on_volume(body)


def test_a_moved_directory_has_a_new_parent() -> None:
    async def body(site: Site) -> None:
        source, target = await site.directory(b"source"), await site.directory(b"target")
        moved = await directory_in(site, source, b"moved")
        await site.volume.rename(source, b"moved", target, b"moved")
        assert (await site.volume.lookup(moved, b"..")).inode == target
        assert (await site.volume.getattr(source)).nlink == 2
        assert (await site.volume.getattr(target)).nlink == 3

    on_volume(body, memory_nodes=3)


def test_a_directory_does_not_move_below_itself() -> None:
    async def body(site: Site) -> None:
        top = await site.directory(b"top")
        middle = await directory_in(site, top, b"middle")
        bottom = await directory_in(site, middle, b"bottom")
        for target in (top, middle, bottom):
            with pytest.raises(InvalidArgument):
                await site.volume.rename(site.root, b"top", target, b"x")
        with pytest.raises(InvalidArgument):
            await site.volume.rename(middle, b"bottom", site.root, b"top", flags=RENAME_EXCHANGE)
        with pytest.raises(DirectoryNotEmpty):
            await site.volume.rename(middle, b"bottom", site.root, b"top")

    on_volume(body, memory_nodes=2)


def test_two_names_of_one_inode_both_stay() -> None:
    async def body(site: Site) -> None:
        file = await site.file(b"one")
        await site.volume.link(file, site.root, b"two")
        await site.volume.rename(site.root, b"one", site.root, b"two")
        await site.volume.rename(site.root, b"one", site.root, b"one")
        assert await site.names() == {b"one", b"two"}

    on_volume(body)


def test_noreplace_replaces_nothing() -> None:
    async def body(site: Site) -> None:
        await site.file(b"one")
        await site.file(b"two")
        with pytest.raises(EntryExists):
            await site.volume.rename(site.root, b"one", site.root, b"two", flags=RENAME_NOREPLACE)
        await site.volume.rename(site.root, b"one", site.root, b"three", flags=RENAME_NOREPLACE)
        assert await site.names() == {b"two", b"three"}

    on_volume(body)


def test_exchange_swaps_a_file_and_a_directory() -> None:
    async def body(site: Site) -> None:
        left, right = await site.directory(b"left"), await site.directory(b"right")
        file = (await site.volume.create(left, b"a", mode=0o644, owner=SOMEBODY)).inode
        directory = await directory_in(site, right, b"b")
        await site.volume.rename(left, b"a", right, b"b", flags=RENAME_EXCHANGE)
        assert (await site.volume.lookup(left, b"a")).inode == directory
        assert (await site.volume.lookup(right, b"b")).inode == file
        assert (await site.volume.lookup(directory, b"..")).inode == left
        assert (await site.volume.getattr(left)).nlink == 3
        assert (await site.volume.getattr(right)).nlink == 2
        with pytest.raises(NoSuchEntry):
            await site.volume.rename(left, b"a", right, b"none", flags=RENAME_EXCHANGE)

    on_volume(body, memory_nodes=3)


def test_exchange_swaps_within_one_directory() -> None:
    async def body(site: Site) -> None:
        one, two = await site.file(b"one"), await site.directory(b"two")
        await site.volume.rename(site.root, b"one", site.root, b"two", flags=RENAME_EXCHANGE)
        assert (await site.volume.lookup(site.root, b"one")).inode == two
        assert (await site.volume.lookup(site.root, b"two")).inode == one

    on_volume(body)


def test_what_cannot_be_renamed_is_refused() -> None:
    async def body(site: Site) -> None:
        await site.file(b"file")
        with pytest.raises(NoSuchEntry):
            await site.volume.rename(site.root, b"none", site.root, b"x")
        with pytest.raises(NameTooLong):
            await site.volume.rename(site.root, b"file", site.root, b"x" * 256)
        with pytest.raises(InvalidArgument):
            await site.volume.rename(site.root, b"file", site.root, b"x", flags=7)

    on_volume(body)
