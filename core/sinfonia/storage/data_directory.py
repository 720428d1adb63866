"""A data directory belongs to one memory node from its making on, and to one process at a time.

A memory node that lost its data must not come back as itself: others remember votes that it has
forgotten.  So the directory carries an identity, made up once, and counts its starts: the
count goes up, on stable storage, before anything else is done in a new life.  A directory in mode
RAM keeps no data but does keep this, so that the memory node knows that it has lived before.

The payload of the sealed file ``identity`` (magic ``SNID``) is a MessagePack array: memory node id,
capacity in bytes, mode, identity, starts, led.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import DataDirectoryInUse, StorageError
from sinfonia.storage.files import Files
from sinfonia.storage.sealed_file import NEW_SUFFIX, read_sealed, write_sealed

IDENTITY_FILE = "identity"
LOCK_FILE = "lock"

_MAGIC = b"SNID"

# The version of all files of the directory together.  It must change when the format of any of them
# does: an older program stops here, before it takes a block of the log that it cannot read for a
# torn one and cuts it.
DATA_FORMAT_VERSION = 3


class DataDirectory(msgspec.Struct, array_like=True, frozen=True):
    """Whose a data directory is, and in which of its lives.

    ``led``: it has been a primary's, so that its image may show records which no replica has.
    """

    node: MemoryNodeId
    capacity: int
    mode: str
    identity: str
    starts: int
    led: bool = False

    @property
    def restarted(self) -> bool:
        """Whether this memory node has lived before."""
        return self.starts > 1

    @classmethod
    def read(cls, files: Files) -> Self | None:
        """Look without beginning a new life; None if no memory node has lived here."""
        payload = read_sealed(files, IDENTITY_FILE, magic=_MAGIC, version=DATA_FORMAT_VERSION)
        return None if payload is None else msgspec.msgpack.decode(payload, type=cls)

    @classmethod
    def create_or_open(
        cls, files: Files, *, node: MemoryNodeId, capacity: int, mode: str, new_identity: str
    ) -> Self:
        """Begin a new life: the first, under ``new_identity``, or the next one.

        Raises StorageError if the directory belongs to something else.
        """
        found = cls.read(files)
        if found is None:
            foreign = set(files.names()) - {LOCK_FILE, IDENTITY_FILE + NEW_SUFFIX}
            if foreign:
                raise StorageError(
                    f"the data directory holds {min(foreign)!r} but no file {IDENTITY_FILE!r}: "
                    "it is not a memory node's; choose an empty or new directory"
                )
            found = cls(node, capacity, mode, new_identity, 0)
        for word, mine, its in (
            ("memory node", node, found.node),
            ("capacity", capacity, found.capacity),
            ("mode", mode, found.mode),
        ):
            if mine != its:
                raise StorageError(
                    f"the data directory was made for {word} {its}, not {word} {mine}; "
                    "start with what it was made for, or choose another directory"
                )
        current = msgspec.structs.replace(found, starts=found.starts + 1)
        _write(files, current)
        return current

    def roll_forward(self, files: Files, starts: int) -> None:
        """This is an older copy of a directory that was started ``starts`` times: count on from
        there, so that no life has the number of another one.  Raises StorageError."""
        self._replace(files, msgspec.structs.replace(self, starts=max(starts, self.starts)))

    def mark_led(self, files: Files, *, led: bool) -> Self:
        """Note, stably, whether this is a primary's.  Raises StorageError."""
        if led == self.led:
            return self
        changed = msgspec.structs.replace(self, led=led)
        self._replace(files, changed)
        return changed

    def _replace(self, files: Files, changed: "DataDirectory") -> None:
        try:
            _write(files, changed)
        except OSError as error:
            raise StorageError(
                f"cannot write {IDENTITY_FILE} in the data directory: {error.strerror}; repair the "
                "disk or free space, then start this memory node again"
            ) from error


def _write(files: Files, directory: DataDirectory) -> None:
    payload = msgspec.msgpack.encode(directory)
    write_sealed(files, IDENTITY_FILE, magic=_MAGIC, version=DATA_FORMAT_VERSION, payload=payload)


class DirectoryLock:
    """Holds a data directory for this process until ``release``, or until the process ends."""

    def __init__(self, path: Path) -> None:
        """Lock the directory ``path``, which is made if it does not exist.

        Raises DataDirectoryInUse if another process holds it.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StorageError(
                f"cannot use {path} as a data directory: {error.strerror}"
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise DataDirectoryInUse(
                f"data directory {path} is in use by process {holder or 'unknown'}; "
                "stop that process, or choose another directory"
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let others have the directory."""
        os.close(self._descriptor)


@contextmanager
def looked_at(path: Path) -> Iterator[bool]:
    """Whether a process holds the directory ``path``; if none does, none may until the end.

    Nothing is changed.  Raises StorageError.
    """
    try:
        descriptor = os.open(path / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False  # a copy of a data directory, perhaps
        return
    except OSError as error:
        raise StorageError(f"cannot read {path / LOCK_FILE}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            yield True
        else:
            yield False
    finally:
        os.close(descriptor)
