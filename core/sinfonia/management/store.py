"""The embedded configuration store: one manager, one file, replaced whole and synced.

What the store holds is what the manager promised.  ``replace`` is a compare-and-swap on the
directory's version, so that nobody ever overwrites what they have not seen.
"""

import msgspec

from sinfonia.errors import StorageError
from sinfonia.protocol.messages import Directory
from sinfonia.storage.files import Files
from sinfonia.storage.sealed_file import read_sealed, write_sealed

DIRECTORY_FILE = "directory"

_MAGIC = b"SNDR"
_FORMAT_VERSION = 1


class EmbeddedStore:
    """The directory of one cluster in one data directory."""

    def __init__(self, files: Files, *, cluster: str) -> None:
        """Open the store, or make it for ``cluster``.  Raises StorageError."""
        self._files = files
        payload = read_sealed(files, DIRECTORY_FILE, magic=_MAGIC, version=_FORMAT_VERSION)
        if payload is None:
            self.directory = Directory(0, 0, cluster, [])
            self._write()
            return
        self.directory = msgspec.msgpack.decode(payload, type=Directory)
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

    def _write(self) -> None:
        try:
            write_sealed(
                self._files,
                DIRECTORY_FILE,
                magic=_MAGIC,
                version=_FORMAT_VERSION,
                payload=msgspec.msgpack.encode(self.directory),
            )
        except OSError as error:
            raise StorageError(f"cannot store the directory: {error.strerror}") from error
