"""fsck finds each kind of damage: every test plants one, by hand, in the memory nodes' bytes."""

import struct
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.api import ClusterApi
from sinfoniafs.attributes import InodeNumber
from sinfoniafs.format.directory import HEAD_SIZE, Leaf
from sinfoniafs.format.inode import AREA_OFFSET, Inode
from sinfoniafs.format.layout import (
    BLOCK_SIZE,
    FREE,
    INODE_SIZE,
    ORPHAN,
    RESERVED_FIRST,
    USED,
    BlockNumber,
    Layout,
    block_address,
    memory_node_of,
    session_address,
)
from sinfoniafs.fsck import check as fsck
from sinfoniafs.fsck.check import Progress, check_volume
from sinfoniafs.fsck.inodes import Inodes, check_inodes
from sinfoniafs.fsck.maps import Maps
from sinfoniafs.testing import MIB, OWNER, Site, close_site, open_site
from sinfoniafs.volume import namespace


class Damage:
    """A small volume, unmounted, and what it takes to damage it."""

    def __init__(self, site: Site, numbers: dict[str, InodeNumber]) -> None:
        self.memory = site.cluster.memory
        self.layout = site.volume.layout
        self.root = site.root
        self.file = numbers["file"]
        self.large = numbers["large"]
        self.directory = numbers["directory"]
        self.removed = numbers["removed"]

    def inode(self, number: InodeNumber) -> Inode:
        node, address = self.layout.inode_slot(number)
        return Inode.decode(number, bytes(self.memory[node][address : address + INODE_SIZE]))

    def put_inode(self, number: InodeNumber, **changes: Any) -> None:  # noqa: ANN401 - a field's
        node, address = self.layout.inode_slot(number)
        changed = self.inode(number)._replace(**changes)
        self.memory[node][address : address + INODE_SIZE] = changed.encode()

    def put_pointer(self, number: InodeNumber, place: int, pointer: int) -> None:
        node, address = self.layout.inode_slot(number)
        struct.pack_into("<Q", self.memory[node], address + AREA_OFFSET + 8 * place, pointer)

    def leaf(self, number: InodeNumber) -> Leaf:
        block = BlockNumber(self.inode(number).root)
        start = block_address(block)
        return Leaf.decode(
            block, bytes(self.memory[memory_node_of(block)][start : start + BLOCK_SIZE])
        )

    def put_leaf(self, leaf: Leaf) -> None:
        start = block_address(leaf.block)
        image = leaf.pack(leaf.in_order()).encode()
        self.memory[memory_node_of(leaf.block)][start : start + len(image)] = image

    def put_entry(self, number: InodeNumber, name: bytes, **changes: Any) -> None:  # noqa: ANN401
        leaf = self.leaf(number)
        entries = {
            position: entry._replace(**changes) if entry.name == name else entry
            for position, entry in leaf.entries.items()
        }
        self.put_leaf(leaf._replace(entries={each.position: each for each in entries.values()}))

    def mark_inode(self, number: int, state: bytes) -> None:
        node, address = self.layout.inode_map(number)
        self.memory[node][address : address + 1] = state

    def mark_block(self, number: int, state: bytes) -> None:
        node, address = self.layout.block_map(number)
        self.memory[node][address : address + 1] = state

    def free_block(self) -> int:
        used = {pointer for pointer in self.inode(self.large).pointers if pointer}
        block = max(used) + 1
        node, address = self.layout.block_map(block)
        while self.memory[node][address] != FREE[0]:
            block, address = block + 1, address + 1
        return block


def remove_entry(damage: Damage) -> None:
    leaf = damage.leaf(damage.root)
    rest = {at: entry for at, entry in leaf.entries.items() if entry.name != b"file"}
    damage.put_leaf(leaf._replace(entries=rest))


def name_twice(damage: Damage) -> None:
    leaf = damage.leaf(damage.root)
    entry = next(entry for entry in leaf.entries.values() if entry.name == b"file")
    twin = entry._replace(position=entry.position + 1)
    damage.put_leaf(leaf._replace(entries={**leaf.entries, twin.position: twin}))


def second_name(damage: Damage) -> None:
    damage.put_entry(damage.root, b"file", inode=damage.directory, kind=4)


def swap_order(damage: Damage) -> None:
    leaf = damage.leaf(damage.root)
    entry = next(iter(leaf.entries.values()))
    damage.put_entry(damage.root, entry.name, position=entry.position + 4096)


def steal_block(damage: Damage) -> None:
    damage.put_pointer(damage.large, 1, damage.inode(damage.large).pointers[0])


def tear_leaf(damage: Damage) -> None:
    leaf = damage.leaf(damage.directory)
    start = block_address(leaf.block) + HEAD_SIZE
    damage.memory[memory_node_of(leaf.block)][start + 17] ^= 0xFF


def extra_block(damage: Damage) -> None:
    block = damage.free_block()
    damage.mark_block(block, USED)
    damage.put_pointer(damage.large, 20, block)
    damage.put_inode(damage.large, blocks=damage.inode(damage.large).blocks + 1)


def ghost_session(damage: Damage) -> None:
    damage.memory[memory_node_of(damage.root)][session_address(3)] = 7
    damage.memory[memory_node_of(1 << 40)][session_address(5)] = 7


DAMAGES: dict[str, tuple[Callable[[Damage], None], str]] = {
    "a used block marked free": (
        lambda damage: damage.mark_block(damage.inode(damage.large).pointers[0], FREE),
        "marked free",
    ),
    "a free block marked used": (
        lambda damage: damage.mark_block(damage.free_block(), USED),
        "is marked used, but nothing uses it",
    ),
    "a block used twice": (steal_block, "used already"),
    "a pointer out of range": (
        lambda damage: damage.put_pointer(damage.large, 0, 5),
        "not a data block",
    ),
    "a block beyond the end": (extra_block, "beyond its size"),
    "a wrong block count": (
        lambda damage: damage.put_inode(damage.large, blocks=9),
        "says 9 blocks",
    ),
    "a wrong size": (lambda damage: damage.put_inode(damage.large, size=5), "beyond its size"),
    "a block map too high": (
        lambda damage: damage.put_inode(damage.large, height=2**31),
        "block map of height",
    ),
    "an inline file too large": (lambda damage: damage.put_inode(damage.file, size=300), "inline"),
    "a wrong link count": (lambda damage: damage.put_inode(damage.file, nlink=2), "says 2 links"),
    "a wrong count of directories": (
        lambda damage: damage.put_inode(damage.root, nlink=5),
        "says 5 links, has 3",
    ),
    "an inode without a name": (remove_entry, "cannot be reached"),
    "a name without an inode": (
        lambda damage: damage.put_entry(damage.root, b"file", inode=damage.removed),
        "which is free",
    ),
    "a name of the wrong kind": (
        lambda damage: damage.put_entry(damage.root, b"file", kind=4),
        "says kind 4",
    ),
    "a name twice": (name_twice, "a name twice"),
    "a directory with two names": (second_name, "second name"),
    "an entry out of hash order": (swap_order, "hash belongs"),
    "a wrong parent": (
        lambda damage: damage.put_inode(damage.directory, parent=damage.directory),
        "its parent is",
    ),
    "a torn leaf": (tear_leaf, "directory leaf"),
    "a leaf of another directory": (
        lambda damage: damage.put_leaf(
            damage.leaf(damage.directory)._replace(owner=InodeNumber(77))
        ),
        "says it is of",
    ),
    "a wrong directory size": (
        lambda damage: damage.put_inode(damage.directory, size=5),
        "and size 5",
    ),
    "a used inode whose slot is free": (
        lambda damage: damage.put_inode(damage.file, kind=0),
        "its slot says kind 0o0",
    ),
    "a used inode marked free": (lambda damage: damage.mark_inode(damage.file, FREE), "is free"),
    "a named inode marked an orphan": (
        lambda damage: damage.mark_inode(damage.file, ORPHAN),
        "marked an orphan",
    ),
    "an inode without links that is no orphan": (
        lambda damage: damage.put_inode(damage.file, nlink=0),
        "has no links",
    ),
    "unknown flags": (lambda damage: damage.put_inode(damage.file, flags=129), "unknown flags"),
    "an inode open nowhere": (
        lambda damage: damage.put_inode(damage.file, openers=1 << 9),
        "sessions that do not exist",
    ),
    "a block reserved for a session that does not exist": (
        lambda damage: damage.mark_block(damage.free_block(), bytes([RESERVED_FIRST + 9])),
        "reserved by session slot 9, wrongly",
    ),
    "an inode in an unknown state": (
        lambda damage: damage.mark_inode(damage.removed, b"\x09"),
        "unknown state 9",
    ),
    "a format block given away": (lambda damage: damage.mark_block(1, FREE), "mismarked"),
    "a session that the home node does not know": (ghost_session, "not as at home"),
    "the root gone": (lambda damage: damage.mark_inode(damage.root, FREE), "root directory"),
}


async def furnish(site: Site) -> Damage:
    numbers = {
        "file": await site.file(b"file", b"inline"),
        "large": await site.file(b"large", b"x" * (5 * BLOCK_SIZE)),
        "directory": await site.directory(),
        "removed": await site.file(b"removed"),
    }
    await namespace.unlink(site.volume, site.root, b"removed")
    await namespace.create(site.volume, numbers["directory"], b"in", mode=0o644, owner=OWNER)
    await close_site(site)
    return Damage(site, numbers)


@pytest.mark.parametrize(("plant", "finding"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_found(plant: Callable[[Damage], None], finding: str) -> None:
    async def main() -> None:
        site = await open_site(mounts=1, memory_nodes=2, capacity=4 * MIB)
        plant(await furnish(site))
        report = await check_volume(site.cluster)
        assert not report.clean
        assert any(finding in problem for problem in report.problems), report.problems

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_clean_volume_is_counted() -> None:
    async def main() -> None:
        site = await open_site(mounts=1, memory_nodes=2, capacity=4 * MIB)
        await furnish(site)
        steps: list[tuple[str, int, int]] = []
        report = await check_volume(
            site.cluster, progress=lambda what, done, of: steps.append((what, done, of))
        )
        assert report.clean
        assert (report.files, report.directories) == (3, 2)
        assert report.bytes == 6 + 5 * BLOCK_SIZE
        assert report.blocks_used == 5 + 2
        assert ("inodes", 5, 5) in steps
        assert ("directories", 2, 2) in steps

    trio.run(main)


def test_widespread_damage_is_not_listed_to_the_last_block() -> None:
    async def main() -> None:
        site = await open_site(mounts=1, memory_nodes=1, capacity=16 * MIB)
        damage = await furnish(site)
        first = damage.free_block()
        for block in range(first, first + 500):
            damage.mark_block(block, USED)
        report = await check_volume(site.cluster)
        assert 100 < len(report.problems) < 110

    trio.run(main)


def test_what_a_mount_changes_meanwhile_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found on a real cluster: a mount freed files that it had closed while fsck was reading."""

    async def main() -> None:
        site = await open_site(mounts=1, memory_nodes=1, capacity=4 * MIB)
        await site.file(b"doomed", b"x" * (5 * BLOCK_SIZE))
        passes = 0

        async def after_the_maps_were_read(
            cluster: ClusterApi, layout: Layout, maps: Maps, slots: set[int], progress: Progress
        ) -> Inodes:
            nonlocal passes
            passes += 1
            if passes == 1:
                await namespace.unlink(site.volume, site.root, b"doomed")
            return await check_inodes(cluster, layout, maps, slots, progress)

        monkeypatch.setattr(fsck, "check_inodes", after_the_maps_were_read)
        report = await check_volume(site.cluster)
        assert report.clean, report.problems
        assert passes == 2
        await close_site(site)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_damage_is_found_on_a_mounted_volume_too() -> None:
    async def main() -> None:
        site = await open_site(mounts=1, memory_nodes=1, capacity=4 * MIB)
        block = site.volume.layout.nodes[MemoryNodeId(0)].blocks - 1
        node, address = site.volume.layout.block_map(BlockNumber(block))
        site.cluster.memory[node][address : address + 1] = USED
        report = await check_volume(site.cluster)
        assert [
            problem
            for problem in report.problems
            if "is marked used, but nothing uses it" in problem
        ]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
