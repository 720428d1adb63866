"""The coordinator of Figure 4: an application node's half of the two-phase protocol.

Theory of operation
-------------------

A coordinator has no log and may die at any time; others find out what it decided (recovery.py).
It decides nothing on its own: if all participants voted OK the minitransaction is committed, if
one voted otherwise it is aborted, and while a vote is missing it is *neither*, however long that
takes.  So at a caller's deadline it says "unknown", and goes on as a recovery coordinator.

A request whose reply does not come is sent again under the same tid, and is executed once
(sessions.py).  A busy lock is retried under a new tid, after a random and growing delay, within
the caller's deadline.

Replies of a memory node's earlier incarnation are ignored once a later one is known: the later one
does not remember what the earlier answered without logging it.

A minitransaction without write items over several nodes is committed only if all votes came in
while all of its locks were certainly still held: within the shortest of the times that the votes
say they are good for, counted from the sending, less a margin for clocks that run unevenly.
"""

import heapq
import math
from collections.abc import Iterable
from itertools import count
from typing import Any, Protocol

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import Contended, OutcomeUnknown, OutOfRange, SinfoniaError, TimedOut
from sinfonia.minitransaction import Minitransaction, Result
from sinfonia.protocol.attempts import FORGOTTEN_VOTES, Attempt, Call, Committing, result_of
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    Answer,
    Commit,
    CommitAck,
    Directory,
    Forget,
    NotServing,
    Replies,
    Reply,
    Request,
    Requests,
    Resolved,
    Tid,
    Vote,
    Voted,
)
from sinfonia.protocol.recovery import Outcome, RecoveryCoordinator

# A reply that has not come by now was probably lost with its connection.  Sending again early costs
# a duplicate that the memory node answers from its session.
RESEND_AFTER = 0.25

# A memory node that could not take what it was asked, or be reached, is asked again so soon.
NOT_SERVING_RETRY = 0.05

# How often unanswered requests and deadlines are looked at; a deadline is kept to within this.
TICK = 0.02

# First and longest delay before a busy lock is tried again; doubled each time, and then a random
# part of it taken.  The first is about one round trip on a local network.
BACKOFF_FIRST = 0.0004
BACKOFF_MAX = 0.1

# Tids whose caller was told "unknown" that are being settled, and outcomes kept for callers that
# come back to ask.  Beyond these the oldest are forgotten.
ABANDONED_MAX = 1024
OUTCOMES_MAX = 4096


class Random(Protocol):
    """The part of random.Random that a coordinator needs."""

    def random(self) -> float: ...


class Coordinator:
    """All minitransactions of one application node.  It does no I/O; see effects.py.

    Methods that take an event return what to send; calls that are over turn up in ``finished``,
    which the driver empties.  All times are monotonic seconds.
    """

    def __init__(self, *, client: int, rng: Random, directory: Directory) -> None:
        self.client = client
        self.epoch = 0
        self.capacities: dict[MemoryNodeId, int] = {}
        self.incarnations: dict[MemoryNodeId, int] = {}
        self.finished: list[Call] = []
        self.retried = 0
        self.resent = 0
        self._rng = rng
        self._next_counter = 1
        # Per memory node, by counter and so in order: what it has not answered.  The first of them
        # is the floor there; an answer in hand is never asked for again.
        self._waiting: dict[MemoryNodeId, dict[int, Attempt]] = {}
        # Two-phase outcomes that some participant has not acknowledged, and those that all have.
        self._committing: dict[Tid, Committing] = {}
        self._forget: dict[MemoryNodeId, list[Tid]] = {}
        # Attempts whose caller was told "unknown", and what became of them.
        self._resolving: dict[Tid, RecoveryCoordinator] = {}
        self._outcomes: dict[Tid, Outcome] = {}
        self._backing_off: list[tuple[float, int, Call]] = []
        self._order = count()
        # When to ask a memory node again that could not take what it was asked.
        self._ask_again_at: dict[MemoryNodeId, float] = {}
        self._next_tick = 0.0
        self.on_directory(directory)

    # --- what the driver asks ------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nothing is in flight, not even an acknowledgement."""
        return not (
            any(self._waiting.values())
            or self._committing
            or self._forget
            or self._backing_off
            or self._resolving
        )

    def floor(self, node: MemoryNodeId) -> int:
        """The lowest counter that ``node`` may still be asked to execute."""
        return next(iter(self._waiting[node]), self._next_counter)

    def envelope(self, node: MemoryNodeId, requests: list[Request]) -> Requests:
        """The batch that carries ``requests`` to ``node``."""
        forget = self._forget.pop(node, None) if self._forget else None
        if forget:
            requests = [*requests, Forget(forget)]
        incarnation = self.incarnations[node]
        return Requests(PROTOCOL_VERSION, self.client, incarnation, self.floor(node), requests)

    def next_wakeup(self) -> float | None:
        """When ``on_tick`` must be called next; None: not before the next event."""
        if self._backing_off:
            return min(self._backing_off[0][0], self._next_tick)
        return None if self.idle else self._next_tick

    # --- calls ---------------------------------------------------------------------------------

    def begin(
        self, minitransaction: Minitransaction[Any], *, now: float, deadline: float
    ) -> tuple[Call, list[SendTo]]:
        """Start executing; the call is over when it turns up in ``finished``.

        Raises OutOfRange (definite) if an item names bytes that no memory node has.
        """
        for node, items in minitransaction.items.items():
            if items.end > self.capacities.get(node, -1):
                raise self._out_of_range(node, items.end)
        call = Call(minitransaction, deadline)
        if not minitransaction.items:
            self._finish(call, Result(committed=True))
            return call, []
        return call, self._attempt(call, now)

    def outcome(self, tid: Tid) -> Outcome | None:
        """What became of a tid whose caller was told "unknown"; None while that is being found."""
        known = self._outcomes.get(tid)
        if known is None and tid not in self._resolving:
            return Outcome.FORGOTTEN
        return known

    def _out_of_range(self, node: MemoryNodeId, end: int) -> OutOfRange:
        capacity = self.capacities.get(node)
        if capacity is None:
            known = ", ".join(map(str, sorted(self.capacities)))
            return OutOfRange(f"there is no memory node {node}; the cluster has {known}")
        return OutOfRange(f"memory node {node} has {capacity} bytes; an item ends at {end}")

    def _attempt(self, call: Call, now: float) -> list[SendTo]:
        call.attempts += 1
        counter = self._next_counter
        self._next_counter = counter + 1
        attempt = Attempt.begin(call, Tid(self.epoch, self.client, counter), now)
        sends = []
        for node, request in attempt.requests.items():
            self._waiting[node][counter] = attempt
            sends.append(SendTo(node, request))
        if self._next_tick < now:
            self._next_tick = now + TICK
        return sends

    # --- events --------------------------------------------------------------------------------

    def on_directory(self, directory: Directory) -> None:
        """The map has changed, or is known at last."""
        self.epoch = max(self.epoch, directory.epoch)
        for entry in directory.nodes:
            node = entry.node
            self.capacities[node] = entry.capacity
            self.incarnations[node] = max(self.incarnations.get(node, 0), entry.incarnation)
            self._waiting.setdefault(node, {})

    def on_replies(self, node: MemoryNodeId, batch: Replies, now: float) -> list[SendTo]:
        """Handle what a memory node says."""
        known = self.incarnations[node]
        if batch.incarnation < known:
            return []
        sends: list[SendTo] = []
        if batch.incarnation > known:
            self.incarnations[node] = batch.incarnation
            sends += self._resend_to(node, now)
        if batch.epoch > self.epoch:
            self.epoch = batch.epoch
        waiting = self._waiting[node]
        for reply in batch.replies:
            if type(reply) is not Voted:
                sends += self._on_rare_reply(node, reply, now)
                continue
            attempt = waiting.get(reply.counter)
            if attempt is None:
                continue
            if reply.vote is Vote.BAD_LOAD:
                self._ask_again_at.setdefault(node, now + NOT_SERVING_RETRY)
                continue
            del waiting[reply.counter]
            if attempt.call is None:
                sends += self._on_late_vote(node, attempt, reply)
            elif len(attempt.requests) == 1:
                sends += self._on_one_phase_vote(attempt, attempt.call, node, reply, now)
            else:
                attempt.votes[node] = reply
                if len(attempt.votes) == len(attempt.requests):
                    sends += self._decide(attempt, attempt.call, now)
        return sends

    def _on_rare_reply(self, node: MemoryNodeId, reply: Reply, now: float) -> list[SendTo]:
        if isinstance(reply, CommitAck):
            return self._on_commit_ack(node, reply.tid)
        if isinstance(reply, Resolved) and reply.tid in self._resolving:
            resolver = self._resolving[reply.tid]
            sends = resolver.on_answer(node, reply.answer)
            self._note_outcome(resolver)
            return sends
        if isinstance(reply, NotServing):
            self._ask_again_at.setdefault(node, now + NOT_SERVING_RETRY)
        elif isinstance(reply, Directory):
            self.on_directory(reply)
        return []

    def on_unsent(self, node: MemoryNodeId, now: float) -> None:
        """There is no connection to ``node``: what was to be sent there is lost, try again soon."""
        self._ask_again_at.setdefault(node, now + NOT_SERVING_RETRY)

    def on_tick(self, now: float) -> list[SendTo]:
        """Time has passed: retry, resend, give up."""
        sends: list[SendTo] = []
        while self._backing_off and self._backing_off[0][0] <= now:
            call = heapq.heappop(self._backing_off)[2]
            if call.deadline <= now:
                self._fail(call, Contended("its locks stayed busy until the deadline; try again"))
            else:
                self.retried += 1
                sends += self._attempt(call, now)
        if now < self._next_tick:
            return sends
        self._next_tick = now + TICK
        for node, waiting in self._waiting.items():
            patience = RESEND_AFTER
            if self._ask_again_at.get(node, math.inf) <= now:
                del self._ask_again_at[node]
                patience = 0.0
            for attempt in list(waiting.values()):
                sends += self._look_at(attempt, now, patience)
        for committing in self._committing.values():
            if now - committing.sent_at >= RESEND_AFTER:
                committing.sent_at = now
                sends += committing.outstanding()
        for resolver in self._resolving.values():
            if now - resolver.asked_at >= RESEND_AFTER:
                resolver.asked_at = now
                sends += resolver.outstanding()
        sends += [SendTo(node, Forget(tids)) for node, tids in self._forget.items()]
        self._forget.clear()
        return sends

    # --- votes ---------------------------------------------------------------------------------

    def _on_one_phase_vote(
        self, attempt: Attempt, call: Call, node: MemoryNodeId, voted: Voted, now: float
    ) -> list[SendTo]:
        vote = voted.vote
        if vote is Vote.OK:
            self._finish(call, Result(True, voted.reads, (), call.attempts))
        elif vote is Vote.BAD_CMP:
            self._finish(call, result_of(call, {node: voted}))
        elif vote is Vote.BAD_LOCK or vote is Vote.BAD_FORCED:
            self._back_off(call, now)
        elif vote is Vote.BAD_RANGE:
            self._fail(call, _out_of_range())
        elif attempt.says_nothing(voted):
            self._fail(call, _too_late(attempt.tid))
        else:
            return self._attempt(call, now)  # a stale epoch; the batch brought the current one
        return []

    def _decide(self, attempt: Attempt, call: Call, now: float) -> list[SendTo]:
        """Figure 4, lines 7-11; with a vote missing, only if another is not OK."""
        votes = attempt.votes
        bad = {voted.vote for voted in votes.values() if voted.vote is not Vote.OK}
        assert bad or len(votes) == len(attempt.requests), "committed with a vote missing"
        self._stop_waiting(attempt)
        sends = self._announce(attempt, action=not bad, now=now)
        if not bad:
            if attempt.read_only and not attempt.still_held(now):
                return sends + self._attempt(call, now)
            self._finish(call, result_of(call, votes))
        elif Vote.BAD_CMP in bad:
            self._finish(call, result_of(call, votes))
        elif Vote.BAD_RANGE in bad:
            self._fail(call, _out_of_range())
        elif any(attempt.says_nothing(voted) for voted in votes.values()):
            self._fail(call, _too_late(attempt.tid))
        else:
            self._back_off(call, now)
        return sends

    def _announce(self, attempt: Attempt, *, action: bool, now: float) -> list[SendTo]:
        """COMMIT to all that may hold locks.  Nobody waits for the acknowledgements."""
        committing = Committing(attempt, action, now)
        if committing.unacknowledged and not attempt.read_only:
            self._committing[attempt.tid] = committing
        return committing.outstanding()

    def _on_commit_ack(self, node: MemoryNodeId, tid: Tid) -> list[SendTo]:
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

    def _on_late_vote(self, node: MemoryNodeId, attempt: Attempt, voted: Voted) -> list[SendTo]:
        """The caller has gone, but the vote is what recovery wants to know.

        It must not be lost: with it in hand the floor rises, and then the participant may forget.
        """
        resolver = self._resolving.get(attempt.tid)
        if resolver is None or voted.vote in FORGOTTEN_VOTES:
            return []
        sends = resolver.on_answer(node, Answer.OK if voted.vote is Vote.OK else Answer.ABORT)
        self._note_outcome(resolver)
        return sends

    def _note_outcome(self, resolver: RecoveryCoordinator) -> None:
        if resolver.outcome is None:
            return
        tid = resolver.tid
        self._outcomes[tid] = resolver.outcome
        for waiting in self._waiting.values():
            waiting.pop(tid.counter, None)
        while len(self._outcomes) > OUTCOMES_MAX:
            del self._outcomes[next(iter(self._outcomes))]
        if resolver.finished:
            del self._resolving[tid]

    # --- time ----------------------------------------------------------------------------------

    def _look_at(self, attempt: Attempt, now: float, patience: float) -> list[SendTo]:
        """An attempt that some memory node has not answered."""
        call = attempt.call
        if call is None:
            return []
        if call.deadline <= now:
            return self._give_up(attempt, call, now)
        if now - attempt.sent_at < patience:
            return []
        return self._try_again(attempt, call, now)

    def _try_again(self, attempt: Attempt, call: Call, now: float) -> list[SendTo]:
        if attempt.refused:
            return self._decide(attempt, call, now)
        if attempt.read_only and len(attempt.requests) > 1:
            # The votes that did come grow old; a new tid collects them all anew.
            self._stop_waiting(attempt)
            return self._announce(attempt, action=False, now=now) + self._attempt(call, now)
        attempt.sent_at = now
        return self._ask_again(attempt, attempt.requests)

    def _ask_again(self, attempt: Attempt, nodes: Iterable[MemoryNodeId]) -> list[SendTo]:
        waiting = [node for node in nodes if node not in attempt.votes]
        attempt.resent = True
        self.resent += len(waiting)
        return [SendTo(node, attempt.requests[node]) for node in waiting]

    def _resend_to(self, node: MemoryNodeId, now: float) -> list[SendTo]:
        """The node began another life: what it has not answered it never saw, or has in its log."""
        sends = []
        for attempt in list(self._waiting[node].values()):
            if attempt.call is None:
                continue
            if attempt.read_only and len(attempt.requests) > 1:
                sends += self._try_again(attempt, attempt.call, now)
            else:
                sends += self._ask_again(attempt, (node,))
        for committing in self._committing.values():
            if node in committing.unacknowledged:
                sends.append(SendTo(node, Commit(committing.tid, committing.action)))
        return sends

    def _back_off(self, call: Call, now: float) -> None:
        longest = min(BACKOFF_MAX, BACKOFF_FIRST * 2 ** min(call.attempts, 16))
        at = min(now + longest * self._rng.random(), call.deadline)
        heapq.heappush(self._backing_off, (at, next(self._order), call))

    def _give_up(self, attempt: Attempt, call: Call, now: float) -> list[SendTo]:
        """The caller's deadline has passed and a vote is missing."""
        if attempt.read_only:
            self._stop_waiting(attempt)
            self._fail(call, TimedOut("no answer before the deadline; nothing was to be written"))
            return self._announce(attempt, action=False, now=now)
        if attempt.refused:
            self._stop_waiting(attempt)
            self._fail(call, Contended("a memory node could not execute it before the deadline"))
            return self._announce(attempt, action=False, now=now)
        missing = ", ".join(str(node) for node in attempt.requests if node not in attempt.votes)
        message = f"memory node {missing} did not answer before the deadline: ask for its outcome"
        self._fail(call, OutcomeUnknown(message, attempt.tid))
        attempt.call = None
        resolver = RecoveryCoordinator(attempt.tid, sorted(attempt.requests), attempt.voted_ok)
        resolver.asked_at = now
        self._resolving[attempt.tid] = resolver
        if len(self._resolving) > ABANDONED_MAX:
            self._forsake(next(iter(self._resolving)))
        return resolver.outstanding()

    def _forsake(self, tid: Tid) -> None:
        del self._resolving[tid]
        for waiting in self._waiting.values():
            waiting.pop(tid.counter, None)

    def _stop_waiting(self, attempt: Attempt) -> None:
        for node in attempt.requests:
            self._waiting[node].pop(attempt.tid.counter, None)

    def _finish(self, call: Call, result: Result) -> None:
        call.result = result
        self.finished.append(call)

    def _fail(self, call: Call, error: SinfoniaError) -> None:
        call.error = error
        self.finished.append(call)


def _out_of_range() -> OutOfRange:
    return OutOfRange("a memory node does not have all of the bytes named")


def _too_late(tid: Tid) -> OutcomeUnknown:
    return OutcomeUnknown(f"{tid} took so long that its memory node has forgotten it", tid)
