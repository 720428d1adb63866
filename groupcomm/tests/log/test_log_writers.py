"""Claims of writer records, and trims that pass no claimant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupcomm.errors import Expelled, WritersTaken
from groupcomm.log.comb import Comb
from groupcomm.log.creation import create_log
from groupcomm.log.layout import CURSOR_NONE, Log, Shape
from groupcomm.log.writers import Claim, TrimOutcome, claim, look, release, trim
from sinfonia import Contended, LimitExceeded, OutcomeUnknown
from sinfonia.structures import Trimmed, WrongPosition
from sinfonia.testing.stepwise import Fate, Stage

LOG = Log(0, 0, Shape(slots=8, slot_bytes=128, writers=2, area_bytes=500))
ANN, BOB, EVE = b"ann's sixteen b.", b"bob's sixteen b.", b"eve's sixteen b."


@pytest.fixture
def stage() -> Stage:
    made = Stage()
    made.run(create_log(LOG))
    return made


def claimed(stage: Stage, owner: bytes, cursor: int | None = None) -> Claim:
    found = stage.run(claim(LOG, owner, cursor=cursor))
    assert isinstance(found, Claim)
    return found


def comb_of(stage: Stage, owner: bytes, cursor: int | None = None) -> Comb:
    return Comb(LOG, claimed(stage, owner, cursor), lambda: 0)


def append(stage: Stage, comb: Comb, *parts: bytes) -> None:
    """One entry each."""
    for part in parts:
        comb.post(part)
        while comb.posted:
            stage.run(comb.turn())


def test_two_programs_get_two_records(stage: Stage) -> None:
    ann, bob = claimed(stage, ANN), claimed(stage, BOB)
    assert {ann.writer, bob.writer} == {0, 1}
    assert ann.record.generation == bob.record.generation == 1
    with pytest.raises(WritersTaken, match="all 2"):
        stage.run(claim(LOG, EVE))


def test_a_record_that_was_released_is_claimed_again(stage: Stage) -> None:
    ann = claimed(stage, ANN)
    claimed(stage, BOB)
    stage.run(release(LOG, ann.writer, ann.record.generation))
    stage.run(release(LOG, ann.writer, ann.record.generation))
    eve = claimed(stage, EVE)
    assert (eve.writer, eve.record.generation) == (ann.writer, 3)
    # A release that comes late does not end the claim of another.
    stage.run(release(LOG, ann.writer, ann.record.generation))
    assert stage.run(look(LOG)).records[eve.writer] == eve.record


@given(st.lists(st.sampled_from(Fate), max_size=8), st.integers(0, 2))
def test_a_claim_with_an_unknown_outcome_is_claimed_again(fates: list[Fate], late: int) -> None:
    stage = Stage()
    log = Log(0, 0, Shape(slots=8, slot_bytes=128, writers=9, area_bytes=0))
    stage.run(create_log(log))
    found = None
    for _ in range(9):
        actor = stage.begin(claim(log, ANN))
        while not actor.over:
            stage.step(actor, fates.pop() if fates else Fate.DONE)
        if actor.error is None:
            found = actor.value
            break
        assert isinstance(actor.error, OutcomeUnknown | Contended)
        if len(stage.late) > late:
            stage.arrive(0)
    assert isinstance(found, Claim)
    assert stage.run(look(log)).records[found.writer] == found.record


def test_a_program_takes_up_its_cursor_and_ends_its_earlier_life(stage: Stage) -> None:
    before = comb_of(stage, ANN)
    bob = comb_of(stage, BOB)
    append(stage, bob, b"1", b"2")
    stage.run(before.turn())
    assert before.position == 2
    append(stage, bob, b"3")
    stage.run(before.turn())  # received, and reported up to 2
    after = comb_of(stage, ANN)
    assert after.writer == before.writer
    [entry] = stage.run(after.turn()).entries
    assert list(entry.parts) == [b"3"]
    before.post(b"too late")
    with pytest.raises(Expelled) as expelled:
        stage.run(before.turn())
    assert not expelled.value.appended
    assert not expelled.value.in_doubt
    assert expelled.value.definite
    with pytest.raises(Expelled):
        stage.run(before.turn())


def test_nothing_of_a_writer_takes_effect_after_its_release(stage: Stage) -> None:
    ann = comb_of(stage, ANN)
    append(stage, ann, b"before")
    ann.post(b"after" * 50)
    actor = stage.begin(ann.turn())
    stage.run(release(LOG, ann.writer, ann.record.generation))
    before = bytes(stage.memory[0])  # type: ignore[index]
    stage.step(actor)
    with pytest.raises(Expelled) as expelled:
        _ = actor.value
    assert not expelled.value.appended
    assert not expelled.value.in_doubt
    assert bytes(stage.memory[0]) == before  # type: ignore[index]


@pytest.mark.parametrize(
    ("fate", "claimed_anew", "appended", "in_doubt"),
    [
        (Fate.UNKNOWN_DONE, False, [0, 1], []),
        (Fate.UNKNOWN_NEVER, False, [], []),
        (Fate.UNKNOWN_DONE, True, [], [0, 1]),
        (Fate.UNKNOWN_NEVER, True, [], [0, 1]),
        (Fate.NOT_EXECUTED, True, [], []),
    ],
)
def test_a_writer_that_is_expelled_learns_what_can_be_known(
    stage: Stage, fate: Fate, claimed_anew: bool, appended: list[int], in_doubt: list[int]
) -> None:
    ann = comb_of(stage, ANN)
    ann.post(b"x")
    ann.post(b"y")
    stage.step(stage.begin(ann.turn()), fate)
    stage.run(release(LOG, ann.writer, ann.record.generation))
    if claimed_anew:
        claimed(stage, BOB)
        claimed(stage, EVE)
    with pytest.raises(Expelled) as expelled:
        stage.run(ann.turn())
    assert list(expelled.value.appended) == appended
    assert list(expelled.value.in_doubt) == in_doubt


def test_a_claim_says_from_where_it_reads(stage: Stage) -> None:
    ann = comb_of(stage, ANN)
    append(stage, ann, b"1", b"2", b"3")
    bob = claimed(stage, BOB, cursor=1)
    assert bob.record.cursor == 1
    stage.run(release(LOG, bob.writer, 1))
    stage.run(ann.turn())
    assert stage.run(trim(LOG, 2)) == TrimOutcome(2, ())
    assert stage.run(claim(LOG, BOB, cursor=1)) == Trimmed(2, 3)
    with pytest.raises(WrongPosition):
        stage.run(claim(LOG, BOB, cursor=4))
    for owner in (b"short", bytes(16)):
        with pytest.raises(LimitExceeded):
            stage.run(claim(LOG, owner))


def test_a_trim_passes_no_claimant_and_names_it(stage: Stage) -> None:
    ann, bob = comb_of(stage, ANN), comb_of(stage, BOB)
    append(stage, ann, b"1", b"2", b"3")
    stage.run(ann.turn())
    assert stage.run(trim(LOG, 2)) == TrimOutcome(0, (bob.writer,))
    for _ in range(2):
        stage.run(bob.turn())
    assert stage.run(trim(LOG, 2)) == TrimOutcome(2, ())
    assert stage.run(trim(LOG, 1)) == TrimOutcome(2, ())
    assert stage.run(trim(LOG, 100)) == TrimOutcome(3, ())


def test_a_writer_that_reads_nothing_holds_nothing_up(stage: Stage) -> None:
    ann = comb_of(stage, ANN, CURSOR_NONE)
    append(stage, ann, *[b"%d" % k for k in range(40)])
    assert stage.run(look(LOG)).tail == 40
    assert stage.run(ann.turn()).entries == []


def test_a_claim_between_a_trims_look_and_the_trim_is_not_overtaken(stage: Stage) -> None:
    ann = comb_of(stage, ANN)
    append(stage, ann, b"1", b"2", b"3")
    stage.run(ann.turn())
    actor = stage.begin(trim(LOG, 3))
    stage.step(actor)
    bob = claimed(stage, BOB, cursor=1)
    assert stage.finish(actor) == TrimOutcome(1, (bob.writer,))


def test_a_claim_that_finds_its_cursor_trimmed_meanwhile_is_told(stage: Stage) -> None:
    ann = comb_of(stage, ANN)
    append(stage, ann, b"1", b"2", b"3")
    stage.run(ann.turn())
    actor = stage.begin(claim(LOG, BOB, cursor=1))
    stage.step(actor)
    stage.run(trim(LOG, 2))
    assert stage.finish(actor) == Trimmed(2, 3)
    assert [record.claimed for record in stage.run(look(LOG)).records].count(True) == 1
