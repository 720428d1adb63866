"""Bytes to messages and back; nothing from the network is trusted.

A batch is one MessagePack array.  A batch that is not well-formed, not of this version, or larger
than it may be raises ProtocolError: it costs its sender an error and the receiver nothing.
"""

import msgspec

from sinfonia.errors import ProtocolError
from sinfonia.minitransaction import BYTES_MAX
from sinfonia.protocol.messages import PROTOCOL_VERSION, Replies, Requests

# The largest minitransaction, and then room for the numbers around its bytes.
FRAME_BYTES_MAX = BYTES_MAX + 1024 * 1024

encode = msgspec.msgpack.Encoder().encode

_decode_requests = msgspec.msgpack.Decoder(Requests).decode
_decode_replies = msgspec.msgpack.Decoder(Replies).decode


def decode_requests(frame: bytes | memoryview) -> Requests:
    """A batch for a memory node.  Raises ProtocolError."""
    try:
        batch = _decode_requests(frame)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"not a batch of requests: {error}") from error
    if batch.version != PROTOCOL_VERSION:
        raise _wrong_version(batch.version)
    return batch


def decode_replies(frame: bytes | memoryview) -> Replies:
    """A batch from a memory node.  Raises ProtocolError."""
    try:
        batch = _decode_replies(frame)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"not a batch of replies: {error}") from error
    if batch.version != PROTOCOL_VERSION:
        raise _wrong_version(batch.version)
    return batch


def _wrong_version(version: int) -> ProtocolError:
    return ProtocolError(f"protocol version {version}; this program speaks {PROTOCOL_VERSION}")
