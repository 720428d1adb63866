"""Replicas are added, removed, moved and promoted, one step after the other.

Each step looks first whether it is done.  The manager that leads grants or refuses it, so that
nothing here has to be trusted to keep a promise.
"""

import time

from sinfonia.config import format_size
from sinfonia.endpoints import normalise_endpoint
from sinfonia.errors import ConfigError
from sinfonia.operating.actions import Done
from sinfonia.operating.local_description import with_replica, without_member
from sinfonia.operating.operators import LOOK_EVERY, Operator, ProcessesHere
from sinfonia.operating.refusals import OperationRefused
from sinfonia.operating.sights import SERVING, Sight, is_in_sync, is_ready
from sinfonia.protocol.membership.configuration import keeps_replicas
from sinfonia.protocol.membership.messages import (
    HandOver,
    MemoryNodeEntry,
    RemoveReplica,
    WantReplicas,
)

# A hand-over takes a lease, and the settling of what is in doubt: seconds, if a manager leads.
HAND_OVER_PATIENCE = 30.0

# A manager hears of a member that has just started within some probes: seconds on a busy machine.
PROBED_WITHIN = 3.0


def add_replica(operator: Operator, node: int, to: str | None = None, replaces: str = "") -> Done:
    """Give a memory node another replica, and wait until it is in sync.

    ``to`` is where it will be, which is chosen for a cluster on this machine.  One that is under
    way already is waited for instead.
    """
    entry = operator.entry(node)
    if not keeps_replicas(entry.mode):
        raise OperationRefused(
            f"memory node {node} is in mode {entry.mode}, which keeps no replicas; only a cluster "
            f"made with mode {entry.mode}-REPL does"
        )
    if operator.local is not None:
        endpoint = _describe_replica(operator, operator.local, entry, replaces)
    elif to is None:
        raise ConfigError("where will the replica be? Say it with --to tcp://HOST:PORT")
    else:
        endpoint = normalise_endpoint(to)
    if endpoint == entry.endpoint or is_in_sync(operator.directory(), endpoint):
        return Done(False, f"Memory node {node} has a replica at {endpoint}, in sync.")
    if operator.local is not None:
        described = operator.local.config.describe(node)
        operator.request(WantReplicas(entry.node, max(entry.wanted, len(described.replica))))
        [name] = [each.name for each in described.members if each.endpoint == endpoint]
        operator.tell(f"{name} copies memory node {node} to {endpoint}")
        operator.start([name])
    elif not any(replica.endpoint == endpoint for replica in entry.replicas):
        wanted = max(entry.wanted, len(entry.replicas) + 1)
        operator.request(WantReplicas(entry.node, wanted))
        operator.tell(_how_to_start(operator, entry, endpoint))
    operator.wait_until(
        lambda sight: is_in_sync(sight.directory, endpoint), f"replica {endpoint} is not in sync"
    )
    return Done(True, f"Memory node {node} has a replica at {endpoint}, in sync.")


def remove_replica(operator: Operator, node: int, member: str, *, force: bool = False) -> Done:
    """Give up a replica; here, its process ends and its data directory stays."""
    endpoint = operator.endpoint(member)
    entry = operator.entry(node)
    known = any(replica.endpoint == endpoint for replica in entry.replicas)
    if known or endpoint == entry.endpoint:
        operator.request(RemoveReplica(entry.node, endpoint, force))
    kept = _end_here(operator, node, endpoint)
    if not known and not kept:
        have = ", ".join(replica.endpoint for replica in entry.replicas) or "none"
        return Done(False, f"Memory node {node} has no replica at {endpoint}; it has {have}.")
    return Done(True, f"Memory node {node} has no replica at {endpoint} any more.{kept}")


def move_member(operator: Operator, node: int, member: str, to: str | None = None) -> Done:
    """Put a member of a memory node elsewhere, without a moment in which it has one less."""
    source = operator.endpoint(member)
    entry = operator.entry(node)
    members = [entry.endpoint, *(replica.endpoint for replica in entry.replicas)]
    if source not in members:
        kept = _end_here(operator, node, source)
        have = ", ".join(members)
        return Done(
            bool(kept), f"Memory node {node} has no member at {source}; it has {have}.{kept}"
        )
    add_replica(operator, node, to, replaces=source)
    target = _replacement(operator, node, source) if to is None else normalise_endpoint(to)
    if operator.entry(node).endpoint == source:
        operator.tell(f"{target} takes over memory node {node}")
        promote(operator, node, target)
    # If there is no other, then there was none before: as many copies remain as there were.
    alone = [replica.endpoint for replica in operator.entry(node).replicas] == [source]
    done = remove_replica(operator, node, source, force=alone)
    return Done(True, f"Memory node {node} has moved from {source} to {target}. {done.message}")


def promote(operator: Operator, node: int, member: str, *, force: bool = False) -> Done:
    """Make an in-sync replica the primary, and wait until it serves.

    ``force``: any replica, if the primary is away; what it lacks is lost.
    """
    endpoint = operator.endpoint(member)
    entry = operator.entry(node)
    changed = entry.endpoint != endpoint
    if changed:
        _hand_over(operator, HandOver(entry.node, endpoint, force))

    def serves(sight: Sight) -> bool:
        status = sight.statuses.get(endpoint)
        now = sight.directory.entry(entry.node) if sight.directory is not None else None
        primary = now is not None and now.endpoint == endpoint
        return primary and status is not None and status.state == SERVING

    operator.wait_until(
        serves, f"memory node {node} does not serve at {endpoint}", patience=HAND_OVER_PATIENCE
    )
    word = "now" if changed else "already"
    return Done(changed, f"{endpoint} is {word} the primary of memory node {node}.")


def _hand_over(operator: Operator, request: HandOver) -> None:
    """Ask for a hand-over, again if the manager has not heard of the replica yet.

    A replica that has just started may be in sync before the manager's next probe.  It is then
    refused although it answers here.  Raises OperationRefused.
    """
    deadline = time.monotonic() + PROBED_WITHIN
    while True:
        try:
            operator.request(request)
        except OperationRefused:
            if time.monotonic() >= deadline or not is_ready(operator.look(), request.endpoint):
                raise
            time.sleep(LOOK_EVERY)
        else:
            return


def _describe_replica(
    operator: Operator, local: ProcessesHere, entry: MemoryNodeEntry, replaces: str
) -> str:
    """Where the new replica is to be on this machine; one that was begun before comes first."""
    directory = operator.directory()
    for replica in local.config.describe(entry.node).replica:
        under_way = replica.endpoint != entry.endpoint and not is_in_sync(
            directory, replica.endpoint
        )
        if replica.replaces == replaces and (replaces or under_way):
            return replica.endpoint
    local.change(with_replica(local.config, local.directory, entry.node, replaces=replaces))
    return local.config.describe(entry.node).replica[-1].endpoint


def _replacement(operator: Operator, node: int, source: str) -> str:
    assert operator.local is not None, "on other machines the operator says where, with --to"
    replicas = operator.local.config.describe(node).replica
    return next(replica.endpoint for replica in replicas if replica.replaces == source)


def _end_here(operator: Operator, node: int, endpoint: str) -> str:
    """End the process of a former member, if it is described here; says what is left of it."""
    local = operator.local
    if local is None:
        return ""
    described = local.config.describe(node)
    gone = next((each for each in described.members if each.endpoint == endpoint), None)
    if gone is None:
        return ""
    local.stop([gone.name])
    local.change(without_member(local.config, node, endpoint))
    return f" Its process has ended; its data stays in {gone.data_directory} until you delete it."


def _how_to_start(operator: Operator, entry: MemoryNodeEntry, endpoint: str) -> str:
    managers = " ".join(f"--manager {place}" for place in operator.managers())
    return (
        f"Start the replica on its host now; this waits for it:\n"
        f"  sinfonia memnode --node {entry.node} --listen {endpoint} {managers} \\\n"
        f"    --mode {entry.mode} --capacity {format_size(entry.capacity)} \\\n"
        f"    --data-directory /var/lib/sinfonia/node{entry.node}"
    )
