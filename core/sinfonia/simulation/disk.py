"""A disk in memory that does what real disks do when the power fails.

What was synced survives a crash.  Of what was written since, each sector survives in any of the
versions it had, whatever the order of writing; each change of a name happened or not; the size of a
file may be that of any moment in between.  A sync that fails leaves the worst case that kernels
have: the writes stay visible, but nothing will ever bring them to the disk.

What a sync has confirmed can be damaged all the same, by ``plant``, ``roll_back`` and
``spoil_sync``; ``disk_faults`` does so.
"""

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from sinfonia.storage.files import LOG_PREFIX, SECTOR_BYTES, Buffer

# The granularity in which data_extents tells data from holes, as on real file systems.
_EXTENT_BYTES = 4096
_ZEROS = bytes(_EXTENT_BYTES)


# A change of a file that was not synced: offset and data, or a size and None.
Pending = tuple[int, bytes | None]


class PowerLost(Exception):
    """The power failed at the operation that ``lose_power_at`` chose; ``crash`` comes next."""


class _Inode:
    """A file: ``content`` is what a reader sees, ``stable`` what a crash leaves at least.

    Both may be shorter than the file; the rest is zeros.  A pending change is (offset, data) for a
    write and (size, None) for a change of size.
    """

    __slots__ = ("allocated", "content", "pending", "size", "stable", "stable_size")

    def __init__(self) -> None:
        self.content = bytearray()
        self.size = 0
        self.allocated = 0
        self.stable = bytearray()
        self.stable_size = 0
        self.pending: list[Pending] = []

    def sync(self) -> None:
        for offset, data in self.pending:
            if data is None:
                self._resize_stable(offset)
            else:
                self._write_stable(offset, data)
        self.pending.clear()

    def crash(self, rng: Random) -> None:
        """Keep of the pending changes what happens to have reached the disk."""
        # How many of the pending changes each sector has seen; None stands for the size.
        seen: dict[int | None, int] = {}
        changes = len(self.pending)
        for index, (offset, data) in enumerate(self.pending):
            if data is None:
                if index < seen.setdefault(None, rng.randint(0, changes)):
                    self._resize_stable(offset)
                continue
            end = offset + len(data)
            for sector in range(offset // SECTOR_BYTES, -(-end // SECTOR_BYTES)):
                if index < seen.setdefault(sector, rng.randint(0, changes)):
                    start = max(sector * SECTOR_BYTES, offset)
                    stop = min((sector + 1) * SECTOR_BYTES, end)
                    self._write_stable(start, data[start - offset : stop - offset])
        self.pending.clear()

    def forget_cache(self) -> None:
        """See only what is stable."""
        self.content = bytearray(self.stable)
        self.size = self.stable_size

    def write(self, offset: int, data: bytes) -> None:
        _put(self.content, offset, data)
        self.size = max(self.size, offset + len(data))
        self.pending.append((offset, data))

    def resize(self, size: int) -> None:
        del self.content[size:]
        self.size = size
        self.allocated = min(self.allocated, size)
        self.pending.append((size, None))

    def put(self, offset: int, data: bytes) -> None:
        """On the disk as in the cache there is ``data`` now; the size stays as it was."""
        for content, size in ((self.content, self.size), (self.stable, self.stable_size)):
            _put(content, offset, data[: max(size - offset, 0)])

    def _write_stable(self, offset: int, data: bytes) -> None:
        _put(self.stable, offset, data)
        self.stable_size = max(self.stable_size, offset + len(data))

    def _resize_stable(self, size: int) -> None:
        del self.stable[size:]
        self.stable_size = size


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of one file that are no longer what was synced."""

    offset: int
    good: bytes
    bad: bytes
    inode: _Inode

    @property
    def remains(self) -> bool:
        """Whether nothing has been written there since."""
        return _cut(self.inode.content, self.offset, len(self.bad)) == self.bad

    def undo(self) -> None:
        """What was synced is there again."""
        self.inode.put(self.offset, self.good)

    def redo(self) -> None:
        """It is not."""
        self.inode.put(self.offset, self.bad)


SpoilSync = Callable[[str, Sequence[Pending]], Callable[[], None] | None]

# All that a disk held at one moment: the content of each file, and how long it is.
Snapshot = Mapping[str, tuple[bytes, int]]


class VirtualFile:
    """A file of a ``VirtualDisk``, open."""

    __slots__ = ("_disk", "_inode", "_needs_no_sync")

    def __init__(self, disk: "VirtualDisk", inode: _Inode, *, needs_no_sync: bool) -> None:
        self._disk = disk
        self._inode = inode
        self._needs_no_sync = needs_no_sync

    def read_at(self, offset: int, length: int) -> bytes:
        inode = self._inode
        length = max(0, min(length, inode.size - offset))
        return bytes(inode.content[offset : offset + length]).ljust(length, b"\0")

    def write_at(self, offset: int, data: Buffer) -> None:
        self._disk.operate()
        inode = self._inode
        if self._disk.full and offset + len(data) > max(inode.allocated, len(inode.content)):
            raise _os_error(errno.ENOSPC)
        inode.write(offset, bytes(data))
        self._changed()

    def sync(self) -> None:
        self._disk.operate()
        if self._needs_no_sync:
            return
        self._disk.take_time()
        if self._disk.fail_sync:
            self._disk.fail_sync = False
            self._inode.crash(self._disk.rng)
            raise _os_error(errno.EIO)
        self._disk.sync_inode(self._inode)

    def size(self) -> int:
        return self._inode.size

    def truncate(self, size: int) -> None:
        self._disk.operate()
        self._inode.resize(size)
        self._changed()

    def allocate(self, size: int) -> None:
        self._disk.operate()
        inode = self._inode
        if size > inode.allocated:
            if self._disk.full:
                raise _os_error(errno.ENOSPC)
            if size > inode.size:
                inode.resize(size)
            inode.allocated = size
            self._changed()

    def data_extents(self) -> list[tuple[int, int]]:
        content, size = self._inode.content, self._inode.size
        extents: list[tuple[int, int]] = []
        for start in range(0, len(content), _EXTENT_BYTES):
            # A page of zeros counts as a hole, which is what a caller may never rely on.
            page = content[start : start + _EXTENT_BYTES]
            if page != _ZEROS[: len(page)]:
                end = min(start + _EXTENT_BYTES, size)
                if extents and extents[-1][1] == start:
                    extents[-1] = (extents[-1][0], end)
                else:
                    extents.append((start, end))
        return extents

    def close(self) -> None:
        pass

    def _changed(self) -> None:
        if self._needs_no_sync:
            self._inode.sync()


class _LazyJob:
    """Background work that takes place when its caller asks whether it is done."""

    __slots__ = ("_done", "_work")

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._done = False

    def done(self) -> bool:
        if not self._done:
            self._work()
            self._done = True
        return True

    def abandon(self) -> None:
        self._done = True


class VirtualDisk:
    """``Files`` in memory, with faults.  All chance comes from ``rng``.

    Set ``fail_sync`` to let the next sync of a file fail with EIO, ``full`` to let everything that
    needs more space fail with ENOSPC, ``lose_power_at`` to raise PowerLost instead of carrying out
    the operation of that number (``operations`` counts them).

    Set ``lying`` to let syncs confirm what they do not do: when the power fails, all since then is
    gone if it says so, else it had reached the disk.  Set ``spoil_sync`` to be called before each
    sync with the name of the file and what is to be synced of it; what it returns is called after.

    ``log_needs_no_sync``: the files of the redo log are on a device that has everything at once.
    """

    def __init__(self, rng: Random, *, log_needs_no_sync: bool = False) -> None:
        self.rng = rng
        self.log_needs_no_sync = log_needs_no_sync
        self.fail_sync = False
        self.full = False
        self.lying: Callable[[], bool] | None = None
        self.spoil_sync: SpoilSync | None = None
        self.lose_power_at: int | None = None
        self.operations = 0
        self.sync_s = 0.0  # how long a sync takes
        self.stalled_s = 0.0  # how long syncs took since the member last stood still for them
        self._names: dict[str, _Inode] = {}
        self._stable_names: dict[str, _Inode] = {}
        # Each an atomic change: what each name means afterwards, None for nothing.
        self._pending_names: list[dict[str, _Inode | None]] = []

    def crash(self) -> None:
        """The power fails and comes back; files that were open must be opened anew."""
        if self.lying is not None and self.lying():
            self.roll_back(self.snapshot())
        elif self.lying is not None:
            self.write_back()
        for change in self._pending_names:
            if self.rng.random() < 0.5:
                _rename(self._stable_names, change)
        self._pending_names.clear()
        survivors: dict[str, _Inode] = {}
        for name in sorted(self._stable_names):
            inode = self._stable_names[name]
            inode.crash(self.rng)
            inode.forget_cache()
            survivors[name] = inode
        self._stable_names = survivors
        self._names = dict(survivors)
        self.fail_sync = False
        self.lying = None
        self.lose_power_at = None

    def corrupt(self, name: str, offset: int) -> None:
        """Flip a bit of the byte at ``offset``, on the disk as in the cache."""
        self.plant(name, offset, bytes([self.look(name, offset, 1)[0] ^ 1]))

    def look(self, name: str, offset: int, length: int) -> bytes:
        """What a reader sees there; zeros beyond the end."""
        return _cut(self._names[name].content, offset, length)

    def look_stable(self, name: str, offset: int, length: int) -> bytes:
        """What was synced there."""
        return _cut(self._names[name].stable, offset, length)

    def size(self, name: str) -> int:
        """How long the file is."""
        return self._names[name].size

    def plant(self, name: str, offset: int, bad: bytes) -> Damage:
        """Put ``bad`` where something else was synced, on the disk as in the cache."""
        inode = self._names[name]
        damage = Damage(offset, _cut(inode.content, offset, len(bad)), bad, inode)
        inode.put(offset, bad)
        return damage

    def name_of(self, damage: Damage) -> str:
        """The file in which ``damage`` still is; empty if it is gone."""
        if not damage.remains:
            return ""
        return next((name for name, its in self._names.items() if its is damage.inode), "")

    def write_back(self) -> None:
        """Everything that was written reaches the disk, as it may do unasked."""
        for inode in self._names.values():
            inode.sync()
        self._stable_names = dict(self._names)
        self._pending_names.clear()
        self.lying = None

    def snapshot(self) -> Snapshot:
        """What would be left if the power failed now and nothing more were written."""
        return {
            name: (bytes(inode.stable), inode.stable_size)
            for name, inode in self._stable_names.items()
        }

    def snapshot_written(self) -> Snapshot:
        """What would be left if all that was written reached the disk."""
        return {name: (bytes(its.content), its.size) for name, its in self._names.items()}

    def roll_back(self, snapshot: Snapshot) -> None:
        """Hold what ``snapshot`` held, and nothing else; no file may be open."""
        self._names.clear()
        for name, (content, size) in snapshot.items():
            inode = self._names[name] = _Inode()
            inode.content, inode.size = bytearray(content), size
            inode.stable, inode.stable_size = bytearray(content), size
        self._stable_names = dict(self._names)
        self._pending_names.clear()
        self.lying = None

    def sync_inode(self, inode: _Inode) -> None:
        """Bring a file to the disk, or do what a faulty disk does in place of that."""
        if self.lying is not None:
            return
        spoil, after = self.spoil_sync, None
        if spoil is not None:
            name = next((name for name, its in self._names.items() if its is inode), "")
            after = spoil(name, inode.pending)
        inode.sync()
        if after is not None:
            after()

    def operate(self) -> None:
        """Count an operation that changes the disk, or lose power instead."""
        if self.operations == self.lose_power_at:
            raise PowerLost
        self.operations += 1

    def take_time(self) -> None:
        """A sync takes as long as it does; the process that asked for it stands still meanwhile."""
        self.stalled_s += self.sync_s

    def open(self, name: str, *, create: bool = False) -> VirtualFile:
        inode = self._names.get(name)
        if inode is None:
            if not create:
                raise _os_error(errno.ENOENT, name)
            self.operate()
            if self.full:
                raise _os_error(errno.ENOSPC, name)
            inode = _Inode()
            self._change_names({name: inode})
        needs_no_sync = self.log_needs_no_sync and name.startswith(LOG_PREFIX)
        return VirtualFile(self, inode, needs_no_sync=needs_no_sync)

    def exists(self, name: str) -> bool:
        return name in self._names

    def names(self) -> list[str]:
        return sorted(self._names)

    def rename(self, old: str, new: str) -> None:
        self.operate()
        if old not in self._names:
            raise _os_error(errno.ENOENT, old)
        self._change_names({old: None, new: self._names[old]})

    def remove(self, name: str) -> None:
        self.operate()
        if name not in self._names:
            raise _os_error(errno.ENOENT, name)
        self._change_names({name: None})

    def sync_directory(self) -> None:
        self.operate()
        self.take_time()
        if self.lying is None:
            self._stable_names = dict(self._names)
            self._pending_names.clear()

    def in_background(self, work: Callable[[], None]) -> _LazyJob:
        return _LazyJob(work)

    def check_invariants(self) -> None:
        """What was synced is what is seen, where nothing is pending."""
        for inode in self._names.values():
            assert len(inode.content) <= inode.size
            assert len(inode.stable) <= inode.stable_size

    def _change_names(self, change: dict[str, _Inode | None]) -> None:
        _rename(self._names, change)
        self._pending_names.append(change)


def _rename(names: dict[str, _Inode], change: dict[str, _Inode | None]) -> None:
    for name, inode in change.items():
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


def _cut(content: bytearray, offset: int, length: int) -> bytes:
    return bytes(content[offset : offset + length]).ljust(length, b"\0")


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _os_error(number: int, name: str = "") -> OSError:
    return OSError(number, os.strerror(number), name)
