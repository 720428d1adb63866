"""How far the redo log was certainly synced, kept apart from the log, so that its loss shows.

The end of a log cannot vouch for itself: a last block that rotted away looks like one that was
never written.  So the file ``synced`` names an LSN up to which every block was stable once, and
whether a checkpoint was saving pages.  A process that ends in order says so in it, too: then the
log up to there is all that there ever was.  The mark lags behind the log; it is never ahead of it:

- it is raised only to what the log had synced before;
- it is lowered, stably, before the end of the log is cut off on purpose;
- before a checkpoint writes a page, it is raised to all that the page can show.

A log that ends before its mark, or a page that fails its checksum while no checkpoint was saving,
is therefore damage and no torn write.

Two slots of one sector each are written in turn, so that a torn write leaves the other one::

    offset  bytes  field
         0      4  magic "SNSM"
         4      2  format version
         6      2  flags: 1 while a checkpoint saves pages; 2 if the process has ended in order
         8      8  log id
        16      8  sequence number: the valid slot with the higher one counts
        24      8  LSN
        32      4  CRC-32 of bytes 0-31

All integers are little-endian.
"""

import struct
import zlib

from sinfonia.storage.files import SECTOR_BYTES, BackgroundJob, File, Files
from sinfonia.storage.log_blocks import Lsn

MARK_FILE = "synced"

_MAGIC = b"SNSM"
_FORMAT_VERSION = 1
_SLOT = struct.Struct("<4sHHQQQ")
_CRC = struct.Struct("<I")
_SLOTS = 2
_SAVING, _ENDED = 1, 2


class SyncedMark:
    """The mark of one redo log."""

    def __init__(self, files: Files, *, log_id: int) -> None:
        """Read the mark, or make one that says nothing.  Raises OSError."""
        self._files = files
        self._log_id = log_id
        self._number = 0
        self._job: BackgroundJob | None = None
        self._raising_to = Lsn(0)
        self.lsn = Lsn(0)  # what is on the disk
        self.saving = False
        self.ended = False
        existed = files.exists(MARK_FILE)
        self._file = files.open(MARK_FILE, create=True)
        if existed:
            self._read()
        else:
            self._file.allocate(_SLOTS * SECTOR_BYTES)
            self._file.sync()
            files.sync_directory()

    def raise_to(self, lsn: Lsn, *, saving: bool | None = None) -> None:
        """The log is stable up to ``lsn``: note it, stably.  Raises OSError.

        ``saving``: whether a checkpoint is writing pages from now on.
        """
        self._wait()
        saving = self.saving if saving is None else saving
        if lsn > self.lsn or saving != self.saving:
            self._write(max(lsn, self.lsn), saving=saving)

    def end(self, lsn: Lsn) -> None:
        """Nothing is logged after ``lsn`` before ``begin``: note it, stably.  Raises OSError."""
        self._wait()
        self._write(lsn, saving=self.saving, ended=True)

    def begin(self) -> None:
        """The log may grow from now on: whether it is complete is open again.  Raises OSError."""
        if self.ended:
            self._write(self.lsn, saving=self.saving)

    def raise_later(self, lsn: Lsn) -> None:
        """As ``raise_to``, beside the caller; nothing if that is still under way.

        Raises OSError if the disk refused the last one.
        """
        if self._job is not None:
            if not self._job.done():
                return
            self._job = None
        if lsn > self.lsn:
            self._job = self._files.in_background(lambda: self._write(lsn, saving=self.saving))

    def lower_to(self, lsn: Lsn) -> None:
        """The log will be cut off at ``lsn``: claim nothing beyond, stably.  Raises OSError."""
        self._wait()
        if lsn < self.lsn:
            # Both slots: one that is torn later may not bring the higher one back.
            for _ in range(_SLOTS):
                self._write(lsn, saving=self.saving)

    def close(self) -> None:
        """Close the file; a raise that is under way may be lost."""
        if self._job is not None:
            self._job.abandon()
            self._job = None
        self._file.close()

    def _wait(self) -> None:
        """Let no write of the background overtake the next one."""
        if self._job is not None:
            self._job.abandon()
            self._job = None

    def _write(self, lsn: Lsn, *, saving: bool, ended: bool = False) -> None:
        number = self._number + 1
        flags = _SAVING * saving | _ENDED * ended
        head = _SLOT.pack(_MAGIC, _FORMAT_VERSION, flags, self._log_id, number, lsn)
        slot = (head + _CRC.pack(zlib.crc32(head))).ljust(SECTOR_BYTES, b"\0")
        self._file.write_at(number % _SLOTS * SECTOR_BYTES, slot)
        self._file.sync()
        self._number, self.lsn, self.saving, self.ended = number, lsn, saving, ended

    def _read(self) -> None:
        # The order of slots does not matter: the higher number counts.
        for index in range(_SLOTS):
            self._read_slot(self._file, index * SECTOR_BYTES)

    def _read_slot(self, file: File, offset: int) -> None:
        data = file.read_at(offset, _SLOT.size + _CRC.size)
        if len(data) < _SLOT.size + _CRC.size:
            return
        magic, version, flags, log_id, number, lsn = _SLOT.unpack_from(data)
        (crc,) = _CRC.unpack_from(data, _SLOT.size)
        if crc != zlib.crc32(data[: _SLOT.size]):
            return
        # What is no mark of this log claims nothing: the log then speaks for itself alone.
        ours = (magic, version, log_id) == (_MAGIC, _FORMAT_VERSION, self._log_id)
        if ours and number > self._number:
            self._number, self.lsn = number, Lsn(lsn)
            self.saving, self.ended = bool(flags & _SAVING), bool(flags & _ENDED)


def forget_mark(files: Files) -> None:
    """Remove the mark: nothing that it speaks of is there any more.  Raises OSError."""
    if files.exists(MARK_FILE):
        files.remove(MARK_FILE)
