"""The operations of a volume, one mount, as POSIX has them."""

import stat
from collections.abc import Awaitable

import pytest

from sinfoniafs.attributes import Changes, Owner
from sinfoniafs.errors import (
    DirectoryNotEmpty,
    EntryExists,
    InvalidArgument,
    IsADirectory,
    NameTooLong,
    NoSpace,
    NoSuchEntry,
    NotADirectory,
    PermissionDenied,
    StaleHandle,
)
from sinfoniafs.statistics import volume_statistics
from sinfoniafs.testing import MIB, OWNER, Site, list_directory, on_volume
from sinfoniafs.volume import contents, namespace
from sinfoniafs.volume.inode_attributes import get_attributes, set_attributes


def test_a_created_file_is_found_with_the_attributes_it_was_given() -> None:
    async def body(site: Site) -> None:
        made = await namespace.create(site.volume, site.root, b"file", mode=0o640, owner=OWNER)
        found = await namespace.lookup(site.volume, site.root, b"file")
        assert found == made == await get_attributes(site.volume, made.inode)
        assert found.mode == stat.S_IFREG | 0o640
        assert (found.uid, found.gid, found.nlink, found.size) == (1000, 100, 1, 0)

    on_volume(body)


@pytest.mark.parametrize(
    "kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK], ids=stat.filemode
)
def test_special_files_keep_their_kind_and_device_number(kind: int) -> None:
    async def body(site: Site) -> None:
        await namespace.create(
            site.volume, site.root, b"x", mode=kind | 0o600, owner=OWNER, rdev=259
        )
        found = await namespace.lookup(site.volume, site.root, b"x")
        assert (found.mode, found.rdev) == (kind | 0o600, 259)

    on_volume(body)


def test_a_name_is_taken_once() -> None:
    async def body(site: Site) -> None:
        await site.file(b"name")
        with pytest.raises(EntryExists):
            await site.file(b"name")
        with pytest.raises(EntryExists):
            await site.directory(b"name")
        with pytest.raises(EntryExists):
            await namespace.symlink(site.volume, site.root, b"name", b"target", owner=OWNER)

    on_volume(body)


def test_a_name_of_255_bytes_is_taken_and_one_of_256_refused() -> None:
    async def body(site: Site) -> None:
        await site.file(b"n" * 255)
        assert await site.names() == {b"n" * 255}
        with pytest.raises(NameTooLong):
            await site.file(b"n" * 256)
        with pytest.raises(NameTooLong):
            await namespace.lookup(site.volume, site.root, b"n" * 256)

    on_volume(body)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b"])
def test_what_cannot_be_a_name_is_refused(name: bytes) -> None:
    async def body(site: Site) -> None:
        with pytest.raises(InvalidArgument):
            await site.file(name)

    on_volume(body)


def test_a_path_through_a_file_is_refused() -> None:
    async def body(site: Site) -> None:
        file = await site.file()
        with pytest.raises(NotADirectory):
            await namespace.lookup(site.volume, file, b"below")
        with pytest.raises(NotADirectory):
            await namespace.create(site.volume, file, b"below", mode=0o644, owner=OWNER)
        with pytest.raises(NotADirectory):
            await namespace.read_directory(site.volume, file, 0, 10)

    on_volume(body)


def test_dot_and_dotdot_are_understood() -> None:
    async def body(site: Site) -> None:
        directory = await site.directory()
        inner = (
            await namespace.mkdir(site.volume, directory, b"in", mode=0o755, owner=OWNER)
        ).inode
        assert (await namespace.lookup(site.volume, inner, b".")).inode == inner
        assert (await namespace.lookup(site.volume, inner, b"..")).inode == directory
        assert (await namespace.lookup(site.volume, site.root, b"..")).inode == site.root

    on_volume(body, memory_nodes=3)


def test_a_directory_counts_the_directories_in_it() -> None:
    async def body(site: Site) -> None:
        assert (await get_attributes(site.volume, site.root)).nlink == 2
        await site.directory(b"a")
        await site.directory(b"b")
        await site.file(b"c")
        assert (await get_attributes(site.volume, site.root)).nlink == 4
        await namespace.rmdir(site.volume, site.root, b"a")
        assert (await get_attributes(site.volume, site.root)).nlink == 3

    on_volume(body, memory_nodes=2)


def test_a_setgid_directory_hands_down_its_group() -> None:
    async def body(site: Site) -> None:
        directory = await site.directory()
        await set_attributes(site.volume, directory, Changes(mode=0o2755, gid=77))
        file = await namespace.create(
            site.volume, directory, b"file", mode=0o644, owner=Owner(1, 2)
        )
        inner = await namespace.mkdir(
            site.volume, directory, b"inner", mode=0o755, owner=Owner(1, 2)
        )
        assert (file.gid, inner.gid) == (77, 77)
        assert inner.mode == stat.S_IFDIR | 0o2755

    on_volume(body)


def test_directories_are_spread_over_the_memory_nodes_and_files_stay_with_their_directory() -> None:
    async def body(site: Site) -> None:
        for number in range(6):
            directory = await site.directory(b"d%d" % number)
            file = await namespace.create(site.volume, directory, b"f", mode=0o644, owner=OWNER)
            assert file.inode >> 40 == directory >> 40
        homes = {entry.inode >> 40 for entry in await list_directory(site.volume, site.root)}
        assert homes == {0, 1, 2}

    on_volume(body, memory_nodes=3)


def test_only_an_empty_directory_is_removed() -> None:
    async def body(site: Site) -> None:
        directory = await site.directory()
        await namespace.create(site.volume, directory, b"file", mode=0o644, owner=OWNER)
        with pytest.raises(DirectoryNotEmpty):
            await namespace.rmdir(site.volume, site.root, b"directory")
        await namespace.unlink(site.volume, directory, b"file")
        await namespace.rmdir(site.volume, site.root, b"directory")
        with pytest.raises(NoSuchEntry):
            await namespace.lookup(site.volume, site.root, b"directory")
        with pytest.raises(StaleHandle):
            await get_attributes(site.volume, directory)

    on_volume(body)


def test_unlink_is_for_files_and_rmdir_for_directories() -> None:
    async def body(site: Site) -> None:
        await site.file(b"file")
        await site.directory(b"directory")
        with pytest.raises(IsADirectory):
            await namespace.unlink(site.volume, site.root, b"directory")
        with pytest.raises(NotADirectory):
            await namespace.rmdir(site.volume, site.root, b"file")
        with pytest.raises(NoSuchEntry):
            await namespace.unlink(site.volume, site.root, b"nothing")

    on_volume(body)


def test_a_hard_link_is_another_name_of_the_same_inode() -> None:
    async def body(site: Site) -> None:
        file = await site.file(b"one", b"contents")
        directory = await site.directory()
        assert (await namespace.link(site.volume, file, directory, b"two")).nlink == 2
        await namespace.unlink(site.volume, site.root, b"one")
        found = await namespace.lookup(site.volume, directory, b"two")
        assert (found.inode, found.nlink) == (file, 1)
        assert await contents.read(site.volume, file, 0, 100) == b"contents"
        with pytest.raises(PermissionDenied):
            await namespace.link(site.volume, directory, site.root, b"three")

    on_volume(body, memory_nodes=2)


@pytest.mark.parametrize("length", [1, 256, 257, 4095])
def test_a_symbolic_link_gives_back_its_target(length: int) -> None:
    async def body(site: Site) -> None:
        target = bytes(97 + at % 26 for at in range(length))
        made = await namespace.symlink(site.volume, site.root, b"link", target, owner=OWNER)
        assert stat.S_ISLNK(made.mode)
        assert made.size == length
        assert await contents.readlink(site.volume, made.inode) == target
        assert (await namespace.lookup(site.volume, site.root, b"link")).size == length

    on_volume(body)


def test_a_symbolic_links_target_has_limits() -> None:
    async def body(site: Site) -> None:
        with pytest.raises(NameTooLong):
            await namespace.symlink(site.volume, site.root, b"link", b"t" * 4096, owner=OWNER)
        with pytest.raises(NoSuchEntry):
            await namespace.symlink(site.volume, site.root, b"link", b"", owner=OWNER)
        with pytest.raises(InvalidArgument):
            await contents.readlink(site.volume, await site.file())

    on_volume(body)


def test_setattr_changes_what_it_is_told_and_nothing_else() -> None:
    async def body(site: Site) -> None:
        file = await site.file()
        before = await get_attributes(site.volume, file)
        changed = await set_attributes(site.volume, file, Changes(mode=0o4711, uid=5))
        assert changed == await get_attributes(site.volume, file)
        assert changed.mode == stat.S_IFREG | 0o4711
        assert (changed.uid, changed.gid) == (5, before.gid)
        assert changed.mtime_ns == before.mtime_ns
        assert changed.ctime_ns > before.ctime_ns
        await set_attributes(site.volume, file, Changes(atime_ns=-5, mtime_ns=2**40))
        changed = await get_attributes(site.volume, file)
        assert (changed.atime_ns, changed.mtime_ns) == (-5, 2**40)

    on_volume(body)


def test_setattr_of_a_directory_returns_its_present_times() -> None:
    async def body(site: Site) -> None:
        await get_attributes(site.volume, site.root)
        other = site.mounts[1]
        await namespace.create(other, site.root, b"file", mode=0o644, owner=OWNER)
        changed = await set_attributes(site.volume, site.root, Changes(mode=0o700))
        assert changed == await get_attributes(other, site.root)

    on_volume(body, mounts=2)


def test_times_tell_what_was_changed() -> None:
    async def body(site: Site) -> None:
        file = await site.file()
        directory = await get_attributes(site.volume, site.root)
        before = await get_attributes(site.volume, file)
        assert directory.mtime_ns == directory.ctime_ns == before.btime_ns
        await contents.write(site.volume, file, 0, b"data")
        after = await get_attributes(site.volume, file)
        assert after.mtime_ns == after.ctime_ns > before.mtime_ns
        assert after.btime_ns == before.btime_ns
        await namespace.link(site.volume, file, site.root, b"more")
        linked = await get_attributes(site.volume, file)
        assert linked.ctime_ns > after.ctime_ns
        assert linked.mtime_ns == after.mtime_ns
        assert (await get_attributes(site.volume, site.root)).mtime_ns == linked.ctime_ns

    on_volume(body)


def test_readdir_gives_each_entry_once_in_pieces_of_any_size() -> None:
    async def body(site: Site) -> None:
        names = {b"name-%d" % number for number in range(700)}
        for name in names:
            await site.file(name)
        for limit in (1, 7, 1000):
            entries = await list_directory(site.volume, site.root, limit)
            assert sorted(entry.name for entry in entries) == sorted(names)
            cookies = [entry.cookie for entry in entries]
            assert cookies == sorted(set(cookies))
            assert min(cookies) >= 16
        entry = entries[0]
        assert entry.attributes == await get_attributes(site.volume, entry.inode)

    on_volume(body, memory_nodes=2)


def test_readdir_goes_on_where_it_was_while_others_insert_and_split() -> None:
    async def body(site: Site) -> None:
        other = site.mounts[1]
        old = {b"old-%d" % number for number in range(300)}
        for name in old:
            await site.file(name)
        seen: list[bytes] = []
        cookie = added = 0
        while entries := await namespace.read_directory(site.volume, site.root, cookie, 10):
            seen += [entry.name for entry in entries]
            cookie = entries[-1].cookie
            for _ in range(5):
                await namespace.create(other, site.root, b"new-%d" % added, mode=0o644, owner=OWNER)
                added += 1
            await namespace.unlink(other, site.root, b"new-%d" % (added - 1))
        assert len(seen) == len(set(seen))
        assert old <= set(seen)

    on_volume(body, mounts=2)


async def _has_room(operation: Awaitable[object]) -> bool:
    try:
        await operation
    except NoSpace:
        return False
    return True


def test_a_full_volume_says_so_and_stays_as_it_was() -> None:
    async def body(site: Site) -> None:
        file = await site.file()
        written = 0
        while await _has_room(contents.write(site.volume, file, written, b"x" * 100_000)):
            written += 100_000
        assert (await get_attributes(site.volume, file)).size == written
        assert await contents.read(site.volume, file, written - 5, 100) == b"xxxxx"
        assert (await volume_statistics(site.volume)).blocks_free < 10
        small = await site.file(b"small", b"inline data needs no block")
        with pytest.raises(NoSpace):
            await contents.write(site.volume, small, 0, b"y" * 200_000)
        assert await contents.read(site.volume, small, 0, 100) == b"inline data needs no block"
        await namespace.unlink(site.volume, site.root, b"file")
        assert await contents.write(site.volume, small, 0, b"y" * 200_000) == 200_000

    on_volume(body, memory_nodes=2, capacity=MIB)


def test_a_volume_without_free_inodes_says_so() -> None:
    async def body(site: Site) -> None:
        made = 0
        while await _has_room(site.file(b"%d" % made)):
            made += 1
        assert made == (await volume_statistics(site.volume)).inodes - 1  # the root has one
        with pytest.raises(NoSuchEntry):
            await namespace.lookup(site.volume, site.root, b"%d" % made)
        await namespace.unlink(site.volume, site.root, b"0")
        await site.file(b"again")

    on_volume(body, capacity=MIB)


def test_statistics_count_what_is_used() -> None:
    async def body(site: Site) -> None:
        before = await volume_statistics(site.volume)
        await site.file(b"file", b"x" * 100_000)
        after = await volume_statistics(site.volume)
        assert before.blocks_free - after.blocks_free == 7 + 1  # and the directory's leaf
        assert before.inodes_free - after.inodes_free == 1
        assert (after.blocks, after.inodes) == (before.blocks, before.inodes)

    on_volume(body, memory_nodes=2)


def test_a_reused_inode_number_does_not_lead_to_the_new_file() -> None:
    """A mount that holds the number of a removed file gets ESTALE, not the data of another file."""

    async def body(site: Site) -> None:
        holder, other = site.mounts
        old = await site.file(b"old")
        await namespace.unlink(other, site.root, b"old")
        with pytest.raises(StaleHandle):
            await get_attributes(holder, old)
        numbers: set[int] = set()
        while old not in numbers:  # a small volume: the number soon comes up again
            name = b"new-%d" % len(numbers)
            numbers.add(
                (await namespace.create(other, site.root, name, mode=0o600, owner=OWNER)).inode
            )
        for operation in (
            get_attributes(holder, old),
            contents.read(holder, old, 0, 1),
            contents.write(holder, old, 0, b"x"),
        ):
            with pytest.raises(StaleHandle):
                await operation
        await namespace.lookup(holder, site.root, name)
        assert (await get_attributes(holder, old)).size == 0

    on_volume(body, mounts=2, capacity=MIB)
