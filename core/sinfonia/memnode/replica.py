"""A replica's wake-ups: carry out what its follower decides, and sync before it acknowledges.

It receives what the primary sends, and collects what to send back: at once, or after the sync that
makes it true.
"""

from sinfonia.memnode.member_state import MemberState
from sinfonia.memnode.settings import State
from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.messages import Replies, Request
from sinfonia.protocol.replication.following import (
    ApplyUpTo,
    BeginCopy,
    Follower,
    FollowerEffect,
    LogBatch,
    Phase,
    PutPages,
    Resign,
    SaveCopy,
    TellNow,
    TellOnceStable,
    TruncateAfter,
)

# Logged without being asked to acknowledge it, before it is synced all the same.
UNSYNCED_BYTES_MAX = 4 * 1024 * 1024


class Replica:
    """One member as long as it is a replica; times are monotonic seconds."""

    def __init__(self, member_state: MemberState, follower: Follower) -> None:
        self.member_state = member_state
        self.follower = follower
        self.resigning = False
        self.syncs = 0
        self.copied_bytes = 0
        self.copies_begun = 0
        self._unsynced_bytes = 0
        self._ask: list[Request] = []
        self._answers: list[Request] = []
        self._apply_to: Seq = 0
        self._saving = False
        self._save_from: Seq = 0  # what must be applied before the copy is saved

    @property
    def state(self) -> State:
        """As others see it."""
        following = self.follower.phase is Phase.FOLLOWING
        return State.FOLLOWING if following else State.CATCHING_UP

    def receive(self, batch: Replies, now: float) -> None:
        """Handle what the primary says.  Raises StorageError."""
        for reply in batch.replies:
            self._carry_out(self.follower.on_reply(reply, now))

    def resigned(self, now: float) -> None:
        """The manager has taken this replica out of the in-sync ones."""
        self.resigning = False
        self._carry_out(self.follower.on_resigned(now))

    def flush(self) -> list[Request]:
        """Sync what must be stable; returns what to send to the primary.  Raises StorageError."""
        journal = self.member_state.journal
        if journal is None:  # its log is damaged, and a copy has not begun yet
            said, self._ask = self._ask, []
            return said
        # What is pulled is acknowledged at its end only, but one sync of all would take seconds.
        if journal.dirty and (self._answers or self._unsynced_bytes >= UNSYNCED_BYTES_MAX):
            self._sync()
        said = self._ask + self._answers
        self._ask, self._answers = [], []
        return said

    def tick(self, now: float) -> None:
        """Time has passed.  Raises StorageError."""
        self._carry_out(self.follower.on_tick(now))
        self._apply()
        self._carry_checkpoint(now)

    def next_wakeup(self) -> float | None:
        """When ``tick`` must be called next."""
        if self.member_state.applied < self._apply_to:
            return 0.0
        checkpointer = self.member_state.checkpointer
        return None if checkpointer is None else checkpointer.next_wakeup()

    def _apply(self) -> None:
        self.member_state.apply_up_to(self._apply_to, self.member_state.settings.applying)

    def _carry_out(self, effects: list[FollowerEffect]) -> None:
        member_state = self.member_state
        for effect in effects:
            match effect:
                case TellOnceStable(request):
                    self._answers.append(request)
                case TellNow(request):
                    self._ask.append(request)
                case LogBatch(batch, lives):
                    member_state.log_batch(batch, lives)
                    self._unsynced_bytes += len(batch.body)
                case ApplyUpTo(seq):
                    self._apply_to = max(self._apply_to, seq)
                    self._apply()
                case TruncateAfter(seq):
                    member_state.truncate_after(seq)
                case Resign():
                    self.resigning = True
                case BeginCopy(image):
                    self._saving = False
                    self.copies_begun += 1
                    self._apply_to = image.seq
                    member_state.begin_copy(image)
                case PutPages(runs):
                    member_state.put_pages(runs)
                    self.copied_bytes += sum(len(data) for _, data in runs)
                case SaveCopy() if not self._saving:
                    self._saving, self._save_from = True, self._apply_to

    def _carry_checkpoint(self, now: float) -> None:
        member_state = self.member_state
        checkpointer = member_state.checkpointer
        if self._saving and member_state.applied < self._save_from:
            return
        if checkpointer is None:
            if self._saving:
                self._saved(now)
            return
        # A copy is saved by the first checkpoint, which begins once it is whole.
        whole = self.follower.phase not in (Phase.COPYING, Phase.SAVING) and member_state.confirmed
        if (self._saving or (whole and checkpointer.due)) and not checkpointer.running:
            self._sync()
            checkpointer.begin(
                member_state.applied, member_state.participant_state.checkpoint_state()
            )
        if checkpointer.carry_on(now, sync=self._sync) and self._saving:
            self._saved(now)

    def _saved(self, now: float) -> None:
        self._saving = False
        self.member_state.complete_copy()
        self._carry_out(self.follower.on_copy_saved(now))

    def _sync(self) -> None:
        journal = self.member_state.journal
        assert journal is not None
        if journal.dirty:
            journal.sync()
            self.syncs += 1
        self._unsynced_bytes = 0
