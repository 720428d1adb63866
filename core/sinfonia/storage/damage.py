"""A data directory that was found damaged stays so until a whole copy has replaced it.

Damage that shows while a member runs (a page that fails its checksum after replay, a primary that
lacks what it once acknowledged) is noted in the file ``damaged``, so that no later life takes the
rest for true.  Nothing else is touched: the files may still be of use to people.  Damage that shows
when the directory is opened needs no note; it shows again, unless the files were put back.

The file holds the reason, in UTF-8.
"""

from sinfonia.errors import DamagedData, StorageError
from sinfonia.storage.files import Files

DAMAGED_FILE = "damaged"

# The reason is for people, and read whole.
_REASON_BYTES_MAX = 4096


def note_damage(files: Files, reason: str) -> None:
    """Make sure that no later life takes this directory for true.  Raises StorageError."""
    try:
        file = files.open(DAMAGED_FILE, create=True)
        try:
            file.truncate(0)
            file.write_at(0, reason.encode()[:_REASON_BYTES_MAX])
            file.sync()
        finally:
            file.close()
        files.sync_directory()
    except OSError as error:
        raise StorageError(
            f"cannot note that the data directory is damaged ({reason}): {error.strerror}; repair "
            "the disk or free space, then start this memory node again"
        ) from error


def refuse_damage(files: Files) -> None:
    """Raise DamagedData if a former life found this directory damaged."""
    if not files.exists(DAMAGED_FILE):
        return
    file = files.open(DAMAGED_FILE)
    try:
        reason = file.read_at(0, _REASON_BYTES_MAX).decode(errors="replace")
    finally:
        file.close()
    raise DamagedData(reason or "a former life found the data directory damaged")
