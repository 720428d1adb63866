"""A member of a memory node in the simulator: the real thing on a virtual disk, and all its deaths.

Messages that come close together share a flush, as they share a wake-up of the real thing.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NoReturn, Protocol

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import DamagedData, StorageError
from sinfonia.memnode.node import LIFE_BITS, MemoryNode
from sinfonia.memnode.settings import State, is_replicated, syncs_log
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    ExecCommit,
    ExecPrepare,
    Replies,
    Reply,
    Request,
    Requests,
    Voted,
)
from sinfonia.protocol.replication.following import Phase
from sinfonia.simulation.disk import VirtualDisk
from sinfonia.simulation.marks import MemberMarks
from sinfonia.simulation.node_settings import settings_of
from sinfonia.simulation.process import Killed, Process, Surroundings
from sinfonia.simulation.wire import Message

# Small, so that a short run fills several segments.
LOG_SEGMENT_BYTES = 8 * 1024

# How often the node looks at the time, when it has reason to and when not.
TICK_S = 0.005
IDLE_S = 0.2
RESTLESS_S = 0.05

# Invariants cost as much as a wake-up, and what breaks them stays broken.
CHECK_EVERY = 16

# A disk that was full when the process started may be so for a while.
START_AGAIN_S = 0.2

# Virtual time begins here on all wall clocks, in microseconds.
EPOCH_US = 1_700_000_000_000_000


def member_name(node: int, member: int) -> str:
    """The name, and so the endpoint, of a member; number 0 is the first primary."""
    return f"node{node}r{member}" if member else f"node{node}"


class DiskWatch(Protocol):
    """Told of what befalls disks that are damaged on purpose."""

    def before_boot(self, member: "SimulatedMemoryNode") -> None:
        """``member`` is about to read its disk."""


class SimulatedMemoryNode(Process):
    """One member of a memory node through all its lives."""

    def __init__(
        self,
        surroundings: Surroundings,
        node_id: MemoryNodeId,
        rng: random.Random,
        member: int = 0,
    ) -> None:
        super().__init__(surroundings, member_name(node_id, member), rng)
        profile = surroundings.profile
        self.node_id = node_id
        self.mode = profile.mode
        self.disk = VirtualDisk(rng, log_needs_no_sync=not syncs_log(profile.mode))
        self.node: MemoryNode | None = None
        self.disk_watch: DiskWatch | None = None
        self.struck = False  # whether this disk was ever damaged on purpose
        self.must_refuse = False  # its data is lost, and it must not serve anything else
        self.lived = ("", 0)  # identity and number of the last life
        self._settings = settings_of(
            profile, node_id, endpoint=self.name, capacity=profile.capacity
        )
        # Clocks that were set are wrong by so much; others by days, as monotonic clocks are.
        self._wall_offset_us = rng.randint(-5_000_000, 5_000_000)
        self.down_s_max = profile.down_s_max
        self._back_after_s: float | None = None  # how long it is to be dead, if that is decided
        self._sends_until_death: int | None = None
        self._wakeup_planned = False
        self._wakeups = 0
        self._phase: Phase | None = None
        self._marks = MemberMarks(surroundings.seen, self.name, self.disk)
        # By route and counter: requests of this life that were not voted on yet.
        self._unanswered: Counter[tuple[bytes, int]] = Counter()

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

    @property
    def leads(self) -> bool:
        """Whether it is, as far as it knows, the primary."""
        return self.node is not None and self.node.leading is not None

    @property
    def identity(self) -> str:
        """Of the data directory; empty before the first life."""
        return self.lived[0]

    @property
    def has_confirmed(self) -> bool:
        """Whether replay has found its image sound."""
        node = self.node
        return node is not None and node.member_state.confirmed and not node.member_state.damage

    # --- a slow disk ---------------------------------------------------------------------------

    def send(self, destination: str, message: Message) -> None:
        """What is said after a sync leaves when that is over."""
        if self.disk.stalled_s:
            leave = self.surroundings.scheduler.after
            leave(self.disk.stalled_s, self._send_if_alive, self.life, destination, message)
        else:
            super().send(destination, message)

    def _send_if_alive(self, life: int, destination: str, message: Message) -> None:
        if self.alive and life == self.life:
            super().send(destination, message)

    def _step(
        self, life: int, callback: Callable[..., None], arguments: tuple[object, ...]
    ) -> None:
        super()._step(life, callback, arguments)
        stalled, self.disk.stalled_s = self.disk.stalled_s, 0.0
        if stalled and self.alive:
            self.pause()
            self.surroundings.scheduler.after(stalled, self._after_sync, self.life)

    def _after_sync(self, life: int) -> None:
        if life == self.life:
            self.resume()

    # --- faults --------------------------------------------------------------------------------

    def kill_for(self, seconds: float) -> None:
        """Die, and begin the next life in ``seconds``."""
        assert self.alive
        self._back_after_s = seconds
        self.kill()

    def die_soon(self, rng: random.Random) -> None:
        """Lose power in the middle of something: a sync, a checkpoint, a flush, a restart."""
        if rng.random() < 0.7:
            self.disk.lose_power_at = self.disk.operations + rng.randint(0, 8)
        else:
            self.die_after_sends(rng.randint(0, 3))

    def die_after_sends(self, sends: int) -> None:
        """Die when so many messages more have been sent."""
        self._sends_until_death = sends

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

    def step_wall_clock(self, rng: random.Random) -> None:
        """An operator sets the wall clock, and errs."""
        self._wall_offset_us = rng.randint(-60_000_000, 60_000_000)

    def on_killed(self) -> None:
        self.surroundings.events["memory nodes killed"] += 1
        self._phase = None
        if self.leads:
            self.surroundings.events["primaries killed"] += 1
        if self.node is not None:
            self._marks.on_killed(self.node)
            self.node.close()
            self.node = None
        lost_power = self.disk.lose_power_at == self.disk.operations
        self.disk.lose_power_at = None
        if lost_power or self.rng.random() < self.surroundings.profile.power_loss_share:
            self.surroundings.scheduler.note(self.name, "loses power")
            self.disk.crash()
        delay = self.rng.uniform(0.0, self.down_s_max)
        self.down_s_max = self.surroundings.profile.down_s_max
        if self._back_after_s is not None:
            delay, self._back_after_s = self._back_after_s, None
        self.surroundings.scheduler.after(delay, self.start)

    # --- the driver ----------------------------------------------------------------------------

    def on_message(self, source: str, message: Message) -> None:
        node = self.node
        if node is None:
            return
        try:
            if isinstance(message, Requests):
                self._note_asked(source.encode(), message.requests)
                node.receive(source.encode(), message, self.now)
            elif source in self.surroundings.managers:
                for reply in message.replies:
                    node.on_manager(reply, self.now)
            elif source == node.primary:
                node.on_primary(message, self.now)
        except StorageError as error:
            self._die_of(error)
        self._plan_wakeup()

    def _boot(self) -> None:
        self._begin_node()
        self._on_timer()

    def _begin_node(self) -> None:
        self.node = None
        self._unanswered.clear()
        self._marks.on_start()
        if self.disk_watch is not None:
            self.disk_watch.before_boot(self)
        try:
            self.node = MemoryNode(
                self._settings,
                self.disk,
                new_identity=f"{self.name}/{self.rng.getrandbits(64):x}",
                send=self._send,
                wall=self._wall,
                now=self.now,
                life=self.rng.getrandbits(LIFE_BITS),
            )
        except DamagedData as error:
            self._on_damage(str(error))
            if is_replicated(self.mode):
                # No copy can tell which member's directory it is: an operator moves it away.
                self._replace_disk()
            self._die_of(error)
        except (StorageError, OSError) as error:
            self._die_of(error)
        self.lived = (self.node.identity, self.node.starts)
        if self.node.member_state.damage:
            self._on_damage(self.node.member_state.damage)

    def _on_damage(self, reason: str) -> None:
        """What it found on its disk is not what it synced."""
        assert self.struck, f"{self.name} takes a sound disk for damaged: {reason}"
        self.surroundings.events["damage noticed"] += 1

    def _replace_disk(self) -> None:
        self.surroundings.events["disks replaced"] += 1
        self.struck = False
        self.disk = VirtualDisk(self.rng, log_needs_no_sync=not syncs_log(self.mode))
        self.lived = ("", 0)

    def _wall(self) -> int:
        are_set = self.surroundings.profile.wall_clocks_set
        now = self.surroundings.scheduler.now if are_set else self.now
        return EPOCH_US + round(now * 1e6) + self._wall_offset_us

    @property
    def collecting(self) -> bool:
        """Whether it is between handling a message and the flush that follows."""
        return self._wakeup_planned

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
        self._wake_up()
        node = self.node
        assert node is not None
        idle = IDLE_S if node.state is State.SERVING else RESTLESS_S
        wakeup = node.next_wakeup()
        self.later(
            idle if wakeup is None else max(TICK_S, min(idle, wakeup - self.now)), self._on_timer
        )

    def _wake_up(self) -> None:
        node = self.node
        assert node is not None
        try:
            asked = node.wake_up(self.now)
            if node.primary is not None and asked:
                self._perhaps_die()
                self.send(node.primary, Requests(PROTOCOL_VERSION, 0, 0, 0, asked))
            self._perhaps_die()
            self._check_waiters(node)
            assert not (self.must_refuse and node.state is State.SERVING), (
                f"{self.name} serves although no intact copy is left"
            )
            self._wakeups += 1
            if not node.over and self._wakeups % CHECK_EVERY == 0:
                node.check_invariants()
            self._note_copies(node)
            self._marks.look(node, self.now)
            said = node.to_managers(self.now)
            for manager in self.surroundings.managers if said else ():
                self.send(manager, Requests(PROTOCOL_VERSION, 0, 0, 0, said))
        except StorageError as error:
            self._die_of(error)
        if node.over:
            self.surroundings.scheduler.note(self.name, "its life is over:", node.over)
            if node.over.startswith("its data is damaged"):
                self._on_damage(node.over)
            else:
                self.surroundings.events["primaries deposed"] += 1
            node.close()
            self._begin_node()

    def _check_waiters(self, node: MemoryNode) -> None:
        """No request waits for locks longer than agreed."""
        if node.leading is not None and not node.over:
            for waiter in node.participant.one_phase.lock_waits:
                assert waiter.until > self.now, f"{waiter.request.counter} waits for too long"

    def _note_copies(self, node: MemoryNode) -> None:
        phase = None if node.replica is None else node.replica.follower.phase
        if phase is self._phase:
            return
        copied = self._phase in (Phase.COPYING, Phase.SAVING)
        if phase is Phase.COPYING:
            self.surroundings.events["copies begun"] += 1
        elif copied and phase in (Phase.JOINING, Phase.FOLLOWING):
            self.surroundings.events["copies finished"] += 1
        elif phase is Phase.RESIGNING:
            self.surroundings.events["resignations"] += 1
        elif phase is Phase.PULLING:
            self.surroundings.events["logs pulled"] += 1
        self._phase = phase

    def _note_asked(self, route: bytes, requests: Sequence[Request]) -> None:
        for request in requests:
            if isinstance(request, ExecCommit):
                self._unanswered[route, request.counter] += 1
            elif isinstance(request, ExecPrepare):
                self._unanswered[route, request.tid.counter] += 1

    def _note_answered(self, route: bytes, replies: Sequence[Reply]) -> None:
        """No client is answered more often than it asked, or what it asked another life."""
        for reply in replies:
            if isinstance(reply, Voted):
                self._unanswered[route, reply.counter] -= 1
                assert self._unanswered[route, reply.counter] >= 0, (
                    f"{self.name} votes on {reply.counter} of {route.decode()} unasked"
                )

    def _send(self, route: bytes, replies: Replies) -> None:
        self._note_answered(route, replies.replies)
        if self.node is not None:
            self._marks.on_said(self.node, route, replies)
        self._perhaps_die()
        self.send(route.decode(), replies)

    def _perhaps_die(self) -> None:
        if self._sends_until_death is not None:
            self._sends_until_death -= 1
            if self._sends_until_death < 0:
                raise Killed

    def _die_of(self, error: Exception) -> NoReturn:
        """The process ends with a message, because the disk has failed it."""
        self.surroundings.scheduler.note(self.name, str(error))
        self.surroundings.events["memory nodes stopped by their disk"] += 1
        raise Killed from error
