"""The replica's half of replication: log what the primary sends, apply what cannot be taken back.

The directory tells a replica which primary to follow.  It joins that primary with what it knows of
its own log, throws away what the primary has not, and then either is sent the rest, or has been
away for so long that it pulls: records with GetLog or, if the log does not reach back that far or
its memory holds what the primary never wrote, a copy of everything.

A copy is taken while the primary goes on: its pages show any state between the first and the last
of them, so that it is right only when all records from ``ImageBegun.seq`` to the last
``Pages.upto`` have been applied to it, and no record may be applied before the last page came.

Before it gives up what it holds for a copy, a replica *resigns*: the manager must have answered
that it is not counted in sync.  Else it could be made primary with nothing in its hands.

Acknowledging grants the primary a lease.  A replica that learns that it is primary itself must stop
to acknowledge, and must wait until ``granted_until`` before it answers any client: until then the
old primary may be answering reads.
"""

from collections.abc import Sequence
from enum import Enum

import msgspec

from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.membership.messages import MemoryNodeEntry
from sinfonia.protocol.messages import Reply, Request
from sinfonia.protocol.records import Batch, decode_body, encode_body
from sinfonia.protocol.replication.agreement import ReplicationTimes, new_lives
from sinfonia.protocol.replication.messages import (
    Append,
    Appended,
    GetImage,
    GetLog,
    GetPages,
    ImageBegun,
    Join,
    Joined,
    Life,
    LogPart,
    Pages,
)

# A question without an answer is asked again so soon.
ASK_AGAIN = 0.15

# A replica to which its primary says nothing for so long is perhaps none any more: the news of that
# are told only once, and may have been lost.
LOST_AFTER = 1.0


class TruncateAfter(msgspec.Struct, frozen=True, gc=False):
    """Forget every record after ``seq``, on stable storage."""

    seq: Seq


class LogBatch(msgspec.Struct, frozen=True, gc=False):
    """Log these records, the next ones, which new ``lives`` wrote in part."""

    batch: Batch
    lives: list[Life]


class ApplyUpTo(msgspec.Struct, frozen=True, gc=False):
    """Apply what was logged, up to ``seq``."""

    seq: Seq


class TellOnceStable(msgspec.Struct, frozen=True, gc=False):
    """Send ``request`` to the primary, once everything logged before is stable."""

    request: Request


class TellNow(msgspec.Struct, frozen=True, gc=False):
    """Send ``request`` to the primary now."""

    request: Request


class Resign(msgspec.Struct, frozen=True, gc=False):
    """Have the manager say that this replica is not in sync, and then call ``on_resigned``."""


class BeginCopy(msgspec.Struct, frozen=True, gc=False):
    """Give up memory, log and lists for those of ``image``, whose pages will come."""

    image: ImageBegun


class PutPages(msgspec.Struct, frozen=True, gc=False):
    """Write these runs of bytes to memory."""

    runs: list[tuple[int, bytes]]


class SaveCopy(msgspec.Struct, frozen=True, gc=False):
    """The copy is whole: let it survive a restart, and then call ``on_copy_saved``."""


FollowerEffect = (
    TruncateAfter
    | LogBatch
    | ApplyUpTo
    | TellOnceStable
    | TellNow
    | Resign
    | BeginCopy
    | PutPages
    | SaveCopy
)


class Phase(Enum):
    """What a replica is about."""

    JOINING = "joining"
    PULLING = "pulling"  # the log
    RESIGNING = "resigning"
    COPYING = "copying"  # pages, and the log beside
    SAVING = "saving"  # the copy; the log goes on
    FOLLOWING = "following"


class Follower:
    """One replica under one configuration.  It does no I/O; times are monotonic seconds."""

    def __init__(
        self,
        entry: MemoryNodeEntry,
        *,
        identity: str,
        starts: int,
        times: ReplicationTimes,
        log: tuple[Seq, Seq, Sequence[Life]],
        committed: Seq = 0,
        expendable: bool,
        worthless: bool = False,
        now: float,
    ) -> None:
        """``log``: its last record, the last that memory may show, and the lives that wrote it.

        ``committed``: the last of its records that is known to be at all in-sync members.
        ``expendable``: the manager was told that this member is empty.  ``worthless``: nothing of
        what it holds can be used, so that everything is to be copied.
        """
        self.entry = entry
        self.last, self.applied, history = log
        self.history = list(history)
        self.committed: Seq = 0
        self.phase = Phase.COPYING if worthless else Phase.JOINING
        self.granted_until = now
        self.copied_to = 0  # the address up to which pages have come
        self._identity = identity
        self._starts = starts
        self._times = times
        self._image: ImageBegun | None = None
        self._upto: Seq = 0  # what pages that came may show
        self._heard_at = now
        self._asked_at = float("-inf")
        self._epoch = entry.config_epoch
        self._expendable = expendable
        self._committed_before = committed  # by former lives
        self._reconciled = False  # whether this log is known to be the beginning of the primary's

    def follow(self, entry: MemoryNodeEntry) -> None:
        """The directory says so now; perhaps it names another primary."""
        if entry.config_epoch <= self.entry.config_epoch:
            return
        another = entry.incarnation != self.entry.incarnation
        self.entry = entry
        self._epoch = max(self._epoch, entry.config_epoch)
        if not another:
            return
        self._reconciled = False
        self._asked_at = float("-inf")
        # Half a copy of one primary's memory is no use to another.
        copying = self.phase in (Phase.COPYING, Phase.SAVING)
        self.phase = Phase.COPYING if copying else Phase.JOINING
        self._image = None

    # --- what the primary says -----------------------------------------------------------------

    def on_reply(self, reply: Reply, now: float) -> list[FollowerEffect]:
        """Handle a message from the primary."""
        match reply:
            case Append():
                return self._on_append(reply, now)
            case Joined():
                return self._on_joined(reply, now)
            case LogPart():
                return self._on_log_part(reply, now)
            case ImageBegun():
                return self._on_image_begun(reply, now)
            case Pages():
                return self._on_pages(reply, now)
        return []

    def _on_append(self, append: Append, now: float) -> list[FollowerEffect]:
        if append.config_epoch < self._epoch or append.incarnation != self.entry.incarnation:
            return []  # a primary that was replaced, or its own old message
        self._epoch = append.config_epoch
        self._heard_at = now
        if self.phase is not Phase.FOLLOWING:
            return []
        effects: list[FollowerEffect] = []
        if append.count and append.first <= self.last + 1:
            effects += self._log(append.first, append.count, append.body, [self._life(append)])
        effects += self._commit(append.committed)
        self.granted_until = now + self._times.granted_lease
        answer = Appended(
            identity=self._identity,
            starts=self._starts,
            config_epoch=append.config_epoch,
            last=self.last,
            sent_at=append.sent_at,
        )
        return [*effects, TellOnceStable(answer)]

    def _on_joined(self, joined: Joined, now: float) -> list[FollowerEffect]:
        if joined.incarnation != self.entry.incarnation or joined.starts != self._starts:
            return []
        if joined.config_epoch < self._epoch:
            return []  # what was true of this log before it resigned, perhaps
        self._heard_at = now
        if self.phase is Phase.FOLLOWING and joined.pull:
            self.phase = Phase.PULLING
            return self._ask_for_log(now)
        if self.phase is not Phase.JOINING:
            return []
        effects: list[FollowerEffect] = []
        if joined.image:
            return self._copy(now)
        # Once reconciled, whatever says otherwise is an answer to an earlier question.
        if not self._reconciled:
            if joined.common < self.last:
                assert joined.common >= self.applied, "memory shows what is to be taken back"
                effects.append(TruncateAfter(joined.common))
                self.last = joined.common
                self.history = [life for life in self.history if life.first <= self.last]
            self._reconciled = True
        if joined.pull:
            self.phase = Phase.PULLING
            return effects + self._ask_for_log(now)
        self.phase = Phase.FOLLOWING
        return effects

    def _on_log_part(self, part: LogPart, now: float) -> list[FollowerEffect]:
        if part.incarnation != self.entry.incarnation:
            return []
        if self.phase not in (Phase.PULLING, Phase.COPYING, Phase.SAVING):
            return []
        self._heard_at = now
        if part.gone:
            if self.phase is Phase.SAVING and self.committed >= self._upto:
                return []  # what is being saved is whole; what lacks is seen to afterwards
            return self._copy(now)
        before = self.last
        effects: list[FollowerEffect] = []
        if part.count:
            if part.first > self.last + 1:
                return []
            effects += self._log(part.first, part.count, part.body, part.history)
        effects += self._commit(part.committed)
        if self.phase is Phase.PULLING and self.last >= part.last:
            self.phase = Phase.JOINING
            return effects + self._join(now)
        effects += self._perhaps_save()
        # One question at a time: to answer each copy of an answer by asking would breed them.
        return effects + self._ask_for_log(now) if self.last > before else effects

    def _on_image_begun(self, image: ImageBegun, now: float) -> list[FollowerEffect]:
        if (
            self.phase is not Phase.COPYING
            or self._image is not None
            or image.incarnation != self.entry.incarnation
        ):
            return []
        self._heard_at = now
        self._image = image
        self._reconciled = True
        self.last = self.applied = self._upto = image.seq
        self.committed = self._committed_before = 0
        # A life that has logged nothing yet begins with what follows, here as at the primary.
        self.history = [life for life in image.history if life.first <= image.seq]
        self.copied_to = 0
        pages = self._ask(GetPages(0, self._identity), now)
        return [BeginCopy(image), *pages, self._fetch_log(image.seq)]

    def _on_pages(self, pages: Pages, now: float) -> list[FollowerEffect]:
        if (
            self.phase is not Phase.COPYING
            or self._image is None
            or pages.incarnation != self.entry.incarnation
            or pages.start != self.copied_to
            or pages.upto < self._image.seq  # an answer to an earlier copy's question
        ):
            return []
        self._heard_at = now
        self._upto = max(self._upto, pages.upto)
        put = PutPages(pages.runs)
        if pages.following:
            self.copied_to = pages.following
            return [put, *self._ask(GetPages(pages.following, self._identity), now)]
        # From now on memory shows records up to here, perhaps of some that are yet to come.
        self.applied = max(self.applied, self._upto)
        self._image = None
        self.phase = Phase.SAVING
        effects = [put, *self._commit(self.committed), *self._perhaps_save()]
        return effects + self._ask_for_log(now)

    def on_resigned(self, now: float) -> list[FollowerEffect]:
        """The manager has answered that this replica is not in sync."""
        self._expendable = True
        return self._copy(now) if self.phase is Phase.RESIGNING else []

    def on_copy_saved(self, now: float) -> list[FollowerEffect]:
        """The copy survives a restart from now on, so that it may count."""
        if self.phase is not Phase.SAVING:
            return []
        self.phase = Phase.JOINING
        return self._join(now)

    # --- time ----------------------------------------------------------------------------------

    def on_tick(self, now: float) -> list[FollowerEffect]:
        """Time has passed: ask again."""
        if self.phase is Phase.FOLLOWING and now - self._heard_at > self._times.lease:
            # It does not know us any more, or is gone; joining again costs nothing.
            self.phase = Phase.JOINING
        if self.phase is Phase.FOLLOWING or now - self._asked_at < ASK_AGAIN:
            return []
        match self.phase:
            case Phase.JOINING:
                return self._join(now)
            case Phase.RESIGNING:
                return self._copy(now)
            case Phase.COPYING if self._image is None:
                return self._ask(GetImage(self._identity), now)
            case Phase.COPYING:
                pages = GetPages(self.copied_to, self._identity)
                return [*self._ask(pages, now), self._fetch_log(self.last)]
        return self._ask_for_log(now)

    # --- parts ---------------------------------------------------------------------------------

    def _copy(self, now: float) -> list[FollowerEffect]:
        """The data here is of no use: have all copied, once no configuration counts on it."""
        self._image = None
        if self._expendable:
            self.phase = Phase.COPYING
            return self._ask(GetImage(self._identity), now)
        self.phase = Phase.RESIGNING
        self._asked_at = now
        return [Resign()]

    def _log(
        self, first: Seq, count: int, body: bytes, history: Sequence[Life]
    ) -> list[FollowerEffect]:
        """Log records of which the first may be known already."""
        known = self.last + 1 - first
        if known >= count:
            return []
        if known > 0:
            body = encode_body(decode_body(body, count)[known:])
        batch = Batch(self.last + 1, count - known, body)
        lives = new_lives(history, self.history, batch.first, batch.last)
        self.history = [*self.history, *lives]
        self.last = batch.last
        return [LogBatch(batch, lives)]

    def _life(self, append: Append) -> Life:
        return Life(append.incarnation, self.last + 1)

    def _commit(self, committed: Seq) -> list[FollowerEffect]:
        """Everything up to ``committed`` that is here may be applied, once memory is whole."""
        committed = min(committed, self.last)
        if committed > self.committed:
            self.committed = committed
        if self.phase is Phase.COPYING:
            return []
        self.applied = max(self.applied, self.committed)
        return [ApplyUpTo(self.committed)] if self.committed else []

    def _perhaps_save(self) -> list[FollowerEffect]:
        """The copy is whole when everything that its pages may show has been applied."""
        if self.phase is Phase.SAVING and self.committed >= self._upto:
            return [SaveCopy()]
        return []

    def _join(self, now: float) -> list[FollowerEffect]:
        self._asked_at = now
        # A replica that asks may be counted in sync before the answer comes.
        self._expendable = False
        join = Join(
            node=self.entry.node,
            identity=self._identity,
            starts=self._starts,
            config_epoch=self.entry.config_epoch,
            last=self.last,
            applied=self.applied,
            history=self.history,
            committed=max(self.committed, self._committed_before),
        )
        # What it says to have must be stable.
        return [TellOnceStable(join)]

    def _ask_for_log(self, now: float) -> list[FollowerEffect]:
        self._asked_at = now
        return [self._fetch_log(self.last)]

    def _fetch_log(self, after: Seq) -> TellNow:
        return TellNow(GetLog(after, identity=self._identity))

    def _ask(self, request: Request, now: float) -> list[FollowerEffect]:
        self._asked_at = now
        return [TellNow(request)]

    def is_lost(self, now: float) -> bool:
        """Whether the primary has been silent for so long that a manager should be asked."""
        return now - self._heard_at > LOST_AFTER

    def check_invariants(self) -> None:
        assert self.committed <= self.last
        assert self.phase is Phase.COPYING or self.committed <= self.applied
