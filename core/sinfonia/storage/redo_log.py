"""Nothing is acknowledged before it is in the redo log, on stable storage (Figure 5).

``append`` only collects; ``sync`` writes everything collected as one block (group commit) and
returns when the disk has it.  Blocks follow one another in an endless log, of which segment files
hold the part that is still needed; an LSN is a position in it.

Three rules make a crash harmless:

- A block is written only after the one before it was synced.  A block that cannot be read is
  therefore a torn tail, never acknowledged, if no later block is whole; it is cut off.  Otherwise
  it is corruption, and the memory node must not serve.
- After a write or sync that failed, the log does nothing more.  The kernel may show what it could
  not write, so the last block is written again when the log is next opened, before it is believed.
- A segment is allocated in advance, and its name synced, before its first block is written.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from typing import Self

import msgspec

from sinfonia.errors import CorruptLog, SyncFailed
from sinfonia.protocol.records import Record
from sinfonia.storage.files import SECTOR_BYTES, File, Files
from sinfonia.storage.log_blocks import (
    BLOCK_BYTES_MAX,
    HEADER_BYTES,
    Block,
    Lsn,
    log_id_of,
    read_block,
    refuse_corruption,
    seal_block,
    segment_name,
    segment_start,
)

# The step in which the log is allocated and given back.  Allocated space made the fdatasync of
# small appends a third faster, and a full disk shows at the start of a segment, not within.
SEGMENT_BYTES = 64 * 1024 * 1024

_decoder = msgspec.msgpack.Decoder(list[Record])


class RedoLog:
    """The redo log of one memory node, open for appending.

    ``append`` takes a record; it is the bound method of a list, because it is called for every
    minitransaction.
    """

    def __init__(
        self, files: Files, *, log_id: int, segment_bytes: int, stable: Lsn, starts: list[Lsn]
    ) -> None:
        """Use ``open``; here ``stable`` must be the end of the last block."""
        self._files = files
        self._log_id = log_id
        self._segment_bytes = segment_bytes
        self._starts = starts
        self._file = files.open(segment_name(starts[-1]))
        self._records: list[Record] = []
        self._block = bytearray()
        self._encode_into = msgspec.msgpack.Encoder().encode_into
        self._failure = ""
        self.stable = stable
        self.append: Callable[[Record], None] = self._records.append

    @classmethod
    def open(
        cls,
        files: Files,
        *,
        identity: str,
        processed: Lsn | None,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> Self:
        """Open the log, cutting a torn tail.

        ``processed`` is the checkpoint's processed-pointer; None says that there has never been a
        checkpoint, so that nothing can have been logged.  Raises CorruptLog if anything since
        ``processed`` is damaged or missing, StorageError if the files are another memory node's.
        """
        log_id = log_id_of(identity)
        starts = _segment_starts(files)
        if not starts and processed is None:
            _create_segment(files, Lsn(0), segment_bytes).close()
            starts = [Lsn(0)]
        tail = deque(_blocks(files, log_id=log_id, processed=processed or Lsn(0)), maxlen=1)
        last = tail[0] if tail else None
        if last is not None and processed is None:
            raise CorruptLog(
                "there is a redo log but no checkpoint: files are missing from the data "
                "directory; put them back, or restore it from a backup"
            )
        stable = starts[-1] if last is None else last.end
        _make_tail_stable(files, starts[-1], last, stable, segment_bytes)
        return cls(files, log_id=log_id, segment_bytes=segment_bytes, stable=stable, starts=starts)

    @property
    def dirty(self) -> bool:
        """Whether anything appended is not stable yet."""
        return bool(self._records)

    @property
    def start(self) -> Lsn:
        """The oldest position that is still in the log."""
        return self._starts[0]

    def sync(self) -> None:
        """Make everything appended stable.

        Raises SyncFailed if the disk fails; from then on the log does nothing else.
        """
        if self._failure:
            raise SyncFailed(self._failure)
        if not self._records:
            return
        try:
            self._write(self._records)
        except OSError as error:
            self._failure = (
                f"cannot write {segment_name(self._starts[-1])}: {error.strerror}; this memory "
                "node has stopped serving; repair the disk or free space, then start it again"
            )
            raise SyncFailed(self._failure) from error
        self._records.clear()

    def replay(self, processed: Lsn) -> Iterator[tuple[Lsn, Record]]:
        """The stable records since ``processed``, each with the LSN at which its block ends."""
        return read_records(self._files, log_id=self._log_id, processed=processed)

    def truncate_before(self, processed: Lsn) -> None:
        """Delete the segments that hold nothing since ``processed``.

        The checkpoint that says ``processed`` must be stable.  Raises SyncFailed.
        """
        if self._failure:
            raise SyncFailed(self._failure)
        try:
            while len(self._starts) > 1 and self._starts[1] <= processed:
                self._files.remove(segment_name(self._starts[0]))
                del self._starts[0]
        except OSError as error:
            self._failure = f"cannot delete {segment_name(self._starts[0])}: {error.strerror}"
            raise SyncFailed(self._failure) from error

    def close(self) -> None:
        """Close the files; what was not synced is lost."""
        self._file.close()

    def check_invariants(self) -> None:
        assert self._starts == sorted(set(self._starts))
        assert self._starts[-1] <= self.stable
        assert self.stable % SECTOR_BYTES == 0

    def _write(self, records: list[Record]) -> None:
        block = self._block
        self._encode_into(records, block, HEADER_BYTES)
        if len(block) > BLOCK_BYTES_MAX:
            assert len(records) > 1, "a record is larger than a minitransaction can be"
            middle = len(records) // 2
            self._write(records[:middle])
            self._write(records[middle:])
            return
        seal_block(block, log_id=self._log_id, lsn=self.stable)
        used = self.stable - self._starts[-1]
        if used and used + len(block) > self._segment_bytes:
            self._rotate(used)
        self._file.write_at(self.stable - self._starts[-1], block)
        self._file.sync()
        self.stable = Lsn(self.stable + len(block))

    def _rotate(self, used: int) -> None:
        # Only gives space back: what lies behind the last block is zeros.
        self._file.truncate(used)
        self._file.close()
        self._file = _create_segment(self._files, self.stable, self._segment_bytes)
        self._starts.append(self.stable)


def read_records(files: Files, *, log_id: int, processed: Lsn) -> Iterator[tuple[Lsn, Record]]:
    """The records of a log since ``processed``, each with the LSN at which its block ends.

    Changes nothing: it also serves to inspect a log that nobody has open.
    """
    for block in _blocks(files, log_id=log_id, processed=processed):
        if block.end <= processed:
            continue
        try:
            records = _decoder.decode(block.payload)
        except msgspec.DecodeError as error:
            raise CorruptLog(
                f"the redo log at LSN {block.lsn} holds records that this program does not know "
                f"({error}); use the version of the program that wrote it"
            ) from error
        for record in records:
            yield block.end, record


def oldest_lsn(files: Files) -> Lsn:
    """Where the oldest segment begins."""
    starts = _segment_starts(files)
    if not starts:
        raise CorruptLog("there is no redo log in this data directory")
    return starts[0]


def _segment_starts(files: Files) -> list[Lsn]:
    return sorted(start for name in files.names() if (start := segment_start(name)) is not None)


def _create_segment(files: Files, start: Lsn, segment_bytes: int) -> File:
    file = files.open(segment_name(start), create=True)
    file.allocate(segment_bytes)
    file.sync()
    files.sync_directory()
    return file


def _make_tail_stable(
    files: Files, start: Lsn, last: Block | None, stable: Lsn, segment_bytes: int
) -> None:
    """Cut off what follows ``stable``, and write ``last`` again (see the rules above)."""
    file = files.open(segment_name(start))
    try:
        file.truncate(stable - start)
        file.allocate(max(segment_bytes, stable - start))
        if last is not None and last.lsn >= start:
            offset, length = last.lsn - start, last.end - last.lsn
            file.write_at(offset, file.read_at(offset, length).ljust(length, b"\0"))
        file.sync()
    finally:
        file.close()
    files.sync_directory()


def _blocks(files: Files, *, log_id: int, processed: Lsn) -> Iterator[Block]:
    """The blocks of the segments that hold everything since ``processed``, checked."""
    starts = _segment_starts(files)
    # Earlier segments are what a truncation left when it was interrupted.
    starts = starts[max(bisect_right(starts, processed) - 1, 0) :]
    if not starts or starts[0] > processed:
        raise CorruptLog(_lost(f"no segment holds LSN {processed}"))
    lsn = starts[0]
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        file = files.open(segment_name(start))
        try:
            while (block := read_block(file, start=start, lsn=lsn, log_id=log_id)) is not None:
                yield block
                lsn = block.end
            refuse_corruption(file, start=start, lsn=lsn, log_id=log_id)
        finally:
            file.close()
        expected = max(processed, lsn) if following is None else following
        if lsn != expected:
            raise CorruptLog(
                _lost(
                    f"{segment_name(start)} ends or is damaged at byte {lsn - start}, and "
                    f"{segment_name(lsn)} is not there, but the log went on to LSN {expected}"
                )
            )


def _lost(what: str) -> str:
    return (
        f"part of the redo log is missing: {what}; acknowledged writes are lost: put the files "
        "back, or restore this memory node from a backup or a replica"
    )
