"""The file system, as a program that has no kernel would use it.

All of POSIX that SinfoniaFS keeps is kept here and below; ``operations`` only translates.  Each
method is one minitransaction when what it needs is cached, reads are never stale, and what one
mount was told is done, every other mount sees.  Errors are those of ``errors`` and of the cluster;
after any of the former, nothing has changed.
"""

import contextlib
import os
import random
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

import anyio

from sinfonia.client.api import ClusterApi
from sinfoniafs.allocator import Kind
from sinfoniafs.attributes import (
    Attributes,
    Changes,
    DirectoryEntry,
    InodeNumber,
    Owner,
    VolumeStatistics,
)
from sinfoniafs.errors import SessionLost, StaleHandle
from sinfoniafs.format.directory import NAME_MAX
from sinfoniafs.format.inode import Inode
from sinfoniafs.format.layout import BLOCK_SIZE
from sinfoniafs.format.superblock import Superblock
from sinfoniafs.patience import TIMEOUT_S
from sinfoniafs.patient_cluster import PatientCluster
from sinfoniafs.session import SESSION_TIMES, Session, SessionTimes
from sinfoniafs.statistics import count_free
from sinfoniafs.volume import data as volume_data
from sinfoniafs.volume import lifetime as volume_lifetime
from sinfoniafs.volume import namespace as volume_namespace
from sinfoniafs.volume.data import Privileged, always
from sinfoniafs.volume.opening import read_superblocks
from sinfoniafs.volume.reclaim import SessionWatch, reap_orphans, unregister_from_all
from sinfoniafs.volume.rename import rename
from sinfoniafs.volume.state import VolumeState

DEFAULT_NAME: Final = "default"


class Volume:
    """An open volume; ``open`` makes one, ``aclose`` gives back what it holds."""

    def __init__(self, state: VolumeState, times: SessionTimes) -> None:
        self._state = state
        self._times = times
        self.root = state.superblock.root

    @classmethod
    async def open(
        cls,
        cluster: ClusterApi,
        *,
        name: str = DEFAULT_NAME,
        clock: Callable[[], int] = time.time_ns,
        rng: random.Random | None = None,
        mountpoint: str = "",
        timeout: float = TIMEOUT_S,
        times: SessionTimes = SESSION_TIMES,
    ) -> "Volume":
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
        return cls(VolumeState(cluster, superblock, layout, session, clock=clock, rng=rng), times)

    @property
    def superblock(self) -> Superblock:
        return self._state.superblock

    async def keep_alive(self) -> None:
        """Show others that this mount lives, and reclaim what the dead left; until cancelled.

        If others have taken this mount for dead, it goes on with a new session.  Raises what the
        cluster raises; after that it may be called again.
        """
        state = self._state
        watch = SessionWatch(state, self._times.silence)
        await self.reap_orphans()
        while True:
            await volume_lifetime.register_open(state)
            with anyio.move_on_after(self._times.heartbeat):
                await state.rejoined.wait()
            session = state.session
            try:
                await session.beat()
                await self.flush()
                await watch.look()
            except SessionLost:
                await state.rejoin(session)

    def life_of(self, inode: InodeNumber) -> int | None:
        """Which life of the inode its number stands for with the caller, as far as is known."""
        return self._state.known.get(inode)

    async def aclose(self) -> None:
        """Close all that is open, give back all reserved space, end the session.

        Of a session that was taken for dead, others have given all that back.
        """
        with contextlib.suppress(SessionLost):
            await self._leave()

    async def _leave(self) -> None:
        async with AsyncExitStack() as stack:
            # In reverse: each step is tried even if the one before it failed.
            stack.push_async_callback(self._state.session.leave)
            stack.push_async_callback(self._state.allocator.leave)
            self._state.close_all()
            await self.flush()
            if self._state.in_doubt:
                state = self._state
                session = state.session
                await unregister_from_all(state.cluster, state.layout, session.slot, living=session)
                await self.reap_orphans()

    # -- names

    async def lookup(self, parent: InodeNumber, name: bytes) -> Attributes:
        """The attributes of what ``name`` leads to; "." and ".." are understood."""
        return await volume_namespace.lookup(self._state, parent, name)

    async def create(
        self,
        parent: InodeNumber,
        name: bytes,
        *,
        mode: int,
        owner: Owner,
        rdev: int = 0,
        register: bool = False,
    ) -> Attributes:
        """Make a regular file, FIFO, socket or device, as ``mode`` says.

        With ``register``, it is open at once, as by ``open_file`` but in the same minitransaction.
        """
        return await volume_namespace.create(
            self._state, parent, name, mode=mode, owner=owner, rdev=rdev, register=register
        )

    async def mkdir(
        self, parent: InodeNumber, name: bytes, *, mode: int, owner: Owner
    ) -> Attributes:
        """Make a directory."""
        return await volume_namespace.mkdir(self._state, parent, name, mode=mode, owner=owner)

    async def symlink(
        self, parent: InodeNumber, name: bytes, target: bytes, *, owner: Owner
    ) -> Attributes:
        """Make a symbolic link."""
        return await volume_namespace.symlink(self._state, parent, name, target, owner=owner)

    async def link(self, inode: InodeNumber, parent: InodeNumber, name: bytes) -> Attributes:
        """Give an inode one more name."""
        return await volume_namespace.link(self._state, inode, parent, name)

    async def unlink(self, parent: InodeNumber, name: bytes) -> None:
        """Remove a name; the inode lives on while any mount has it open."""
        await volume_namespace.unlink(self._state, parent, name)

    async def rmdir(self, parent: InodeNumber, name: bytes) -> None:
        """Remove an empty directory."""
        await volume_namespace.rmdir(self._state, parent, name)

    async def rename(
        self,
        old_parent: InodeNumber,
        old_name: bytes,
        new_parent: InodeNumber,
        new_name: bytes,
        *,
        flags: int = 0,
    ) -> None:
        """Rename, replacing what has the new name; or RENAME_NOREPLACE, RENAME_EXCHANGE."""
        await rename(self._state, (old_parent, old_name), (new_parent, new_name), flags=flags)

    async def read_directory(
        self, inode: InodeNumber, cookie: int, limit: int
    ) -> list[DirectoryEntry]:
        """Up to ``limit`` entries after ``cookie`` (0: from the first); none at the end.

        "." and ".." are not among them.  An entry that exists all the while is given exactly once,
        whatever others add or remove between the calls.
        """
        return await volume_namespace.read_directory(self._state, inode, cookie, limit)

    # -- attributes

    async def getattr(self, inode: InodeNumber) -> Attributes:
        """The attributes as they are now.  Raises StaleHandle if the inode is gone."""
        loaded = await self._state.load_inode(inode)
        self._check_life(loaded)
        return loaded.attributes

    async def setattr(
        self, inode: InodeNumber, changes: Changes, *, privileged: Privileged = always
    ) -> Attributes:
        """Change attributes, the size included, and return them all.

        Who changes a file's contents or size, and is not ``privileged``, clears set-user-ID.
        """
        return await volume_data.set_attributes(self._state, inode, changes, privileged)

    async def readlink(self, inode: InodeNumber) -> bytes:
        """The target of a symbolic link."""
        return await volume_data.readlink(self._state, inode)

    async def statistics(self) -> VolumeStatistics:
        """How full the volume is; what other sessions hold in reserve counts as used."""
        state = self._state
        layouts = state.layout.nodes.values()
        return VolumeStatistics(
            block_size=BLOCK_SIZE,
            blocks=sum(each.blocks - each.first_data_block for each in layouts),
            blocks_free=await count_free(state.cluster, state.layout, Kind.BLOCK)
            + state.allocator.in_reserve(Kind.BLOCK),
            inodes=sum(each.inodes - 1 for each in layouts),
            inodes_free=await count_free(state.cluster, state.layout, Kind.INODE)
            + state.allocator.in_reserve(Kind.INODE),
            name_max=NAME_MAX,
        )

    # -- contents

    async def open_file(
        self, inode: InodeNumber, *, truncate: bool = False, privileged: Privileged = always
    ) -> None:
        """Keep an inode, a directory too, alive until ``close_file``; calls are counted."""
        await volume_lifetime.open_file(self._state, inode)
        if truncate:
            try:
                await volume_data.set_attributes(self._state, inode, Changes(size=0), privileged)
            except BaseException:
                await self.close_file(inode)
                raise

    async def close_file(self, inode: InodeNumber) -> None:
        """Undo one ``open_file``; the last close of an inode without a name frees it."""
        await volume_lifetime.close_file(self._state, inode)

    async def read(self, inode: InodeNumber, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes at ``offset``; fewer only at the end of the file."""
        return await volume_data.read(self._state, inode, offset, length)

    async def write(
        self, inode: InodeNumber, offset: int, data: bytes, *, privileged: Privileged = always
    ) -> int:
        """Put ``data`` at ``offset``, extending the file; returns the number of bytes."""
        return await volume_data.write(self._state, inode, offset, data, privileged)

    async def append(
        self, inode: InodeNumber, data: bytes, *, privileged: Privileged = always
    ) -> int:
        """Put ``data`` at the end of the file, atomically; returns the offset it got."""
        return await volume_data.append(self._state, inode, data, privileged)

    async def fsync(self, inode: InodeNumber) -> None:
        """Wait until what was written is as safe as the memory nodes' mode makes it.

        It is already: a minitransaction's acknowledgement says so, and nothing is held back.
        """
        self._state.layout.inode_slot(inode)

    async def flush(self) -> None:
        """Unregister from what is no longer open here, so that others may free it."""
        await volume_lifetime.flush_closing(self._state)

    async def reap_orphans(self) -> int:
        """Free the inodes without a name that nobody has open; returns how many were freed."""
        return await reap_orphans(self._state)

    def forget(self, inode: InodeNumber) -> None:
        """The caller has dropped the number, and will not use it before another lookup."""
        self._state.known.pop(inode, None)

    def check_invariants(self) -> None:
        """What is always true between operations."""
        self._state.check_invariants()

    def _check_life(self, inode: Inode) -> None:
        known = self._state.known.get(inode.number, inode.generation)
        if not inode.kind or known != inode.generation:
            raise StaleHandle(f"inode {inode.number:#x} was removed")
