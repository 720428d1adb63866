"""What the redo log holds: every step of a participant that a restart must find again.

A record never needs another node to be understood, and replaying records in log order on the state
they were appended to gives the state they led to.  ``floor`` is the client's when the record was
made: replay forgets what the client had already finished with.

``reads`` keeps what was answered, because a client that lost the reply sends the same tid again
and must get the same answer, and by then the bytes may have changed.
"""

import struct

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.minitransaction import WriteItem
from sinfonia.protocol.identifiers import Counter, Seq, Tid, Uint64
from sinfonia.protocol.messages import Voted


class LockRange(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A byte range [start, end) that a minitransaction holds, exclusively or shared."""

    start: int
    end: int
    exclusive: bool


class OnePhase(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False):
    """A minitransaction with one participant: in the log means committed (section 4.8)."""

    client: Uint64
    epoch: Counter
    counter: Counter
    floor: Counter
    writes: list[WriteItem]
    reads: list[bytes] = []


class Prepared(msgspec.Struct, array_like=True, tag=2, frozen=True, gc=False):
    """An OK vote (Figure 4, line 20).  ``ranges`` are all its locks, so that a restart holds them
    until the outcome is known."""

    tid: Tid
    floor: Counter
    participants: list[MemoryNodeId]
    writes: list[WriteItem]
    ranges: list[LockRange]
    reads: list[bytes] = []


class Decided(msgspec.Struct, array_like=True, tag=3, frozen=True, gc=False):
    """The outcome of a Prepared (Figure 4, line 28); the writes are applied at this point."""

    tid: Tid
    action: bool


class ForcedAbort(msgspec.Struct, array_like=True, tag=4, frozen=True, gc=False):
    """A promise to a recovery coordinator never to vote OK on ``tid`` (section 4.4)."""

    tid: Tid


class Forgotten(msgspec.Struct, array_like=True, tag=5, frozen=True, gc=False):
    """All participants have applied these (section 4.7); and these clients have finished with all
    that they were answered, so that nothing need be known of them (sessions.py)."""

    tids: list[Tid]
    clients: list[Uint64] = []


class EpochAdvanced(msgspec.Struct, array_like=True, tag=6, frozen=True, gc=False):
    """The epoch is now ``epoch``; what is two behind is stale."""

    epoch: Counter


class Stamp(msgspec.Struct, array_like=True, tag=7, frozen=True, gc=False):
    """Everything logged before this happened at ``clock`` or earlier.

    A hybrid logical clock, in microseconds since 1970: the primary's wall clock, but later than any
    stamp of which its clients knew.  So what was caused by a minitransaction, at whichever memory
    node, is stamped later than it; and the logs of all, each cut after its last stamp up to one
    moment, are as they could have been found after a crash of everything.
    """

    clock: Counter


Record = OnePhase | Prepared | Decided | ForcedAbort | Forgotten | EpochAdvanced | Stamp


class Batch(msgspec.Struct, frozen=True, gc=False):
    """``count`` records, ``first`` and following; ``body`` is their encodings end to end."""

    first: Seq
    count: int
    body: bytes

    @property
    def last(self) -> Seq:
        return self.first + self.count - 1


# MessagePack's array with a length of 32 bits: what a body lacks to be an array.
_ARRAY32 = struct.Struct(">BI")
_ARRAY32_TAG = 0xDD
ARRAY_HEADER_BYTES = _ARRAY32.size

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Record])


def array_header(count: int) -> bytes:
    """What makes a body of ``count`` records a MessagePack array."""
    return _ARRAY32.pack(_ARRAY32_TAG, count)


def encode_body(records: list[Record]) -> bytes:
    """The encodings of ``records``, one after another."""
    # As an array, and then without its header, of which MessagePack has three sizes: one call is
    # faster than one for each record.
    header = 1 if len(records) < 16 else 3 if len(records) < 65_536 else 5
    return _encoder.encode(records)[header:]


def decode_body(body: bytes, count: int) -> list[Record]:
    """The inverse of ``encode_body``.  Raises msgspec.DecodeError."""
    return _decoder.decode(array_header(count) + body)


class SessionState(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a checkpoint keeps of one client: the answers it may still ask for again."""

    client: Uint64
    epoch: Counter
    floor: Counter
    outcomes: list[Voted]


class DecidedState(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a checkpoint keeps of a committed tid that not all participants have forgotten."""

    tid: Tid
    participants: list[MemoryNodeId]
    voted: Voted


class ParticipantState(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """All that a participant knows besides memory itself, at one point of the log."""

    epoch: Counter = 0
    sessions: list[SessionState] = []
    in_doubt: list[Prepared] = []
    decided: list[DecidedState] = []
    stamped: Counter = 0  # no record up to there is stamped later than this
