"""A rebuilt directory is stored where its managers look for it, and what was there is not lost.

The managers must not run meanwhile: each believes what it has read.  A file that is replaced is
kept beside the new one, as ``directory.replaced``.  A crash between the two leaves none, and a
manager that starts on that decides nothing, since all members know more.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from sinfonia.errors import DamagedData, StorageError
from sinfonia.management.etcd_gateway import EtcdGateway
from sinfonia.management.etcd_store import CALL_TIMEOUT, directory_key
from sinfonia.management.shared_store import decode_directory, encode_directory
from sinfonia.management.store import (
    DIRECTORY_FILE,
    StoreConflict,
    StoreUnavailable,
    read_directory,
    write_directory,
)
from sinfonia.protocol.membership.messages import Directory
from sinfonia.storage.data_directory import DirectoryLock
from sinfonia.storage.files import OsFiles

REPLACED_FILE = DIRECTORY_FILE + ".replaced"


class RebuiltStore(Protocol):
    """Where the directory of one cluster is to be stored."""

    @property
    def known(self) -> Directory | None:
        """What is there and can be read."""

    @property
    def unreadable(self) -> str:
        """Why what is there cannot be read; empty if nothing is, or it can."""

    def put(self, directory: Directory) -> None:
        """Store ``directory`` in place of what is there.  Raises StorageError."""

    def close(self) -> None:
        """Let go of it."""


class RebuiltFile:
    """The data directory of a cluster's only manager."""

    def __init__(self, path: Path) -> None:
        """Read what is there; no manager may start until ``close``.

        Raises DataDirectoryInUse if the manager runs.
        """
        self._lock = DirectoryLock(path)
        self._files = OsFiles(path)
        self.known: Directory | None = None
        self.unreadable = ""
        try:
            self.known = read_directory(self._files)
        except DamagedData as error:
            self.unreadable = str(error)
        except StorageError:
            self._lock.release()
            raise

    def put(self, directory: Directory) -> None:
        """Of RebuiltStore."""
        try:
            if self._files.exists(DIRECTORY_FILE):
                self._files.rename(DIRECTORY_FILE, REPLACED_FILE)
        except OSError as error:
            raise StorageError(f"cannot rename {DIRECTORY_FILE}: {error.strerror}") from error
        write_directory(self._files, directory)

    def close(self) -> None:
        """Of RebuiltStore."""
        self._lock.release()


class RebuiltValue:
    """The value in etcd that several managers share."""

    def __init__(self, endpoints: Sequence[str], *, cluster: str) -> None:
        """Read what is there.  Raises StoreUnavailable or ConfigError."""
        self._gateway = EtcdGateway(endpoints, timeout=CALL_TIMEOUT)
        self._key = directory_key(cluster)
        self.known: Directory | None = None
        self.unreadable = ""
        try:
            self._found = self._gateway.read(self._key)
        except StoreUnavailable:
            self._gateway.close()
            raise
        if self._found.revision:
            try:
                self.known = decode_directory(self._found.value)
            except StorageError as error:
                self.unreadable = str(error)

    def put(self, directory: Directory) -> None:
        """Of RebuiltStore.  Raises StoreUnavailable, too: it may have been stored or not."""
        value = encode_directory(directory)
        if self._gateway.swap(self._key, self._found.revision, value) is None:
            raise StoreConflict(
                "a manager has changed the directory in etcd meanwhile; stop all managers, then "
                "say the same again"
            )

    def close(self) -> None:
        """Of RebuiltStore."""
        self._gateway.close()
