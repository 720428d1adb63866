"""One memory node's part in a backup: what to ask its primary, and what to keep of the answers.

The primary goes on meanwhile.  A full copy pulls pages and log side by side: the pages show
whatever was there when each was read, and the log from the begin of the copy on makes one state of
them.  An increment pulls only the log.  Then

1. the copy is *caught up* when it has every record that its pages may show;
2. when all memory nodes are caught up, the backup's moment is chosen: the highest reading of their
   clocks that was heard, so that it is not before anything that was copied (each was made to look
   at the time once, since an idle clock stands still);
3. each primary is told of it, and asked to log a later Stamp.  When that has come, the log up to
   the moment is whole, *for good*: a primary goes on with stamps later than all in its log, so
   that nothing can come any more that belongs before the moment, even if it fails over.

Only *committed* records are kept, which no fail-over takes back; so a copy that is caught up goes
on with whichever member is primary.  Before that, another primary means to begin anew: pages may
show what was taken back.
"""

from collections.abc import Callable, Sequence

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.backup.archive import ImageHeader, Part, PartWriter
from sinfonia.backup.cut import LogCut
from sinfonia.errors import BackupError
from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    NotServing,
    Replies,
    Reply,
    Request,
    Requests,
    WrongConfig,
)
from sinfonia.protocol.records import Batch, ParticipantState
from sinfonia.protocol.replication.messages import (
    GetImage,
    GetLog,
    GetPages,
    ImageBegun,
    Life,
    LogPart,
    Pages,
)
from sinfonia.storage.batches import cut_batch

# What was not answered by then is asked again.
ASK_AGAIN = 1.0

# How often a log is looked at in which nothing new was found.
LOOK_AGAIN = 0.02

# So often a copy is begun anew because another primary was made.
BEGUN_MAX = 10


class Question:
    """Something that is asked until it is answered; times are monotonic seconds."""

    def __init__(self) -> None:
        self._next = 0.0

    def due(self, now: float) -> bool:
        """Whether to ask now; if so it counts as asked."""
        if now < self._next:
            return False
        self._next = now + ASK_AGAIN
        return True

    def answered(self, next_at: float = 0.0) -> None:
        """The next one may be asked, not before ``next_at``."""
        self._next = next_at


class NodeCopy:
    """The copy of one memory node, on its way to the files of a backup.

    ``clock`` is the highest reading heard, ``caught_up`` and ``done`` the ends of the steps above.
    """

    def __init__(
        self, node: MemoryNodeId, writer: PartWriter, *, previous: Part | None, moment: int = 0
    ) -> None:
        """``previous`` is this node's part of the step to go on from, which had its cut at
        ``moment``; None for a full copy."""
        self.node = node
        self.clock = moment
        self.misdirected = False  # another member is primary; the driver finds it
        self.pages = 0
        self.pages_expected = 0
        self.log_bytes = 0
        self._writer = writer
        self._full = previous is None
        self._after: Seq = 0 if previous is None else previous.last
        self._lives: list[Life] = [] if previous is None else previous.lives
        self._image: ImageBegun | None = None
        self._begun = 0
        self._behind = False
        self._next_page: int | None = 0  # None: all came
        self._upto: Seq | None = None  # what must be in the log
        self._stamp_after = 0  # a reading of its clock, of which a later one is wanted
        self._cut: LogCut | None = None
        self._page_question = Question()
        self._log_question = Question()

    @property
    def caught_up(self) -> bool:
        """Whether everything is there that was copied so far."""
        pages_came = not self._full or (self._image is not None and self._next_page is None)
        log_came = self._upto is not None and self._after >= self._upto
        return pages_came and log_came and self.clock > self._stamp_after

    @property
    def done(self) -> bool:
        """Whether everything up to the backup's moment is there."""
        return self._cut is not None and self._cut.over

    def cut_at(self, moment: int) -> None:
        """The backup's moment was chosen."""
        assert self.caught_up
        assert moment >= self.clock
        self._cut = LogCut(moment, self._after)
        self.clock = moment
        self._log_question.answered()

    def finish(self) -> Part:
        """What was written.  Raises BackupError."""
        assert self._cut is not None
        assert self._cut.over
        return self._writer.finish(self._cut.last, self._lives)

    def stuck(self, endpoint: str, hint: str = "") -> BackupError:
        """The error if the primary, at ``endpoint``, has been of no use for long.

        ``hint``: what else may keep it silent.
        """
        if self._behind:
            return BackupError(
                f"the clock of memory node {self.node} differs from another's by more than a day; "
                "set the clocks of all hosts, best by NTP, and take the backup again"
            )
        return BackupError(
            f"the primary of memory node {self.node}, at {endpoint}, gives no answer; take the "
            f"backup again when `sinfonia status` shows it well. Is it?{hint}"
        )

    # --- questions -----------------------------------------------------------------------------

    def ask(self, now: float) -> list[Requests]:
        """What to ask the primary now."""
        asked: list[Request] = []
        if self._full and self._image is None:
            if self._page_question.due(now):
                asked.append(GetImage())
        elif not self.done:
            if self._full and self._next_page is not None and self._page_question.due(now):
                asked.append(GetPages(self._next_page))
            if self._log_question.due(now):
                stamp = self._stamp_after if self._cut is None else self._cut.moment
                asked.append(GetLog(self._after, stamp))
        clock = self.clock
        return [Requests(PROTOCOL_VERSION, 0, 0, 0, [each], clock=clock) for each in asked]

    def ask_anew(self) -> None:
        """The member that was asked will not answer: another one is primary."""
        self.misdirected = False
        self._page_question.answered()
        self._log_question.answered()

    # --- answers -------------------------------------------------------------------------------

    def on_replies(self, batch: Replies, now: float) -> bool:
        """Handle what a member says; whether that was of any use.

        Raises BackupError, or msgspec.MsgspecError if it makes no sense.
        """
        if batch.node != self.node:
            return False
        if self._cut is None:
            self.clock = max(self.clock, batch.clock)
            # Where nothing is logged, the clock shows when something last was; and not the time.
            self._stamp_after = self._stamp_after or max(batch.clock, 1)
        elif batch.clock < self._cut.moment and not _misdirects(batch):
            # Asked before the moment was chosen; or its wall clock is far behind.
            self._behind = True
            return False
        used = [self._on_reply(reply, now) for reply in batch.replies]
        return any(used)

    def _on_reply(self, reply: Reply, now: float) -> bool:
        match reply:
            case ImageBegun() if self._full and self._image is None:
                self._begin(reply)
                return True
            case Pages() if self._image is not None and reply.start == self._next_page:
                return self._on_pages(reply, self._image)
            case LogPart() if reply.first == self._after + 1:
                return not (self._full and self._image is None) and self._on_log(reply, now)
            case WrongConfig() | NotServing():
                self.misdirected = True
        return False

    def _begin(self, image: ImageBegun) -> None:
        self._begun += 1
        if self._begun > BEGUN_MAX:
            raise BackupError(
                f"memory node {self.node} has another primary again and again, so that it cannot "
                "be copied; see `sinfonia status`, and take the backup when it is well"
            )
        self._image = image
        self._after, self._lives = image.seq, image.history
        self._upto = None
        self._next_page = 0
        self.pages, self.pages_expected, self.log_bytes = 0, image.pages, 0
        state = msgspec.msgpack.decode(image.state, type=ParticipantState)
        self._writer.begin_image(ImageHeader(image.seq, state))
        self._page_question.answered()
        self._log_question.answered()

    def _begin_anew(self) -> None:
        self._image = None
        self._page_question.answered()

    def _on_pages(self, reply: Pages, image: ImageBegun) -> bool:
        if reply.incarnation > image.incarnation:
            self._begin_anew()
            return False
        if reply.incarnation < image.incarnation or reply.upto < image.seq:
            return False  # it comes late, and shows memory as it was before this copy began
        self._writer.write_runs(reply.runs)
        self.pages += sum(len(data) for _, data in reply.runs) // image.page_bytes
        self._page_question.answered()
        self._next_page = reply.following or None
        if self._next_page is None:
            self._upto = max(reply.upto, image.seq)
            self.pages = self.pages_expected
        return True

    def _on_log(self, part: LogPart, now: float) -> bool:
        if self._image is not None and part.incarnation < self._image.incarnation:
            return False
        if (
            self._image is not None
            and part.incarnation > self._image.incarnation
            and not self.caught_up
        ):
            self._begin_anew()
            return False
        self._refuse_gap(part)
        if not self._full and self._upto is None:
            self._upto = max(part.committed, self._after)
        count = min(part.count, part.committed - self._after)
        self._lives = _joined(self._lives, part.history)
        if count <= 0:
            self._log_question.answered(now + LOOK_AGAIN)
            return True
        batch = cut_batch(Batch(part.first, part.count, part.body), self._after + count)[0]
        self._keep(batch)
        self._log_question.answered()
        return True

    def _keep(self, batch: Batch) -> None:
        kept = [batch] if self._cut is None else self._cut.take(batch)
        self._after = batch.last
        for each in kept:
            self._writer.write_log(each)
            self.log_bytes += len(each.body)

    def _refuse_gap(self, part: LogPart) -> None:
        if part.gone and self._full:
            raise BackupError(
                f"memory node {self.node} logs faster than it is copied, or has been started anew: "
                "what is missing is gone from its log; take the backup again, at a quieter time, "
                "or have a larger keep_log"
            )
        if part.gone or _life_at(part.history, self._after) != _life_at(self._lives, self._after):
            raise BackupError(
                f"the log of memory node {self.node} does not go on from where this backup ends "
                "(it reaches back only as far as keep_log, and not beyond data that was given "
                "up); take a full backup"
            )


def copy_together(
    copies: Sequence[NodeCopy], go_on: Callable[[], None], before_cut: Callable[[], None]
) -> tuple[int, list[Part]]:
    """Call ``go_on`` until everything is copied; the moment of the cut, and what was written.

    ``before_cut`` is called when the moment is known to no memory node yet.
    """
    while not all(copy.caught_up for copy in copies):
        go_on()
    moment = max(copy.clock for copy in copies)
    before_cut()
    for copy in copies:
        copy.cut_at(moment)
    while not all(copy.done for copy in copies):
        go_on()
    return moment, [copy.finish() for copy in copies]


def _misdirects(batch: Replies) -> bool:
    return all(isinstance(reply, WrongConfig | NotServing) for reply in batch.replies)


def _life_at(lives: list[Life], seq: Seq) -> int:
    """In whose life the record ``seq`` was written; 0 for none."""
    return next((life.incarnation for life in reversed(lives) if life.first <= seq), 0)


def _joined(known: list[Life], heard: list[Life]) -> list[Life]:
    """What is known of the lives, when a member has forgotten the oldest."""
    if not heard:
        return known
    return [life for life in known if life.incarnation < heard[0].incarnation] + heard
