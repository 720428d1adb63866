"""The manager: it knows the members of all memory nodes, and leaves nothing undecided.

It is the paper's management node (section 4.4) with its directory (4.11).  It

- keeps the configuration of every memory node: which member is primary, which replicas are in sync
  (``configuration`` has the rules).  A member that lost what it held does not come back as itself;
- probes every member; a primary that is silent is replaced by an in-sync replica that is not;
- finds minitransactions that have been in doubt for too long, because a client or a memory node
  died, and runs a recovery coordinator for each; after a crash of many, in bulk (4.6);
- advances the epoch (4.7), which ages forced-aborts and the sessions of silent clients.

Minitransactions do without it; while it is away nothing is recovered, replaced or registered.

The law: no process is told anything of a directory before it is stored, and it is stored by
compare-and-swap.  So a change is tentative until its StoreDirectory has been carried out: if that
fails, the effects after it must be dropped and ``on_directory`` called with what is stored.  All
safety is in this.  That of several managers only one *leads*, and changes the directory, merely
spares them quarrels; the others stand by, and settle what is in doubt only if none leads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from sinfonia.addresses import MemoryNodeId
from sinfonia.figures import manager as rows
from sinfonia.figures.tables import Given
from sinfonia.protocol.effects import ReplyTo, SendTo, SendToMember, StoreDirectory
from sinfonia.protocol.membership import configuration, operator_requests, registering
from sinfonia.protocol.membership.configuration import Change, Refusal
from sinfonia.protocol.membership.election import Awaiting, Position
from sinfonia.protocol.membership.failure_detector import MemberLife, primary_life
from sinfonia.protocol.membership.hand_over import HandOvers, PendingHandOver
from sinfonia.protocol.membership.members import Members
from sinfonia.protocol.membership.messages import (
    Changed,
    Directory,
    GetUnsettled,
    HandOver,
    MemoryNodeEntry,
    NotLeading,
    Reconfigure,
    Reconfigured,
    Recreate,
    Recreated,
    Register,
    Registered,
    RemoveReplica,
    Settle,
    WantReplicas,
)
from sinfonia.protocol.membership.settling import settle, unsettled_tids
from sinfonia.protocol.membership.undecided import Undecided
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    CommitAck,
    Probe,
    ProbeReply,
    Replies,
    Request,
    Requests,
    Resolved,
)

# A change is pushed to all members at once, but so seldom (seconds) that many changes, as when a
# cluster starts, share a push.
PUSH_SPACING = 0.02

ManagerEffect = SendTo | SendToMember | StoreDirectory | ReplyTo

ManagementRequest = (
    Register
    | Recreate
    | Reconfigure
    | WantReplicas
    | RemoveReplica
    | HandOver
    | GetUnsettled
    | Settle
)  # what ``Manager.on_request`` takes


@dataclass(frozen=True, slots=True)
class ManagerSettings:
    """Times in seconds.

    in_doubt_timeout: the longest that a dead client's locks stand in the way of others, as long as
    the memory nodes concerned are up.  epoch_length: what is two epochs old is stale.
    decided_age: a committed tid that its client has not declared finished for so long is finished
    by the manager.  fail_after: a primary that is silent for so long is replaced.
    """

    in_doubt_timeout: float = 2.0
    epoch_length: float = 3600.0
    decided_age: float = 30.0
    fail_after: float = 1.0

    @property
    def probe_interval(self) -> float:
        """Half of the timeout is age, a quarter waiting for the probe; the rest is for recovery.

        Of probes, three may be lost before a member is taken for dead.
        """
        return min(self.in_doubt_timeout, self.fail_after) / 4

    @property
    def in_doubt_age(self) -> float:
        """What a probe calls old."""
        return self.in_doubt_timeout / 2


class Manager:
    """The management node.  It does no I/O; see effects.py.  Times are monotonic seconds.

    ``managers``: the endpoints of all managers, for the directory; none: what it says is right.
    """

    def __init__(
        self,
        *,
        client: int,
        settings: ManagerSettings,
        directory: Directory,
        now: float,
        managers: Sequence[str] = (),
        leading: bool = True,
    ) -> None:
        self.client = client
        self.settings = settings
        self.directory = directory
        self.leading = leading
        self.leader = ""
        self.undecided = Undecided()
        self.fail_overs = 0
        self.reboots = 0
        self.probes = 0
        self._managers = list(managers)
        self._clock = 0
        self._members = Members(directory, fail_after=settings.fail_after, now=now)
        self._detector = self._members.detector
        self._fail_overs_decided = 0
        self._hand_overs = HandOvers()
        self._push_from: Directory | None = None  # the directory before the last push
        self._next_push = now
        self._next_probe = now
        self._next_epoch = now + settings.epoch_length

    # --- the directory -------------------------------------------------------------------------

    def entry(self, node: MemoryNodeId) -> MemoryNodeEntry | None:
        """What the directory says of ``node``."""
        return self.directory.entry(node)

    def on_directory(self, directory: Directory, now: float) -> None:
        """This is what is stored, whatever was decided here."""
        self._fail_overs_decided = 0
        if directory.epoch < self.directory.epoch:
            self._next_epoch = now
        if directory != self.directory:
            self._adopt(directory, now)

    def on_leadership(self, *, leading: bool, leader: str, now: float) -> None:
        """Whether this manager leads, or else the endpoint of the one that does, if known."""
        self.leader = leader
        if leading and not self.leading:
            self._next_epoch = now + self.settings.epoch_length
            # While it stood by it heard no member.
            self._detector.wait_anew(now)
            self._next_probe = now
        self.leading = leading

    @property
    def handing_over(self) -> list[MemoryNodeId]:
        """The memory nodes that wait to hear from the member that shall lead."""
        return self._hand_overs.nodes

    @property
    def standing_by(self) -> bool:
        """Another manager leads, and does everything."""
        return not self.leading and bool(self.leader)

    def _change(self, entries: Sequence[MemoryNodeEntry], now: float) -> list[ManagerEffect]:
        """Replace what differs, all at once."""
        nodes = {entry.node: entry for entry in self.directory.nodes}
        changed = [entry for entry in entries if nodes.get(entry.node) != entry]
        if not changed:
            return []
        nodes |= {entry.node: entry for entry in changed}
        return self._store(
            replace(self.directory, nodes=[nodes[node] for node in sorted(nodes)]), now
        )

    def _store(self, directory: Directory, now: float) -> list[ManagerEffect]:
        following = replace(directory, version=self.directory.version + 1)
        self._adopt(following, now)
        return [StoreDirectory(following)]

    def _adopt(self, directory: Directory, now: float) -> None:
        if self._push_from is None:
            self._push_from = self.directory
        for entry in directory.nodes:
            before = self.directory.entry(entry.node)
            if before is None or before.incarnation != entry.incarnation:
                self.undecided.on_new_life(entry.node)
        self.directory = directory
        self._detector.watch(directory, now)

    # --- requests ------------------------------------------------------------------------------

    def on_request(
        self, route: bytes, request: ManagementRequest, now: float
    ) -> list[ManagerEffect]:
        """A member or an operator wants something."""
        if not self.leading:
            return [ReplyTo(route, NotLeading(self.leader))]
        if isinstance(request, Register):
            return self._on_register(route, request, now)
        if isinstance(request, Reconfigure):
            return self._on_reconfigure(route, request, now)
        if isinstance(request, GetUnsettled):
            recoveries = self.undecided.recoveries
            told = unsettled_tids(request, recoveries, self.directory, now)
            return [ReplyTo(route, told)]
        if isinstance(request, Settle):
            sends, refusal = settle(
                request,
                recoveries=self.undecided.recoveries,
                directory=self.directory,
                members=self._members,
                now=now,
            )
            return [*sends, ReplyTo(route, Changed(refusal))]
        entry = self.entry(request.node)
        change: Change
        if entry is not None and self._members.is_behind(entry):
            change = Refusal(configuration.older_store(entry, self._members.seen(entry.node)))
        elif isinstance(request, HandOver) and entry is not None:
            return self._begin_hand_over(route, entry, request, now)
        elif entry is None or isinstance(request, HandOver):
            change = Refusal(f"there is no memory node {request.node}")
        else:
            change = self._operate(entry, request, now)
        refusal = change.reason if isinstance(change, Refusal) else ""
        effects = [] if isinstance(change, Refusal) else self._change([change], now)
        answer = Recreated(refusal) if isinstance(request, Recreate) else Changed(refusal)
        return [*effects, ReplyTo(route, answer)]

    def _operate(
        self,
        entry: MemoryNodeEntry,
        request: Recreate | WantReplicas | RemoveReplica,
        now: float,
    ) -> Change:
        if isinstance(request, Recreate):
            is_up = self._detector.is_alive(primary_life(entry), now)
            return operator_requests.on_recreate(entry, primary_is_up=is_up)
        if isinstance(request, WantReplicas):
            return operator_requests.on_want_replicas(entry, request)
        return operator_requests.on_remove_replica(entry, request)

    # --- an operator moves the part of primary -------------------------------------------------

    def _begin_hand_over(
        self, route: bytes, entry: MemoryNodeEntry, request: HandOver, now: float
    ) -> list[ManagerEffect]:
        """Hear from the heir first: to depose a primary that lives for a member that has just died
        could lose what both hold, if that is in memory only."""
        change = self._hand_over(entry, request, now)
        if isinstance(change, Refusal):
            return [ReplyTo(route, Changed(change.reason))]
        if change == entry:
            return [ReplyTo(route, Changed())]
        heir = primary_life(change)
        self._hand_overs.begin(entry.node, PendingHandOver(route, request, heir, now))
        return [self._probe(heir, request.endpoint, now)]

    def _hand_over_to(
        self, entry: MemoryNodeEntry, life: MemberLife, asked_at: float, now: float
    ) -> list[ManagerEffect]:
        """``life`` has answered; perhaps it was asked because it shall lead."""
        pending = self._hand_overs.on_answer(entry.node, life, asked_at)
        if pending is None:
            return []
        change = self._hand_over(entry, pending.request, now)
        if isinstance(change, Refusal):
            return [ReplyTo(pending.route, Changed(change.reason))]
        self._note_new_life(entry, change, now)
        return [*self._change([change], now), ReplyTo(pending.route, Changed())]

    def _hand_over(self, entry: MemoryNodeEntry, request: HandOver, now: float) -> Change:
        return operator_requests.on_hand_over(
            entry,
            request,
            self._detector.alive(entry, now),
            primary_is_up=self._detector.is_alive(primary_life(entry), now),
        )

    def _give_up_hand_overs(self, now: float) -> list[ManagerEffect]:
        """Heirs that did not answer in time, and all of them if another manager leads."""
        after = self.settings.fail_after if self.leading else 0.0
        effects: list[ManagerEffect] = []
        for node, pending in self._hand_overs.give_up(now, after=after):
            silent = Changed(
                f"the replica of memory node {node} at {pending.request.endpoint} does not answer; "
                "start it first"
            )
            effects.append(
                ReplyTo(pending.route, silent if self.leading else NotLeading(self.leader))
            )
        return effects

    def _on_register(self, route: bytes, request: Register, now: float) -> list[ManagerEffect]:
        """A member has started."""
        entry = self.entry(request.node)
        alive = [] if entry is None else self._detector.alive(entry, now)
        if entry is not None and self._members.is_behind(entry):
            seen = max(request.known_epoch, self._members.seen(entry.node))
            request = replace(request, known_epoch=seen)
        positions = {} if entry is None else self._members.positions(entry, request, now)
        change = registering.on_register(entry, request, alive, positions)
        if isinstance(change, Refusal | Awaiting):
            return self._put_off(route, entry, request, change, now)
        self._members.on_registered(request.node)
        if entry is not None and entry != change:
            self.reboots += request.starts > 1
            self._note_new_life(entry, change, now)
        effects = self._change([change], now)
        if entry is None and request.epoch > self.directory.epoch:
            effects += self._store(replace(self.directory, epoch=request.epoch), now)
        effects.append(
            ReplyTo(
                route,
                Registered(
                    starts=request.starts,
                    epoch=self.directory.epoch,
                    directory=self.directory,
                    resigned=request.resigns,
                    life=request.life,
                ),
            )
        )
        if request.identity == change.identity:
            # What it left undecided is settled before it serves, so ask for it at once.
            effects.append(self._probe(primary_life(change), change.endpoint, now))
        return effects

    def _put_off(
        self,
        route: bytes,
        entry: MemoryNodeEntry | None,
        request: Register,
        change: Refusal | Awaiting,
        now: float,
    ) -> list[ManagerEffect]:
        """A member that registers has no part, or none yet."""
        refused = isinstance(change, Refusal)
        if (
            refused
            and entry is not None
            and request.identity == entry.identity
            and (request.starts, request.life) != (entry.starts, entry.life)
            and request.starts >= entry.starts
        ):
            # Another life speaks, and cannot lead: the one that is known has ended.
            self._detector.on_death(primary_life(entry))
        effects: list[ManagerEffect] = [
            ReplyTo(
                route,
                Registered(
                    starts=request.starts,
                    epoch=self.directory.epoch,
                    directory=self.directory,
                    refusal=change.reason if refused else "",
                    waiting="" if refused else change.reason,
                    rolled_back=change.rolled_back if isinstance(change, Refusal) else 0,
                    life=request.life,
                ),
            )
        ]
        if entry is not None and isinstance(change, Awaiting):
            effects += [
                self._probe(MemberLife(entry.node, each.identity, each.starts), each.endpoint, now)
                for each in entry.replicas
                if each.identity in change.members
            ]
        return effects

    def _on_reconfigure(
        self, route: bytes, request: Reconfigure, now: float
    ) -> list[ManagerEffect]:
        entry = self.entry(request.node)
        effects: list[ManagerEffect] = []
        # A primary that has become deaf takes its replicas for dead.  It could not serve without
        # them, nor hear that it may, and they could no longer take over.
        if entry is not None and not self._detector.is_deaf(primary_life(entry), now):
            change = configuration.on_reconfigure(entry, request)
            if not isinstance(change, Refusal):
                effects = self._change([change], now)
        return [*effects, ReplyTo(route, Reconfigured(self.directory))]

    def _note_new_life(self, before: MemoryNodeEntry, after: Change, now: float) -> None:
        """A primary begins: what is in doubt there comes with it."""
        if isinstance(after, MemoryNodeEntry) and after.incarnation != before.incarnation:
            known = [entry.node for entry in self.directory.nodes]
            self.undecided.whole_system.on_reboot(after.node, known, now)

    # --- time ----------------------------------------------------------------------------------

    def on_tick(self, now: float) -> list[ManagerEffect]:
        """Time has passed: push, probe, ask again, and then decide.

        What is decided comes last, so that a store that is away keeps nothing else from happening.
        """
        self._detector.look(now)
        effects = self._give_up_hand_overs(now)
        if self._push_from is not None and now >= self._next_push:
            pushed = self._push(self._push_from, now)
            effects += [] if self.standing_by else pushed
        looking = now >= self._next_probe
        if looking:
            self._next_probe = now + self.settings.probe_interval
            if not self.standing_by:
                effects += self._probe_all(now)
                effects += self.undecided.give_up_waiting(now, self._is_up(now))
                effects += self.undecided.recoveries.ask_again(
                    now, after=self.settings.probe_interval
                )
        if looking and self.leading:
            effects += self._decide(now)
        return effects

    def next_wakeup(self) -> float:
        """When ``on_tick`` must be called next."""
        if self._push_from is not None:
            return min(self._next_push, self._next_probe)
        return self._next_probe

    def _decide(self, now: float) -> list[ManagerEffect]:
        """What no request starts: the epoch, and fail-overs."""
        directory = self.directory
        if now >= self._next_epoch:
            self._next_epoch = now + self.settings.epoch_length
            directory = replace(directory, epoch=directory.epoch + 1)
        if self._managers and directory.managers != self._managers:
            directory = replace(directory, managers=self._managers)
        effects = [] if directory is self.directory else self._store(directory, now)
        heirs = [heir for entry in self.directory.nodes if (heir := self._fail_over(entry, now))]
        self._fail_overs_decided += len(heirs)
        return [*effects, *self._change(heirs, now)]

    def _fail_over(self, entry: MemoryNodeEntry, now: float) -> MemoryNodeEntry | None:
        """The configuration without the primary, if that is dead and a replica can take over."""
        detector = self._detector
        if not entry.in_sync or not detector.is_silent(primary_life(entry), now):
            return None
        if self._members.is_behind(entry):
            return None
        heir = configuration.best_proven(entry, self._members.alive_since_return(entry, now))
        if heir is None:
            return None
        after = configuration.promoted(entry, heir)
        self._note_new_life(entry, after, now)
        return after

    def _push(self, before: Directory, now: float) -> list[ManagerEffect]:
        """Tell all members, and former members, what is stored by now."""
        self._push_from = None
        self._next_push = now + PUSH_SPACING
        self.fail_overs += self._fail_overs_decided
        self._fail_overs_decided = 0
        current = set(_members(self.directory))
        parted = [member for member in _members(before) if member not in current]
        effects = [self._probe(life, endpoint, now) for life, endpoint in parted]
        return [*effects, *self._probe_all(now)]

    def _probe_all(self, now: float) -> list[ManagerEffect]:
        probes: list[ManagerEffect] = [
            self._probe(life, endpoint, now) for life, endpoint in _members(self.directory)
        ]
        self.probes += len(probes)
        return probes

    def _probe(self, life: MemberLife, endpoint: str, now: float) -> SendToMember:
        known = self._detector.directory_version(life) >= self.directory.version
        all_of_it = self.undecided.whole_system.awaits_report(life.node)
        probe = Probe(
            epoch=self.directory.epoch,
            in_doubt_age=0.0 if all_of_it else self.settings.in_doubt_age,
            decided_age=0.0 if all_of_it else self.settings.decided_age,
            directory=None if known else self.directory,
            sent_at=now,
        )
        return SendToMember(life.node, endpoint, probe)

    # --- replies, and what is in doubt ---------------------------------------------------------

    def envelope(self, node: MemoryNodeId, requests: list[Request]) -> Requests:
        """The batch that carries ``requests`` to a member of ``node``."""
        entry = self.entry(node)
        incarnation = 0 if entry is None else entry.incarnation
        return Requests(
            version=PROTOCOL_VERSION,
            client=self.client,
            incarnation=incarnation,
            floor=0,
            requests=requests,
            clock=self._clock,
            node=node,
        )

    def on_replies(self, node: MemoryNodeId, batch: Replies, now: float) -> list[ManagerEffect]:
        """Handle what a member of ``node`` says."""
        entry = self.entry(node)
        if entry is None:
            return []
        self._clock = max(self._clock, batch.clock)
        of_primary = batch.incarnation == entry.incarnation
        effects: list[ManagerEffect] = []
        for reply in batch.replies:
            if isinstance(reply, ProbeReply):
                effects += self._on_probe_reply(entry, reply, now, of_primary=of_primary)
            elif of_primary and isinstance(reply, Resolved | CommitAck):
                effects += self.undecided.on_reply(node, reply)
        return effects

    def _on_probe_reply(
        self, entry: MemoryNodeEntry, reply: ProbeReply, now: float, *, of_primary: bool
    ) -> list[ManagerEffect]:
        # A member of an older version does not give its identity; it knows no replicas either.
        of_primary = of_primary and reply.identity in (entry.identity, "")
        life = MemberLife(entry.node, reply.identity, reply.starts)
        self._members.on_known_epoch(entry, reply.identity, reply.known_epoch)
        asked_at = reply.sent_at or now  # a member of an older version does not say
        if asked_at <= now:
            self._detector.on_answer(
                primary_life(entry) if of_primary else life,
                position=Position(reply.lived, reply.last),
                directory_version=reply.directory_version,
                asked_at=asked_at,
            )
        if not of_primary:
            return self._hand_over_to(entry, life, asked_at, now) if self.leading else []
        return [*self.undecided.on_report(entry.node, reply, now, self._is_up(now))]

    def _is_up(self, now: float) -> Callable[[MemoryNodeId], bool]:
        """Whether a memory node answers now, or is unknown: see WholeSystemRecovery.give_up."""

        def is_up(node: MemoryNodeId) -> bool:
            entry = self.entry(node)
            return entry is None or self._detector.is_alive(primary_life(entry), now)

        return is_up

    # --- status --------------------------------------------------------------------------------

    def figures(self, now: float) -> dict[str, int | float | str]:
        """What the manager says of itself, as the table of its figures has it."""
        undecided = self.undecided
        figures = Given(rows.MANAGER)
        figures[rows.LEADING] = int(self.leading)
        figures[rows.LEADER] = self.leader
        figures[rows.CLUSTER] = self.directory.cluster
        figures[rows.EPOCH] = self.directory.epoch
        figures[rows.DIRECTORY_VERSION] = self.directory.version
        figures[rows.MEMORY_NODES] = len(self.directory.nodes)
        figures[rows.RECOVERIES] = len(undecided.recoveries)
        figures[rows.RECOVERED] = undecided.recoveries.finished
        figures[rows.FAIL_OVERS] = self.fail_overs
        figures[rows.REBOOTS] = self.reboots
        figures[rows.WHOLE_SYSTEM_RECOVERIES] = undecided.whole_system.recoveries
        figures[rows.SETTLED_IN_BULK] = undecided.whole_system.settled
        figures[rows.PROBES] = self.probes
        figures[rows.BEHIND_MEMBERS] = sum(map(self._members.is_behind, self.directory.nodes))
        if not self.standing_by:
            members = [life for life, _ in _members(self.directory)]
            figures[rows.MEMBERS] = len(members)
            figures[rows.MEMBERS_ALIVE] = sum(
                self._detector.is_alive(life, now) for life in members
            )
            figures[rows.UNSETTLED] = len(undecided)
            figures[rows.MEMORY_NODES_SERVING] = sum(undecided.serving.values())
        pinned = undecided.pinned_by(
            entry.node
            for entry in self.directory.nodes
            if self._detector.is_silent(primary_life(entry), now)
        )
        for entry in self.directory.nodes:
            figures[rows.PINNED.of(entry.node)] = pinned[entry.node]
        return figures.values


def _members(directory: Directory) -> list[tuple[MemberLife, str]]:
    """All that can be probed, and where: members with an identity."""
    found: list[tuple[MemberLife, str]] = []
    for entry in directory.nodes:
        found.append((primary_life(entry), entry.endpoint))
        found += [
            (MemberLife(entry.node, member.identity, member.starts), member.endpoint)
            for member in entry.replicas
        ]
    return [(life, endpoint) for life, endpoint in found if life.identity]
