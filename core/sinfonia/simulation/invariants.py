"""What must hold at any time, and what must hold once nothing is going on."""

from collections.abc import Sequence

from sinfonia.memnode.node import MemoryNode
from sinfonia.memnode.settings import State
from sinfonia.protocol.membership.manager import Manager
from sinfonia.simulation.client import SimulatedClient
from sinfonia.simulation.manager import SimulatedManager
from sinfonia.simulation.memory_node import SimulatedMemoryNode
from sinfonia.storage.journal import KEEP_FOR_COPIES_FACTOR


def unrest(
    nodes: Sequence[SimulatedMemoryNode],
    managers: Sequence[SimulatedManager],
    clients: Sequence[SimulatedClient],
) -> str:
    """What is still going on; empty if nothing is left of any minitransaction but its effects."""
    for process in nodes:
        if process.node is None:
            return f"{process.name} is down"
        if process.node.state not in (State.SERVING, State.FOLLOWING):
            return f"{process.name} is {process.node.state.value}"
        left = _left_over(process.node) or _not_in_sync(process.node)
        if not left and process.collecting:
            left = "has not finished a wake-up"
        if left:
            return f"{process.name} {left}"
    for each in managers:
        if each.manager is None:
            return f"{each.name} is down"
        left = _begun(each.manager)
        if left:
            return f"{each.name} {left}"
    if not any(each.leads for each in managers):
        return "no manager leads"
    for client in clients:
        if client.alive and client.unfinished:
            return f"{client.name} waits for operations {', '.join(map(str, client.unfinished))}"
    return ""


def _begun(manager: Manager) -> str:
    """What a manager has still to bring to an end."""
    # One that only stands by leaves what it began to the one that leads.
    if manager.undecided.recoveries and not manager.standing_by:
        return f"recovers {', '.join(map(str, manager.undecided.recoveries))}"
    if manager.handing_over:
        return f"hands over {', '.join(map(str, manager.handing_over))}"
    return ""


def _not_in_sync(node: MemoryNode) -> str:
    """What keeps a member from being as good as the others; empty if nothing does."""
    if node.leading is not None:
        shipping, entry = node.leading.shipping, node.entry
        if shipping is None or entry is None:
            return ""
        if len(entry.in_sync) < entry.wanted:
            return f"has {len(entry.in_sync)} replicas in sync, of {entry.wanted}"
        if any(member.unproven for member in entry.replicas):
            return "has replicas that it has not proven"
        return "" if shipping.committed == node.member_state.last else "waits for its replicas"
    replica = node.replica
    if replica is not None and node.member_state.applied < replica.follower.last:
        return "has not applied everything"
    return ""


def _left_over(node: MemoryNode) -> str:
    state = node.participant_state
    left = [("in doubt", [*state.in_doubt]), ("decided and not forgotten", [*state.decided])]
    if node.leading is not None:
        participant = node.leading.participant
        waiting = [waiter.request.counter for waiter in participant.one_phase.lock_waits]
        left.append(("reading", [*participant.two_phase.reading]))
        if waiting:
            return f"has in line for locks: {', '.join(map(str, waiting))}"
    for what, tids in left:
        if tids:
            return f"has {what}: {', '.join(map(str, tids))}"
    return "holds locks" if len(state.locks) else ""


def check_bounds(nodes: Sequence[SimulatedMemoryNode], *, clients: int) -> None:
    """At rest, logs and lists are as small as they should be; ``clients`` were there in all."""
    for process in nodes:
        node = process.node
        assert node is not None
        node.check_invariants()
        log_bytes = node.status().figures.get("log_bytes", 0)
        assert isinstance(log_bytes, int)
        settings = node.settings
        # The log goes on while a checkpoint is made, and is cut by whole segments; for a replica
        # that copied just now, more is kept, and cut only when something is logged again.
        factor = KEEP_FOR_COPIES_FACTOR if settings.replicas else 1
        log_bytes_max = 2 * settings.checkpoints.log_bytes + 3 * settings.log_segment_bytes
        log_bytes_max += settings.keep_log_bytes * factor
        assert log_bytes <= log_bytes_max, f"{process.name} keeps {log_bytes} bytes of log"
        sessions = len(node.participant_state.sessions)
        assert sessions <= clients, f"{process.name} keeps {sessions} sessions of {clients} clients"
