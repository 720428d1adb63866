"""Operations of several minitransactions, carried out on a cluster: see steps.py.

The watches that an operation waits on belong to it, and end with it, however it ends.
"""

import math
import time
from collections import OrderedDict
from typing import Any, Protocol, TypeVar

import anyio

from sinfonia import monotonic
from sinfonia.client.steps import NOTHING, Drive, Pause, Steps, WaitFor
from sinfonia.client.watch import BlockingWatch, Watch
from sinfonia.errors import LimitExceeded, Refused, SinfoniaError
from sinfonia.minitransaction import Minitransaction, Result

T = TypeVar("T")

# Ranges that one operation watches; beyond them the one that it waited for longest ago is watched
# no more.
STEP_WATCHES_MAX = 16

Range = tuple[int, int, int]


class Executor(Protocol):
    """An asynchronous cluster, as far as operations need it."""

    async def execute(
        self, minitransaction: Minitransaction[Any], *, timeout: float | None = None
    ) -> Result: ...
    def watch(self, node: int, address: int, length: int) -> Watch: ...


class BlockingExecutor(Protocol):
    """A blocking cluster, as far as operations need it."""

    def execute(
        self, minitransaction: Minitransaction[Any], *, timeout: float | None = None
    ) -> Result: ...
    def watch(self, node: int, address: int, length: int) -> BlockingWatch: ...


def _deadline(timeout: float | None) -> float:
    return math.inf if timeout is None else monotonic.seconds() + timeout


async def run(cluster: Executor, steps: Steps[T], *, timeout: float | None) -> T:
    """Carry out ``steps`` on an asynchronous cluster; see ``ClusterApi.run``."""
    drive = Drive(steps, _deadline(timeout))
    watches: OrderedDict[Range, Watch] = OrderedDict()
    try:
        while not drive.over:
            step = drive.step
            try:
                if isinstance(step, WaitFor):
                    patience = drive.patience(step, monotonic.seconds())
                    changed = await _wait(cluster, step, patience, watches)
                    result = drive.after_wait(monotonic.seconds(), changed=changed)
                elif isinstance(step, Pause):
                    await anyio.sleep(drive.pause(step, monotonic.seconds()))
                    result = NOTHING
                else:
                    left = None if timeout is None else drive.time_left(monotonic.seconds())
                    result = await cluster.execute(step, timeout=left)
            except SinfoniaError as error:
                drive.fail(error)
            else:
                drive.go_on(result)
    finally:
        for watch in watches.values():
            await watch.aclose()
        drive.close()
    return drive.value


async def _wait(
    cluster: Executor, step: WaitFor, seconds: float, watches: OrderedDict[Range, Watch]
) -> bool:
    """Whether the range may have changed.  Raises OutOfRange."""
    try:
        watch = watches.pop(step.range, None)
        if watch is None:
            watch = await cluster.watch(*step.range).__aenter__()
        watches[step.range] = watch
        if len(watches) > STEP_WATCHES_MAX:
            await watches.popitem(last=False)[1].aclose()
        return await watch.wait(seconds)
    except (Refused, LimitExceeded):
        await anyio.sleep(seconds)
        return False


def run_blocking(cluster: BlockingExecutor, steps: Steps[T], *, timeout: float | None) -> T:
    """Carry out ``steps`` in the calling thread; see ``BlockingCluster.run``."""
    drive = Drive(steps, _deadline(timeout))
    watches: OrderedDict[Range, BlockingWatch] = OrderedDict()
    try:
        while not drive.over:
            step = drive.step
            try:
                if isinstance(step, WaitFor):
                    patience = drive.patience(step, monotonic.seconds())
                    changed = _wait_blocking(cluster, step, patience, watches)
                    result = drive.after_wait(monotonic.seconds(), changed=changed)
                elif isinstance(step, Pause):
                    time.sleep(drive.pause(step, monotonic.seconds()))
                    result = NOTHING
                else:
                    left = None if timeout is None else drive.time_left(monotonic.seconds())
                    result = cluster.execute(step, timeout=left)
            except SinfoniaError as error:
                drive.fail(error)
            else:
                drive.go_on(result)
    finally:
        for watch in watches.values():
            watch.close()
        drive.close()
    return drive.value


def _wait_blocking(
    cluster: BlockingExecutor,
    step: WaitFor,
    seconds: float,
    watches: OrderedDict[Range, BlockingWatch],
) -> bool:
    """Whether the range may have changed.  Raises OutOfRange."""
    try:
        watch = watches.pop(step.range, None)
        if watch is None:
            watch = cluster.watch(*step.range).__enter__()
        watches[step.range] = watch
        if len(watches) > STEP_WATCHES_MAX:
            watches.popitem(last=False)[1].close()
        return watch.wait(seconds)
    except (Refused, LimitExceeded):
        time.sleep(seconds)
        return False
