"""Every action that an operator can name is carried out here, and in one way only."""

from typing import assert_never

from sinfonia.operating.actions import (
    Action,
    AddMemoryNode,
    AddReplica,
    Done,
    DrainHost,
    MoveMember,
    Promote,
    RecreateMemoryNode,
    RemoveReplica,
    SettleTid,
)
from sinfonia.operating.operations.draining import drain_host
from sinfonia.operating.operations.memory_nodes import add_memory_node, recreate_memory_node
from sinfonia.operating.operations.replicas import (
    add_replica,
    move_member,
    promote,
    remove_replica,
)
from sinfonia.operating.operations.settling import settle_tid
from sinfonia.operating.operators import Operator


def carry_out(operator: Operator, action: Action) -> Done:
    """Have ``operator`` do ``action``, and wait until it is done."""
    match action:
        case AddReplica(node, to):
            return add_replica(operator, node, to)
        case RemoveReplica(node, member, force):
            return remove_replica(operator, node, member, force=force)
        case MoveMember(node, member, to):
            return move_member(operator, node, member, to)
        case Promote(node, member, force):
            return promote(operator, node, member, force=force)
        case DrainHost(host):
            return drain_host(operator, host)
        case AddMemoryNode(node, capacity, replicas):
            return add_memory_node(operator, node, capacity=capacity, replicas=replicas)
        case RecreateMemoryNode(node):
            return recreate_memory_node(operator, node)
        case SettleTid(tid, force):
            return settle_tid(operator, tid, force=force)
        case _:
            assert_never(action)
