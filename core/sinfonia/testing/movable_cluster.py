"""A cluster of one thread whose memory nodes fail over when they are told, to the message.

Sockets are real and participants too; there is no disk and no replication.  A memory node that
fails over has all that its old primary logged, as an in-sync replica would.
"""

import threading
from collections.abc import Callable
from enum import Enum
from queue import SimpleQueue
from types import TracebackType
from typing import Self

import msgspec
import zmq

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry
from sinfonia.protocol.messages import (
    MANAGER,
    PROTOCOL_VERSION,
    GetDirectory,
    Replies,
    Reply,
    Requests,
    WrongConfig,
)
from sinfonia.simulation.participant_harness import CAPACITY, ParticipantHarness
from sinfonia.transport.codec import decode_requests, encode_replies
from sinfonia.transport.zeromq import bind_router, drain, try_send

# How soon the thread notices what it is told, and how long a test waits for that.
LOOK_MS = 2
NOTICE_WITHIN = 10.0


class End(Enum):
    """What becomes of an old primary."""

    KILLED = "killed"  # connections to it are refused
    SILENT = "silent"  # it takes messages, and nothing comes of them
    OVER = "over"  # it names the primary
    MUTE_AT_LAST = "mute at last"  # as KILLED, but what came last was executed and not answered


class _Member:
    """A process at an endpoint: of a memory node, or (without a harness) a manager."""

    def __init__(
        self, context: "zmq.Context[zmq.Socket[bytes]]", harness: ParticipantHarness | None
    ) -> None:
        self.socket = bind_router(context, "tcp://127.0.0.1:*")
        self.endpoint = self.socket.get(zmq.LAST_ENDPOINT).decode()  # type: ignore[union-attr]  # bytes
        self.harness = harness
        self.silent = False
        self.primary: MemoryNodeEntry | None = (
            None  # the primary, if it knows that its own time is over
        )


class MovableCluster:
    """Memory nodes on loopback, and a manager at ``endpoint``; use it with ``with``."""

    def __init__(self, *, memory_nodes: int = 1, registered: bool = True) -> None:
        """Without ``registered`` the directory says of no memory node that it serves."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._manager = _Member(self._context, None)
        self._members = [self._manager]
        self._primaries: dict[MemoryNodeId, _Member] = {}
        self.endpoint = self._manager.endpoint
        self.directory = Directory(1, 0, "movable", [], [self.endpoint])
        for _ in range(memory_nodes):
            self._add(registered)
        self.directories_asked_for = 0
        self._told: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._stopping = False
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopping = True
        self._thread.join(NOTICE_WITHIN)
        assert not self._thread.is_alive()
        self._context.destroy(linger=0)

    # --- what a test tells it ------------------------------------------------------------------

    def fail_over(self, number: int, end: End) -> None:
        """Another member of the memory node is primary when this returns."""
        self._tell(lambda: self._fail_over(MemoryNodeId(number), end))

    def silence(self, number: int) -> None:
        """The memory node takes messages from now on, and nothing comes of them."""
        self._primaries[MemoryNodeId(number)].silent = True

    def add_memory_node(self) -> None:
        """There is one more when this returns."""
        self._tell(lambda: self._add(registered=True))

    def register(self) -> None:
        """All memory nodes have registered when this returns."""
        self._tell(self._register)

    def read(self, number: int, address: int, length: int) -> bytes:
        """What is in the memory of a primary."""
        harness = self._primaries[MemoryNodeId(number)].harness
        assert harness is not None
        return harness.read(address, length)

    def _tell(self, what: Callable[[], None]) -> None:
        done = threading.Event()

        def do() -> None:
            what()
            done.set()

        self._told.put(do)
        assert done.wait(NOTICE_WITHIN)

    # --- the thread ----------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._stopping:
            while not self._told.empty():
                self._told.get()()
            poller = zmq.Poller()
            for member in self._members:
                poller.register(member.socket, zmq.POLLIN)
            ready = dict(poller.poll(LOOK_MS))
            for member in self._members:
                if member.socket in ready:
                    self._handle(member, answer=not member.silent)

    def _handle(self, member: _Member, *, answer: bool) -> None:
        for route, *frames in drain(member.socket):
            if not member.silent:
                for replies in self._execute(member, decode_requests(frames)):
                    if answer:
                        try_send(member.socket, [route, *encode_replies(replies)])

    def _execute(self, member: _Member, batch: Requests) -> list[Replies]:
        harness = member.harness
        node, incarnation = MANAGER, 0
        answers: list[list[Reply]] = []
        if any(isinstance(request, GetDirectory) for request in batch.requests):
            self.directories_asked_for += 1
            answers.append([self.directory])
        elif member.primary is not None:
            answers.append([WrongConfig(member.primary)])
        elif harness is not None:
            step = harness.step(
                *batch.requests,
                client=batch.client,
                floor=batch.floor,
                incarnation=batch.incarnation,
            )
            answers += [replies for replies in (step.replies, step.once_stable) if replies]
        if harness is not None:
            node, incarnation = harness.node, harness.participant.incarnation
        return [Replies(PROTOCOL_VERSION, node, incarnation, 0, each) for each in answers]

    def _fail_over(self, node: MemoryNodeId, end: End) -> None:
        old = self._primaries[node]
        assert old.harness is not None
        if end is End.MUTE_AT_LAST:
            self._handle(old, answer=False)
        member = self._primaries[node] = _Member(self._context, old.harness.restarted())
        self._members.append(member)
        entry = self.directory.entry(node)
        assert entry is not None
        entry = msgspec.structs.replace(
            entry,
            endpoint=member.endpoint,
            incarnation=entry.incarnation + 1,
            config_epoch=entry.config_epoch + 1,
        )
        self._replace(entry)
        if end is End.OVER:
            old.primary = entry
        elif end is End.SILENT:
            old.silent = True
        else:
            self._members.remove(old)
            old.socket.close(0)

    def _add(self, registered: bool) -> None:
        node = MemoryNodeId(len(self._primaries))
        member = self._primaries[node] = _Member(self._context, ParticipantHarness(node))
        self._members.append(member)
        identity = f"id{node}" if registered else ""
        self._replace(
            MemoryNodeEntry(
                node=node,
                endpoint=member.endpoint,
                capacity=CAPACITY,
                mode="RAM",
                identity=identity,
                incarnation=1,
            )
        )

    def _register(self) -> None:
        for entry in self.directory.nodes:
            self._replace(msgspec.structs.replace(entry, identity=f"id{entry.node}"))

    def _replace(self, entry: MemoryNodeEntry) -> None:
        others = [each for each in self.directory.nodes if each.node != entry.node]
        self.directory = msgspec.structs.replace(
            self.directory, version=self.directory.version + 1, nodes=[*others, entry]
        )
