"""A memory node is added on this machine, or begins anew, empty, where its data is lost."""

from sinfonia.addresses import MemoryNodeId
from sinfonia.config import format_size
from sinfonia.errors import ConfigError, Unreachable
from sinfonia.operating.actions import Done
from sinfonia.operating.local_description import with_memory_node
from sinfonia.operating.operators import Operator
from sinfonia.protocol.membership.messages import Recreate
from sinfonia.protocol.messages import MANAGER


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


def recreate_memory_node(operator: Operator, node: int) -> Done:
    """Let memory node ``node``, whose data is lost, begin anew, empty."""
    if operator.local is not None:
        # The start in which the memory node was refused may have ended the managers, too.
        operator.start([manager.name for manager in operator.local.config.manager])
    operator.request(Recreate(MemoryNodeId(node)))
    return Done(
        True,
        f"Memory node {node} may begin anew: start it, with `sinfonia up` if it is on this "
        "machine.",
    )
