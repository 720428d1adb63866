"""Conditions and updates at a memory node do what the model says, once, whatever is lost."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import LimitExceeded, OutOfRange
from sinfonia.minitransaction import (
    AddItem,
    AppendItem,
    ConditionItem,
    Minitransaction,
    Relation,
    Result,
    WriteItem,
)
from sinfonia.protocol.messages import Commit, ExecCommit, ExecPrepare, Vote
from sinfonia.protocol.records import OnePhase, Prepared
from sinfonia.rings import HEADER_BYTES, SLOT_HEADER_BYTES, RingHeader, decode_slot
from sinfonia.simulation.participant_harness import (
    CAPACITY,
    ParticipantHarness,
    one_phase,
    prepare,
    tid,
)
from sinfonia.simulation.world import World
from sinfonia.testing.model import ModelCluster, apply_minitransaction

RING = 256
SLOT = SLOT_HEADER_BYTES + 8
HEADER = RingHeader(slot_bytes=SLOT, slots=2)

# Few places, close to each other and to the ring's header, so that items overlap.
places = st.sampled_from([0, 1, 4, 8, RING - 4, RING + 8, RING + 16, RING + HEADER_BYTES])
nodes = st.integers(0, 1)
small = st.binary(min_size=1, max_size=8)
integers = st.one_of(st.integers(0, 3), st.integers(0, 255))


@st.composite
def items(draw: st.DrawFn) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """A method of Minitransaction and its arguments."""
    node, place = draw(nodes), draw(places)
    kind = draw(st.sampled_from(["compare", "check", "read", "write", "add", "append", "append"]))
    width = draw(st.sampled_from([1, 2, 4, 8]))
    match kind:
        case "compare":
            return kind, (node, place, draw(st.sampled_from([b"\0", b"\0\0", b"\1"]))), {}
        case "check":
            mask = draw(st.one_of(st.none(), integers))
            relation = draw(st.sampled_from(Relation))
            return kind, (node, place, relation, draw(integers)), {"width": width, "mask": mask}
        case "read":
            return kind, (node, place, draw(st.integers(0, 16))), {}
        case "write":
            return kind, (node, place, draw(small)), {}
        case "add":
            return kind, (node, place, draw(st.integers(-300, 300))), {"width": width}
    return kind, (node, RING, draw(small)), {}


def filled(
    executor: ModelCluster, chosen: list[tuple[str, tuple[Any, ...], dict[str, Any]]]
) -> Minitransaction[Any]:
    minitransaction: Minitransaction[Any] = Minitransaction(executor, reads_on_failure=True)
    for kind, arguments, options in chosen:
        getattr(minitransaction, kind)(*arguments, **options)
    return minitransaction


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(items(), min_size=1, max_size=5), min_size=1, max_size=6), st.data())
def test_memory_nodes_do_what_the_model_does(
    histories: list[list[tuple[str, tuple[Any, ...], dict[str, Any]]]], data: st.DataObject
) -> None:
    """One and two participants; some replies are lost, and a restart comes in between."""
    model = ModelCluster(memory_nodes=2, capacity=CAPACITY)
    world = World(2)
    for node, harness in world.harnesses.items():
        model.memory[node][RING : RING + HEADER_BYTES] = HEADER.encode()
        harness.vote(one_phase(1, write=[(RING, HEADER.encode())]), client=99)
    for chosen in histories:
        minitransaction = filled(model, chosen)
        try:
            expected: Result | None = apply_minitransaction(model.memory, minitransaction)
        except OutOfRange:
            return  # there is no ring any more
        call = world.execute(10.0, minitransaction)
        if data.draw(st.booleans()):
            world.deliver()
            world.coming_back.clear()
            if data.draw(st.booleans()):
                world.restart(data.draw(nodes))
            world.pass_time(1.0)
        world.settle()
        while call.result is None and call.error is None:
            world.pass_time(0.2)
            world.settle()
        assert call.error is None
        assert call.result is not None
        assert expected is not None
        assert call.result.committed == expected.committed
        # A memory node that is not waited for, or votes on more than it is asked in the end, says
        # nothing of its read items.
        if call.result.committed or len(minitransaction.items) == 1 or call.result.reads:
            assert list(call.result.reads) == list(expected.reads)
        assert list(call.result.added) == list(expected.added)
        assert list(call.result.positions) == list(expected.positions)
        if len(minitransaction.items) == 1:
            assert list(call.result.failed_compares) == list(expected.failed_compares)
            assert list(call.result.full_rings) == list(expected.full_rings)
        for number, harness in world.harnesses.items():
            assert harness.read(0, CAPACITY) == bytes(model.memory[number])


def ring_request(counter: int, data: bytes = b"x") -> ExecCommit:
    return ExecCommit(counter=counter, epoch=0, updates=[AppendItem(RING, data)])


def harness_with_ring() -> ParticipantHarness:
    harness = ParticipantHarness()
    harness.vote(one_phase(1, write=[(RING, HEADER.encode())]))
    return harness


def test_an_add_is_logged_as_a_plain_write_and_its_old_value_is_answered_again() -> None:
    harness = ParticipantHarness()
    harness.vote(one_phase(1, write=[(0, b"\7\0")]))
    request = ExecCommit(counter=2, epoch=0, updates=[AddItem(0, 2, 5)])
    voted = harness.vote(request)
    assert voted.reads == [b"\7\0"]
    record = harness.log[-1]
    assert isinstance(record, OnePhase)
    assert record.writes == [WriteItem(0, b"\x0c\0")]
    assert harness.vote(request) == voted
    reborn = harness.restarted()
    assert reborn.vote(request) == voted
    assert reborn.read(0, 2) == b"\x0c\0"


def test_an_append_in_two_phases_is_chosen_at_the_vote_and_leaves_no_hole_if_aborted() -> None:
    harness = harness_with_ring()
    append = ExecPrepare(
        tid=tid(2),
        participants=[MemoryNodeId(0), MemoryNodeId(1)],
        updates=[AppendItem(RING, b"first")],
    )
    assert harness.vote(append).reads == [(0).to_bytes(8, "little")]
    record = harness.log[-1]
    assert isinstance(record, Prepared)
    assert len(record.writes) == 2
    assert harness.vote(ring_request(3)).vote is Vote.BAD_LOCK
    slot = RING + HEADER_BYTES
    assert harness.vote(one_phase(4, read=[(slot, 1)])).vote is Vote.BAD_LOCK
    harness.commit(tid(2), action=False)
    assert harness.vote(ring_request(5, b"second")).reads == [(0).to_bytes(8, "little")]
    held = harness.read(slot, SLOT)
    assert decode_slot(HEADER, 0, held) == b"second"
    harness.check()


def test_a_slot_that_a_minitransaction_reads_is_not_appended_to() -> None:
    """The header alone does not say which bytes are to be locked."""
    harness = harness_with_ring()
    slot = RING + HEADER_BYTES
    assert harness.vote(prepare(2, read=[(slot, 1)], write=[(0, b"x")])).vote is Vote.OK
    assert harness.vote(ring_request(3)).vote is Vote.BAD_LOCK
    append = ExecPrepare(
        tid=tid(4),
        participants=[MemoryNodeId(0), MemoryNodeId(1)],
        updates=[AppendItem(RING, b"x")],
    )
    assert harness.vote(append).vote is Vote.BAD_LOCK
    harness.commit(tid(2))
    assert harness.vote(ring_request(5)).vote is Vote.OK
    harness.check()


def test_a_full_ring_is_named_and_nothing_happens() -> None:
    harness = harness_with_ring()
    for counter in (2, 3):
        assert harness.vote(ring_request(counter)).vote is Vote.OK
    condition = ConditionItem(0, Relation.EQUAL, b"\0")
    request = ExecCommit(
        counter=4,
        epoch=0,
        conditions=[condition],
        writes=[WriteItem(0, b"!")],
        updates=[AppendItem(RING, b"x")],
    )
    voted = harness.vote(request)
    assert voted.vote is Vote.BAD_CMP
    assert [position for position, _ in voted.failed] == [1]
    assert harness.read(0, 1) == b"\0"


@pytest.mark.parametrize(
    "request_",
    [
        ExecCommit(counter=9, epoch=0, updates=[AddItem(CAPACITY - 7, 8, 1)]),
        ExecCommit(counter=9, epoch=0, updates=[AddItem(0, 3, 1)]),
        ExecCommit(counter=9, epoch=0, updates=[AddItem(0, 0, 1)]),
        ExecCommit(counter=9, epoch=0, updates=[AddItem(0, 8, 1)] * 65),
        ExecCommit(counter=9, epoch=0, updates=[AppendItem(0, b"no ring here")]),
        ExecCommit(counter=9, epoch=0, updates=[AppendItem(CAPACITY - 8, b"x")]),
        ExecCommit(counter=9, epoch=0, updates=[AppendItem(RING, bytes(9))]),
        ExecCommit(counter=9, epoch=0, conditions=[ConditionItem(0, Relation.LESS, b"")]),
        ExecCommit(counter=9, epoch=0, conditions=[ConditionItem(0, Relation.LESS, bytes(3))]),
        ExecCommit(
            counter=9, epoch=0, conditions=[ConditionItem(0, Relation.LESS, bytes(2), b"\1")]
        ),
        ExecCommit(counter=9, epoch=0, conditions=[ConditionItem(CAPACITY, Relation.LESS, b"\1")]),
        ExecPrepare(
            tid=tid(9), participants=[MemoryNodeId(0)], updates=[AddItem(0, 8, 1)], read_only=True
        ),
    ],
)
def test_what_makes_no_sense_is_refused(request_: ExecCommit | ExecPrepare) -> None:
    harness = harness_with_ring()
    before = harness.read(0, CAPACITY)
    assert harness.vote(request_).vote is Vote.BAD_RANGE
    assert harness.read(0, CAPACITY) == before
    harness.check()


def test_a_ring_that_reaches_beyond_memory_is_refused() -> None:
    harness = ParticipantHarness()
    huge = RingHeader(slot_bytes=2**32 - 1, slots=2**32 - 1, tail=2**40, trimmed=2**40)
    harness.vote(one_phase(1, write=[(RING, huge.encode())]))
    assert harness.vote(ring_request(2)).vote is Vote.BAD_RANGE


def test_limits_are_named_before_anything_is_sent() -> None:
    minitransaction = ModelCluster().minitransaction()
    with pytest.raises(LimitExceeded, match="width of 3"):
        minitransaction.add(0, 0, 1, width=3)
    with pytest.raises(LimitExceeded, match="no unsigned integer of 1 bytes"):
        minitransaction.check(0, 0, Relation.LESS, 256, width=1)
    with pytest.raises(LimitExceeded, match="no unsigned integer"):
        minitransaction.check(0, 0, Relation.LESS, -1)
    for _ in range(64):
        minitransaction.add(0, 0, 1)
    with pytest.raises(LimitExceeded, match="64 add and append items"):
        minitransaction.append(0, RING, b"x")
    with pytest.raises(LimitExceeded, match="lock_wait"):
        ModelCluster().minitransaction(lock_wait=1.0)
    with pytest.raises(LimitExceeded, match="tag"):
        ModelCluster().minitransaction(tag="x" * 33)


def test_an_update_is_a_write_for_the_read_only_lease() -> None:
    """Were it taken for a reader, its vote would not be logged and its effect lost."""
    world = World(2)
    minitransaction = ModelCluster(memory_nodes=2).minitransaction()
    minitransaction.read(0, 0, 8)
    minitransaction.add(1, 0, 5)
    call = world.execute(10.0, minitransaction)
    world.settle()
    assert call.result is not None
    assert call.result.added == [0]
    assert world.harnesses[MemoryNodeId(1)].read(0, 1) == b"\5"
    assert type(world.harnesses[MemoryNodeId(0)].log[0]) is Prepared


def test_the_outcome_of_a_prepared_add_is_what_was_logged_whatever_came_between() -> None:
    harness = ParticipantHarness()
    add = ExecPrepare(
        tid=tid(1), participants=[MemoryNodeId(0), MemoryNodeId(1)], updates=[AddItem(0, 8, 1)]
    )
    assert harness.vote(add).vote is Vote.OK
    reborn = harness.restarted()
    assert reborn.vote(add).reads == [bytes(8)]
    assert reborn.replies(Commit(tid(1), True), client=99)
    assert reborn.read(0, 1) == b"\1"
    reborn.check()
