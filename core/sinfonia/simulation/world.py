"""A coordinator joined to participants by a wire that a test can hold, cut and replay.

Each memory node is served by one member at a time; it can be made to fail over to another, and then
the test decides which process hears of it, and when.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.steps import minitransaction as unbound_minitransaction
from sinfonia.minitransaction import Minitransaction, Result
from sinfonia.protocol.attempts import Call
from sinfonia.protocol.calls import TICK
from sinfonia.protocol.coordinator import Coordinator
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    ExecCommit,
    ExecPrepare,
    Replies,
    Reply,
    Request,
    Requests,
    Vote,
    Voted,
    WrongConfig,
)
from sinfonia.protocol.sessions import SessionLimits
from sinfonia.simulation.participant_harness import CAPACITY, CLIENT, ParticipantHarness

# Items as (kind, node, address, bytes or length).
Item = tuple[str, int, int, bytes | int]


class OnTheWay(NamedTuple):
    """A batch to a memory node, and the member that it was sent to."""

    node: MemoryNodeId
    endpoint: str
    batch: Requests


class World:
    """Memory nodes, one coordinator and what is on the way between them.

    ``harnesses`` are the members that serve; ``wrong_config`` says of members that are over, by
    endpoint, which primary they name; memory nodes in ``overloaded`` vote BAD_LOAD.
    """

    def __init__(self, nodes: int = 2, *, sessions: SessionLimits | None = None) -> None:
        self.now = 0.0
        self.harnesses = {
            MemoryNodeId(i): ParticipantHarness(i, sessions=sessions) for i in range(nodes)
        }
        self.members = {f"node{node}": harness for node, harness in self.harnesses.items()}
        self.wrong_config: dict[str, MemoryNodeEntry] = {}
        self.overloaded: set[MemoryNodeId] = set()
        entries = [
            MemoryNodeEntry(
                node=node,
                endpoint=f"node{node}",
                capacity=CAPACITY,
                mode="LOG",
                identity=f"id{node}",
                incarnation=1,
            )
            for node in self.harnesses
        ]
        self.directory = Directory(1, 0, "test", entries)
        self.coordinator = Coordinator(
            client=CLIENT, rng=random.Random(1), directory=self.directory
        )
        self.sent: list[tuple[MemoryNodeId, Request]] = []
        self.on_the_way: list[OnTheWay] = []
        self.coming_back: list[tuple[MemoryNodeId, Replies]] = []
        self.calls: list[Call] = []

    # --- the program ---------------------------------------------------------------------------

    def execute(self, timeout: float, minitransaction: Minitransaction[Result]) -> Call:
        """Start ``minitransaction``; nothing is delivered yet."""
        call, sends = self.coordinator.begin(
            minitransaction, now=self.now, deadline=self.now + timeout
        )
        self._put(sends)
        self.calls.append(call)
        return call

    def begin(self, *items: Item, timeout: float = 10.0) -> Call:
        """Start a minitransaction of ``items``; nothing is delivered yet."""
        minitransaction = unbound_minitransaction()
        for kind, node, address, what in items:
            getattr(minitransaction, kind)(node, address, what)
        return self.execute(timeout, minitransaction)

    # --- the wire ------------------------------------------------------------------------------

    def deliver(self, *, to: Sequence[int] | None = None) -> None:
        """What is on the way reaches the memory nodes ``to``; their replies start back."""
        batches, self.on_the_way = self.on_the_way, []
        for each in batches:
            if to is None or each.node in to:
                self._arrive(each)
            else:
                self.on_the_way.append(each)

    def receive(self, *, of: Sequence[int] | None = None) -> None:
        """What is coming back from the memory nodes ``of`` reaches the coordinator."""
        batches, self.coming_back = self.coming_back, []
        for node, replies in batches:
            if of is not None and node not in of:
                self.coming_back.append((node, replies))
                continue
            self._put(self.coordinator.on_replies(node, replies, self.now))

    def settle(self) -> None:
        """Deliver everything there is, until nothing is on the way."""
        while self.on_the_way or self.coming_back:
            self.deliver()
            self.receive()

    def lose_everything(self) -> None:
        """Nothing that is on the way arrives."""
        self.on_the_way.clear()
        self.coming_back.clear()

    def pass_time(self, seconds: float) -> None:
        """Time goes by in ticks."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + TICK)
            self._put(self.coordinator.on_tick(self.now))

    # --- fail-over -----------------------------------------------------------------------------

    def restart(self, number: int) -> None:
        """The primary begins another life, with all that it logged."""
        node = MemoryNodeId(number)
        for endpoint, harness in self.members.items():
            if harness is self.harnesses[node]:
                self.members[endpoint] = self.harnesses[node] = harness.restarted()
                return

    def fail_over(self, number: int) -> MemoryNodeEntry:
        """A replica that has everything becomes primary; only the directory knows as yet."""
        node = MemoryNodeId(number)
        entry = self.directory.entry(node)
        assert entry is not None
        self.harnesses[node] = self.harnesses[node].restarted()
        entry = msgspec.structs.replace(
            entry,
            endpoint=f"node{node}r{entry.incarnation}",
            incarnation=self.harnesses[node].participant.incarnation,
            config_epoch=entry.config_epoch + 1,
        )
        self.members[entry.endpoint] = self.harnesses[node]
        others = [each for each in self.directory.nodes if each.node != node]
        self.directory = msgspec.structs.replace(
            self.directory, version=self.directory.version + 1, nodes=[*others, entry]
        )
        return entry

    def tell(self, directory: Directory) -> None:
        """The coordinator gets this directory."""
        self._put(self.coordinator.on_directory(directory, self.now))

    # --- the end -------------------------------------------------------------------------------

    def check(self) -> None:
        """Everything is settled everywhere, and no lock is left."""
        self.settle()
        self.pass_time(2 * TICK)
        self.settle()
        assert self.coordinator.idle
        self.coordinator.check_invariants()
        for harness in self.harnesses.values():
            harness.now = self.now + 100
            harness.step()
            harness.check()
            assert not harness.participant.state.decided

    def _arrive(self, each: OnTheWay) -> None:
        harness = self.members[each.endpoint]
        participant = harness.participant
        harness.now = self.now
        replies: list[Reply] = []
        if each.endpoint in self.wrong_config:
            replies.append(WrongConfig(self.wrong_config[each.endpoint]))
        elif each.node in self.overloaded:
            replies += _turned_away(each.batch)
        else:
            step = participant.on_requests(each.batch, self.now)
            harness.log += step.records
            self._reply(harness, step.replies)
            self._reply(harness, step.once_stable)
            for _, reply in step.elsewhere:
                self._reply(harness, [reply])
        self._reply(harness, replies)

    def _reply(self, harness: ParticipantHarness, replies: list[Reply]) -> None:
        if not replies:
            return
        participant = harness.participant
        batch = Replies(
            PROTOCOL_VERSION,
            harness.node,
            participant.incarnation,
            participant.state.epoch,
            replies,
            generation=participant.state.sessions.generation,
        )
        self.coming_back.append((harness.node, batch))

    def _put(self, sends: Sequence[SendTo]) -> None:
        by_node: dict[MemoryNodeId, list[Request]] = {}
        for send in sends:
            self.sent.append((send.node, send.request))
            by_node.setdefault(send.node, []).append(send.request)
        for node, requests in by_node.items():
            endpoint = self.coordinator.known.entries[node].endpoint
            batch = self.coordinator.envelope(node, requests)
            self.on_the_way.append(OnTheWay(node, endpoint, batch))


def _turned_away(batch: Requests) -> list[Reply]:
    replies: list[Reply] = []
    for request in batch.requests:
        if isinstance(request, ExecCommit):
            replies.append(Voted(request.counter, Vote.BAD_LOAD))
        elif isinstance(request, ExecPrepare):
            replies.append(Voted(request.tid.counter, Vote.BAD_LOAD))
    return replies
