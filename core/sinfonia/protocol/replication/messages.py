"""What the members of a memory node say to each other.

A replica dials its primary, as a client does: what the replica says is a request, and what the
primary sends it, at its own time, are replies.  Records travel as ``body``: their MessagePack
encodings one after another, ``count`` of them, as they are in a block of the redo log.

A process that wants a copy of a memory node (a replica that fell behind, or a backup) pulls: the
image with GetImage and GetPages, the log with GetLog.  The image is copied while it changes, so
that it is right only together with the log from ``ImageBegun.seq`` on.
"""

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.identifiers import Counter, Seq, Uint64


class Life(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """From the record ``first`` on the log was written by the primary of ``incarnation``."""

    incarnation: Uint64
    first: Seq


# --- a replica, or a backup, to the primary ------------------------------------------------------


class Join(msgspec.Struct, array_like=True, tag=40, frozen=True, gc=False, kw_only=True):
    """A replica has the log up to ``last``, written in these lives, and asks to be sent the rest.

    ``applied``: memory shows records up to this one, so that none of them can be taken back.
    ``committed``: a primary has said that all in-sync members had the log up to here.
    """

    node: MemoryNodeId
    identity: str
    starts: Counter
    config_epoch: Counter
    last: Seq
    applied: Seq
    history: list[Life]
    committed: Seq = 0


class Appended(msgspec.Struct, array_like=True, tag=41, frozen=True, gc=False, kw_only=True):
    """Everything up to ``last`` is stable here; ``sent_at`` is that of the Append answered."""

    identity: str
    starts: Counter
    config_epoch: Counter
    last: Seq
    sent_at: float


class GetImage(msgspec.Struct, array_like=True, tag=42, frozen=True, gc=False):
    """Begin to copy.  In this and what follows, ``identity`` is that of a replica that asks."""

    identity: str = ""


class GetPages(msgspec.Struct, array_like=True, tag=43, frozen=True, gc=False):
    """The next pages from ``start`` (an address) on that were ever written."""

    start: int
    identity: str = ""


class GetLog(msgspec.Struct, array_like=True, tag=44, frozen=True, gc=False):
    """The records after ``after``.

    ``stamp``, if not 0: a Stamp later than that is logged first, unless there is one.
    """

    after: Seq
    stamp: Counter = 0
    identity: str = ""


# --- the primary to a replica, or to a backup ----------------------------------------------------


class Joined(msgspec.Struct, array_like=True, tag=40, frozen=True, gc=False, kw_only=True):
    """The answer to Join: the logs agree up to ``common``; what you have beyond is not so.

    ``pull``: fetch what follows with GetLog, and join again when you have it; else it is sent.
    ``image``: what you have is of no use, copy everything.  ``starts`` is the request's.
    """

    config_epoch: Counter
    incarnation: Uint64
    starts: Counter
    common: Seq
    pull: bool = False
    image: bool = False


class Append(msgspec.Struct, array_like=True, tag=41, frozen=True, gc=False, kw_only=True):
    """Records ``first`` and following, or none (a heartbeat).

    ``committed``: all in-sync members have the log up to here, so nothing of it is ever taken back.
    ``sent_at`` is on the primary's clock.
    """

    config_epoch: Counter
    incarnation: Uint64
    first: Seq
    count: Counter
    body: bytes
    committed: Seq
    sent_at: float


class ImageBegun(msgspec.Struct, array_like=True, tag=42, frozen=True, gc=False, kw_only=True):
    """The lists as of the record ``seq`` (an encoded ParticipantState); pages come with GetPages.

    ``pages`` estimates how many there are.
    """

    incarnation: Uint64
    seq: Seq
    history: list[Life]
    state: bytes
    pages: Counter
    capacity: int
    page_bytes: int


class Pages(msgspec.Struct, array_like=True, tag=43, frozen=True, gc=False, kw_only=True):
    """Runs of memory as (address, bytes), all that was ever written in [start, following).

    ``following`` 0: there is nothing beyond.  ``upto``: records up to this one may show in them.
    """

    incarnation: Uint64
    start: int
    following: int
    upto: Seq
    runs: list[tuple[int, bytes]]


class LogPart(msgspec.Struct, array_like=True, tag=44, frozen=True, gc=False, kw_only=True):
    """``count`` records from ``first`` on, which lie in the lives of ``history``.

    ``gone``: the log does not reach back so far, copy the image.  ``last`` is the last stable
    record there is, ``committed`` the last that is never taken back.
    """

    incarnation: Uint64
    first: Seq
    count: Counter
    body: bytes
    last: Seq
    committed: Seq
    history: list[Life]
    gone: bool = False
