"""The kernel caches nothing that another mount could change.

This is the adapter between FUSE and the volume: it translates the kernel's requests into calls of
the operations in ``volume/`` and their results back, and decides nothing about files.  Names become
inodes, inodes become attributes, errors become errno.

What is written through one mount must be seen through every other mount at once, so

* attributes and directory entries are valid for 0 seconds: the kernel asks again each time;
* ``keep_cache`` is off: an ``open`` finds an empty page cache;
* before a ``read`` of a file that was open already the kernel asks for the attributes, and drops
  the cached pages if the size or the modification time has changed
  (``FUSE_AUTO_INVAL_DATA``, which libfuse asks for).  So the page cache can serve ``mmap``, shared
  mappings too, which is not possible for files opened with ``direct_io``;
* files opened with ``O_APPEND`` bypass the page cache (``direct_io``): the volume finds the place
  of an append in the minitransaction that writes, and ignores the kernel's idea of it;
* so do files opened with ``O_WRONLY``, which cannot be mapped: through the page cache, the kernel
  cuts a write in two after its first page if it has only part of that page.

``flush`` and ``access`` are missing on purpose.  A write has reached the memory nodes before
``write`` returns, so a close has nothing left to write, and the kernel checks permissions itself
(mount option ``default_permissions``).  The kernel stops asking after the first ENOSYS.
"""

# ruff: noqa: ARG002, PLR0917 - the signatures are those of pyfuse3.Operations

import errno
import functools
import logging
import os
import stat
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext, StatvfsData

from sinfonia.errors import Contended, OutcomeUnknown, SinfoniaError, TimedOut, Unreachable
from sinfoniafs.attributes import (
    RENAME_EXCHANGE,
    Attributes,
    Changes,
    InodeNumber,
    Owner,
    Place,
    VolumeStatistics,
)
from sinfoniafs.errors import EntryExists, FileSystemError, StaleHandle
from sinfoniafs.interrupts import Interrupts
from sinfoniafs.libfuse import Caller, Libfuse
from sinfoniafs.patience import TIMEOUT_S, Patience, limited
from sinfoniafs.places import Places
from sinfoniafs.privileges import Privileged, always, may_keep_set_id
from sinfoniafs.statistics import volume_statistics
from sinfoniafs.volume import contents, lifetime, namespace
from sinfoniafs.volume.inode_attributes import get_attributes, set_attributes
from sinfoniafs.volume.rename import rename
from sinfoniafs.volume.volume import Volume

log = logging.getLogger(__name__)

# What programs take as the size of a good read or write (st_blksize).  cp uses at least this size,
# and it amortizes the round trip; Python's open() allocates a buffer of this size.
PREFERRED_IO_BYTES = 128 * 1024

# Entries asked of the volume at a time.  The kernel's buffer (a page, or what the program gave to
# getdents: 32 KiB from glibc) has room for about 25 or 200 entries with their attributes.
DIRECTORY_ENTRIES_PER_READ = 64

# How old an answer to statfs may be, in seconds.  Counting reads the maps of all memory nodes, and
# programs that watch free space ask all the time.
STATFS_AGE_MAX = 1.0

# The kernel looks a name up twice for one call if it knew the name and the first lookup fails; the
# second comes within so many seconds.
SAME_CALL_SECONDS = 0.5

# Cookies of "." and "..", which the volume does not list; its own are larger.
COOKIE_SELF = 1
COOKIE_PARENT = 2

P = ParamSpec("P")
T = TypeVar("T")
Handler = Callable[Concatenate["VolumeOperations", P], Awaitable[T]]
AnsweringHandler = Callable[Concatenate["VolumeOperations", P], Coroutine[Any, Any, T]]


def errno_of(error: SinfoniaError) -> int:
    """The errno for a minitransaction that failed: its deadline passed, or the cluster is ill.

    Never EAGAIN: programs take EAGAIN from a regular file for its end (Python's FileIO returns what
    it has), and would lose data silently.
    """
    if isinstance(error, Contended | TimedOut | OutcomeUnknown | Unreachable):
        return errno.ETIMEDOUT
    return errno.EIO


def answering(handler: Handler[P, T]) -> AnsweringHandler[P, T]:
    """Make ``handler`` end in time, and raise nothing but what a mount survives: ``FUSEError``."""

    @functools.wraps(handler)
    async def answer(self: "VolumeOperations", /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with self.under_way():
                return await handler(self, *args, **kwargs)
        except FileSystemError as error:
            raise FUSEError(error.errno) from error
        except SinfoniaError as error:
            log.warning("operation=%s failed=%s: %s", handler.__name__, type(error).__name__, error)
            raise FUSEError(errno_of(error)) from error
        except FUSEError:
            raise
        except Exception as error:  # the boundary of the process: one request fails, not the mount
            log.exception("operation=%s failed unexpectedly", handler.__name__)
            raise FUSEError(errno.EIO) from error
        raise FUSEError(errno.EINTR)  # the request was given up: see ``under_way``

    return answer


@dataclass(frozen=True, slots=True)
class OpenFile:
    """What a file handle stands for: one life of an inode, opened by a thread of that pid."""

    inode: InodeNumber
    life: int | None
    append: bool
    pid: int


class VolumeOperations(pyfuse3.Operations):
    """The requests of one mount, answered by one volume.

    ``on_contact`` is called once, when the kernel has made contact; it must not raise.
    """

    supports_dot_lookup = True

    def __init__(
        self,
        volume: Volume,
        *,
        on_contact: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        timeout: float = TIMEOUT_S,
        libfuse: Libfuse | None = None,
        mountpoint: Path | None = None,
    ) -> None:
        super().__init__()
        self.places = Places(mountpoint, volume.root)
        self._given_up_last: tuple[Place | None, float] = (None, 0.0)
        self.timeout = timeout
        self.interrupts = Interrupts(libfuse)
        self._caller: ContextVar[Caller | None] = ContextVar("caller", default=None)
        self._under_way: set[Patience] = set()
        self.clock = clock
        self._counted: tuple[float, VolumeStatistics] | None = None
        self.volume = volume
        self.on_contact = on_contact
        self.open_files: dict[int, OpenFile] = {}
        self.open_directories: dict[int, InodeNumber] = {}
        # How often each inode was given to the kernel, until the kernel says ``forget``.
        self.lookups: Counter[InodeNumber] = Counter()
        self._handles_given = 0

    def init(self) -> None:
        self.on_contact()

    def check_invariants(self) -> None:
        """Every handle was given by this object, and stands for one thing."""
        assert not self.open_files.keys() & self.open_directories.keys()
        assert all(0 < handle <= self._handles_given for handle in self.open_files)
        assert all(0 < handle <= self._handles_given for handle in self.open_directories)
        assert all(count > 0 for count in self.lookups.values())

    # Requests.

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """The body of a request's handler; left early if the request is given up."""
        with limited(self.timeout) as patience, self.interrupts.heeded(patience) as caller:
            self._under_way.add(patience)
            token = self._caller.set(caller)
            try:
                yield
            finally:
                self._caller.reset(token)
                self._under_way.remove(patience)

    def abandon_all(self) -> None:
        """Answer all requests now; what becomes of their changes stays unknown."""
        for patience in self._under_way:
            patience.abandon()

    # Names.

    @answering
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        place = Place(self._inode(parent_inode), name)
        await self.places.settled(place, ctx.pid)
        self._check_not_given_up(place)
        try:
            attributes = await namespace.lookup(self.volume, *place)
        except (TimedOut, Unreachable):
            self._given_up_last = place, self.clock()
            raise
        self.places.found(attributes, place, ctx.pid)
        return self._given(attributes)

    def _check_not_given_up(self, place: Place) -> None:
        """Refuse at once a lookup that has just timed out: the kernel repeats it for one call."""
        given_up, when = self._given_up_last
        if place == given_up and self.clock() - when < SAME_CALL_SECONDS:
            self._given_up_last = None, 0.0
            raise TimedOut("the same lookup has just timed out")

    @answering
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        attributes = await namespace.create(
            self.volume,
            self._inode(parent_inode),
            name,
            mode=mode,
            owner=Owner(ctx.uid, ctx.gid),
            rdev=rdev,
        )
        return self._given(attributes)

    @answering
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext
    ) -> EntryAttributes:
        attributes = await namespace.mkdir(
            self.volume, self._inode(parent_inode), name, mode=mode, owner=Owner(ctx.uid, ctx.gid)
        )
        self.places.found(attributes, Place(self._inode(parent_inode), name))
        return self._given(attributes)

    @answering
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        attributes = await namespace.symlink(
            self.volume, self._inode(parent_inode), name, target, owner=Owner(ctx.uid, ctx.gid)
        )
        return self._given(attributes)

    @answering
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        parent = self._inode(new_parent_inode)
        return self._given(await namespace.link(self.volume, self._inode(inode), parent, new_name))

    @answering
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await namespace.unlink(self.volume, self._inode(parent_inode), name)

    @answering
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await namespace.rmdir(self.volume, self._inode(parent_inode), name)

    @answering
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        old = Place(self._inode(parent_inode_old), name_old)
        new = Place(self._inode(parent_inode_new), name_new)
        await rename(self.volume, old, new, flags=flags)
        self.places.moved(old, new, exchanged=bool(flags & RENAME_EXCHANGE))

    @answering
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return await contents.readlink(self.volume, self._inode(inode))

    # Attributes.

    @answering
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self._entry(await get_attributes(self.volume, self._inode(inode)))

    @answering
    async def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        changes = Changes(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            ctime_ns=attr.st_ctime_ns if fields.update_ctime else None,
        )
        privileged: Privileged = partial(may_keep_set_id, ctx.pid)
        if fields.update_mode:
            privileged = always  # the kernel has worked out what is left of the mode
        return self._entry(
            await set_attributes(self.volume, self._inode(inode), changes, privileged=privileged)
        )

    @answering
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        statistics = await self._statistics()
        answer = StatvfsData()
        answer.f_bsize = answer.f_frsize = statistics.block_size
        answer.f_blocks = statistics.blocks
        answer.f_bfree = answer.f_bavail = statistics.blocks_free
        answer.f_files = statistics.inodes
        answer.f_ffree = answer.f_favail = statistics.inodes_free
        answer.f_namemax = statistics.name_max
        return answer

    async def _statistics(self) -> VolumeStatistics:
        now = self.clock()
        if self._counted is None or now - self._counted[0] >= STATFS_AGE_MAX:
            self._counted = now, await volume_statistics(self.volume)
        return self._counted[1]

    # Open files.

    @answering
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        number = self._inode(inode)
        await lifetime.open_file(
            self.volume,
            number,
            truncate=bool(flags & os.O_TRUNC),
            privileged=partial(may_keep_set_id, ctx.pid),
        )
        return self._file_info(number, flags, ctx)

    @answering
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        try:
            attributes = await namespace.create(
                self.volume,
                self._inode(parent_inode),
                name,
                mode=mode | stat.S_IFREG,
                owner=Owner(ctx.uid, ctx.gid),
                register=True,
            )
        except EntryExists as error:
            if flags & os.O_EXCL:
                raise
            # The kernel has just found the name missing, so another mount has made it since.  At
            # ESTALE the kernel looks again and opens what is there, and checks permissions.
            raise FUSEError(errno.ESTALE) from error
        return self._file_info(attributes.inode, flags, ctx), self._given(attributes)

    @answering
    async def read(self, fh: int, off: int, size: int) -> bytes:
        return await contents.read(self.volume, self._open_file(fh).inode, off, size)

    @answering
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        file = self._open_file(fh)
        caller = self._caller.get()
        # Where libfuse does not tell which thread writes, the thread that opened the file counts.
        privileged = partial(may_keep_set_id, caller.pid if caller else file.pid)
        if file.append:
            await contents.append(self.volume, file.inode, buf, privileged=privileged)
            return len(buf)
        return await contents.write(self.volume, file.inode, off, buf, privileged=privileged)

    @answering
    async def fsync(self, fh: int, datasync: bool) -> None:
        await contents.fsync(self.volume, self.open_files[fh].inode)

    @answering
    async def release(self, fh: int) -> None:
        await lifetime.close_file(self.volume, self.open_files.pop(fh).inode)

    # Directories.

    @answering
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        # Registered like an open file, so that it outlives its name while it is open.
        number = self._inode(inode)
        await lifetime.open_file(self.volume, number)
        handle = self._next_handle()
        self.open_directories[handle] = number
        return handle

    @answering
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        # Attributes are read for each request and not kept for the next one: the kernel believes
        # them, and with an old size it would cut pages from under a mapped file.
        directory = self.open_directories[fh]
        if await self._reply_dots(directory, start_id, token):
            await self._reply_entries(directory, start_id, token)

    async def _reply_dots(
        self, directory: InodeNumber, start_id: int, token: pyfuse3.ReaddirToken
    ) -> bool:
        """Whether there is room for more."""
        for name, cookie in ((b".", COOKIE_SELF), (b"..", COOKIE_PARENT)):
            if start_id < cookie:
                # Not counted in ``lookups``: the kernel does not forget these two.
                entry = self._entry(await namespace.lookup(self.volume, directory, name))
                if not pyfuse3.readdir_reply(token, name, entry, cookie):
                    return False
        return True

    async def _reply_entries(
        self, directory: InodeNumber, start_id: int, token: pyfuse3.ReaddirToken
    ) -> None:
        cookie = start_id if start_id > COOKIE_PARENT else 0
        while True:
            entries = await namespace.read_directory(
                self.volume, directory, cookie, DIRECTORY_ENTRIES_PER_READ
            )
            for each in entries:
                entry = self._entry(each.attributes)
                if not pyfuse3.readdir_reply(token, each.name, entry, each.cookie):
                    return
                self.lookups[each.inode] += 1
                self.places.found(each.attributes, Place(directory, each.name))
                cookie = each.cookie
            if len(entries) < DIRECTORY_ENTRIES_PER_READ:
                return

    @answering
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await contents.fsync(self.volume, self.open_directories[fh])

    @answering
    async def releasedir(self, fh: int) -> None:
        await lifetime.close_file(self.volume, self.open_directories.pop(fh))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for kernel_inode, count in inode_list:
            inode = self._inode(kernel_inode)
            self.lookups[inode] -= count
            if self.lookups[inode] <= 0:
                del self.lookups[inode]
                self.places.forget(inode)
                self.volume.forget(inode)

    # Translation.

    def _inode(self, kernel_inode: int) -> InodeNumber:
        """The volume's number of an inode: the kernel insists that the root is number 1."""
        if kernel_inode == pyfuse3.ROOT_INODE:
            return self.volume.root
        if kernel_inode == self.volume.root:
            return InodeNumber(pyfuse3.ROOT_INODE)
        return InodeNumber(kernel_inode)

    def _given(self, attributes: Attributes) -> EntryAttributes:
        """An entry that the kernel will remember until it says ``forget``."""
        self.lookups[attributes.inode] += 1
        return self._entry(attributes)

    def _entry(self, attributes: Attributes) -> EntryAttributes:
        entry = EntryAttributes()
        # The same exchange of the root's number and 1, the other way round.
        entry.st_ino = self._inode(attributes.inode)
        entry.generation = attributes.generation
        entry.entry_timeout = 0
        entry.attr_timeout = 0
        entry.st_mode = attributes.mode
        entry.st_nlink = attributes.nlink
        entry.st_uid = attributes.uid
        entry.st_gid = attributes.gid
        entry.st_rdev = attributes.rdev
        entry.st_size = attributes.size
        entry.st_blksize = PREFERRED_IO_BYTES
        entry.st_blocks = attributes.blocks
        entry.st_atime_ns = attributes.atime_ns
        entry.st_mtime_ns = attributes.mtime_ns
        entry.st_ctime_ns = attributes.ctime_ns
        return entry

    def _next_handle(self) -> int:
        self._handles_given += 1
        return self._handles_given

    def _open_file(self, fh: int) -> OpenFile:
        """What the handle stands for.  Raises StaleHandle if that inode is gone.

        Its number may have been used again, if it was freed while this mount had lost its session.
        """
        file = self.open_files[fh]
        if file.life != self.volume.life_of(file.inode):
            raise StaleHandle("the file was removed while this mount was away")
        return file

    def _file_info(self, inode: InodeNumber, flags: int, ctx: RequestContext) -> FileInfo:
        handle = self._next_handle()
        append = bool(flags & os.O_APPEND)
        life = self.volume.life_of(inode)
        self.open_files[handle] = OpenFile(inode, life, append, ctx.pid)
        direct = append or flags & os.O_ACCMODE == os.O_WRONLY
        return FileInfo(fh=handle, keep_cache=False, direct_io=direct)
