"""The management node in the simulator: the real manager, and a disk for its directory."""

import random

from sinfonia.addresses import MemoryNodeId
from sinfonia.management.store import EmbeddedStore
from sinfonia.protocol.effects import ReplyTo, SendTo, StoreDirectory
from sinfonia.protocol.management import Manager, ManagerEffect, ManagerSettings
from sinfonia.protocol.messages import (
    MANAGER,
    PROTOCOL_VERSION,
    Register,
    Replies,
    Request,
    Requests,
)
from sinfonia.testing.disk import VirtualDisk
from sinfonia.testing.process import Process, Surroundings
from sinfonia.testing.wire import Message

DECIDED_AGE_S = 1.5

CLUSTER = "simulated"


class SimulatedManager(Process):
    """One manager; whatever it learned and did not store dies with it."""

    def __init__(self, surroundings: Surroundings, rng: random.Random) -> None:
        super().__init__(surroundings, "manager", rng)
        self.disk = VirtualDisk(rng)
        self.manager: Manager | None = None
        self._store: EmbeddedStore | None = None
        self._wakeup_at = 0.0

    def start(self) -> None:
        """Begin a life."""
        if self.alive:
            return
        self.begin_life()
        self._store = EmbeddedStore(self.disk, cluster=CLUSTER)
        settings = ManagerSettings(
            in_doubt_timeout=self.surroundings.profile.in_doubt_timeout_s,
            decided_age=DECIDED_AGE_S,
            epoch_length=self.surroundings.profile.epoch_s,
        )
        self.manager = Manager(
            client=self.rng.getrandbits(64),
            settings=settings,
            directory=self._store.directory,
            now=self.now,
        )
        self._wakeup_at = self.now
        self.later(0.0, self._wake_up)

    def on_message(self, source: str, message: Message) -> None:
        assert self.manager is not None
        if isinstance(message, Requests):
            for request in message.requests:
                assert isinstance(request, Register), request
                self._carry_out(self.manager.on_register(source.encode(), request))
        else:
            assert isinstance(message, Replies), message
            node = MemoryNodeId(message.node)
            self._carry_out(self.manager.on_replies(node, message, self.now))

    def on_killed(self) -> None:
        self.surroundings.events["managers killed"] += 1
        self.manager = None
        self.disk.crash()
        delay = self.rng.uniform(0.0, self.surroundings.profile.down_s_max)
        self.surroundings.scheduler.after(delay, self.start)

    def _carry_out(self, effects: list[ManagerEffect]) -> None:
        assert self.manager is not None
        assert self._store is not None
        batches: dict[MemoryNodeId, list[Request]] = {}
        for effect in effects:
            match effect:
                case SendTo(node, request):
                    batches.setdefault(node, []).append(request)
                case StoreDirectory(directory):
                    self._store.replace(directory)
                case ReplyTo(route, reply):
                    epoch = self.manager.directory.epoch
                    replies = Replies(PROTOCOL_VERSION, MANAGER, 0, epoch, [reply])
                    self.send(route.decode(), replies)
        for node, requests in batches.items():
            self.send(f"node{node}", self.manager.envelope(node, requests))
        self._plan_wakeup()

    def _plan_wakeup(self) -> None:
        assert self.manager is not None
        wakeup = self.manager.next_wakeup()
        if self.now < self._wakeup_at <= wakeup:
            return
        self._wakeup_at = max(wakeup, self.now)
        self.later((self._wakeup_at - self.now) / self.clock.rate + 1e-6, self._wake_up)

    def _wake_up(self) -> None:
        assert self.manager is not None
        self._carry_out(self.manager.on_tick(self.now))
