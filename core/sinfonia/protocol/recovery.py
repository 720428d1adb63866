"""The recovery coordinator: it always tries to abort, and commits only what must have committed.

Section 4.4.  It has no items, so it cannot vote for anybody: it asks every participant of a tid to
promise abort.  One that has voted OK answers so instead, and keeps to it; one that has not voted
logs the promise first.  If all have voted OK, the minitransaction *has* committed, whoever knows;
else somebody's promise makes sure that it never will.

So it is safe at any time, beside the original coordinator, beside other recovery coordinators, and
if it dies half-way: whatever it learned, the next one learns again.
"""

from collections.abc import Iterable, Sequence
from enum import Enum

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.messages import Answer, Commit, Forget, Resolve, Tid


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
        self.participants = list(participants)
        self.outcome: Outcome | None = None
        self._answers = dict.fromkeys(voted_ok, Answer.OK)
        self._in_doubt = False  # whether a participant said so just now
        self.asked_at = 0.0  # for whoever paces the asking
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
        self._in_doubt = self._in_doubt or answer is Answer.OK
        self.outcome = self._decide()
        if self.outcome in (None, Outcome.FORGOTTEN) or len(self.participants) == 1:
            return []
        self._unacknowledged = set(self.participants)
        return self.outstanding()

    def on_acknowledged(self, node: MemoryNodeId) -> list[SendTo]:
        """The outcome is stable at ``node``; once it is everywhere, nobody will ask again."""
        if node not in self._unacknowledged:
            return []
        self._unacknowledged.discard(node)
        if self._unacknowledged or self.outcome is not Outcome.COMMITTED:
            return []
        return [SendTo(node, Forget([self.tid])) for node in self.participants]

    def _decide(self) -> Outcome | None:
        answers = self._answers.values()
        if Answer.COMMITTED in answers:
            return Outcome.COMMITTED
        if Answer.ABORT in answers:
            return Outcome.ABORTED
        if len(self._answers) < len(self.participants):
            return None
        if Answer.FORGOTTEN not in answers:
            return Outcome.COMMITTED
        # While one participant is in doubt, none has forgotten that it committed.
        return Outcome.ABORTED if self._in_doubt else Outcome.FORGOTTEN

    def _commit(self) -> Commit:
        return Commit(self.tid, self.outcome is Outcome.COMMITTED)
