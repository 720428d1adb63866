"""What a participant answers to a recovery coordinator, and to the manager that probes.

- A recovery coordinator (section 4.4) learns of the vote that was given, or gets a promise to abort
  for good.  The promise is logged before it is sent.
- Forget (section 4.7) comes when every participant has made an outcome stable.
- A probe of the manager learns what is unsettled, and brings the epoch.
"""

from sinfonia.protocol import records
from sinfonia.protocol.effects import Step
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.lists import first_of
from sinfonia.protocol.messages import Answer, Forget, Probe, Resolve, Resolved, Unsettled, Vote
from sinfonia.protocol.participant_state import LiveParticipantState


class RecoveryAnswers:
    """The answers of one participant; what changes its lists is logged."""

    def __init__(self, state: LiveParticipantState) -> None:
        self._state = state

    def on_resolve(self, request: Resolve, step: Step) -> None:
        """Phase 1 of recovery (section 4.4): the previous vote, or a promise to abort for good.

        A promise that would not be remembered is not made; the recovery coordinator asks again.
        """
        tid = request.tid
        state = self._state
        answer = self._known_of(tid)
        if answer is None:
            known = state.sessions.outcome(tid)
            if known is None and not state.sessions.may_promise(tid, state.epoch):
                return
            if state.logged and (known is None or known.vote is not Vote.BAD_FORCED):
                step.log(records.ForcedAbort(tid))
            state.sessions.force_abort(tid)
            answer = Answer.ABORT
        step.replies.append(Resolved(tid, answer))

    def _known_of(self, tid: Tid) -> Answer | None:
        """What is known of ``tid``; None if this participant may still promise to abort."""
        state = self._state
        if tid in state.in_doubt:
            return Answer.OK
        if tid in state.decided:
            return Answer.COMMITTED
        known = state.sessions.outcome(tid)
        if known is not None and known.vote is Vote.OK:
            return Answer.COMMITTED
        if known is None and state.is_forgotten(tid):
            return Answer.FORGOTTEN
        return None

    def on_forget(self, request: Forget, step: Step) -> None:
        """Section 4.7: every participant has applied these, so no process will ask."""
        known = [tid for tid in request.tids if tid in self._state.decided]
        self._state.forget(known)
        if known and self._state.logged:
            step.log_lazily(records.Forgotten(known))

    def on_probe(self, probe: Probe, step: Step, *, stable_before: float) -> list[Unsettled]:
        """What is unsettled here and as old as ``probe`` asks; the epoch comes nearer to its own.

        The manager may take what is said to be in doubt for OK votes that cannot be lost.  So only
        votes that were given before ``stable_before`` are named: those are stable wherever they
        have to be.
        """
        state = self._state
        if probe.epoch > state.epoch:
            # A step at a time: one message that is wrong does not make all tids stale.
            state.advance_epoch(state.epoch + 1)
            if state.logged:
                step.log_lazily(records.EpochAdvanced(state.epoch))
        unsettled = [
            entry.unsettled
            for entry in state.in_doubt.values()
            if step.now - entry.since >= probe.in_doubt_age and entry.since < stable_before
        ]
        unsettled += [
            entry.unsettled
            for entry in state.decided.values()
            if step.now - entry.since >= probe.decided_age
        ]
        return first_of(unsettled)
