"""A bank over three memory nodes in one thread, whose clocks are wrong and which crash, backed up.

Memory nodes, coordinators and the backup are the real ones; messages wait in ``wires`` and arrive
in any order.  One seed decides everything.  What must hold at every moment:

- the sum of all accounts, between which money is moved over two memory nodes at a time;
- *twin* counters at two memory nodes, which are only raised together, are equal;
- a *relay* of counters: each is raised at one memory node only after the one before it was seen at
  another, by the same client or by a reader of what that one wrote.
"""

import random
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sinfonia.addresses import MemoryNodeId
from sinfonia.backup.archive import (
    FULL_STEP,
    Backup,
    Manifest,
    Origin,
    PartWriter,
    Step,
    publish_full,
    publish_increment,
    write_directory,
    writing_full,
    writing_increment,
)
from sinfonia.backup.node_copy import NodeCopy, copy_together
from sinfonia.backup.restore import Restoration
from sinfonia.memnode.node import MemoryNode
from sinfonia.memnode.settings import MemoryNodeSettings
from sinfonia.minitransaction import Minitransaction, Result
from sinfonia.protocol.coordinator import Coordinator
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry, Registered
from sinfonia.protocol.messages import Replies, Request, Requests
from sinfonia.simulation.disk import VirtualDisk
from sinfonia.simulation.participant_harness import PlainMemory
from sinfonia.storage.address_space import CHUNK_BYTES

# Every account and counter lies in a chunk of its own, as the copy of memory counts them.
CAPACITY = 8 * CHUNK_BYTES
NODES = [MemoryNodeId(number) for number in range(3)]
ACCOUNTS = 9
BALANCE = 1000
TOTAL = ACCOUNTS * BALANCE

# Where the counters are, as (node, address).
TWINS = ((0, 4 * CHUNK_BYTES), (1, 4 * CHUNK_BYTES))
TWIN_SEEN = (2, 4 * CHUNK_BYTES)
RELAY = ((0, 5 * CHUNK_BYTES), (1, 5 * CHUNK_BYTES), (2, 5 * CHUNK_BYTES), (0, 6 * CHUNK_BYTES))

STEP_S = 0.002
EPOCH_US = 1_700_000_000_000_000
OUT_OF_TIME_STEPS = 60_000

Work = Generator[Minitransaction[Any], Result, None]


def account(number: int) -> tuple[int, int]:
    """Where an account is; each memory node has some."""
    return number % len(NODES), number // len(NODES) * CHUNK_BYTES


def encoded(value: int) -> bytes:
    """A value as it is in memory."""
    return value.to_bytes(8, "little")


def decoded(data: bytes) -> int:
    """The inverse."""
    return int.from_bytes(data, "little")


class BackupWorld:
    """Everything of one run; backups go to ``root``."""

    def __init__(self, seed: int, root: Path, *, mode: str = "LOG", crashes: bool = True) -> None:
        self.rng = random.Random(seed)
        self.root = root
        self.mode = mode
        self.crashes = crashes
        self.now = 100.0
        self.restarts = 0
        self.disks = {node: VirtualDisk(random.Random(f"{seed}/{node}")) for node in NODES}
        self.wall_offsets = {node: self._offset() for node in NODES}
        self.incarnations = dict.fromkeys(NODES, 0)
        self.wires: list[tuple[str, MemoryNodeId, Requests | Replies]] = []
        self.copies: list[NodeCopy] = []
        self.nodes: dict[MemoryNodeId, MemoryNode] = {}
        for node in NODES:
            self._start(node)
        self.work: dict[str, Work] = {}
        self.coordinators = {
            name: Coordinator(
                client=number + 1, rng=random.Random(f"{seed}/{name}"), directory=self._directory()
            )
            for number, name in enumerate(("a", "b", "c", "relay", "reader", "twins", "seer"))
        }
        self._run(self._open_accounts(), "a")
        self.work = {
            **{name: self._move_money() for name in "abc"},
            "relay": self._relay(),
            "reader": self._read_relay(),
            "twins": self._raise_twins(),
            "seer": self._see_twins(),
        }
        for name in self.work:
            self._go_on(name, None)

    # --- memory nodes --------------------------------------------------------------------------

    def restart(self, node: MemoryNodeId) -> None:
        """It loses what is not on its disk, and its wall clock."""
        self.restarts += 1
        self.nodes[node].close()
        self.disks[node].crash()
        self.wall_offsets[node] = self._offset()
        self._start(node)

    def _offset(self) -> int:
        return self.rng.randint(-5_000_000, 5_000_000)

    def _start(self, node: MemoryNodeId) -> None:
        self.incarnations[node] += 1
        member = MemoryNode(
            MemoryNodeSettings(
                node=node,
                endpoint=f"node{node}",
                capacity=CAPACITY,
                mode=self.mode,
                read_lease=0.05,
                settle_max=0.1,
                checkpoint_log_bytes=32 * 1024,
                log_segment_bytes=16 * 1024,
            ),
            self.disks[node],
            new_identity=f"identity{node}",
            send=lambda route, replies: self.wires.append((route.decode(), node, replies)),
            wall=lambda: EPOCH_US + round(self.now * 1e6) + self.wall_offsets[node],
            now=self.now,
        )
        self.nodes[node] = member
        member.on_manager(Registered(member.starts, 0, self._directory()), self.now)

    def _directory(self) -> Directory:
        version = sum(self.incarnations.values())
        return Directory(version, 0, "bank", [self._entry(node) for node in NODES])

    def _entry(self, node: MemoryNodeId) -> MemoryNodeEntry:
        incarnation = self.incarnations[node]
        starts = self.nodes[node].starts if node in self.nodes else 1
        return MemoryNodeEntry(
            node,
            f"node{node}",
            CAPACITY,
            self.mode,
            f"identity{node}",
            incarnation,
            starts,
            incarnation,
        )

    # --- time ----------------------------------------------------------------------------------

    def step(self) -> None:
        """Something happens."""
        rng = self.rng
        self.now += rng.expovariate(1 / STEP_S)
        for _ in range(rng.randint(0, 4)):
            if self.wires:
                self._deliver(self.wires.pop(rng.randrange(len(self.wires))))
        self.nodes[rng.choice(NODES)].wake_up(self.now)
        for name, coordinator in self.coordinators.items():
            self._send(name, coordinator.on_tick(self.now))
        for copy in self.copies:
            for batch in copy.ask(self.now):
                self.wires.append(("backup", copy.node, batch))
        if self.crashes and rng.random() < 1 / 500:
            self.restart(rng.choice(NODES))

    def run(self, steps: int) -> None:
        """Let things happen."""
        for _ in range(steps):
            self.step()

    def _deliver(self, wire: tuple[str, MemoryNodeId, Requests | Replies]) -> None:
        peer, node, message = wire
        if isinstance(message, Requests):
            self.nodes[node].receive(peer.encode(), message, self.now)
        elif peer == "backup":
            for copy in self.copies:
                copy.on_replies(message, self.now)
        else:
            self._send(peer, self.coordinators[peer].on_replies(node, message, self.now))

    def _send(self, name: str, sends: list[SendTo]) -> None:
        coordinator = self.coordinators[name]
        batches: dict[MemoryNodeId, list[Request]] = {}
        for send in sends:
            batches.setdefault(send.node, []).append(send.request)
        for node, requests in batches.items():
            self.wires.append((name, node, coordinator.envelope(node, requests)))
        finished, coordinator.finished = coordinator.finished, []
        for call in finished:
            assert call.result is not None, call.error
            if name in self.work:
                self._go_on(name, call.result)

    # --- clients -------------------------------------------------------------------------------

    def _go_on(self, name: str, result: Result | None) -> None:
        work = self.work[name]
        minitransaction = next(work) if result is None else work.send(result)
        _, sends = self.coordinators[name].begin(
            minitransaction, now=self.now, deadline=self.now + 1e6
        )
        self._send(name, sends)

    def _run(self, work: Work, name: str) -> None:
        """Do all of ``work``, before anything else."""
        coordinator = self.coordinators[name]
        for minitransaction in work:
            call, sends = coordinator.begin(minitransaction, now=self.now, deadline=self.now + 1e6)
            self._send(name, sends)
            while call.result is None:
                self.step()

    def _open_accounts(self) -> Work:
        opening = _minitransaction()
        for number in range(ACCOUNTS):
            opening.write(*account(number), encoded(BALANCE))
        yield opening

    def _move_money(self) -> Work:
        while True:
            source, target = self.rng.sample(range(ACCOUNTS), 2)
            looking = _minitransaction()
            looking.read(*account(source), 8)
            looking.read(*account(target), 8)
            found = yield looking
            balances = [decoded(data) for data in found.reads]
            amount = self.rng.randint(0, balances[0])
            moving = _minitransaction()
            for number, before, change in (
                (source, balances[0], -amount),
                (target, balances[1], amount),
            ):
                moving.compare(*account(number), encoded(before))
                moving.write(*account(number), encoded(before + change))
            yield moving

    def _relay(self) -> Work:
        value = 0
        while True:
            value += 1
            # As if it were another process each time, which has heard of nothing yet.
            self.coordinators["relay"].clock = 0
            for place in RELAY[:3]:
                raising = _minitransaction()
                raising.write(*place, encoded(value))
                yield raising

    def _read_relay(self) -> Work:
        return self._copy(RELAY[2], RELAY[3])

    def _raise_twins(self) -> Work:
        value = 0
        while True:
            value += 1
            raising = _minitransaction()
            for place in TWINS:
                raising.write(*place, encoded(value))
            yield raising

    def _see_twins(self) -> Work:
        return self._copy(TWINS[0], TWIN_SEEN)

    def _copy(self, source: tuple[int, int], target: tuple[int, int]) -> Work:
        while True:
            reading = _minitransaction()
            reading.read(*source, 8)
            found = yield reading
            writing = _minitransaction()
            writing.write(*target, found.reads[0])
            yield writing

    # --- backups -------------------------------------------------------------------------------

    def take_full(self) -> None:
        """As ``copier.take_full``, while everything goes on."""
        with writing_full(self.root) as partial, ExitStack() as opened:
            for node in NODES:
                writer = PartWriter(partial, FULL_STEP, node, with_image=True)
                opened.callback(writer.close)
                self.copies.append(NodeCopy(node, writer, previous=None))
            moment, parts = copy_together(self.copies, self._step_in_time(), lambda: None)
            self.copies.clear()
            origins = [Origin(node, CAPACITY, self.mode, 0) for node in NODES]
            stored = write_directory(partial, FULL_STEP, self._directory())
            manifest = Manifest("bank", origins, [Step(FULL_STEP, moment, parts, stored)])
            publish_full(partial, self.root, manifest)

    def take_increment(self) -> None:
        """As ``copier.take_increment``, while everything goes on."""
        backup = Backup(self.root)
        last = backup.manifest.steps[-1]
        with writing_increment(backup) as (partial, name), ExitStack() as opened:
            for part in last.parts:
                writer = PartWriter(partial, name, part.node, with_image=False)
                opened.callback(writer.close)
                self.copies.append(NodeCopy(part.node, writer, previous=part, moment=last.moment))
            moment, parts = copy_together(self.copies, self._step_in_time(), lambda: None)
            self.copies.clear()
            stored = write_directory(partial, name, self._directory())
            publish_increment(partial, backup, Step(name, moment, parts, stored))

    def check(self, moment: int) -> dict[str, int]:
        """Restore to ``moment`` and see that it is a state of the bank; some figures of it."""
        restoration = Restoration(Backup(self.root), moment)
        cells: list[PlainMemory] = []
        for origin in restoration.backup.nodes:
            memory = PlainMemory(CAPACITY)
            participant = restoration.recovered(origin, memory)
            participant.check_invariants()
            assert not participant.in_doubt
            cells.append(memory)

        def value(place: tuple[int, int]) -> int:
            node, address = place
            return decoded(cells[node][address : address + 8])

        total = sum(value(account(number)) for number in range(ACCOUNTS))
        assert total == TOTAL, f"the sum is {total} at {moment}"
        twins = [value(place) for place in TWINS]
        assert twins[0] == twins[1], f"half of a minitransaction at {moment}: {twins}"
        assert value(TWIN_SEEN) <= twins[0], f"seen before it was there, at {moment}"
        relay = [value(place) for place in RELAY]
        assert relay == sorted(relay, reverse=True), f"effects without cause at {moment}: {relay}"
        return {
            "relayed": relay[-1],
            "twins": twins[0],
            "undecided": sum(map(len, restoration.undecided.values())),
            "committed": len(restoration.committed),
        }

    def _step_in_time(self) -> "_Stepper":
        return _Stepper(self)


class _Stepper:
    """Steps, but not for ever."""

    def __init__(self, world: BackupWorld) -> None:
        self._world = world
        self._left = OUT_OF_TIME_STEPS

    def __call__(self) -> None:
        self._left -= 1
        assert self._left, "the backup does not come to an end"
        self._world.step()


class _Nobody:
    """Minitransactions here are executed by the coordinator, not by themselves."""

    def execute(
        self, minitransaction: Minitransaction[Any], *, timeout: float | None = None
    ) -> Result:
        raise NotImplementedError


def _minitransaction() -> Minitransaction[Any]:
    return Minitransaction(_Nobody())
