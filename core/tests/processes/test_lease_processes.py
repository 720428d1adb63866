"""Leases of real processes: one is stopped in the middle of its work, and goes on too late."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio
import pytest

import sinfonia
from sinfonia.addresses import MemoryNodeId
from sinfonia.client.steps import Steps, execute, minitransaction
from sinfonia.structures import Claim, Held, Lease, LeaseLost
from sinfonia.testing.plugin import ClusterFactory

pytestmark = pytest.mark.network

LEASE = Lease(MemoryNodeId(0), 4096)
PLACE = 8192
DURATION = 0.5

# Renewed three times in it, by a program that may have to wait for its turn.
KEPT = 1.5

# Takes the lease, says so, and writes when it is told to.
HOLDER = f"""
import sys
import sinfonia
from sinfonia.structures import Claim, Lease
with sinfonia.connect_blocking(sys.argv[1]) as cluster:
    claim = Claim.fresh(b"the first holder")
    held = cluster.run(Lease(0, {LEASE.address}).acquire(claim, {DURATION}))
    print("held", flush=True)
    for command in sys.stdin:
        t = cluster.minitransaction()
        held.check(t)
        t.write(0, {PLACE}, command.encode())
        print("written" if t.execute().committed else "refused", flush=True)
"""


def guarded_write(held: Held, data: bytes) -> Steps[bool]:
    t = minitransaction()
    held.check(t)
    t.write(0, PLACE, data)
    return (yield from execute(t)).committed


@contextmanager
def holder(endpoint: str) -> Iterator[tuple["subprocess.Popen[str]", Callable[[str], None]]]:
    """A process that holds the lease, and a way to tell it to write."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, endpoint],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def tell(command: str) -> None:
        assert process.stdin is not None
        process.stdin.write(f"{command}\n")
        process.stdin.flush()

    with process:
        try:
            assert _says(process) == "held"
            yield process, tell
        finally:
            process.kill()


def _says(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_holder_that_was_stopped_writes_nothing_when_the_lease_has_passed_on(
    cluster_factory: ClusterFactory,
) -> None:
    endpoint = cluster_factory().endpoint
    with holder(endpoint) as (process, tell), sinfonia.connect_blocking(endpoint) as cluster:
        tell("first")
        assert _says(process) == "written"
        process.send_signal(signal.SIGSTOP)
        tell("too late")
        mine = cluster.run(LEASE.acquire(Claim.fresh(b"the next holder."), DURATION), timeout=30)
        assert cluster.run(guarded_write(mine, b"second"))
        process.send_signal(signal.SIGCONT)
        assert _says(process) == "refused"
        assert cluster.read(0, PLACE, 6) == b"second"


def test_a_holder_that_was_stopped_for_a_moment_goes_on(cluster_factory: ClusterFactory) -> None:
    """No other client wanted the lease meanwhile, however long that was."""
    endpoint = cluster_factory().endpoint
    with holder(endpoint) as (process, tell), sinfonia.connect_blocking(endpoint) as cluster:
        process.send_signal(signal.SIGSTOP)
        tell("in time")
        state = cluster.run(LEASE.look())
        assert state.holder == b"the first holder"
        process.send_signal(signal.SIGCONT)
        assert _says(process) == "written"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_lease_is_kept_beside_the_work_and_handed_over(
    cluster_factory: ClusterFactory, backend: str
) -> None:
    endpoint = cluster_factory().endpoint

    async def main() -> None:
        async with await sinfonia.connect(endpoint) as cluster:
            held = await cluster.run(LEASE.acquire(Claim.fresh(b"an async program"), KEPT))
            lost = anyio.Event()

            async def keep() -> None:
                try:
                    await cluster.run(held.keep())
                except LeaseLost:
                    lost.set()

            async with anyio.create_task_group() as group:
                group.start_soon(keep)
                rival = LEASE.acquire(Claim.fresh(b"an eager program"), KEPT)
                with pytest.raises(sinfonia.TimedOut):
                    await cluster.run(rival, timeout=2 * KEPT)
                assert await cluster.run(guarded_write(held, b"kept"))
                assert not lost.is_set()
                await cluster.run(held.release())
                rival = LEASE.acquire(Claim.fresh(b"an eager program"), KEPT)
                taken = await cluster.run(rival, timeout=30)
                assert await cluster.run(guarded_write(taken, b"next"))
                assert not await cluster.run(guarded_write(held, b"late"))
                await lost.wait()

    anyio.run(main, backend=backend)
