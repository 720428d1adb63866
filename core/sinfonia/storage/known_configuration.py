"""The newest configuration that a member has seen, which it outlives its manager's store with.

The manager's store says which members hold a memory node.  If it is lost or put back from an older
copy, a replica that was dropped long ago could be taken for the memory node.  So each member keeps
the newest entry of its memory node beside its data: it follows none that is older, a manager that
knows less decides nothing, and the store can be rebuilt from what the members kept.

The payload of the sealed file ``configuration`` (magic ``SNCF``) is a MessagePack array: cluster,
version of the directory, epoch, entry of the memory node.
"""

from typing import Self

import msgspec

from sinfonia.errors import DamagedData, StorageError
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry
from sinfonia.storage.files import Files
from sinfonia.storage.sealed_file import read_sealed, write_sealed

CONFIGURATION_FILE = "configuration"

_MAGIC = b"SNCF"
_FORMAT_VERSION = 1


class KnownConfiguration(msgspec.Struct, array_like=True, frozen=True):
    """What a member has seen of its memory node's configuration; ``entry`` None: nothing yet.

    ``damaged``: there was something, which cannot be read any more.
    """

    cluster: str = ""
    version: int = 0
    epoch: int = 0
    entry: MemoryNodeEntry | None = None
    damaged: bool = False

    @property
    def config_epoch(self) -> int:
        """The newest config epoch seen; at least 1 for a member that was ever part of anything."""
        return int(self.damaged) if self.entry is None else self.entry.config_epoch

    @classmethod
    def read(cls, files: Files) -> Self:
        """What ``files`` keep.  Raises StorageError if another version wrote it."""
        try:
            payload = read_sealed(files, CONFIGURATION_FILE, magic=_MAGIC, version=_FORMAT_VERSION)
            return cls() if payload is None else msgspec.msgpack.decode(payload, type=cls)
        except (DamagedData, msgspec.DecodeError):
            # The data is none the worse, and a manager that has its store knows better.
            return cls(damaged=True)

    def seen(self, files: Files, directory: Directory, entry: MemoryNodeEntry) -> Self:
        """Keep ``entry``, stably, if it is newer than what is kept.  Raises StorageError."""
        if self.entry is not None and entry.config_epoch <= self.entry.config_epoch:
            return self
        following = type(self)(directory.cluster, directory.version, directory.epoch, entry)
        try:
            write_sealed(
                files,
                CONFIGURATION_FILE,
                magic=_MAGIC,
                version=_FORMAT_VERSION,
                payload=msgspec.msgpack.encode(following),
            )
        except OSError as error:
            raise StorageError(
                f"cannot write {CONFIGURATION_FILE} in the data directory: {error.strerror}; "
                "repair the disk or free space, then start this memory node again"
            ) from error
        return following
