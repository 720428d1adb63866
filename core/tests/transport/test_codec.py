"""Batches survive the wire; what is not a batch is refused in one way."""

import contextlib
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import ProtocolError
from sinfonia.minitransaction import CompareItem, ReadItem, WriteItem
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.membership.messages import Member, MemoryNodeEntry
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    Commit,
    ExecCommit,
    ExecPrepare,
    Forget,
    Probe,
    Replies,
    Reply,
    Request,
    Requests,
    Resolve,
    Vote,
    Voted,
)
from sinfonia.transport.codec import (
    DETACH_BYTES_MIN,
    decode_replies,
    decode_requests,
    encode_replies,
    encode_requests,
)

payloads = st.one_of(
    st.binary(max_size=16),
    st.integers(0, 3).map(lambda i: bytes([i]) * (DETACH_BYTES_MIN - 1 + i)),
)
offsets = st.integers(0, 2**63 - 1)
counters = st.integers(0, 2**62)
tids = st.builds(Tid, counters, st.integers(0, 2**64 - 1), counters)
participants = st.lists(st.integers(0, 500).map(MemoryNodeId), min_size=1, max_size=4)
compares = st.lists(st.builds(CompareItem, offsets, st.binary(max_size=9)), max_size=3)
reads = st.lists(st.builds(ReadItem, offsets, st.integers(0, 2**20)), max_size=3)
writes = st.lists(st.builds(WriteItem, offsets, payloads), max_size=3)
requests = st.one_of(
    st.builds(
        ExecCommit,
        counter=counters,
        epoch=counters,
        compares=compares,
        reads=reads,
        writes=writes,
        reads_on_failure=st.booleans(),
    ),
    st.builds(
        ExecPrepare,
        tid=tids,
        participants=participants,
        compares=compares,
        reads=reads,
        writes=writes,
        reads_on_failure=st.booleans(),
        read_only=st.booleans(),
    ),
    st.builds(Commit, tids, st.booleans()),
    st.builds(Resolve, tids, participants),
    st.builds(Forget, st.lists(tids, max_size=3)),
    st.builds(Probe, counters, st.floats(0, 1e6), st.floats(0, 1e6)),
)
batches = st.builds(
    Requests,
    st.just(PROTOCOL_VERSION),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    counters,
    st.lists(requests, max_size=4),
)
votes = st.builds(
    Voted,
    counters,
    st.sampled_from(list(Vote)),
    st.lists(payloads, max_size=3),
    st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=9)), max_size=2),
)
reply_batches = st.builds(
    Replies,
    st.just(PROTOCOL_VERSION),
    st.integers(-1, 500),
    st.integers(0, 2**64 - 1),
    counters,
    st.lists(votes, max_size=4),
)


@given(batches, st.booleans())
def test_requests_survive_the_wire(batch: Requests, large: bool) -> None:
    frames = encode_requests(batch, large=large)
    decoded = decode_requests(frames)
    assert msgspec.structs.replace(decoded, detached=[]) == batch


@given(reply_batches)
def test_replies_survive_the_wire(batch: Replies) -> None:
    decoded = decode_replies(encode_replies(batch))
    assert msgspec.structs.replace(decoded, detached=[]) == batch


def test_large_payloads_travel_in_frames_of_their_own() -> None:
    data = bytes(DETACH_BYTES_MIN)
    request = ExecCommit(
        counter=1,
        epoch=0,
        compares=[],
        reads=[],
        writes=[WriteItem(0, b"small"), WriteItem(8, data)],
    )
    frames = encode_requests(Requests(PROTOCOL_VERSION, 1, 1, 1, [request]), large=True)
    assert len(frames) == 2
    assert frames[1] is data, "it was copied"
    assert len(frames[0]) < 64
    voted = Voted(1, Vote.OK, [b"small", data])
    replies = encode_replies(Replies(PROTOCOL_VERSION, 0, 1, 0, [voted]))
    assert replies[1] is data


def test_encoding_leaves_the_request_as_it_was() -> None:
    """It may have to be sent again."""
    request = ExecCommit(
        counter=1, epoch=0, compares=[], reads=[], writes=[WriteItem(8, bytes(DETACH_BYTES_MIN))]
    )
    encode_requests(Requests(PROTOCOL_VERSION, 1, 1, 1, [request]), large=True)
    assert len(request.writes[0].data) == DETACH_BYTES_MIN


@pytest.mark.parametrize("kind", [*get_args(Request), *get_args(Reply), Member, MemoryNodeEntry])
def test_fields_travel_in_the_order_in_which_they_are_written(kind: type[msgspec.Struct]) -> None:
    """Also of a struct that is made by keywords: msgspec would move such fields to the end."""
    assert kind.__struct_config__.array_like
    assert kind.__struct_fields__ == tuple(kind.__annotations__)


@given(st.binary(max_size=200))
def test_random_bytes_are_a_protocol_error_or_a_batch(frame: bytes) -> None:
    for decode in (decode_requests, decode_replies):
        with contextlib.suppress(ProtocolError):
            decode([frame])


@given(batches, st.data())
def test_a_damaged_batch_is_a_protocol_error_or_a_batch(
    batch: Requests, data: st.DataObject
) -> None:
    [frame] = encode_requests(batch)
    damaged = bytearray(frame)
    damaged[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(frame)))
    for candidate in (bytes(damaged), frame[:cut]):
        with contextlib.suppress(ProtocolError):
            decode_requests([candidate])


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [msgspec.msgpack.encode([PROTOCOL_VERSION + 1, 1, 1, 1, []])],
        [msgspec.msgpack.encode([PROTOCOL_VERSION, 1, 1, 1, []]), b"this was not asked for"],
        [msgspec.msgpack.encode([PROTOCOL_VERSION, 1, 1, 1, [], [[0, 0]]]), b"no such request"],
        [msgspec.msgpack.encode([PROTOCOL_VERSION, 1, 1, 1, [[7]], [[0, 0]]]), b"no such item"],
        [msgspec.msgpack.encode([PROTOCOL_VERSION, 1, 1, 1, [[1, 1, 0, [[-1, b""]]]]])],
        [msgspec.msgpack.encode([PROTOCOL_VERSION, 1, 1, 1, [[99]]])],
    ],
    ids=["no frame", "version", "extra frame", "no request", "no item", "negative", "unknown"],
)
def test_what_is_not_a_batch_is_a_protocol_error(frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        decode_requests(frames)
