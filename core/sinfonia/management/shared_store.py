"""A directory that several managers share: a manager writes only what replaces what it has read.

The store behind it holds one value with a revision that grows with every change, and replaces the
value only if the revision is the expected one.  A manager that loses that race is told so.

A write without an answer may have happened, or may happen yet.  So the next thing is always to read
again, and never to write on an old revision: what was on its way then fails or is seen.
"""

from typing import NamedTuple, Protocol

import msgspec

from sinfonia.errors import StorageError
from sinfonia.management.store import StoreConflict
from sinfonia.protocol.membership.messages import Directory

_FORMAT_VERSION = 1


class StoredDirectory(msgspec.Struct, array_like=True, frozen=True):
    """What the value is, as MessagePack."""

    format_version: int
    directory: Directory


class Snapshot(NamedTuple):
    """The value at one revision; revision 0: nothing has ever been stored."""

    revision: int
    value: bytes


class SharedValue(Protocol):
    """One value that many may read and swap."""

    def read(self) -> Snapshot:
        """What is stored; raises StoreUnavailable."""

    def swap(self, expected_revision: int, value: bytes) -> int | None:
        """Replace the value, if its revision is the expected one.

        Returns the new revision, or None if it was another one.  Raises StoreUnavailable: it may
        have been replaced.
        """


class SharedDirectory:
    """The directory of one cluster as this manager has read it last."""

    def __init__(self, value: SharedValue, *, cluster: str) -> None:
        """``value`` may be unavailable for now; then nothing is known.  Raises StorageError."""
        self.directory = Directory(version=0, epoch=0, cluster=cluster, nodes=[])
        self._value = value
        self._revision = 0
        self._must_read = True  # nothing may be written before that

    def replace(self, directory: Directory) -> None:
        """Store ``directory``.  Raises StoreConflict or StoreUnavailable."""
        if self._must_read:
            self.read()
        if directory.version != self.directory.version + 1:
            raise StoreConflict("the directory was changed by another manager")
        self._must_read = True
        revision = self._value.swap(self._revision, encode_directory(directory))
        if revision is None:
            self.read()
            raise StoreConflict("the directory was changed by another manager")
        self._must_read = False
        self._revision = revision
        self.directory = directory

    def read(self) -> None:
        """Read what is stored.  Raises StoreUnavailable."""
        self.accept(self._value.read())
        self._must_read = False

    def accept(self, snapshot: Snapshot) -> None:
        """What was read at some time, which counts if it is news.  Raises StorageError."""
        if snapshot.revision <= self._revision:
            return
        directory = decode_directory(snapshot.value)
        if directory.cluster != self.directory.cluster:
            raise StorageError(
                f"the store belongs to cluster {directory.cluster!r}, not "
                f"{self.directory.cluster!r}"
            )
        self._revision = snapshot.revision
        self.directory = directory


def encode_directory(directory: Directory) -> bytes:
    """The value that stands for ``directory``."""
    return msgspec.msgpack.encode(StoredDirectory(_FORMAT_VERSION, directory))


def decode_directory(value: bytes) -> Directory:
    """What ``value`` stands for.  Raises StorageError."""
    try:
        stored = msgspec.msgpack.decode(value, type=StoredDirectory)
    except msgspec.DecodeError as error:
        raise StorageError(f"the stored directory cannot be read: {error}") from error
    if stored.format_version != _FORMAT_VERSION:
        raise StorageError(
            f"the stored directory has format version {stored.format_version}, this program "
            f"reads {_FORMAT_VERSION}; use the version of the program that wrote it"
        )
    return stored.directory
