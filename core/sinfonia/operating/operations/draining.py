"""A host is drained whole or not at all: no primary is left on it, or none was handed over."""

from collections import Counter
from collections.abc import Sequence

from sinfonia.endpoints import host_of
from sinfonia.operating.actions import Done
from sinfonia.operating.operations.replicas import promote
from sinfonia.operating.operators import Operator
from sinfonia.operating.refusals import OperationRefused
from sinfonia.protocol.membership.configuration import keeps_replicas
from sinfonia.protocol.membership.messages import MemoryNodeEntry


def drain_host(operator: Operator, host: str) -> Done:
    """Hand over every primary on a host, or none of them."""
    directory = operator.directory()
    entries = [entry for entry in directory.nodes if entry.identity]
    here = [entry for entry in entries if is_on(entry.endpoint, host)]
    load = Counter(host_of(entry.endpoint) for entry in entries)
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
        target = min(heirs[entry.node], key=lambda place: load[host_of(place)])
        load[host_of(target)] += 1
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
    return host.removeprefix("tcp://") in (place, host_of(endpoint))
