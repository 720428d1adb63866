"""Directories grow to any size; finding a name costs the same in all of them."""

import pytest

from sinfoniafs.errors import NoSuchEntry
from sinfoniafs.format import directory
from sinfoniafs.testing import MIB, OWNER, Site, list_directory, on_volume
from sinfoniafs.volume import namespace
from sinfoniafs.volume.inode_attributes import get_attributes
from sinfoniafs.volume.mounting import close_volume


@pytest.mark.slow
def test_twenty_thousand_entries_are_each_found_by_one_minitransaction() -> None:
    async def body(site: Site) -> None:
        count = 20_000
        parent = await site.directory()
        file = await site.file()

        async def fill() -> None:
            for number in range(count):
                await namespace.link(site.volume, file, parent, b"name-%d" % number)

        # A split is part of the insertion; only reserving blocks comes on top.
        assert await site.count(fill()) < 1.01 * count
        for number in range(0, count, 997):
            lookup = namespace.lookup(site.volume, parent, b"name-%d" % number)
            assert await site.count(lookup) == 1
        cold = await site.mount()
        # The directory's inode, its root, a leaf, and the validation.
        assert await site.count(namespace.lookup(cold, parent, b"name-7")) == 4
        with pytest.raises(NoSuchEntry):
            await namespace.lookup(cold, parent, b"name-no")
        await close_volume(cold)
        assert len(await list_directory(site.volume, parent, 1000)) == count
        for number in range(count):
            await namespace.unlink(site.volume, parent, b"name-%d" % number)
        assert (await get_attributes(site.volume, parent)).size <= 16 * 1024
        await namespace.rmdir(site.volume, site.root, b"directory")

    on_volume(body, memory_nodes=2, capacity=64 * MIB)


def test_interior_nodes_split_and_empty_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """With four children to an interior node instead of 1022, a thousand names make a high tree."""
    monkeypatch.setattr("sinfoniafs.volume.tree.CHILDREN_MAX", 4)

    async def body(site: Site) -> None:
        other = site.mounts[1]
        names = [b"%d" % number + b"x" * 240 for number in range(1500)]
        parent = await site.directory()
        file = await site.file()
        for at, name in enumerate(names):
            await namespace.link(site.mounts[at % 2], file, parent, name)
        found = await list_directory(other, parent)
        assert {entry.name for entry in found} == set(names)
        for at, name in enumerate(names[:-1]):
            await namespace.unlink(site.mounts[at % 2], parent, name)
        assert await site.names(parent) == {names[-1]}
        for at, name in enumerate(names[:500]):
            await namespace.link(site.mounts[at % 2], file, parent, name)
        assert len(await list_directory(other, parent)) == 501

    on_volume(body, mounts=2, memory_nodes=2)


def test_names_of_equal_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash of which only four values are left makes every name collide."""
    plain = directory.position_of

    def collide(name: bytes, key: bytes) -> int:
        return plain(name, key) & 0x30 | 0x1000

    for module in ("format.directory", "volume.tree", "fsck.directories"):
        monkeypatch.setattr(f"sinfoniafs.{module}.position_of", collide)

    async def body(site: Site) -> None:
        names = {b"%d" % number for number in range(30)}
        for name in names:
            await namespace.create(site.volume, site.root, name, mode=0o644, owner=OWNER)
        entries = await list_directory(site.volume, site.root, 1)
        assert sorted(entry.name for entry in entries) == sorted(names)
        for name in sorted(names)[::2]:
            await namespace.unlink(site.volume, site.root, name)
        for name in sorted(names)[1::2]:
            await namespace.lookup(site.volume, site.root, name)
        assert len(await site.names()) == 15

    on_volume(body)
