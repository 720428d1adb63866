"""A mount registers a session when it opens a volume, keeps it alive, and gives everything back."""

import contextlib
import os
import random
import socket
import time
from collections.abc import Callable
from typing import Final

import anyio

from sinfonia.client.api import ClusterApi
from sinfoniafs.errors import SessionLost
from sinfoniafs.patience import TIMEOUT_S
from sinfoniafs.patient_cluster import PatientCluster
from sinfoniafs.session import SESSION_TIMES, Session, SessionTimes
from sinfoniafs.volume.lifetime import flush_closing, register_open
from sinfoniafs.volume.opening import read_superblocks
from sinfoniafs.volume.reclaim import SessionWatch, reap_orphans, unregister_from_all
from sinfoniafs.volume.volume import Volume

DEFAULT_NAME: Final = "default"


async def open_volume(
    cluster: ClusterApi,
    *,
    name: str = DEFAULT_NAME,
    clock: Callable[[], int] = time.time_ns,
    rng: random.Random | None = None,
    mountpoint: str = "",
    timeout: float = TIMEOUT_S,
) -> Volume:
    """Open the volume of that name and register a session on it.

    ``timeout`` (seconds) is for each minitransaction that no request's patience bounds.

    Raises FormatError where there is no such volume or this version cannot read it.
    """
    rng = rng or random.Random()
    cluster = PatientCluster(cluster, timeout)
    superblock, layout = await read_superblocks(cluster, name)
    session = await Session.register(
        cluster,
        superblock,
        rng=rng,
        started_ns=clock(),
        pid=os.getpid(),
        host=socket.gethostname(),
        mountpoint=mountpoint,
    )
    return Volume(cluster, superblock, layout, session, clock=clock, rng=rng)


async def keep_alive(volume: Volume, times: SessionTimes = SESSION_TIMES) -> None:
    """Beat, and reclaim what dead sessions left behind; until cancelled.

    If another mount has taken this session for dead, the volume goes on with a new one.  Raises
    what the cluster raises; after that it may be called again.
    """
    watch = SessionWatch(volume, times.silence)
    await reap_orphans(volume)
    while True:
        await register_open(volume)
        with anyio.move_on_after(times.heartbeat):
            await volume.rejoined.wait()
        session = volume.session
        try:
            await session.beat()
            await flush_closing(volume)
            await watch.look()
        except SessionLost:
            await volume.rejoin(session)


async def close_volume(volume: Volume) -> None:
    """Close all that is open, give back all reserved space, end the session.

    If another mount has taken this session for dead, it has given all that back already.
    """
    with contextlib.suppress(SessionLost):
        await _leave(volume)


async def _leave(volume: Volume) -> None:
    # Each step is tried even if the one before it failed.  The first may begin a new session.
    try:
        await _close_all(volume)
    finally:
        try:
            await volume.allocator.leave()
        finally:
            await volume.session.leave()


async def _close_all(volume: Volume) -> None:
    volume.open_inodes.close_all()
    await flush_closing(volume)
    if volume.open_inodes.in_doubt:
        session = volume.session
        await unregister_from_all(volume.cluster, volume.layout, session.slot, living=session)
        await reap_orphans(volume)
