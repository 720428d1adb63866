"""What an operator may do to the members of a memory node, and what must be forced.

An operator may move the part of primary, want more replicas or fewer, and give up data.  Whatever
could lose what was acknowledged is refused, unless the request says that this loss is accepted.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from sinfonia.protocol.membership import configuration
from sinfonia.protocol.membership.configuration import (
    REPLICAS_MAX,
    Change,
    Refusal,
    changed,
    keeps_replicas,
    no_replicas_in,
    replica,
    too_many,
)
from sinfonia.protocol.membership.messages import (
    HandOver,
    Member,
    MemoryNodeEntry,
    RemoveReplica,
    WantReplicas,
)


def on_hand_over(
    entry: MemoryNodeEntry,
    request: HandOver,
    alive: Sequence[str],
    *,
    primary_is_up: bool = True,
) -> Change:
    """An operator moves the part of primary to an in-sync replica, or, by force, to any one."""
    if request.endpoint == entry.endpoint:
        return entry
    heir = replica(entry, endpoint=request.endpoint)
    if heir is None:
        return Refusal(_no_such_replica(entry, request.endpoint))
    certain = heir.in_sync and not heir.unproven
    if not certain and not request.force:
        return Refusal(
            f"the replica of memory node {entry.node} at {heir.endpoint} is not in sync; wait "
            "until `sinfonia status` says that it is, or, if the primary is lost for good, accept "
            "what this replica lacks with `sinfonia replica promote --force CLUSTER "
            f"{entry.node} {heir.endpoint}`"
        )
    if heir.identity not in alive:
        return Refusal(
            f"the replica of memory node {entry.node} at {heir.endpoint} does not answer; start it "
            "first"
        )
    if certain:
        return configuration.promoted(entry, heir.identity)
    if primary_is_up:
        return Refusal(
            f"memory node {entry.node} is up at {entry.endpoint} and holds its data; nothing needs "
            "to be given up by force"
        )
    return _promoted_with_loss(entry, heir)


def _promoted_with_loss(entry: MemoryNodeEntry, heir: Member) -> MemoryNodeEntry:
    """An operator has accepted what ``heir`` lacks: no other copy counts from now on."""
    replicas = [
        replace(member, in_sync=member is heir, unproven=False) for member in entry.replicas
    ]
    after = configuration.promoted(replace(entry, replicas=replicas), heir.identity)
    return replace(after, loss_accepted=after.incarnation)


def on_want_replicas(entry: MemoryNodeEntry, request: WantReplicas) -> Change:
    """An operator wants more replicas, or no more to come."""
    if request.wanted == entry.wanted:
        return entry
    if not keeps_replicas(entry.mode):
        return Refusal(no_replicas_in(entry.mode))
    if request.wanted > REPLICAS_MAX:
        return Refusal(too_many(request.wanted))
    if request.wanted < len(entry.replicas):
        return Refusal(
            f"memory node {entry.node} has {len(entry.replicas)} replicas; say which to give up "
            f"with `sinfonia replica remove CLUSTER {entry.node} ENDPOINT`"
        )
    return replace(entry, wanted=request.wanted, config_epoch=entry.config_epoch + 1)


def on_remove_replica(entry: MemoryNodeEntry, request: RemoveReplica) -> Change:
    """An operator wants one replica less."""
    if request.endpoint == entry.endpoint:
        return Refusal(
            f"{entry.endpoint} is the primary of memory node {entry.node}; make another member "
            f"primary first, with `sinfonia replica promote CLUSTER {entry.node} ENDPOINT`"
        )
    removed = replica(entry, endpoint=request.endpoint)
    if removed is None:
        return entry
    if removed.in_sync and len(entry.in_sync) == 1 and not request.force:
        return Refusal(
            f"the replica at {removed.endpoint} is the only one of memory node {entry.node} that "
            "is in sync; wait for another one, or accept with --force that the primary alone holds "
            "the data"
        )
    others = [member for member in entry.replicas if member is not removed]
    wanted = max(entry.wanted - 1, len(others))
    return replace(changed(entry, others), wanted=wanted)


def on_recreate(entry: MemoryNodeEntry, *, primary_is_up: bool) -> Change:
    """An operator gives up what the memory node held; the next to register becomes its member."""
    if not entry.identity:
        return entry
    if primary_is_up:
        return Refusal(
            f"memory node {entry.node} is up at {entry.endpoint} and holds its data; if it shall "
            "begin anew all the same, stop it and move its data directory away first"
        )
    if entry.in_sync:
        member = next(member for member in entry.replicas if member.in_sync)
        return Refusal(
            f"the replica of memory node {entry.node} at {member.endpoint} holds the data; start "
            "it, and it becomes primary if the present one is away; if it is lost, too, say so "
            f"with `sinfonia replica remove --force CLUSTER {entry.node} {member.endpoint}` first"
        )
    return replace(entry, identity="", starts=0, config_epoch=entry.config_epoch + 1)


def _no_such_replica(entry: MemoryNodeEntry, endpoint: str) -> str:
    known = ", ".join(member.endpoint for member in entry.replicas) or "none"
    return f"memory node {entry.node} has no replica at {endpoint}; its replicas: {known}"
