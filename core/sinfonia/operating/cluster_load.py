"""The load of a cluster is what each primary counts in its own life; a silent one is named."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.load import NodeLoad, node_load
from sinfonia.client.seed import key_hint
from sinfonia.errors import Unreachable
from sinfonia.operating.observer import Observer
from sinfonia.operating.sights import ANSWER_WITHIN
from sinfonia.protocol.messages import GetLoad, Load
from sinfonia.transport.keys import Keys


@dataclass(frozen=True, slots=True)
class ClusterLoad:
    """What the memory nodes of a cluster count; ``silent`` are those that do not answer."""

    cluster: str
    loads: Mapping[MemoryNodeId, NodeLoad]
    silent: list[MemoryNodeId]


def ask_for_load(
    asked: Sequence[str], keys: Keys | None, timeout: float = ANSWER_WITHIN
) -> ClusterLoad:
    """Ask the primaries of the cluster to which the processes at ``asked`` belong.

    ``timeout`` in seconds for each of two questions: where they are, and their load.
    Raises ConfigError, or Unreachable if no process tells of the others.
    """
    with Observer(asked, keys) as observer:
        directory = observer.look(timeout).directory
        if directory is None:
            raise Unreachable(
                f"no manager or memory node answers at {', '.join(asked)} within {timeout:g} "
                f"s; is the cluster up, and is this its address? {key_hint(keys)}"
            )
        nodes = {
            entry.endpoint: entry.node
            for entry in directory.nodes
            if entry.identity and entry.endpoint in observer.endpoints
        }
        loads: dict[MemoryNodeId, NodeLoad] = {}
        observer.begin()
        deadline = time.monotonic() + timeout
        while len(loads) < len(nodes) and time.monotonic() < deadline:
            observer.ask([GetLoad()], [place for place, node in nodes.items() if node not in loads])
            for endpoint, reply in observer.receive():
                if isinstance(reply, Load) and endpoint in nodes:
                    loads[nodes[endpoint]] = node_load(nodes[endpoint], reply)
    silent = [entry.node for entry in directory.nodes if entry.node not in loads]
    return ClusterLoad(directory.cluster, loads, silent)
