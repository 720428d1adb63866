"""What a member holds: memory, the participant's lists, and the log that both come from.

``applied`` is the last record that memory and lists show.  A primary shows what it logs at once; a
replica logs first and applies what cannot be taken back; so does a member that has just started,
which knows only from the manager, or from its primary, how much of its log is right.

It answers no requests; the machine that drives it keeps the order of log, sync and answer.
"""

import math
from collections import deque
from collections.abc import Sequence

import msgspec

from sinfonia.errors import DamagedData, StorageError
from sinfonia.memnode.checkpointer import Checkpointer
from sinfonia.memnode.scrubber import Scrubber
from sinfonia.memnode.settings import ApplyLimits, MemoryNodeSettings, has_disk, is_replicated
from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.participant_state import LiveParticipantState
from sinfonia.protocol.records import (
    Batch,
    OnePhase,
    ParticipantState,
    Prepared,
    decode_body,
)
from sinfonia.protocol.replication.messages import ImageBegun, Life
from sinfonia.storage.address_space import AddressSpace
from sinfonia.storage.batches import cut_batch
from sinfonia.storage.files import Files
from sinfonia.storage.journal import Journal, MemoryLog
from sinfonia.storage.stable_storage import StableStorage, open_stable_storage, refound


class MemberState:
    """Memory, lists and log of one life of a member."""

    def __init__(
        self,
        settings: MemoryNodeSettings,
        files: Files,
        *,
        identity: str,
        led: bool,
        now: float,
    ) -> None:
        """Open what the data directory holds.  Raises StorageError.

        ``led``: the image may show all of the log.  A memory node that has no replicas replays its
        log at once; another one waits until it knows how much of it is right.

        Damage is an error only where no other member can have a copy.  Else ``damage`` says what
        it is; the member holds nothing, and its files stay as they are until a copy comes.
        """
        self.settings = settings
        self.storage: StableStorage | None = None
        self.journal: Journal | None = None
        self.checkpointer: Checkpointer | None = None
        self.scrubber: Scrubber | None = None
        self._now = now
        self.applied: Seq = 0
        self.replayed = 0
        self.empty = True
        self._files = files
        self._identity = identity
        self._unapplied: deque[Batch] = deque()  # of what was logged in this life
        self._confirm_at: Seq | None = None
        self._numbers_used: Seq = 0  # by logs that were kept for copiers, and given up
        self.space: AddressSpace
        self.participant_state: LiveParticipantState
        self.damage = ""
        self.complete = False  # whether the log certainly holds all that it ever held
        self.repaired = 0  # how often damage was replaced by a copy, in this life
        if has_disk(settings.mode):
            try:
                self._take_storage(_open(files, settings, identity))
            except DamagedData as error:
                if not is_replicated(settings.mode):
                    raise
                self.damage = str(error)
                self._hold_nothing()
            else:
                self._begin_with_checkpoint()
        else:
            if is_replicated(settings.mode):
                self.journal = MemoryLog(keep_bytes=settings.keep_log_bytes)
            self._hold_nothing()
        # What memory may show: a checkpoint of a primary takes pages as they are.
        self.shown: Seq = self.last if led else self.applied
        if not is_replicated(settings.mode):
            self.apply_everything()

    # --- applying ------------------------------------------------------------------------------

    @property
    def last(self) -> Seq:
        """The last record that was logged."""
        return 0 if self.journal is None else self.journal.last

    @property
    def history(self) -> Sequence[Life]:
        """The lives that wrote the log."""
        return [] if self.journal is None else self.journal.history

    @property
    def confirmed(self) -> bool:
        """Whether replay has shown that the image is sound.

        Until then no checkpoint may begin: it would take the note of which pages replay has mended.
        """
        return self._confirm_at is None

    def apply_everything(self) -> None:
        """Show all that was logged: this log is right.  Raises StorageError."""
        if self.journal is not None:
            self.apply_up_to(self.last)

    def apply_up_to(self, seq: Seq, limits: ApplyLimits | None = None) -> None:
        """Show the records up to ``seq``, or as many of them as ``limits`` allow.

        Raises StorageError if the image turns out damaged.
        """
        room_bytes = math.inf
        if limits is not None:
            seq = min(seq, self.applied + limits.records)
            room_bytes = limits.written_bytes
        if self.applied < seq:
            first_kept = self._unapplied[0].first if self._unapplied else self.last + 1
            if self.applied + 1 < first_kept:
                room_bytes -= self._apply_from_journal(min(seq, first_kept - 1), room_bytes)
            while self._unapplied and self.applied < seq and room_bytes > 0:
                room_bytes -= len(self._unapplied[0].body)
                self._apply_batch(self._unapplied[0], seq)
                if self.applied >= self._unapplied[0].last:
                    self._unapplied.popleft()
        if self._confirm_at is not None and self.applied >= self._confirm_at:
            self._confirm_at = None
            if self.storage is not None:
                self.storage.image.confirm(self.space.dirty, was_saving=self.storage.log.was_saving)

    def _apply_from_journal(self, upto: Seq, room_bytes: float) -> int:
        """Returns how many bytes were written."""
        journal = self.journal
        assert journal is not None
        replay = self.participant_state.replay
        written = 0
        for seq, record in journal.records_after(self.applied):
            if seq > upto or written >= room_bytes:
                break
            replay(record)
            self.applied = seq
            self.replayed += 1
            if isinstance(record, OnePhase | Prepared):
                written += sum(len(item.data) for item in record.writes)
        return written

    def _apply_batch(self, batch: Batch, upto: Seq) -> None:
        replay = self.participant_state.replay
        skipped = self.applied + 1 - batch.first
        for record in decode_body(batch.body, batch.count)[skipped : upto + 1 - batch.first]:
            replay(record)
        self.applied = min(upto, batch.last)

    # --- a replica's log -----------------------------------------------------------------------

    def log_batch(self, batch: Batch, lives: Sequence[Life]) -> None:
        """Log what the primary sent; it is stable after the next sync."""
        assert self.journal is not None
        self.journal.append_body(batch, lives)
        self._unapplied.append(batch)

    def truncate_after(self, seq: Seq) -> None:
        """The log is right up to ``seq`` only.  Raises StorageError."""
        assert self.journal is not None
        assert self.applied <= seq, "memory shows what is to be taken back"
        self.journal.truncate_after(seq)
        while self._unapplied and self._unapplied[-1].last > seq:
            batch = self._unapplied.pop()
            if batch.first <= seq:
                self._unapplied.append(cut_batch(batch, seq)[0])
        if self._confirm_at is not None:
            self._confirm_at = min(self._confirm_at, seq)

    # --- copies --------------------------------------------------------------------------------

    def begin_copy(self, image: ImageBegun) -> None:
        """Give up everything for a copy that begins with ``image``.  Raises StorageError."""
        state = msgspec.msgpack.decode(image.state, type=ParticipantState)
        self._unapplied.clear()
        self._confirm_at = None
        self.empty = True
        if has_disk(self.settings.mode):
            self._refound(image.seq, image.history)
        else:
            self.space.close()
            self.journal = MemoryLog(
                keep_bytes=self.settings.keep_log_bytes, after=image.seq, history=image.history
            )
            self.space = AddressSpace(self.settings.capacity)
            self.participant_state = self._new_state(logged=True)
        self.applied = image.seq
        self.participant_state.restore(state)

    def found_anew(self) -> None:
        """An operator has given up what there was: hold nothing, soundly.  Raises StorageError."""
        self._refound(0, [])
        assert self.storage is not None
        self.storage.complete()
        self.damage = ""

    def put_pages(self, runs: Sequence[tuple[int, bytes]]) -> None:
        """Write what came of the copy."""
        for address, data in runs:
            self.space.write(address, data)

    def complete_copy(self) -> None:
        """The copy is stable.  Raises StorageError."""
        self.empty = False
        self.repaired += bool(self.damage)
        self.damage = ""
        if self.storage is not None:
            self.storage.complete()

    def begin_logging(self, incarnation: int) -> None:
        """Log in memory from now on: a copier needs the log, and this memory node keeps none."""
        assert self.journal is None
        self.journal = MemoryLog(keep_bytes=self.settings.keep_log_bytes, after=self._numbers_used)
        self.journal.begin_life(incarnation)
        self.participant_state.logged = True

    def end_logging(self) -> None:
        """No copier is left; one that comes back late finds that records are missing."""
        self._numbers_used = self.last + 1
        self.journal = None
        self.participant_state.logged = False

    # --- upkeep, and the end -------------------------------------------------------------------

    def note_synced(self) -> None:
        """Note how far the log was synced, so that a loss is noticed.  Raises StorageError."""
        if self.storage is not None:
            self.storage.log.note_synced()

    def scrub(self, now: float) -> None:
        """Check a little of what is on the disk, if memory is right.  Raises StorageError."""
        self._now = now
        if self.scrubber is not None and self.confirmed:
            self.scrubber.tick(now)

    def end(self) -> None:
        """The process ends in order: no reply that has left rests on more than what is stable.

        Raises StorageError.
        """
        if self.storage is not None:
            self.storage.log.end()

    def close(self) -> None:
        """Let go of files and memory; what was not synced is lost, as in a crash."""
        if self.storage is not None:
            self.storage.close()
        else:
            self.space.close()

    def _new_state(self, *, logged: bool) -> LiveParticipantState:
        return LiveParticipantState(self.space, logged=logged, sessions=self.settings.sessions)

    def check_invariants(self) -> None:
        assert self.applied <= self.last or self.journal is None

    def _hold_nothing(self) -> None:
        self.space = AddressSpace(self.settings.capacity)
        logged = self.journal is not None
        self.participant_state = self._new_state(logged=logged)

    def _begin_with_checkpoint(self) -> None:
        storage = self.storage
        assert storage is not None
        self.empty = storage.founded
        self.complete = storage.log.was_ended
        self.participant_state.restore(storage.checkpoint.state)
        self._confirm_at = storage.log.last
        # A crash may have come between the checkpoint and this.
        storage.log.truncate_before(storage.checkpoint.processed)

    def _refound(self, seq: Seq, history: Sequence[Life]) -> None:
        """Make everything on the disk empty, as of the record ``seq``."""
        self.complete = False
        if self.storage is None:
            self.space.close()
        else:
            self.storage.close()
        self._take_storage(
            refound(
                self._files,
                identity=self._identity,
                capacity=self.settings.capacity,
                segment_bytes=self.settings.log_segment_bytes,
                keep_bytes=self.settings.keep_log_bytes,
                seq=seq,
                history=history,
            )
        )

    def _take_storage(self, storage: StableStorage) -> None:
        self.storage = storage
        self.space = storage.space
        self.journal = storage.log
        self.applied = storage.checkpoint.seq
        self.participant_state = self._new_state(logged=True)
        self.checkpointer = Checkpointer(storage, self.settings.checkpoints)
        self.scrubber = Scrubber(
            storage, self.checkpointer, rate=self.settings.scrub_rate, now=self._now
        )


def _open(files: Files, settings: MemoryNodeSettings, identity: str) -> StableStorage:
    try:
        return open_stable_storage(
            files,
            identity=identity,
            capacity=settings.capacity,
            segment_bytes=settings.log_segment_bytes,
            keep_bytes=settings.keep_log_bytes,
        )
    except OSError as error:
        raise StorageError(f"cannot open the data directory: {error.strerror}") from error
