"""The few things that storage asks of a disk, and what it may believe of them.

What was written is on the disk only after ``sync``; a name is there to stay only after
``sync_directory``.  Until then a crash may keep it, lose it or tear it, by sectors and in any
order.  After a ``sync`` that failed nothing may be believed about the writes before it: the kernel
may have dropped them and still show them.

Storage keeps all its files in one flat directory, so that the simulator can stand in for the disk
with a dictionary; see ``sinfonia.simulation.disk``.  On a real disk, the redo log may be
elsewhere: on a device that is faster, or that keeps what was written without being asked to.
"""

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from sinfonia.storage.durations import Durations

# The smallest piece that a disk writes all or not at all.
SECTOR_BYTES = 512

# Files of these names are the redo log's.
LOG_PREFIX = "log."

Buffer = bytes | bytearray | memoryview


class File(Protocol):
    """An open file.  Every method may raise OSError."""

    def read_at(self, offset: int, length: int) -> bytes:
        """The bytes at ``offset``; fewer than ``length`` only at the end of the file."""

    def write_at(self, offset: int, data: Buffer) -> None:
        """Put all of ``data`` at ``offset``; the file grows as needed."""

    def sync(self) -> None:
        """Return when everything written to this file is on stable storage."""

    def size(self) -> int: ...

    def truncate(self, size: int) -> None:
        """Cut the file, or let it grow by a hole that reads as zeros."""

    def allocate(self, size: int) -> None:
        """Have the disk space for the first ``size`` bytes; the file is at least that long."""

    def data_extents(self) -> list[tuple[int, int]]:
        """The ranges [start, end) that may hold something else than zeros, in order."""

    def close(self) -> None: ...


class BackgroundJob(Protocol):
    """Work that goes on beside the caller."""

    def done(self) -> bool:
        """Whether the work is finished; raises what the work raised."""

    def abandon(self) -> None:
        """Return once the work touches no file any more; it need not have been done."""


class Files(Protocol):
    """One flat directory of files.  Every method may raise OSError."""

    def open(self, name: str, *, create: bool = False) -> File: ...

    def exists(self, name: str) -> bool: ...

    def names(self) -> list[str]: ...

    def rename(self, old: str, new: str) -> None:
        """Atomically give ``old`` the name ``new``, which disappears if it existed."""

    def remove(self, name: str) -> None: ...

    def sync_directory(self) -> None:
        """Return when every name is on stable storage."""

    def in_background(self, work: Callable[[], None]) -> BackgroundJob:
        """Do ``work``, which waits for the disk, without making the caller wait."""


class OsFile:
    """A file of the operating system."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read_at(self, offset: int, length: int) -> bytes:
        data = os.pread(self._descriptor, length, offset)
        while 0 < len(data) < length:
            more = os.pread(self._descriptor, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def write_at(self, offset: int, data: Buffer) -> None:
        written = os.pwrite(self._descriptor, data, offset)
        while written < len(data):
            written += os.pwrite(self._descriptor, memoryview(data)[written:], offset + written)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def allocate(self, size: int) -> None:
        os.posix_fallocate(self._descriptor, 0, size)

    def data_extents(self) -> list[tuple[int, int]]:
        extents: list[tuple[int, int]] = []
        end = 0
        try:
            while True:
                start = os.lseek(self._descriptor, end, os.SEEK_DATA)
                end = os.lseek(self._descriptor, start, os.SEEK_HOLE)
                extents.append((start, end))
        except OSError as error:
            # How the kernel says that there is no data after ``end``.
            if error.errno != errno.ENXIO:
                raise
        return extents

    def close(self) -> None:
        os.close(self._descriptor)


class NonVolatileFile(OsFile):
    """A file on a device that has what was written at once, as its operator vouches."""

    def sync(self) -> None:
        pass


class TimedFile(OsFile):
    """A file whose syncs replies wait for: how long they take is measured."""

    def __init__(self, descriptor: int, durations: Durations) -> None:
        super().__init__(descriptor)
        self._durations = durations

    def sync(self) -> None:
        begun = time.perf_counter()
        super().sync()
        self._durations.note(time.perf_counter() - begun)


class ThreadJob:
    """A background job on a thread of its own.

    Python's waits for the disk let other threads run, so the thread that serves does not stall.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="storage-background")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - done() raises it where it can be handled
            self._error = error

    def done(self) -> bool:
        if self._thread.is_alive():
            return False
        if self._error is not None:
            raise self._error
        return True

    def abandon(self) -> None:
        self._thread.join()


class OsFiles:
    """A directory of the operating system, and perhaps another one for the redo log.

    Both must exist.  In ``log_directory`` only the files of the redo log are seen.  With
    ``sync_log`` False these are on a device that has what was written at once.  ``log_syncs``: how
    long syncs of the redo log took.
    """

    def __init__(
        self, path: Path, *, log_directory: Path | None = None, sync_log: bool = True
    ) -> None:
        self._path = path
        self._log_path = log_directory or path
        self._sync_log = sync_log
        self.log_syncs = Durations()

    def open(self, name: str, *, create: bool = False) -> OsFile:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        descriptor = os.open(self._path_of(name), flags, 0o600)
        if not name.startswith(LOG_PREFIX):
            return OsFile(descriptor)
        if not self._sync_log:
            return NonVolatileFile(descriptor)
        return TimedFile(descriptor, self.log_syncs)

    def exists(self, name: str) -> bool:
        return self._path_of(name).exists()

    def names(self) -> list[str]:
        found = {path.name for path in self._path.iterdir()}
        if self._log_path != self._path:
            found.update(path.name for path in self._log_path.glob(LOG_PREFIX + "*"))
        return sorted(found)

    def rename(self, old: str, new: str) -> None:
        self._path_of(old).replace(self._path_of(new))

    def remove(self, name: str) -> None:
        self._path_of(name).unlink()

    def sync_directory(self) -> None:
        _sync_directory(self._path)
        if self._log_path != self._path:
            _sync_directory(self._log_path)

    def in_background(self, work: Callable[[], None]) -> ThreadJob:
        return ThreadJob(work)

    def _path_of(self, name: str) -> Path:
        return (self._log_path if name.startswith(LOG_PREFIX) else self._path) / name


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
