"""Nothing is acknowledged before it is in the redo log, on stable storage (Figure 5).

``append`` only collects; ``sync`` writes everything collected as one block (group commit) and
returns when the disk has it.  Blocks follow one another in an endless log, of which segment files
hold the part that is still needed; an LSN is a position in it.

These rules make a crash harmless:

- A block is written only after the one before it was synced.  A block that cannot be read is
  therefore a torn tail, never acknowledged, if no later block is whole; it is cut off.  Otherwise
  it is corruption, and the memory node must not serve.
- After a write or sync that failed, the log does nothing more.  The kernel may show what it could
  not write, so the last block is written again when the log is next opened, before it is believed.
- Segments disappear from the ends only, one stably before the next, so that what is left has no
  gaps.
- A log that ends before what its mark says was synced (``synced_mark``) has lost something, and is
  not taken for one with a torn tail.
- What is to be forgotten at the end is not written over.  A new segment takes its place, which
  begins where the first block to be forgotten began, with what is kept of that.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, groupby
from operator import itemgetter
from typing import NamedTuple, Self

from sinfonia.errors import CorruptLog, StorageError, SyncFailed
from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.records import Batch, Record
from sinfonia.protocol.replication.messages import Life
from sinfonia.storage.batches import (
    cut_batch,
    head_of_batch,
    join_batches,
    split_batch,
    take_batches,
)
from sinfonia.storage.block_index import BlockIndex
from sinfonia.storage.files import SECTOR_BYTES, Files
from sinfonia.storage.journal import KEEP_BYTES, KEEP_FOR_COPIES_FACTOR, NumberedLog
from sinfonia.storage.log_blocks import (
    BODY_BYTES_MAX,
    Block,
    Lsn,
    check_block,
    encode_block,
    log_id_of,
    segment_name,
)
from sinfonia.storage.log_segments import (
    create_segment,
    discard_new_segment,
    first_heading,
    make_tail_stable,
    put_segment,
    read_blocks,
    read_headings,
    records_in,
    segment_starts,
)
from sinfonia.storage.synced_mark import MARK_FILE, SyncedMark

# The step in which the log is allocated and given back.  Allocated space made the fdatasync of
# small appends a third faster, and a full disk shows at the start of a segment, not within.
SEGMENT_BYTES = 64 * 1024 * 1024

# A block of so many times as much as is read at a time is remembered, until another one is.
LARGE_BLOCK_FACTOR = 2


class Checked(NamedTuple):
    """A step of ``check_blocks``: how much was read, and the block that was found damaged."""

    read: int
    damaged: Lsn | None = None


class RedoLog(NumberedLog):
    """The redo log of one memory node, open for appending.

    ``stable_lsn`` is where the next block will begin, ``stable`` the last record before it.
    """

    def __init__(
        self,
        files: Files,
        *,
        log_id: int,
        segment_bytes: int,
        keep_bytes: int,
        processed: Lsn,
        found: "_Found",
        mark: SyncedMark,
    ) -> None:
        """Use ``open``."""
        super().__init__(found.stable, found.history)
        # Whether a checkpoint was saving pages when the last life of this log ended.
        self.was_saving = mark.saving
        # Whether that life ended in order, so that the log holds all that it ever held.
        self.was_ended = mark.ended and mark.lsn == found.stable_lsn
        mark.begin()
        self._mark = mark
        self._files = files
        self._log_id = log_id
        self._segment_bytes = segment_bytes
        self._keep_bytes = keep_bytes
        self._processed = processed
        self._starts = found.starts
        self._index = found.index
        self._file = files.open(segment_name(found.starts[-1]))
        # What was gathered and not synced, each batch with its life.
        self._unsynced: list[tuple[int, Batch]] = []
        self._failure = ""
        # Of the last large block that was read in pieces, by their first records: to read, check
        # and cut all of it for each piece takes a copier, and its primary, many times as long.
        self._pieces: dict[Seq, Batch] = {}
        self._cuts = 0  # how often the end of the log was taken back
        self.suspects: set[Lsn] = set()  # blocks that others have found damaged
        self.stable = found.stable
        self.stable_lsn = found.stable_lsn

    @classmethod
    def open(
        cls,
        files: Files,
        *,
        identity: str,
        processed: Lsn | None,
        seq: Seq = 0,
        history: Sequence[Life] = (),
        segment_bytes: int = SEGMENT_BYTES,
        keep_bytes: int = KEEP_BYTES,
    ) -> Self:
        """Open the log, cutting a torn tail.

        ``processed``, ``seq`` and ``history`` are the checkpoint's.  ``processed`` None says that
        there has never been a checkpoint, so that nothing can have been logged: the log begins
        after ``seq``.  Raises CorruptLog if anything since ``processed`` is damaged or missing,
        StorageError if the files are another memory node's.
        """
        log_id = log_id_of(identity)
        starts = segment_starts(files)
        if not starts and processed is None:
            create_segment(files, Lsn(0), segment_bytes).close()
            starts = [Lsn(0)]
        found = _Found(starts, seq, history)
        last = found.read(files, log_id, processed or Lsn(0))
        if last is not None and processed is None:
            raise CorruptLog(
                "there is a redo log but no checkpoint: files are missing from the data "
                "directory; put them back, or restore it from a backup"
            )
        with ExitStack() as opened:
            mark = SyncedMark(files, log_id=log_id)
            opened.callback(mark.close)
            found.refuse_loss_before(mark.lsn)
            discard_new_segment(files)
            make_tail_stable(files, starts[-1], last, found.stable_lsn, segment_bytes)
            opened.pop_all()
        return cls(
            files,
            log_id=log_id,
            segment_bytes=segment_bytes,
            keep_bytes=keep_bytes,
            processed=processed or Lsn(0),
            found=found,
            mark=mark,
        )

    @property
    def dirty(self) -> bool:
        return bool(self._appended or self._unsynced)

    @property
    def start_lsn(self) -> Lsn:
        """The oldest position that is still in the log."""
        return self._starts[0]

    @property
    def first(self) -> Seq:
        return self._index.first or self.stable + 1

    def lsn_after(self, seq: Seq) -> Lsn:
        """Where the block begins in which the record after ``seq`` lies, or will lie.

        If rot hides that, the processed-pointer, which is before it.
        """
        if seq >= self.stable:
            return self.stable_lsn
        try:
            with _reading():
                return self._find(seq + 1)
        except CorruptLog:
            self.suspects.add(self._index.at_or_before(seq + 1))
            return self._processed

    def sync(self) -> None:
        """Make everything appended stable.

        Raises SyncFailed if the disk fails; from then on the log does nothing else.
        """
        self._refuse_after_failure()
        if not self.dirty:
            return
        self.gather()
        try:
            if len(self._unsynced) == 1:
                self._write(*self._unsynced[0])  # as a rule, so it should not take longer
            else:
                for incarnation, batches in groupby(self._unsynced, key=itemgetter(0)):
                    self._write(incarnation, join_batches([batch for _, batch in batches]))
        except OSError as error:
            raise self._failed(f"cannot write {segment_name(self._starts[-1])}", error) from error
        self._unsynced.clear()

    def note_synced(self) -> None:
        """Raise the mark to what is stable, beside the caller.  Raises SyncFailed."""
        self._refuse_after_failure()
        try:
            self._mark.raise_later(self.stable_lsn)
        except OSError as error:
            raise self._failed(f"cannot write {MARK_FILE}", error) from error

    def end(self) -> None:
        """The process ends in order, and has logged nothing beyond what is stable.

        Raises SyncFailed.
        """
        self._refuse_after_failure()
        try:
            self._mark.end(self.stable_lsn)
        except OSError as error:
            raise self._failed(f"cannot write {MARK_FILE}", error) from error

    def vouch(self, *, saving: bool) -> None:
        """Raise the mark, stably, to what is stable; ``saving``: a checkpoint writes pages now.

        Raises SyncFailed.
        """
        self._refuse_after_failure()
        try:
            self._mark.raise_to(self.stable_lsn, saving=saving)
        except OSError as error:
            raise self._failed(f"cannot write {MARK_FILE}", error) from error

    def read_after(self, seq: Seq, bytes_max: int) -> Batch | None:
        if seq < self.first - 1:
            return None
        piece = self._pieces.get(seq + 1)
        if piece is not None:
            return piece
        try:
            with _reading():
                return self._read_after(seq, bytes_max)
        except CorruptLog:
            # It is read for others, and they can have the image: memory is right all the same.
            self.suspects.add(self._index.at_or_before(seq + 1))
            return None

    def _read_after(self, seq: Seq, bytes_max: int) -> Batch:
        batches = self._batches_after(seq, bytes_max)
        found = next(batches, None)
        if found is None:
            return Batch(seq + 1, 0, b"")
        if len(found.body) <= LARGE_BLOCK_FACTOR * bytes_max:
            return take_batches(chain((found,), batches), seq, bytes_max)
        rest = found if found.first > seq else cut_batch(found, seq)[1]
        self._pieces = {piece.first: piece for piece in split_batch(rest, bytes_max)}
        return self._pieces[seq + 1]

    def records_after(self, seq: Seq) -> Iterator[tuple[Seq, Record]]:
        assert seq >= self.first - 1, "the log does not reach back so far"
        with _reading():
            for block in self._blocks_after(seq):
                for number, record in enumerate(records_in(block), block.batch.first):
                    if number > seq:
                        yield number, record

    def truncate_after(self, seq: Seq) -> None:
        self._pieces.clear()
        self.sync()
        if seq >= self.stable:
            return
        assert seq >= self.first - 1, "the log does not reach back so far"
        try:
            self._cut_after(seq)
        except OSError as error:
            raise self._failed(f"cannot cut {segment_name(self._starts[-1])}", error) from error
        self._forget_after(seq)

    def truncate_before(self, processed: Lsn) -> None:
        """Delete the segments that hold nothing since ``processed``.

        ``keep_bytes`` are kept, and what a replica or a backup that copies needs.

        The checkpoint that says ``processed`` must be stable.  Raises SyncFailed.
        """
        self._processed = processed
        unneeded = min(processed, self.stable_lsn - self._keep_bytes, self._needed_from())
        self._delete_before(unneeded)

    def forget(self, damaged: Lsn) -> None:
        """Delete everything up to the segment that holds the block at ``damaged``, kept or not.

        A checkpoint must rule that needs none of it.  Raises SyncFailed.
        """
        following = next((start for start in self._starts if start > damaged), damaged)
        assert following <= self._processed, "a restart needs it"
        self._delete_before(following)

    def _delete_before(self, unneeded: int) -> None:
        self._refuse_after_failure()
        try:
            while len(self._starts) > 1 and self._starts[1] <= unneeded:
                self._files.remove(segment_name(self._starts[0]))
                del self._starts[0]
                self._index.forget_before(self._starts[0])
                self._files.sync_directory()
        except OSError as error:
            raise self._failed(f"cannot delete {segment_name(self._starts[0])}", error) from error
        self._forget_lives_before(self.first)

    def _needed_from(self) -> Lsn:
        """Where the log begins that is kept for a replica or a backup that copies."""
        needed = self.needed_after
        if needed is None:
            return self.stable_lsn
        begin = self.start_lsn if needed < self.first else self.lsn_after(needed)
        return max(begin, Lsn(self.stable_lsn - self._keep_bytes * KEEP_FOR_COPIES_FACTOR))

    @property
    def segment_starts(self) -> list[Lsn]:
        """Where the segments begin, in order."""
        return list(self._starts)

    def take_suspects(self) -> set[Lsn]:
        """What ``read_after`` has stumbled over since the last call."""
        suspects, self.suspects = self.suspects, set()
        return suspects

    def begin_segment(self) -> None:
        """Let what is logged from now on lie in a segment of its own.  Raises SyncFailed."""
        self._refuse_after_failure()
        used = self.stable_lsn - self._starts[-1]
        if not used:
            return
        try:
            self._rotate(used)
        except OSError as error:
            raise self._failed(f"cannot begin {segment_name(self.stable_lsn)}", error) from error

    def check_blocks(self, bytes_max: int) -> Iterator[Checked]:
        """Check all stable blocks, in steps of at most ``bytes_max``.

        Other things may be done between two steps, also to this log.  Raises StorageError.
        """
        lsn = self._starts[0]
        while lsn < self.stable_lsn:
            start = next((each for each in reversed(self._starts) if each <= lsn), None)
            if start is None:
                lsn = self._starts[0]  # it was deleted meanwhile
                continue
            cuts, result = self._cuts, None
            with _reading():
                file = self._files.open(segment_name(start))
                try:
                    for result in check_block(file, start, lsn, self._log_id, bytes_max):
                        yield Checked(result.read)
                        if cuts != self._cuts or start not in self._starts:
                            break
                finally:
                    file.close()
            if cuts != self._cuts or start not in self._starts:
                continue
            assert result is not None
            following = next((each for each in self._starts if each > lsn), self.stable_lsn)
            if not result.whole:
                yield Checked(0, damaged=lsn)
            # Behind a damaged block it is unknown where the next one begins.
            lsn = result.end if result.whole and result.end <= following else following

    def close(self) -> None:
        """Close the files; what was not synced is lost."""
        self._mark.close()
        self._file.close()

    def check_invariants(self) -> None:
        super().check_invariants()
        self._index.check_invariants()
        assert self._starts == sorted(set(self._starts))
        assert self._starts[-1] <= self.stable_lsn
        assert self.stable_lsn % SECTOR_BYTES == 0
        assert self._mark.lsn <= self.stable_lsn, "the mark is never ahead of the log"
        assert self.stable + sum(batch.count for _, batch in self._unsynced) == self._gathered

    def _take(self, incarnation: int, batch: Batch) -> None:
        self._unsynced.append((incarnation, batch))

    def _write(self, incarnation: int, batch: Batch) -> None:
        if len(batch.body) > BODY_BYTES_MAX:
            head = head_of_batch(batch, BODY_BYTES_MAX)
            assert head.count < batch.count, "a record is larger than a minitransaction can be"
            self._write(incarnation, head)
            self._write(incarnation, cut_batch(batch, head.last)[1])
            return
        lsn = self.stable_lsn
        block = encode_block(batch, log_id=self._log_id, lsn=lsn, incarnation=incarnation)
        used = lsn - self._starts[-1]
        if used and used + len(block) > self._segment_bytes:
            self._rotate(used)
            used = 0
        self._file.write_at(used, block)
        self._file.sync()
        self._index.note(batch.first, lsn, begins_segment=not used)
        self.stable = batch.last
        self.stable_lsn = Lsn(lsn + len(block))

    def _rotate(self, used: int) -> None:
        # Only gives space back: what lies behind the last block is zeros.
        self._file.truncate(used)
        self._file.close()
        self._file = create_segment(self._files, self.stable_lsn, self._segment_bytes)
        self._starts.append(self.stable_lsn)

    def _cut_after(self, seq: Seq) -> None:
        self._cuts += 1
        lsn = self._find(seq + 1)
        assert lsn >= self._processed, "what a checkpoint rules over cannot be taken back"
        block = next(self._blocks_after(seq))
        content = b""
        if block.batch.first <= seq:
            kept, _ = cut_batch(block.batch, seq)
            content = encode_block(
                kept, log_id=self._log_id, lsn=lsn, incarnation=block.incarnation
            )
        self._mark.lower_to(lsn)
        while self._starts[-1] > lsn:
            self._files.remove(segment_name(self._starts[-1]))
            self._files.sync_directory()
            del self._starts[-1]
        file = put_segment(self._files, lsn, self._segment_bytes, content)
        self._file.close()
        self._file = file
        if self._starts[-1] < lsn:
            self._give_back(self._starts[-1], lsn)
            self._starts.append(lsn)
        self._index.forget_from(lsn)
        if content:
            self._index.note(block.batch.first, lsn, begins_segment=True)
        self.stable = seq
        self.stable_lsn = Lsn(lsn + len(content))

    def _give_back(self, start: Lsn, end: Lsn) -> None:
        file = self._files.open(segment_name(start))
        try:
            file.truncate(end - start)
            file.sync()
        finally:
            file.close()

    def _find(self, seq: Seq) -> Lsn:
        """Where the block begins that holds ``seq``, which must be in the log and stable."""
        lsn = self._index.at_or_before(seq)
        expected: Seq | None = None
        for heading in read_headings(
            self._files, log_id=self._log_id, starts=self._starts, lsn=lsn
        ):
            if expected is not None and heading.first != expected:
                break  # its checksum was not verified: this one has rotted, or that before it
            if expected is not None:
                self._index.note(heading.first, lsn)
            if heading.last >= seq:
                return lsn
            lsn, expected = heading.end, heading.last + 1
        raise CorruptLog(
            f"the redo log is damaged near LSN {lsn}, before record {seq}; restore this memory "
            "node from a backup or a replica, and check the disk"
        )

    def _blocks_after(self, seq: Seq) -> Iterator[Block]:
        """The stable blocks that hold anything after ``seq``."""
        if seq >= self.stable:
            return
        for block in read_blocks(
            self._files,
            log_id=self._log_id,
            starts=self._starts,
            lsn=self._find(seq + 1),
            end_min=self.stable_lsn,
        ):
            self._index.note(block.batch.first, block.lsn)
            yield block
            if block.end >= self.stable_lsn:
                return

    def _batches_after(self, seq: Seq, bytes_max: int) -> Iterator[Batch]:
        """What is in the stable blocks after ``seq``, as far as one should read at a time.

        Small records in blocks of their own are many blocks; each takes its time.
        """
        begin: Lsn | None = None
        for block in self._blocks_after(seq):
            begin = block.lsn if begin is None else begin
            yield block.batch
            if block.end - begin >= bytes_max:
                return

    def _refuse_after_failure(self) -> None:
        if self._failure:
            raise SyncFailed(self._failure)

    def _failed(self, what: str, error: OSError) -> SyncFailed:
        self._failure = (
            f"{what}: {error.strerror}; this memory node has stopped serving; repair the disk or "
            "free space, then start it again"
        )
        return SyncFailed(self._failure)


def find_end(
    files: Files, *, identity: str, processed: Lsn, seq: Seq, history: Sequence[Life]
) -> tuple[Seq, list[Life]]:
    """The last record of a log that no process has open, and the lives that wrote it.

    Changes nothing.  Raises as ``RedoLog.open`` does.
    """
    found = _Found(segment_starts(files), seq, history)
    log_id = log_id_of(identity)
    found.read(files, log_id, processed)
    if files.exists(MARK_FILE):
        mark = SyncedMark(files, log_id=log_id)
        mark.close()
        found.refuse_loss_before(mark.lsn)
    return found.stable, found.history


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot read the redo log: {error.strerror}; restore this memory node from a backup "
            "or a replica, and check the disk"
        ) from error


class _Found:
    """What is in the files of a log that is being opened."""

    def __init__(self, starts: list[Lsn], seq: Seq, history: Sequence[Life]) -> None:
        """``seq`` and ``history`` are the checkpoint's."""
        self.starts = starts
        self.index = BlockIndex()
        self.stable = seq
        self.stable_lsn = starts[-1] if starts else Lsn(0)
        # A life in which nothing was logged is begun anew.
        self.history = [life for life in history if life.first <= seq]

    def read(self, files: Files, log_id: int, processed: Lsn) -> Block | None:
        """Read everything since ``processed``; the last block, if there is any.

        Of the segments before that only where they begin; they are kept for others.
        """
        ruling = [start for start in self.starts if start <= processed][-1:]
        lsn = ruling[0] if ruling else processed
        seq, last = self.stable, None
        for block in read_blocks(
            files, log_id=log_id, starts=self.starts, lsn=lsn, end_min=processed
        ):
            batch = block.batch
            self.index.note(batch.first, block.lsn, begins_segment=block.lsn in self.starts)
            current = self.history[-1].incarnation if self.history else 0
            if batch.first > seq and block.incarnation != current:
                self.history.append(Life(block.incarnation, batch.first))
            last = block
        if last is not None:
            self.stable, self.stable_lsn = last.batch.last, last.end
        if self.stable < seq:
            raise CorruptLog(
                f"the redo log ends with record {self.stable}, but the checkpoint is of record "
                f"{seq}: they do not belong together; restore this memory node from a backup or "
                "a replica"
            )
        for start in reversed([start for start in self.starts if start < lsn]):
            heading = first_heading(files, start, log_id)
            # Its checksum was not verified: what does not fit has rotted.
            fits = heading is not None and heading.first <= heading.last < (
                self.index.first or seq + 1
            )
            if heading is None or not fits:
                break
            self.index.note(heading.first, start, begins_segment=True)
        return last

    def refuse_loss_before(self, synced: Lsn) -> None:
        """Raise CorruptLog if the log ends before ``synced``, up to which it was stable once."""
        if self.stable_lsn < synced:
            raise CorruptLog(
                f"the redo log ends at LSN {self.stable_lsn} (record {self.stable}), but was "
                f"synced up to LSN {synced}: acknowledged writes are lost; restore this memory "
                "node from a backup or a replica, and check the disk"
            )
