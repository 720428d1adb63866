"""Which damage a program could tell from a torn write, computed from the disk alone.

A page that a checkpoint was saving may be torn.  Which pages that were is known only by this: the
mark says that a checkpoint was saving, and records after the processed-pointer write the page.
"""

from sinfonia.errors import StorageError
from sinfonia.protocol.records import OnePhase, Prepared
from sinfonia.storage.address_space import PAGE_BYTES, PAGE_SHIFT
from sinfonia.storage.disk_image import CHECKSUM_FILE, IMAGE_FILE, read_checkpoint
from sinfonia.storage.log_blocks import log_id_of
from sinfonia.storage.log_segments import read_log
from sinfonia.storage.synced_mark import MARK_FILE, SyncedMark
from sinfonia.testing.disk import Damage, VirtualDisk
from sinfonia.testing.workload import CAPACITY

_CHECKSUM_BYTES = 4


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
