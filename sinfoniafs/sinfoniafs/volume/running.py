"""An operation runs until its minitransaction commits, or until the caller's time is up.

Figure 8 of the paper: an operation works on cached inodes and blocks, then executes one
minitransaction whose compare items say what the operation relied on.  If they fail, the stale
entries are dropped from the cache and the operation starts again.  An error that was concluded from
cached bytes is believed only after the same comparisons have been made.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio

from sinfoniafs.attributes import InodeNumber
from sinfoniafs.errors import Busy, FileSystemError, SessionLost
from sinfoniafs.patience import TIMEOUT_S, time_left
from sinfoniafs.volume.attempt import Attempt, Conflict
from sinfoniafs.volume.volume import Volume

T = TypeVar("T")
# The first retries come at once, because reading cures a stale cache; after that, other
# mounts are likely to be changing the same files.
RETRIES_AT_ONCE: Final = 2
BACKOFF_FIRST_S: Final = 0.001
BACKOFF_MAX_S: Final = 0.1


async def until_committed(
    volume: Volume, body: Callable[[Attempt], Awaitable[T]], *locked: InodeNumber
) -> T:
    """Run ``body`` until its minitransaction commits, holding the key locks of ``locked``.

    Raises Busy if other mounts kept changing what ``body`` relied on until the deadline.
    """
    if not locked:
        return await _run(volume, body)
    async with volume.key_locks.hold(*sorted(set(locked))):
        return await _run(volume, body)


async def _run(volume: Volume, body: Callable[[Attempt], Awaitable[T]]) -> T:
    deadline = anyio.current_time() + time_left(otherwise=TIMEOUT_S)
    retries = 0
    while True:
        attempt = Attempt(volume)
        lost = None
        try:
            return await body(attempt)
        except Conflict:
            pass
        except SessionLost:
            lost = attempt.session
        except FileSystemError:
            try:
                confirmed = await attempt.confirm()
            except SessionLost:
                lost = attempt.session
            else:
                if confirmed:
                    raise
        finally:
            attempt.finish()
        if lost is not None:
            await volume.rejoin(lost)
        if anyio.current_time() > deadline:
            raise Busy("other mounts kept changing the same files")
        await _back_off(volume, retries)
        retries += 1


async def _back_off(volume: Volume, retries: int) -> None:
    if retries >= RETRIES_AT_ONCE:
        ceiling = min(BACKOFF_FIRST_S * 2 ** min(retries, 16), BACKOFF_MAX_S)
        await anyio.sleep(volume.rng.uniform(0, ceiling))
