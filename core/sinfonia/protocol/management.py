"""The manager: it knows who the memory nodes are, and leaves nothing undecided.

It is the paper's management node (section 4.4) with its directory (4.11).  It

- registers memory nodes, and refuses one that has lost what it held: a memory node that restarts
  without its data, or with another's, must not come back as itself;
- probes every memory node for minitransactions that have been in doubt for too long, because a
  client or a memory node died, and runs a recovery coordinator for each;
- advances the epoch (4.7), which ages forced-aborts and the sessions of silent clients.

Minitransactions do without it; while it is away nothing is recovered and nobody can register.
Several may be at work at once as far as recovery goes; the directory has one owner.
"""

from dataclasses import dataclass

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.effects import ReplyTo, SendTo, StoreDirectory
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    STARTS_BITS,
    CommitAck,
    Directory,
    MemoryNodeEntry,
    Probe,
    ProbeReply,
    Recreate,
    Recreated,
    Register,
    Registered,
    Replies,
    Request,
    Requests,
    Resolved,
    Tid,
    Unsettled,
    starts_of,
)
from sinfonia.protocol.recovery import RecoveryCoordinator

# Recoveries under way; what is beyond waits for a later probe.
RECOVERIES_MAX = 16 * 1024

ManagerEffect = SendTo | StoreDirectory | ReplyTo


@dataclass(frozen=True, slots=True)
class ManagerSettings:
    """Times in seconds.

    in_doubt_timeout: the longest that a dead client's locks stand in the way of others, as long as
    the memory nodes concerned are up.  epoch_length: what is two epochs old is stale.
    decided_age: a committed tid that its client has not declared finished for so long is finished
    by the manager.
    """

    in_doubt_timeout: float = 2.0
    epoch_length: float = 3600.0
    decided_age: float = 30.0

    @property
    def probe_interval(self) -> float:
        """Half of the timeout is age, a quarter waiting for the probe; the rest is for recovery."""
        return self.in_doubt_timeout / 4

    @property
    def in_doubt_age(self) -> float:
        """What a probe calls old."""
        return self.in_doubt_timeout / 2


class Manager:
    """The management node.  It does no I/O; see effects.py.  Times are monotonic seconds."""

    def __init__(
        self, *, client: int, settings: ManagerSettings, directory: Directory, now: float
    ) -> None:
        self.client = client
        self.settings = settings
        self.directory = directory
        self.recoveries: dict[Tid, RecoveryCoordinator] = {}
        self.recovered = 0
        self.serving: dict[MemoryNodeId, bool] = {}
        self._known_version: dict[MemoryNodeId, int] = {}
        self._next_probe = now
        self._next_epoch = now + settings.epoch_length

    # --- the directory -------------------------------------------------------------------------

    def entry(self, node: MemoryNodeId) -> MemoryNodeEntry | None:
        """What the directory says of ``node``."""
        return next((entry for entry in self.directory.nodes if entry.node == node), None)

    def on_register(self, route: bytes, request: Register) -> list[ManagerEffect]:
        """A memory node has started."""
        entry = self.entry(request.node)
        refusal = _refusal(entry, request)
        if refusal:
            refused = Registered(request.incarnation, self.directory.epoch, self.directory, refusal)
            return [ReplyTo(route, refused)]
        incarnation = _incarnation(entry, request)
        registered = MemoryNodeEntry(
            request.node,
            request.endpoint,
            request.capacity,
            request.mode,
            request.identity,
            incarnation,
        )
        effects: list[ManagerEffect] = []
        if registered != entry:
            self.serving[request.node] = False
            effects.append(self._store(registered))
        welcome = Registered(incarnation, self.directory.epoch, self.directory)
        # What it left undecided is settled before it serves, so ask for it at once.
        return [*effects, ReplyTo(route, welcome), SendTo(request.node, self._probe(request.node))]

    def on_recreate(self, route: bytes, request: Recreate) -> list[ManagerEffect]:
        """An operator gives up what a memory node held; whoever registers next is it."""
        entry = self.entry(request.node)
        if entry is None:
            return [ReplyTo(route, Recreated(f"there is no memory node {request.node}"))]
        forgotten = MemoryNodeEntry(
            entry.node, entry.endpoint, entry.capacity, entry.mode, "", entry.incarnation
        )
        effects: list[ManagerEffect] = [] if forgotten == entry else [self._store(forgotten)]
        return [*effects, ReplyTo(route, Recreated())]

    def _store(self, changed: MemoryNodeEntry) -> StoreDirectory:
        nodes = {entry.node: entry for entry in self.directory.nodes}
        nodes[changed.node] = changed
        old = self.directory
        ordered = [nodes[node] for node in sorted(nodes)]
        self.directory = Directory(old.version + 1, old.epoch, old.cluster, ordered)
        return StoreDirectory(self.directory)

    # --- recovery ------------------------------------------------------------------------------

    def envelope(self, node: MemoryNodeId, requests: list[Request]) -> Requests:
        """The batch that carries ``requests`` to ``node``."""
        entry = self.entry(node)
        incarnation = 0 if entry is None else entry.incarnation
        return Requests(PROTOCOL_VERSION, self.client, incarnation, 0, requests)

    def on_replies(self, node: MemoryNodeId, batch: Replies, now: float) -> list[ManagerEffect]:
        """Handle what a memory node says."""
        entry = self.entry(node)
        if entry is None or batch.incarnation != entry.incarnation:
            return []
        effects: list[ManagerEffect] = []
        for reply in batch.replies:
            if isinstance(reply, ProbeReply):
                self.serving[node] = reply.serving
                self._known_version[node] = reply.directory_version
                for unsettled in reply.unsettled:
                    effects += self._recover(unsettled, now)
            elif isinstance(reply, Resolved) and reply.tid in self.recoveries:
                recovery = self.recoveries[reply.tid]
                effects += recovery.on_answer(node, reply.answer)
                self._end(recovery)
            elif isinstance(reply, CommitAck) and reply.tid in self.recoveries:
                recovery = self.recoveries[reply.tid]
                effects += recovery.on_acknowledged(node)
                self._end(recovery)
        return effects

    def on_tick(self, now: float) -> list[ManagerEffect]:
        """Time has passed: probe, ask again, advance the epoch."""
        effects: list[ManagerEffect] = []
        if now >= self._next_epoch:
            self._next_epoch = now + self.settings.epoch_length
            old = self.directory
            self.directory = Directory(old.version + 1, old.epoch + 1, old.cluster, old.nodes)
            effects.append(StoreDirectory(self.directory))
        if now >= self._next_probe:
            self._next_probe = now + self.settings.probe_interval
            known = [entry.node for entry in self.directory.nodes if entry.identity]
            effects += [SendTo(node, self._probe(node)) for node in known]
            for recovery in self.recoveries.values():
                if now - recovery.asked_at >= self.settings.probe_interval:
                    recovery.asked_at = now
                    effects += recovery.outstanding()
        return effects

    def next_wakeup(self) -> float:
        """When ``on_tick`` must be called next."""
        return min(self._next_probe, self._next_epoch)

    def _probe(self, node: MemoryNodeId) -> Probe:
        current = self._known_version.get(node) == self.directory.version
        return Probe(
            self.directory.epoch,
            self.settings.in_doubt_age,
            self.settings.decided_age,
            None if current else self.directory,
        )

    def _recover(self, unsettled: Unsettled, now: float) -> list[SendTo]:
        tid = unsettled.tid
        if tid in self.recoveries or len(self.recoveries) >= RECOVERIES_MAX:
            return []
        recovery = self.recoveries[tid] = RecoveryCoordinator(tid, unsettled.participants)
        recovery.asked_at = now
        return recovery.outstanding()

    def _end(self, recovery: RecoveryCoordinator) -> None:
        if recovery.finished:
            self.recovered += 1
            del self.recoveries[recovery.tid]


def _refusal(entry: MemoryNodeEntry | None, request: Register) -> str:
    """Why this memory node may not serve; empty if it may."""
    if entry is None or not entry.identity:
        return ""
    node = request.node
    again = f"if its data is lost for good, accept that with `sinfonia recreate CLUSTER {node}`"
    if request.identity != entry.identity:
        return (
            f"memory node {node} is known with another data directory (identity {entry.identity}, "
            f"this one is {request.identity}); start it with that one, or {again}"
        )
    if request.empty and request.incarnation > starts_of(entry.incarnation):
        return f"memory node {node} ({request.mode}) has restarted without its data; {again}"
    if request.incarnation < starts_of(entry.incarnation):
        return f"memory node {node} has been started again since; this process is out of date"
    return ""


def _incarnation(entry: MemoryNodeEntry | None, request: Register) -> int:
    if entry is None:
        return request.incarnation
    directories = entry.incarnation >> STARTS_BITS
    if not entry.identity:
        directories += 1
    return directories << STARTS_BITS | request.incarnation
