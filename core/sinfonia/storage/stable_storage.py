"""Checkpoint, image and redo log are opened together, or the memory node does not start.

They are made in this order: empty image, empty log, first checkpoint.  Nothing is logged before the
first checkpoint is stable.  So what is missing later was lost, and is not taken for a first start.

A member that copies the image of another begins with an empty one, whose log goes on after the
record with which the copy begins.  Until the copy is whole, the file ``incomplete`` says so: a
restart takes nothing of it for true and makes everything empty again.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import msgspec

from sinfonia.errors import StorageError
from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.records import ParticipantState
from sinfonia.protocol.replication.messages import Life
from sinfonia.storage.address_space import AddressSpace
from sinfonia.storage.damage import refuse_damage
from sinfonia.storage.data_directory import IDENTITY_FILE, LOCK_FILE
from sinfonia.storage.disk_image import Checkpoint, DiskImage, read_checkpoint, write_checkpoint
from sinfonia.storage.files import Files
from sinfonia.storage.journal import KEEP_BYTES
from sinfonia.storage.known_configuration import CONFIGURATION_FILE
from sinfonia.storage.log_blocks import Lsn
from sinfonia.storage.redo_log import SEGMENT_BYTES, RedoLog

INCOMPLETE_FILE = "incomplete"


@dataclass(frozen=True, slots=True)
class StableStorage:
    """What a memory node finds when it starts.

    ``space`` holds the image.  The memory node takes ``checkpoint.state``, replays ``log`` after
    ``checkpoint.seq``, lets ``image.confirm(space.dirty)`` tell whether that was everything, and
    only then serves.  ``founded`` says that there was nothing, so that all of it was made just now.
    """

    files: Files
    space: AddressSpace
    checkpoint: Checkpoint
    image: DiskImage
    log: RedoLog
    founded: bool

    def complete(self) -> None:
        """A checkpoint rules that holds the whole image: a restart may go on from it.

        Raises StorageError.
        """
        with _using_the_disk():
            _remove_marker(self.files)

    def close(self) -> None:
        self.log.close()
        self.image.close()
        self.space.close()


def open_stable_storage(
    files: Files,
    *,
    identity: str,
    capacity: int,
    segment_bytes: int = SEGMENT_BYTES,
    keep_bytes: int = KEEP_BYTES,
) -> StableStorage:
    """Open what the memory node ``identity`` left, or make it on its first start.

    A copy that was not completed counts as nothing.  Raises DamagedData if anything is damaged or
    missing, StorageError if it is another memory node's or cannot be read.
    """
    with _using_the_disk():
        # If the rename of the last checkpoint was seen but not stable, it must become so before
        # its processed-pointer is believed.
        files.sync_directory()
        incomplete = files.exists(INCOMPLETE_FILE)
        if incomplete:
            _wipe(files)
        refuse_damage(files)
        storage = _open(
            files,
            first=Checkpoint(identity, capacity, Lsn(0), 0, [], ParticipantState()),
            segment_bytes=segment_bytes,
            keep_bytes=keep_bytes,
        )
        if incomplete:
            _remove_marker(files)
        return storage


def refound(
    files: Files,
    *,
    identity: str,
    capacity: int,
    seq: Seq,
    history: Sequence[Life],
    segment_bytes: int = SEGMENT_BYTES,
    keep_bytes: int = KEEP_BYTES,
) -> StableStorage:
    """Forget everything, and begin anew after the record ``seq`` with an image to be copied.

    Nothing in ``files`` may be open.  Call ``complete`` when the first checkpoint rules that holds
    all of the copy.  Raises StorageError.
    """
    with _using_the_disk():
        files.open(INCOMPLETE_FILE, create=True).close()
        files.sync_directory()
        _wipe(files)
        return _open(
            files,
            first=Checkpoint(identity, capacity, Lsn(0), seq, list(history), ParticipantState()),
            segment_bytes=segment_bytes,
            keep_bytes=keep_bytes,
        )


@contextmanager
def _using_the_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot use the data directory: {error.strerror}; repair the disk or free space, then "
            "start this memory node again"
        ) from error


def _open(files: Files, *, first: Checkpoint, segment_bytes: int, keep_bytes: int) -> StableStorage:
    """Open what ``files`` hold; ``first`` is the first checkpoint, if there was none yet."""
    found = read_checkpoint(files, identity=first.identity, capacity=first.capacity)
    open_image = DiskImage.create if found is None else DiskImage.open
    checkpoint = found or first
    with ExitStack() as opened:
        image = open_image(files, identity=first.identity, capacity=first.capacity)
        opened.callback(image.close)
        log = RedoLog.open(
            files,
            identity=first.identity,
            processed=None if found is None else found.processed,
            seq=checkpoint.seq,
            history=checkpoint.history,
            segment_bytes=segment_bytes,
            keep_bytes=keep_bytes,
        )
        opened.callback(log.close)
        if found is None:
            write_checkpoint(files, msgspec.msgpack.encode(first))
        space = AddressSpace(first.capacity)
        opened.callback(space.close)
        image.load_into(space)
        opened.pop_all()
    return StableStorage(files, space, checkpoint, image, log, founded=found is None)


def _wipe(files: Files) -> None:
    """Remove everything but whose directory it is, the configuration it knows, and the marker.

    While the marker is there, what a crash brings back is ignored.
    """
    for name in files.names():
        if name not in (IDENTITY_FILE, LOCK_FILE, INCOMPLETE_FILE, CONFIGURATION_FILE):
            files.remove(name)


def _remove_marker(files: Files) -> None:
    if files.exists(INCOMPLETE_FILE):
        files.remove(INCOMPLETE_FILE)
        files.sync_directory()
