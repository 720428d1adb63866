"""What is said to the manager, and what it says: who is primary, who is replica, who may serve.

A memory node is a logical thing; the processes that hold it are its *members*, one of them the
primary.  A member is known by the identity of its data directory, and its lives by how often that
was started.  Which members there are is the memory node's *configuration*, numbered by its config
epoch; the directory holds the configurations of all.  It is the only carrier of configuration:
whoever acts on one has read it in a directory.

Structs are ``array_like``: the order of fields is the wire format.  New fields go at the end and
have defaults.
"""

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.identifiers import Counter, Uint64


class Member(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A replica.  ``in_sync``: it holds everything that was ever acknowledged, and may become
    primary.  ``identity`` is empty while it is only expected at ``endpoint``."""

    identity: str
    endpoint: str
    starts: Counter
    in_sync: bool


class MemoryNodeEntry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One memory node in the directory, and its configuration.

    ``endpoint``, ``identity`` and ``starts`` are the primary's; no identity: nobody has registered,
    or what there was has been given up.  ``incarnation`` is the life of the memory node as its
    clients see it: it grows whenever a primary begins to serve, be it another member or the same
    one restarted.  ``config_epoch`` grows with every change of the entry but the endpoints.
    ``wanted``: how many replicas there should be.
    """

    node: MemoryNodeId
    endpoint: str
    capacity: int
    mode: str
    identity: str
    incarnation: Uint64
    starts: Counter = 0
    config_epoch: Counter = 0
    replicas: list[Member] = []
    wanted: Counter = 0

    @property
    def in_sync(self) -> list[str]:
        """The identities of the in-sync replicas."""
        return [member.identity for member in self.replicas if member.in_sync]


class Directory(msgspec.Struct, array_like=True, tag=7, frozen=True, gc=False):
    """The map from memory-node id to where it is (section 4.11); ``managers`` are endpoints."""

    version: Counter
    epoch: Counter
    cluster: str
    nodes: list[MemoryNodeEntry]
    managers: list[str] = []

    def entry(self, node: MemoryNodeId) -> MemoryNodeEntry | None:
        """What is said of ``node``."""
        return next((entry for entry in self.nodes if entry.node == node), None)


# --- requests to a manager -----------------------------------------------------------------------


class Register(msgspec.Struct, array_like=True, tag=20, frozen=True, gc=False):
    """A member reports its start (the paper's reboot notification, section 4.6).

    ``empty``: it holds nothing from a former life.  ``replicas``: how many the memory node should
    have, which counts when it is first heard of.  ``lived``, ``epoch``: the last incarnation that
    wrote its log, and the last epoch; a memory node that was restored from a backup goes on from
    there.  ``resigns``, if not 0: it is about to give up
    what it holds, and must first know that it is not counted in sync; the number comes back.
    """

    node: MemoryNodeId
    endpoint: str
    capacity: int
    mode: str
    identity: str
    starts: Counter
    empty: bool
    replicas: Counter = 0
    resigns: Counter = 0
    lived: Uint64 = 0
    epoch: Counter = 0


class Recreate(msgspec.Struct, array_like=True, tag=22, frozen=True, gc=False):
    """An operator accepts that what this memory node held is lost; its next start is a new life."""

    node: MemoryNodeId


class Reconfigure(msgspec.Struct, array_like=True, tag=24, frozen=True, gc=False):
    """The primary, in its life ``incarnation``, asks for another set of in-sync replicas.

    It counts only if ``config_epoch`` is still the current one (compare-and-swap).
    """

    node: MemoryNodeId
    incarnation: Uint64
    config_epoch: Counter
    in_sync: list[str]


class WantReplicas(msgspec.Struct, array_like=True, tag=26, frozen=True, gc=False):
    """An operator wants a memory node to have ``wanted`` replicas; who registers next is let in."""

    node: MemoryNodeId
    wanted: Counter


class RemoveReplica(msgspec.Struct, array_like=True, tag=28, frozen=True, gc=False):
    """An operator wants the replica at ``endpoint`` to be none any more, and fewer to be wanted.

    ``force``: even if no other replica is in sync, so that the primary alone holds the data.
    """

    node: MemoryNodeId
    endpoint: str
    force: bool = False


class HandOver(msgspec.Struct, array_like=True, tag=30, frozen=True, gc=False):
    """An operator wants the in-sync replica at ``endpoint`` to be the primary."""

    node: MemoryNodeId
    endpoint: str


# --- replies of a manager ------------------------------------------------------------------------


class Registered(msgspec.Struct, array_like=True, tag=21, frozen=True, gc=False):
    """Welcome; or why the member may not take part.  ``starts`` is the request's.

    Whether it is primary or replica stands in the directory.  ``resigned`` is the request's
    ``resigns``: the directory is later than that.
    """

    starts: Counter
    epoch: Counter
    directory: Directory
    refusal: str = ""
    resigned: Counter = 0


class Recreated(msgspec.Struct, array_like=True, tag=23, frozen=True, gc=False):
    """The answer to Recreate; ``refusal`` is empty if it was done."""

    refusal: str = ""


class Reconfigured(msgspec.Struct, array_like=True, tag=25, frozen=True, gc=False):
    """The answer to Reconfigure: the directory as it is now, whether or not that was granted."""

    directory: Directory


class Changed(msgspec.Struct, array_like=True, tag=27, frozen=True, gc=False):
    """The answer to an operator; ``refusal`` is empty if it was done, or had been done before."""

    refusal: str = ""


class NotLeading(msgspec.Struct, array_like=True, tag=29, frozen=True, gc=False):
    """This manager does not lead; ask the others, of which ``leader`` is perhaps the one."""

    leader: str = ""
