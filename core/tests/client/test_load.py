"""Load figures on real processes: through both clients, by tag, over a fail-over, as a table."""

import json
import re
import threading
from operator import le

import anyio
import pytest
from click.testing import CliRunner, Result

import sinfonia
from sinfonia.cli.main import main
from sinfonia.client.api import ClusterApi
from sinfonia.errors import OutOfRange, Unreachable
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.protocol.load.counters import OTHER, TAGS_MAX
from sinfonia.protocol.load.windows import LOAD_WINDOWS
from sinfonia.testing.model import ModelCluster
from sinfonia.testing.plugin import ClusterFactory
from sinfonia.testing.real_cluster import paused, primary_of, real_cluster

pytestmark = pytest.mark.network

NODES = 2
DEADLINE = 30.0


@pytest.fixture(scope="module")
def cluster(shared_cluster_factory: ClusterFactory) -> LocalCluster:
    return shared_cluster_factory(memory_nodes=NODES, mode="RAM")


def tagged(cluster: sinfonia.BlockingCluster, tag: str, *, expect: bytes = b"") -> bool:
    """One minitransaction of a test's own tag: compares, reads 8 bytes, and writes 4."""
    minitransaction = cluster.minitransaction(tag=tag)
    if expect:
        minitransaction.compare(0, 4096, expect)
    minitransaction.read(0, 0, 8)
    minitransaction.write(0, 64, b"four")
    return minitransaction.execute(timeout=DEADLINE).committed


def run_command(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["load", *arguments])


def test_each_tag_is_counted_apart(cluster: LocalCluster) -> None:
    with sinfonia.connect_blocking(cluster.endpoint) as client:
        for _ in range(5):
            assert tagged(client, "apart")
        assert not tagged(client, "apart", expect=b"never there")
        load = client.load()
    windows = load[sinfonia.MemoryNodeId(0)].by_tag["apart"]
    assert [window.window for window in windows] == list(LOAD_WINDOWS)
    for window in windows:
        assert (window.executed, window.aborted, window.retried) == (5, 1, 0)
        assert (window.bytes_read, window.bytes_written) == (40, 20)
    assert "apart" not in load[sinfonia.MemoryNodeId(1)].by_tag


def test_a_window_covers_no_more_than_the_nodes_life(cluster: LocalCluster) -> None:
    with sinfonia.connect_blocking(cluster.endpoint) as client:
        load = client.load(0)
    [node] = load.values()
    assert 0 < node.window(43200).seconds < 600
    assert node.window(5).seconds <= node.window(43200).seconds


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_async_client_asks_while_it_executes(cluster: LocalCluster, backend: str) -> None:
    """Answers to questions and votes come in one message, and neither waits for the other."""

    async def program() -> None:
        with anyio.fail_after(DEADLINE):
            async with (
                await sinfonia.connect(cluster.endpoint) as client,
                anyio.create_task_group() as tasks,
            ):

                async def execute() -> None:
                    for _ in range(50):
                        await client.write(0, 128, b"busy")

                tasks.start_soon(execute)
                for _ in range(5):
                    load = await client.load()
                    assert list(load) == [0, 1]
                tasks.start_soon(client.load, 1)
                tasks.start_soon(client.load, 0)
                with pytest.raises(OutOfRange, match="no memory node 7"):
                    await client.load(7)

    anyio.run(program, backend=backend)


async def execute_some(client: ClusterApi) -> None:
    """Over one node and two, matching and not."""
    for step in range(12):
        minitransaction = client.minitransaction(tag="modelled")
        minitransaction.compare(0, 8192, b"" if step % 3 else b"never there")
        minitransaction.read(0, 8200, 1 + step)
        minitransaction.write(step % 2, 8200, bytes(step))
        minitransaction.add(0, 8300, 1, width=4)
        await client.execute(minitransaction)


async def counts_of(client: ClusterApi) -> dict[int, tuple[int, ...]]:
    windows = {node: load.window(43200, "modelled") for node, load in (await client.load()).items()}
    return {
        node: (each.executed, each.aborted, each.bytes_read, each.bytes_written)
        for node, each in windows.items()
    }


def test_real_nodes_count_what_the_model_counts(cluster: LocalCluster) -> None:
    async def program() -> None:
        model = ModelCluster(memory_nodes=NODES)
        await execute_some(model)
        expected = await counts_of(model)
        assert expected[0][:2] == (8, 4)
        with anyio.fail_after(DEADLINE):
            async with await sinfonia.connect(cluster.endpoint) as client:
                await execute_some(client)
                # The last outcomes may be on their way to the participants.
                while (found := await counts_of(client)) != expected:
                    assert all(map(le, found[0], expected[0])), found

    anyio.run(program)


def test_threads_ask_for_themselves(cluster: LocalCluster) -> None:
    answers: list[int] = []
    with sinfonia.connect_blocking(cluster.endpoint) as client:

        def ask() -> None:
            answers.append(len(client.load()))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [NODES] * 4


def test_a_client_of_the_node_may_not_invent_tags_without_end(cluster: LocalCluster) -> None:
    with sinfonia.connect_blocking(cluster.endpoint) as client:
        minitransactions = []
        for number in range(5 * TAGS_MAX):
            minitransaction = client.minitransaction(tag=f"invented{number}")
            minitransaction.write(1, 0, b"x")
            minitransactions.append(minitransaction)
        client.execute_many(minitransactions)
        [load] = client.load(1).values()
    assert len(load.by_tag) <= TAGS_MAX + 1
    assert load.window(3600, OTHER).executed > 3 * TAGS_MAX
    assert load.window(3600).executed >= 5 * TAGS_MAX


def test_a_node_that_stands_still_is_named(cluster: LocalCluster) -> None:
    with sinfonia.connect_blocking(cluster.endpoint) as client:
        client.load()
        with paused(cluster, "node1"):
            with pytest.raises(Unreachable, match="memory node 1 did not say"):
                client.load(timeout=0.5)
            assert list(client.load(0, timeout=DEADLINE)) == [0]
            done = run_command(str(cluster.directory))
            assert done.exit_code == 1
            assert "memory node 1 has no primary that answers" in done.stderr
            assert done.stdout.count("12 h") == 1
        assert list(client.load(timeout=DEADLINE)) == [0, 1]


def test_the_table_shows_each_window_of_each_node(cluster: LocalCluster) -> None:
    with sinfonia.connect_blocking(cluster.endpoint) as client:
        assert tagged(client, "shown")
    done = run_command(str(cluster.directory))
    assert done.exit_code == 0, done.output
    header, *rows = done.stdout.splitlines()
    assert header.split()[:3] == ["NODE", "WINDOW", "COVERS"]
    assert len(rows) == NODES * len(LOAD_WINDOWS)
    by_tag = run_command(cluster.endpoint, "--by-tag").stdout
    assert by_tag.count("shown") == len(LOAD_WINDOWS)
    only = run_command(cluster.endpoint, "--tag", "shown").stdout.splitlines()
    assert len(only) == 1 + NODES * len(LOAD_WINDOWS)
    assert all("shown" in row for row in only[1:])


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_tag_that_is_not_counted_is_an_error(
    cluster: LocalCluster, options: tuple[str, ...]
) -> None:
    with sinfonia.connect_blocking(cluster.endpoint) as client:
        assert tagged(client, "counted")
    done = run_command(cluster.endpoint, "--tag", "nosuch", *options)
    assert (done.exit_code, done.stdout) == (1, "")
    said = " ".join(done.stderr.split())
    assert re.search(r"no memory node counts the tag 'nosuch'; tags: (\w+, )*counted\b", said)


def test_scripts_get_counts_and_rates(cluster: LocalCluster) -> None:
    with sinfonia.connect_blocking(cluster.endpoint) as client:
        assert tagged(client, "scripted")
    found = json.loads(run_command(str(cluster.directory), "--json").stdout)
    assert [node["node"] for node in found["memory_nodes"]] == [0, 1]
    [*_, longest] = found["memory_nodes"][0]["by_tag"]["scripted"]
    assert longest["executed"] == 1
    assert longest["window"] == 43200
    assert longest["executed_rate"] == pytest.approx(1 / longest["seconds"])
    chosen = json.loads(run_command(str(cluster.directory), "--json", "--tag", "scripted").stdout)
    assert [list(node["by_tag"]) for node in chosen["memory_nodes"]] == [["scripted"]] * 2
    assert found["silent"] == []


@pytest.mark.slow
def test_a_promoted_replica_counts_from_its_own_beginning() -> None:
    """What it replayed it did not execute; and the same client finds it."""
    with (
        real_cluster(memory_nodes=1, mode="RAM-REPL") as cluster,
        sinfonia.connect_blocking(cluster.endpoint) as client,
    ):
        for _ in range(20):
            assert tagged(client, "before")
        assert client.load()[sinfonia.MemoryNodeId(0)].window(3600, "before").executed == 20
        cluster.kill(primary_of(cluster, 0))
        [load] = client.load(timeout=DEADLINE).values()
        assert load.window(3600, "before").executed == 0
        assert tagged(client, "after")
        [load] = client.load(timeout=DEADLINE).values()
        assert load.window(3600, "after").executed == 1
