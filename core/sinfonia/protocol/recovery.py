"""The recovery coordinator: it always tries to abort, and commits only what must have committed.

Section 4.4.  It has no items, so it cannot vote for a participant: it asks every participant of a
tid to promise abort.  One that has voted OK answers so instead, and keeps to it; one that has not
voted logs the promise first.  If all have voted OK, the minitransaction *has* committed, even if no
process knows it yet; else the promise of one participant makes sure that it never will.

So it is safe at any time, beside the original coordinator, beside other recovery coordinators, and
if it dies half-way: whatever it learned, the next one learns again.

A vote is never taken back.  So a process that has learned, in whatever way, that every participant
voted OK need not ask again: the minitransaction has committed.

A participant that never existed, named by a client that lies or errs, never answers.  It has not
voted OK either.  Only an operator can say so (membership/settling.py); the outcome is abort then,
once all other participants have answered and none knows of a commit.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.messages import (
    Answer,
    Commit,
    CommitAck,
    Forget,
    Resolve,
    Resolved,
    Unsettled,
)

# Recoveries under way at one manager; what is beyond waits for a later probe.
RECOVERIES_MAX = 16 * 1024


class Outcome(Enum):
    """What became of a tid."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    FORGOTTEN = "forgotten"  # so old that its participants no longer know


class RecoveryCoordinator:
    """Settles one tid.  ``outcome`` is None until it is known."""

    def __init__(
        self,
        tid: Tid,
        participants: Sequence[MemoryNodeId],
        voted_ok: Iterable[MemoryNodeId] = (),
    ) -> None:
        """``voted_ok``: participants whose OK vote the caller holds.

        They must not be asked: they may have forgotten the tid since, if another recovery
        coordinator committed it.
        """
        self.tid = tid
        self.participants = list(dict.fromkeys(participants))
        self.outcome: Outcome | None = None
        self._answers = dict.fromkeys(voted_ok, Answer.OK)
        self._in_doubt = False  # whether a participant said so just now
        self._absent: set[MemoryNodeId] = set()  # they never existed, as an operator said
        # Set by the driver, which paces the questions.
        self.begun_at = self.asked_at = 0.0
        self._unacknowledged: set[MemoryNodeId] = set()

    @property
    def finished(self) -> bool:
        """The outcome is known and stable at every participant."""
        return self.outcome is not None and not self._unacknowledged

    def outstanding(self) -> list[SendTo]:
        """What has to be sent, at first or again, until every participant has answered."""
        if self.outcome is None:
            asked = Resolve(self.tid, self.participants)
            return [SendTo(node, asked) for node in self.participants if node not in self._answers]
        return [SendTo(node, self._commit()) for node in sorted(self._unacknowledged)]

    def on_answer(self, node: MemoryNodeId, answer: Answer) -> list[SendTo]:
        """A participant has answered Resolve."""
        if self.outcome is not None or node not in self.participants:
            return []
        # The first answer stands: a participant may have forgotten what it answered at first.
        self._answers.setdefault(node, answer)
        self._absent.discard(node)
        self._in_doubt = self._in_doubt or answer is Answer.OK
        return self._conclude()

    def on_absent(self, nodes: Iterable[MemoryNodeId]) -> list[SendTo]:
        """These participants never existed: they have not voted OK, and acknowledge nothing."""
        self._absent.update(set(nodes).intersection(self.participants) - self._answers.keys())
        if self.outcome is None:
            return self._conclude()
        self._unacknowledged -= self._absent
        return []

    @property
    def silent(self) -> list[MemoryNodeId]:
        """The participants that have not answered; none once the outcome is known."""
        if self.outcome is not None:
            return []
        return [node for node in self.participants if node not in self._answers]

    def on_all_voted(self) -> list[SendTo]:
        """Every participant is known to have voted OK."""
        if self.outcome is not None:
            return []
        self.outcome = Outcome.COMMITTED
        self._unacknowledged = set(self.participants)
        return self.outstanding()

    def on_acknowledged(self, node: MemoryNodeId) -> list[SendTo]:
        """The outcome is stable at ``node``; once it is everywhere, no process asks again."""
        if node not in self._unacknowledged:
            return []
        self._unacknowledged.discard(node)
        if self._unacknowledged or self.outcome is not Outcome.COMMITTED:
            return []
        return [SendTo(node, Forget([self.tid])) for node in self.participants]

    def _conclude(self) -> list[SendTo]:
        """Tell the participants the outcome as soon as it is known."""
        self.outcome = self._decide()
        if self.outcome in (None, Outcome.FORGOTTEN) or len(self.participants) == 1:
            return []
        self._unacknowledged = set(self.participants) - self._absent
        return self.outstanding()

    def _decide(self) -> Outcome | None:
        answers = self._answers.values()
        if Answer.COMMITTED in answers:
            return Outcome.COMMITTED
        if Answer.ABORT in answers:
            return Outcome.ABORTED
        if len(self._answers) + len(self._absent) < len(self.participants):
            return None
        if self._absent:
            return Outcome.ABORTED
        if Answer.FORGOTTEN not in answers:
            return Outcome.COMMITTED
        # While one participant is in doubt, none has forgotten that it committed.
        return Outcome.ABORTED if self._in_doubt else Outcome.FORGOTTEN

    def _commit(self) -> Commit:
        return Commit(self.tid, self.outcome is Outcome.COMMITTED)


class Recoveries:
    """The recovery coordinators that are at work at one manager, at most RECOVERIES_MAX."""

    def __init__(self) -> None:
        self.finished = 0
        self._open: dict[Tid, RecoveryCoordinator] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Tid]:
        return iter(self._open)

    def open(self) -> Iterator[RecoveryCoordinator]:
        """Those that are at work, the oldest first."""
        return iter(self._open.values())

    def on_absent(self, tid: Tid, nodes: Iterable[MemoryNodeId]) -> list[SendTo]:
        """Participants of ``tid`` never existed, as an operator said."""
        recovery = self._open.get(tid)
        return [] if recovery is None else self._after(recovery, recovery.on_absent(nodes))

    def begin(self, unsettled: Unsettled, now: float) -> list[SendTo]:
        """Settle a tid by asking its participants, unless that is being done."""
        if unsettled.tid in self._open:
            return []
        recovery = self._coordinator(unsettled, now)
        return [] if recovery is None else recovery.outstanding()

    def on_all_voted(self, unsettled: Unsettled, now: float) -> list[SendTo]:
        """Settle a tid on which every participant is known to have voted OK."""
        recovery = self._coordinator(unsettled, now)
        return [] if recovery is None else recovery.on_all_voted()

    def on_reply(self, node: MemoryNodeId, reply: Resolved | CommitAck) -> list[SendTo]:
        """A participant has answered."""
        recovery = self._open.get(reply.tid)
        if recovery is None:
            return []
        if isinstance(reply, Resolved):
            sends = recovery.on_answer(node, reply.answer)
        else:
            sends = recovery.on_acknowledged(node)
        return self._after(recovery, sends)

    def ask_again(self, now: float, *, after: float) -> list[SendTo]:
        """What has had no answer for ``after`` seconds."""
        sends: list[SendTo] = []
        for recovery in self._open.values():
            if now - recovery.asked_at >= after:
                recovery.asked_at = now
                sends += recovery.outstanding()
        return sends

    def _after(self, recovery: RecoveryCoordinator, sends: list[SendTo]) -> list[SendTo]:
        if recovery.finished:
            self.finished += 1
            del self._open[recovery.tid]
        return sends

    def _coordinator(self, unsettled: Unsettled, now: float) -> RecoveryCoordinator | None:
        tid = unsettled.tid
        recovery = self._open.get(tid)
        if recovery is None and len(self._open) < RECOVERIES_MAX:
            recovery = self._open[tid] = RecoveryCoordinator(tid, unsettled.participants)
            recovery.begun_at = recovery.asked_at = now
        return recovery
