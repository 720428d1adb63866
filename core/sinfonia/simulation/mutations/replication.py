# ruff: noqa: SLF001 - what is broken here is private to its owner, and otherwise nobody's business
"""Broken on purpose: who acknowledges, who may answer, and whose log is the truth."""

from collections.abc import Iterator, Sequence
from unittest.mock import patch

import msgspec

from sinfonia.management.driver import ManagerDriver
from sinfonia.memnode.node import MemoryNode
from sinfonia.memnode.replica import Replica
from sinfonia.protocol.effects import StoreDirectory
from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.membership import configuration, registering
from sinfonia.protocol.membership.configuration import Change
from sinfonia.protocol.membership.election import Awaiting, Positions
from sinfonia.protocol.membership.messages import Member, MemoryNodeEntry, Reconfigure, Register
from sinfonia.protocol.messages import Request
from sinfonia.protocol.replication import shipping
from sinfonia.protocol.replication.following import Follower, FollowerEffect, LogBatch
from sinfonia.protocol.replication.messages import Append, Appended, Joined, Life
from sinfonia.protocol.replication.peer import Peer, PeerPhase
from sinfonia.protocol.replication.shipping import Shipping, ToReplica
from sinfonia.simulation.mutations.locking import replaying_only
from sinfonia.simulation.mutations.mutation import mutation

# --- leases --------------------------------------------------------------------------------------


@mutation(profile="replicas-stranded-primaries")
def promoted_before_its_granted_lease_ends() -> Iterator[None]:
    """A promoted replica answers nobody while the lease that it granted may be counted on."""
    with patch.object(MemoryNode, "_lease_end", lambda self: self._now):
        yield


@mutation(profile="replicas-stranded-primaries")
def read_without_a_lease() -> Iterator[None]:
    """A primary answers a read only if no replica can have agreed to another primary before."""

    def broken(self: Shipping, seq: Seq, executed_at: float, now: float) -> bool:
        del executed_at, now
        required = (peer for peer in self.peers.values() if peer.required)
        return self.local_stable >= seq and all(peer.acked >= seq for peer in required)

    with patch.object(Shipping, "may_leave", broken):
        yield


@mutation(profile="replicas-late-leases")
def lease_counted_from_the_acknowledgement() -> Iterator[None]:
    """A primary counts a lease from when it sent what was acknowledged, not from the answer."""
    on_appended = Shipping.on_appended

    def broken(self: Shipping, route: bytes, appended: Appended, now: float) -> list[ToReplica]:
        return on_appended(self, route, msgspec.structs.replace(appended, sent_at=now), now)

    with patch.object(Shipping, "on_appended", broken):
        yield


# --- acknowledgements ----------------------------------------------------------------------------


@mutation(profile="replicas-last-words")
def some_acknowledgements_are_enough() -> Iterator[None]:
    """A write is answered only when every in-sync replica has it, not when one has."""

    def broken(self: Shipping, seq: Seq, executed_at: float, now: float) -> bool:
        del executed_at, now
        required = [peer for peer in self.peers.values() if peer.required]
        heard = not required or any(peer.acked >= seq for peer in required)
        return self.local_stable >= seq and heard

    with patch.object(Shipping, "may_leave", broken):
        yield


@mutation(profile="replicas-cut-off")
def in_sync_before_it_has_all() -> Iterator[None]:
    """A replica is counted in sync only when it has all that was answered without it."""
    consider = Shipping._consider

    def broken(self: Shipping, peer: Peer, config_epoch: int, now: float) -> None:
        consider(self, peer, config_epoch, now)
        if peer.phase is PeerPhase.JOINING:
            peer.due = 0

    with patch.object(Shipping, "_consider", broken):
        yield


@mutation(profile="replicas-late-wishes")
def joining_replica_not_waited_for() -> Iterator[None]:
    """From when a replica is asked for, answers wait for it."""
    may_leave = Shipping.may_leave

    def broken(self: Shipping, seq: Seq, executed_at: float, now: float) -> bool:
        joining = {
            peer: peer.phase
            for peer in self.peers.values()
            if peer.phase in (PeerPhase.JOINING, PeerPhase.WISHED)
        }
        for peer in joining:
            peer.phase = PeerPhase.OUT
        answer = may_leave(self, seq, executed_at, now)
        for peer, phase in joining.items():
            peer.phase = phase
        return answer

    with patch.object(Shipping, "may_leave", broken):
        yield


@mutation(profile="replicas-stranded-primaries")
def dropped_without_a_new_configuration() -> Iterator[None]:
    """A replica that is silent is waited for until a new configuration does without it."""
    on_tick = Shipping.on_tick

    def broken(self: Shipping, now: float) -> list[ToReplica]:
        for peer in self.peers.values():
            if peer.counted and self._is_gone(peer, now):
                peer.phase = PeerPhase.OUT
        return on_tick(self, now)

    with patch.object(Shipping, "on_tick", broken):
        yield


@mutation(profile="replicas-last-words")
def heir_begins_without_the_others() -> Iterator[None]:
    """Who was in sync with the former primary stays so: its heir has to wait for all of them."""
    init = Shipping.__init__

    def broken(self: Shipping, entry: MemoryNodeEntry, **arguments: object) -> None:
        init(self, entry, **arguments)  # type: ignore[arg-type]
        for peer in self.peers.values():
            peer.phase = PeerPhase.OUT

    with patch.object(Shipping, "__init__", broken):
        yield


@mutation(profile="replicas-last-words")
def acknowledged_before_its_sync() -> Iterator[None]:
    """A replica acknowledges what is on its stable storage."""

    def broken(self: Replica) -> list[Request]:
        said = self._ask + self._answers
        self._ask, self._answers = [], []
        return said

    with patch.object(Replica, "flush", broken):
        yield


# --- whose log is the truth ----------------------------------------------------------------------


@mutation(profile="replicas-blinks-and-late-messages")
def append_of_another_life_logged() -> Iterator[None]:
    """A replica logs what its primary sends in this life, and nothing that an earlier one sent."""
    on_append = Follower._on_append

    def broken(self: Follower, append: Append, now: float) -> list[FollowerEffect]:
        current = msgspec.structs.replace(
            append, incarnation=self.entry.incarnation, config_epoch=self._epoch
        )
        return on_append(self, current, now)

    with patch.object(Follower, "_on_append", broken):
        yield


@mutation(profile="replicas-blinks-and-late-messages")
def not_truncated_to_the_primary() -> Iterator[None]:
    """A replica forgets what it has logged and its primary has not."""
    on_joined = Follower._on_joined

    def broken(self: Follower, joined: Joined, now: float) -> list[FollowerEffect]:
        if not joined.image:
            joined = msgspec.structs.replace(joined, common=max(joined.common, self.last))
        return on_joined(self, joined, now)

    with patch.object(Follower, "_on_joined", broken):
        yield


@mutation(profile="replicas-blinks-and-late-messages")
def lives_not_compared() -> Iterator[None]:
    """Two logs are the same as far as the same lives wrote them, not as far as both reach."""

    def broken(mine: Sequence[Life], last: Seq, theirs: Sequence[Life], their_last: Seq) -> Seq:
        del mine, theirs
        return min(last, their_last)

    with patch.object(shipping, "common_prefix", broken):
        yield


@mutation(profile="replicas-blinks-and-late-messages")
def applied_before_committed() -> Iterator[None]:
    """A replica shows only what is at all in-sync members, so that it is never taken back."""
    carry_out = Replica._carry_out

    def broken(self: Replica, effects: list[FollowerEffect]) -> None:
        for effect in effects:
            carry_out(self, [effect])
            if isinstance(effect, LogBatch):
                self.member_state.apply_up_to(effect.batch.last)

    with patch.object(Replica, "_carry_out", broken):
        yield


@mutation(profile="replicas-lossy")
def answer_to_an_earlier_question_believed() -> Iterator[None]:
    """How far two logs agree is asked once; a later answer to that is of an earlier time."""
    on_joined = Follower._on_joined

    def broken(self: Follower, joined: Joined, now: float) -> list[FollowerEffect]:
        self._reconciled = False
        return on_joined(self, joined, now)

    with patch.object(Follower, "_on_joined", broken):
        yield


@mutation(profile="replicas-handed-over-behind-cut-links", seed=52)
def promoted_without_read_locks() -> Iterator[None]:
    """A promoted replica holds all locks of what is in doubt, the shared ones too."""
    with replaying_only(lambda locked: locked.exclusive):
        yield


# --- the configuration ---------------------------------------------------------------------------


@mutation(profile="replicas-late-wishes")
def old_configuration_changed() -> Iterator[None]:
    """A primary changes the configuration that it knows, and no later one."""
    on_reconfigure = configuration.on_reconfigure

    def broken(entry: MemoryNodeEntry, request: Reconfigure) -> Change:
        known = {member.identity for member in entry.replicas}
        current = msgspec.structs.replace(
            request,
            incarnation=entry.incarnation,
            config_epoch=entry.config_epoch,
            in_sync=[each for each in request.in_sync if each in known],
        )
        return on_reconfigure(entry, current)

    with patch.object(configuration, "on_reconfigure", broken):
        yield


@mutation(profile="replicas-cut-off")
def out_of_sync_replica_promoted() -> Iterator[None]:
    """Only a replica that is in sync becomes primary."""
    promoted = configuration.promoted

    def best(entry: MemoryNodeEntry, alive: Sequence[str]) -> str | None:
        # Who is best is first, so that this is hardly ever in sync.
        replicas = {member.identity for member in entry.replicas}
        return next((identity for identity in reversed(alive) if identity in replicas), None)

    def broken(
        entry: MemoryNodeEntry, identity: str, *, former: Member | None = None
    ) -> MemoryNodeEntry:
        replicas = [
            msgspec.structs.replace(each, in_sync=each.in_sync or each.identity == identity)
            for each in entry.replicas
        ]
        counted = msgspec.structs.replace(entry, replicas=replicas)
        return promoted(counted, identity, former=former)

    with (
        patch.object(configuration, "best_proven", best),
        patch.object(configuration, "promoted", broken),
    ):
        yield


@mutation(profile="replicas-three-managers")
def told_before_it_is_stored() -> Iterator[None]:
    """Nobody hears of a directory that could not be stored."""
    stored = ManagerDriver._stored

    def broken(self: ManagerDriver, effect: StoreDirectory, now: float) -> bool:
        decided = self.manager.directory
        if not stored(self, effect, now):
            self.manager.on_directory(decided, now)
        return True

    with patch.object(ManagerDriver, "_stored", broken):
        yield


@mutation(profile="replicas-in-memory")
def emptied_replica_stays_in_sync() -> Iterator[None]:
    """A member that has restarted with nothing in its hands is in sync no more, nor primary."""
    on_register = registering.on_register

    def broken(
        entry: MemoryNodeEntry | None, request: Register, alive: Sequence[str], told: Positions
    ) -> Change | Awaiting:
        return on_register(entry, msgspec.structs.replace(request, empty=False), alive, told)

    with patch.object(registering, "on_register", broken):
        yield
