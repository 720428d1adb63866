"""What a role may ask for.

A client works with its own minitransactions only: a tid that it settles or forgets must be one of
its own client incarnation.  An operator may also change the configuration and copy
memory nodes.  Members and managers may ask for everything.
"""

from enum import StrEnum

from sinfonia.protocol.membership.messages import (
    GetUnsettled,
    HandOver,
    Recreate,
    RemoveReplica,
    Settle,
    WantReplicas,
)
from sinfonia.protocol.messages import (
    Commit,
    ExecCommit,
    ExecPrepare,
    Forget,
    GetDirectory,
    GetLoad,
    GetStatus,
    Request,
    Requests,
    Resolve,
    Unwatch,
    Watch,
)
from sinfonia.protocol.replication.messages import GetImage, GetLog, GetPages


class Role(StrEnum):
    """What a key is for."""

    CLIENT = "client"
    OPERATOR = "operator"
    NODE = "node"


_OF_CLIENTS: frozenset[type[Request]] = frozenset(
    {
        ExecCommit,
        ExecPrepare,
        Commit,
        Resolve,
        Forget,
        GetDirectory,
        GetStatus,
        GetLoad,
        Watch,
        Unwatch,
    }
)
_OF_OPERATORS = _OF_CLIENTS | {
    Recreate,
    WantReplicas,
    RemoveReplica,
    HandOver,
    GetUnsettled,
    Settle,
    GetImage,
    GetPages,
    GetLog,
}


def forbidden(role: Role, batch: Requests) -> str:
    """The first request of ``batch`` that ``role`` may not send, by its name; empty: it may."""
    if role is Role.NODE:
        return ""
    may = _OF_CLIENTS if role is Role.CLIENT else _OF_OPERATORS
    client = batch.client
    for request in batch.requests:
        kind = type(request)
        if kind is ExecCommit:
            continue
        if kind not in may:
            return kind.__name__
        if isinstance(request, Commit | Resolve):
            if request.tid.client != client:
                return f"{kind.__name__} of another client"
        elif isinstance(request, Forget) and any(tid.client != client for tid in request.tids):
            return f"{kind.__name__} of another client"
    return ""
