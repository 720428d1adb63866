"""A call is committed if all participants voted OK, aborted if one did not, and else undecided.

Figure 4, lines 1-11.  A call runs under one tid after another, until its votes decide it or its
deadline has passed:

- a busy lock, or a stale epoch, is tried again under a new tid;
- a request whose reply does not come is sent again under the same tid, which is executed once;
- while a vote is missing at the deadline, the caller is told "unknown", and the tid is settled
  without it (outcomes.py).
"""

from collections.abc import Iterable, Sequence

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import Contended, NotExecuted, OutOfRange, SinfoniaError
from sinfonia.minitransaction import Result
from sinfonia.protocol.attempts import NOT_ALL_BYTES, Attempt, Call, result_of
from sinfonia.protocol.backoff import Backoff, Random
from sinfonia.protocol.conversation import Conversation
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.messages import Answer, ExecCommit, ExecPrepare, Request, Vote, Voted
from sinfonia.protocol.outcomes import Outcomes

# How often unanswered requests and deadlines are looked at; a deadline is kept to within this.
TICK = 0.02


class Calls:
    """The calls of one application node; times are monotonic seconds.

    Calls that are over turn up in ``finished``.  ``next_tick`` is when unanswered requests and
    deadlines are to be looked at.
    """

    def __init__(
        self, *, client: int, epoch: int, rng: Random, nodes: Iterable[MemoryNodeId]
    ) -> None:
        self.epoch = epoch
        self.finished: list[Call] = []
        self.retried = 0
        self.resent = 0
        self.next_counter = 1
        self.next_tick = 0.0
        self.conversations = {node: Conversation(node) for node in nodes}
        self.outcomes = Outcomes()
        self.backing_off = Backoff(rng)
        self._client = client

    @property
    def idle(self) -> bool:
        """Nothing is in flight, not even an acknowledgement."""
        return (
            self.outcomes.idle
            and not self.backing_off
            and not any(each.waiting for each in self.conversations.values())
        )

    # --- callers -------------------------------------------------------------------------------

    def begin(self, call: Call, now: float) -> list[SendTo]:
        """Begin the next attempt of ``call``, under a new tid."""
        call.attempts += 1
        counter = self.next_counter
        self.next_counter = counter + 1
        attempt = Attempt.begin(call, Tid(self.epoch, self._client, counter), now)
        if self.next_tick < now:
            self.next_tick = now + TICK
        sends = []
        for node, request in attempt.requests.items():
            self.conversations[node].waiting[counter] = attempt
            sends.append(SendTo(node, request))
        return sends

    def finish(self, call: Call, result: Result) -> None:
        """``call`` is over, with this result."""
        call.result = result
        self.finished.append(call)

    def on_close(self) -> None:
        """Nothing more will be sent or heard: every call is over, with what is known of it."""
        for call in self.backing_off.drop():
            self._fail(call, NotExecuted("the connection was closed while its locks were busy"))
        for conversation in self.conversations.values():
            for attempt in list(conversation.waiting.values()):
                self._stop_waiting(attempt)
                if attempt.call is not None:
                    self._fail(attempt.call, attempt.closed())

    # --- votes ---------------------------------------------------------------------------------

    def on_vote(
        self, attempt: Attempt, node: MemoryNodeId, voted: Voted, now: float
    ) -> list[SendTo]:
        """A vote that was waited for."""
        call = attempt.call
        if call is None:
            return self._settled(self.outcomes.on_late_vote(node, attempt.tid, voted.vote))
        if len(attempt.requests) == 1:
            return self._on_one_phase_vote(attempt, call, node, voted, now)
        attempt.votes[node] = voted
        return self._decide(attempt, call, now) if attempt.complete else []

    def _on_one_phase_vote(
        self, attempt: Attempt, call: Call, node: MemoryNodeId, voted: Voted, now: float
    ) -> list[SendTo]:
        vote = voted.vote
        if vote is Vote.OK or vote is Vote.BAD_CMP:
            self.finish(call, result_of(call, {node: voted}))
        elif vote is Vote.BAD_LOCK or vote is Vote.BAD_FORCED:
            self.backing_off.add(call, now)
        elif vote is Vote.BAD_RANGE:
            self._fail(call, OutOfRange(NOT_ALL_BYTES))
        elif attempt.says_nothing(voted):
            self._fail(call, attempt.too_late())
        else:
            return self.begin(call, now)  # a stale epoch; the batch brought the current one
        return []

    def _decide(self, attempt: Attempt, call: Call, now: float) -> list[SendTo]:
        """Figure 4, lines 7-11; with a vote missing, only if another is not OK."""
        votes = attempt.votes
        bad = {voted.vote for voted in votes.values() if voted.vote is not Vote.OK}
        assert bad or len(votes) == len(attempt.requests), "committed with a vote missing"
        self._stop_waiting(attempt)
        sends = self.outcomes.announce(attempt, action=not bad, now=now)
        if not bad:
            if attempt.read_only and not attempt.still_held(now):
                return sends + self.begin(call, now)
            self.finish(call, result_of(call, votes))
        elif Vote.BAD_CMP in bad:
            self.finish(call, result_of(call, votes))
        elif Vote.BAD_RANGE in bad:
            self._fail(call, OutOfRange(NOT_ALL_BYTES))
        elif any(attempt.says_nothing(voted) for voted in votes.values()):
            self._fail(call, attempt.too_late())
        else:
            self.backing_off.add(call, now)
        return sends

    def on_turned_away(
        self, attempt: Attempt, node: MemoryNodeId, now: float, *, admitted: bool
    ) -> list[SendTo]:
        """A copy was not executed: ask again soon, or at once if it lacked the generation."""
        attempt.turned_away(node)
        if admitted and attempt.call is not None and attempt.is_untouched(node):
            return self._ask_again(attempt, (node,))
        self.conversations[node].on_turned_away(now)
        return []

    def on_commit_ack(self, node: MemoryNodeId, tid: Tid) -> list[SendTo]:
        """The outcome of ``tid`` is stable at ``node``."""
        return self._settled(self.outcomes.on_commit_ack(node, tid))

    def on_resolved(self, node: MemoryNodeId, tid: Tid, answer: Answer) -> list[SendTo]:
        """``node`` has answered the recovery coordinator of ``tid``."""
        return self._settled(self.outcomes.on_resolved(node, tid, answer))

    # --- what is sent again --------------------------------------------------------------------

    def on_unsent(self, node: MemoryNodeId, requests: Sequence[Request], now: float) -> None:
        """There is no connection to ``node``: ``requests`` never left."""
        conversation = self.conversations[node]
        for request in requests:
            if isinstance(request, ExecCommit):
                attempt = conversation.waiting.get(request.counter)
            elif isinstance(request, ExecPrepare):
                attempt = conversation.waiting.get(request.tid.counter)
            else:
                continue
            if attempt is not None:
                attempt.not_sent(node)
        self.next_tick = min(self.next_tick, conversation.on_no_connection(now))

    def on_new_life(self, node: MemoryNodeId, now: float) -> list[SendTo]:
        """The node began another life: what it has not answered it never saw, or has in its log."""
        sends: list[SendTo] = []
        conversation = self.conversations[node]
        conversation.on_new_life()
        for attempt in list(conversation.waiting.values()):
            if attempt.call is None:
                continue
            if attempt.read_only and len(attempt.requests) > 1:
                sends += self._try_again(attempt, attempt.call, now)
            else:
                sends += self._ask_again(attempt, (node,))
        return sends + self.outcomes.on_new_life(node)

    def retry(self, now: float) -> list[SendTo]:
        """Try the locks again that were busy for long enough."""
        sends: list[SendTo] = []
        for call in self.backing_off.due(now):
            if call.deadline <= now:
                self._fail(call, Contended("its locks stayed busy until the deadline; try again"))
            else:
                self.retried += 1
                sends += self.begin(call, now)
        return sends

    def ask_again(self, now: float) -> tuple[list[SendTo], bool]:
        """What to ask again or to give up, and whether a memory node has been silent."""
        sends: list[SendTo] = []
        any_silent = False
        for conversation in self.conversations.values():
            for attempt, lost_by, silent in conversation.overdue(now):
                call = attempt.call
                if call is None:
                    continue
                if call.deadline <= now:
                    sends += self._give_up(attempt, call, now)
                # Else it was asked in this very tick, because of another of its memory nodes.
                elif attempt.sent_at <= lost_by:
                    any_silent = any_silent or silent
                    sends += self._try_again(attempt, call, now)
        again = self.outcomes.ask_again(now)
        return sends + again, any_silent or bool(again)

    def _try_again(self, attempt: Attempt, call: Call, now: float) -> list[SendTo]:
        if attempt.refused:
            return self._decide(attempt, call, now)
        if attempt.read_only and len(attempt.requests) > 1:
            # The votes that did come grow old; a new tid collects them all anew.
            self._stop_waiting(attempt)
            sends = self.outcomes.announce(attempt, action=False, now=now)
            return sends + self.begin(call, now)
        attempt.sent_at = now
        return self._ask_again(attempt, attempt.requests)

    def _ask_again(self, attempt: Attempt, nodes: Iterable[MemoryNodeId]) -> list[SendTo]:
        waiting = [node for node in nodes if node not in attempt.votes]
        attempt.sent_again(waiting)
        self.resent += len(waiting)
        return [SendTo(node, attempt.requests[node]) for node in waiting]

    def _give_up(self, attempt: Attempt, call: Call, now: float) -> list[SendTo]:
        """The caller's deadline has passed and a vote is missing."""
        definite = attempt.why_not_executed()
        if definite is not None:
            self._stop_waiting(attempt)
            self._fail(call, definite)
            if len(attempt.requests) == 1:
                return []
            return self.outcomes.announce(attempt, action=False, now=now)
        self._fail(call, attempt.unknown())
        attempt.call = None
        return self._settled(self.outcomes.resolve(attempt, now))

    def _settled(self, sends: list[SendTo]) -> list[SendTo]:
        """Wait for no more votes on what is settled; what settled it sends ``sends``."""
        settled = self.outcomes.settled
        while settled:
            counter = settled.pop().counter
            for conversation in self.conversations.values():
                conversation.waiting.pop(counter, None)
        return sends

    def _stop_waiting(self, attempt: Attempt) -> None:
        for node in attempt.requests:
            self.conversations[node].waiting.pop(attempt.tid.counter, None)

    def _fail(self, call: Call, error: SinfoniaError) -> None:
        call.error = error
        self.finished.append(call)

    def check_invariants(self) -> None:
        """Each attempt is over, or is waited for wherever its answer is missing."""
        self.outcomes.check_invariants()
        assert not self.outcomes.settled
        for node, conversation in self.conversations.items():
            assert conversation.node == node
            conversation.check_invariants()
            for counter, attempt in conversation.waiting.items():
                assert counter < self.next_counter
                self._check_attempt(attempt)

    def _check_attempt(self, attempt: Attempt) -> None:
        call, counter = attempt.call, attempt.tid.counter
        if call is None:
            assert self.outcomes.is_resolving(attempt.tid), "its outcome is not looked for"
            return
        assert call.result is None, "its call is over"
        assert call.error is None, "its call is over"
        for node in attempt.requests.keys() - attempt.votes.keys():
            assert self.conversations[node].waiting.get(counter) is attempt
