"""Coordinators and participants under load, in virtual time: the protocol is real, time is not.

Each process does one thing at a time.  A wake-up handles all that has come, takes as long as
``costs`` says, and only then does what it has to send leave: one batch to each receiver, as with
the real drivers.  What comes meanwhile waits for the next wake-up, so that batches grow with the
load by themselves.
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.scale.costs import ApplicationNodeCosts, MemoryNodeCosts, NetworkCosts
from bench.scale.workload import CAPACITY, Workload, directory_of
from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.coordinator import Coordinator
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.load.counters import LoadCounters
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    Commit,
    ExecCommit,
    ExecPrepare,
    Replies,
    Reply,
    Request,
    Requests,
)
from sinfonia.protocol.participant import Participant
from sinfonia.protocol.participant_state import LiveParticipantState
from sinfonia.simulation.scheduler import Scheduler
from sinfonia.transport.codec import encode_replies, encode_requests

# Failures are another simulation's business: no call here comes near its deadline.
NEVER = math.inf

# The programs of an application node begin within this time of each other (seconds).
START_WITHIN = 0.001

MICROSECOND = 1e-6


class Zeros:
    """Memory that is all zeros and stays so: compare-and-swaps here put back what they found.

    So that hundreds of memory nodes fit into one process, and every compare matches.
    """

    capacity = CAPACITY

    @property
    def memory(self) -> "Zeros":
        return self

    def __getitem__(self, key: slice, /) -> bytes:
        return bytes(key.stop - key.start)

    def write(self, address: int, data: bytes) -> None:
        assert not any(data), f"{data!r} written at {address}"


@dataclass(slots=True)
class Tally:
    """What a system has done so far: ``messages`` are requests and replies, and ``batches`` is how
    they crossed the network; ``attempts`` are those of what has committed."""

    committed: int = 0
    attempts: int = 0
    messages: int = 0
    batches: int = 0


class Network:
    """Carries batches, and counts them and what is in them."""

    def __init__(self, scheduler: Scheduler, costs: NetworkCosts) -> None:
        self.scheduler = scheduler
        self.tally = Tally()
        self._costs = costs

    def carry(
        self, deliver: Callable[..., None], batch: Requests | Replies, *sender: object
    ) -> None:
        """Call ``deliver(*sender, batch)`` when ``batch`` has crossed the network."""
        self.tally.batches += 1
        if isinstance(batch, Requests):
            self.tally.messages += len(batch.requests)
            frames = encode_requests(batch)
        else:
            self.tally.messages += len(batch.replies)
            frames = encode_replies(batch)
        size = sum(map(len, frames))
        delay = (self._costs.latency_us + size * self._costs.byte_us) * MICROSECOND
        self.scheduler.after(delay, deliver, *sender, batch)


class Process:
    """Wakes up when there is something to do, and is busy for as long as that takes."""

    def __init__(self, network: Network) -> None:
        self.busy_s = 0.0
        self._network = network
        self._scheduler = network.scheduler
        self._busy = False
        self._has_work = False

    def wake(self) -> None:
        """There is something to do: now, or after what is being done."""
        self._has_work = True
        if not self._busy:
            self._wake_up()

    def _wake_up(self) -> None:
        self._busy = True
        self._has_work = False
        seconds = self.handle() * MICROSECOND
        self._scheduler.after(seconds, self._fall_asleep, seconds)

    def _fall_asleep(self, seconds: float) -> None:
        self.busy_s += seconds
        self._busy = False
        self.send()
        if self._has_work:
            self._wake_up()

    def handle(self) -> float:
        """Do all there is to do; what it costs, in microseconds."""
        raise NotImplementedError

    def send(self) -> None:
        """Let go what ``handle`` had to send."""
        raise NotImplementedError


class MemoryNode(Process):
    """A participant in mode RAM."""

    def __init__(self, network: Network, node: MemoryNodeId, costs: MemoryNodeCosts) -> None:
        super().__init__(network)
        self.node = node
        self.participant = Participant(
            LiveParticipantState(Zeros(), logged=False),
            node=node,
            incarnation=1,
            read_lease=0.25,
            load=LoadCounters(),
        )
        self.participant.serving = True
        self._costs = costs
        self._inbox: list[tuple[ApplicationNode, Requests]] = []
        self._ready: dict[ApplicationNode, list[Reply]] = {}

    def receive(self, sender: "ApplicationNode", batch: Requests) -> None:
        """A batch has arrived."""
        self._inbox.append((sender, batch))
        self.wake()

    def handle(self) -> float:
        inbox, self._inbox = self._inbox, []
        cost_us = 0.0
        for sender, batch in inbox:
            cost_us += self._costs.batch_us
            cost_us += sum(self._cost_us(request) for request in batch.requests)
            step = self.participant.on_requests(batch, self._scheduler.now)
            assert not step.records, f"{step} without a log"
            if step.replies or step.once_stable:
                ready = self._ready.setdefault(sender, [])
                ready += step.replies
                ready += step.once_stable
        return cost_us + len(self._ready) * self._costs.batch_us

    def send(self) -> None:
        ready, self._ready = self._ready, {}
        for receiver, replies in ready.items():
            batch = Replies(
                version=PROTOCOL_VERSION,
                node=self.node,
                incarnation=1,
                epoch=self.participant.state.epoch,
                replies=replies,
            )
            self._network.carry(receiver.receive, batch, self.node)

    def _cost_us(self, request: Request) -> float:
        costs = self._costs
        if isinstance(request, ExecPrepare):
            items_us = len(request.writes) * costs.exec_prepare_swap_us
            list_us = len(request.participants) * costs.participant_us
            return costs.exec_prepare_us + items_us + list_us
        if isinstance(request, ExecCommit):
            return costs.exec_commit_us + len(request.writes) * costs.exec_commit_swap_us
        return costs.commit_us if isinstance(request, Commit) else 0.0


class ApplicationNode(Process):
    """A coordinator, and programs that each execute one minitransaction after another."""

    def __init__(
        self,
        network: Network,
        costs: ApplicationNodeCosts,
        *,
        memory_nodes: Sequence[MemoryNode],
        workload: Workload,
        rng: random.Random,
    ) -> None:
        super().__init__(network)
        self.coordinator = Coordinator(
            client=rng.getrandbits(64), rng=rng, directory=directory_of(len(memory_nodes))
        )
        self._costs = costs
        self._memory_nodes = memory_nodes
        self._workload = workload
        self._rng = rng
        self._inbox: list[tuple[MemoryNodeId, Replies]] = []
        self._outbox: list[tuple[MemoryNodeId, Requests]] = []
        self._idle_programs = 0
        self._alarm_at = 0.0

    def start(self, programs: int) -> None:
        """Set ``programs`` to work, not all in the same moment."""
        for _ in range(programs):
            self._scheduler.after(self._rng.uniform(0.0, START_WITHIN), self._start_one)

    def receive(self, node: MemoryNodeId, batch: Replies) -> None:
        """A batch has arrived."""
        self._inbox.append((node, batch))
        self.wake()

    def handle(self) -> float:
        now = self._scheduler.now
        costs = self._costs
        inbox, self._inbox = self._inbox, []
        sends: list[SendTo] = []
        cost_us = 0.0
        for node, batch in inbox:
            cost_us += costs.batch_us + len(batch.replies) * costs.message_us
            sends += self.coordinator.on_replies(node, batch, now)
        wakeup = self.coordinator.next_wakeup()
        if wakeup is not None and wakeup <= now:
            sends += self.coordinator.on_tick(now)
        self._count_finished()
        for _ in range(self._idle_programs):
            minitransaction = self._workload.minitransaction(self._rng)
            _, begun = self.coordinator.begin(minitransaction, now=now, deadline=NEVER)
            sends += begun
            cost_us += costs.minitransaction_us
            cost_us += self._workload.compare_and_swaps * costs.swap_us
        self._idle_programs = 0
        return cost_us + self._put(sends)

    def send(self) -> None:
        outbox, self._outbox = self._outbox, []
        for node, batch in outbox:
            self._network.carry(self._memory_nodes[node].receive, batch, self)
        self._plan_alarm()

    def _start_one(self) -> None:
        self._idle_programs += 1
        self.wake()

    def _count_finished(self) -> None:
        finished = self.coordinator.take_finished()
        for call in finished:
            assert call.result is not None, call.error
            assert call.result.committed, "every compare-and-swap here matches"
            self._network.tally.attempts += call.result.attempts
        self._network.tally.committed += len(finished)
        self._idle_programs += len(finished)

    def _put(self, sends: list[SendTo]) -> float:
        """Make batches of what is to be sent; what that costs, in microseconds."""
        costs = self._costs
        by_node: defaultdict[MemoryNodeId, list[Request]] = defaultdict(list)
        cost_us = 0.0
        for send in sends:
            by_node[send.node].append(send.request)
            cost_us += costs.message_us
            if isinstance(send.request, ExecPrepare):
                cost_us += len(send.request.participants) * costs.participant_us
        for node, requests in by_node.items():
            self._outbox.append((node, self.coordinator.envelope(node, requests)))
        return cost_us + len(by_node) * costs.batch_us

    def _plan_alarm(self) -> None:
        now = self._scheduler.now
        wakeup = self.coordinator.next_wakeup()
        if wakeup is None or now < self._alarm_at <= wakeup:
            return
        self._alarm_at = max(wakeup, now)
        self._scheduler.after(self._alarm_at - now, self.wake)
