"""A journal numbers the records of one memory node, and knows which primary wrote which.

Records are numbered from 1 without gaps; the numbers are the same at all members.  A *life* is the
stretch that one primary wrote, so the same number in the same life is the same record everywhere.
What is *dirty* may be lost in a crash; what is *stable* may not, as far as the journal promises.

A record passes through these hands: ``append`` collects it; ``gather`` encodes all that was
collected, once, for all that must have a copy; ``sync`` makes stable what was gathered.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.records import Batch, Record, decode_body, encode_body
from sinfonia.protocol.replication.messages import Life
from sinfonia.storage.batches import cut_batch, take_batches

# How much is kept for members and backups that have fallen behind: a member that was away for
# longer than it takes to log this copies the whole image, which takes the primary much more.  It is
# a few seconds of writing as fast as a disk can, and hours of most days.
KEEP_BYTES = 256 * 1024 * 1024

# For replicas and backups that copy at the moment, more is kept: so many times as much, so that a
# copier that never ends fills neither disk nor memory.  Writers wait for them (pacing.py), so that
# this limit is seldom met.
KEEP_FOR_COPIES_FACTOR = 4

# What a batch costs a memory log beside its body: the objects that it consists of.
_BATCH_OVERHEAD_BYTES = 192


class Journal(Protocol):
    """What a memory node asks of its log, on disk (``RedoLog``) or in memory (``MemoryLog``)."""

    # Collects a record.  The bound method of a list: it is called for every minitransaction.
    append: Callable[[Record], None]

    # The lives to which the records belong, oldest first.  Those of which no record is left, nor
    # the one before the first that is left, are forgotten.  The list is replaced, never changed:
    # messages may hold it.
    history: list[Life]

    @property
    def last(self) -> Seq:
        """The last record appended; 0 if there never was one."""

    @property
    def stable(self) -> Seq:
        """The last record that is stable."""

    @property
    def first(self) -> Seq:
        """The oldest record that is left; ``stable + 1`` if none is."""

    @property
    def dirty(self) -> bool:
        """Whether anything appended is not stable yet."""

    # A replica or a backup copies, and needs the log after this record: it is kept, within bounds.
    needed_after: Seq | None

    def begin_life(self, incarnation: int) -> None:
        """What is appended from now on is of this life.  Nothing may be dirty."""

    def gather(self) -> Batch | None:
        """What was appended since the last call, encoded; None if that is nothing."""

    def append_body(self, batch: Batch, lives: Sequence[Life]) -> None:
        """Append what another member gathered, which must follow ``last``.

        Lives that begin in ``batch`` are taken from ``lives``, the rest of which is ignored.  The
        records are not looked at: those from a network must be decoded first.
        """

    def sync(self) -> None:
        """Make everything appended stable.  Raises SyncFailed."""

    def truncate_after(self, seq: Seq) -> None:
        """Forget every record after ``seq``, stably, and make the rest stable.

        Raises SyncFailed.
        """

    def read_after(self, seq: Seq, bytes_max: int) -> Batch | None:
        """Stable records after ``seq``: about ``bytes_max``, but at least one if there is any.

        None says that the journal does not reach back so far.
        """

    def records_after(self, seq: Seq) -> Iterator[tuple[Seq, Record]]:
        """Every stable record after ``seq``, which must reach back so far, with its number."""

    def close(self) -> None:
        """Let go of everything; what was not synced is lost."""


class NumberedLog(ABC):
    """The part of a journal that numbers: what is appended, in which lives.

    The subclass keeps the records: ``_take`` gives it batches of one life each.
    """

    def __init__(self, last: Seq, history: Sequence[Life]) -> None:
        """``last`` and ``history`` are those of what is kept already."""
        self._appended: list[Record] = []
        self._gathered = last
        self.append: Callable[[Record], None] = self._appended.append
        self.history = list(history)
        self.needed_after: Seq | None = None

    @abstractmethod
    def _take(self, incarnation: int, batch: Batch) -> None:
        """Keep ``batch``, which follows what was taken before."""

    @property
    def last(self) -> Seq:
        return self._gathered + len(self._appended)

    @property
    def incarnation(self) -> int:
        """The life of what is appended; 0 before the first."""
        return self.history[-1].incarnation if self.history else 0

    @property
    def dirty(self) -> bool:
        return bool(self._appended)

    def begin_life(self, incarnation: int) -> None:
        assert not self.dirty, "what a former life appended must be stable"
        if incarnation != self.incarnation:
            self._enter_life(Life(incarnation, self.last + 1))

    def gather(self) -> Batch | None:
        records = self._appended
        if not records:
            return None
        batch = Batch(self._gathered + 1, len(records), encode_body(records))
        records.clear()
        self._gathered = batch.last
        self._take(self.incarnation, batch)
        return batch

    def append_body(self, batch: Batch, lives: Sequence[Life]) -> None:
        assert batch.first == self.last + 1, "records are appended in order"
        self.gather()
        for life in lives:
            if batch.first <= life.first <= batch.last and life.incarnation > self.incarnation:
                if life.first > batch.first:
                    head, batch = cut_batch(batch, life.first - 1)
                    self._gathered = head.last
                    self._take(self.incarnation, head)
                self._enter_life(life)
        if batch.count:
            self._gathered = batch.last
            self._take(self.incarnation, batch)

    def check_invariants(self) -> None:
        firsts = [life.first for life in self.history]
        incarnations = [life.incarnation for life in self.history]
        assert firsts == sorted(set(firsts)), "a life begins after the one before"
        assert incarnations == sorted(set(incarnations)), "later lives have higher numbers"
        assert not firsts or firsts[-1] <= self.last + 1

    def _enter_life(self, life: Life) -> None:
        assert life.incarnation > self.incarnation, "later lives have higher numbers"
        # A life in which nothing was logged is left out.
        self.history = [each for each in self.history if each.first < life.first] + [life]

    def _forget_after(self, seq: Seq) -> None:
        """Go on counting after ``seq``; nothing may be dirty."""
        assert not self._appended
        self._gathered = seq
        self.history = [life for life in self.history if life.first <= seq]

    def _forget_lives_before(self, first: Seq) -> None:
        """Records before ``first`` are gone.

        The life of the one before it is still needed: a member that has that one as its last can be
        sent what follows.
        """
        needed = sum(life.first < first for life in self.history)
        self.history = self.history[max(needed - 1, 0) :]


class MemoryLog(NumberedLog):
    """A journal for as long as the process lives; it keeps about ``keep_bytes``.

    Whatever was gathered counts as stable: others keep the copies.
    """

    def __init__(
        self, *, keep_bytes: int = KEEP_BYTES, after: Seq = 0, history: Sequence[Life] = ()
    ) -> None:
        """Begin after the record ``after``, the last of ``history``."""
        super().__init__(after, history)
        self._keep_bytes = keep_bytes
        self._kept: list[Batch] = []
        self._kept_bytes = 0

    @property
    def stable(self) -> Seq:
        return self._gathered

    @property
    def first(self) -> Seq:
        return self._kept[0].first if self._kept else self._gathered + 1

    def sync(self) -> None:
        self.gather()

    def truncate_after(self, seq: Seq) -> None:
        self.gather()
        if seq >= self._gathered:
            return
        # It may have dropped the record ``seq`` and some that follow: then nothing is left.
        while self._kept and self._kept[-1].last > seq:
            batch = self._kept.pop()
            self._kept_bytes -= _cost(batch)
            if batch.first <= seq:
                self._keep(cut_batch(batch, seq)[0])
        self._forget_after(seq)

    def read_after(self, seq: Seq, bytes_max: int) -> Batch | None:
        if seq < self.first - 1:
            return None
        return take_batches(self._batches_after(seq), seq, bytes_max)

    def records_after(self, seq: Seq) -> Iterator[tuple[Seq, Record]]:
        assert seq >= self.first - 1, "the journal does not reach back so far"
        for batch in self._batches_after(seq):
            records = decode_body(batch.body, batch.count)
            for number, record in enumerate(records, batch.first):
                if number > seq:
                    yield number, record

    def close(self) -> None:
        self._kept.clear()
        self._kept_bytes = 0

    def check_invariants(self) -> None:
        super().check_invariants()
        assert self._kept_bytes == sum(map(_cost, self._kept))
        for batch, following in zip(self._kept, self._kept[1:], strict=False):
            assert batch.last + 1 == following.first
        assert not self._kept or self._kept[-1].last == self._gathered

    def _take(self, incarnation: int, batch: Batch) -> None:
        del incarnation  # history knows it
        self._keep(batch)
        if self._kept_bytes > self._keep_bytes:
            self._drop_oldest()

    def _keep(self, batch: Batch) -> None:
        self._kept.append(batch)
        self._kept_bytes += _cost(batch)

    def _drop_oldest(self) -> None:
        # More than necessary, so that taking from the front of a list is seldom.
        dropped = 0
        needed = self.last if self.needed_after is None else self.needed_after
        while dropped < len(self._kept) - 1 and self._kept_bytes > self._keep_bytes * 7 // 8:
            too_much = self._kept_bytes > self._keep_bytes * KEEP_FOR_COPIES_FACTOR
            if self._kept[dropped].last > needed and not too_much:
                break
            self._kept_bytes -= _cost(self._kept[dropped])
            dropped += 1
        del self._kept[:dropped]
        self._forget_lives_before(self.first)

    def _batches_after(self, seq: Seq) -> Iterator[Batch]:
        index = bisect_right(self._kept, seq, key=lambda batch: batch.last)
        while index < len(self._kept):
            yield self._kept[index]
            index += 1


def _cost(batch: Batch) -> int:
    return len(batch.body) + _BATCH_OVERHEAD_BYTES
