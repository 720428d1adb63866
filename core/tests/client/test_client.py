"""The async client on real sockets, under asyncio and trio; the model says what is right."""

import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest

import sinfonia
from sinfonia.client.api import ClusterApi
from sinfonia.errors import OutOfRange, Unreachable
from sinfonia.minitransaction import Minitransaction
from sinfonia.testing.model import ModelCluster
from sinfonia.testing.plugin import ClusterFactory

pytestmark = pytest.mark.network

NODES = 2
DEADLINE = 30.0

Program = Callable[[sinfonia.Cluster], Awaitable[None]]
Run = Callable[[Program], None]


@pytest.fixture(scope="module", params=["LOG", "RAM"])
def endpoint(request: pytest.FixtureRequest, shared_cluster_factory: ClusterFactory) -> str:
    return shared_cluster_factory(memory_nodes=NODES, mode=request.param).endpoint


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest, endpoint: str) -> Run:
    """Runs a program with an open client, within a deadline."""

    async def main(program: Program) -> None:
        with anyio.fail_after(DEADLINE):
            async with await sinfonia.connect(endpoint) as cluster:
                await program(cluster)

    def start(program: Program) -> None:
        anyio.run(main, program, backend=request.param)

    return start


def random_minitransaction(cluster: ClusterApi, rng: random.Random) -> Minitransaction[Any]:
    """Few hot bytes, so that compares often match and items often overlap."""
    minitransaction = cluster.minitransaction(reads_on_failure=rng.random() < 0.3)
    for _ in range(rng.randint(1, 6)):
        node, address, length = rng.randrange(NODES), rng.randrange(8), rng.randint(0, 4)
        match rng.randrange(4):
            case 0:
                minitransaction.compare(node, address, bytes(rng.choices(b"\0\1", k=length)))
            case 1 | 2:
                minitransaction.read(node, address, length)
            case _:
                minitransaction.write(node, address, bytes(rng.choices(b"\0\1", k=length)))
    return minitransaction


def test_a_real_cluster_gives_the_results_of_the_model(run: Run) -> None:
    async def program(cluster: sinfonia.Cluster) -> None:
        model = ModelCluster(memory_nodes=NODES, capacity=1024)
        for node in range(NODES):
            await cluster.write(node, 0, bytes(64))
        for seed in range(400):
            real = await random_minitransaction(cluster, random.Random(seed)).execute()
            expected = await random_minitransaction(model, random.Random(seed)).execute()
            assert real.committed == expected.committed, seed
            assert list(real.failed_compares) == list(expected.failed_compares), seed
            if real.committed:
                assert list(real.reads) == list(expected.reads), seed

    run(program)


def test_transfers_between_nodes_keep_the_sum(run: Run) -> None:
    """Many tasks move money; whoever reads all accounts at once always sees all of it."""
    accounts = [(node, 1024 + 8 * i) for node in range(NODES) for i in range(3)]

    async def program(cluster: sinfonia.Cluster) -> None:
        rng = random.Random(1)
        for node, address in accounts:
            await cluster.write(node, address, (100).to_bytes(8, "little"))

        async def balances() -> list[int]:
            t = cluster.minitransaction()
            for account in accounts:
                t.read(*account, 8)
            return [int.from_bytes(data, "little") for data in (await t.execute()).reads]

        async def move() -> None:
            for _ in range(15):
                source, target = rng.sample(range(len(accounts)), 2)
                while True:
                    before = await balances()
                    assert sum(before) == 100 * len(accounts)
                    amount = rng.randint(0, before[source])
                    t = cluster.minitransaction()
                    for index, change in ((source, -amount), (target, amount)):
                        t.compare(*accounts[index], before[index].to_bytes(8, "little"))
                        t.write(*accounts[index], (before[index] + change).to_bytes(8, "little"))
                    if (await t.execute()).committed:
                        break

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(move)
        assert sum(await balances()) == 100 * len(accounts)

    run(program)


def test_a_pipeline_returns_results_in_order_and_keeps_to_its_window(run: Run) -> None:
    async def program(cluster: sinfonia.Cluster) -> None:
        def writes() -> Iterator[Minitransaction[Any]]:
            for i in range(3000):
                t = cluster.minitransaction()
                t.write(i % NODES, 8192 + 8 * i, i.to_bytes(8, "little"))
                yield t

        assert all(result.committed for result in await cluster.execute_many(writes()))
        reads = []
        for i in range(3000):
            t = cluster.minitransaction()
            t.read(i % NODES, 8192 + 8 * i, 8)
            reads.append(t)
        results = await cluster.execute_many(reads, in_flight=64)
        assert [int.from_bytes(r.reads[0], "little") for r in results] == list(range(3000))

    run(program)


def test_one_that_is_refused_does_not_keep_the_rest_of_a_pipeline_from_running(run: Run) -> None:
    async def program(cluster: sinfonia.Cluster) -> None:
        many = []
        for address in (4096, 1 << 40, 4097):
            t = cluster.minitransaction()
            t.write(0, address, b"x")
            many.append(t)
        with pytest.raises(OutOfRange):
            await cluster.execute_many(many)
        assert await cluster.read(0, 4096, 2) == b"xx"

    run(program)


def test_a_timeout_of_nothing_is_over_at_once(run: Run) -> None:
    async def program(cluster: sinfonia.Cluster) -> None:
        t = cluster.minitransaction()
        for node in range(NODES):
            t.write(node, 0, b"x")
        with anyio.fail_after(1.0):
            try:
                await t.execute(timeout=0.0)
            except sinfonia.OutcomeUnknown as error:
                await cluster.outcome(error.tid)
            except sinfonia.NotExecuted:
                pass  # the connection was not up yet

    run(program)


def test_large_items_go_there_and_back(run: Run) -> None:
    async def program(cluster: sinfonia.Cluster) -> None:
        data = random.Random(2).randbytes(3_000_000)
        t = cluster.minitransaction()
        t.write(0, 1 << 20, data[:1_500_000])
        t.write(1, 1 << 20, data[1_500_000:])
        await t.execute()
        t = cluster.minitransaction()
        t.compare(0, 1 << 20, data[:1_500_000])
        t.read(1, 1 << 20, 1_500_000)
        t.read(0, 1 << 20, 1_500_000)
        result = await t.execute()
        assert result.reads[1] + result.reads[0] == data

    run(program)


def test_the_body_of_async_with_raises_what_it_raised(run: Run) -> None:
    async def program(cluster: sinfonia.Cluster) -> None:
        with pytest.raises(OutOfRange, match="has 1073741824 bytes"):
            await cluster.read(0, 1 << 30, 1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(program)


def test_a_cancelled_caller_leaves_the_client_in_order(run: Run) -> None:
    async def program(cluster: sinfonia.Cluster) -> None:
        for _ in range(20):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await cluster.write(0, 0, b"?")
            await cluster.write(0, 16, b"!")
        assert await cluster.read(0, 16, 1) == b"!"

    run(program)


def test_any_memory_node_will_do_to_connect(endpoint: str) -> None:
    async def main() -> None:
        async with await sinfonia.connect(endpoint) as cluster:
            other = cluster.nodes[sinfonia.MemoryNodeId(1)].endpoint
        async with await sinfonia.connect(other) as cluster:
            assert len(cluster.nodes) == NODES

    anyio.run(main)


def test_an_endpoint_without_a_process_is_unreachable_and_says_so() -> None:
    async def main() -> None:
        with pytest.raises(Unreachable, match=r"is the cluster up, and is this its address\?"):
            await sinfonia.connect("tcp://127.0.0.1:1", timeout=0.2)

    anyio.run(main)
