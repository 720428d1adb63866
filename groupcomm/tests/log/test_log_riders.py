"""A part and its rider's items happen together or not at all, and the program learns which."""

from typing import Any

import msgspec
import pytest

from groupcomm.log.comb import Comb
from groupcomm.log.creation import create_log
from groupcomm.log.layout import Log, Shape
from groupcomm.log.posting import Rider
from groupcomm.log.turns import Ordered, Refused, Turn
from groupcomm.log.writers import Claim, claim, look
from sinfonia import (
    LimitExceeded,
    MemoryNodeId,
    Minitransaction,
    OutcomeUnknown,
    OutOfRange,
    Result,
)
from sinfonia.structures import Ring
from sinfonia.testing.stepwise import Fate, Stage

LOG = Log(0, 0, Shape(slots=4, slot_bytes=128, writers=4, area_bytes=1000))
ELSEWHERE = MemoryNodeId(1)

UNKNOWN = (Fate.UNKNOWN_DONE, Fate.UNKNOWN_NEVER, Fate.UNKNOWN_LATE)


class Silent(Stage):
    """A cluster that tells nothing of its reads if one of several memory nodes refuses."""

    def execute(self, minitransaction: Minitransaction[Any]) -> Result:
        result = super().execute(minitransaction)
        if not result.committed and len(minitransaction.items) > 1:
            return msgspec.structs.replace(result, reads=())
        return result


class Scene:
    """A log with one program, and bytes elsewhere that its riders compare and write."""

    def __init__(self) -> None:
        self.stage = Silent(memory_nodes=2)
        self.stage.run(create_log(LOG))
        self.combs = [self.comb(b"a"), self.comb(b"b")]
        self.ann, self.bob = self.combs

    def comb(self, name: bytes) -> Comb:
        claimed = self.stage.run(claim(LOG, name * 16))
        assert isinstance(claimed, Claim)
        return Comb(LOG, claimed, lambda: 0)

    def turn(self, comb: Comb, fate: Fate = Fate.DONE) -> Turn:
        """A turn whose first step has ``fate``."""
        actor = self.stage.begin(comb.turn())
        while not actor.over:
            self.stage.step(actor, fate)
            fate = Fate.DONE
        comb.check_invariants()
        return actor.value

    def turns(self, comb: Comb) -> list[Turn]:
        """As many as are of use."""
        found = []
        while comb.due:
            found.append(self.turn(comb))
        return found

    @property
    def elsewhere(self) -> bytes:
        return bytes(self.stage.memory[ELSEWHERE][:4])

    @elsewhere.setter
    def elsewhere(self, data: bytes) -> None:
        self.stage.memory[ELSEWHERE][:4] = data

    def received(self) -> list[bytes]:
        """All that a program that was there from the start receives."""
        turns = self.turns(self.bob)
        turns += [self.turn(self.bob) for _ in range(3)]
        return [part for turn in turns for entry in turn.entries for part in entry.parts]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def swapping(old: bytes, new: bytes) -> Rider:
    def rider(t: Minitransaction[Any]) -> None:
        t.compare(ELSEWHERE, 0, old)
        t.write(ELSEWHERE, 0, new)
        t.read(ELSEWHERE, 0, 4)

    return rider


def test_a_part_and_its_rider_happen_together(scene: Scene) -> None:
    scene.ann.post(b"before")
    ticket = scene.ann.post(b"with", rider=swapping(bytes(4), b"done"))
    scene.ann.post(b"after")
    told = [each for turn in scene.turns(scene.ann) for each in turn.ordered]
    assert [each.tickets for each in told] == [range(1), range(1, 2), range(2, 3)]
    ordered = told[ticket]
    assert ordered.result is not None
    assert ordered.result.reads[-1] == bytes(4), "what the rider read is in the result"
    assert scene.elsewhere == b"done"
    assert scene.received() == [b"before", b"with", b"after"]


@pytest.mark.parametrize("size", [4, 900])
def test_a_part_whose_rider_does_not_hold_is_refused(scene: Scene, size: int) -> None:
    scene.ann.post(b"with" * (size // 4), rider=swapping(b"else", b"done"))
    scene.ann.post(b"after")
    [refused] = scene.turn(scene.ann).refused
    assert refused.ticket == 0
    assert isinstance(refused.reason, Result)
    assert refused.reason.failed_compares[-1].found == bytes(4)
    told = [each for turn in scene.turns(scene.ann) for each in turn.ordered]
    assert told == [Ordered(range(1, 2), 0)]
    assert scene.elsewhere == bytes(4)
    assert scene.received() == [b"after"]


def test_a_refused_part_leaves_no_hole_in_an_area(scene: Scene) -> None:
    scene.ann.post(b"with" * 200, rider=swapping(b"else", b"done"))
    scene.turns(scene.ann)
    scene.ann.post(b"next" * 200)
    scene.turns(scene.ann)
    assert scene.received() == [b"next" * 200]


@pytest.mark.parametrize("size", [4, 900])
@pytest.mark.parametrize("fate", UNKNOWN)
def test_a_lost_answer_is_settled_although_the_riders_compare_fails_the_second_time(
    scene: Scene, fate: Fate, size: int
) -> None:
    """The first copy, if it happened, has changed what the second compares."""
    payload = b"with" * (size // 4)
    scene.ann.post(payload, rider=swapping(bytes(4), b"done"))
    with pytest.raises(OutcomeUnknown):
        scene.turn(scene.ann, fate)
    if fate is not Fate.UNKNOWN_DONE:
        scene.elsewhere = b"else"
    turns = scene.turns(scene.ann)
    refused = [each.ticket for turn in turns for each in turn.refused]
    ordered = [each.tickets for turn in turns for each in turn.ordered]
    scene.elsewhere = bytes(4)
    while scene.stage.late:
        assert not scene.stage.arrive(0).committed, "what was refused may not happen later"
    if fate is Fate.UNKNOWN_DONE:
        assert (refused, ordered) == ([], [range(1)])
        assert scene.received() == [payload]
    else:
        assert (refused, ordered) == ([0], [])
        assert scene.received() == []


@pytest.mark.parametrize("second", [Fate.DONE, *UNKNOWN])
@pytest.mark.parametrize("first", UNKNOWN)
def test_the_turn_that_settles_it_may_be_lost_too(scene: Scene, first: Fate, second: Fate) -> None:
    scene.ann.post(b"with", rider=swapping(bytes(4), b"done"))
    with pytest.raises(OutcomeUnknown):
        scene.turn(scene.ann, first)
    scene.elsewhere = b"else"
    scene.turn(scene.ann)  # refused; a turn instead of it is prepared, or it is known to be done
    if second is not Fate.DONE and scene.ann.due:
        with pytest.raises(OutcomeUnknown):
            scene.turn(scene.ann, second)
    turns = scene.turns(scene.ann)
    scene.elsewhere = bytes(4)
    while scene.stage.late:
        assert not scene.stage.arrive(0).committed
    scene.ann.post(b"more")
    turns += scene.turns(scene.ann)
    refused = [each.ticket for turn in turns for each in turn.refused]
    expected = [b"with", b"more"] if first is Fate.UNKNOWN_DONE else [b"more"]
    assert refused == ([] if first is Fate.UNKNOWN_DONE else [0])
    assert scene.received() == expected


@pytest.mark.parametrize("fate", UNKNOWN)
@pytest.mark.parametrize("size", [4, 200])
def test_an_answer_that_is_lost_before_the_log_is_full_is_settled(
    scene: Scene, fate: Fate, size: int
) -> None:
    """A copy that comes late may find room again."""
    for k in range(3):
        scene.bob.post(b"%d" % k, kind=k % 2)
    scene.turns(scene.bob)
    scene.turns(scene.ann)
    scene.ann.post(b"mine" * (size // 4))
    with pytest.raises(OutcomeUnknown):
        scene.turn(scene.ann, fate)
    scene.bob.post(b"3")
    for _ in range(3):
        scene.turn(scene.bob)
    for _ in range(4):
        scene.turn(scene.ann)
    for _ in range(3):
        scene.turn(scene.bob)
    while scene.stage.late:
        assert not scene.stage.arrive(0).committed
    turns = scene.turns(scene.ann)
    assert not any(turn.holding_up for turn in turns[-1:])
    scene.received()
    assert scene.ann.posted == scene.bob.posted == 0
    assert scene.stage.run(look(LOG)).tail == 5


@pytest.mark.parametrize("offset", [1 << 40, 2**63])
def test_a_rider_that_is_not_possible_is_refused(offset: int) -> None:
    scene = Scene()
    stage = scene.stage
    actor = stage.begin(scene.ann.turn())
    stage.finish(actor)

    def rider(t: Minitransaction[Any]) -> None:
        t.write(ELSEWHERE, offset, b"x")

    scene.ann.post(b"with", rider=rider)
    scene.ann.post(b"after")
    actor = stage.begin(scene.ann.turn())
    if not actor.over:
        # What a cluster says to an address that it does not have.
        actor.drive.fail(OutOfRange("not there"))
    [refused] = actor.value.refused
    assert isinstance(refused, Refused)
    assert isinstance(refused.reason, OutOfRange)
    scene.turns(scene.ann)
    assert scene.received() == [b"after"]


def test_a_rider_with_too_many_items_is_refused(scene: Scene) -> None:
    def rider(t: Minitransaction[Any]) -> None:
        for k in range(5000):
            t.write(ELSEWHERE, k, b"x")

    scene.ann.post(b"with", rider=rider)
    scene.ann.post(b"after")
    turns = scene.turns(scene.ann)
    [refused] = [each for turn in turns for each in turn.refused]
    assert isinstance(refused.reason, LimitExceeded)
    assert scene.received() == [b"after"]


def test_a_full_ring_of_the_riders_refuses_the_part(scene: Scene) -> None:
    ring = Ring(ELSEWHERE, 4096, slots=1, slot_bytes=64)
    scene.stage.run(ring.create())

    def rider(t: Minitransaction[Any]) -> None:
        ring.add_append(t, b"x")

    for payload in (b"1", b"2"):
        scene.ann.post(payload, rider=rider)
    turns = scene.turns(scene.ann)
    assert [each.tickets for turn in turns for each in turn.ordered] == [range(1)]
    assert [each.ticket for turn in turns for each in turn.refused] == [1]
    assert scene.received() == [b"1"]
