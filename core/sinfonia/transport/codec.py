"""Bytes to messages and back; nothing from the network is trusted.

A batch is one MessagePack array in one frame, and the large payloads that it names follow in frames
of their own, so that they are not copied into it and out of it again::

    frame 0   [version, ..., requests, detached]     detached = [(request, write item), ...]
    frame 1   the bytes of the first detached item
    ...

A batch that is not well-formed, not of this version, or larger than it may be raises ProtocolError:
it costs its sender an error and the receiver nothing.
"""

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from sinfonia.errors import ProtocolError
from sinfonia.minitransaction import BYTES_MAX, WriteItem
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    ExecCommit,
    ExecPrepare,
    Replies,
    Requests,
    Voted,
)

# The largest minitransaction, and then room for the numbers around its bytes.
FRAME_BYTES_MAX = BYTES_MAX + 1024 * 1024

# From here on a frame of its own is cheaper than two copies.
DETACH_BYTES_MIN = 32 * 1024

# More payloads than this in one batch stay where they are.
DETACHED_MAX = 1024

_encode = msgspec.msgpack.Encoder().encode
_decode_requests = msgspec.msgpack.Decoder(Requests).decode
_decode_replies = msgspec.msgpack.Decoder(Replies).decode

BatchT = TypeVar("BatchT", Requests, Replies)


def encode_requests(batch: Requests, *, large: bool = False) -> list[bytes]:
    """The frames of a batch; ``large``: it is worth looking for payloads to detach."""
    if not large:
        return [_encode(batch)]
    detached: list[tuple[int, int]] = []
    payloads: list[bytes] = []
    requests = list(batch.requests)
    for number, request in enumerate(requests):
        if not isinstance(request, ExecCommit | ExecPrepare):
            continue
        places = _large([item.data for item in request.writes], room=DETACHED_MAX - len(detached))
        if not places:
            continue
        writes = list(request.writes)
        for place in places:
            payloads.append(writes[place].data)
            writes[place] = WriteItem(writes[place].address, b"")
            detached.append((number, place))
        requests[number] = msgspec.structs.replace(request, writes=writes)
    header = msgspec.structs.replace(batch, requests=requests, detached=detached)
    return [_encode(header), *payloads]


def encode_replies(batch: Replies) -> list[bytes]:
    """The frames of a batch from a memory node."""
    frame = _encode(batch)
    if len(frame) < DETACH_BYTES_MIN:
        return [frame]
    detached: list[tuple[int, int]] = []
    payloads: list[bytes] = []
    replies = list(batch.replies)
    for number, reply in enumerate(replies):
        if not isinstance(reply, Voted) or not reply.reads:
            continue
        places = _large(reply.reads, room=DETACHED_MAX - len(detached))
        if not places:
            continue
        reads = list(reply.reads)
        for place in places:
            payloads.append(reads[place])
            reads[place] = b""
            detached.append((number, place))
        replies[number] = msgspec.structs.replace(reply, reads=reads)
    if not detached:
        return [frame]
    return [_encode(msgspec.structs.replace(batch, replies=replies, detached=detached)), *payloads]


def decode_requests(frames: Sequence[bytes]) -> Requests:
    """A batch for a memory node or the manager.  Raises ProtocolError."""
    try:
        batch = _decode_requests(frames[0])
    except (msgspec.MsgspecError, ValueError, RecursionError, IndexError) as error:
        raise ProtocolError(f"not a batch of requests: {error}") from error
    _check(batch, frames)
    for (number, place), payload in zip(batch.detached, frames[1:], strict=True):
        try:
            writes = batch.requests[number].writes  # type: ignore[union-attr]  # caught below
            writes[place] = WriteItem(writes[place].address, payload)
        except (AttributeError, IndexError) as error:
            raise ProtocolError(f"no item for a detached payload: {error}") from error
    return batch


def decode_replies(frames: Sequence[bytes]) -> Replies:
    """A batch from a memory node or the manager.  Raises ProtocolError."""
    try:
        batch = _decode_replies(frames[0])
    except (msgspec.MsgspecError, ValueError, RecursionError, IndexError) as error:
        raise ProtocolError(f"not a batch of replies: {error}") from error
    _check(batch, frames)
    for (number, place), payload in zip(batch.detached, frames[1:], strict=True):
        try:
            batch.replies[number].reads[place] = payload  # type: ignore[union-attr]  # caught below
        except (AttributeError, IndexError) as error:
            raise ProtocolError(f"no item for a detached payload: {error}") from error
    return batch


def _check(batch: BatchT, frames: Sequence[bytes]) -> None:
    if batch.version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"protocol version {batch.version}; this program speaks {PROTOCOL_VERSION}"
        )
    if len(batch.detached) != len(frames) - 1:
        raise ProtocolError(f"{len(frames)} frames for {len(batch.detached)} detached payloads")


def _large(payloads: Sequence[bytes], *, room: int) -> list[int]:
    return [i for i, each in enumerate(payloads) if len(each) >= DETACH_BYTES_MIN][:room]
