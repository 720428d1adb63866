"""Checkpoint, image and redo log are opened together, or the memory node does not start.

They are made in this order: empty image, empty log, first checkpoint.  Nothing is logged before the
first checkpoint is stable.  So what is missing later was lost, and is not taken for a first start.
"""

from contextlib import ExitStack
from dataclasses import dataclass

import msgspec

from sinfonia.protocol.records import ParticipantState
from sinfonia.storage.address_space import AddressSpace
from sinfonia.storage.disk_image import Checkpoint, DiskImage, read_checkpoint, write_checkpoint
from sinfonia.storage.files import Files
from sinfonia.storage.log_blocks import Lsn
from sinfonia.storage.redo_log import SEGMENT_BYTES, RedoLog


@dataclass(frozen=True, slots=True)
class StableStorage:
    """What a memory node finds when it starts.

    ``space`` holds the image, and tracks writes.  The memory node takes ``checkpoint.state``,
    replays ``log`` since ``checkpoint.processed``, lets ``image.confirm(space.dirty)`` tell
    whether that was everything, and only then serves.  ``founded`` says that there was nothing, so
    that all of it was made just now.
    """

    space: AddressSpace
    checkpoint: Checkpoint
    image: DiskImage
    log: RedoLog
    founded: bool

    def close(self) -> None:
        self.log.close()
        self.image.close()
        self.space.close()


def open_stable_storage(
    files: Files, *, identity: str, capacity: int, segment_bytes: int = SEGMENT_BYTES
) -> StableStorage:
    """Open what the memory node ``identity`` left, or make it on its first start.

    Raises StorageError (CorruptLog) if anything is damaged, missing or another memory node's.
    """
    # If the rename of the last checkpoint was seen but not stable, it must become so before its
    # processed-pointer is believed.
    files.sync_directory()
    checkpoint = read_checkpoint(files, identity=identity, capacity=capacity)
    open_image = DiskImage.create if checkpoint is None else DiskImage.open
    with ExitStack() as opened:
        image = open_image(files, identity=identity, capacity=capacity)
        opened.callback(image.close)
        log = RedoLog.open(
            files,
            identity=identity,
            processed=None if checkpoint is None else checkpoint.processed,
            segment_bytes=segment_bytes,
        )
        opened.callback(log.close)
        founded = checkpoint is None
        if checkpoint is None:
            checkpoint = Checkpoint(identity, capacity, Lsn(0), ParticipantState())
            write_checkpoint(files, msgspec.msgpack.encode(checkpoint))
        space = AddressSpace(capacity)
        opened.callback(space.close)
        image.load_into(space)
        space.tracking = True
        opened.pop_all()
    return StableStorage(space, checkpoint, image, log, founded)
