"""What must hold at any time, and what must hold once nothing is going on."""

from collections.abc import Sequence

from sinfonia.memnode.node import MemoryNode, State
from sinfonia.testing.simulated_client import SimulatedClient
from sinfonia.testing.simulated_manager import SimulatedManager
from sinfonia.testing.simulated_memory_node import SimulatedMemoryNode


class NotAtRest(Exception):  # noqa: N818 - a state, not an error
    """Something is still going on; the message says what."""


def check_at_rest(
    nodes: Sequence[SimulatedMemoryNode],
    manager: SimulatedManager,
    clients: Sequence[SimulatedClient],
) -> None:
    """Nothing is left of any minitransaction but its effects.  Raises NotAtRest."""
    for process in nodes:
        if process.node is None or process.node.state is not State.SERVING:
            raise NotAtRest(f"{process.name} does not serve")
        _check_nothing_left(process.name, process.node)
    if manager.manager is None:
        raise NotAtRest("there is no manager")
    if manager.manager.recoveries:
        raise NotAtRest(f"the manager recovers {list(manager.manager.recoveries)}")
    for client in clients:
        if client.alive and client.unfinished:
            raise NotAtRest(f"{client.name} waits for {list(client.unfinished)}")


def _check_nothing_left(name: str, node: MemoryNode) -> None:
    participant = node.participant
    for what, tids in (
        ("in doubt", participant.in_doubt),
        ("decided and not forgotten", participant.decided),
        ("reading", participant.reading),
    ):
        if tids:
            raise NotAtRest(f"{name} has {what}: {', '.join(map(str, tids))}")
    if len(participant.locks):
        raise NotAtRest(f"{name} holds locks")


def check_bounds(nodes: Sequence[SimulatedMemoryNode], clients_made: int) -> None:
    """At rest, logs and lists are as small as they should be."""
    for process in nodes:
        node = process.node
        assert node is not None
        node.check_invariants()
        # A session for each client that was ever there, and for each life of the manager.
        assert len(node.participant.sessions) <= clients_made + process.surroundings.events[
            "managers killed"
        ] + 1, f"{process.name} keeps sessions of nobody"
