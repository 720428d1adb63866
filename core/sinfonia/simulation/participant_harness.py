"""Participants on plain bytes for tests of the protocol, and requests in few words.

A ``ParticipantHarness`` drives one participant: what it logs is stable at once, and the log can be
cut.
"""

import math
from collections.abc import Sequence

from sinfonia.addresses import MemoryNodeId
from sinfonia.minitransaction import CompareItem, ReadItem, WriteItem
from sinfonia.protocol.effects import Step
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.load.counters import LoadCounters
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    Answer,
    Commit,
    CommitAck,
    ExecCommit,
    ExecPrepare,
    Probe,
    Reply,
    Request,
    Requests,
    Resolve,
    Resolved,
    Voted,
)
from sinfonia.protocol.participant import Participant
from sinfonia.protocol.participant_state import LiveParticipantState
from sinfonia.protocol.records import Record
from sinfonia.protocol.sessions import SessionLimits

CLIENT = 7
CAPACITY = 1024


class PlainMemory:
    """Memory on a bytearray."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self._cells = bytearray(capacity)

    @property
    def memory(self) -> "PlainMemory":
        return self

    def __getitem__(self, key: slice, /) -> bytes:
        return bytes(self._cells[key])

    def write(self, address: int, data: bytes) -> None:
        self._cells[address : address + len(data)] = data


class ParticipantHarness:
    """A participant, what it logged, and a short way to talk to it."""

    def __init__(
        self,
        node: int = 0,
        *,
        logged: bool = True,
        incarnation: int = 1,
        serving: bool = True,
        sessions: SessionLimits | None = None,
    ) -> None:
        self.node = MemoryNodeId(node)
        self.memory = PlainMemory()
        self.log: list[Record] = []
        self.now = 0.0
        self.participant = Participant(
            LiveParticipantState(self.memory, logged=logged, sessions=sessions),
            node=self.node,
            incarnation=incarnation,
            read_lease=1.0,
            load=LoadCounters(),
        )
        self.participant.serving = serving

    def step(
        self,
        *requests: Request,
        client: int = CLIENT,
        floor: int = 0,
        incarnation: int = 0,
        generation: int = 0,
    ) -> Step:
        """Deliver one batch."""
        incarnation = incarnation or self.participant.incarnation
        batch = Requests(
            PROTOCOL_VERSION, client, incarnation, floor, list(requests), generation=generation
        )
        step = self.participant.on_requests(batch, self.now)
        for request in requests if step.has_questions else ():
            if isinstance(request, Probe):
                self.participant.recovery.on_probe(request, step, stable_before=math.inf)
        self.log += step.records
        return step

    def replies(
        self,
        *requests: Request,
        client: int = CLIENT,
        floor: int = 0,
        incarnation: int = 0,
        generation: int = 0,
    ) -> list[Reply]:
        """Deliver one batch; what comes back, in order."""
        step = self.step(
            *requests, client=client, floor=floor, incarnation=incarnation, generation=generation
        )
        return [*step.replies, *step.once_stable, *(reply for _, reply in step.elsewhere)]

    def vote(
        self,
        request: ExecCommit | ExecPrepare,
        *,
        client: int = CLIENT,
        floor: int = 0,
        generation: int = 0,
    ) -> Voted:
        """Deliver one request that is voted on."""
        [reply] = self.replies(request, client=client, floor=floor, generation=generation)
        assert isinstance(reply, Voted)
        return reply

    def resolve(self, request_tid: Tid, participants: Sequence[int]) -> Answer:
        """What it answers a recovery coordinator."""
        asked = Resolve(request_tid, [MemoryNodeId(node) for node in participants])
        [reply] = self.replies(asked, client=99)
        assert isinstance(reply, Resolved)
        return reply.answer

    def commit(self, committed: Tid, *, action: bool = True) -> None:
        """Deliver COMMIT from another client, and see it acknowledged."""
        assert self.replies(Commit(committed, action), client=99) == [CommitAck(committed)]

    def restarted(self, *, stable: int | None = None) -> "ParticipantHarness":
        """The next life of this memory node; only the first ``stable`` records survived."""
        reborn = ParticipantHarness(self.node, incarnation=self.participant.incarnation + 1)
        reborn.log = self.log[:stable]
        for record in reborn.log:
            reborn.participant.state.replay(record)
        reborn.now = self.now
        return reborn

    def read(self, address: int, length: int) -> bytes:
        """What is in memory, whatever is locked."""
        return self.memory[address : address + length]

    def check(self) -> None:
        """Invariants, and that nothing is locked."""
        self.participant.check_invariants()
        assert not len(self.participant.state.locks), "locks were left"


def asks_nothing(step: Step) -> bool:
    """Whether a step logs nothing and says nothing."""
    return step == Step(step.route, step.now)


def tid(counter: int, *, client: int = CLIENT, epoch: int = 0) -> Tid:
    """A tid of the usual client."""
    return Tid(epoch, client, counter)


def one_phase(
    counter: int,
    *,
    compare: Sequence[tuple[int, bytes]] = (),
    read: Sequence[tuple[int, int]] = (),
    write: Sequence[tuple[int, bytes]] = (),
    reads_on_failure: bool = False,
    epoch: int = 0,
) -> ExecCommit:
    """A minitransaction with one participant."""
    return ExecCommit(
        counter=counter,
        epoch=epoch,
        compares=[CompareItem(*item) for item in compare],
        reads=[ReadItem(*item) for item in read],
        writes=[WriteItem(*item) for item in write],
        reads_on_failure=reads_on_failure,
    )


def prepare(
    counter: int,
    *,
    nodes: Sequence[int] = (0, 1),
    compare: Sequence[tuple[int, bytes]] = (),
    read: Sequence[tuple[int, int]] = (),
    write: Sequence[tuple[int, bytes]] = (),
    read_only: bool = False,
    client: int = CLIENT,
    epoch: int = 0,
) -> ExecPrepare:
    """EXEC&PREPARE of the usual client."""
    return ExecPrepare(
        tid=tid(counter, client=client, epoch=epoch),
        participants=[MemoryNodeId(node) for node in nodes],
        compares=[CompareItem(*item) for item in compare],
        reads=[ReadItem(*item) for item in read],
        writes=[WriteItem(*item) for item in write],
        reads_on_failure=False,
        read_only=read_only,
    )
