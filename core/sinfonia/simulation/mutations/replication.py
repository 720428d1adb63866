"""Broken on purpose: which members acknowledge, which may answer, and whose log is the truth."""

from collections.abc import Callable, Iterator, Sequence
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
from sinfonia.simulation.mutations.mutation import instead_of, mutation

# --- leases --------------------------------------------------------------------------------------


@mutation(profile="replicas-stranded-primaries", seeds=(3, 44, 13, 2))
def promoted_before_its_granted_lease_ends() -> Iterator[None]:
    """A promoted replica answers no client while the lease that it granted may be counted on."""
    with patch.object(MemoryNode, "_lease_end", lambda self: self._now):
        yield


@instead_of(Shipping, "may_leave", profile="replicas-stranded-primaries", seeds=(5,))
def read_without_a_lease(
    _original: object, self: Shipping, seq: Seq, executed_at: float, now: float
) -> bool:
    """A primary answers a read only if no replica can have agreed to another primary before."""
    del executed_at, now
    required = (peer for peer in self.peers.values() if peer.required)
    return self.local_stable >= seq and all(peer.acked >= seq for peer in required)


@instead_of(Shipping, "on_appended", profile="replicas-late-leases", seeds=(36,))
def lease_counted_from_the_acknowledgement(
    on_appended: Callable[..., list[ToReplica]],
    self: Shipping,
    route: bytes,
    appended: Appended,
    now: float,
) -> list[ToReplica]:
    """A primary counts a lease from when it sent what was acknowledged, not from the answer."""
    return on_appended(self, route, msgspec.structs.replace(appended, sent_at=now), now)


# --- acknowledgements ----------------------------------------------------------------------------


@instead_of(Shipping, "may_leave", profile="replicas-last-words", seeds=(24,))
def some_acknowledgements_are_enough(
    _original: object, self: Shipping, seq: Seq, executed_at: float, now: float
) -> bool:
    """A write is answered only when every in-sync replica has it, not when one has."""
    del executed_at, now
    required = [peer for peer in self.peers.values() if peer.required]
    heard = not required or any(peer.acked >= seq for peer in required)
    return self.local_stable >= seq and heard


@instead_of(Shipping, "_consider", profile="replicas-cut-off", seeds=(1, 2, 9))
def in_sync_before_it_has_all(
    consider: Callable[..., None], self: Shipping, peer: Peer, config_epoch: int, now: float
) -> None:
    """A replica is counted in sync only when it has all that was answered without it."""
    consider(self, peer, config_epoch, now)
    if peer.phase is PeerPhase.JOINING:
        peer.due = 0


@instead_of(Shipping, "may_leave", profile="replicas-late-wishes", seeds=(1,))
def joining_replica_not_waited_for(
    may_leave: Callable[..., bool], self: Shipping, seq: Seq, executed_at: float, now: float
) -> bool:
    """From when a replica is asked for, answers wait for it."""
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


@instead_of(Shipping, "on_tick", profile="replicas-stranded-primaries", seeds=(81,))
def dropped_without_a_new_configuration(
    on_tick: Callable[..., list[ToReplica]], self: Shipping, now: float
) -> list[ToReplica]:
    """A replica that is silent is waited for until a new configuration does without it."""
    for peer in self.peers.values():
        if peer.counted and self._is_gone(peer, now):
            peer.phase = PeerPhase.OUT
    return on_tick(self, now)


@instead_of(Shipping, "__init__", profile="replicas-last-words", seeds=(27,))
def heir_begins_without_the_others(
    init: Callable[..., None], self: Shipping, entry: MemoryNodeEntry, **arguments: object
) -> None:
    """Members in sync with the former primary stay so: its heir has to wait for all of them."""
    init(self, entry, **arguments)
    for peer in self.peers.values():
        peer.phase = PeerPhase.OUT


@instead_of(Replica, "flush", profile="replicas-last-words", seeds=(1,))
def acknowledged_before_its_sync(_original: object, self: Replica) -> list[Request]:
    """A replica acknowledges what is on its stable storage."""
    said = self._ask + self._answers
    self._ask, self._answers = [], []
    return said


# --- whose log is the truth ----------------------------------------------------------------------


@instead_of(Follower, "_on_append", profile="replicas-blinks-and-late-messages", seeds=(165, 100))
def append_of_another_life_logged(
    on_append: Callable[..., list[FollowerEffect]], self: Follower, append: Append, now: float
) -> list[FollowerEffect]:
    """A replica logs what its primary sends in this life, and nothing that an earlier one sent."""
    current = msgspec.structs.replace(
        append, incarnation=self.entry.incarnation, config_epoch=self._epoch
    )
    return on_append(self, current, now)


@instead_of(Follower, "_on_joined", profile="replicas-blinks-and-late-messages", seeds=(6, 10))
def not_truncated_to_the_primary(
    on_joined: Callable[..., list[FollowerEffect]], self: Follower, joined: Joined, now: float
) -> list[FollowerEffect]:
    """A replica forgets what it has logged and its primary has not."""
    if not joined.image:
        joined = msgspec.structs.replace(joined, common=max(joined.common, self.last))
    return on_joined(self, joined, now)


@instead_of(shipping, "common_prefix", profile="replicas-blinks-and-late-messages", seeds=(6, 10))
def lives_not_compared(
    _original: object, mine: Sequence[Life], last: Seq, theirs: Sequence[Life], their_last: Seq
) -> Seq:
    """Two logs are the same as far as the same lives wrote them, not as far as both reach."""
    del mine, theirs
    return min(last, their_last)


@instead_of(Replica, "_carry_out", profile="replicas-blinks-and-late-messages", seeds=(6,))
def applied_before_committed(
    carry_out: Callable[..., None], self: Replica, effects: list[FollowerEffect]
) -> None:
    """A replica shows only what is at all in-sync members, so that it is never taken back."""
    for effect in effects:
        carry_out(self, [effect])
        if isinstance(effect, LogBatch):
            self.member_state.apply_up_to(effect.batch.last)


@instead_of(Follower, "_on_joined", profile="replicas-lossy", seeds=(14,))
def answer_to_an_earlier_question_believed(
    on_joined: Callable[..., list[FollowerEffect]], self: Follower, joined: Joined, now: float
) -> list[FollowerEffect]:
    """How far two logs agree is asked once; a later answer to that is of an earlier time."""
    self._reconciled = False
    return on_joined(self, joined, now)


@mutation(profile="replicas-handed-over-behind-cut-links", seeds=(121,))
def promoted_without_read_locks() -> Iterator[None]:
    """A promoted replica holds all locks of what is in doubt, the shared ones too."""
    with replaying_only(lambda locked: locked.exclusive):
        yield


# --- the configuration ---------------------------------------------------------------------------


@instead_of(configuration, "on_reconfigure", profile="replicas-late-wishes", seeds=(1,))
def old_configuration_changed(
    on_reconfigure: Callable[..., Change], entry: MemoryNodeEntry, request: Reconfigure
) -> Change:
    """A primary changes the configuration that it knows, and no later one."""
    known = {member.identity for member in entry.replicas}
    current = msgspec.structs.replace(
        request,
        incarnation=entry.incarnation,
        config_epoch=entry.config_epoch,
        in_sync=[each for each in request.in_sync if each in known],
    )
    return on_reconfigure(entry, current)


@mutation(profile="replicas-cut-off", seeds=(5, 16, 1))
def out_of_sync_replica_promoted() -> Iterator[None]:
    """Only a replica that is in sync becomes primary."""
    promoted = configuration.promoted

    def best(entry: MemoryNodeEntry, alive: Sequence[str]) -> str | None:
        # The best member is first, so that this one is hardly ever in sync.
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


@instead_of(ManagerDriver, "_stored", profile="replicas-three-managers", seeds=(6, 2, 8))
def told_before_it_is_stored(
    stored: Callable[..., bool], self: ManagerDriver, effect: StoreDirectory, now: float
) -> bool:
    """A manager tells no process of a directory that it could not store."""
    decided = self.manager.directory
    if not stored(self, effect, now):
        self.manager.on_directory(decided, now)
    return True


@instead_of(registering, "on_register", profile="replicas-in-memory", seeds=(2,))
def emptied_replica_stays_in_sync(
    on_register: Callable[..., Change | Awaiting],
    entry: MemoryNodeEntry | None,
    request: Register,
    alive: Sequence[str],
    told: Positions,
) -> Change | Awaiting:
    """A member that has restarted with nothing in its hands is in sync no more, nor primary."""
    return on_register(entry, msgspec.structs.replace(request, empty=False), alive, told)
