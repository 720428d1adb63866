"""Reserving, linking and giving back."""

import random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from sinfonia.addresses import MemoryNodeId
from sinfonia.testing.model import ModelCluster
from sinfoniafs.allocator import Allocator, Kind
from sinfoniafs.errors import NoSpace, SessionLost
from sinfoniafs.format.layout import FREE, Layout, memory_node_of, runs
from sinfoniafs.format.superblock import Superblock
from sinfoniafs.mkfs import make_volume
from sinfoniafs.session import Session, fence_session, read_sessions
from sinfoniafs.testing import MIB, Clock
from sinfoniafs.volume.opening import read_superblocks

NODE = MemoryNodeId(0)


class Bench:
    """A volume without a file system on top: sessions and their allocators."""

    def __init__(self, cluster: ModelCluster, superblock: Superblock, layout: Layout) -> None:
        self.cluster = cluster
        self.superblock = superblock
        self.layout = layout

    @classmethod
    async def build(cls, *, memory_nodes: int = 1, capacity: int = MIB) -> "Bench":
        cluster = ModelCluster(memory_nodes=memory_nodes, capacity=capacity)
        await make_volume(cluster, clock=Clock(), rng=random.Random(0))
        return cls(cluster, *await read_superblocks(cluster, "default"))

    async def allocator(self, seed: int) -> Allocator:
        session = await Session.register(
            self.cluster,
            self.superblock,
            rng=random.Random(seed),
            started_ns=0,
            pid=seed,
            host="host",
            mountpoint="",
        )
        return Allocator(self.cluster, self.layout, session, random.Random(seed))

    def free(self, kind: Kind) -> int:
        total = 0
        for node, each in self.layout.nodes.items():
            first = self.layout.inode_map(0).offset
            size = each.inodes
            if kind is Kind.BLOCK:
                first, size = each.block_map_address, each.blocks
            total += self.cluster.memory[node][first : first + size].count(FREE)
        return total


def test_one_minitransaction_reserves_for_many_takes() -> None:
    async def main() -> None:
        bench = await Bench.build(capacity=64 * MIB)
        allocator = await bench.allocator(1)
        before = bench.cluster.statistics.executed
        taken = [await allocator.take(Kind.BLOCK, NODE, 1) for _ in range(64)]
        # One to look for free ones, one to reserve them.
        assert bench.cluster.statistics.executed - before == 2
        assert len({each[0] for each in taken}) == 64

    trio.run(main)


def test_blocks_come_side_by_side() -> None:
    async def main() -> None:
        bench = await Bench.build(capacity=64 * MIB)
        allocator = await bench.allocator(1)
        blocks = await allocator.take(Kind.BLOCK, NODE, 500)
        assert len(list(runs(blocks))) <= 2

    trio.run(main)


def test_two_sessions_never_get_the_same() -> None:
    async def main() -> None:
        bench = await Bench.build(memory_nodes=2)
        allocators = [await bench.allocator(seed) for seed in range(3)]
        taken: list[int] = []

        async def take(allocator: Allocator) -> None:
            for _ in range(12):
                taken.extend(await allocator.take(Kind.BLOCK, NODE, 2))

        async with trio.open_nursery() as nursery:
            for allocator in allocators:
                nursery.start_soon(take, allocator)
        assert len(taken) == len(set(taken)) == 72

    trio.run(main)


def test_another_memory_node_helps_out_when_one_is_full() -> None:
    async def main() -> None:
        bench = await Bench.build(memory_nodes=2)
        allocator = await bench.allocator(1)
        room = bench.free(Kind.BLOCK) // 2
        blocks = await allocator.take(Kind.BLOCK, NODE, room + 5)
        assert sum(memory_node_of(block) == NODE for block in blocks) == room

    trio.run(main)


def test_no_space_takes_nothing() -> None:
    async def main() -> None:
        bench = await Bench.build()
        allocator = await bench.allocator(1)
        room = bench.free(Kind.BLOCK)
        with pytest.raises(NoSpace):
            await allocator.take(Kind.BLOCK, NODE, room + 1)
        assert len(await allocator.take(Kind.BLOCK, NODE, room)) == room
        with pytest.raises(NoSpace):
            await allocator.take(Kind.BLOCK, NODE, 1)

    trio.run(main)


def test_leaving_frees_the_reserve_and_what_is_in_doubt_but_not_what_is_linked() -> None:
    async def main() -> None:
        bench = await Bench.build(memory_nodes=2)
        allocator = await bench.allocator(1)
        room = bench.free(Kind.INODE)
        linked, lost, unused = await allocator.take(Kind.INODE, NODE, 3)
        node, address = bench.layout.inode_map(linked)
        bench.cluster.memory[node][address] = 1
        allocator.abandon(Kind.INODE, [linked, lost])
        allocator.give_back(Kind.INODE, [unused])
        await allocator.leave()
        assert bench.free(Kind.INODE) == room - 1

    trio.run(main)


def test_a_session_taken_for_dead_reserves_nothing_more() -> None:
    async def main() -> None:
        bench = await Bench.build()
        allocator = await bench.allocator(1)
        (record,) = await read_sessions(bench.cluster, bench.superblock)
        assert await fence_session(bench.cluster, bench.superblock, record)
        with pytest.raises(SessionLost):
            await allocator.take(Kind.INODE, NODE, 1)

    trio.run(main)


def test_a_session_that_moved_is_not_fenced() -> None:
    async def main() -> None:
        bench = await Bench.build()
        session = (await bench.allocator(1))._session
        (record,) = await read_sessions(bench.cluster, bench.superblock)
        await session.beat()
        assert await fence_session(bench.cluster, bench.superblock, record) is None
        await session.beat()

    trio.run(main)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 20)), max_size=30), st.integers(0, 9))
def test_what_is_taken_is_never_given_to_another_before_it_is_back(
    steps: list[tuple[bool, int]], seed: int
) -> None:
    async def main() -> None:
        bench = await Bench.build()
        room = bench.free(Kind.BLOCK)
        allocator = await bench.allocator(seed)
        held: list[int] = []
        for take, count in steps:
            if not take:
                allocator.give_back(Kind.BLOCK, held[:count])
                del held[:count]
            elif len(held) + count <= room:
                held += await allocator.take(Kind.BLOCK, NODE, count)
            assert len(held) == len(set(held))
        allocator.give_back(Kind.BLOCK, held)
        await allocator.leave()
        assert bench.free(Kind.BLOCK) == room

    trio.run(main)
