"""The disk image lags behind memory; image and redo log together never do (section 4.5).

A checkpoint saves the pages written since the last one, in place and in small steps, while the
memory node goes on executing.  It begins at an LSN, the *processed-pointer*, with what the
participant knew there; it counts only once every page is stable and the sealed file ``checkpoint``
names the new processed-pointer.  Until then the old one rules, and the log since it is kept.

Why a crash in the middle does no harm.  Let P be the processed-pointer that rules.  Every byte that
a running checkpoint can change in the image was written by a record after P: it saves pages dirty
since P, and the bytes of such a page that no record after P has written are in the image already.
Before any page is saved the caller has synced the log up to all that is in memory.  So whichever
mixture of old and new sectors a crash leaves, replay from P overwrites every byte in which they can
differ, in log order, and ends with the right values: records carry values, not changes.

Every page has a checksum.  A crash may leave a page and its checksum apart, but again only for
pages that replay writes, and only while a checkpoint was saving pages, which the log's mark tells
(``synced_mark``).  Any other page that fails its checksum has rotted on the disk; ``confirm`` then
refuses to serve it.

::

    image        the address space, page after page; a hole was never written
    image.crc32  4 bytes per page, little-endian: CRC-32 of the page XOR CRC-32 of a page of zeros,
                 so that a hole in either file goes with a hole in the other
    checkpoint   sealed file, magic "SNCP": MessagePack array of identity, capacity in bytes,
                 processed-pointer, number of the last record before it, lives of the log up to
                 there, ParticipantState
"""

import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import msgspec

from sinfonia.errors import DamagedData, StorageError, SyncFailed
from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.records import ParticipantState
from sinfonia.protocol.replication.messages import Life
from sinfonia.storage.address_space import PAGE_BYTES, PAGE_SHIFT, AddressSpace
from sinfonia.storage.files import BackgroundJob, File, Files
from sinfonia.storage.log_blocks import Lsn
from sinfonia.storage.sealed_file import read_sealed, write_sealed

IMAGE_FILE = "image"
CHECKSUM_FILE = "image.crc32"
CHECKPOINT_FILE = "checkpoint"

CHECKPOINT_FORMAT_VERSION = 2

_MAGIC = b"SNCP"
_ZERO_PAGE_CRC = zlib.crc32(bytes(PAGE_BYTES))
_CHECKSUM_BYTES = 4

# How much of the image is read at a time.
_CHUNK_PAGES = 256

# Pages written but not synced pile up in the kernel and then hold up the log's syncs.
_UNSYNCED_BYTES_MAX = 8 * 1024 * 1024

# Pages named in an error message.
_PAGES_NAMED_MAX = 5


class Checkpoint(msgspec.Struct, array_like=True, frozen=True):
    """What rules: the image holds at least everything up to the record ``seq``.

    ``state`` is as of ``seq``; replay begins with the record after it, in the block at
    ``processed``.  ``history`` are the lives of the log as of ``seq``.
    """

    identity: str
    capacity: int
    processed: Lsn
    seq: Seq
    history: list[Life]
    state: ParticipantState


def read_checkpoint(files: Files, *, identity: str, capacity: int) -> Checkpoint | None:
    """The checkpoint that rules, or None if there never was one.

    Raises StorageError if it is damaged or another memory node's.
    """
    payload = read_sealed(files, CHECKPOINT_FILE, magic=_MAGIC, version=CHECKPOINT_FORMAT_VERSION)
    if payload is None:
        return None
    checkpoint = msgspec.msgpack.decode(payload, type=Checkpoint)
    if (checkpoint.identity, checkpoint.capacity) != (identity, capacity):
        raise StorageError(
            f"file {CHECKPOINT_FILE} belongs to another memory node; put this one's files back"
        )
    return checkpoint


def write_checkpoint(files: Files, encoded: bytes) -> None:
    """Let an encoded ``Checkpoint`` rule from now on."""
    write_sealed(
        files, CHECKPOINT_FILE, magic=_MAGIC, version=CHECKPOINT_FORMAT_VERSION, payload=encoded
    )


class DiskImage:
    """The image of one memory node's address space; checkpoints bring it up to date."""

    def __init__(
        self, files: Files, *, identity: str, capacity: int, image: File, checksums: File
    ) -> None:
        self.files = files
        self.identity = identity
        self.capacity = capacity
        self.image = image
        self.checksums = checksums
        self._suspects: set[int] = set()
        self._job: BackgroundJob | None = None

    @classmethod
    def create(cls, files: Files, *, identity: str, capacity: int) -> Self:
        """Make an empty image.  The first checkpoint makes it count."""
        image = files.open(IMAGE_FILE, create=True)
        checksums = files.open(CHECKSUM_FILE, create=True)
        if image.data_extents() or checksums.data_extents():
            image.close()
            checksums.close()
            raise DamagedData(
                f"there is an {IMAGE_FILE} but no {CHECKPOINT_FILE}: files are missing from the "
                "data directory; put them back, or restore it from a backup"
            )
        image.truncate(-(-capacity // PAGE_BYTES) * PAGE_BYTES)
        image.sync()
        checksums.sync()
        return cls(files, identity=identity, capacity=capacity, image=image, checksums=checksums)

    @classmethod
    def open(cls, files: Files, *, identity: str, capacity: int) -> Self:
        """Open the image that a checkpoint speaks of."""
        for name in (IMAGE_FILE, CHECKSUM_FILE):
            if not files.exists(name):
                raise DamagedData(
                    f"file {name} is missing from the data directory; put it back, or restore "
                    "this memory node from a backup"
                )
        image, checksums = files.open(IMAGE_FILE), files.open(CHECKSUM_FILE)
        return cls(files, identity=identity, capacity=capacity, image=image, checksums=checksums)

    def load_into(self, space: AddressSpace) -> None:
        """Fill ``space``, which must be empty, reading only what was ever written."""
        extents = [
            (start >> PAGE_SHIFT, -(-end // PAGE_BYTES)) for start, end in self.image.data_extents()
        ]
        for first, pages in _chunks(extents):
            offset = first * PAGE_BYTES
            data = self.image.read_at(offset, pages * PAGE_BYTES).ljust(pages * PAGE_BYTES, b"\0")
            space.load(offset, data)
            expected = self._read_checksums(first, pages)
            found = _checksums(data)
            self._suspects.update(first + i for i in range(pages) if expected[i] != found[i])
        self._suspects.update(self._vanished(extents))

    def confirm(self, replayed: frozenset[int], *, was_saving: bool = True) -> None:
        """After replay: every page is right that was loaded.

        ``replayed`` are the pages that replay has written.  ``was_saving``: a checkpoint was
        writing pages when the memory node stopped, so that these may be torn.  Raises DamagedData.
        """
        rotten = sorted(self._suspects - replayed if was_saving else self._suspects)
        if rotten:
            named = ", ".join(str(page * PAGE_BYTES) for page in rotten[:_PAGES_NAMED_MAX])
            raise DamagedData(
                f"{len(rotten)} pages of file {IMAGE_FILE} fail their checksum, at byte {named}"
                f"{', ...' if len(rotten) > _PAGES_NAMED_MAX else ''}: the disk has damaged them; "
                "restore this memory node from a backup or a replica"
            )
        self._suspects.clear()

    def used_pages(self, pages_max: int) -> Iterator[tuple[int, int]]:
        """The pages that were ever saved, as (first, count), at most ``pages_max`` at a time."""
        extents = [
            *((a // PAGE_BYTES, -(-b // PAGE_BYTES)) for a, b in self.image.data_extents()),
            *(
                (a // _CHECKSUM_BYTES, -(-b // _CHECKSUM_BYTES))
                for a, b in self.checksums.data_extents()
            ),
        ]
        done = 0
        for start, end in sorted(extents):
            for first in range(max(start, done), end, pages_max):
                yield first, min(pages_max, end - first)
            done = max(done, end)

    def rotten_pages(self, first: int, pages: int) -> list[int]:
        """Those of ``pages`` pages that fail their checksum.  Raises StorageError."""
        try:
            length = pages * PAGE_BYTES
            found = _checksums(self.image.read_at(first * PAGE_BYTES, length).ljust(length, b"\0"))
            expected = self._read_checksums(first, pages)
        except OSError as error:
            raise StorageError(
                f"cannot read file {IMAGE_FILE}: {error.strerror}; repair the disk, then start "
                "this memory node again"
            ) from error
        return [first + i for i in range(pages) if expected[i] != found[i]]

    def begin_checkpoint(
        self,
        dirty: set[int],
        state: ParticipantState,
        *,
        lsn: Lsn,
        seq: Seq,
        history: Sequence[Life],
    ) -> "RunningCheckpoint":
        """Begin to save the pages in ``dirty``: all those written since the last one began.

        ``dirty`` belongs to the checkpoint from now on.  ``state`` and memory are what the records
        up to ``seq`` led to, all of them stable; the record after it lies, or will lie, in the
        block at ``lsn``.
        """
        checkpoint = Checkpoint(self.identity, self.capacity, lsn, seq, list(history), state)
        return RunningCheckpoint(self, dirty, lsn, msgspec.msgpack.encode(checkpoint))

    def in_background(self, work: Callable[[], None]) -> BackgroundJob:
        """Do ``work`` on the files of this image beside the caller."""
        self._job = self.files.in_background(work)
        return self._job

    def close(self) -> None:
        """Close the files; a checkpoint that is running may never rule."""
        if self._job is not None:
            self._job.abandon()
        self.image.close()
        self.checksums.close()

    def _read_checksums(self, first: int, pages: int) -> tuple[int, ...]:
        length = pages * _CHECKSUM_BYTES
        data = self.checksums.read_at(first * _CHECKSUM_BYTES, length).ljust(length, b"\0")
        return struct.unpack(f"<{pages}I", data)

    def _vanished(self, extents: list[tuple[int, int]]) -> Iterator[int]:
        """The pages that have a checksum but lie in a hole of the image."""
        starts = [first for first, _ in extents]
        for start, end in self.checksums.data_extents():
            first, behind = start // _CHECKSUM_BYTES, -(-end // _CHECKSUM_BYTES)
            for page, checksum in enumerate(self._read_checksums(first, behind - first), first):
                if checksum:
                    extent = bisect_right(starts, page) - 1
                    if extent < 0 or extents[extent][1] <= page:
                        yield page


class RunningCheckpoint:
    """A checkpoint between its begin and the moment from which it rules.

    ``step`` until it returns True.  After an exception the memory node must stop: the checkpoint
    before still rules, and the next start repairs the image from the log.
    """

    def __init__(self, disk: DiskImage, dirty: set[int], processed: Lsn, encoded: bytes) -> None:
        self.processed = processed
        self._disk = disk
        self._encoded = encoded
        self._dirty = dirty
        self._unsynced_bytes = 0
        self._job: BackgroundJob | None = None
        self._finishing = False

    @property
    def waiting(self) -> bool:
        """Whether the last ``step`` left nothing to do but to wait for the disk."""
        return self._job is not None

    def will_write(self, page: int) -> bool:
        """Whether ``page`` is still to be saved."""
        return page in self._dirty

    def step(self, space: AddressSpace, bytes_max: int) -> bool:
        """Write at most ``bytes_max`` bytes, but at least a page; True once the checkpoint rules.

        The redo log must be stable up to everything that is in memory.  Raises SyncFailed.
        """
        try:
            if self._job is not None:
                if not self._job.done():
                    return False
                if self._finishing:
                    return True
                self._job = None
                self._unsynced_bytes = 0
            self._write_pages(space, bytes_max)
            if not self._dirty:
                self._finishing = True
                self._job = self._disk.in_background(self._finish)
            elif self._unsynced_bytes >= _UNSYNCED_BYTES_MAX:
                self._job = self._disk.in_background(self._disk.image.sync)
        except OSError as error:
            raise SyncFailed(
                f"cannot write a checkpoint: {error.strerror}; this memory node has stopped "
                "serving; repair the disk or free space, then start it again"
            ) from error
        return False

    def _write_pages(self, space: AddressSpace, bytes_max: int) -> None:
        # Sorting all pages at once would stall a memory node that has many.  A set gives up
        # neighbouring integers nearly in order, so the pieces are mostly sequential anyway.
        count = min(max(bytes_max >> PAGE_SHIFT, 1), len(self._dirty))
        for first, pages in _runs(sorted(self._dirty.pop() for _ in range(count))):
            offset = first * PAGE_BYTES
            # A copy: image and checksum must be of the same bytes, and memory may not be pinned.
            data = space.memory[offset : offset + pages * PAGE_BYTES]
            self._disk.image.write_at(offset, data)
            self._disk.checksums.write_at(
                first * _CHECKSUM_BYTES, struct.pack(f"<{pages}I", *_checksums(data))
            )
            self._unsynced_bytes += len(data)

    def _finish(self) -> None:
        self._disk.image.sync()
        self._disk.checksums.sync()
        write_checkpoint(self._disk.files, self._encoded)


def _checksums(data: bytes) -> list[int]:
    """The checksum of each page in ``data``."""
    view = memoryview(data)
    return [
        zlib.crc32(view[start : start + PAGE_BYTES]) ^ _ZERO_PAGE_CRC
        for start in range(0, len(data), PAGE_BYTES)
    ]


def _runs(pages: list[int]) -> list[tuple[int, int]]:
    """Neighbouring pages together, as (first, count)."""
    runs: list[tuple[int, int]] = []
    for page in pages:
        if runs and sum(runs[-1]) == page:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((page, 1))
    return runs


def _chunks(extents: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The pages of ``extents`` as (first, count), few enough at a time to be read at once."""
    for start, end in extents:
        for first in range(start, end, _CHUNK_PAGES):
            yield first, min(_CHUNK_PAGES, end - first)
