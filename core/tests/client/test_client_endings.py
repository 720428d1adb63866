"""Calls end, whatever ends first: the task, the thread, the client, or what prepares a pipeline."""

import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

import sinfonia
from sinfonia import (
    BlockingCluster,
    Cluster,
    Minitransaction,
    NotExecuted,
    OutcomeUnknown,
    SinfoniaError,
    connect_blocking,
)
from sinfonia.client.steps import Steps, execute, minitransaction, pause
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.testing.plugin import ClusterFactory
from sinfonia.testing.real_cluster import process_status

pytestmark = pytest.mark.network

# Whoever takes so long has been forgotten.
DEADLINE = 20.0

NODES = 2

# More than a pipeline sends at a time.
MANY = 200

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])

Program = Callable[[Cluster], Awaitable[None]]


@pytest.fixture(scope="module")
def local(shared_cluster_factory: ClusterFactory) -> LocalCluster:
    return shared_cluster_factory(memory_nodes=NODES, mode="RAM")


@pytest.fixture
def blocking(local: LocalCluster) -> Iterator[BlockingCluster]:
    with connect_blocking(local.endpoint) as cluster:
        yield cluster


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest, local: LocalCluster) -> Callable[[Program], None]:
    async def main(program: Program) -> None:
        with anyio.fail_after(DEADLINE):
            async with await sinfonia.connect(local.endpoint) as cluster:
                await program(cluster)

    return lambda program: anyio.run(main, program, backend=request.param)


@contextmanager
def stopped(local: LocalCluster, name: str) -> Iterator[None]:
    """The process lives and says nothing."""
    process = local.process(name)
    assert process is not None
    process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.signal(signal.SIGCONT)


@contextmanager
def locked(address: int, cluster: BlockingCluster, local: LocalCluster) -> Iterator[None]:
    """Somebody holds the lock of the word at ``address`` of node 0, voted and undecided."""
    holder = cluster.minitransaction()
    for node in range(NODES):
        holder.write(node, address, bytes(8))
        cluster.read(node, address, 8)  # the connection is up
    with stopped(local, "node1"):
        with pytest.raises(OutcomeUnknown):
            holder.execute(timeout=0.05)
        yield


def writes(
    cluster: Cluster | BlockingCluster, address: int, count: int = MANY
) -> Iterator[Minitransaction[Any]]:
    for k in range(count):
        t = cluster.minitransaction()
        t.write(k % NODES, address + 8 * k, b"x")
        yield t


def end_of(child: int) -> int:
    """The exit status of a child process; one that takes too long is killed."""
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGKILL


class Broken(Exception):
    """What a program raises while it prepares a pipeline."""


def test_a_pipeline_may_be_prepared_with_calls_of_the_same_thread(
    blocking: BlockingCluster,
) -> None:
    def copies() -> Iterator[Minitransaction[Any]]:
        for t in writes(blocking, 8192):
            assert blocking.read(0, 0, 1) == b"\0"
            yield t

    results = blocking.execute_many(copies(), in_flight=16)
    assert len(results) == MANY
    assert all(result.committed for result in results)


def test_preparing_a_pipeline_may_fail_and_the_thread_goes_on(
    blocking: BlockingCluster, local: LocalCluster
) -> None:
    def some() -> Iterator[Minitransaction[Any]]:
        yield from writes(blocking, 16384, count=101)
        raise Broken

    blocking.read(0, 0, 1)  # the connection is up
    with pytest.raises(Broken):
        blocking.execute_many(some())
    until = time.monotonic() + DEADLINE
    with connect_blocking(local.endpoint) as other:
        # What had been gathered does not wait until the thread happens to execute something else.
        while other.read(0, 16384 + 8 * 100, 1) != b"x":
            assert time.monotonic() < until
    assert blocking.read(0, 16384, 1) == b"x", "nobody has forgotten the thread"


def test_preparing_a_pipeline_may_fail_and_the_client_goes_on(
    run: Callable[[Program], None],
) -> None:
    async def program(cluster: Cluster) -> None:
        def some() -> Iterator[Minitransaction[Any]]:
            yield from writes(cluster, 24576, count=3)
            raise Broken

        await cluster.read(0, 0, 1)
        await anyio.sleep(0.05)  # until nobody has anything to do
        with pytest.raises(Broken):
            await cluster.execute_many(some())
        # Soon, and not when somebody happens to execute something else.
        for _ in range(100):
            if cluster.statistics.executed == 4:
                break
            await anyio.sleep(0.01)
        assert cluster.statistics.executed == 4

    run(program)


def test_an_interrupted_thread_does_not_go_on_with_the_call_that_it_left(
    blocking: BlockingCluster, local: LocalCluster
) -> None:
    def interrupt(_signal: int, _frame: object) -> None:
        raise Broken

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with stopped(local, "node0"):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Broken):
                blocking.read(0, 0, 1)
            assert blocking.read(1, 0, 1) == b"\0"
    finally:
        signal.signal(signal.SIGALRM, before)
    assert blocking.read(0, 0, 1) == b"\0"


def test_a_cancelled_call_is_not_tried_again(
    run: Callable[[Program], None], blocking: BlockingCluster, local: LocalCluster
) -> None:
    """Else it would take effect when its locks are free, long after its caller has gone on."""

    async def program(cluster: Cluster) -> None:
        with locked(32768, blocking, local):
            with anyio.move_on_after(0.1) as scope:
                await cluster.write(0, 32768, b"late")
            assert scope.cancelled_caught
            await anyio.sleep(0.1)
            await cluster.read(0, 0, 1)
            retried = cluster.statistics.retried
            assert retried > 0, "it met the lock"
            await anyio.sleep(0.1)
            await cluster.read(0, 0, 1)
            assert cluster.statistics.retried == retried
            assert cluster._wire.coordinator.idle
        assert b"late" not in await cluster.read(0, 32768, 4)

    run(program)


@BACKENDS
def test_closing_ends_the_calls_of_other_tasks(local: LocalCluster, backend: str) -> None:
    errors: list[SinfoniaError] = []

    async def read(cluster: Cluster) -> None:
        with pytest.raises(NotExecuted, match="closed") as raised:
            await cluster.read(0, 0, 8)
        errors.append(raised.value)

    async def write(cluster: Cluster) -> None:
        with pytest.raises(OutcomeUnknown, match="closed") as raised:
            await cluster.execute_many(writes(cluster, 40960, count=4))
        errors.append(raised.value)

    async def main() -> None:
        with anyio.fail_after(DEADLINE):
            async with (
                anyio.create_task_group() as tasks,
                await sinfonia.connect(local.endpoint) as cluster,
            ):
                await cluster.read(0, 0, 8)
                with stopped(local, "node0"):
                    tasks.start_soon(read, cluster)
                    tasks.start_soon(write, cluster)
                    await anyio.wait_all_tasks_blocked()
                    await cluster.aclose()

    anyio.run(main, backend=backend)
    assert [error.definite for error in errors].count(True) == 1
    assert len(errors) == 2


@BACKENDS
def test_a_client_that_is_not_open_says_so(local: LocalCluster, backend: str) -> None:
    async def refused(cluster: Cluster, why: str) -> None:
        for use in (
            lambda: cluster.read(0, 0, 8),
            lambda: cluster.execute_many([]),
            cluster.load,
            cluster.refresh,
            lambda: cluster.watch(0, 0, 8).__aenter__(),
        ):
            with pytest.raises(RuntimeError, match=why):
                await use()

    async def main() -> None:
        cluster = await sinfonia.connect(local.endpoint)
        await refused(cluster, "async with")
        async with cluster:
            await cluster.aclose()
            await refused(cluster, "was closed")
        await cluster.aclose()
        await refused(cluster, "was closed")
        with pytest.raises(RuntimeError, match="was closed"):
            await cluster.__aenter__()
        await (await sinfonia.connect(local.endpoint)).aclose()

    anyio.run(main, backend=backend)


def test_a_cancelled_operation_cleans_up_at_once(run: Callable[[Program], None]) -> None:
    happened: list[str] = []

    def operation() -> Steps[None]:
        try:
            yield from execute(minitransaction())
            happened.append("executed")
            yield from pause(60.0)
        finally:
            happened.append("cleaned up")

    async def program(cluster: Cluster) -> None:
        happened.clear()
        with anyio.move_on_after(0.1):
            try:
                await cluster.run(operation())
            finally:
                happened.append("gone on")
        assert happened == ["executed", "cleaned up", "gone on"]

    run(program)


def test_threads_that_follow_each_other_share_one_client(
    blocking: BlockingCluster,
) -> None:
    def write() -> None:
        blocking.write(0, 48, b"x")

    blocking.read(0, 0, 1)
    for _ in range(20):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert len(blocking._all) <= 2
    assert blocking.statistics.executed == 21
    blocking.write(0, 48, b"y")
    blocking.close()
    assert blocking.statistics.executed == 22


def test_clients_and_threads_that_have_ended_are_not_remembered(local: LocalCluster) -> None:
    """A closed client says goodbye; a thread's connection goes to the next, and its watch ends."""

    def remembered() -> tuple[object, object]:
        figures = process_status(local, "node0").figures
        return figures["remembered"], figures["watches"]

    before, _ = remembered()  # of other tests' clients
    for _ in range(20):
        with connect_blocking(local.endpoint) as cluster:
            cluster.write(0, 64, b"x")
    with connect_blocking(local.endpoint) as cluster:

        def leave_a_watch() -> None:
            cluster.watch(0, 0, 8).__enter__()
            cluster.write(0, 64, b"x")

        for _ in range(5):
            thread = threading.Thread(target=leave_a_watch)
            thread.start()
            thread.join()
        cluster.write(0, 64, b"x")
        assert len(cluster._all) == 1, "this thread has taken it over"
        assert remembered()[1] == 0
    deadline = time.monotonic() + DEADLINE
    while remembered()[0] != before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert remembered()[0] == before


def test_a_forked_process_is_told_to_connect_anew(blocking: BlockingCluster) -> None:
    blocking.write(0, 56, b"x")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            blocking.read(0, 56, 1, timeout=1.0)
        except RuntimeError:
            blocking.close()
            status = 0
        finally:
            os._exit(status)
    assert end_of(child) == 0
    assert blocking.read(0, 56, 1) == b"x"
