"""Watches on real sockets: hints come, limits are refused, and the dead are forgotten."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack

import anyio
import pytest

import sinfonia
from sinfonia.client.steps import Steps, execute, minitransaction, wait_for_change
from sinfonia.errors import LimitExceeded, OutOfRange, Refused
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.protocol import watching
from sinfonia.protocol.watches import WATCH_LEASE
from sinfonia.testing.plugin import CAPACITY, ClusterFactory
from sinfonia.testing.real_cluster import primary_of, process_status, real_cluster

pytestmark = pytest.mark.network

DEADLINE = 60.0

# Far longer than any hint takes; whoever waits so long has been forgotten.
PATIENCE = 20.0

# Long enough that a hint which is not to come would have come.
SILENCE = 0.1

Program = Callable[[sinfonia.Cluster], Awaitable[None]]
Run = Callable[[Program], None]


@pytest.fixture(scope="module")
def local(shared_cluster_factory: ClusterFactory) -> LocalCluster:
    return shared_cluster_factory(memory_nodes=2)


@pytest.fixture
def writer(local: LocalCluster) -> Iterator[sinfonia.BlockingCluster]:
    with sinfonia.connect_blocking(local.endpoint) as cluster:
        yield cluster


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest, local: LocalCluster) -> Run:
    async def main(program: Program) -> None:
        with anyio.fail_after(DEADLINE):
            async with await sinfonia.connect(local.endpoint) as cluster:
                await program(cluster)

    return lambda program: anyio.run(main, program, backend=request.param)


def watches_at(cluster: LocalCluster) -> int:
    """The watches at memory node 0."""
    return int(process_status(cluster, primary_of(cluster, 0)).figures["watches"])


def wait_for_watches(cluster: LocalCluster, count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while (found := watches_at(cluster)) != count:
        assert time.monotonic() < deadline, f"{found} watches, not {count}"
        time.sleep(0.02)


def test_a_task_is_woken_by_the_commits_that_touch_its_range(
    run: Run, writer: sinfonia.BlockingCluster
) -> None:
    """One-phase commits, two-phase commits, adds; not what lies beside it, not what aborts."""

    def write_both(address: int) -> None:
        t = writer.minitransaction()
        t.write(0, address, b"2")
        t.write(1, address, b"2")
        t.execute()

    def add() -> None:
        t = writer.minitransaction()
        t.add(0, 100, 1)
        t.execute()

    def abort() -> None:
        t = writer.minitransaction()
        t.compare(0, 100, b"never there")
        t.write(0, 100, b"3")
        assert not t.execute().committed

    touching = [lambda: writer.write(0, 90, bytes(30)), lambda: write_both(107), add]
    others = [lambda: writer.write(0, 99, b"1"), lambda: write_both(108), abort]

    async def program(cluster: sinfonia.Cluster) -> None:
        async with cluster.watch(0, 100, 8) as watch, cluster.watch(0, 0, CAPACITY) as everything:
            assert await watch.wait(PATIENCE)
            assert await everything.wait(PATIENCE)
            for write in touching:
                await anyio.to_thread.run_sync(write)
                assert await watch.wait(PATIENCE)
                assert await everything.wait(PATIENCE)
            for write in others:
                await anyio.to_thread.run_sync(write)
            assert not await watch.wait(SILENCE)
            assert await everything.wait(PATIENCE)

    run(program)


def test_tasks_that_hand_a_word_around_never_poll(run: Run) -> None:
    """Each waits for its turn; with hints lost this would take a poll interval a turn."""
    turns, players = 60, 4

    async def program(cluster: sinfonia.Cluster) -> None:
        await cluster.write(1, 0, bytes(8))
        timeouts = 0

        async def play(player: int) -> None:
            nonlocal timeouts
            async with cluster.watch(1, 0, 8) as watch:
                while True:
                    turn = int.from_bytes(await cluster.read(1, 0, 8), "little")
                    if turn >= turns:
                        return
                    if turn % players == player:
                        await cluster.write(1, 0, (turn + 1).to_bytes(8, "little"))
                    else:
                        timeouts += not await watch.wait(PATIENCE)

        async with anyio.create_task_group() as tasks:
            for player in range(players):
                tasks.start_soon(play, player)
        assert timeouts == 0

    run(program)


def test_a_thread_waits_while_others_write(local: LocalCluster) -> None:
    """Minitransactions between two waits do not swallow the hints that come with their answers."""
    with sinfonia.connect_blocking(local.endpoint) as cluster:
        cluster.write(0, 4096, bytes(8))
        seen = []

        def read_on() -> None:
            with cluster.watch(0, 4096, 8) as watch:
                for _ in watch:
                    seen.append(int.from_bytes(cluster.read(0, 4096, 8), "little"))
                    cluster.write(1, 4096, b"busy")
                    if seen[-1] == 200:
                        return

        reader = threading.Thread(target=read_on)
        reader.start()
        for _ in range(200):
            t = cluster.minitransaction()
            t.add(0, 4096, 1)
            t.execute()
        reader.join(PATIENCE)
        assert not reader.is_alive()
        assert seen == sorted(seen)


def test_a_blocking_watch_belongs_to_its_thread(local: LocalCluster) -> None:
    with (
        sinfonia.connect_blocking(local.endpoint) as cluster,
        cluster.watch(0, 0, 8) as watch,
        pytest.raises(RuntimeError, match="belongs to the thread"),
    ):
        _in_thread(watch.wait)


def _in_thread(act: Callable[[], object]) -> None:
    errors: list[BaseException] = []

    def catch() -> None:
        try:
            act()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=catch)
    thread.start()
    thread.join()
    for error in errors:
        raise error


def wait_until_set(node: int, address: int) -> Steps[bytes]:
    while True:
        t = minitransaction()
        t.read(node, address, 1)
        [value] = (yield from execute(t)).reads
        if value != b"\0":
            return value
        yield from wait_for_change(node, address, 1, seconds=PATIENCE)


def test_operations_wait_for_hints(run: Run, local: LocalCluster) -> None:
    async def program(cluster: sinfonia.Cluster) -> None:
        await cluster.write(0, 8192, b"\0\0")
        with sinfonia.connect_blocking(local.endpoint) as blocking, ExitStack() as threads:
            thread = threading.Thread(target=lambda: blocking.run(wait_until_set(0, 8193)))
            thread.start()
            threads.callback(thread.join)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cluster.run, wait_until_set(0, 8192))
                await anyio.sleep(SILENCE)
                await cluster.write(0, 8192, b"11")
            await anyio.to_thread.run_sync(thread.join, PATIENCE)
            assert not thread.is_alive()

    run(program)


def test_what_cannot_be_watched_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def program(cluster: sinfonia.Cluster) -> None:
        for place in ((0, CAPACITY, 1), (0, 8, CAPACITY), (0, 0, 0), (7, 0, 1), (0, -8, 8)):
            with pytest.raises(OutOfRange):
                async with cluster.watch(*place):
                    pass
        monkeypatch.setattr(watching, "WATCHES_PER_CLIENT_MAX", 1)
        async with cluster.watch(0, 0, 1):
            with pytest.raises(LimitExceeded, match="at most 1 watches"):
                async with cluster.watch(0, 0, 1):
                    pass

    run(program)


def test_a_memory_node_refuses_what_its_clients_did_not_check(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the client believes that there is more memory than there is."""

    async def program(cluster: sinfonia.Cluster) -> None:
        capacities = cluster._wire.coordinator.known.capacities
        monkeypatch.setitem(capacities, next(iter(capacities)), 2 * CAPACITY)
        async with cluster.watch(0, CAPACITY, 8) as watch:
            with pytest.raises(Refused, match="takes no watch of 8 bytes"):
                await watch.wait(PATIENCE)

    run(program)


def test_watches_of_clients_that_are_gone_end(local: LocalCluster) -> None:
    """A hint that finds nobody ends them, long before the lease."""
    program = (
        "import sinfonia, sys, time\n"
        "with sinfonia.connect_blocking(sys.argv[1]) as c, c.watch(0, 512, 8) as w:\n"
        "    w.wait(); print('armed', flush=True); time.sleep(60)\n"
    )
    wait_for_watches(local, 0)
    with subprocess.Popen(
        [sys.executable, "-c", program, local.endpoint], stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        try:
            assert client.stdout.readline() == "armed\n"
            wait_for_watches(local, 1)
        finally:
            client.kill()
    with sinfonia.connect_blocking(local.endpoint) as writer:
        deadline = time.monotonic() + WATCH_LEASE / 2
        while watches_at(local):
            assert time.monotonic() < deadline, "the watch outlives its client"
            writer.write(0, 512, b"anybody?")
            time.sleep(0.05)


def test_an_ended_watch_is_ended_at_the_memory_node(run: Run, local: LocalCluster) -> None:
    async def program(cluster: sinfonia.Cluster) -> None:
        async with cluster.watch(0, 0, 8) as watch, cluster.watch(0, 0, 8) as other:
            assert await watch.wait(PATIENCE)
            assert await other.wait(PATIENCE)
            await anyio.to_thread.run_sync(wait_for_watches, local, 2)
        await anyio.to_thread.run_sync(wait_for_watches, local, 0)

    run(program)


@pytest.mark.slow
def test_ten_thousand_watches_of_one_client_are_told_apart(run: Run, local: LocalCluster) -> None:
    count, written = 10_000, (0, 17, 4711, 9_999)

    async def program(cluster: sinfonia.Cluster) -> None:
        async with AsyncExitStack() as stack:
            watches = [
                await stack.enter_async_context(cluster.watch(0, 1 << 20 | number * 8, 8))
                for number in range(count)
            ]
            for watch in watches:
                assert await watch.wait(PATIENCE)
            assert await anyio.to_thread.run_sync(watches_at, local) == count
            for number in written:
                await cluster.write(0, 1 << 20 | number * 8, b"x")
            for number in written:
                assert await watches[number].wait(PATIENCE)
            for watch in watches:
                assert not await watch.wait(0.0)
        await anyio.to_thread.run_sync(wait_for_watches, local, 0)

    run(program)


def test_the_command_prints_what_is_found(local: LocalCluster) -> None:
    with sinfonia.connect_blocking(local.endpoint) as writer:
        writer.write(0, 600, b"before")
        command = [sys.executable, "-m", "sinfonia.cli.main", "watch", local.endpoint, "0:600+6"]
        with subprocess.Popen(
            [*command, "--count", "2", "--timeout", "30", "--json"],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            lines = []
            for data in (b"second", b"third!", None):
                lines.append(json.loads(process.stdout.readline()))
                if data is not None:
                    writer.write(0, 600, data)
            assert process.wait(PATIENCE) == 0
        assert [bytes.fromhex(line["hex"]) for line in lines] == [b"before", b"second", b"third!"]
        assert [line["change"] for line in lines] == [0, 1, 2]
        done = subprocess.run(
            [*command, "--count", "1", "--timeout", "0.2"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stdout == "0:600+6 = text:third!\n"
        assert done.stderr == "Error: 0 of 1 changes in 0.2 s\n"


@pytest.mark.slow
def test_readers_follow_a_memory_node_whose_primary_is_killed() -> None:
    """Again and again, with writes going on: a reader that reads after hints ends with the last
    value, and never waits in vain."""
    kills, last = 3, 60

    async def read_on(endpoint: str, name: int, seen: list[int]) -> None:
        async with await sinfonia.connect(endpoint) as cluster, cluster.watch(0, 0, 8) as watch:
            while seen[name] < last:
                assert await watch.wait(PATIENCE), "a change without a hint"
                seen[name] = int.from_bytes(await cluster.read(0, 0, 8), "little")

    async def write_and_kill(local: LocalCluster, seen: list[int]) -> None:
        async with await sinfonia.connect(local.endpoint) as cluster:
            for value in range(1, last + 1):
                await cluster.write(0, 0, value.to_bytes(8, "little"))
                if value % (last // kills) == last // (2 * kills):
                    victim = await anyio.to_thread.run_sync(primary_of, local, 0)
                    local.kill(victim)
                    # The new primary knows of no watch until it is armed again.
                    await cluster.write(0, 0, value.to_bytes(8, "little"))
                    await anyio.to_thread.run_sync(local.start, [victim])
                await anyio.sleep(0.02)
            with anyio.fail_after(PATIENCE):
                while set(seen) != {last}:  # noqa: ASYNC110 - the others tell nobody
                    await anyio.sleep(0.02)

    async def main(local: LocalCluster) -> None:
        seen = [0] * 4
        with anyio.fail_after(DEADLINE):
            async with anyio.create_task_group() as tasks:
                for name in range(len(seen)):
                    tasks.start_soon(read_on, local.endpoint, name, seen)
                tasks.start_soon(write_and_kill, local, seen)

    with real_cluster(memory_nodes=1) as local:
        anyio.run(main, local)
