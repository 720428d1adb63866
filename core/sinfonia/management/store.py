"""Where the directory is kept: what the store holds is what the manager promised.

A manager changes it by ``replace``, a compare-and-swap, so that nobody ever overwrites what they
have not seen.  The *embedded* store is one manager's own: one file, replaced whole and synced.  One
that several managers share is in ``shared_store``.
"""

from pathlib import Path
from typing import Protocol

import msgspec

from sinfonia.errors import SinfoniaError, StorageError
from sinfonia.protocol.membership.messages import Directory
from sinfonia.storage.data_directory import DirectoryLock
from sinfonia.storage.files import Files, OsFiles
from sinfonia.storage.sealed_file import read_sealed, write_sealed

DIRECTORY_FILE = "directory"

_MAGIC = b"SNDR"
_FORMAT_VERSION = 1


class StoreConflict(SinfoniaError):
    """Definite: nothing was stored, because another manager changed the directory first."""


class StoreUnavailable(SinfoniaError):
    """Unknown: the store did not answer; what was to be stored may be there or not."""

    definite = False


class Store(Protocol):
    """Keeps the directory of one cluster."""

    @property
    def kind(self) -> str:
        """For the status."""

    @property
    def directory(self) -> Directory:
        """What was stored when it was last read."""

    @property
    def leading(self) -> bool:
        """Whether this manager should be the one that changes the directory."""

    @property
    def leader(self) -> str:
        """The endpoint of the manager that leads; empty if none is known to."""

    def replace(self, directory: Directory) -> None:
        """Store ``directory``, the successor of the one read last.

        Raises StoreConflict or StoreUnavailable: then ``directory`` must be looked at again, now
        and after each ``refresh``.  Raises StorageError if it is of no use to go on.
        """

    def refresh(self) -> None:
        """Notice what others have stored, and who leads."""

    def close(self) -> None:
        """Let go of it."""


class EmbeddedStore:
    """The directory of one cluster in one data directory, whose only manager always leads."""

    kind = "embedded"
    leading = True
    leader = ""

    def __init__(self, files: Files, *, cluster: str, lock: DirectoryLock | None = None) -> None:
        """Open the store, or make it for ``cluster``; ``close`` releases ``lock``.

        Raises StorageError.
        """
        self._files = files
        self._lock = lock
        found = read_directory(files)
        if found is None:
            self.directory = Directory(version=0, epoch=0, cluster=cluster, nodes=[])
            self._write()
            return
        self.directory = found
        if self.directory.cluster != cluster:
            raise StorageError(
                f"the manager's data directory belongs to cluster {self.directory.cluster!r}, not "
                f"{cluster!r}; start with the right name, or choose another directory"
            )

    def replace(self, directory: Directory) -> None:
        """Store ``directory``, the successor of the one stored.  Raises StorageError."""
        if directory.version != self.directory.version + 1:
            raise StorageError(
                f"the directory was changed by someone else: version {self.directory.version} "
                f"cannot become {directory.version}; is there a second manager on this directory?"
            )
        self.directory = directory
        self._write()

    def refresh(self) -> None:
        """No other manager stores anything here."""

    def close(self) -> None:
        """Let others have the data directory."""
        if self._lock is not None:
            self._lock.release()

    def _write(self) -> None:
        write_directory(self._files, self.directory)


def read_directory(files: Files) -> Directory | None:
    """What an embedded store holds; None if nothing.  Raises StorageError."""
    payload = read_sealed(files, DIRECTORY_FILE, magic=_MAGIC, version=_FORMAT_VERSION)
    if payload is None:
        return None
    try:
        return msgspec.msgpack.decode(payload, type=Directory)
    except msgspec.DecodeError as error:
        raise StorageError(
            f"the manager's file {DIRECTORY_FILE!r} cannot be read: {error}"
        ) from error


def write_directory(files: Files, directory: Directory) -> None:
    """Put ``directory`` in place of what an embedded store holds, stably.  Raises StorageError."""
    try:
        write_sealed(
            files,
            DIRECTORY_FILE,
            magic=_MAGIC,
            version=_FORMAT_VERSION,
            payload=msgspec.msgpack.encode(directory),
        )
    except OSError as error:
        raise StorageError(f"cannot store the directory: {error.strerror}") from error


def open_embedded_store(path: Path, *, cluster: str) -> EmbeddedStore:
    """The store in the data directory ``path``, which no other process may use meanwhile.

    Raises DataDirectoryInUse or StorageError.
    """
    lock = DirectoryLock(path)
    try:
        return EmbeddedStore(OsFiles(path), cluster=cluster, lock=lock)
    except StorageError:
        lock.release()
        raise
