"""A directory that another mount has moved can be renamed here without being looked up first.

The kernel has one entry for each directory.  If a lookup finds the directory at another place, the
kernel moves its entry there.  In a rename from one directory to another the kernel cannot do that,
and the rename fails with ESTALE; the kernel then tries once more, from the beginning of both paths.
In between, this process looks the directory up itself, through its own mount.  The first lookups of
the second try wait for that lookup.
"""

import os
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from sinfoniafs.attributes import Attributes, InodeNumber, Place

# How long a lookup of the kernel waits for the lookup of this process, which waits at most for the
# kernel's locks of a rename.
WAIT_S: Final = 2.0
# Directories to look up; beyond that, renames of further ones are left to fail.
PENDING_MAX: Final = 64
DEPTH_MAX: Final = 256


class Places:
    """Where the kernel has its entry of each directory: in which directory, under which name."""

    def __init__(self, mountpoint: Path | None, root: InodeNumber) -> None:
        """Without a mountpoint, nothing is looked up."""
        self._mountpoint = mountpoint
        self._root = root
        self._places: dict[InodeNumber, Place] = {}
        self._directories: dict[Place, InodeNumber] = {}
        # What to look up, for the thread whose lookup found it.
        self._pending: dict[int, tuple[Place, anyio.Event]] = {}
        self._news = anyio.Event()
        self._own_threads: set[int] = set()

    def found(self, attributes: Attributes, place: Place, pid: int = 0) -> None:
        """An entry was given to the kernel; ``pid``: because this thread has looked it up."""
        if not stat.S_ISDIR(attributes.mode) or place.name in {b".", b".."}:
            return
        known = self._places.get(attributes.inode)
        self._put(attributes.inode, place)
        if known in {None, place} or not pid or pid in self._own_threads:
            return
        if len(self._pending) < PENDING_MAX:
            self._pending[pid] = place, anyio.Event()
            self._news.set()

    def moved(self, old: Place, new: Place, *, exchanged: bool) -> None:
        """The kernel has renamed an entry, and moved it itself."""
        inode, other = self._directories.pop(old, None), self._directories.pop(new, None)
        if inode is not None:
            self._put(inode, new)
        if other is not None:
            self._places.pop(other, None)
            if exchanged:
                self._put(other, old)

    def forget(self, inode: InodeNumber) -> None:
        """The kernel has dropped its entry."""
        place = self._places.pop(inode, None)
        if place is not None and self._directories.get(place) == inode:
            del self._directories[place]

    async def settled(self, place: Place, pid: int) -> None:
        """Wait until what this thread has found at a new place is known to be there.

        A thread that looks the same place up again does not wait: it may hold the kernel's locks
        for which the lookup of this process waits.
        """
        if pid in self._pending:
            pending, over = self._pending[pid]
            if pending != place:
                with anyio.move_on_after(WAIT_S):
                    await over.wait()

    async def look_up(self) -> None:
        """Look up what is pending, until cancelled."""
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            while self._pending:
                pid, (place, over) = next(iter(self._pending.items()))
                try:
                    path = self._path(place)
                    if path is not None:
                        await anyio.to_thread.run_sync(self._look, path, abandon_on_cancel=True)
                finally:
                    del self._pending[pid]
                    over.set()

    def _look(self, path: bytes) -> None:
        """Runs in a thread of its own; requests of that thread do not wait for its lookups."""
        self._own_threads.add(threading.get_native_id())
        with suppress(OSError):
            os.lstat(path)

    def _path(self, place: Place) -> bytes | None:
        if self._mountpoint is None:
            return None
        names = [place.name]
        parent = place.parent
        while parent != self._root:
            above = self._places.get(parent)
            if above is None or len(names) > DEPTH_MAX:
                return None
            names.append(above.name)
            parent = above.parent
        return b"/".join([os.fsencode(self._mountpoint), *reversed(names)])

    def _put(self, inode: InodeNumber, place: Place) -> None:
        self.forget(inode)
        self._places[inode] = place
        self._directories[place] = inode
