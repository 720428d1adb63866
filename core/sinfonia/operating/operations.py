"""What an operator changes about a running cluster; each change is safe to repeat.

A change is made of steps, and each looks first whether it is done: who was interrupted says the
same again.  The manager that leads grants or refuses every step, so that nothing here has to be
trusted to keep a promise.
"""

from collections import Counter
from collections.abc import Sequence

from sinfonia.config import format_size
from sinfonia.endpoints import normalise_endpoint
from sinfonia.errors import ConfigError, Unreachable
from sinfonia.operating.local_cluster import SERVING, LocalCluster, is_in_sync
from sinfonia.operating.local_description import with_memory_node, with_replica, without_member
from sinfonia.operating.observer import OperationRefused, Sight
from sinfonia.operating.operators import Done, Operator
from sinfonia.protocol.membership.configuration import keeps_replicas
from sinfonia.protocol.membership.messages import (
    HandOver,
    MemoryNodeEntry,
    RemoveReplica,
    WantReplicas,
)
from sinfonia.protocol.messages import MANAGER

# A hand-over is a lease, and what is in doubt is settled: seconds, if anybody is there to do it.
HAND_OVER_PATIENCE = 30.0

# --- replicas ------------------------------------------------------------------------------------


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
        operator.request(HandOver(entry.node, endpoint, force))

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


def drain_host(operator: Operator, host: str) -> Done:
    """Hand over every primary on a host, or none of them."""
    directory = operator.directory()
    entries = [entry for entry in directory.nodes if entry.identity]
    here = [entry for entry in entries if is_on(entry.endpoint, host)]
    load = Counter(_host(entry.endpoint) for entry in entries)
    if not here:
        hosts = ", ".join(load) or "no host"
        return Done(False, f"No memory node has its primary on {host}; they are on {hosts}.")
    heirs = {
        entry.node: [
            replica.endpoint
            for replica in entry.replicas
            if replica.in_sync and not is_on(replica.endpoint, host)
        ]
        for entry in here
    }
    _refuse_without_replicas(operator, [entry for entry in here if not heirs[entry.node]])
    stuck = [str(node) for node, places in heirs.items() if not places]
    if stuck:
        raise OperationRefused(
            f"memory nodes {', '.join(stuck)} have no in-sync replica that is not on {host}; "
            "give them one with `sinfonia replica add` first; nothing was handed over"
        )
    for entry in here:
        target = min(heirs[entry.node], key=lambda place: load[_host(place)])
        load[_host(target)] += 1
        operator.tell(f"memory node {entry.node}: {target} takes over")
        promote(operator, entry.node, target)
    return Done(True, f"{len(here)} memory nodes were handed over; none has its primary on {host}.")


def _refuse_without_replicas(operator: Operator, entries: Sequence[MemoryNodeEntry]) -> None:
    """Raise OperationRefused if one of ``entries`` is in a mode that keeps no replicas."""
    alone = [entry for entry in entries if not keeps_replicas(entry.mode)]
    if not alone:
        return
    nodes = ", ".join(str(entry.node) for entry in alone)
    modes = ", ".join(sorted({entry.mode for entry in alone}))
    raise OperationRefused(
        f"memory nodes {nodes} are in mode {modes}, which keeps no replicas that could take over; "
        "nothing was handed over. To move the data of all memory nodes, stop the clients, then "
        f"`sinfonia backup {operator.name} DEST` and, on another host, `sinfonia restore DEST DIR`"
        " (with --mode LOG-REPL, a later drain needs no stop)"
    )


def is_on(endpoint: str, host: str) -> bool:
    """Whether ``endpoint`` is on ``host``, which is HOST or HOST:PORT."""
    place = endpoint.removeprefix("tcp://")
    return host.removeprefix("tcp://") in (place, _host(endpoint))


# --- memory nodes --------------------------------------------------------------------------------


def add_memory_node(
    operator: Operator, node: int | None, *, capacity: int | None, replicas: int | None
) -> Done:
    """Start another memory node on this machine; or ``node``, if it was described already."""
    local = operator.local
    if local is None:
        raise ConfigError(
            f"{operator.name} is no cluster directory of this machine; elsewhere, start the new "
            "memory node on its host with `sinfonia memnode`"
        )
    if not any(status.node == MANAGER for status in operator.look().statuses.values()):
        raise Unreachable(f"no manager answers; start it with `sinfonia up {operator.name}`")
    known = [each.node for each in local.config.memory_node]
    chosen = max(known) + 1 if node is None else node
    if chosen not in known:
        config = with_memory_node(
            local.config, local.directory, chosen, capacity=capacity, replicas=replicas
        )
        local.change(config)
    names = [member.name for member in local.config.describe(chosen).members]
    changed = any(name not in local.running for name in names)
    operator.start(names)
    described = local.config.describe(chosen)
    size = format_size(described.capacity)
    return Done(
        changed,
        f"Memory node {chosen} serves at {described.endpoint}: {size}, {described.mode}. What the "
        "cluster holds stays where it is: volumes that exist do not use the new memory node yet, "
        "and programs use it once they refresh and write to it.",
    )


# --- steps ---------------------------------------------------------------------------------------


def _describe_replica(
    operator: Operator, local: LocalCluster, entry: MemoryNodeEntry, replaces: str
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
    assert operator.local is not None, "elsewhere it was said with --to"
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


def _host(endpoint: str) -> str:
    return endpoint.removeprefix("tcp://").rpartition(":")[0]
