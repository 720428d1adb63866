"""Messages to and from the manager: which member is primary, which are replicas, which may serve.

A memory node is a logical thing; the processes that hold it are its *members*, one of them the
primary.  A member is known by the identity of its data directory, and its lives by how often that
was started.  Which members there are is the memory node's *configuration*, numbered by its config
epoch; the directory holds the configurations of all.  It is the only carrier of configuration:
a process that acts on one has read it in a directory.

Structs are ``array_like``: the order of fields is the wire format.  New fields go at the end and
have defaults.
"""

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.identifiers import Counter, Tid, Uint64


class Member(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """A replica.  ``in_sync``: it holds everything that was ever acknowledged, and may become
    primary.  ``identity`` is empty while it is only expected at ``endpoint``.

    ``unproven``: it has restarted since the primary last said that it is in sync.  Its disk may
    have lost the end of its log meanwhile, so that it leads only after a comparison of logs.
    ``life``: 60 random bits that name the life ``starts``; 0 if an older version registered it.
    """

    identity: str
    endpoint: str
    starts: Counter
    in_sync: bool
    unproven: bool = False
    life: Counter = 0


class MemoryNodeEntry(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """One memory node in the directory, and its configuration.

    ``endpoint``, ``identity`` and ``starts`` are the primary's; no identity: none has registered,
    or what there was has been given up.  ``incarnation`` is the life of the memory node as its
    clients see it: it grows whenever a primary begins to serve, be it another member or the same
    one restarted.  ``config_epoch`` grows with every change of the entry but the endpoints.
    ``wanted``: how many replicas there should be.  ``loss_accepted``: the incarnation in which an
    operator accepted that what was acknowledged before may be lost; 0 if none ever did.  ``life``
    is the primary's, as a Member's is.
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
    loss_accepted: Uint64 = 0
    life: Counter = 0

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


class Register(msgspec.Struct, array_like=True, tag=20, frozen=True, gc=False, kw_only=True):
    """A member reports its start (the paper's reboot notification, section 4.6).

    ``empty``: it holds nothing from a former life.  ``replicas``: how many the memory node should
    have, which counts when it is first heard of.  ``lived``, ``epoch``: the last incarnation that
    wrote its log, and the last epoch; a memory node that was restored from a backup goes on from
    there.  ``resigns``, if not 0: it is about to give up
    what it holds, and must first know that it is not counted in sync; the number comes back.
    ``last``: the last record that is stable there; with ``lived`` its position in the log.
    ``damaged``: it is empty because its disk has lost what was synced.  ``known_epoch``: the newest
    config epoch of this memory node that its data directory has stored; 0: it was never a member.
    ``complete``: the last life ended in order, so that its log holds all that it ever held.
    ``life``: 60 random bits, made anew by each start.  A directory that was rolled back to an older
    copy counts a number of starts again, but not under the same name.
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
    last: Counter = 0
    damaged: bool = False
    known_epoch: Counter = 0
    life: Counter = 0
    complete: bool = False


class Recreate(msgspec.Struct, array_like=True, tag=22, frozen=True, gc=False):
    """An operator accepts that what this memory node held is lost; its next start is a new life."""

    node: MemoryNodeId


class Reconfigure(msgspec.Struct, array_like=True, tag=24, frozen=True, gc=False, kw_only=True):
    """The primary, in its life ``incarnation``, asks for another set of in-sync replicas.

    It counts only if ``config_epoch`` is still the current one (compare-and-swap).  ``proven``:
    those of them that hold everything in their present life, as the primary has seen.
    """

    node: MemoryNodeId
    incarnation: Uint64
    config_epoch: Counter
    in_sync: list[str]
    proven: list[str] = []


class WantReplicas(msgspec.Struct, array_like=True, tag=26, frozen=True, gc=False):
    """An operator wants ``wanted`` replicas of a memory node; the next to register is let in."""

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
    """An operator wants the in-sync replica at ``endpoint`` to be the primary.

    ``force``: although it may lack what was acknowledged; the operator accepts that loss.
    """

    node: MemoryNodeId
    endpoint: str
    force: bool = False


class GetUnsettled(msgspec.Struct, array_like=True, tag=32, frozen=True, gc=False):
    """An operator asks which tids are being settled, and for which participants they wait.

    ``tid``: only this one.
    """

    tid: Tid | None = None


class Settle(msgspec.Struct, array_like=True, tag=34, frozen=True, gc=False):
    """An operator says that participants of ``tid`` that are in no configuration never existed.

    ``force``: although the directory may be an older copy, which lacks them.
    """

    tid: Tid
    force: bool = False


# --- replies of a manager ------------------------------------------------------------------------


class Registered(msgspec.Struct, array_like=True, tag=21, frozen=True, gc=False):
    """Welcome; or why the member may not take part.  ``starts`` is the request's.

    Whether it is primary or replica stands in the directory.  ``resigned`` is the request's
    ``resigns``: the directory is later than that.  ``waiting``: why the member has no part yet,
    though it is not refused.  ``rolled_back``, if not 0: its data directory is an older copy, of
    which that many starts are known; ``life`` is the request's.
    """

    starts: Counter
    epoch: Counter
    directory: Directory
    refusal: str = ""
    resigned: Counter = 0
    waiting: str = ""
    rolled_back: Counter = 0
    life: Counter = 0


class Recreated(msgspec.Struct, array_like=True, tag=23, frozen=True, gc=False):
    """The answer to Recreate; ``refusal`` is empty if it was done."""

    refusal: str = ""


class Reconfigured(msgspec.Struct, array_like=True, tag=25, frozen=True, gc=False):
    """The answer to Reconfigure: the directory as it is now, whether or not that was granted."""

    directory: Directory


class Changed(msgspec.Struct, array_like=True, tag=27, frozen=True, gc=False):
    """The answer to an operator; ``refusal`` is empty if it was done, or had been done before."""

    refusal: str = ""


class UnsettledTid(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A tid that a manager has been settling for ``seconds``.

    ``absent``: participants that are in no configuration.  ``silent``: others that have not
    answered yet.
    """

    tid: Tid
    participants: list[MemoryNodeId]
    absent: list[MemoryNodeId]
    silent: list[MemoryNodeId]
    seconds: float


class UnsettledTids(msgspec.Struct, array_like=True, tag=31, frozen=True, gc=False):
    """The answer to GetUnsettled: the oldest of ``total``, at most UNSETTLED_TOLD_MAX."""

    total: Counter
    tids: list[UnsettledTid]


class NotLeading(msgspec.Struct, array_like=True, tag=29, frozen=True, gc=False):
    """This manager does not lead; ask the others, of which ``leader`` is perhaps the one."""

    leader: str = ""
