"""What must hold at any time, and what must hold once nothing is going on."""

from collections.abc import Sequence

from sinfonia.memnode.node import MemoryNode, State
from sinfonia.testing.simulated_client import SimulatedClient
from sinfonia.testing.simulated_manager import SimulatedManager
from sinfonia.testing.simulated_memory_node import SimulatedMemoryNode


def unrest(
    nodes: Sequence[SimulatedMemoryNode],
    manager: SimulatedManager,
    clients: Sequence[SimulatedClient],
) -> str:
    """What is still going on; empty if nothing is left of any minitransaction but its effects."""
    for process in nodes:
        if process.node is None or process.node.state is not State.SERVING:
            return f"{process.name} does not serve"
        left = _left_over(process.node)
        if left:
            return f"{process.name} {left}"
    if manager.manager is None:
        return "there is no manager"
    if manager.manager.recoveries:
        return f"the manager recovers {', '.join(map(str, manager.manager.recoveries))}"
    for client in clients:
        if client.alive and client.unfinished:
            return f"{client.name} waits for operations {', '.join(map(str, client.unfinished))}"
    return ""


def _left_over(node: MemoryNode) -> str:
    participant = node.participant
    for what, tids in (
        ("in doubt", participant.in_doubt),
        ("decided and not forgotten", participant.decided),
        ("reading", participant.reading),
    ):
        if tids:
            return f"has {what}: {', '.join(map(str, tids))}"
    return "holds locks" if len(participant.locks) else ""


def check_bounds(nodes: Sequence[SimulatedMemoryNode], *, clients: int) -> None:
    """At rest, logs and lists are as small as they should be; ``clients`` were there in all."""
    for process in nodes:
        node = process.node
        assert node is not None
        node.participant.check_invariants()
        log_bytes = node.status().figures.get("log_bytes", 0)
        assert isinstance(log_bytes, int)
        settings = node.settings
        log_bytes_max = 2 * (settings.checkpoint_log_bytes + settings.log_segment_bytes)
        assert log_bytes <= log_bytes_max, f"{process.name} keeps {log_bytes} bytes of log"
        sessions = len(node.participant.sessions)
        assert sessions <= clients, f"{process.name} keeps {sessions} sessions of {clients} clients"
