"""Leases on a model: schedules, faults and late minitransactions are chosen by hypothesis."""

import struct
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.steps import Pause, Steps, execute, minitransaction
from sinfonia.errors import LimitExceeded, NotExecuted, OutcomeUnknown, TimedOut
from sinfonia.minitransaction import Minitransaction, Result
from sinfonia.structures import Claim, Held, Lease, LeaseLost, LeaseState, acquire_all
from sinfonia.structures.lease_layout import DRIFT_MARGIN, DURATION_S_MAX, LEASE_BYTES
from sinfonia.testing.model import ModelCluster
from sinfonia.testing.stepwise import FAULTS, Actor, Fate, Stage

NODE = MemoryNodeId(0)
LEASE = Lease(NODE, 128)
DURATION = 1.0

# What leases guard here: the fence and the claim of the last writer.
GUARDED = 4096
NOTE = struct.Struct("<QQ")


def claim(number: int, attempt: int = 1) -> Claim:
    return Claim(number.to_bytes(16, "little"), attempt)


def guarded_write(held: Held, *, word: int = GUARDED) -> Steps[bool]:
    t = minitransaction()
    held.check(t)
    t.write(held.lease.node, word, NOTE.pack(held.fence, held.claim.attempt))
    return (yield from execute(t)).committed


def test_a_lease_passes_from_hand_to_hand() -> None:
    stage = Stage()
    first = stage.run(LEASE.acquire(claim(1), DURATION))
    assert stage.run(LEASE.try_acquire(claim(2), DURATION)) is None
    assert stage.run(guarded_write(first))
    stage.run(first.release())
    second = stage.run(LEASE.acquire(claim(2), DURATION))
    assert second.fence > first.fence
    assert stage.now == 0.0, "no client had to wait"
    assert not stage.run(guarded_write(first))
    assert stage.run(guarded_write(second))
    with pytest.raises(LeaseLost):
        stage.run(first.renew())
    stage.run(first.release())  # of what it has no more
    stage.run(second.renew())


def test_a_silent_holder_is_waited_out_on_the_contenders_own_clock() -> None:
    stage = Stage()
    stage.run(LEASE.acquire(claim(1), DURATION))
    contender = stage.begin(LEASE.acquire(claim(2), DURATION))
    stage.finish(contender)
    assert contender.pauses >= DURATION * (1 + DRIFT_MARGIN)
    assert contender.pauses < 1.5 * DURATION


def test_a_holder_that_gives_signs_of_life_is_not_replaced() -> None:
    stage = Stage()
    held = stage.run(LEASE.acquire(claim(1), DURATION))
    contender = stage.begin(LEASE.acquire(claim(2), DURATION))
    renewed_at = 0.0
    while stage.now < 10 * DURATION:
        stage.step(contender)
        assert not contender.over
        if stage.now - renewed_at > 0.8 * DURATION:
            renewed_at = stage.now
            stage.run(held.renew())
    stage.run(held.release())
    assert stage.finish(contender).claim == claim(2)


def test_the_keeper_renews_through_an_outage_and_ends_when_the_lease_is_lost() -> None:
    stage = Stage()
    held = stage.run(LEASE.acquire(claim(1), DURATION))
    keeper = stage.begin(held.keep())
    for fate in (Fate.DONE, Fate.NOT_EXECUTED, Fate.DONE, Fate.UNKNOWN_NEVER, Fate.DONE):
        stage.step(keeper, fate)
    assert stage.run(LEASE.look()).renewals >= 1
    stage.run(held.release())
    while not keeper.over:
        stage.step(keeper)
    assert isinstance(keeper.error, LeaseLost)


def test_the_last_holder_lets_contenders_look_first() -> None:
    stage = Stage()
    held = stage.run(LEASE.acquire(claim(1, 1), DURATION))
    contender = stage.begin(LEASE.acquire(claim(2), DURATION))
    for _ in range(4):  # until it has announced itself
        stage.step(contender)
    stage.run(held.release())
    assert stage.run(LEASE.look()).waiting
    again = stage.begin(LEASE.acquire(claim(1, 2), DURATION))
    stage.step(again)
    assert isinstance(again.drive.step, Pause)
    assert stage.finish(contender).claim == claim(2)


def test_no_contender_waits_for_others_that_are_not_there() -> None:
    stage = Stage()
    for attempt in range(3):
        held = stage.run(LEASE.acquire(claim(1, attempt), DURATION))
        stage.run(held.release())
    assert stage.now == 0.0


@pytest.mark.parametrize("late", [Fate.UNKNOWN_LATE, Fate.UNKNOWN_DONE, Fate.UNKNOWN_NEVER])
def test_acquiring_again_with_the_same_claim_settles_an_unknown_outcome(late: Fate) -> None:
    stage = Stage()
    taking = stage.begin(LEASE.acquire(claim(1), DURATION))
    stage.step(taking)
    while not taking.over:
        stage.step(taking, late)
    assert isinstance(taking.error, OutcomeUnknown)
    held = stage.run(LEASE.acquire(claim(1), DURATION))
    assert held.fence == 1
    while stage.late:
        assert not stage.arrive(0).committed
    assert stage.run(guarded_write(held))


def test_an_unknown_outcome_is_not_taken_for_a_definite_failure() -> None:
    """One copy may be on its way, whatever the error of the next one says."""
    stage = Stage()
    taking = stage.begin(LEASE.acquire(claim(1), DURATION))
    stage.step(taking)
    stage.step(taking, Fate.UNKNOWN_LATE)
    stage.step(taking, Fate.NOT_EXECUTED)
    assert isinstance(taking.error, OutcomeUnknown)


def test_a_part_of_what_was_had_together_is_not_all_of_it() -> None:
    """Asked again after an unknown outcome, when one of them has passed on meanwhile."""
    stage = Stage(memory_nodes=2)
    taking = stage.begin(acquire_all(LEASES, claim(1), DURATION))
    stage.step(taking)
    while not taking.over:
        stage.step(taking, Fate.UNKNOWN_DONE)
    rival = stage.run(LEASES[1].acquire(claim(2), DURATION))
    again = stage.begin(acquire_all(LEASES, claim(1), DURATION))
    for _ in range(3):
        stage.step(again)
        assert not again.over
    stage.run(rival.release())
    for held in stage.finish(again):
        stage.run(held.renew())


def test_a_model_cluster_carries_it_out_and_can_keep_an_outcome_to_itself() -> None:
    async def main() -> None:
        async with ModelCluster() as cluster:
            silent = [2]

            def keep_to_itself(t: Minitransaction[Any], result: Result) -> None:
                if result.committed and not t.read_only and silent:
                    silent.pop()
                    raise OutcomeUnknown("as the test will have it", None)

            cluster.after_execute = keep_to_itself
            held = await cluster.run(LEASE.acquire(claim(1), DURATION))
            assert not silent
            assert held.fence == 1
            assert await cluster.run(guarded_write(held))
            with pytest.raises(TimedOut):
                await cluster.run(LEASE.acquire(claim(2), DURATION), timeout=0.02)

    anyio.run(main)


def test_limits_are_named() -> None:
    with pytest.raises(LimitExceeded, match="16 bytes"):
        Claim(b"x", 1)
    with pytest.raises(LimitExceeded, match="64 bits"):
        claim(1, 2**64)
    for duration in (0.0, 2 * DURATION_S_MAX):
        with pytest.raises(LimitExceeded, match="it lasts from"):
            Stage().run(LEASE.acquire(claim(1), duration))
    with pytest.raises(LimitExceeded, match="different leases"):
        Stage().run(acquire_all([LEASE, LEASE], claim(1), DURATION))


@given(st.binary(min_size=LEASE_BYTES, max_size=LEASE_BYTES))
def test_any_bytes_are_a_lease_that_ends(data: bytes) -> None:
    state = LeaseState.decode(data)
    assert 0 <= state.duration <= DURATION_S_MAX


# --- schedules -----------------------------------------------------------------------------------


@dataclass
class Record:
    """What actors were told."""

    holders: dict[tuple[Lease, int], Claim] = field(default_factory=dict)
    notes: list[tuple[int, int]] = field(default_factory=list)

    def note_held(self, held: Held) -> None:
        key = held.lease, held.fence
        assert self.holders.setdefault(key, held.claim) == held.claim, "two held one fence"


def life(stage: Stage, record: Record, wanted: Claim, leases: list[Lease]) -> Steps[None]:
    """Acquire, write under it, release; again whatever fails."""
    held: tuple[Held, ...] = ()
    while not held:
        try:
            held = yield from acquire_all(leases, wanted, DURATION)
        except (NotExecuted, OutcomeUnknown):
            continue
        # No step was taken since: this is the moment at which it was told.
    for each in held:
        record.note_held(each)
    for _ in range(2):
        try:
            yield from guarded_write(held[0])
        except (NotExecuted, OutcomeUnknown):
            continue
    for each in held:
        try:
            yield from each.release()
        except (NotExecuted, OutcomeUnknown):
            continue


LEASES = [Lease(NODE, 128), Lease(MemoryNodeId(1), 128), Lease(MemoryNodeId(1), 192)]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_one_at_a_time_under_every_schedule(data: st.DataObject) -> None:
    """Three lives want overlapping leases; steps, faults, deaths and late copies as they come."""
    stage = Stage(memory_nodes=2)
    record = Record()
    wanted = [LEASES[:1], LEASES[:2], [LEASES[0], LEASES[2]]]
    actors = [
        stage.begin(life(stage, record, claim(number + 1), leases))
        for number, leases in enumerate(wanted)
    ]
    fates = st.sampled_from((Fate.DONE, Fate.DONE, Fate.DONE, *FAULTS))
    last_fence = 0
    for _ in range(data.draw(st.integers(0, 60))):
        alive: list[Actor[None]] = [actor for actor in actors if not actor.over]
        choices = len(alive) + bool(stage.late)
        if not choices:
            break
        chosen = data.draw(st.integers(0, choices - 1))
        if chosen < len(alive):
            if data.draw(st.integers(0, 40)) == 0:
                stage.abandon(alive[chosen])
            else:
                stage.step(alive[chosen], data.draw(fates))
        else:
            stage.arrive(data.draw(st.integers(0, len(stage.late) - 1)))
        fence, _ = NOTE.unpack_from(stage.memory[NODE], GUARDED)
        assert fence >= last_fence, "a write of a holder that was replaced took effect"
        last_fence = fence
    for actor in actors:
        stage.abandon(actor)
    # In whatever state a holder died: all can be had again, and what is late changes nothing then.
    held = stage.run(acquire_all(LEASES, claim(99), DURATION))
    assert stage.run(guarded_write(held[0]))
    while stage.late:
        stage.arrive(0)
    assert NOTE.unpack_from(stage.memory[NODE], GUARDED)[0] == held[0].fence
    for each in held:
        assert stage.run(each.lease.look()).belongs_to(claim(99))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(list(Fate))), max_size=40))
def test_several_leases_are_had_at_one_moment_or_not_at_all(
    schedule: list[tuple[int, Fate]],
) -> None:
    stage = Stage(memory_nodes=2)
    wanted = [LEASES, LEASES[1:], LEASES[::2]]
    actors = [
        stage.begin(acquire_all(leases, claim(number + 1), DURATION))
        for number, leases in enumerate(wanted)
    ]
    for chosen, fate in schedule:
        if actors[chosen].over:
            continue
        stage.step(actors[chosen], fate)
        for number, actor in enumerate(actors):
            held = [stage.run(lease.look()).belongs_to(claim(number + 1)) for lease in LEASES]
            theirs = [
                has for lease, has in zip(LEASES, held, strict=True) if lease in wanted[number]
            ]
            assert not any(theirs) or all(theirs) or stage.now > DURATION
            if number == chosen and actor.over and actor.error is None:
                assert all(theirs)
