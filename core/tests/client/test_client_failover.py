"""Clients on real sockets follow memory nodes that move, and no call fails that has time left."""

import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

import sinfonia
from sinfonia.addresses import MemoryNodeId
from sinfonia.client import seed
from sinfonia.errors import ConfigError, Unreachable
from sinfonia.operating.local_cluster import free_ports
from sinfonia.testing.movable_cluster import End, MovableCluster

pytestmark = pytest.mark.network

DEADLINE = 60.0
TASKS = 8
ADDED_BY_EACH = 12

Run = Callable[[MovableCluster, Callable[[sinfonia.Cluster], Awaitable[None]]], None]

ENDS = pytest.mark.parametrize("end", list(End), ids=lambda end: end.value)


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a program with an open client, within a deadline."""

    def start(
        movable: MovableCluster, program: Callable[[sinfonia.Cluster], Awaitable[None]]
    ) -> None:
        async def main() -> None:
            with anyio.fail_after(DEADLINE):
                async with await sinfonia.connect(movable.endpoint) as cluster:
                    await program(cluster)

        anyio.run(main, backend=request.param)

    return start


def fails_over_at(count: int) -> bool:
    """Three times in a test, while the other tasks have calls in flight."""
    return count in (20, 45, 70)


@ENDS
def test_calls_in_flight_follow_a_memory_node(run: Run, end: End) -> None:
    """All tasks add to the same two words, by compare and swap; nothing is added twice or lost."""

    async def program(cluster: sinfonia.Cluster) -> None:
        added = 0

        async def add() -> None:
            nonlocal added
            for _ in range(ADDED_BY_EACH):
                while True:
                    old = await cluster.read(0, 0, 8)
                    new = (int.from_bytes(old, "big") + 1).to_bytes(8, "big")
                    swap = cluster.minitransaction()
                    swap.compare(0, 0, old)
                    for node in (0, 1):
                        swap.write(node, 0, new)
                    if (await swap.execute()).committed:
                        break
                added += 1
                if fails_over_at(added):
                    movable.fail_over(0, end)

        async with anyio.create_task_group() as tasks:
            for _ in range(TASKS):
                tasks.start_soon(add)
        both = cluster.minitransaction()
        both.read(0, 0, 8)
        both.read(1, 0, 8)
        total = (TASKS * ADDED_BY_EACH).to_bytes(8, "big")
        assert list((await both.execute()).reads) == [total, total]
        assert cluster.statistics.unknown == 0
        assert cluster.nodes[MemoryNodeId(0)].endpoint == movable.directory.nodes[-1].endpoint

    with MovableCluster(memory_nodes=2) as movable:
        run(movable, program)


@ENDS
def test_calls_of_one_node_in_flight_follow_it(run: Run, end: End) -> None:
    async def program(cluster: sinfonia.Cluster) -> None:
        for _ in range(3):
            async with anyio.create_task_group() as tasks:
                for address in range(0, 512, 8):
                    tasks.start_soon(cluster.write, 0, address, address.to_bytes(8, "big"))
                await anyio.lowlevel.checkpoint()
                movable.fail_over(0, end)
        assert cluster.statistics.unknown == 0
        expected = b"".join(address.to_bytes(8, "big") for address in range(0, 512, 8))
        assert await cluster.read(0, 0, 512) == expected

    with MovableCluster() as movable:
        run(movable, program)


@ENDS
def test_a_pipeline_follows_a_memory_node(run: Run, end: End) -> None:
    async def program(cluster: sinfonia.Cluster) -> None:
        writes = []
        for address in range(0, 1024, 8):
            minitransaction = cluster.minitransaction()
            minitransaction.compare(0, address, bytes(8))
            minitransaction.write(0, address, b"once and")
            writes.append(minitransaction)

        async with anyio.create_task_group() as tasks:

            async def write() -> None:
                results = await cluster.execute_many(writes, in_flight=32)
                assert all(result.committed for result in results)

            tasks.start_soon(write)
            await anyio.lowlevel.checkpoint()
            movable.fail_over(0, end)

    with MovableCluster() as movable:
        run(movable, program)
        assert movable.read(0, 0, 1024) == b"once and" * 128


@ENDS
def test_blocking_calls_follow_a_memory_node(end: End) -> None:
    with MovableCluster() as movable, sinfonia.connect_blocking(movable.endpoint) as cluster:
        failures: list[Exception] = []
        added = [0]

        def add() -> None:
            try:
                for _ in range(ADDED_BY_EACH):
                    _add_one(cluster)
                    added[0] += 1
                    if fails_over_at(added[0]):
                        movable.fail_over(0, end)
            except sinfonia.SinfoniaError as error:
                failures.append(error)

        threads = [threading.Thread(target=add) for _ in range(TASKS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert failures == []
        assert int.from_bytes(cluster.read(0, 0, 8), "big") == TASKS * ADDED_BY_EACH
        assert cluster.statistics.unknown == 0
        assert cluster.nodes[MemoryNodeId(0)].endpoint == movable.directory.nodes[0].endpoint


def _add_one(cluster: sinfonia.BlockingCluster) -> None:
    while True:
        old = cluster.read(0, 0, 8)
        swap = cluster.minitransaction()
        swap.compare(0, 0, old)
        swap.write(0, 0, (int.from_bytes(old, "big") + 1).to_bytes(8, "big"))
        if swap.execute().committed:
            return


def test_a_memory_node_that_was_added_is_there_after_a_refresh(run: Run) -> None:
    async def program(cluster: sinfonia.Cluster) -> None:
        movable.add_memory_node()
        with pytest.raises(sinfonia.OutOfRange):
            await cluster.read(1, 0, 1)
        await cluster.refresh()
        assert list(cluster.nodes) == [0, 1]
        await cluster.write(1, 0, b"new")
        assert await cluster.read(1, 0, 3) == b"new"

    with MovableCluster() as movable:
        run(movable, program)


def test_what_one_thread_learns_the_others_know() -> None:
    with MovableCluster() as movable, sinfonia.connect_blocking(movable.endpoint) as cluster:
        cluster.write(0, 0, b"x")
        movable.add_memory_node()
        thread = threading.Thread(target=cluster.refresh)
        thread.start()
        thread.join(DEADLINE)
        assert list(cluster.nodes) == [0, 1]
        cluster.write(1, 0, b"new")
        assert cluster.read(1, 0, 3) == b"new"


def test_a_refresh_without_an_answer_says_so(run: Run) -> None:
    async def program(cluster: sinfonia.Cluster) -> None:
        movable.__exit__(None, None, None)
        with pytest.raises(Unreachable, match="no manager or memory node answers"):
            await cluster.refresh(timeout=0.1)

    movable = MovableCluster()
    movable.__enter__()
    run(movable, program)


def test_no_process_is_asked_for_the_directory_while_all_is_well(run: Run) -> None:
    async def program(cluster: sinfonia.Cluster) -> None:
        asked = movable.directories_asked_for
        for _ in range(200):
            await cluster.write(0, 0, b"x")
        assert movable.directories_asked_for == asked

    with MovableCluster() as movable:
        run(movable, program)


def test_any_of_several_endpoints_will_do() -> None:
    [port] = free_ports(1)

    async def main(endpoints: str) -> None:
        async with await sinfonia.connect(endpoints) as cluster:
            await cluster.write(0, 0, b"x")

    with MovableCluster() as movable:
        endpoints = f"tcp://127.0.0.1:{port}, {movable.endpoint}"
        anyio.run(main, endpoints)
        with sinfonia.connect_blocking(endpoints) as cluster:
            assert cluster.read(0, 0, 1) == b"x"


def test_one_of_several_endpoints_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match="'' is not an endpoint; it looks like tcp://host:port"):
        sinfonia.connect_blocking("tcp://127.0.0.1:7000,")


def test_a_cluster_whose_memory_nodes_have_not_registered_is_waited_for() -> None:
    with MovableCluster(registered=False) as movable:
        with pytest.raises(Unreachable, match="no memory node of the cluster 'movable' has repor"):
            sinfonia.connect_blocking(movable.endpoint, timeout=0.2)
        asked = movable.directories_asked_for

        def register() -> None:
            while movable.directories_asked_for == asked:
                movable.add_memory_node()  # waits for the thread of the cluster each time
            movable.register()

        thread = threading.Thread(target=register)
        thread.start()
        with sinfonia.connect_blocking(movable.endpoint, timeout=DEADLINE) as cluster:
            cluster.write(0, 0, b"x")
        thread.join(DEADLINE)


def test_of_several_directories_the_newest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory nodes may be behind, so the others that were asked are waited for a little."""
    monkeypatch.setattr(seed, "OTHERS_PATIENCE", DEADLINE)
    with MovableCluster() as old, MovableCluster(memory_nodes=3) as new:
        places = [movable.directory.nodes[0].endpoint for movable in (old, new)]
        for endpoints in (places, places[::-1]):
            with sinfonia.connect_blocking(",".join(endpoints)) as cluster:
                assert len(cluster.nodes) == 3


def test_a_manager_that_answers_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed, "OTHERS_PATIENCE", 2 * DEADLINE)
    [port] = free_ports(1)
    with MovableCluster() as movable:
        endpoints = f"tcp://127.0.0.1:{port},{movable.endpoint}"
        with sinfonia.connect_blocking(endpoints, timeout=DEADLINE) as cluster:
            assert len(cluster.nodes) == 1


def test_connections_to_old_primaries_are_closed(run: Run) -> None:
    async def program(cluster: sinfonia.Cluster) -> None:
        await cluster.write(0, 0, b"x")
        before = _open_files()
        for _ in range(10):
            movable.fail_over(0, End.KILLED)
            await cluster.write(0, 0, b"x")
        # Those to whoever was asked for the directory stay for a while, two descriptors each.
        assert _open_files() < before + 10

    with MovableCluster() as movable:
        run(movable, program)


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
