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
does not remember what the earlier answered without logging it.  An incarnation may begin at another
member (fail-over): what waits is sent there, under the same tids, once that is known.

A minitransaction without write items over several nodes is committed only if all votes came in
while all of its locks were certainly still held: within the shortest of the times that the votes
say they are good for, counted from the sending, less a margin for clocks that run unevenly.

What a coordinator knows of each memory node, and so what to ask it again, is a ``Conversation``
(conversation.py).  What is left when the votes are in, or the caller has gone, is in ``Outcomes``
(outcomes.py).
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import Contended, NotExecuted, OutOfRange, SinfoniaError
from sinfonia.minitransaction import Minitransaction, Result
from sinfonia.protocol.attempts import NOT_ALL_BYTES, Attempt, Call, result_of
from sinfonia.protocol.backoff import Backoff, Random
from sinfonia.protocol.conversation import Conversation
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.known_cluster import KnownCluster
from sinfonia.protocol.load.inquiry import LoadInquiry
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    CommitAck,
    ExecCommit,
    ExecPrepare,
    Forget,
    Hints,
    Load,
    NotServing,
    Replies,
    Reply,
    Request,
    Requests,
    Resolved,
    Vote,
    Voted,
    WrongConfig,
    WrongIncarnation,
)
from sinfonia.protocol.outcomes import Outcomes
from sinfonia.protocol.recovery import Outcome
from sinfonia.protocol.watching import Watched, Watching

# Looked up for every reply.
OK, BAD_LOAD = Vote.OK, Vote.BAD_LOAD

# How often unanswered requests and deadlines are looked at; a deadline is kept to within this.
TICK = 0.02


class Coordinator:
    """All minitransactions of one application node.  It does no I/O; see effects.py.

    Methods that take an event return what to send; calls that are over turn up in ``finished``,
    which the driver empties, and changes of the directory in ``known.changed``.  All times are
    monotonic seconds.
    """

    def __init__(self, *, client: int, rng: Random, directory: Directory) -> None:
        self.client = client
        self.epoch = directory.epoch
        self.clock = 0  # the highest that a memory node has told us
        self.known = KnownCluster(directory)
        self.watching = Watching()
        self.finished: list[Call] = []
        self.retried = 0
        self.resent = 0
        self.load_inquiries: list[LoadInquiry] = []  # those under way
        self._next_counter = 1
        self._conversations = {node: Conversation(node) for node in self.known.entries}
        self._outcomes = Outcomes()
        self._backing_off = Backoff(rng)
        self._next_tick = 0.0

    # --- what the driver asks ------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nothing is in flight, not even an acknowledgement."""
        return (
            self._outcomes.idle
            and not self._backing_off
            and not self.load_inquiries
            and not any(each.waiting for each in self._conversations.values())
        )

    def floor(self, node: MemoryNodeId) -> int:
        """The lowest counter that ``node`` may still be asked to execute."""
        return self._conversations[node].floor(self._next_counter)

    def envelope(self, node: MemoryNodeId, requests: list[Request]) -> Requests:
        """The batch that carries ``requests`` to ``node``."""
        forget = self._outcomes.take_forgettable(node)
        if forget:
            requests = [*requests, Forget(forget)]
        incarnation = self.known.incarnations[node]
        conversation = self._conversations[node]
        return Requests(
            PROTOCOL_VERSION,
            self.client,
            incarnation,
            conversation.floor(self._next_counter),
            requests,
            clock=self.clock,
            node=node,
            generation=conversation.generation(incarnation),
        )

    def goodbyes(self) -> dict[MemoryNodeId, Requests]:
        """What to send last: a memory node remembers nothing of a client that has heard all."""
        return {
            node: self.envelope(node, [])
            for node, conversation in self._conversations.items()
            if conversation.has_answered
        }

    def wants_directory(self, now: float) -> bool:
        """Whether the driver should ask for the directory now, wherever it can."""
        return self.known.wants_directory(now)

    def next_wakeup(self) -> float | None:
        """When ``on_tick`` must be called next; None: not before the next event."""
        wakeup = None if self.idle else self._next_tick
        if self._backing_off:
            wakeup = min(self._backing_off.first_at, self._next_tick)
        renewal = self.watching.next_wakeup() if self.watching else None
        if wakeup is None or renewal is None:
            return renewal if wakeup is None else wakeup
        return min(wakeup, renewal)

    # --- calls ---------------------------------------------------------------------------------

    def begin(
        self, minitransaction: Minitransaction[Any], *, now: float, deadline: float
    ) -> tuple[Call, list[SendTo]]:
        """Start executing; the call is over when it turns up in ``finished``.

        Raises OutOfRange (definite) if an item names bytes that no memory node has.
        """
        capacities = self.known.capacities
        for node, items in minitransaction.items.items():
            if items.end > capacities.get(node, -1):
                raise self.known.out_of_range(node, items.end)
        call = Call(minitransaction, deadline)
        if not minitransaction.items:
            self._finish(call, Result(committed=True))
            return call, []
        return call, self._attempt(call, now)

    def ask_for_load(self, inquiry: LoadInquiry, now: float) -> list[SendTo]:
        """Ask all that have not answered, until ``end_inquiry``."""
        self.load_inquiries.append(inquiry)
        if self._next_tick < now:
            self._next_tick = now + TICK
        return inquiry.due(now)

    def end_inquiry(self, inquiry: LoadInquiry) -> None:
        """The caller waits for the answers no longer."""
        self.load_inquiries.remove(inquiry)

    def outcome(self, tid: Tid) -> Outcome | None:
        """What became of a tid whose caller was told "unknown"; None while that is being found."""
        return self._outcomes.outcome(tid)

    def watch(
        self, node: MemoryNodeId, address: int, length: int, *, now: float
    ) -> tuple[Watched, list[SendTo]]:
        """Begin to watch a range; what there is to say of it turns up in ``watching.news``.

        Raises OutOfRange or LimitExceeded; both are definite.
        """
        if length <= 0 or address < 0:
            raise OutOfRange(f"there is nothing to watch in {length} bytes at {address}")
        if address + length > self.known.capacities.get(node, -1):
            raise self.known.out_of_range(node, address + length)
        return self.watching.watch(node, address, length, now)

    def on_close(self) -> None:
        """Nothing more will be sent or heard: every call is over, with what is known of it."""
        for call in self._backing_off.drop():
            self._fail(call, NotExecuted("the connection was closed while its locks were busy"))
        for conversation in self._conversations.values():
            for attempt in list(conversation.waiting.values()):
                self._stop_waiting(attempt)
                if attempt.call is not None:
                    self._fail(attempt.call, attempt.closed())

    def _attempt(self, call: Call, now: float) -> list[SendTo]:
        call.attempts += 1
        counter = self._next_counter
        self._next_counter = counter + 1
        attempt = Attempt.begin(call, Tid(self.epoch, self.client, counter), now)
        if self._next_tick < now:
            self._next_tick = now + TICK
        sends = []
        for node, request in attempt.requests.items():
            self._conversations[node].waiting[counter] = attempt
            sends.append(SendTo(node, request))
        return sends

    # --- events --------------------------------------------------------------------------------

    def on_directory(self, directory: Directory, now: float) -> list[SendTo]:
        """A manager or a member says where the memory nodes are; that may be old."""
        moved = self.known.learn(directory)
        self.epoch = max(self.epoch, self.known.epoch)
        for node in moved:
            if node not in self._conversations:
                self._conversations[node] = Conversation(node)
        return [send for node in moved for send in self._resend_to(node, now)]

    def on_replies(self, node: MemoryNodeId, batch: Replies, now: float) -> list[SendTo]:
        """Handle what a memory node says."""
        known = self.known.incarnations[node]
        if batch.incarnation < known or batch.node != node:
            return self._on_stranger(node, batch, now)
        sends: list[SendTo] = []
        if batch.incarnation > known:
            self.known.incarnations[node] = batch.incarnation
            sends += self._resend_to(node, now)
        if batch.epoch > self.epoch:
            self.epoch = batch.epoch
        if batch.clock > self.clock:
            self.clock = batch.clock
        conversation = self._conversations[node]
        admitted = batch.generation > 0 and conversation.on_generation(
            batch.incarnation, batch.generation
        )
        waiting = conversation.waiting
        answered: Attempt | None = None
        for reply in batch.replies:
            if type(reply) is not Voted:
                sends += self._on_rare_reply(node, reply, now)
                continue
            attempt = waiting.get(reply.counter)
            if attempt is None:
                continue
            if reply.vote is BAD_LOAD:
                sends += self._on_turned_away(attempt, node, now, admitted=admitted)
                continue
            call = attempt.call
            if (
                call is not None
                and reply.vote is OK
                and len(attempt.requests) == 1
                and not call.minitransaction.add_places
                and not call.minitransaction.append_places
                and len(reply.reads) == len(call.minitransaction.read_places)
            ):
                # What mostly happens: nothing was added or appended, and nothing is to be sent.
                del waiting[reply.counter]
                call.result = Result(True, reply.reads, (), call.attempts)
                self.finished.append(call)
            elif attempt.is_answered_by(node, reply):
                del waiting[reply.counter]
                sends += self._on_vote(attempt, node, reply, now)
            else:
                continue  # nonsense answers nothing; it is asked again
            answered = attempt
        if answered is not None:
            conversation.on_answer(answered, now)
        return sends

    def _on_turned_away(
        self, attempt: Attempt, node: MemoryNodeId, now: float, *, admitted: bool
    ) -> list[SendTo]:
        """A copy was not executed: ask again soon, or at once if it lacked the generation."""
        attempt.turned_away(node)
        if admitted and attempt.call is not None and attempt.is_untouched(node):
            return self._ask_again(attempt, (node,))
        self._conversations[node].on_turned_away(now)
        return []

    def _on_stranger(self, node: MemoryNodeId, batch: Replies, now: float) -> list[SendTo]:
        """A former life of the memory node, or another one at its old address, speaks.

        Its votes do not count, but it may know which member serves now.
        """
        sends: list[SendTo] = []
        for reply in batch.replies:
            if isinstance(reply, WrongConfig | Directory):
                sends += self._on_rare_reply(node, reply, now)
            elif isinstance(reply, NotServing | WrongIncarnation):
                self.known.doubtful = True
        return sends

    def _on_wrong_config(
        self, node: MemoryNodeId, entry: MemoryNodeEntry, now: float
    ) -> list[SendTo]:
        """It names the primary.  If that is no news, two members claim to be; ask again later."""
        if entry.node == node and self.known.learn_entry(entry):
            return self._resend_to(node, now)
        self._on_unavailable(node, now)
        return []

    def _on_unavailable(self, node: MemoryNodeId, now: float) -> None:
        """It refused the request: ask again soon, and ask which member serves now."""
        self._conversations[node].on_refused(now)
        self.watching.on_unavailable(node, now)
        self.known.doubtful = True

    def _on_rare_reply(self, node: MemoryNodeId, reply: Reply, now: float) -> list[SendTo]:
        if isinstance(reply, CommitAck):
            return self._settled(self._outcomes.on_commit_ack(node, reply.tid))
        if isinstance(reply, Hints):
            self.watching.on_hints(node, self.known.incarnations[node], reply, now)
            return []
        if isinstance(reply, Resolved):
            return self._settled(self._outcomes.on_resolved(node, reply.tid, reply.answer))
        if isinstance(reply, WrongConfig):
            return self._on_wrong_config(node, reply.entry, now)
        if isinstance(reply, Directory):
            return self.on_directory(reply, now)
        if isinstance(reply, NotServing):
            self._on_unavailable(node, now)
        if isinstance(reply, Load):
            for inquiry in self.load_inquiries:
                inquiry.on_load(node, reply)
        return []

    def on_unsent(self, node: MemoryNodeId, requests: Sequence[Request], now: float) -> None:
        """There is no connection to ``node``: ``requests`` never left."""
        conversation = self._conversations[node]
        for request in requests:
            if isinstance(request, ExecCommit):
                attempt = conversation.waiting.get(request.counter)
            elif isinstance(request, ExecPrepare):
                attempt = conversation.waiting.get(request.tid.counter)
            else:
                continue
            if attempt is not None:
                attempt.not_sent(node)
        self._next_tick = min(self._next_tick, conversation.on_no_connection(now))
        self.watching.on_unavailable(node, now)
        if not conversation.connecting:
            self.known.doubtful = True

    def on_tick(self, now: float) -> list[SendTo]:
        """Time has passed: retry, resend, give up."""
        sends: list[SendTo] = []
        for call in self._backing_off.due(now):
            if call.deadline <= now:
                self._fail(call, Contended("its locks stayed busy until the deadline; try again"))
            else:
                self.retried += 1
                sends += self._attempt(call, now)
        if self.watching:
            renewals, silence = self.watching.on_tick(now)
            self.known.doubtful |= silence
            sends += renewals
        if now < self._next_tick:
            return sends
        self._next_tick = now + TICK
        for conversation in self._conversations.values():
            for attempt, lost_by, silent in conversation.overdue(now):
                sends += self._look_at(attempt, now, lost_by, silent=silent)
        again = self._outcomes.ask_again(now)
        if again:
            self.known.doubtful = True
        sends += again
        sends += self._ask_again_for_load(now)
        return sends + self._outcomes.take_all_forgettable()

    def _ask_again_for_load(self, now: float) -> list[SendTo]:
        again = [send for inquiry in self.load_inquiries for send in inquiry.due(now)]
        if again:
            self.known.doubtful = True
        return again

    # --- votes ---------------------------------------------------------------------------------

    def _on_vote(
        self, attempt: Attempt, node: MemoryNodeId, voted: Voted, now: float
    ) -> list[SendTo]:
        """A vote that was waited for."""
        call = attempt.call
        if call is None:
            return self._settled(self._outcomes.on_late_vote(node, attempt.tid, voted.vote))
        if len(attempt.requests) == 1:
            return self._on_one_phase_vote(attempt, call, node, voted, now)
        attempt.votes[node] = voted
        return self._decide(attempt, call, now) if attempt.complete else []

    def _on_one_phase_vote(
        self, attempt: Attempt, call: Call, node: MemoryNodeId, voted: Voted, now: float
    ) -> list[SendTo]:
        vote = voted.vote
        if vote is Vote.OK or vote is Vote.BAD_CMP:
            self._finish(call, result_of(call, {node: voted}))
        elif vote is Vote.BAD_LOCK or vote is Vote.BAD_FORCED:
            self._backing_off.add(call, now)
        elif vote is Vote.BAD_RANGE:
            self._fail(call, OutOfRange(NOT_ALL_BYTES))
        elif attempt.says_nothing(voted):
            self._fail(call, attempt.too_late())
        else:
            return self._attempt(call, now)  # a stale epoch; the batch brought the current one
        return []

    def _decide(self, attempt: Attempt, call: Call, now: float) -> list[SendTo]:
        """Figure 4, lines 7-11; with a vote missing, only if another is not OK."""
        votes = attempt.votes
        bad = {voted.vote for voted in votes.values() if voted.vote is not Vote.OK}
        assert bad or len(votes) == len(attempt.requests), "committed with a vote missing"
        self._stop_waiting(attempt)
        sends = self._outcomes.announce(attempt, action=not bad, now=now)
        if not bad:
            if attempt.read_only and not attempt.still_held(now):
                return sends + self._attempt(call, now)
            self._finish(call, result_of(call, votes))
        elif Vote.BAD_CMP in bad:
            self._finish(call, result_of(call, votes))
        elif Vote.BAD_RANGE in bad:
            self._fail(call, OutOfRange(NOT_ALL_BYTES))
        elif any(attempt.says_nothing(voted) for voted in votes.values()):
            self._fail(call, attempt.too_late())
        else:
            self._backing_off.add(call, now)
        return sends

    # --- time ----------------------------------------------------------------------------------

    def _look_at(
        self, attempt: Attempt, now: float, lost_by: float, *, silent: bool
    ) -> list[SendTo]:
        """An attempt that some memory node has not answered; ``silent``: nor said anything else."""
        call = attempt.call
        if call is None:
            return []
        if call.deadline <= now:
            return self._give_up(attempt, call, now)
        # Asked in this very tick, perhaps because of another of its memory nodes, or lately.
        if attempt.sent_at > lost_by:
            return []
        if silent:
            self.known.doubtful = True
        return self._try_again(attempt, call, now)

    def _try_again(self, attempt: Attempt, call: Call, now: float) -> list[SendTo]:
        if attempt.refused:
            return self._decide(attempt, call, now)
        if attempt.read_only and len(attempt.requests) > 1:
            # The votes that did come grow old; a new tid collects them all anew.
            self._stop_waiting(attempt)
            sends = self._outcomes.announce(attempt, action=False, now=now)
            return sends + self._attempt(call, now)
        attempt.sent_at = now
        return self._ask_again(attempt, attempt.requests)

    def _ask_again(self, attempt: Attempt, nodes: Iterable[MemoryNodeId]) -> list[SendTo]:
        waiting = [node for node in nodes if node not in attempt.votes]
        attempt.sent_again(waiting)
        self.resent += len(waiting)
        return [SendTo(node, attempt.requests[node]) for node in waiting]

    def _resend_to(self, node: MemoryNodeId, now: float) -> list[SendTo]:
        """The node began another life: what it has not answered it never saw, or has in its log."""
        sends = self.watching.on_new_life(node, now)
        conversation = self._conversations[node]
        conversation.on_new_life()
        for attempt in list(conversation.waiting.values()):
            if attempt.call is None:
                continue
            if attempt.read_only and len(attempt.requests) > 1:
                sends += self._try_again(attempt, attempt.call, now)
            else:
                sends += self._ask_again(attempt, (node,))
        return sends + self._outcomes.on_new_life(node)

    def _give_up(self, attempt: Attempt, call: Call, now: float) -> list[SendTo]:
        """The caller's deadline has passed and a vote is missing."""
        definite = attempt.why_not_executed()
        if definite is not None:
            self._stop_waiting(attempt)
            self._fail(call, definite)
            if len(attempt.requests) == 1:
                return []
            return self._outcomes.announce(attempt, action=False, now=now)
        self._fail(call, attempt.unknown())
        attempt.call = None
        return self._settled(self._outcomes.resolve(attempt, now))

    def _settled(self, sends: list[SendTo]) -> list[SendTo]:
        """Wait for no more votes on what is settled; what settled it sends ``sends``."""
        settled = self._outcomes.settled
        while settled:
            counter = settled.pop().counter
            for conversation in self._conversations.values():
                conversation.waiting.pop(counter, None)
        return sends

    def _stop_waiting(self, attempt: Attempt) -> None:
        for node in attempt.requests:
            self._conversations[node].waiting.pop(attempt.tid.counter, None)

    def _finish(self, call: Call, result: Result) -> None:
        call.result = result
        self.finished.append(call)

    def _fail(self, call: Call, error: SinfoniaError) -> None:
        call.error = error
        self.finished.append(call)

    def check_invariants(self) -> None:
        """Each attempt is over, or is waited for wherever its answer is missing."""
        self._outcomes.check_invariants()
        assert not self._outcomes.settled
        for node, conversation in self._conversations.items():
            assert conversation.node == node
            conversation.check_invariants()
            for counter, attempt in conversation.waiting.items():
                assert counter < self._next_counter
                self._check_attempt(attempt)

    def _check_attempt(self, attempt: Attempt) -> None:
        call, counter = attempt.call, attempt.tid.counter
        if call is None:
            assert self._outcomes.is_resolving(attempt.tid), "its outcome is not looked for"
            return
        assert call.result is None, "its call is over"
        assert call.error is None, "its call is over"
        for node in attempt.requests.keys() - attempt.votes.keys():
            assert self._conversations[node].waiting.get(counter) is attempt
