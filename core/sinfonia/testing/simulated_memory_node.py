"""A memory node in the simulator: the real node on a virtual disk, and all the ways it can die.

Messages that come close together share a flush, as they share a wake-up of the real thing.
"""

import random

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import CorruptLog, StorageError
from sinfonia.memnode.node import MemoryNode, MemoryNodeSettings, State
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    Registered,
    Replies,
    Requests,
)
from sinfonia.testing.disk import VirtualDisk
from sinfonia.testing.process import Killed, Process, Surroundings
from sinfonia.testing.wire import Message
from sinfonia.testing.workload import CAPACITY

# Small, so that a short run fills several segments.
LOG_SEGMENT_BYTES = 8 * 1024

REGISTER_EVERY_S = 0.1

# How often the node looks at the time, when it has reason to and when not.
TICK_S = 0.005
IDLE_S = 0.2

# A disk that was full when the process started may be so for a while.
START_AGAIN_S = 0.2


class SimulatedMemoryNode(Process):
    """One memory node through all its lives."""

    def __init__(
        self, surroundings: Surroundings, node_id: MemoryNodeId, rng: random.Random
    ) -> None:
        super().__init__(surroundings, f"node{node_id}", rng)
        self.node_id = node_id
        self.mode = "LOG" if surroundings.profile.logged else "RAM"
        self.disk = VirtualDisk(rng)
        self.node: MemoryNode | None = None
        self._settings = MemoryNodeSettings(
            node=node_id,
            endpoint=self.name,
            capacity=CAPACITY,
            mode=self.mode,
            checkpoint_log_bytes=surroundings.profile.checkpoint_log_bytes,
            log_segment_bytes=LOG_SEGMENT_BYTES,
            settle_max=surroundings.profile.settle_s_max,
        )
        self._sends_until_death: int | None = None
        self._wakeup_planned = False

    def start(self) -> None:
        """Begin a life; if the disk does not let it, try again later."""
        if self.alive:
            return
        self.begin_life()
        self._wakeup_planned = False
        self._sends_until_death = None
        self.later(0.0, self._boot)

    def contents(self) -> bytes:
        """All of memory."""
        assert self.node is not None
        return self.node.space.memory[:]

    # --- faults --------------------------------------------------------------------------------

    def die_soon(self, rng: random.Random) -> None:
        """Lose power in the middle of something: a sync, a checkpoint, a flush, a restart."""
        if rng.random() < 0.7:
            self.disk.lose_power_at = self.disk.operations + rng.randint(0, 8)
        else:
            self._sends_until_death = rng.randint(0, 3)

    def fail_next_sync(self) -> None:
        """The next sync of a file fails."""
        self.disk.fail_sync = True

    def fill_disk(self) -> None:
        """There is no space left."""
        self.disk.full = True

    def mend_disk(self) -> None:
        """No fault that was injected is left."""
        self.disk.full = False
        self.disk.fail_sync = False
        self.disk.lose_power_at = None
        self._sends_until_death = None

    def on_killed(self) -> None:
        self.surroundings.events["memory nodes killed"] += 1
        if self.node is not None:
            self.node.close()
            self.node = None
        lost_power = self.disk.lose_power_at == self.disk.operations
        self.disk.lose_power_at = None
        if lost_power or self.rng.random() < self.surroundings.profile.power_loss_share:
            self.surroundings.scheduler.note(self.name, "loses power")
            self.disk.crash()
        delay = self.rng.uniform(0.0, self.surroundings.profile.down_s_max)
        self.surroundings.scheduler.after(delay, self.start)

    # --- the driver ----------------------------------------------------------------------------

    def on_message(self, source: str, message: Message) -> None:
        if self.node is None:
            return
        try:
            if isinstance(message, Requests):
                self.node.receive(source.encode(), message, self.now)
            else:
                assert isinstance(message, Replies), message
                for reply in message.replies:
                    assert isinstance(reply, Registered), reply
                    self.node.on_registered(reply, self.now)
        except StorageError as error:
            self._die_of(error)
        self._plan_wakeup()

    def _boot(self) -> None:
        try:
            self.node = MemoryNode(
                self._settings,
                self.disk,
                new_identity=f"{self.name}/{self.rng.getrandbits(64):x}",
                now=self.now,
            )
        except CorruptLog:
            raise
        except (StorageError, OSError) as error:
            self._die_of(error)
        self._register()
        self._on_timer()

    def _register(self) -> None:
        assert self.node is not None
        if self.node.state is State.STARTING:
            registration = self.node.registration()
            self.send("manager", Requests(PROTOCOL_VERSION, 0, 0, 0, [registration]))
            self.later(REGISTER_EVERY_S, self._register)

    def _plan_wakeup(self) -> None:
        """What has come is handled soon, with what comes until then."""
        if not self._wakeup_planned:
            self._wakeup_planned = True
            mean = self.surroundings.profile.flush_s_mean
            self.later(self.rng.expovariate(1.0 / mean), self._on_messages_collected)

    def _on_messages_collected(self) -> None:
        self._wakeup_planned = False
        self._wake_up()

    def _on_timer(self) -> None:
        assert self.node is not None
        self._wake_up()
        self.later(IDLE_S if self.node.next_wakeup() is None else TICK_S, self._on_timer)

    def _wake_up(self) -> None:
        node = self.node
        assert node is not None
        try:
            for route, replies in node.flush(self.now):
                self._perhaps_die()
                self.send(route.decode(), replies)
            self._perhaps_die()
            node.check_invariants()
            node.tick(self.now)
        except StorageError as error:
            self._die_of(error)

    def _perhaps_die(self) -> None:
        if self._sends_until_death is not None:
            self._sends_until_death -= 1
            if self._sends_until_death < 0:
                raise Killed

    def _die_of(self, error: Exception) -> None:
        """The process ends with a message, because the disk has failed it."""
        self.surroundings.scheduler.note(self.name, error)
        self.surroundings.events["memory nodes stopped by their disk"] += 1
        raise Killed from error
