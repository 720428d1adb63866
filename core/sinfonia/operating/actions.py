"""What an operator may want changed about a running cluster, as values.

A value can be written down in the schedule of a test, and repeated: an action that is done already
changes nothing.  Members are named by their endpoints, or by the names of processes of the handle.
"""

from dataclasses import dataclass

from sinfonia.protocol.identifiers import Tid


@dataclass(frozen=True, slots=True)
class AddReplica:
    """Give memory node ``node`` one more replica; ``to``: where, if the handle cannot start it."""

    node: int
    to: str | None = None


@dataclass(frozen=True, slots=True)
class RemoveReplica:
    """Give up a replica; ``force``: even if the primary alone holds the data then."""

    node: int
    member: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class MoveMember:
    """Put a member elsewhere, without a moment in which the memory node has one copy less."""

    node: int
    member: str
    to: str | None = None


@dataclass(frozen=True, slots=True)
class Promote:
    """Make an in-sync replica the primary.

    ``force``: any replica, if the primary is away; what that replica lacks is lost.
    """

    node: int
    member: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class DrainHost:
    """Hand over every primary on ``host`` (HOST or HOST:PORT), or none of them."""

    host: str


@dataclass(frozen=True, slots=True)
class AddMemoryNode:
    """Start another memory node; what is None is as for the first memory node.

    ``node``: its id (default: the next).  With an id that is described already, its members are
    started as far as they do not run.
    """

    node: int | None = None
    capacity: int | None = None
    replicas: int | None = None


@dataclass(frozen=True, slots=True)
class RecreateMemoryNode:
    """Let a memory node whose data is lost begin anew, empty."""

    node: int


@dataclass(frozen=True, slots=True)
class SettleTid:
    """Abort ``tid``, of which a participant never existed.

    ``force``: although the directory may be an older copy, which lacks the participant; if it did
    vote, half of an acknowledged minitransaction is undone.
    """

    tid: Tid
    force: bool = False


Action = (
    AddReplica
    | RemoveReplica
    | MoveMember
    | Promote
    | DrainHost
    | AddMemoryNode
    | RecreateMemoryNode
    | SettleTid
)


@dataclass(frozen=True, slots=True)
class Done:
    """How an action ended; ``changed`` is False if there was nothing to do."""

    changed: bool
    message: str
