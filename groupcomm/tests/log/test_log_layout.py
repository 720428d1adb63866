"""The bytes of a log are those that PROTOCOL.md states, and damaged ones are refused."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupcomm.errors import DamagedEntry, NotALog
from groupcomm.log.creation import create_log, open_log
from groupcomm.log.entries import (
    IN_AREA,
    PARTS_MAX,
    UNIFORM,
    Head,
    body_bytes,
    decode_body,
    decode_head,
    encode_body,
    encode_head,
    make_entry,
)
from groupcomm.log.layout import AREA_BYTES_MAX, Log, Shape, WriterRecord
from sinfonia import LimitExceeded
from sinfonia.testing.stepwise import Fate, Stage

SHAPE = Shape(slots=5, slot_bytes=128, writers=3, area_bytes=1000)
LOG = Log(0, 4096, SHAPE)


def head(flags: int, count: int, body: bytes, *, start: int = 0) -> Head:
    in_area = bool(flags & IN_AREA)
    return Head(
        kind=3,
        flags=flags,
        writer=1,
        generation=7,
        sequence=11,
        stamp=1_700_000_000_000_000,
        count=count,
        checksum=zlib.crc32(body) if in_area else 0,
        length=len(body),
        start=start,
        body=b"" if in_area else body,
    )


def test_the_header_is_as_stated() -> None:
    stage = Stage()
    stage.run(create_log(LOG))
    memory = stage.memory[0]  # type: ignore[index]
    header = bytes(memory[4096 : 4096 + 64])
    assert header[:32] == struct.pack("<8sIIIIQ", b"SGCLOG01", 128, 5, 3, 0, 1000)
    assert header[32:36] == struct.pack("<I", zlib.crc32(header[:32]))
    assert header[36:] == bytes(28)
    # Ring header and slots, up to a multiple of 64, then records, then areas.
    assert LOG.ring.address == 4096 + 64
    assert LOG.records_address == 4096 + 768
    assert LOG.area_pieces(0, 0, 1) == [(4096 + 768 + 3 * 64, 1)]
    assert SHAPE.byte_count == 768 + 3 * 64 + 3 * 1000


def test_a_writer_record_is_as_stated() -> None:
    record = WriterRecord(1, 2, 3, 4, 5, b"sixteen bytes id")
    assert record.encode() == struct.pack("<QQQQQ16sQ", 1, 2, 3, 4, 5, b"sixteen bytes id", 0)
    assert WriterRecord.decode(record.encode()) == record
    assert WriterRecord.decode(bytes(64)) == WriterRecord()
    assert not WriterRecord().claimed


def test_an_area_wraps() -> None:
    start = LOG.address + SHAPE.areas_offset + 2 * 1000
    assert LOG.area_pieces(2, 3990, 30) == [(start + 990, 10), (start, 20)]
    assert LOG.area_pieces(2, 4000, 1000) == [(start, 1000)]
    assert LOG.area_pieces(2, 1, 0) == []


def test_a_log_is_found_by_its_address_and_made_once() -> None:
    stage = Stage()
    stage.run(create_log(LOG))
    before = bytes(stage.memory[0])  # type: ignore[index]
    stage.run(create_log(LOG))
    assert bytes(stage.memory[0]) == before  # type: ignore[index]
    assert stage.run(open_log(0, 4096)) == LOG


def test_a_log_is_not_made_over_something_else() -> None:
    stage = Stage()
    with pytest.raises(NotALog):
        stage.run(open_log(0, 4096))
    stage.run(create_log(LOG))
    with pytest.raises(NotALog, match="another log"):
        stage.run(create_log(Log(0, 4096, Shape(6, 128, 3, 1000))))
    stage.memory[0][LOG.records_address] = 1  # type: ignore[index]
    stage.memory[0][4096 : 4096 + 100] = bytes(100)  # type: ignore[index]
    with pytest.raises(NotALog):
        stage.run(create_log(LOG))


@pytest.mark.parametrize("fate", [Fate.UNKNOWN_DONE, Fate.UNKNOWN_NEVER, Fate.UNKNOWN_LATE])
def test_making_a_log_settles_an_unknown_outcome(fate: Fate) -> None:
    stage = Stage()
    actor = stage.begin(create_log(LOG))
    stage.step(actor, fate)
    stage.finish(actor)
    while stage.late:
        assert not stage.arrive(0).committed
    assert stage.run(open_log(0, 4096)) == LOG


@pytest.mark.parametrize("byte", range(36))
def test_a_damaged_header_is_refused(byte: int) -> None:
    stage = Stage()
    stage.run(create_log(LOG))
    stage.memory[0][4096 + byte] ^= 0x40  # type: ignore[index]
    with pytest.raises(NotALog):
        stage.run(open_log(0, 4096))


@pytest.mark.parametrize(
    "sizes",
    [
        (0, 128, 1, 0),
        (2**32, 128, 1, 0),
        (1, 127, 1, 0),
        (1, (1 << 20) + 1, 1, 0),
        (1, 128, 0, 0),
        (1, 128, 1025, 0),
        (1, 128, 1, -1),
        (1, 128, 1, AREA_BYTES_MAX + 1),
    ],
)
def test_senseless_sizes_are_refused(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(LimitExceeded):
        Shape(*sizes)


def test_an_entry_is_as_stated() -> None:
    flags, body = encode_body([b"ab", b"c"])
    assert (flags, body) == (0, struct.pack("<II", 2, 1) + b"abc")
    record = encode_head(head(flags, 2, body))
    assert record[:40] == struct.pack("<BBHIQQQII", 1, 3, 0, 1, 7, 11, 1_700_000_000_000_000, 2, 0)
    assert record[40:] == body
    flags, body = encode_body([b"ab", b"cd"])
    assert (flags, body) == (UNIFORM, struct.pack("<I", 2) + b"abcd")
    record = encode_head(head(flags | IN_AREA, 2, body, start=900))
    assert record[2:4] == struct.pack("<H", 3)
    assert record[36:] == struct.pack("<IQQ", zlib.crc32(body), 900, len(body))


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=20), st.booleans())
def test_parts_come_back_as_they_were(parts: list[bytes], in_area: bool) -> None:
    flags, body = encode_body(parts)
    assert len(body) == body_bytes([len(part) for part in parts])
    made = head(flags | (IN_AREA if in_area else 0), len(parts), body, start=17 if in_area else 0)
    read = decode_head(encode_head(made))
    assert read == made
    entry = make_entry(4, read, body)
    assert list(entry.parts) == parts
    assert (entry.position, entry.writer, entry.generation, entry.sequence) == (4, 1, 7, 11)


@given(st.binary(max_size=80))
def test_any_bytes_are_an_entry_or_an_error(data: bytes) -> None:
    try:
        read = decode_head(data)
        decode_body(read, read.body)
    except DamagedEntry as error:
        assert error.definite  # noqa: PT017 - most bytes are no entry, some are


@given(st.integers(0, 50), st.sampled_from((0, UNIFORM)), st.binary(max_size=60))
def test_a_body_that_does_not_add_up_is_refused(count: int, flags: int, body: bytes) -> None:
    try:
        parts = decode_body(head(flags, count, body), body)
    except DamagedEntry:
        return
    assert len(parts) == count
    assert encode_body(parts)[1] in (body, body[:4] + b"".join(parts))


def test_a_body_with_another_checksum_is_refused() -> None:
    flags, body = encode_body([b"abc"])
    made = head(flags | IN_AREA, 1, body)
    with pytest.raises(DamagedEntry, match="checksum"):
        make_entry(0, made, body[:-1] + b"x")
    with pytest.raises(DamagedEntry, match="checksum"):
        make_entry(0, made, body[:-1])


def test_too_many_parts_are_refused() -> None:
    encode_body([b""] * PARTS_MAX)
    for parts in ([b""] * (PARTS_MAX + 1), []):
        with pytest.raises(LimitExceeded):
            encode_body(parts)
