"""What crosses the wire.

Requests travel from a client (application node or manager) to a memory node in batches: whatever
is ready together leaves together.  Every batch names the client, the incarnation of the memory
node it is meant for, and the client's floor: the lowest counter whose outcome the client does not
know yet.  A memory node executes nothing that was meant for another incarnation of itself, so that
what it forgot in a crash cannot be executed a second time; see sessions.py.

Structs are ``array_like``: the order of fields is the wire format.  New fields go at the end and
have defaults.  Structs with several fields of one type are made by keywords.
"""

from enum import IntEnum
from typing import Annotated

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.minitransaction import (
    TAG_CHARACTERS_MAX,
    CompareItem,
    ConditionItem,
    Offset,
    ReadItem,
    UpdateItem,
    WriteItem,
)
from sinfonia.protocol.identifiers import Counter, Tid, Uint64
from sinfonia.protocol.membership.messages import (
    Changed,
    Directory,
    GetUnsettled,
    HandOver,
    MemoryNodeEntry,
    NotLeading,
    Reconfigure,
    Reconfigured,
    Recreate,
    Recreated,
    Register,
    Registered,
    RemoveReplica,
    Settle,
    UnsettledTids,
    WantReplicas,
)
from sinfonia.protocol.replication.messages import (
    Append,
    Appended,
    GetImage,
    GetLog,
    GetPages,
    ImageBegun,
    Join,
    Joined,
    LogPart,
    Pages,
)

# The class under which a minitransaction is counted.
Tag = Annotated[str, msgspec.Meta(max_length=TAG_CHARACTERS_MAX)]

# Changes when an old peer could misread a new message.
PROTOCOL_VERSION = 1

# What ``Replies.node`` says if it is the manager that speaks.
MANAGER = -1

# ``Requests.node`` of questions that any process may answer.
ANY_NODE = -1


class Vote(IntEnum):
    """A participant's answer to EXEC&PREPARE (Figure 4), with the reasons the paper leaves out."""

    OK = 0
    BAD_LOCK = 1
    BAD_FORCED = 2
    BAD_CMP = 3
    BAD_EPOCH = 4  # the tid's epoch is two or more behind (section 4.7), or absurdly far ahead
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


class ExecCommit(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False, kw_only=True):
    """Execute and commit at this one participant (section 4.8); the tid's client is the batch's.

    ``lock_wait_ms``: instead of a vote BAD_LOCK, queue so long for the locks.
    """

    counter: Counter
    epoch: Counter
    compares: list[CompareItem] = []
    reads: list[ReadItem] = []
    writes: list[WriteItem] = []
    reads_on_failure: bool = False
    conditions: list[ConditionItem] = []
    updates: list[UpdateItem] = []
    tag: Tag = ""
    lock_wait_ms: int = 0


class ExecPrepare(msgspec.Struct, array_like=True, tag=2, frozen=True, gc=False, kw_only=True):
    """EXEC&PREPARE of Figure 4, line 4.  ``read_only``: no participant has a write item."""

    tid: Tid
    participants: list[MemoryNodeId]
    compares: list[CompareItem] = []
    reads: list[ReadItem] = []
    writes: list[WriteItem] = []
    reads_on_failure: bool = False
    read_only: bool = False
    conditions: list[ConditionItem] = []
    updates: list[UpdateItem] = []
    tag: Tag = ""


class Commit(msgspec.Struct, array_like=True, tag=3, frozen=True, gc=False):
    """COMMIT of Figure 4, line 9; ``action`` is True for commit, False for abort."""

    tid: Tid
    action: bool


class Resolve(msgspec.Struct, array_like=True, tag=4, frozen=True, gc=False):
    """Phase 1 of a recovery coordinator: vote abort, unless you have voted already (4.4)."""

    tid: Tid
    participants: list[MemoryNodeId]


class Forget(msgspec.Struct, array_like=True, tag=5, frozen=True, gc=False):
    """Every participant of these has made its outcome stable; no process will ask again (4.7)."""

    tids: list[Tid]


class Probe(msgspec.Struct, array_like=True, tag=6, frozen=True, gc=False):
    """The manager looks for what was left undecided, and spreads the epoch and the directory.

    ``sent_at``: in the manager's monotonic seconds; the answer says it again.
    """

    epoch: Counter
    in_doubt_age: float
    decided_age: float
    directory: Directory | None = None
    sent_at: float = 0.0


class GetDirectory(msgspec.Struct, array_like=True, tag=7, frozen=True, gc=False):
    """Where are the memory nodes?"""


class GetStatus(msgspec.Struct, array_like=True, tag=8, frozen=True, gc=False):
    """How are you?"""


class WatchRange(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One watch: ``number`` is the client's name for it; it may be as long as the memory."""

    number: Counter
    address: Offset
    length: Offset


class Watch(msgspec.Struct, array_like=True, tag=9, frozen=True, gc=False):
    """Arm these watches, or renew them; answered with Hints that name the moment of each.

    A memory node forgets watches that are not renewed, and all of them when it begins a new life.
    """

    watches: list[WatchRange]


class Unwatch(msgspec.Struct, array_like=True, tag=10, frozen=True, gc=False):
    """These watches are over; there is no answer."""

    numbers: list[Counter]


class GetLoad(msgspec.Struct, array_like=True, tag=11, frozen=True, gc=False):
    """How much have you done lately? (section 3.6)"""


Request = (
    ExecCommit
    | ExecPrepare
    | Commit
    | Resolve
    | Forget
    | Probe
    | GetDirectory
    | GetStatus
    | Watch
    | Unwatch
    | GetLoad
    | Register
    | Recreate
    | Reconfigure
    | WantReplicas
    | RemoveReplica
    | HandOver
    | GetUnsettled
    | Settle
    | Join
    | Appended
    | GetImage
    | GetPages
    | GetLog
)


class Requests(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A batch from one client to one memory node, or to the manager (``incarnation`` 0).

    ``detached`` is the codec's: (request, write item) of each payload that has its own frame.
    ``clock`` is the highest that any memory node has told this client; see records.Stamp.
    ``node``: which memory node is meant, whatever process is at its endpoint now.
    ``generation``: the highest that this life of it has told the client (sessions.py).  A batch
    without requests only says the floor; there is no answer.
    """

    version: int
    client: Uint64
    incarnation: Uint64
    floor: Counter
    requests: list[Request]
    detached: list[tuple[int, int]] = []
    clock: Counter = 0
    node: int = ANY_NODE
    generation: Counter = 0


# --- replies -----------------------------------------------------------------------------------


class Voted(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False):
    """The vote on an ExecCommit or ExecPrepare.

    ``failed`` names the compare items that did not match, by position, with the bytes found; the
    conditions are counted after the compares, and the append items that met a full ring, by their
    position among the updates, after the conditions.  ``reads`` holds the read items and then, if
    the vote is OK, an answer for each update: the old integer, or the position as 8 bytes.
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


class WrongConfig(msgspec.Struct, array_like=True, tag=9, frozen=True, gc=False):
    """Nothing of the batch was executed: another member is the primary, as far as is known here."""

    entry: MemoryNodeEntry


class Unsettled(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A tid whose participants do not all know its outcome, as far as this one knows."""

    tid: Tid
    participants: list[MemoryNodeId]


class ProbeReply(msgspec.Struct, array_like=True, tag=6, frozen=True, gc=False):
    """What a memory node found older than the ages asked for; at most PROBE_TIDS_MAX of them.

    What it says to be in doubt is an OK vote that cannot be lost: it is stable at every in-sync
    member.  ``identity``, ``starts``: which member speaks, in which life.  ``last``: the last
    record that is stable there; ``lived``: the incarnation that wrote it.  ``known_epoch``: the
    newest config epoch of its memory node that it has stored.
    """

    node: MemoryNodeId
    unsettled: list[Unsettled]
    serving: bool
    directory_version: Counter
    identity: str = ""
    starts: Counter = 0
    last: Counter = 0
    sent_at: float = 0.0
    lived: Counter = 0
    known_epoch: Counter = 0


class Status(msgspec.Struct, array_like=True, tag=8, frozen=True, gc=False):
    """Load and health of a process, as names and numbers."""

    node: int
    state: str
    figures: dict[str, int | float | str]


class Hints(msgspec.Struct, array_like=True, tag=10, frozen=True, gc=False):
    """When commits last touched watched ranges, or they were armed: (number, moment).

    Moments count such events in this life of the memory node (watches.py): if the moment is later
    than the one known, the range was touched or had to be armed again.  Sent in answer to Watch,
    and unasked after a commit that touched one.  ``refused``: what a Watch asked for too much.
    """

    touched: list[tuple[Counter, Counter]]
    refused: list[Counter] = []


class LoadWindow(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """What one class of minitransactions did in the last ``seconds``.

    executed: committed here; aborted: voted otherwise, busy locks aside; retried: met busy locks.
    """

    seconds: float
    executed: int
    aborted: int
    retried: int
    bytes_read: int
    bytes_written: int


class Load(msgspec.Struct, array_like=True, tag=11, frozen=True, gc=False):
    """Load by class tag, "" for minitransactions without one: the windows, shortest first."""

    node: int
    classes: dict[str, list[LoadWindow]]


Reply = (
    Voted
    | CommitAck
    | Resolved
    | WrongIncarnation
    | NotServing
    | WrongConfig
    | ProbeReply
    | Directory
    | Status
    | Hints
    | Load
    | Registered
    | Recreated
    | Reconfigured
    | Changed
    | UnsettledTids
    | NotLeading
    | Joined
    | Append
    | ImageBegun
    | Pages
    | LogPart
)


class Replies(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A batch from one memory node, or the MANAGER, to one client.

    ``epoch`` is piggybacked (section 4.7); ``detached`` is the codec's: (reply, read item) of each
    payload that has its own frame.  ``clock``: what is answered here is stamped no later.
    ``generation``: what batches of new clients must name to be executed (sessions.py).
    """

    version: int
    node: int
    incarnation: Uint64
    epoch: Counter
    replies: list[Reply]
    detached: list[tuple[int, int]] = []
    clock: Counter = 0
    generation: Counter = 0
