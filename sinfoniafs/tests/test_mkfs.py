"""mkfs makes a volume; what is not a volume is not opened."""

import random

import pytest
import trio

from sinfonia.addresses import MemoryNodeId
from sinfonia.testing.model import ModelCluster
from sinfoniafs.errors import FormatError
from sinfoniafs.format.layout import SESSIONS_MAX
from sinfoniafs.fsck.check import check_volume
from sinfoniafs.mkfs import make_volume
from sinfoniafs.testing import MIB, OWNER, Clock
from sinfoniafs.volume import namespace
from sinfoniafs.volume.inode_attributes import get_attributes
from sinfoniafs.volume.mounting import close_volume, open_volume


async def make(cluster: ModelCluster, *, overwrite: bool = False) -> None:
    await make_volume(cluster, clock=Clock(), rng=random.Random(1), overwrite=overwrite)


def test_a_new_volume_is_empty_and_clean() -> None:
    async def main() -> None:
        cluster = ModelCluster(memory_nodes=3, capacity=2 * MIB + 5)
        made = await make_volume(cluster, name="new", owner=(7, 8))
        report = await check_volume(cluster, name="new")
        assert report.clean
        assert (report.files, report.directories, report.blocks_used) == (0, 1, 0)
        async_volume = await open_volume(cluster, name="new")
        root = await get_attributes(async_volume, async_volume.root)
        assert (root.uid, root.gid, root.nlink) == (7, 8, 2)
        assert async_volume.superblock == made
        await close_volume(async_volume)

    trio.run(main)


def test_a_volume_is_not_overwritten_unless_told() -> None:
    async def main() -> None:
        cluster = ModelCluster(memory_nodes=2, capacity=2 * MIB)
        await make(cluster)
        volume = await open_volume(cluster)
        await namespace.create(volume, volume.root, b"file", mode=0o644, owner=OWNER)
        with pytest.raises(FormatError, match="--force"):
            await make(cluster)
        await namespace.lookup(volume, volume.root, b"file")
        await make(cluster, overwrite=True)
        report = await check_volume(cluster)
        assert report.clean, report.problems
        assert (report.files, report.sessions) == (0, ())

    trio.run(main)


def test_other_data_is_not_overwritten_unless_told() -> None:
    async def main() -> None:
        cluster = ModelCluster(capacity=2 * MIB)
        cluster.memory[MemoryNodeId(0)][:] = b"\x55" * (2 * MIB)
        with pytest.raises(FormatError, match="other data"):
            await make(cluster)
        await make(cluster, overwrite=True)
        assert (await check_volume(cluster)).clean

    trio.run(main)


def test_too_small_a_memory_node_is_refused() -> None:
    async def main() -> None:
        with pytest.raises(FormatError, match="make the memory node larger"):
            await make(ModelCluster(capacity=MIB - 1))
        with pytest.raises(FormatError, match="has 1048576 bytes, not 2097152"):
            await make_volume(ModelCluster(capacity=MIB), size_per_node=2 * MIB)

    trio.run(main)


def test_a_cluster_without_a_volume_says_what_to_do() -> None:
    async def main() -> None:
        with pytest.raises(FormatError, match="sinfoniafs mkfs"):
            await open_volume(ModelCluster())

    trio.run(main)


def test_another_name_is_told() -> None:
    async def main() -> None:
        cluster = ModelCluster(capacity=2 * MIB)
        await make(cluster)
        with pytest.raises(FormatError, match="'default', not 'other'"):
            await open_volume(cluster, name="other")

    trio.run(main)


# Offsets in the superblock are those of FORMAT.md.
@pytest.mark.parametrize(
    ("offset", "byte", "message"),
    [(8, 2, "format version 2"), (32, 1, "wrong checksum"), (100, 9, "wrong checksum")],
)
def test_a_superblock_that_is_not_understood_is_refused(
    offset: int, byte: int, message: str
) -> None:
    async def main() -> None:
        cluster = ModelCluster(capacity=2 * MIB)
        await make(cluster)
        cluster.memory[MemoryNodeId(0)][offset] = byte
        with pytest.raises(FormatError, match=message):
            await open_volume(cluster)
        with pytest.raises(FormatError, match=message):
            await check_volume(cluster)

    trio.run(main)


def test_a_memory_node_that_lost_its_part_is_named() -> None:
    async def main() -> None:
        cluster = ModelCluster(memory_nodes=3, capacity=2 * MIB)
        await make(cluster)
        cluster.memory[MemoryNodeId(1)][:] = bytes(2 * MIB)
        with pytest.raises(FormatError, match="memory node 1 does not hold its part"):
            await open_volume(cluster)
        del cluster.memory[MemoryNodeId(1)]
        with pytest.raises(FormatError, match="needs memory node 1, which is not there"):
            await open_volume(cluster)

    trio.run(main)


def test_there_are_as_many_sessions_as_slots() -> None:
    async def main() -> None:
        cluster = ModelCluster(capacity=2 * MIB)
        await make(cluster)
        rng = random.Random(0)
        volumes = [await open_volume(cluster, rng=rng) for _ in range(SESSIONS_MAX)]
        with pytest.raises(FormatError, match="sessions"):
            await open_volume(cluster, rng=rng)
        await close_volume(volumes[0])
        await open_volume(cluster, rng=rng)
        report = await check_volume(cluster, reclaim=True, patience_s=0)
        assert report.clean
        assert report.sessions == ()

    trio.run(main)
