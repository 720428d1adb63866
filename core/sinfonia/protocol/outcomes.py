"""An outcome is told to the participants until all have acknowledged, and then they may forget it.

This is what remains of a minitransaction when its coordinator waits for votes no more, or its
caller no more for the coordinator:

- COMMIT is sent again and again to each participant that may hold locks.  When all have made a
  commit stable they are told to forget the tid (section 4.7);
- a tid whose caller was told "unknown" is settled by a recovery coordinator (recovery.py), and the
  outcome is kept for a caller that comes back to ask.

Each of these is bounded.  What is dropped is left to the manager, which finds it by itself.
"""

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.attempts import FORGOTTEN_VOTES, Attempt, Committing
from sinfonia.protocol.conversation import RESEND_AFTER
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.messages import Answer, Commit, Forget, Vote
from sinfonia.protocol.recovery import Outcome, RecoveryCoordinator

# Tids whose caller was told "unknown" that are being settled, and outcomes kept for callers that
# come back to ask.  Beyond these the oldest are forgotten.
ABANDONED_MAX = 1024
OUTCOMES_MAX = 4096

# Outcomes that some participant has not acknowledged; they are told again and again.  Beyond these
# the oldest are left to the manager: a participant that is silent so long is not listening.
COMMITTING_MAX = 64 * 1024


class Outcomes:
    """The outcomes of one application node's minitransactions; times are monotonic seconds.

    ``settled`` names tids that are settled or given up, so that no vote on them matters any more;
    the coordinator empties it.
    """

    def __init__(self) -> None:
        self.settled: list[Tid] = []
        # Two-phase outcomes that some participant has not acknowledged, and those that all have.
        self._committing: dict[Tid, Committing] = {}
        self._forget: dict[MemoryNodeId, list[Tid]] = {}
        # Attempts whose caller was told "unknown", and what became of them.
        self._resolving: dict[Tid, RecoveryCoordinator] = {}
        self._known: dict[Tid, Outcome] = {}

    @property
    def idle(self) -> bool:
        """Nothing is left to be told, or to be found out."""
        return not (self._committing or self._forget or self._resolving)

    def outcome(self, tid: Tid) -> Outcome | None:
        """What became of a tid whose caller was told "unknown"; None while that is being found."""
        known = self._known.get(tid)
        if known is None and tid not in self._resolving:
            return Outcome.FORGOTTEN
        return known

    # --- what happens --------------------------------------------------------------------------

    def announce(self, attempt: Attempt, *, action: bool, now: float) -> list[SendTo]:
        """COMMIT to all that may hold locks.  The caller does not wait for acknowledgements."""
        committing = Committing(attempt, action, now)
        if committing.unacknowledged and not attempt.read_only:
            self._committing[attempt.tid] = committing
            if len(self._committing) > COMMITTING_MAX:
                del self._committing[next(iter(self._committing))]
        return committing.outstanding()

    def resolve(self, attempt: Attempt, now: float) -> list[SendTo]:
        """Find out what becomes of ``attempt``: its caller was told "unknown"."""
        resolver = RecoveryCoordinator(attempt.tid, sorted(attempt.requests), attempt.voted_ok)
        resolver.asked_at = now
        self._resolving[attempt.tid] = resolver
        if len(self._resolving) > ABANDONED_MAX:
            oldest = next(iter(self._resolving))
            del self._resolving[oldest]
            self.settled.append(oldest)
        return resolver.outstanding()

    def on_commit_ack(self, node: MemoryNodeId, tid: Tid) -> list[SendTo]:
        """The outcome of ``tid`` is stable at ``node``."""
        committing = self._committing.get(tid)
        if committing is not None and node in committing.unacknowledged:
            committing.unacknowledged.remove(node)
            if not committing.unacknowledged:
                del self._committing[tid]
                if committing.action:
                    for participant in committing.participants:
                        self._forget.setdefault(participant, []).append(tid)
        resolver = self._resolving.get(tid)
        if resolver is None:
            return []
        sends = resolver.on_acknowledged(node)
        self._note_outcome(resolver)
        return sends

    def on_resolved(self, node: MemoryNodeId, tid: Tid, answer: Answer) -> list[SendTo]:
        """``node`` has answered a recovery coordinator, or as if to one."""
        resolver = self._resolving.get(tid)
        if resolver is None:
            return []
        sends = resolver.on_answer(node, answer)
        self._note_outcome(resolver)
        return sends

    def on_late_vote(self, node: MemoryNodeId, tid: Tid, vote: Vote) -> list[SendTo]:
        """The caller has gone, but the vote is what recovery wants to know.

        It must not be lost: with it in hand the floor rises, and then the participant may forget.
        """
        if vote in FORGOTTEN_VOTES:
            return []
        return self.on_resolved(node, tid, Answer.OK if vote is Vote.OK else Answer.ABORT)

    def on_new_life(self, node: MemoryNodeId) -> list[SendTo]:
        """``node`` begins another life: tell and ask it again."""
        sends = [
            SendTo(node, Commit(committing.tid, committing.action))
            for committing in self._committing.values()
            if node in committing.unacknowledged
        ]
        for resolver in self._resolving.values():
            sends += [send for send in resolver.outstanding() if send.node == node]
        return sends

    def ask_again(self, now: float) -> list[SendTo]:
        """What has had no answer for RESEND_AFTER."""
        sends: list[SendTo] = []
        for committing in self._committing.values():
            if now - committing.sent_at >= RESEND_AFTER:
                committing.sent_at = now
                sends += committing.outstanding()
        for resolver in self._resolving.values():
            if now - resolver.asked_at >= RESEND_AFTER:
                resolver.asked_at = now
                sends += resolver.outstanding()
        return sends

    def take_forgettable(self, node: MemoryNodeId) -> list[Tid] | None:
        """The tids that ``node`` may forget; they count as told."""
        return self._forget.pop(node, None) if self._forget else None

    def take_all_forgettable(self) -> list[SendTo]:
        """Tell all memory nodes what they may forget."""
        sends = [SendTo(node, Forget(tids)) for node, tids in self._forget.items()]
        self._forget.clear()
        return sends

    def _note_outcome(self, resolver: RecoveryCoordinator) -> None:
        if resolver.outcome is None:
            return
        self._known[resolver.tid] = resolver.outcome
        self.settled.append(resolver.tid)
        while len(self._known) > OUTCOMES_MAX:
            del self._known[next(iter(self._known))]
        if resolver.finished:
            del self._resolving[resolver.tid]

    def is_resolving(self, tid: Tid) -> bool:
        """Whether the outcome of ``tid`` is being found out."""
        resolver = self._resolving.get(tid)
        return resolver is not None and resolver.outcome is None

    def check_invariants(self) -> None:
        """What is told is told to participants, and everything is within its bounds."""
        assert len(self._committing) <= COMMITTING_MAX
        assert len(self._resolving) <= ABANDONED_MAX
        assert len(self._known) <= OUTCOMES_MAX
        for tid, committing in self._committing.items():
            assert committing.tid == tid
            assert committing.unacknowledged, "nothing is left to be told"
            assert set(committing.unacknowledged) <= set(committing.participants)
        assert all(resolver.tid == tid for tid, resolver in self._resolving.items())
        assert not any(resolver.finished for resolver in self._resolving.values())
        assert all(self._forget.values())
