"""The management node in the simulator: the real manager and driver, and a store for its directory.

One manager alone keeps the directory on a disk of its own.  Several share a ``SimulatedStore``,
which behaves as etcd does: it swaps one value atomically, and may be away, for all or for some.
"""

import random

from sinfonia.addresses import MemoryNodeId
from sinfonia.management.driver import ManagerDriver
from sinfonia.management.store import EmbeddedStore, Store
from sinfonia.protocol.effects import ReplyTo
from sinfonia.protocol.membership.manager import ManagementRequest, Manager, ManagerSettings
from sinfonia.protocol.messages import (
    MANAGER,
    PROTOCOL_VERSION,
    GetDirectory,
    Replies,
    Reply,
    Request,
    Requests,
)
from sinfonia.simulation.disk import VirtualDisk
from sinfonia.simulation.marks import ManagerMarks
from sinfonia.simulation.process import Process, Surroundings
from sinfonia.simulation.store import SimulatedStore, StoreClient
from sinfonia.simulation.wire import Message

DECIDED_AGE_S = 1.5

CLUSTER = "simulated"


class SimulatedManager(Process):
    """One manager; whatever it learned and did not store dies with it."""

    def __init__(
        self,
        surroundings: Surroundings,
        rng: random.Random,
        *,
        name: str = "manager",
        managers: tuple[str, ...] = (),
        store: SimulatedStore | None = None,
    ) -> None:
        """``managers`` are the names of all; ``store`` is what they share, if they do."""
        super().__init__(surroundings, name, rng)
        self.disk = VirtualDisk(rng)
        self.manager: Manager | None = None
        self.shared = store
        self._managers = managers
        self._driver: ManagerDriver | None = None
        self._wakeup_at = 0.0

    def start(self) -> None:
        """Begin a life."""
        if self.alive:
            return
        self.begin_life()
        store = self._open_store()
        profile = self.surroundings.profile
        self.manager = Manager(
            client=self.rng.getrandbits(64),
            settings=ManagerSettings(
                in_doubt_timeout=profile.in_doubt_timeout_s,
                decided_age=DECIDED_AGE_S,
                epoch_length=profile.epoch_s,
                fail_after=profile.fail_after_s,
            ),
            directory=store.directory,
            now=self.now,
            managers=self._managers,
            leading=store.leading,
        )
        self._marks = ManagerMarks(self.surroundings.seen, f"{self.name}/{self.life}")
        self._driver = ManagerDriver(self.manager, store, reply=self._reply)
        self._wakeup_at = self.now
        self.later(0.0, self._wake_up)

    @property
    def leads(self) -> bool:
        """Whether it believes that it is the one that changes the directory."""
        return self.manager is not None and self.manager.leading

    def on_message(self, source: str, message: Message) -> None:
        assert self.manager is not None
        assert self._driver is not None
        if isinstance(message, Requests):
            for request in message.requests:
                self._on_request(source.encode(), request)
        else:
            assert isinstance(message, Replies), message
            node = MemoryNodeId(message.node)
            before = self.manager.entry(node)
            self._driver.carry_out(self.manager.on_replies(node, message, self.now), self.now)
            after = self.manager.entry(node)
            if before is not None and after is not None:
                # An answer leads to a new primary only if an operator wants that.
                self._count("hand-overs", after.incarnation - before.incarnation)
                if self.surroundings.network.troubled:
                    self._count("a hand-over under faults", after.incarnation - before.incarnation)
        self._send_batches()

    def on_killed(self) -> None:
        self.surroundings.events["managers killed"] += 1
        self.manager = None
        self._driver = None
        if self.shared is not None:
            self.shared.note_belief(self.name, leads=False)
        self.disk.crash()
        delay = self.rng.uniform(0.0, self.surroundings.profile.down_s_max)
        self.surroundings.scheduler.after(delay, self.start)

    def _open_store(self) -> Store:
        if self.shared is None:
            return EmbeddedStore(self.disk, cluster=CLUSTER)
        return StoreClient(self.shared, self.name, cluster=CLUSTER)

    def _on_request(self, route: bytes, request: Request) -> None:
        assert self.manager is not None
        assert self._driver is not None
        if isinstance(request, GetDirectory):
            self._driver.carry_out([ReplyTo(route, self.manager.directory)], self.now)
            return
        assert isinstance(request, ManagementRequest), request
        self._driver.carry_out(self.manager.on_request(route, request, self.now), self.now)

    def _reply(self, route: bytes, reply: Reply) -> None:
        assert self.manager is not None
        epoch = self.manager.directory.epoch
        self.send(route.decode(), Replies(PROTOCOL_VERSION, MANAGER, 0, epoch, [reply]))

    def _send_batches(self) -> None:
        assert self._driver is not None
        for _, endpoint, batch in self._driver.take_batches():
            self.send(endpoint, batch)
        if self.manager is not None:
            self._marks.look(self.manager)
        self._plan_wakeup()

    def _plan_wakeup(self) -> None:
        assert self.manager is not None
        wakeup = self.manager.next_wakeup()
        if self.now < self._wakeup_at <= wakeup:
            return
        self._wakeup_at = max(wakeup, self.now)
        self.at(self._wakeup_at, self._wake_up)

    def _wake_up(self) -> None:
        assert self.manager is not None
        assert self._driver is not None
        # Between two of these it believes what it knew, as a process does that is told by another.
        self._driver.refresh(self.now)
        if self.shared is not None and self.shared.note_belief(self.name, leads=self.leads):
            self._count("two managers lead", 1)
        fail_overs = self.manager.fail_overs
        self._driver.carry_out(self.manager.on_tick(self.now), self.now)
        self._count("fail-overs", self.manager.fail_overs - fail_overs)
        self._send_batches()

    def _count(self, event: str, times: int) -> None:
        if times > 0:
            self.surroundings.events[event] += times
