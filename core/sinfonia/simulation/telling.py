"""Which damage a program could tell from a torn write, computed from the disk alone.

A page that a checkpoint was saving may be torn.  Which pages that were is known only by this: the
mark says that a checkpoint was saving, and records after the processed-pointer write the page.

A block of the log that fails its checksum may be torn if the mark does not reach beyond its
beginning, and no later block shows by its header that it was synced.  What lies before the segment
in which the processed-pointer lies is not needed.  Identity and checkpoint are never torn.  The
mark and the known configuration are not needed either.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sinfonia.errors import StorageError
from sinfonia.protocol.records import OnePhase, Prepared
from sinfonia.simulation.disk import Damage, VirtualDisk
from sinfonia.simulation.profile import CAPACITY
from sinfonia.storage.address_space import PAGE_BYTES, PAGE_SHIFT
from sinfonia.storage.data_directory import IDENTITY_FILE
from sinfonia.storage.disk_image import (
    CHECKPOINT_FILE,
    CHECKSUM_FILE,
    IMAGE_FILE,
    read_checkpoint,
)
from sinfonia.storage.log_blocks import HEADER_BYTES, Lsn, log_id_of, segment_name
from sinfonia.storage.log_segments import read_blocks, read_log, segment_starts
from sinfonia.storage.synced_mark import MARK_FILE, SyncedMark

_CHECKSUM_BYTES = 4

# Where the records of a block begin, as log_blocks says.
RECORDS_AT = 53


def is_tellable(disk: VirtualDisk, planted: Sequence[Damage], *, identity: str) -> bool:
    """Whether a memory node that starts on ``disk`` must notice what is ``planted``."""
    names = {disk.name_of(damage) for damage in planted}
    if not names.isdisjoint((IDENTITY_FILE, CHECKPOINT_FILE)):
        return True
    for damage in planted:
        in_image = disk.name_of(damage) in (IMAGE_FILE, CHECKSUM_FILE)
        if in_image and not may_be_torn(disk, damage, identity=identity):
            return True
    return _log_loss_shows(disk, planted, identity)


class _Place(NamedTuple):
    """Where a block lies, without its padding."""

    name: str
    offset: int
    length: int
    lsn: Lsn


def _log_loss_shows(disk: VirtualDisk, planted: Sequence[Damage], identity: str) -> bool:
    """Whether damage in the log cannot be a torn tail."""
    checkpoint = read_checkpoint(disk, identity=identity, capacity=CAPACITY)
    if checkpoint is None:
        return False
    log_id = log_id_of(identity)
    synced = SyncedMark(disk, log_id=log_id).lsn if disk.exists(MARK_FILE) else Lsn(0)
    there = [damage for damage in planted if disk.name_of(damage)]
    for damage in reversed(there):
        damage.undo()
    places = _needed_blocks(disk, log_id, checkpoint.processed)
    whole = [disk.look(each.name, each.offset, each.length) for each in places]
    for damage in there:
        damage.redo()
    damaged: Lsn | None = None
    for place, content in zip(places, whole, strict=True):
        now = disk.look(place.name, place.offset, place.length)
        if damaged is None and now != content:
            damaged = place.lsn
        elif damaged is not None and now[:HEADER_BYTES] == content[:HEADER_BYTES]:
            return True
    return damaged is not None and damaged < synced


def _needed_blocks(disk: VirtualDisk, log_id: int, processed: Lsn) -> list[_Place]:
    """The blocks that a start reads."""
    starts = segment_starts(disk)
    ruling = max((start for start in starts if start <= processed), default=processed)
    places = []
    for block in read_blocks(disk, log_id=log_id, starts=starts, lsn=ruling, end_min=processed):
        start = max(each for each in starts if each <= block.lsn)
        length = RECORDS_AT + len(block.batch.body)
        places.append(_Place(segment_name(start), block.lsn - start, length, block.lsn))
    return places


def may_be_torn(disk: VirtualDisk, damage: Damage, *, identity: str) -> bool:
    """Whether ``damage`` is in pages that a checkpoint may have been saving."""
    name = disk.name_of(damage)
    if name not in (IMAGE_FILE, CHECKSUM_FILE):
        return False
    if not disk.exists(MARK_FILE) or not SyncedMark(disk, log_id=log_id_of(identity)).saving:
        return False
    unit = PAGE_BYTES if name == IMAGE_FILE else _CHECKSUM_BYTES
    pages = range(damage.offset // unit, -(-(damage.offset + len(damage.bad)) // unit))
    return not pages_in_log(disk, identity).isdisjoint(pages)


def pages_in_log(disk: VirtualDisk, identity: str) -> set[int]:
    """The pages that records after the processed-pointer write, as far as the log can be read."""
    pages: set[int] = set()
    try:
        checkpoint = read_checkpoint(disk, identity=identity, capacity=CAPACITY)
        seq = 0 if checkpoint is None else checkpoint.seq
        if checkpoint is not None:
            for prepared in checkpoint.state.in_doubt:
                pages |= _pages_of(prepared)
        for logged in read_log(disk, log_id=log_id_of(identity)):
            if logged.seq > seq and isinstance(logged.record, OnePhase | Prepared):
                pages |= _pages_of(logged.record)
    except StorageError:
        pass  # the rest is damaged, and that shows
    return pages


def _pages_of(record: OnePhase | Prepared) -> set[int]:
    return {
        page
        for item in record.writes
        for page in range(
            item.address >> PAGE_SHIFT, ((item.address + len(item.data) - 1) >> PAGE_SHIFT) + 1
        )
    }
