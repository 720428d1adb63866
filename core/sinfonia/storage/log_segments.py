"""Segment files hold the redo log end to end: each ends where the next one begins.

A segment's name is the LSN of its first byte.  What lies in it beyond the next one's beginning is
not part of the log: it was cut off.  A segment is allocated in advance, and its name synced, before
its first block is written.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import msgspec

from sinfonia.errors import CorruptLog, StorageError
from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.records import Record, decode_body
from sinfonia.storage.files import File, Files
from sinfonia.storage.log_blocks import (
    Block,
    Heading,
    Lsn,
    read_block,
    read_heading,
    refuse_corruption,
    segment_name,
    segment_start,
)
from sinfonia.storage.sealed_file import NEW_SUFFIX

# A segment under this name is not part of the log yet.
_NEW_SEGMENT = "log" + NEW_SUFFIX


class LoggedRecord(NamedTuple):
    """A record, and where it was found: ``lsn`` is where its block ends."""

    lsn: Lsn
    incarnation: int
    seq: Seq
    record: Record


def segment_starts(files: Files) -> list[Lsn]:
    """Where the segments begin, in order."""
    return sorted(start for name in files.names() if (start := segment_start(name)) is not None)


def create_segment(files: Files, start: Lsn, segment_bytes: int) -> File:
    """An empty segment, stably there."""
    file = files.open(segment_name(start), create=True)
    file.allocate(segment_bytes)
    file.sync()
    files.sync_directory()
    return file


def put_segment(files: Files, start: Lsn, segment_bytes: int, content: bytes) -> File:
    """A segment that begins with ``content``, stably there; it replaces one that begins there.

    It is there whole or not at all.
    """
    with ExitStack() as opened:
        file = files.open(_NEW_SEGMENT, create=True)
        opened.callback(file.close)
        file.truncate(0)
        file.allocate(max(segment_bytes, len(content)))
        file.write_at(0, content)
        file.sync()
        files.rename(_NEW_SEGMENT, segment_name(start))
        files.sync_directory()
        opened.pop_all()
    return file


def discard_new_segment(files: Files) -> None:
    """Remove what a crash in ``put_segment`` left: it is as large as a segment."""
    if files.exists(_NEW_SEGMENT):
        files.remove(_NEW_SEGMENT)


def make_tail_stable(
    files: Files, start: Lsn, last: Block | None, stable: Lsn, segment_bytes: int
) -> None:
    """Cut off what follows ``stable`` in the segment at ``start``, and write ``last`` again.

    After a sync that failed, the kernel may show what never reached the disk.
    """
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


def read_blocks(
    files: Files, *, log_id: int, starts: Sequence[Lsn], lsn: Lsn, end_min: Lsn
) -> Iterator[Block]:
    """The blocks from ``lsn`` on, where one begins, checked, to the torn tail.

    Raises CorruptLog if one is damaged or missing, or if the log ends before ``end_min``.
    """
    index = bisect_right(starts, lsn) - 1
    if index < 0:
        raise CorruptLog(_lost(f"no segment holds LSN {lsn}"))
    expected: Seq | None = None
    for start, following in zip(starts[index:], [*starts[index + 1 :], None], strict=True):
        file = files.open(segment_name(start))
        try:
            while following is None or lsn < following:
                block = read_block(file, start=start, lsn=lsn, log_id=log_id)
                if block is None:
                    refuse_corruption(file, start=start, lsn=lsn, log_id=log_id)
                    break
                if expected is not None and block.batch.first != expected:
                    raise CorruptLog(_lost(f"records from {expected} on are not at LSN {lsn}"))
                expected = block.batch.last + 1
                yield block
                lsn = block.end
        finally:
            file.close()
        required = max(end_min, lsn) if following is None else following
        if lsn != required:
            raise CorruptLog(
                _lost(
                    f"{segment_name(start)} ends or is damaged at byte {lsn - start}, and "
                    f"{segment_name(lsn)} is not there, but the log went on to LSN {required}"
                )
            )


def first_heading(files: Files, start: Lsn, log_id: int) -> Heading | None:
    """The header of the first block of the segment at ``start``."""
    return next(read_headings(files, log_id=log_id, starts=[start], lsn=start), None)


def read_headings(
    files: Files, *, log_id: int, starts: Sequence[Lsn], lsn: Lsn
) -> Iterator[Heading]:
    """The headers of the blocks from ``lsn`` on, where one begins; nothing else is checked."""
    index = bisect_right(starts, lsn) - 1
    for start, following in zip(starts[index:], [*starts[index + 1 :], None], strict=True):
        file = files.open(segment_name(start))
        try:
            while following is None or lsn < following:
                heading = read_heading(file, start=start, lsn=lsn, log_id=log_id)
                if heading is None:
                    return
                yield heading
                lsn = heading.end
        finally:
            file.close()


def records_in(block: Block) -> list[Record]:
    """The records of a block.  Raises StorageError if this program does not know them."""
    try:
        return decode_body(block.batch.body, block.batch.count)
    except msgspec.DecodeError as error:
        raise StorageError(
            f"the redo log at LSN {block.lsn} holds records that this program does not know "
            f"({error}); use the version of the program that wrote it"
        ) from error


def read_log(files: Files, *, log_id: int) -> Iterator[LoggedRecord]:
    """All records of a log that no process has open, up to a torn tail or to damage (CorruptLog).

    Changes nothing.
    """
    starts = segment_starts(files)
    if not starts:
        raise CorruptLog("there is no redo log in this data directory")
    for block in read_blocks(
        files, log_id=log_id, starts=starts, lsn=starts[0], end_min=starts[-1]
    ):
        for seq, record in enumerate(records_in(block), block.batch.first):
            yield LoggedRecord(block.end, block.incarnation, seq, record)


def _lost(what: str) -> str:
    return (
        f"part of the redo log is missing: {what}; acknowledged writes are lost: put the files "
        "back, or restore this memory node from a backup or a replica"
    )
