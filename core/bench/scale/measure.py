"""Measures, on this machine, what the model takes each step to cost.

Coordinator, codec, sockets, participant and address space are the real ones, in one thread and in
lock step: all application-node work of a round is done and timed as a whole, then all memory-node
work, and so on.  Processor time is taken, not elapsed time, and the least of many rounds, since
whatever else a machine does only adds to it.  Differences between shapes of load give the costs of
the parts.
"""

import gc
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import zmq

from bench.scale.costs import ApplicationNodeCosts, Costs, MemoryNodeCosts
from bench.scale.workload import CAPACITY, ITEMS_PER_NODE, directory_of, minitransaction_of
from sinfonia.addresses import MemoryNodeId
from sinfonia.minitransaction import Minitransaction
from sinfonia.protocol.coordinator import Coordinator
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.load.counters import LoadCounters
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    ExecPrepare,
    Replies,
    Request,
    Requests,
)
from sinfonia.protocol.participant import Participant
from sinfonia.protocol.participant_state import LiveParticipantState
from sinfonia.storage.address_space import AddressSpace
from sinfonia.transport.codec import (
    decode_replies,
    decode_requests,
    encode_replies,
    encode_requests,
)
from sinfonia.transport.zeromq import bind_router, connect_dealer

# Minitransactions that are under way together: a busy memory node's worth of locks.
TOGETHER = 256

# Of each shape of load; the first rounds warm caches up.
ROUNDS = 100

BATCH = 16
SPREAD_FEW, SPREAD_MANY = 2, 8
SWAPS_FEW, SWAPS_MANY = 1, 4

# Ids in a list of participants, to see what one more costs.
IDS_FEW, IDS_MANY = 2, 258

# As many bytes as a batch of a few requests.
FRAME_BYTES = 200

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shape:
    """``swaps`` compare-and-swaps at each of ``spread`` memory nodes, ``batch`` minitransactions
    sent together."""

    spread: int
    batch: int
    swaps: int


@dataclass(slots=True)
class Times:
    """Microseconds, for one batch of minitransactions: of the application node, and of one memory
    node for its vote and for the outcome."""

    application_node: float = math.inf
    vote: float = math.inf
    outcome: float = math.inf


@dataclass(slots=True)
class Stopwatch:
    """Adds up the processor time of this thread."""

    seconds: float = 0.0

    def time(self, step: Callable[[], T]) -> T:
        """Take the time of ``step``."""
        began = time.thread_time()
        result = step()
        self.seconds += time.thread_time() - began
        return result


def measure() -> Costs:
    """What things cost here; takes some seconds."""
    gc.collect()
    gc.disable()  # as good as off in the real processes, too
    try:
        socket_us = _socket_us()
        encode_id_us, decode_id_us = _participant_us()
        singly, few, swaps, wide, one_phase, one_phase_swaps = _times(
            Shape(SPREAD_FEW, 1, SWAPS_FEW),
            Shape(SPREAD_FEW, BATCH, SWAPS_FEW),
            Shape(SPREAD_FEW, BATCH, SWAPS_MANY),
            Shape(SPREAD_MANY, BATCH, SWAPS_FEW),
            Shape(1, BATCH, SWAPS_FEW),
            Shape(1, BATCH, SWAPS_MANY),
        )
    finally:
        gc.enable()
    two_batches_us = singly.vote - _slope(singly.vote, few.vote)
    prepare_us, prepare_swap_us = _parts(few, swaps, two_batches_us)
    commit_us, commit_swap_us = _parts(one_phase, one_phase_swaps, two_batches_us)
    return Costs(
        memory_node=MemoryNodeCosts(
            batch_us=_rounded(two_batches_us / 2 + socket_us),
            exec_commit_us=_rounded(commit_us),
            exec_commit_swap_us=_rounded(commit_swap_us),
            exec_prepare_us=_rounded(prepare_us - SPREAD_FEW * decode_id_us),
            exec_prepare_swap_us=_rounded(prepare_swap_us),
            commit_us=_rounded(_slope(singly.outcome, few.outcome)),
            participant_us=_rounded(decode_id_us),
        ),
        application_node=_application_node(
            singly=singly,
            few=few,
            swaps=swaps,
            wide=wide,
            socket_us=socket_us,
            id_us=encode_id_us,
        ),
    )


def _parts(few: Times, many: Times, two_batches_us: float) -> tuple[float, float]:
    """A batch of b votes takes ``two_batches + b (request + n swaps)``: a request, and a swap."""
    swap_us = (many.vote - few.vote) / BATCH / (SWAPS_MANY - SWAPS_FEW)
    return (few.vote - two_batches_us) / BATCH - SWAPS_FEW * swap_us, swap_us


def _application_node(
    *, singly: Times, few: Times, swaps: Times, wide: Times, socket_us: float, id_us: float
) -> ApplicationNodeCosts:
    """b minitransactions over s memory nodes take ``4 s batch + b (minitransaction + 4 s message +
    swaps + s s ids)``: out and back, twice."""
    few_us = _slope(singly.application_node, few.application_node)
    batch_us = (singly.application_node - few_us) / (4 * SPREAD_FEW)
    wide_us = wide.application_node / BATCH - 4 * SPREAD_MANY * batch_us / BATCH
    more_swaps = SPREAD_FEW * (SWAPS_MANY - SWAPS_FEW)
    swap_us = (swaps.application_node - few.application_node) / BATCH / more_swaps
    # Without the compare-and-swaps and the lists of participants:
    few_us -= SPREAD_FEW * (swap_us + SPREAD_FEW * id_us)
    wide_us -= SPREAD_MANY * (swap_us + SPREAD_MANY * id_us)
    message_us = (wide_us - few_us) / (4 * (SPREAD_MANY - SPREAD_FEW))
    return ApplicationNodeCosts(
        batch_us=_rounded(batch_us + socket_us),
        minitransaction_us=_rounded(few_us - 4 * SPREAD_FEW * message_us),
        message_us=_rounded(message_us),
        swap_us=_rounded(swap_us),
        participant_us=_rounded(id_us),
    )


def _slope(singly: float, few: float) -> float:
    """What one more in a batch adds."""
    return (few - singly) / (BATCH - 1)


def _rounded(microseconds: float) -> float:
    return round(max(0.0, microseconds), 4)


def _times(*shapes: Shape) -> list[Times]:
    """The least times of ROUNDS rounds of each, in turns: a machine is not always as fast."""
    rigs = [Rig(shape) for shape in shapes]
    least = [Times() for _ in shapes]
    for _ in range(ROUNDS):
        for rig, best in zip(rigs, least, strict=True):
            times = rig.round()
            best.application_node = min(best.application_node, times.application_node)
            best.vote = min(best.vote, times.vote)
            best.outcome = min(best.outcome, times.outcome)
    for rig in rigs:
        rig.close()
    return least


class Rig:
    """One coordinator and ``spread`` participants, driven by hand."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._coordinator = Coordinator(
            client=2**63, rng=random.Random(1), directory=directory_of(shape.spread)
        )
        self._spaces = [AddressSpace(CAPACITY) for _ in range(shape.spread)]
        self._participants = [
            _participant(MemoryNodeId(node), space) for node, space in enumerate(self._spaces)
        ]
        self._items = count()
        self._now = 0.0

    def round(self) -> Times:
        """TOGETHER minitransactions from beginning to end."""
        self._now += 1.0
        batches = TOGETHER // self._shape.batch
        application, vote, outcome = Stopwatch(), Stopwatch(), Stopwatch()
        places = [[self._places() for _ in range(self._shape.batch)] for _ in range(batches)]
        requests = application.time(lambda: [self._begin(batch) for batch in places])
        votes = vote.time(lambda: [self._answer(each) for each in requests])
        commits = application.time(lambda: [self._handle(each) for each in votes])
        acks = outcome.time(lambda: [self._answer(each) for each in commits])
        application.time(lambda: [self._handle(each) for each in acks])
        finished = self._coordinator.take_finished()
        assert len(finished) == TOGETHER
        assert all(call.result is not None and call.result.attempts == 1 for call in finished)
        per_batch_us = 1e6 / batches
        return Times(
            application.seconds * per_batch_us,
            vote.seconds * per_batch_us / self._shape.spread,
            outcome.seconds * per_batch_us / self._shape.spread,
        )

    def close(self) -> None:
        """Give the memory back."""
        for space in self._spaces:
            space.close()

    def _places(self) -> list[tuple[int, int]]:
        """Where the next minitransaction compares and swaps."""
        # A prime stride: neighbours in time are strangers in memory.
        return [
            (node, next(self._items) * 7919 % ITEMS_PER_NODE)
            for _ in range(self._shape.swaps)
            for node in range(self._shape.spread)
        ]

    def _begin(self, batch: Sequence[Sequence[tuple[int, int]]]) -> list[list[bytes]]:
        sends: list[SendTo] = []
        for places in batch:
            minitransaction: Minitransaction[Any] = minitransaction_of(places)
            sends += self._coordinator.begin(minitransaction, now=self._now, deadline=math.inf)[1]
        return self._encode(sends)

    def _handle(self, answers: Sequence[list[bytes]]) -> list[list[bytes]]:
        sends: list[SendTo] = []
        for node, frames in enumerate(answers):
            batch = decode_replies(frames)
            sends += self._coordinator.on_replies(MemoryNodeId(node), batch, self._now)
        return self._encode(sends)

    def _encode(self, sends: Sequence[SendTo]) -> list[list[bytes]]:
        by_node: dict[MemoryNodeId, list[Request]] = {}
        for send in sends:
            by_node.setdefault(send.node, []).append(send.request)
        return [
            encode_requests(self._coordinator.envelope(node, by_node[node]))
            for node in sorted(by_node)
        ]

    def _answer(self, asked: Sequence[list[bytes]]) -> list[list[bytes]]:
        answers = []
        for participant, frames in zip(self._participants, asked, strict=False):
            step = participant.on_requests(decode_requests(frames), self._now)
            batch = Replies(
                version=PROTOCOL_VERSION,
                node=participant.node,
                incarnation=1,
                epoch=0,
                replies=step.replies + step.once_stable,
            )
            answers.append(encode_replies(batch))
        return answers


def _participant(node: MemoryNodeId, space: AddressSpace) -> Participant:
    participant = Participant(
        LiveParticipantState(space, logged=False),
        node=node,
        incarnation=1,
        read_lease=0.25,
        load=LoadCounters(),
    )
    participant.serving = True
    return participant


def _participant_us() -> tuple[float, float]:
    """What one more id in a list of participants costs its encoder and its decoder."""
    encoding, decoding = [], []
    for ids in (IDS_FEW, IDS_MANY):
        prepare = ExecPrepare(
            tid=Tid(0, 2**63, 1), participants=[MemoryNodeId(node) for node in range(ids)]
        )
        batch = Requests(
            version=PROTOCOL_VERSION, client=2**63, incarnation=1, floor=1, requests=[prepare]
        )
        frames = encode_requests(batch)
        encoding.append(_least_us(lambda batch=batch: encode_requests(batch)))  # type: ignore[misc]
        decoding.append(_least_us(lambda frames=frames: decode_requests(frames)))  # type: ignore[misc]
    more = IDS_MANY - IDS_FEW
    return (encoding[1] - encoding[0]) / more, (decoding[1] - decoding[0]) / more


def _least_us(step: Callable[[], object]) -> float:
    """Microseconds that ``step`` takes."""
    least = math.inf
    for _ in range(ROUNDS):
        stopwatch = Stopwatch()
        stopwatch.time(lambda: [step() for _ in range(TOGETHER)])
        least = min(least, stopwatch.seconds)
    return least * 1e6 / TOGETHER


def _socket_us() -> float:
    """What it costs to send a small message, or to receive one: half of both."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = bind_router(context, "tcp://127.0.0.1:*")
    endpoint = router.get(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    dealer = connect_dealer(context, endpoint.decode().rstrip("\0"))
    frame = bytes(FRAME_BYTES)
    least = math.inf
    try:
        for _ in range(ROUNDS):
            stopwatch = Stopwatch()
            stopwatch.time(lambda: [dealer.send_multipart([frame]) for _ in range(TOGETHER)])
            stopwatch.time(lambda: [router.recv_multipart() for _ in range(TOGETHER)])
            least = min(least, stopwatch.seconds)
    finally:
        router.close(0)
        dealer.close(0)
        context.term()
    return least * 1e6 / TOGETHER / 2
