"""What a machine asks of its driver, in the order in which it must happen.

A participant returns Log, LogLazily, Send, SendOnceStable and SendVia.  The coordinators return
SendTo.  The manager returns SendTo, SendToMember, ReplyTo and StoreDirectory.  A replica has
effects of its own (replication/following.py).

The one law: a ``Send`` may leave only when every ``Log`` before it is on stable storage.  A driver
may do many steps before it syncs, and then sync once for all of them (group commit); it must not
reorder.  ``LogLazily`` is stable when convenient; a ``SendOnceStable`` waits for that, too.
"""

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.membership.messages import Directory
from sinfonia.protocol.messages import Reply, Request
from sinfonia.protocol.records import Record


class Log(msgspec.Struct, frozen=True, gc=False):
    """Append ``record``; it must be stable before any Send that follows leaves."""

    record: Record


class LogLazily(msgspec.Struct, frozen=True, gc=False):
    """Append ``record``; the next sync, or the end of a short delay, makes it stable."""

    record: Record


class Send(msgspec.Struct, frozen=True, gc=False):
    """Reply to the sender of the batch that is being handled."""

    replies: list[Reply]


class SendOnceStable(msgspec.Struct, frozen=True, gc=False):
    """Reply once everything logged so far, lazily or not, is stable."""

    replies: list[Reply]


class SendVia(msgspec.Struct, frozen=True, gc=False):
    """Reply to the client that waits at ``route``, under the law of Send."""

    route: bytes
    replies: list[Reply]


Effect = Log | LogLazily | Send | SendOnceStable | SendVia


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
