"""What a machine asks of its driver, in the order in which it must happen.

A participant returns a Step.  The coordinators return SendTo.  The manager returns SendTo,
SendToMember, ReplyTo and StoreDirectory.  A replica has effects of its own
(replication/following.py).
"""

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.membership.messages import Directory
from sinfonia.protocol.messages import GetDirectory, GetLoad, GetStatus, Probe, Reply, Request
from sinfonia.protocol.records import Record

# What a process is asked about itself.
Question = Probe | GetStatus | GetLoad | GetDirectory


class Step(msgspec.Struct, gc=False):
    """What one step of a participant asks of its driver: records to log, and replies to send.

    The one law: a reply leaves only when every record before it that was logged with ``log``, in
    this step or an earlier one, is on stable storage.  A driver may do many steps before it syncs,
    and then sync once for all of them (group commit).  It appends ``records`` in their order.

    A step begins with a batch that came over ``route`` at ``now``, or with time alone; then
    ``route`` is empty.  While the participant is at work, each part of it adds what it asks for.
    """

    route: bytes
    now: float
    records: list[Record] = []
    # Whether a reply rests on ``records``; else the next sync that is needed anyway, or the end of
    # a short delay, makes them stable.
    must_sync: bool = False
    replies: list[Reply] = []  # to ``route``
    once_stable: list[Reply] = []  # to ``route``, once all that was logged so far is stable
    # Replies, with their routes, to clients that waited for another client's step.  A tuple, for a
    # step is made for every batch, and this is nearly always empty.
    elsewhere: tuple[tuple[bytes, Reply], ...] = ()
    # Whether the batch has questions: the driver answers for itself.
    has_questions: bool = False

    def log(self, record: Record) -> None:
        """Append ``record``; it must be stable before any reply of this step leaves."""
        self.records.append(record)
        self.must_sync = True

    def log_lazily(self, record: Record) -> None:
        """Append ``record``; a reply ``once_stable`` waits for it, and no other does."""
        self.records.append(record)


class SendTo(msgspec.Struct, frozen=True, gc=False):
    """Send ``request`` to a memory node, soon, together with the other requests for that node."""

    node: MemoryNodeId
    request: Request


class SendToMember(msgspec.Struct, frozen=True, gc=False):
    """Send ``request`` to the member of a memory node at ``endpoint``, whatever its role."""

    node: MemoryNodeId
    endpoint: str
    request: Request


class StoreDirectory(msgspec.Struct, frozen=True, gc=False):
    """Make ``directory`` stable in the configuration store before anything that follows.

    If the store refuses, what follows must not happen, and the manager must be told what is stored.
    """

    directory: Directory


class ReplyTo(msgspec.Struct, frozen=True, gc=False):
    """Answer the process that asked the manager over ``route``."""

    route: bytes
    reply: Reply
