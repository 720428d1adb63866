"""What crosses the wire.

Requests travel from a client (application node or manager) to a memory node in batches: whatever
is ready together leaves together.  Every batch names the client, the incarnation of the memory
node it is meant for, and the client's floor: the lowest counter whose outcome the client does not
know yet.  A memory node executes nothing that was meant for another incarnation of itself, so that
what it forgot in a crash cannot be executed a second time; see sessions.py.

Structs are ``array_like``: the order of fields is the wire format.  New fields go at the end and
have defaults.
"""

from enum import IntEnum
from typing import Annotated

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.minitransaction import CompareItem, ReadItem, WriteItem

# Changes when an old peer could misread a new message.
PROTOCOL_VERSION = 1

# What ``Replies.node`` says if it is the manager that speaks.
MANAGER = -1

Counter = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Uint64 = Annotated[int, msgspec.Meta(ge=0)]  # MessagePack has nothing larger than 2**64 - 1


# The low half of an incarnation counts the starts of one data directory, the high half the data
# directories that have been this memory node; so it grows whatever happens.
STARTS_BITS = 32


def starts_of(incarnation: int) -> int:
    """How often the data directory was started by then."""
    return incarnation & (1 << STARTS_BITS) - 1


class Tid(msgspec.Struct, array_like=True, frozen=True, gc=False, order=True):
    """Identity of a minitransaction attempt: unique for ever, aged by ``epoch``."""

    epoch: Counter
    client: Uint64
    counter: Counter

    def __str__(self) -> str:
        return f"{self.epoch}.{self.client:016x}.{self.counter}"


class Vote(IntEnum):
    """A participant's answer to EXEC&PREPARE (Figure 4), with the reasons the paper leaves out."""

    OK = 0
    BAD_LOCK = 1
    BAD_FORCED = 2
    BAD_CMP = 3
    BAD_EPOCH = 4  # the tid's epoch is two or more behind (section 4.7)
    BAD_RANGE = 5  # an item lies beyond the memory node's capacity
    BAD_FLOOR = 6  # the client has said that it is finished with this tid
    BAD_LOAD = 7  # a limit of the memory node is reached


class Answer(IntEnum):
    """What a participant tells a recovery coordinator (section 4.4)."""

    ABORT = 0  # it has not voted OK and now never will
    OK = 1  # it voted OK and does not know the outcome
    COMMITTED = 2  # it knows that the minitransaction committed
    FORGOTTEN = 3  # it is not in doubt about it, will not vote OK on it, and knows no more


# --- requests ----------------------------------------------------------------------------------


class ExecCommit(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False):
    """Execute and commit at this one participant (section 4.8); the tid's client is the batch's."""

    counter: Counter
    epoch: Counter
    compares: list[CompareItem] = []
    reads: list[ReadItem] = []
    writes: list[WriteItem] = []
    reads_on_failure: bool = False


class ExecPrepare(msgspec.Struct, array_like=True, tag=2, frozen=True, gc=False):
    """EXEC&PREPARE of Figure 4, line 4.  ``read_only``: no participant has a write item."""

    tid: Tid
    participants: list[MemoryNodeId]
    compares: list[CompareItem] = []
    reads: list[ReadItem] = []
    writes: list[WriteItem] = []
    reads_on_failure: bool = False
    read_only: bool = False


class Commit(msgspec.Struct, array_like=True, tag=3, frozen=True, gc=False):
    """COMMIT of Figure 4, line 9; ``action`` is True for commit, False for abort."""

    tid: Tid
    action: bool


class Resolve(msgspec.Struct, array_like=True, tag=4, frozen=True, gc=False):
    """Phase 1 of a recovery coordinator: vote abort, unless you have voted already (4.4)."""

    tid: Tid
    participants: list[MemoryNodeId]


class Forget(msgspec.Struct, array_like=True, tag=5, frozen=True, gc=False):
    """Every participant of these has made its outcome stable; nobody will ask again (4.7)."""

    tids: list[Tid]


class Probe(msgspec.Struct, array_like=True, tag=6, frozen=True, gc=False):
    """The manager looks for what was left undecided, and spreads the epoch and the directory."""

    epoch: Counter
    in_doubt_age: float
    decided_age: float
    directory: "Directory | None" = None


class GetDirectory(msgspec.Struct, array_like=True, tag=7, frozen=True, gc=False):
    """Where are the memory nodes?"""


class GetStatus(msgspec.Struct, array_like=True, tag=8, frozen=True, gc=False):
    """How are you?"""


class Register(msgspec.Struct, array_like=True, tag=20, frozen=True, gc=False):
    """A memory node reports its start (the paper's reboot notification, section 4.6)."""

    node: MemoryNodeId
    endpoint: str
    capacity: int
    mode: str
    identity: str
    incarnation: Uint64
    empty: bool  # it holds nothing from a former life


class Recreate(msgspec.Struct, array_like=True, tag=22, frozen=True, gc=False):
    """An operator accepts that what this memory node held is lost; its next start is a new life."""

    node: MemoryNodeId


Request = (
    ExecCommit
    | ExecPrepare
    | Commit
    | Resolve
    | Forget
    | Probe
    | GetDirectory
    | GetStatus
    | Register
    | Recreate
)


class Requests(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A batch from one client to one memory node, or to the manager (``incarnation`` 0).

    ``detached`` is the codec's: (request, write item) of each payload that has its own frame.
    """

    version: int
    client: Uint64
    incarnation: Uint64
    floor: Counter
    requests: list[Request]
    detached: list[tuple[int, int]] = []


# --- replies -----------------------------------------------------------------------------------


class Voted(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False):
    """The vote on an ExecCommit or ExecPrepare.

    ``failed`` names the compare items that did not match, by position, with the bytes found.
    ``good_for`` (seconds) is how long the locks of a read-only ExecPrepare are held.
    """

    counter: Counter
    vote: Vote
    reads: list[bytes] = []
    failed: list[tuple[int, bytes]] = []
    good_for: float = 0.0


class CommitAck(msgspec.Struct, array_like=True, tag=2, frozen=True, gc=False):
    """The outcome of ``tid`` is stable here."""

    tid: Tid


class Resolved(msgspec.Struct, array_like=True, tag=3, frozen=True, gc=False):
    """The answer to Resolve."""

    tid: Tid
    answer: Answer


class WrongIncarnation(msgspec.Struct, array_like=True, tag=4, frozen=True, gc=False):
    """Nothing of the batch was executed: it was meant for another life of this memory node."""


class NotServing(msgspec.Struct, array_like=True, tag=5, frozen=True, gc=False):
    """Nothing of the batch was executed: the memory node is still coming back; try again soon."""


class Unsettled(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A tid whose participants do not all know its outcome, as far as this one knows."""

    tid: Tid
    participants: list[MemoryNodeId]


class ProbeReply(msgspec.Struct, array_like=True, tag=6, frozen=True, gc=False):
    """What a memory node found older than the ages asked for; at most PROBE_TIDS_MAX of them."""

    node: MemoryNodeId
    unsettled: list[Unsettled]
    serving: bool
    directory_version: Counter


class MemoryNodeEntry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One memory node in the directory.  ``incarnation`` 0: it has not registered yet."""

    node: MemoryNodeId
    endpoint: str
    capacity: int
    mode: str
    identity: str
    incarnation: Uint64


class Directory(msgspec.Struct, array_like=True, tag=7, frozen=True, gc=False):
    """The map from memory-node id to where it is (section 4.11)."""

    version: Counter
    epoch: Counter
    cluster: str
    nodes: list[MemoryNodeEntry]


class Status(msgspec.Struct, array_like=True, tag=8, frozen=True, gc=False):
    """Load and health of a process, as names and numbers."""

    node: int
    state: str
    figures: dict[str, int | float | str]


class Registered(msgspec.Struct, array_like=True, tag=21, frozen=True, gc=False):
    """Welcome, in the life ``incarnation``; or why the memory node may not serve."""

    incarnation: Uint64
    epoch: Counter
    directory: Directory
    refusal: str = ""


class Recreated(msgspec.Struct, array_like=True, tag=23, frozen=True, gc=False):
    """The answer to Recreate; ``refusal`` is empty if it was done."""

    refusal: str = ""


Reply = (
    Voted
    | CommitAck
    | Resolved
    | WrongIncarnation
    | NotServing
    | ProbeReply
    | Directory
    | Status
    | Registered
    | Recreated
)


class Replies(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A batch from one memory node, or the MANAGER, to one client.

    ``epoch`` is piggybacked (section 4.7); ``detached`` is the codec's: (reply, read item) of each
    payload that has its own frame.
    """

    version: int
    node: int
    incarnation: Uint64
    epoch: Counter
    replies: list[Reply]
    detached: list[tuple[int, int]] = []
