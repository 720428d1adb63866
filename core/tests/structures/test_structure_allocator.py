"""The allocator on a model: nothing is allocated twice or lost, whichever client dies when."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.steps import Steps, execute, minitransaction
from sinfonia.errors import LimitExceeded, NotExecuted, OutcomeUnknown
from sinfonia.structures import (
    Allocator,
    Arena,
    ArenaHeader,
    ArenaView,
    Claim,
    Intent,
    LeaseLost,
    NoSpace,
    NotAllocated,
    NotFormatted,
    Reservation,
    Run,
    open_arena,
)
from sinfonia.structures.arena_layout import find_run
from sinfonia.structures.settling import execute_until_known
from sinfonia.testing.stepwise import FAULTS, Actor, Fate, Stage

NODE = MemoryNodeId(0)
DURATION = 1.0
BLOCKS = 150  # two words and a part

# Where blocks are linked from: words that hold the first block of a run and its length, plus one.
LINKS = 32 * 1024
LINK_BYTES = 8


def arena(number: int = 0, *, blocks: int = BLOCKS, intents: int = 4) -> Arena:
    header = ArenaHeader(blocks, 512, data=1 << 20, intents=intents)
    return Arena(NODE, 1024 + number * 1024, header)


def claim(number: int, attempt: int = 1) -> Claim:
    return Claim(number.to_bytes(16, "little"), attempt)


def reserved(stage: Stage, number: int = 1, **sizes: int) -> Reservation:
    its = arena(**sizes)
    stage.run(its.format())
    return stage.run(Allocator([its]).reserve(claim(number), DURATION))


def link_word(run: Run) -> bytes:
    return (run.first << 16 | run.blocks).to_bytes(LINK_BYTES, "little")


def linked(its: Arena, intent: Intent, place: int) -> Steps[bool]:
    """Link the blocks of ``intent`` at a place of which nothing is known."""
    while True:
        t = minitransaction()
        t.read(NODE, place, LINK_BYTES)
        [old] = (yield from execute_until_known(t)).reads
        if any(old):
            return False
        t = minitransaction()
        t.compare(NODE, place, old)
        t.write(NODE, place, link_word(intent.run))
        guard = its.link(t, intent)
        result = yield from execute_until_known(t)
        if result.committed or not guard.holds(result):
            return result.committed


def unlinked(its: Arena, place: int) -> Steps[bool]:
    """Free what is linked at ``place``."""
    t = minitransaction()
    t.read(NODE, place, LINK_BYTES)
    [old] = (yield from execute_until_known(t)).reads
    if not any(old):
        return False
    word = int.from_bytes(old, "little")
    t = minitransaction()
    t.compare(NODE, place, old)
    t.write(NODE, place, bytes(LINK_BYTES))
    guard = its.give_back(t, Run(word >> 16, word & 0xFFFF))
    result = yield from execute_until_known(t)
    # A copy that fails finds the link gone, never the blocks free under it.
    assert guard.holds(result) or result.failed_compares[0].address == place
    return result.committed


def links(stage: Stage, places: int) -> Iterator[Run]:
    for place in range(LINKS, LINKS + places * LINK_BYTES, LINK_BYTES):
        word = int.from_bytes(stage.memory[NODE][place : place + LINK_BYTES], "little")
        if word:
            yield Run(word >> 16, word & 0xFFFF)


def used_blocks(view: ArenaView) -> int:
    return view.used & ((1 << view.header.blocks) - 1)


@given(st.integers(0, 2**70 - 1), st.integers(1, 70), st.integers(0, 69))
def test_the_first_run_that_is_free(used: int, blocks: int, start: int) -> None:
    fits = [first for first in range(70 - blocks + 1) if not used >> first & ((1 << blocks) - 1)]
    expected = min((first for first in fits if first >= start), default=min(fits, default=None))
    found = find_run(used, 70, blocks, start)
    assert (found and found.first) == expected


@given(st.integers(0, 300), st.integers(1, 300))
def test_the_words_of_a_run_are_its_bits(first: int, blocks: int) -> None:
    run = Run(first, blocks)
    words = run.words()
    assert sum(mask << 64 * word for word, mask in words) == run.bits
    assert all(0 < mask < 2**64 for _, mask in words)


def test_formatting_twice_is_formatting_once() -> None:
    stage = Stage()
    its = arena()
    assert stage.run(its.format())
    reservation = stage.run(Allocator([its]).reserve(claim(1), DURATION))
    stage.run(reservation.allocate(3, attempt=1))
    assert not stage.run(its.format())
    assert stage.run(its.look()).outstanding()
    assert stage.run(open_arena(NODE, its.address)) == its


def test_what_is_no_arena_is_not_taken_for_one() -> None:
    stage = Stage()
    with pytest.raises(NotFormatted):
        stage.run(open_arena(NODE, 1024))
    with pytest.raises(NotFormatted):
        stage.run(arena().look())
    stage.memory[NODE][1030] = 7
    with pytest.raises(NotFormatted, match="something else"):
        stage.run(arena().format())
    with pytest.raises(LimitExceeded, match="no arena"):
        arena(blocks=0)


def test_an_arena_with_nonsense_in_it_is_refused_not_believed() -> None:
    stage = Stage()
    its = arena()
    stage.run(its.format())
    place = its.address + its.header.intents_offset
    stage.memory[NODE][place : place + 64] = b"\xff" * 64
    with pytest.raises(NotFormatted, match="does not have"):
        stage.run(its.look())


@pytest.mark.parametrize("blocks", [1, 63, 64, 65, 128, BLOCKS])
def test_blocks_come_and_go(blocks: int) -> None:
    stage = Stage()
    reservation = reserved(stage)
    its = reservation.arena
    intent = stage.run(reservation.allocate(blocks, attempt=1))
    view = stage.run(its.look())
    assert used_blocks(view) == intent.run.bits
    assert view.free_blocks == BLOCKS - blocks
    assert stage.run(linked(its, intent, LINKS))
    assert not stage.run(its.look()).outstanding()
    assert stage.run(unlinked(its, LINKS))
    assert stage.run(its.look()).free_blocks == BLOCKS
    assert its.run_at(its.address_of(intent.run), blocks) == intent.run


def test_what_is_free_cannot_be_freed() -> None:
    stage = Stage()
    reservation = reserved(stage)
    its = reservation.arena
    intent = stage.run(reservation.allocate(100, attempt=1))
    stage.run(linked(its, intent, LINKS))
    stage.run(its.free(Run(0, 70)))
    for run in (Run(0, 1), Run(69, 2), Run(0, 100), Run(148, 2)):
        with pytest.raises(NotAllocated, match="are free already"):
            stage.run(its.free(run))
    with pytest.raises(LimitExceeded, match="150 blocks"):
        stage.run(its.free(Run(149, 2)))
    assert used_blocks(stage.run(its.look())) == Run(70, 30).bits


def test_neighbours_in_a_word_do_not_refuse_each_other() -> None:
    """One frees while another allocates: neither has to look again."""
    stage = Stage()
    reservation = reserved(stage)
    its = reservation.arena
    intent = stage.run(reservation.allocate(4, attempt=1))
    stage.run(linked(its, intent, LINKS))
    view = stage.run(its.look())
    planned = reservation.plan(view, 4, attempt=2)
    assert planned is not None
    stage.run(its.free(Run(1, 2)))
    t = minitransaction()
    reservation.add(t, planned)
    assert stage.run(execute(t)).committed
    assert used_blocks(stage.run(its.look())) == Run(0, 1).bits | Run(3, 5).bits


def test_allocating_and_linking_in_one_minitransaction_leaves_no_intent() -> None:
    stage = Stage()
    reservation = reserved(stage)
    run = stage.run(reservation.arena.look()).find(5)
    assert run is not None
    t = minitransaction()
    t.compare(NODE, LINKS, bytes(LINK_BYTES))
    t.write(NODE, LINKS, link_word(run))
    guard = reservation.take(t, run)
    assert stage.run(execute(t)).committed
    result = stage.run(execute(t))
    assert not guard.holds(result)
    view = stage.run(reservation.arena.look())
    assert not view.outstanding()
    assert used_blocks(view) == run.bits


def test_the_same_attempt_gives_the_same_blocks() -> None:
    stage = Stage()
    reservation = reserved(stage)
    once = stage.begin(reservation.allocate(3, attempt=7))
    stage.step(once)
    for _ in range(3):
        stage.step(once, Fate.UNKNOWN_LATE)
    assert isinstance(once.error, OutcomeUnknown)
    assert stage.arrive(0).committed
    again = stage.run(reservation.allocate(3, attempt=7))
    assert again.run == Run(0, 3)
    assert stage.run(reservation.allocate(3, attempt=8)).run == Run(3, 3)
    while stage.late:
        assert not stage.arrive(0).committed


def test_a_copy_that_is_late_allocates_nothing_when_all_is_over() -> None:
    stage = Stage()
    reservation = reserved(stage)
    its = reservation.arena
    allocating = stage.begin(reservation.allocate(3, attempt=7))
    stage.step(allocating)
    stage.step(allocating, Fate.UNKNOWN_LATE)
    assert stage.run(linked(its, stage.finish(allocating), LINKS))
    assert stage.run(unlinked(its, LINKS))
    assert not stage.arrive(0).committed
    assert stage.run(its.look()).free_blocks == BLOCKS


def test_there_is_no_room_for_more_than_there_is() -> None:
    stage = Stage()
    reservation = reserved(stage)
    with pytest.raises(NoSpace, match="in a row"):
        stage.run(reservation.allocate(BLOCKS + 1, attempt=1))
    for attempt in range(4):
        stage.run(reservation.allocate(1, attempt))
    with pytest.raises(NoSpace, match="linked from nowhere"):
        stage.run(reservation.allocate(1, attempt=9))


def test_a_slow_owner_allocates_nothing_and_links_nothing_when_its_arena_has_passed_on() -> None:
    stage = Stage()
    slow = reserved(stage)
    its = slow.arena
    intent = stage.run(slow.allocate(3, attempt=1))
    allocating = stage.begin(slow.allocate(3, attempt=2))
    stage.step(allocating)
    reservation = stage.run(Allocator([its]).reserve(claim(2), DURATION))
    assert stage.run(its.look()).free_blocks == BLOCKS, "what is dead was swept"
    with pytest.raises(LeaseLost):
        stage.finish(allocating)
    mine = stage.run(reservation.allocate(3, attempt=1))
    assert mine.run == intent.run
    assert not stage.run(linked(its, intent, LINKS))
    assert not stage.run(its.abandon(intent))
    assert stage.run(linked(its, mine, LINKS))


def test_a_sweep_leaves_what_a_living_owner_has_not_linked_yet() -> None:
    stage = Stage()
    reservation = reserved(stage)
    intent = stage.run(reservation.allocate(3, attempt=1))
    assert stage.run(Allocator([reservation.arena]).sweep()) == []
    stage.run(reservation.held.release())
    assert stage.run(Allocator([reservation.arena]).sweep()) == [intent]


def test_clients_get_arenas_of_their_own_until_there_are_none() -> None:
    stage = Stage(capacity=1 << 17)
    arenas = [arena(number) for number in range(3)]
    for each in arenas:
        stage.run(each.format())
    allocator = Allocator(arenas)
    mine = [stage.run(allocator.reserve(claim(number), DURATION)) for number in range(1, 4)]
    assert len({each.arena for each in mine}) == 3
    assert stage.now == 0.0, "no client had to wait"
    assert stage.run(allocator.reserve(claim(1), DURATION)) == mine[0]
    # The first that is silent for too long loses its arena.
    late = stage.begin(allocator.reserve(claim(4), DURATION))
    while stage.now < 0.7 * DURATION:
        stage.step(late)
    for other in mine[1:]:
        stage.run(other.held.renew())
    assert stage.finish(late).arena == mine[0].arena


def test_a_client_that_needs_more_than_is_left_gets_a_further_arena() -> None:
    stage = Stage(capacity=1 << 17)
    arenas = [arena(number) for number in range(2)]
    for each in arenas:
        stage.run(each.format())
    allocator = Allocator(arenas)
    found = []
    for attempt in range(2):
        reservation = stage.run(allocator.reserve(claim(1), DURATION, blocks=100))
        intent = stage.run(reservation.allocate(100, attempt))
        stage.run(linked(reservation.arena, intent, LINKS + attempt * LINK_BYTES))
        found.append(reservation.arena)
    assert set(found) == set(arenas)
    with pytest.raises(NoSpace, match="any of 2 arenas"):
        stage.run(allocator.reserve(claim(1), DURATION, blocks=100))


@pytest.mark.parametrize("unknown", [Fate.DONE, Fate.UNKNOWN_DONE])
def test_whatever_step_an_owner_dies_after_nothing_is_lost(unknown: Fate) -> None:
    """Every step of allocating, linking and freeing; the last one perhaps without an answer."""

    def life(its: Arena) -> Steps[None]:
        reservation = yield from Allocator([its]).reserve(claim(1), DURATION)
        for attempt in (1, 2):
            intent = yield from reservation.allocate(70, attempt)
            yield from linked(its, intent, LINKS + attempt * LINK_BYTES)
        yield from unlinked(its, LINKS + LINK_BYTES)
        yield from its.abandon((yield from reservation.allocate(3, attempt=3)))
        yield from reservation.held.release()

    steps = 0
    over = False
    while not over:
        stage = Stage()
        its = arena()
        stage.run(its.format())
        owner = stage.begin(life(its))
        for _ in range(steps):
            stage.step(owner)
        over = owner.over
        if not over:
            stage.step(owner, unknown)
        stage.run(Allocator([its]).reserve(claim(2), DURATION))
        view = stage.run(its.look())
        assert not view.outstanding()
        assert used_blocks(view) == sum(run.bits for run in links(stage, PLACES))
        steps += 1
    assert steps > 15


# --- schedules -----------------------------------------------------------------------------------

PLACES = 6


@dataclass
class Told:
    """What programs know for certain; ``doubtful`` places have seen an unknown outcome."""

    doubtful: set[int] = field(default_factory=set)
    content: dict[int, Run] = field(default_factory=dict)


def program(its: Arena, number: int, told: Told, chance: random.Random) -> Steps[None]:
    """Reserve; then allocate, link, abandon, unlink; one program has the places of its own."""
    attempt = 0
    while True:
        try:
            reservation = yield from Allocator([its]).reserve(claim(number, attempt), DURATION)
            for _ in range(3):
                attempt += 1
                yield from _allocate_somewhere(reservation, number, attempt, told, chance)
            yield from reservation.held.release()
        except (NotExecuted, OutcomeUnknown, LeaseLost, NoSpace):
            attempt += 1
        if attempt > 8:
            return


def _allocate_somewhere(
    reservation: Reservation, number: int, attempt: int, told: Told, chance: random.Random
) -> Steps[None]:
    place = LINKS + (number * 2 - 2 + chance.randrange(2)) * LINK_BYTES
    its = reservation.arena
    told.doubtful.add(place)
    yield from unlinked(its, place)
    told.content.pop(place, None)
    told.doubtful.discard(place)
    intent = yield from reservation.allocate(chance.choice((1, 2, 40)), attempt)
    if chance.random() < 0.2:
        yield from its.abandon(intent)
        return
    told.doubtful.add(place)
    if (yield from linked(its, intent, place)):
        told.content[place] = intent.run
        told.doubtful.discard(place)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_nothing_is_lost_and_nothing_twice_whichever_client_dies_when(data: st.DataObject) -> None:
    """Steps, faults, deaths and late copies as they come; then one sweep puts all in order."""
    stage = Stage()
    its = arena(blocks=70)
    stage.run(its.format())
    told = Told()
    chance = random.Random(data.draw(st.integers(0, 1000)))
    actors = [stage.begin(program(its, number, told, chance)) for number in range(1, 4)]
    fates = st.sampled_from((*[Fate.DONE] * 6, *FAULTS))
    for _ in range(data.draw(st.integers(0, 80))):
        alive: list[Actor[None]] = [actor for actor in actors if not actor.over]
        choices = len(alive) + bool(stage.late)
        if not choices:
            break
        chosen = data.draw(st.integers(0, choices - 1))
        if chosen < len(alive):
            if data.draw(st.integers(0, 60)) == 0:
                stage.abandon(alive[chosen])
            else:
                stage.step(alive[chosen], data.draw(fates))
        else:
            stage.arrive(data.draw(st.integers(0, len(stage.late) - 1)))
        _check_disjoint(stage, its)
    for actor in actors:
        assert actor.error is None
        stage.abandon(actor)
    reservation = stage.run(Allocator([its]).reserve(claim(99), DURATION))
    while stage.late:
        stage.arrive(0)
    stage.run(its.sweep())
    _check_disjoint(stage, its)
    view = stage.run(reservation.arena.look())
    assert not view.outstanding()
    assert used_blocks(view) == sum(run.bits for run in links(stage, PLACES)), "blocks were lost"
    for place, run in told.content.items():
        if place not in told.doubtful:
            assert bytes(stage.memory[NODE][place : place + LINK_BYTES]) == link_word(run)


def _check_disjoint(stage: Stage, its: Arena) -> None:
    view = stage.run(its.look())
    runs = [*links(stage, PLACES), *(intent.run for intent in view.outstanding())]
    bits = 0
    for run in runs:
        assert not bits & run.bits, "blocks were given to two"
        bits |= run.bits
    assert bits == used_blocks(view), "the bitmap is not what is linked or meant to be"
