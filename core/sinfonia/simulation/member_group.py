"""The members of one memory node in one thread; the test is the network, the clock and the manager.

Messages wait in ``wires`` until ``settle`` delivers them, unless a link is cut.
"""

import random
from collections import deque
from collections.abc import Iterable

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.memnode.node import MemoryNode
from sinfonia.memnode.settings import CheckpointLimits, MemoryNodeSettings
from sinfonia.protocol.membership.messages import (
    Directory,
    Member,
    MemoryNodeEntry,
    Reconfigure,
    Reconfigured,
    Register,
    Registered,
)
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    Replies,
    Reply,
    Request,
    Requests,
    Vote,
    Voted,
)
from sinfonia.protocol.replication.agreement import ReplicationTimes
from sinfonia.protocol.replication.limits import ReplicationLimits
from sinfonia.simulation.disk import VirtualDisk
from sinfonia.simulation.participant_harness import CLIENT, one_phase

CAPACITY = 1024 * 1024
NODE = MemoryNodeId(0)
CLIENT_ROUTE = b"client"
TIMES = ReplicationTimes(lease=0.5, drop_after=1.0)


class MemberGroup:
    """``names`` are identities and endpoints at once; the first is made primary."""

    def __init__(
        self,
        *names: str,
        mode: str = "LOG-REPL",
        keep_log_bytes: int = 1 << 20,
        checkpoint_log_bytes: int = 64 << 20,
        limits: ReplicationLimits | None = None,
    ) -> None:
        self.now = 100.0
        self.mode = mode
        self.keep_log_bytes = keep_log_bytes
        self.checkpoint_log_bytes = checkpoint_log_bytes
        self.limits = ReplicationLimits() if limits is None else limits
        self.disks = {name: VirtualDisk(random.Random(name)) for name in names}
        self.nodes: dict[str, MemoryNode] = {}
        self.cut: set[str] = set()  # members that no process reaches
        self.manager_grants = True
        self.wishes: list[Reconfigure] = []
        self.answers: list[Reply] = []
        self.wires: deque[tuple[str, str, Requests | Replies]] = deque()
        self.counter = 0
        self.directory = Directory(0, 0, "test", [])
        for name in names:
            self.start(name)
        self.entry = MemoryNodeEntry(
            node=NODE,
            endpoint=names[0],
            capacity=CAPACITY,
            mode=mode,
            identity=names[0],
            incarnation=0,
        )
        self.appoint(names[0], others=names[1:])

    # --- members -------------------------------------------------------------------------------

    def start(self, name: str) -> MemoryNode:
        """Begin a life of ``name`` on its disk."""
        self.nodes[name] = MemoryNode(
            MemoryNodeSettings(
                node=NODE,
                endpoint=name,
                capacity=CAPACITY,
                mode=self.mode,
                keep_log_bytes=self.keep_log_bytes,
                checkpoints=CheckpointLimits(log_bytes=self.checkpoint_log_bytes),
                replication=self.limits,
                log_segment_bytes=64 * 1024,
                times=TIMES,
            ),
            self.disks[name],
            new_identity=name,
            send=lambda route, replies: self.wires.append((name, route.decode(), replies)),
            wall=lambda: round(self.now * 1e6),
            now=self.now,
        )
        return self.nodes[name]

    def crash(self, name: str) -> None:
        """``name`` loses what is not on its disk; ``start`` brings it back."""
        self.nodes.pop(name).close()
        self.disks[name].crash()

    def leader(self) -> MemoryNode:
        """The primary, as the directory has it."""
        return self.nodes[self.entry.identity]

    # --- the manager ---------------------------------------------------------------------------

    def appoint(self, primary: str, *, in_sync: Iterable[str] = (), others: Iterable[str]) -> None:
        """A new primary, in a new life of the memory node."""
        in_sync = set(in_sync)
        replicas = [
            Member(identity=name, endpoint=name, starts=self._starts(name), in_sync=name in in_sync)
            for name in (*in_sync, *(each for each in others if each not in in_sync))
        ]
        self.configure(
            MemoryNodeEntry(
                node=NODE,
                endpoint=primary,
                capacity=CAPACITY,
                mode=self.mode,
                identity=primary,
                incarnation=self.entry.incarnation + 1,
                starts=self._starts(primary),
                config_epoch=self.entry.config_epoch + 1,
                replicas=replicas,
                wanted=len(replicas),
            )
        )

    def register(self, name: str) -> None:
        """A replica that was started again is known in its new life."""
        entry, node = self.entry, self.nodes[name]
        replicas = [
            Member(
                identity=name,
                endpoint=name,
                starts=node.starts,
                in_sync=each.in_sync and not node.member_state.empty,
            )
            if each.identity == name
            else each
            for each in entry.replicas
        ]
        self.configure(
            msgspec.structs.replace(entry, config_epoch=entry.config_epoch + 1, replicas=replicas)
        )

    def configure(self, entry: MemoryNodeEntry) -> None:
        """Store a configuration and tell all members that can be reached."""
        self.entry = entry
        version = self.directory.version + 1
        self.directory = Directory(version, 0, "test", [entry])
        for name in self.nodes:
            self.tell(name)

    def tell(self, name: str) -> None:
        """``name`` hears of the configuration."""
        if name not in self.cut:
            node = self.nodes[name]
            node.on_manager(Registered(node.starts, 0, self.directory), self.now)

    def _starts(self, name: str) -> int:
        return self.nodes[name].starts if name in self.nodes else 0

    def _on_wish(self, wish: Reconfigure) -> None:
        self.wishes.append(wish)
        entry = self.entry
        if not self.manager_grants or wish.config_epoch != entry.config_epoch:
            return
        replicas = [
            Member(
                identity=each.identity,
                endpoint=each.endpoint,
                starts=each.starts,
                in_sync=each.identity in wish.in_sync,
            )
            for each in entry.replicas
        ]
        self.configure(
            msgspec.structs.replace(entry, config_epoch=entry.config_epoch + 1, replicas=replicas)
        )

    # --- time ----------------------------------------------------------------------------------

    def settle(self, seconds: float = 0.0, step: float = 0.01) -> None:
        """Let messages flow and time pass."""
        until = self.now + seconds
        while True:
            self._wake_all()
            while self.wires:
                self._deliver(*self.wires.popleft())
                if not self.wires:
                    self._wake_all()
            if self.now >= until:
                return
            self.now += step

    def wake(self, name: str) -> None:
        """One wake-up of one member; what it says waits."""
        node = self.nodes[name]
        asked = node.wake_up(self.now)
        if asked and node.primary is not None:
            batch = Requests(PROTOCOL_VERSION, 0, 0, 0, asked)
            self.wires.append((name, node.primary, batch))
        if name in self.cut:
            return
        for request in node.to_managers(self.now):
            if isinstance(request, Reconfigure):
                self._on_wish(request)
                node.on_manager(Reconfigured(self.directory), self.now)
            elif isinstance(request, Register) and request.resigns:
                answer = Registered(node.starts, 0, self.directory, "", request.resigns)
                node.on_manager(answer, self.now)

    def _wake_all(self) -> None:
        for name in list(self.nodes):
            if not self.nodes[name].over:
                self.wake(name)

    def _deliver(self, source: str, destination: str, message: Requests | Replies) -> None:
        if source in self.cut or destination in self.cut:
            return
        if destination == CLIENT_ROUTE.decode():
            assert isinstance(message, Replies)
            self.answers += message.replies
            return
        node = self.nodes.get(destination)
        if node is None or node.over:
            return
        if isinstance(message, Requests):
            node.receive(source.encode(), message, self.now)
        else:
            node.on_primary(message, self.now)

    # --- a client ------------------------------------------------------------------------------

    def ask(self, name: str, *requests: Request) -> None:
        """Deliver a client's batch to ``name``; it is executed at the next wake-up's flush."""
        node = self.nodes[name]
        incarnation = node.incarnation
        batch = Requests(PROTOCOL_VERSION, CLIENT, incarnation, 0, list(requests))
        node.receive(CLIENT_ROUTE, batch, self.now)

    def begin_write(self, name: str, address: int, data: bytes) -> int:
        """Send a write; returns its counter."""
        self.counter += 1
        self.ask(name, one_phase(self.counter, write=[(address, data)]))
        return self.counter

    def begin_read(self, name: str, address: int, length: int) -> int:
        """Send a read; returns its counter."""
        self.counter += 1
        self.ask(name, one_phase(self.counter, read=[(address, length)]))
        return self.counter

    def answer(self, counter: int) -> Voted | None:
        """What was answered, if anything was."""
        for reply in self.answers:
            if isinstance(reply, Voted) and reply.counter == counter:
                return reply
        return None

    def write(self, address: int, data: bytes) -> None:
        """Write through the primary, and see it acknowledged."""
        counter = self.begin_write(self.entry.identity, address, data)
        self.settle(0.05)
        answer = self.answer(counter)
        assert answer is not None, "the write was not acknowledged"
        assert answer.vote is Vote.OK, answer

    def read(self, address: int, length: int) -> bytes:
        """Read through the primary."""
        counter = self.begin_read(self.entry.identity, address, length)
        self.settle(0.05)
        answer = self.answer(counter)
        assert answer is not None, "the read was not answered"
        return answer.reads[0]
