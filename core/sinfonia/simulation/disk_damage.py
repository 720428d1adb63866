"""Ways in which a disk is not what a sync made it, each on the disk of one member.

Most of them fall upon the end of the redo log, which cannot vouch for itself; the rest upon
anything that a data directory holds.
"""

import random
from collections.abc import Callable, Sequence

from sinfonia.simulation.disk import Damage, Pending, VirtualDisk
from sinfonia.storage.address_space import PAGE_BYTES
from sinfonia.storage.data_directory import IDENTITY_FILE
from sinfonia.storage.disk_image import CHECKPOINT_FILE, CHECKSUM_FILE, IMAGE_FILE
from sinfonia.storage.files import SECTOR_BYTES
from sinfonia.storage.known_configuration import CONFIGURATION_FILE
from sinfonia.storage.log_blocks import HEADER_BYTES, Lsn, read_heading, segment_name
from sinfonia.storage.log_segments import segment_starts
from sinfonia.storage.synced_mark import MARK_FILE

# Where damage falls, besides the log, and how often.
PLACES = {
    IMAGE_FILE: 4,
    CHECKSUM_FILE: 2,
    CHECKPOINT_FILE: 1,
    IDENTITY_FILE: 1,
    MARK_FILE: 1,
    CONFIGURATION_FILE: 1,
}
LOG_SHARE = 0.5
TAIL_SHARE = 0.6  # of what falls upon the log: upon one of its last blocks
TAIL_BLOCKS = 3

Extent = tuple[int, int]  # offset and length


def rot(disk: VirtualDisk, rng: random.Random, *, log_id: int) -> list[Damage]:
    """A bit flips, or a few sectors turn to zeros or to noise."""
    name, (offset, length) = _place(disk, rng, log_id)
    if rng.random() < 0.5:
        at = offset + rng.randrange(length)
        bad = bytes([disk.look(name, at, 1)[0] ^ 1 << rng.randrange(8)])
        return [disk.plant(name, at, bad)]
    first = offset - offset % SECTOR_BYTES
    sectors = min(-(-(offset + length - first) // SECTOR_BYTES), rng.randint(1, 3))
    lost = max(min(sectors * SECTOR_BYTES, disk.size(name) - first), 0)
    bad = bytes(lost) if rng.random() < 0.6 else rng.randbytes(lost)
    return _plant(disk, name, first, bad)


def cut_end_of_log(disk: VirtualDisk, rng: random.Random, *, log_id: int) -> list[Damage]:
    """The last sectors of the log turn to zeros."""
    blocks = log_extents(disk, log_id)
    if not blocks:
        return []
    name, (offset, length) = blocks[-1]
    end = offset + length
    start = max(end - rng.randint(1, 4) * SECTOR_BYTES, 0)
    return _plant(disk, name, start, bytes(end - start))


def rot_last_blocks(disk: VirtualDisk, rng: random.Random, *, log_id: int) -> list[Damage]:
    """A bit flips in each of the last blocks of the log; their headers stay whole."""
    planted = []
    for name, (offset, length) in log_extents(disk, log_id)[-rng.randint(2, 3) :]:
        at = offset + rng.randrange(HEADER_BYTES, min(length, SECTOR_BYTES // 4))
        planted.append(disk.plant(name, at, bytes([disk.look(name, at, 1)[0] ^ 1])))
    return planted


def lose_write(
    disk: VirtualDisk, rng: random.Random, pending: Sequence[Pending], name: str
) -> Callable[[], list[Damage]] | None:
    """Of what is about to be synced some sectors will keep what they held; done after the sync."""
    sectors = _sectors(pending)
    if not sectors:
        return None
    lost = rng.sample(sectors, rng.randint(1, len(sectors)))
    old = {offset: disk.look_stable(name, offset, SECTOR_BYTES) for offset in lost}
    return lambda: [
        damage for offset, held in old.items() for damage in _plant(disk, name, offset, held)
    ]


def misdirect_write(
    disk: VirtualDisk, rng: random.Random, pending: Sequence[Pending], name: str
) -> Callable[[], list[Damage]] | None:
    """What is about to be synced will land elsewhere, perhaps in another file of the member."""
    keeps_old = lose_write(disk, rng, pending, name)
    written = [data for _, data in pending if data]
    if keeps_old is None or not written:
        return None
    data = rng.choice(written)[:SECTOR_BYTES]
    target = name if rng.random() < 0.5 else rng.choice(disk.names())
    room = max(disk.size(target) // SECTOR_BYTES, 1)
    offset = rng.randrange(min(room, 64)) * SECTOR_BYTES

    def land() -> list[Damage]:
        return [*keeps_old(), *_plant(disk, target, offset, data)]

    return land


def log_extents(disk: VirtualDisk, log_id: int) -> list[tuple[str, Extent]]:
    """Where the blocks of the log lie, as their headers say: file, offset and length."""
    found: list[tuple[str, Extent]] = []
    for start in segment_starts(disk):
        name, lsn = segment_name(start), start
        file = disk.open(name)
        while (heading := read_heading(file, start=start, lsn=lsn, log_id=log_id)) is not None:
            if heading.end - start > disk.size(name) or heading.end - lsn < HEADER_BYTES:
                break
            found.append((name, (lsn - start, heading.end - lsn)))
            lsn = Lsn(heading.end)
    return found


def _place(disk: VirtualDisk, rng: random.Random, log_id: int) -> tuple[str, Extent]:
    blocks = log_extents(disk, log_id)
    if blocks and rng.random() < LOG_SHARE:
        return rng.choice(blocks[-TAIL_BLOCKS:] if rng.random() < TAIL_SHARE else blocks)
    names = [name for name in PLACES if disk.exists(name) and disk.size(name)]
    name = rng.choices(names, [PLACES[each] for each in names])[0]
    extents = disk.open(name).data_extents() or [(0, min(disk.size(name), PAGE_BYTES))]
    start, end = rng.choice(extents)
    return name, (start, max(end - start, 1))


def _sectors(pending: Sequence[Pending]) -> list[int]:
    """The offsets of the sectors that are written."""
    return sorted(
        {
            sector * SECTOR_BYTES
            for offset, data in pending
            if data
            for sector in range(offset // SECTOR_BYTES, -(-(offset + len(data)) // SECTOR_BYTES))
        }
    )


def _plant(disk: VirtualDisk, name: str, offset: int, bad: bytes) -> list[Damage]:
    """Nothing if nothing changes by it."""
    if not disk.exists(name):
        return []
    bad = bad[: max(disk.size(name) - offset, 0)]
    if disk.look(name, offset, len(bad)) == bad:
        return []
    return [disk.plant(name, offset, bad)]
