"""Every operation is exactly one minitransaction when what it needs is cached."""

from collections.abc import Awaitable, Callable

import pytest

from sinfoniafs.attributes import RENAME_EXCHANGE, Changes, InodeNumber, Place
from sinfoniafs.errors import EntryExists, NoSuchEntry
from sinfoniafs.testing import OWNER, Site, on_volume
from sinfoniafs.volume import contents, lifetime, namespace
from sinfoniafs.volume.inode_attributes import get_attributes, set_attributes
from sinfoniafs.volume.mounting import close_volume
from sinfoniafs.volume.rename import rename
from sinfoniafs.volume.volume import Volume

BLOCK = 16 * 1024

Operation = Callable[[Volume, InodeNumber, InodeNumber], Awaitable[object]]

# Each is given a volume, a directory with "file", "other" and "empty" in it, and the file.
OPERATIONS: dict[str, Operation] = {
    "lookup": lambda volume, directory, _: namespace.lookup(volume, directory, b"file"),
    "getattr": lambda volume, _, file: get_attributes(volume, file),
    "chmod": lambda volume, _, file: set_attributes(volume, file, Changes(mode=0o600)),
    "chmod of a directory": lambda volume, directory, _: set_attributes(
        volume, directory, Changes(mode=0o700)
    ),
    "truncate": lambda volume, _, file: set_attributes(volume, file, Changes(size=100)),
    "extend": lambda volume, _, file: set_attributes(volume, file, Changes(size=10**12)),
    "create": lambda volume, directory, _: namespace.create(
        volume, directory, b"new", mode=0o644, owner=OWNER
    ),
    "create and open": lambda volume, directory, _: namespace.create(
        volume, directory, b"new", mode=0o644, owner=OWNER, register=True
    ),
    "mkdir": lambda volume, directory, _: namespace.mkdir(
        volume, directory, b"new", mode=0o755, owner=OWNER
    ),
    "symlink": lambda volume, directory, _: namespace.symlink(
        volume, directory, b"new", b"target", owner=OWNER
    ),
    "link": lambda volume, directory, file: namespace.link(volume, file, directory, b"new"),
    "unlink": lambda volume, directory, _: namespace.unlink(volume, directory, b"file"),
    "rmdir": lambda volume, directory, _: namespace.rmdir(volume, directory, b"empty"),
    "rename": lambda volume, directory, _: rename(
        volume, Place(directory, b"file"), Place(directory, b"new")
    ),
    "rename over": lambda volume, directory, _: rename(
        volume, Place(directory, b"file"), Place(directory, b"other")
    ),
    "exchange": lambda volume, directory, _: rename(
        volume, Place(directory, b"file"), Place(directory, b"empty"), flags=RENAME_EXCHANGE
    ),
    "move": lambda volume, directory, _: rename(
        volume, Place(directory, b"file"), Place(volume.root, b"new")
    ),
    "open": lambda volume, _, file: lifetime.open_file(volume, file),
    "small read": lambda volume, _, file: contents.read(volume, file, 5, 10),
    "large read": lambda volume, _, file: contents.read(volume, file, 0, 64 * BLOCK),
    "small write": lambda volume, _, file: contents.write(volume, file, 5, b"x"),
    "allocating write": lambda volume, _, file: contents.write(
        volume, file, 3 * BLOCK, b"x" * BLOCK
    ),
    "append": lambda volume, _, file: contents.append(volume, file, b"x" * 100),
    "readdir": lambda volume, directory, _: namespace.read_directory(volume, directory, 0, 100),
}


@pytest.mark.parametrize("memory_nodes", [1, 3])
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_one_minitransaction(operation: Operation, memory_nodes: int) -> None:
    async def body(site: Site) -> None:
        volume = site.volume
        directory = await site.directory()
        file = (await namespace.create(volume, directory, b"file", mode=0o644, owner=OWNER)).inode
        await contents.write(volume, file, 0, b"d" * (2 * BLOCK + 100))
        await namespace.create(volume, directory, b"other", mode=0o644, owner=OWNER)
        await namespace.mkdir(volume, directory, b"empty", mode=0o755, owner=OWNER)
        await namespace.create(volume, volume.root, b"in root", mode=0o644, owner=OWNER)
        # The mkdir that is measured finds inodes in reserve on whichever memory node is next.
        for number in range(memory_nodes):
            await namespace.mkdir(volume, volume.root, b"%d" % number, mode=0o755, owner=OWNER)
        assert await site.count(operation(volume, directory, file)) == 1

    on_volume(body, memory_nodes=memory_nodes)


def test_readlink_costs_one_minitransaction() -> None:
    async def body(site: Site) -> None:
        link = await namespace.symlink(site.volume, site.root, b"link", b"target", owner=OWNER)
        assert await site.count(contents.readlink(site.volume, link.inode)) == 1

    on_volume(body)


def test_refusals_cost_one_minitransaction_too() -> None:
    """An error concluded from the cache is believed only after the cache was validated."""

    async def body(site: Site) -> None:
        await site.file()
        before = site.cluster.statistics.executed
        with pytest.raises(NoSuchEntry):
            await namespace.lookup(site.volume, site.root, b"nothing")
        with pytest.raises(EntryExists):
            await site.file()
        assert site.cluster.statistics.executed - before == 2

    on_volume(body)


def test_opening_again_and_closing_cost_nothing() -> None:
    async def body(site: Site) -> None:
        file = await site.file()
        assert await site.count(lifetime.open_file(site.volume, file)) == 1
        assert await site.count(lifetime.open_file(site.volume, file)) == 0
        assert await site.count(lifetime.close_file(site.volume, file)) == 0
        assert await site.count(lifetime.close_file(site.volume, file)) == 0
        assert await site.count(lifetime.open_file(site.volume, file)) == 0
        assert await site.count(lifetime.close_file(site.volume, file)) == 0

    on_volume(body)


def test_many_small_files_cost_two_minitransactions_each_and_a_little() -> None:
    """Create with write: reserving, splitting and unregistering are shared by many files."""

    async def body(site: Site) -> None:
        count = 500

        async def copy() -> None:
            for number in range(count):
                made = await namespace.create(
                    site.volume,
                    site.root,
                    b"%d" % number,
                    mode=0o644,
                    owner=OWNER,
                    register=True,
                )
                await contents.write(site.volume, made.inode, 0, b"x" * 5000)
                await lifetime.close_file(site.volume, made.inode)

        assert await site.count(copy()) < 2.1 * count

    on_volume(body, memory_nodes=3, capacity=32 * 1024 * 1024)


def test_a_cold_lookup_reads_inode_and_leaf_once() -> None:
    async def body(site: Site) -> None:
        for number in range(100):
            await site.file(b"%d" % number)
        cold = await site.mount()
        assert await site.count(namespace.lookup(cold, site.root, b"7")) == 3
        assert await site.count(namespace.lookup(cold, site.root, b"8")) == 1
        await close_volume(cold)

    on_volume(body)


def test_what_another_mount_changed_costs_one_look_more() -> None:
    async def body(site: Site) -> None:
        one, other = site.mounts
        file = await site.file()
        await contents.write(other, file, 0, b"first")
        await contents.read(one, file, 0, 10)
        await contents.write(other, file, 0, b"again")
        # The comparison fails, the inode is read, the comparison succeeds.
        assert await site.count(contents.read(one, file, 0, 10)) == 3
        assert await site.count(contents.read(one, file, 0, 10)) == 1

    on_volume(body, mounts=2)
