"""Marks: states of a run that are rare, and that it must come to if it is to find anything.

They are counted among the events of a run (``Surroundings.events``).  What is counted is seen from
outside, by looking at the machines between two of their steps, and at what they say: the protocol
has no code for it.  Over all seeds that the tests run, each mark must have been reached; what is
never reached is not tested, whatever the faults are called.
"""

from collections import Counter
from dataclasses import dataclass, field

from sinfonia.addresses import MemoryNodeId
from sinfonia.memnode.leading import Leading
from sinfonia.memnode.node import MemoryNode
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.lists import Reading
from sinfonia.protocol.membership.manager import Manager
from sinfonia.protocol.messages import Replies, Vote, Voted
from sinfonia.protocol.replication.following import Follower, Phase
from sinfonia.simulation.disk import VirtualDisk

MARKS = (
    "a fail-over during catch-up",
    "a copy begun anew after a fail-over",
    "a replica that resigned leads later",
    "a log cut off after a fail-over",
    "a window overrun, so that the log is pulled",
    "a replica joined by log",
    "a replica joined by image",
    "a copy cut short by a crash",
    "half a copy found at a start",
    "a checkpoint torn by a crash",
    "an heir died before it served",
    "a line for locks broken by a fail-over",
    "a primary deposed with unacknowledged records",
    "served with something in doubt",
    "read locks let go by themselves",
    "a late copy met a raised floor",
    "a late vote met a promise to abort",
    "a tid answered again by a later life",
    "a tid answered again by another member",
    "a member given up for its slow disk",
    "a recovery of a recovery",
    "a whole system recovered in bulk",
    "a hand-over under faults",
    "two managers lead",
    "unknown outcomes found committed",
)

COPY = (Phase.COPYING, Phase.SAVING)


@dataclass(slots=True)
class Seen:
    """What the observers of one run know together."""

    events: Counter[str]
    answered: dict[tuple[MemoryNodeId, bytes, int], tuple[int, str]] = field(default_factory=dict)
    recovered: dict[Tid, set[str]] = field(default_factory=dict)
    resigned: set[str] = field(default_factory=set)  # identities


class MemberMarks:
    """Looks at one member, ``name``, through all its lives."""

    def __init__(self, seen: Seen, name: str, disk: VirtualDisk) -> None:
        self._seen = seen
        self._events = seen.events
        self._name = name
        self._disk = disk
        self._forget()

    def on_start(self) -> None:
        """A life is about to begin on the disk."""
        self._forget()
        self._events["half a copy found at a start"] += self._disk.exists("incomplete")

    def look(self, node: MemoryNode, now: float) -> None:
        """Between two steps of a life."""
        if node.over:
            self._on_over(node)
        elif node.replica is not None:
            self._look_at_replica(node, node.replica.follower)
        elif node.leading is not None:
            self._look_at_primary(node, node.leading, now)

    def on_killed(self, node: MemoryNode) -> None:
        """A life ends."""
        events = self._events
        if node.leading is not None:
            line = node.participant.one_phase.lock_waits
            events["waited for locks in vain"] += line.expired
            events["waited for locks and served"] += line.queued - line.expired - len(line)
        if node.replica is not None and node.replica.follower.phase in COPY:
            events["a copy cut short by a crash"] += 1
        checkpointer = node.member_state.checkpointer
        if checkpointer is not None and checkpointer.running:
            events["a checkpoint torn by a crash"] += 1
        if node.leading is not None and node.leading.shipping is not None:
            events["an heir died before it served"] += not node.participant.serving
            self._look_at_line(node)

    def on_said(self, node: MemoryNode, route: bytes, replies: Replies) -> None:
        """A life says this."""
        for reply in replies.replies:
            if isinstance(reply, Voted):
                self._on_voted(node, route, reply)

    # --- parts ---------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._phase: Phase | None = None
        self._incarnation = 0
        self._config_epoch = 0
        self._last = 0
        self._counted = False  # whether it was in sync
        self._lacking = ""  # what it had to fetch before it could follow
        self._served = False
        self._led = False
        self._reading: dict[Tid, Reading] = {}

    def _on_over(self, node: MemoryNode) -> None:
        shipping = None if node.leading is None else node.leading.shipping
        if shipping is not None and shipping.committed < shipping.last:
            self._events["a primary deposed with unacknowledged records"] += 1
        self._look_at_line(node)

    def _look_at_line(self, node: MemoryNode) -> None:
        if node.leading is not None and len(node.participant.one_phase.lock_waits):
            self._events["a line for locks broken by a fail-over"] += 1

    def _look_at_replica(self, node: MemoryNode, follower: Follower) -> None:
        if self._phase is not None and follower.entry.incarnation != self._incarnation:
            self._on_fail_over(self._phase)
        if follower.phase is not self._phase:
            self._on_phase(node, follower.phase)
        if follower.last < self._last and follower.phase not in COPY:
            self._events["a log cut off after a fail-over"] += 1
        if follower.entry.config_epoch != self._config_epoch:
            self._config_epoch = follower.entry.config_epoch
            counted = node.identity in follower.entry.in_sync
            if self._counted and not counted and self._disk.sync_s:
                self._events["a member given up for its slow disk"] += 1
            self._counted = counted
        self._incarnation, self._last = follower.entry.incarnation, follower.last

    def _on_fail_over(self, phase: Phase) -> None:
        if phase is Phase.PULLING:
            self._events["a fail-over during catch-up"] += 1
        elif phase in COPY:
            self._events["a copy begun anew after a fail-over"] += 1

    def _on_phase(self, node: MemoryNode, phase: Phase) -> None:
        if phase is Phase.PULLING:
            self._lacking = "log"
            if self._phase is Phase.FOLLOWING:
                self._events["a window overrun, so that the log is pulled"] += 1
        elif phase is Phase.COPYING:
            self._lacking = "image"
            self._last = 0
        elif phase is Phase.RESIGNING:
            self._seen.resigned.add(node.identity)
        elif phase is Phase.FOLLOWING and self._lacking:
            self._events[f"a replica joined by {self._lacking}"] += 1
            self._lacking = ""
        self._phase = phase

    def _look_at_primary(self, node: MemoryNode, leading: Leading, now: float) -> None:
        participant = node.participant
        if not self._led:
            self._led = True
            if leading.shipping is not None and node.identity in self._seen.resigned:
                self._events["a replica that resigned leads later"] += 1
        if participant.serving and not self._served:
            self._served = True
            self._events["served with something in doubt"] += bool(participant.state.in_doubt)
        held = participant.two_phase.reading
        if self._reading or held:
            self._events["read locks let go by themselves"] += any(
                reading.until <= now and tid not in held for tid, reading in self._reading.items()
            )
            self._reading = dict(held)

    def _on_voted(self, node: MemoryNode, route: bytes, voted: Voted) -> None:
        if voted.vote is Vote.BAD_FLOOR:
            self._events["a late copy met a raised floor"] += 1
        elif voted.vote is Vote.BAD_FORCED:
            self._events["a late vote met a promise to abort"] += 1
        elif voted.vote is Vote.OK:
            me = (node.incarnation, self._name)
            which = (node.settings.node, route, voted.counter)
            life, name = self._seen.answered.setdefault(which, me)
            self._events["a tid answered again by a later life"] += life != me[0]
            self._events["a tid answered again by another member"] += name != self._name


class ManagerMarks:
    """Looks at one life of a manager."""

    def __init__(self, seen: Seen, life: str) -> None:
        self._seen = seen
        self._life = life
        self._bulk = 0

    def look(self, manager: Manager) -> None:
        """Between two steps."""
        events = self._seen.events
        for tid in manager.undecided.recoveries:
            lives = self._seen.recovered.setdefault(tid, {self._life})
            if self._life not in lives:
                lives.add(self._life)
                events["a recovery of a recovery"] += 1
        bulk, self._bulk = self._bulk, manager.undecided.whole_system.recoveries
        events["a whole system recovered in bulk"] += self._bulk > bulk
