"""Rename in all its cases."""

import pytest

from sinfoniafs.attributes import RENAME_EXCHANGE, RENAME_NOREPLACE, InodeNumber, Place
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
from sinfoniafs.testing import OWNER, Site, on_volume
from sinfoniafs.volume import contents, namespace
from sinfoniafs.volume.inode_attributes import get_attributes
from sinfoniafs.volume.rename import rename


async def directory_in(site: Site, parent: InodeNumber, name: bytes) -> InodeNumber:
    return (await namespace.mkdir(site.volume, parent, name, mode=0o755, owner=OWNER)).inode


def test_a_renamed_file_is_the_same_file() -> None:
    async def body(site: Site) -> None:
        file = await site.file(b"old", b"contents")
        before = await get_attributes(site.volume, file)
        await rename(site.volume, Place(site.root, b"old"), Place(site.root, b"new"))
        assert await site.names() == {b"new"}
        after = await namespace.lookup(site.volume, site.root, b"new")
        assert after.inode == file
        assert after.ctime_ns > before.ctime_ns
        assert await contents.read(site.volume, file, 0, 100) == b"contents"

    on_volume(body)


def test_a_file_takes_the_place_of_another() -> None:
    async def body(site: Site) -> None:
        one = await site.file(b"one", b"1")
        two = await site.file(b"two", b"2" * 100_000)
        directory = await site.directory()
        await namespace.link(site.volume, two, directory, b"also two")
        await rename(site.volume, Place(site.root, b"one"), Place(site.root, b"two"))
        assert (await namespace.lookup(site.volume, site.root, b"two")).inode == one
        assert (await get_attributes(site.volume, two)).nlink == 1
        await rename(site.volume, Place(site.root, b"two"), Place(directory, b"also two"))
        with pytest.raises(StaleHandle):
            await get_attributes(site.volume, two)
        assert await site.names() == {b"directory"}
        assert await site.names(directory) == {b"also two"}

    on_volume(body, memory_nodes=2)


def test_a_directory_takes_the_place_of_an_empty_one_only() -> None:
    async def body(site: Site) -> None:
        moved, empty, full = [await site.directory(name) for name in (b"moved", b"empty", b"full")]
        await directory_in(site, full, b"x")
        with pytest.raises(DirectoryNotEmpty):
            await rename(site.volume, Place(site.root, b"moved"), Place(site.root, b"full"))
        await rename(site.volume, Place(site.root, b"moved"), Place(site.root, b"empty"))
        assert (await namespace.lookup(site.volume, site.root, b"empty")).inode == moved
        assert (await get_attributes(site.volume, site.root)).nlink == 4
        with pytest.raises(StaleHandle):
            await get_attributes(site.volume, empty)

    on_volume(body, memory_nodes=3)


def test_files_and_directories_do_not_take_each_others_place() -> None:
    async def body(site: Site) -> None:
        await site.file(b"file")
        await site.directory(b"directory")
        with pytest.raises(IsADirectory):
            await rename(site.volume, Place(site.root, b"file"), Place(site.root, b"directory"))
        with pytest.raises(NotADirectory):
            await rename(site.volume, Place(site.root, b"directory"), Place(site.root, b"file"))
        assert await site.names() == {b"file", b"directory"}

    on_volume(body)


def test_a_moved_directory_has_a_new_parent() -> None:
    async def body(site: Site) -> None:
        source, target = await site.directory(b"source"), await site.directory(b"target")
        moved = await directory_in(site, source, b"moved")
        await rename(site.volume, Place(source, b"moved"), Place(target, b"moved"))
        assert (await namespace.lookup(site.volume, moved, b"..")).inode == target
        assert (await get_attributes(site.volume, source)).nlink == 2
        assert (await get_attributes(site.volume, target)).nlink == 3

    on_volume(body, memory_nodes=3)


def test_a_directory_does_not_move_below_itself() -> None:
    async def body(site: Site) -> None:
        top = await site.directory(b"top")
        middle = await directory_in(site, top, b"middle")
        bottom = await directory_in(site, middle, b"bottom")
        for target in (top, middle, bottom):
            with pytest.raises(InvalidArgument):
                await rename(site.volume, Place(site.root, b"top"), Place(target, b"x"))
        with pytest.raises(InvalidArgument):
            await rename(
                site.volume,
                Place(middle, b"bottom"),
                Place(site.root, b"top"),
                flags=RENAME_EXCHANGE,
            )
        with pytest.raises(DirectoryNotEmpty):
            await rename(site.volume, Place(middle, b"bottom"), Place(site.root, b"top"))

    on_volume(body, memory_nodes=2)


def test_two_names_of_one_inode_both_stay() -> None:
    async def body(site: Site) -> None:
        file = await site.file(b"one")
        await namespace.link(site.volume, file, site.root, b"two")
        await rename(site.volume, Place(site.root, b"one"), Place(site.root, b"two"))
        await rename(site.volume, Place(site.root, b"one"), Place(site.root, b"one"))
        assert await site.names() == {b"one", b"two"}

    on_volume(body)


def test_noreplace_replaces_nothing() -> None:
    async def body(site: Site) -> None:
        await site.file(b"one")
        await site.file(b"two")
        with pytest.raises(EntryExists):
            await rename(
                site.volume,
                Place(site.root, b"one"),
                Place(site.root, b"two"),
                flags=RENAME_NOREPLACE,
            )
        await rename(
            site.volume,
            Place(site.root, b"one"),
            Place(site.root, b"three"),
            flags=RENAME_NOREPLACE,
        )
        assert await site.names() == {b"two", b"three"}

    on_volume(body)


def test_exchange_swaps_a_file_and_a_directory() -> None:
    async def body(site: Site) -> None:
        left, right = await site.directory(b"left"), await site.directory(b"right")
        file = (await namespace.create(site.volume, left, b"a", mode=0o644, owner=OWNER)).inode
        directory = await directory_in(site, right, b"b")
        await rename(site.volume, Place(left, b"a"), Place(right, b"b"), flags=RENAME_EXCHANGE)
        assert (await namespace.lookup(site.volume, left, b"a")).inode == directory
        assert (await namespace.lookup(site.volume, right, b"b")).inode == file
        assert (await namespace.lookup(site.volume, directory, b"..")).inode == left
        assert (await get_attributes(site.volume, left)).nlink == 3
        assert (await get_attributes(site.volume, right)).nlink == 2
        with pytest.raises(NoSuchEntry):
            await rename(
                site.volume, Place(left, b"a"), Place(right, b"none"), flags=RENAME_EXCHANGE
            )

    on_volume(body, memory_nodes=3)


def test_exchange_swaps_within_one_directory() -> None:
    async def body(site: Site) -> None:
        one, two = await site.file(b"one"), await site.directory(b"two")
        await rename(
            site.volume, Place(site.root, b"one"), Place(site.root, b"two"), flags=RENAME_EXCHANGE
        )
        assert (await namespace.lookup(site.volume, site.root, b"one")).inode == two
        assert (await namespace.lookup(site.volume, site.root, b"two")).inode == one

    on_volume(body)


def test_what_cannot_be_renamed_is_refused() -> None:
    async def body(site: Site) -> None:
        await site.file(b"file")
        with pytest.raises(NoSuchEntry):
            await rename(site.volume, Place(site.root, b"none"), Place(site.root, b"x"))
        with pytest.raises(NameTooLong):
            await rename(site.volume, Place(site.root, b"file"), Place(site.root, b"x" * 256))
        with pytest.raises(InvalidArgument):
            await rename(site.volume, Place(site.root, b"file"), Place(site.root, b"x"), flags=7)

    on_volume(body)
