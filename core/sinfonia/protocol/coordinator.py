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

The parts: ``Calls`` sends attempts, collects votes and decides (calls.py); a ``Conversation`` is
what is known of one memory node, and says what to ask it again (conversation.py); ``Outcomes`` is
what is left when the votes are in, or the caller has gone (outcomes.py).
"""

from collections.abc import Sequence
from typing import Any

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import OutOfRange
from sinfonia.minitransaction import Minitransaction, Result
from sinfonia.protocol.attempts import Attempt, Call
from sinfonia.protocol.backoff import Random
from sinfonia.protocol.calls import TICK, Calls
from sinfonia.protocol.conversation import Conversation
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.known_cluster import KnownCluster
from sinfonia.protocol.load.inquiry import LoadInquiry
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    CommitAck,
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
from sinfonia.protocol.recovery import Outcome
from sinfonia.protocol.watching import Watched, Watching

# Looked up for every reply.
OK, BAD_LOAD = Vote.OK, Vote.BAD_LOAD


class Coordinator:
    """All minitransactions of one application node.  It does no I/O; see effects.py.

    Methods that take an event return what to send; calls that are over come from
    ``take_finished``, and changes of the directory in ``known.changed``.  All times are
    monotonic seconds.
    """

    def __init__(self, *, client: int, rng: Random, directory: Directory) -> None:
        self.client = client
        self.clock = 0  # the highest that a memory node has told us
        self.known = KnownCluster(directory)
        self.watching = Watching()
        self.calls = Calls(client=client, epoch=directory.epoch, rng=rng, nodes=self.known.entries)
        self.load_inquiries: list[LoadInquiry] = []  # those under way

    # --- what the driver asks ------------------------------------------------------------------

    def take_finished(self) -> list[Call]:
        """The calls that are over since the last time."""
        finished = self.calls.finished
        if finished:
            self.calls.finished = []
        return finished

    @property
    def idle(self) -> bool:
        """Nothing is in flight, not even an acknowledgement."""
        return self.calls.idle and not self.load_inquiries

    def floor(self, node: MemoryNodeId) -> int:
        """The lowest counter that ``node`` may still be asked to execute."""
        return self.calls.conversations[node].floor(self.calls.next_counter)

    def envelope(self, node: MemoryNodeId, requests: list[Request]) -> Requests:
        """The batch that carries ``requests`` to ``node``."""
        forget = self.calls.outcomes.take_forgettable(node)
        if forget:
            requests = [*requests, Forget(forget)]
        incarnation = self.known.incarnations[node]
        conversation = self.calls.conversations[node]
        return Requests(
            version=PROTOCOL_VERSION,
            client=self.client,
            incarnation=incarnation,
            floor=conversation.floor(self.calls.next_counter),
            requests=requests,
            clock=self.clock,
            node=node,
            generation=conversation.generation(incarnation),
        )

    def goodbyes(self) -> dict[MemoryNodeId, Requests]:
        """What to send last: a memory node remembers nothing of a client that has heard all."""
        return {
            node: self.envelope(node, [])
            for node, conversation in self.calls.conversations.items()
            if conversation.has_answered
        }

    def wants_directory(self, now: float) -> bool:
        """Whether the driver should ask for the directory now, wherever it can."""
        return self.known.wants_directory(now)

    def next_wakeup(self) -> float | None:
        """When ``on_tick`` must be called next; None: not before the next event."""
        wakeup = None if self.idle else self.calls.next_tick
        if self.calls.backing_off:
            wakeup = min(self.calls.backing_off.first_at, self.calls.next_tick)
        renewal = self.watching.next_wakeup() if self.watching else None
        if wakeup is None or renewal is None:
            return renewal if wakeup is None else wakeup
        return min(wakeup, renewal)

    # --- calls ---------------------------------------------------------------------------------

    def begin(
        self, minitransaction: Minitransaction[Any], *, now: float, deadline: float
    ) -> tuple[Call, list[SendTo]]:
        """Start executing; the call is over when ``take_finished`` returns it.

        Raises OutOfRange (definite) if an item names bytes that no memory node has.
        """
        capacities = self.known.capacities
        for node, items in minitransaction.items.items():
            if items.end > capacities.get(node, -1):
                raise self.known.out_of_range(node, items.end)
        call = Call(minitransaction, deadline)
        if not minitransaction.items:
            self.calls.finish(call, Result(committed=True))
            return call, []
        return call, self.calls.begin(call, now)

    def ask_for_load(self, inquiry: LoadInquiry, now: float) -> list[SendTo]:
        """Ask all that have not answered, until ``end_inquiry``."""
        self.load_inquiries.append(inquiry)
        if self.calls.next_tick < now:
            self.calls.next_tick = now + TICK
        return inquiry.due(now)

    def end_inquiry(self, inquiry: LoadInquiry) -> None:
        """The caller waits for the answers no longer."""
        self.load_inquiries.remove(inquiry)

    def outcome(self, tid: Tid) -> Outcome | None:
        """What became of a tid whose caller was told "unknown"; None while that is being found."""
        return self.calls.outcomes.outcome(tid)

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

    # --- events --------------------------------------------------------------------------------

    def on_directory(self, directory: Directory, now: float) -> list[SendTo]:
        """A manager or a member says where the memory nodes are; that may be old."""
        moved = self.known.learn(directory)
        self.calls.epoch = max(self.calls.epoch, self.known.epoch)
        for node in moved:
            if node not in self.calls.conversations:
                self.calls.conversations[node] = Conversation(node)
        return [send for node in moved for send in self._on_new_life(node, now)]

    def on_replies(self, node: MemoryNodeId, batch: Replies, now: float) -> list[SendTo]:
        """Handle what a memory node says."""
        known = self.known.incarnations[node]
        if batch.incarnation < known or batch.node != node:
            return self._on_stranger(node, batch, now)
        sends: list[SendTo] = []
        if batch.incarnation > known:
            self.known.incarnations[node] = batch.incarnation
            sends += self._on_new_life(node, now)
        if batch.epoch > self.calls.epoch:
            self.calls.epoch = batch.epoch
        if batch.clock > self.clock:
            self.clock = batch.clock
        conversation = self.calls.conversations[node]
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
                sends += self.calls.on_turned_away(attempt, node, now, admitted=admitted)
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
                self.calls.finished.append(call)
            elif attempt.is_answered_by(node, reply):
                del waiting[reply.counter]
                sends += self.calls.on_vote(attempt, node, reply, now)
            else:
                continue  # nonsense answers nothing; it is asked again
            answered = attempt
        if answered is not None:
            conversation.on_answer(answered, now)
        return sends

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
            return self._on_new_life(node, now)
        self._on_unavailable(node, now)
        return []

    def _on_unavailable(self, node: MemoryNodeId, now: float) -> None:
        """It refused the request: ask again soon, and ask which member serves now."""
        self.calls.conversations[node].on_refused(now)
        self.watching.on_unavailable(node, now)
        self.known.doubtful = True

    def _on_rare_reply(self, node: MemoryNodeId, reply: Reply, now: float) -> list[SendTo]:
        if isinstance(reply, CommitAck):
            return self.calls.on_commit_ack(node, reply.tid)
        if isinstance(reply, Hints):
            self.watching.on_hints(node, self.known.incarnations[node], reply, now)
            return []
        if isinstance(reply, Resolved):
            return self.calls.on_resolved(node, reply.tid, reply.answer)
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
        self.calls.on_unsent(node, requests, now)
        self.watching.on_unavailable(node, now)
        if not self.calls.conversations[node].connecting:
            self.known.doubtful = True

    def on_tick(self, now: float) -> list[SendTo]:
        """Time has passed: retry, resend, give up."""
        calls = self.calls
        sends = calls.retry(now)
        if self.watching:
            renewals, silence = self.watching.on_tick(now)
            self.known.doubtful |= silence
            sends += renewals
        if now < calls.next_tick:
            return sends
        calls.next_tick = now + TICK
        again, silence = calls.ask_again(now)
        load = [send for inquiry in self.load_inquiries for send in inquiry.due(now)]
        if silence or load:
            self.known.doubtful = True
        return sends + again + load + calls.outcomes.take_all_forgettable()

    def on_close(self) -> None:
        """Nothing more will be sent or heard: every call is over, with what is known of it."""
        self.calls.on_close()

    def _on_new_life(self, node: MemoryNodeId, now: float) -> list[SendTo]:
        """``node`` serves in another life, or at another place."""
        return self.watching.on_new_life(node, now) + self.calls.on_new_life(node, now)

    def check_invariants(self) -> None:
        """Every memory node that is known has a conversation, and the parts are in order."""
        assert self.calls.conversations.keys() == self.known.entries.keys()
        self.calls.check_invariants()
        self.watching.check_invariants()
