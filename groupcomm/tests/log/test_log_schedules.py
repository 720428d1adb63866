"""Writers of one log, step by step in every order and under every fault, judged by the checker.

Steps fail or are lost, minitransactions come late, turns are cancelled, programs crash and take up
what they had, claims are ended under live programs, riders on another memory node hold or do not,
and the ring and the areas are so small that they wrap all the time.
"""

import random
import zlib
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groupcomm.checking.check import check
from groupcomm.checking.history import (
    Acknowledged,
    AnyEvent,
    Delivered,
    Ended,
    Position,
    Refused,
    Sent,
    Settled,
)
from groupcomm.errors import Expelled, WritersTaken
from groupcomm.log.comb import Comb
from groupcomm.log.creation import create_log
from groupcomm.log.layout import Log, Shape
from groupcomm.log.limits import LogLimits
from groupcomm.log.posting import Rider
from groupcomm.log.turns import Turn
from groupcomm.log.writers import Claim, LogState, claim, look, release
from sinfonia import MemoryNodeId, Minitransaction, NotExecuted, OutcomeUnknown, Result
from sinfonia.structures import Trimmed
from sinfonia.testing.stepwise import FAULTS, Actor, Fate, Stage

PROGRAMS = 3

# Where riders have their effects, on another memory node than the log.
RIDERS = MemoryNodeId(1)

# A claim that came late has no program; there must be records left.
WRITERS = PROGRAMS + 6

# So small that one message is uploaded, and fetched, in several turns.
LIMITS = LogLimits(batch_parts=5, upload_bytes=90, fetch_bytes=70, held=5, read_only_turns=2)

SIZES = (0, 1, 20, 60, 150, 300)

# More steps than a program needs for each part that is posted, uploads and full logs included.
STEPS_FOR_PART_MAX = 60


class Forgetful(Stage):
    """A cluster that tells nothing of its reads if one of several memory nodes refuses, as a real
    one may: it does not wait for the others."""

    def execute(self, minitransaction: Minitransaction[Any]) -> Result:
        result = super().execute(minitransaction)
        if not result.committed and len(minitransaction.items) > 1:
            return msgspec.structs.replace(result, reads=())
        return result


@dataclass
class Program:
    """A program with a claim, or one that tries to get one; ``life`` names it in the history."""

    owner: bytes
    claiming: Actor[Claim | Trimmed] | None = None
    comb: Comb | None = None
    turn: Actor[Turn] | None = None
    life: str = ""
    posted: int = 0


@dataclass
class World:
    """A log, its programs, and what they tell."""

    log: Log
    stage: Stage = field(default_factory=lambda: Forgetful(memory_nodes=2))
    rides: list[tuple[str, int]] = field(default_factory=list)
    events: list[AnyEvent] = field(default_factory=list)
    programs: list[Program] = field(default_factory=list)
    moment: float = 0.0
    owners: int = 0

    def __post_init__(self) -> None:
        self.stage.run(create_log(self.log))
        self.programs = [Program(self.new_owner()) for _ in range(PROGRAMS)]

    def new_owner(self) -> bytes:
        self.owners += 1
        return self.owners.to_bytes(16, "little")

    def now(self) -> float:
        self.moment += 1
        return self.moment

    def ride(self, program: Program, size: int) -> None:
        """Post a part that is ordered only if the switch is as it is now, and then is counted."""
        switch = bytes(self.stage.memory[RIDERS][:1])
        number = len(self.rides)

        def rider(t: Minitransaction[Any]) -> None:
            t.compare(RIDERS, 0, switch)
            t.add(RIDERS, 8 + 8 * number, 1)

        if program.comb is not None:
            self.rides.append((program.life, program.posted))
            self.post(program, size, rider)

    def flip(self) -> None:
        """Change the switch, so that riders do not hold, or hold again."""
        self.stage.memory[RIDERS][0] ^= 1

    def post(self, program: Program, size: int, rider: Rider | None = None) -> None:
        if program.comb is None:
            return
        payload = b"%d of %s " % (program.posted, program.life.encode())
        payload += bytes(max(0, size - len(payload)))
        number = program.comb.post(payload, program.posted // 3 % 2, rider)
        assert number == program.posted
        program.posted += 1
        self.events.append(
            Sent(at=self.now(), member=program.life, number=number, checksum=zlib.crc32(payload))
        )

    def step(self, program: Program, fate: Fate = Fate.DONE) -> None:
        """Let the program take its next step, of its claim or of a turn."""
        if program.comb is None:
            self._step_claim(program, fate)
            return
        if program.turn is None:
            program.turn = self.stage.begin(program.comb.turn())
        else:
            self.stage.step(program.turn, fate)
        actor = program.turn
        if not actor.over:
            return
        program.turn = None
        try:
            self._tell(program, actor.value)
        except (NotExecuted, OutcomeUnknown):
            pass
        except Expelled as error:
            self._tell_expelled(program, error)
        if program.comb is not None:
            program.comb.check_invariants()

    def cancel(self, program: Program, fate: Fate) -> None:
        """The program stops waiting for its turn in the middle, and will take another."""
        actor, program.turn = program.turn, None
        if actor is None:
            return
        step = actor.drive.step
        if fate is Fate.DONE or fate is Fate.UNKNOWN_DONE:
            assert isinstance(step, Minitransaction)
            self.stage.execute(step)
        elif fate is Fate.UNKNOWN_LATE:
            assert isinstance(step, Minitransaction)
            self.stage.late.append(step)
        actor.drive.close()
        assert program.comb is not None
        program.comb.check_invariants()

    def crash(self, program: Program) -> None:
        """The program comes back under its name, with its cursor, and knows nothing else."""
        self._end(program)

    def expel(self, program: Program, fate: Fate) -> None:
        """Another program ends the claim of this one, which is alive."""
        if program.comb is not None:
            comb = program.comb
            actor = self.stage.begin(release(self.log, comb.writer, comb.record.generation))
            while not actor.over:
                self.stage.step(actor, fate)

    def arrive(self, index: int) -> None:
        """A minitransaction that was late is executed now."""
        if self.stage.late:
            self.stage.arrive(index % len(self.stage.late))

    def heal(self) -> None:
        """All faults end, programs finish, and those without a program lose their claims."""
        while self.stage.late:
            self.stage.arrive(0)
        posted = sum(p.comb.posted for p in self.programs if p.comb is not None)
        for _ in range(STEPS_FOR_PART_MAX * (posted + 1)):
            for program in self.programs:
                if not self._at_rest(program):
                    self.step(program)
            self._release_stale()
            if all(self._at_rest(program) for program in self.programs):
                break
        else:
            raise AssertionError("programs do not come to rest")
        for program in self.programs:
            self.events.append(Settled(at=self.now(), member=program.life))

    def _at_rest(self, program: Program) -> bool:
        tail = self.stage.run(look(self.log)).tail
        comb = program.comb
        return comb is not None and program.turn is None and not comb.due and comb.position == tail

    def _release_stale(self) -> None:
        alive = {
            (program.comb.writer, program.comb.record.generation)
            for program in self.programs
            if program.comb is not None
        }
        claiming = {program.owner for program in self.programs if program.comb is None}
        state: LogState = self.stage.run(look(self.log))
        for writer, record in enumerate(state.records):
            if (
                record.claimed
                and (writer, record.generation) not in alive
                and record.owner not in claiming
            ):
                self.stage.run(release(self.log, writer, record.generation))

    def _step_claim(self, program: Program, fate: Fate) -> None:
        if program.claiming is None:
            program.claiming = self.stage.begin(claim(self.log, program.owner))
        else:
            self.stage.step(program.claiming, fate)
        actor = program.claiming
        if not actor.over:
            return
        program.claiming = None
        try:
            found = actor.value
        except (NotExecuted, OutcomeUnknown, WritersTaken):
            return
        assert isinstance(found, Claim), "a cursor at the tail is not trimmed"
        program.comb = Comb(self.log, found, lambda: 1, LIMITS)
        program.life = f"{found.writer}/{found.record.generation}"
        program.posted = 0

    def _end(self, program: Program) -> None:
        if program.turn is not None:
            self.stage.abandon(program.turn)
        if program.comb is not None:
            self.events.append(Ended(at=self.now(), member=program.life))
        program.comb = program.turn = program.claiming = None

    def _tell(self, program: Program, turn: Turn) -> None:
        for ordered in turn.ordered:
            assert ordered.position is not None
            for part, number in enumerate(ordered.tickets):
                self.events.append(
                    Acknowledged(
                        at=self.now(),
                        member=program.life,
                        number=number,
                        position=Position(ordered.position, part),
                    )
                )
        for refusal in turn.refused:
            self.events.append(Refused(at=self.now(), member=program.life, number=refusal.ticket))
        for entry in turn.entries:
            for part, payload in enumerate(entry.parts):
                ticket, _, sender, *_ = payload.decode().split(" ")
                assert sender == f"{entry.writer}/{entry.generation}"
                self.events.append(
                    Delivered(
                        at=self.now(),
                        member=program.life,
                        sender=sender,
                        number=int(ticket),
                        position=Position(entry.position, part),
                        checksum=zlib.crc32(payload),
                    )
                )

    def _tell_expelled(self, program: Program, error: Expelled) -> None:
        told = {
            event.number
            for event in self.events
            if isinstance(event, Acknowledged | Refused) and event.member == program.life
        }
        assert not told & {*error.appended, *error.in_doubt}, "a part is settled twice"
        told |= {*error.appended, *error.in_doubt}
        for number in set(range(program.posted)) - told:
            self.events.append(Refused(at=self.now(), member=program.life, number=number))
        self._end(program)
        program.owner = self.new_owner()


def judge(world: World) -> None:
    violations = check(world.events)
    assert violations == [], "\n".join(map(str, violations))
    delivered = {(e.sender, e.number) for e in world.events if isinstance(e, Delivered)}
    ordered = {(e.member, e.number) for e in world.events if isinstance(e, Acknowledged)}
    refused = {(e.member, e.number) for e in world.events if isinstance(e, Refused)}
    settled = {e.member for e in world.events if isinstance(e, Settled)}
    for index, ride in enumerate(world.rides):
        at = 8 + 8 * index
        count = int.from_bytes(world.stage.memory[RIDERS][at : at + 8], "little")
        assert count <= 1, "a rider took effect twice"
        assert count == 1 or ride not in delivered | ordered, "a part without its rider"
        assert count == 0 or ride not in refused, "a rider without its part"
        assert ride in ordered | refused or ride[0] not in settled


shapes = st.builds(
    Shape,
    slots=st.integers(1, 7),
    slot_bytes=st.just(128),
    writers=st.just(WRITERS),
    area_bytes=st.sampled_from((320, 333, 700)),
)
programs = st.integers(0, PROGRAMS - 1)
fates = st.sampled_from((*[Fate.DONE] * 12, *FAULTS))
acts = st.one_of(
    *[st.tuples(st.just("step"), programs, fates)] * 6,
    *[st.tuples(st.just("post"), programs, st.sampled_from(SIZES))] * 3,
    st.tuples(st.just("ride"), programs, st.sampled_from(SIZES)),
    st.tuples(st.just("flip"), st.just(0), st.none()),
    st.tuples(st.just("arrive"), st.integers(0, 5), st.none()),
    st.tuples(st.just("crash"), programs, st.none()),
    st.tuples(st.just("cancel"), programs, st.sampled_from(Fate)),
    st.tuples(st.just("expel"), programs, fates),
)


def carry_out(world: World, act: str, number: int, detail: object) -> None:
    if act == "arrive":
        world.arrive(number)
        return
    if act == "flip":
        world.flip()
        return
    program = world.programs[number]
    if act == "step":
        assert isinstance(detail, Fate)
        world.step(program, detail)
    elif act in ("post", "ride"):
        assert isinstance(detail, int)
        (world.post if act == "post" else world.ride)(program, detail)
    elif act == "crash":
        world.crash(program)
    elif act == "cancel":
        assert isinstance(detail, Fate)
        world.cancel(program, detail)
    else:
        assert isinstance(detail, Fate)
        world.expel(program, detail)


@settings(max_examples=150, deadline=None)
@given(shapes, st.lists(acts, max_size=150))
def test_no_schedule_breaks_a_promise(
    shape: Shape, schedule: list[tuple[str, int, object]]
) -> None:
    world = World(Log(0, 64, shape))
    for each in schedule:
        carry_out(world, *each)
    world.heal()
    judge(world)


def random_world(seed: int, steps: int) -> World:
    rng = random.Random(seed)
    shape = Shape(rng.randint(1, 9), 128, WRITERS, rng.choice((320, 333, 700)))
    world = World(Log(0, 64, shape))
    faults = rng.choice((0.0, 0.05, 0.3))
    upsets = rng.choice((0.0, 0.01))
    for _ in range(steps):
        program, chance = rng.choice(world.programs), rng.random()
        if chance < upsets:
            rng.choice((world.crash, lambda p: world.expel(p, Fate.DONE)))(program)
        elif chance < 0.25:
            world.post(program, rng.choice(SIZES))
        elif chance < 0.3:
            world.ride(program, rng.choice(SIZES))
        elif chance < 0.31:
            world.flip()
        elif chance < 0.31 + faults / 10:
            world.cancel(program, rng.choice(list(Fate)))
        elif chance < 0.37:
            world.arrive(rng.randrange(1000))
        else:
            world.step(program, rng.choice(FAULTS) if rng.random() < faults else Fate.DONE)
    world.heal()
    return world


@pytest.mark.parametrize(
    "seed", [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 40))]
)
def test_a_long_run_keeps_all_promises(seed: int) -> None:
    world = random_world(seed, 1500)
    judge(world)


@pytest.mark.slow
def test_long_runs_meet_what_is_rare() -> None:
    """Full rings, areas that wrap, uploads in several turns, lost answers, ended claims."""
    delivered = wrapped = ended = refused = 0
    for seed in range(6):
        world = random_world(seed, 1500)
        state = world.stage.run(look(world.log))
        delivered += sum(isinstance(event, Delivered) for event in world.events)
        ended += sum(isinstance(event, Ended) for event in world.events)
        refused += sum(isinstance(event, Refused) for event in world.events)
        wrapped += state.tail > 5 * world.log.shape.slots
        wrapped += any(r.head > 3 * world.log.shape.area_bytes for r in state.records)
    assert delivered > 1000
    assert wrapped > 6
    assert ended > 3
    assert refused > 0
