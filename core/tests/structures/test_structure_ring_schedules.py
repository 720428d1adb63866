"""Writers, readers and trimmers of one ring, step by step in every order and under every fault.

No record is lost, doubled, reordered or mistaken for another, and each takes effect once.
"""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.steps import Steps, execute, minitransaction, pause
from sinfonia.errors import NotExecuted, OutcomeUnknown
from sinfonia.simulation.client import SimulatedClient
from sinfonia.simulation.workloads.steps import PlainPrograms, simulated_steps
from sinfonia.structures import (
    ClientTable,
    Cursor,
    Full,
    Records,
    Ring,
    Stamped,
    Trimmed,
    Writer,
    trim_behind,
)
from sinfonia.structures.client_table import Lane
from sinfonia.testing.stepwise import FAULTS, Actor, Fate, Stage

NODE = MemoryNodeId(0)
RING = Ring(NODE, 16 * 1024, slots=5, slot_bytes=64)
TABLE = ClientTable(NODE, 1024, slots=64)

# The second cursor is on another memory node: to go on with it takes two rounds.
CURSORS = (Cursor(NODE, 256), Cursor(MemoryNodeId(1), 264))

# Readers count each record here, one byte each.
EFFECTS = (32 * 1024, 33 * 1024)

RECORDS = 3
ROUNDS = 12

Asked = tuple[Lane, int]


class Witness:
    """What clients saw; it believes no client."""

    def __init__(self) -> None:
        self.moment = 0
        self.seen: dict[int, bytes] = {}
        self.asked: dict[Asked, int] = {}
        self.told: dict[Asked, tuple[int, int]] = {}
        self.trimmed: set[Asked] = set()

    def ask(self, record: Asked) -> None:
        self.moment += 1
        self.asked.setdefault(record, self.moment)

    def tell(self, record: Asked, position: int | Trimmed) -> None:
        self.moment += 1
        if isinstance(position, Trimmed):
            self.trimmed.add(record)
        else:
            self.told[record] = (position, self.moment)

    def see(self, found: Records) -> None:
        for position, payload in enumerate(found.payloads, found.first):
            assert self.seen.setdefault(position, payload) == payload, "another record"

    def judge(self, tail: int, at_rest: bool) -> None:
        """``tail``: of the ring, all of which has been seen."""
        assert sorted(self.seen) == list(range(tail)), "a record was lost"
        stamps = [Stamped.decode(self.seen[position]) for position in range(tail)]
        order = [(stamp.lane, stamp.sequence) for stamp in stamps]
        assert max(Counter(order).values(), default=1) == 1, "a record was doubled"
        assert all(stamp.body == body(*each) for stamp, each in zip(stamps, order, strict=True))
        assert set(order) <= set(self.asked)
        for record, (position, _) in self.told.items():
            assert order[position] == record, "a writer was told another position"
        assert self.trimmed <= set(order)
        for lane in {lane for lane, _ in order}:
            numbers = [sequence for each, sequence in order if each == lane]
            assert numbers == list(range(1, len(numbers) + 1)), "records of one writer in disorder"
        # What began after another was told comes after it.
        for position, record in enumerate(order):
            later = [self.told[each][1] for each in order[position + 1 :] if each in self.told]
            assert min(later, default=self.moment) >= self.asked[record], "a record came too early"
        if at_rest:
            assert set(order) == set(self.told) | self.trimmed


def body(lane: Lane, sequence: int) -> bytes:
    return b"%d of %d" % (sequence, lane.slot)


def setup() -> Steps[None]:
    yield from RING.create()


def writer(client: int, witness: Witness, tries: int = 1000) -> Steps[None]:
    """Append records one after the other, each until it is known where it is."""
    lanes: tuple[Lane, ...] = ()
    while not lanes:
        try:
            lanes = yield from TABLE.register(client.to_bytes(16, "little"))
        except (NotExecuted, OutcomeUnknown):
            yield from pause(0.01)
    made = Writer(RING, TABLE, lanes[0])
    last = 0
    for sequence in range(1, RECORDS + 1):
        record = (lanes[0], sequence)
        witness.ask(record)
        position: int | Full | Trimmed = Full()
        while isinstance(position, Full):
            try:
                position = yield from made.append(sequence, body(*record), after=last)
            except (NotExecuted, OutcomeUnknown):
                position = Full()
            if isinstance(position, Full):
                tries -= 1
                if tries == 0:
                    return
                yield from pause(0.01)
        witness.tell(record, position)
        last = position.first if isinstance(position, Trimmed) else position


def consumer(number: int, count: int, witness: Witness, rounds: int = ROUNDS) -> Steps[None]:
    """Let each record count once, go on with the cursor, and trim."""
    cursor = CURSORS[number]
    for _ in range(rounds):
        try:
            position = yield from cursor.position()
            found = yield from RING.read(position, count)
            if isinstance(found, Trimmed):
                moved = yield from cursor.position()
                assert moved >= found.first, "trimmed under the eyes of a reader"
                continue
            witness.see(found)
            if found.payloads:
                t = minitransaction()
                cursor.add_advance(t, found.first, found.next)
                for each in range(found.first, found.next):
                    t.add(NODE, EFFECTS[number] + each, 1, width=1)
                yield from execute(t)
            yield from trim_behind(RING, CURSORS)
        except (NotExecuted, OutcomeUnknown):
            pass
        yield from pause(0.01)


def reader(witness: Witness, rounds: int = ROUNDS) -> Steps[None]:
    """Follow by itself; it may be overtaken, and then knows."""
    position = 0
    for _ in range(rounds):
        try:
            found = yield from RING.read(position, 4)
        except (NotExecuted, OutcomeUnknown):
            continue
        if isinstance(found, Trimmed):
            assert found.first > position
            position = found.first
        else:
            witness.see(found)
            position = found.next
        yield from pause(0.01)


def drain(witness: Witness) -> Steps[int]:
    """See the rest; returns the tail."""
    positions = []
    for number, cursor in enumerate(CURSORS):
        positions.append((yield from cursor.position()))
        t = minitransaction()
        t.read(NODE, EFFECTS[number], 256)
        effects = (yield from execute(t)).reads[0]
        done = positions[number]
        assert effects == (b"\1" * done).ljust(256, b"\0"), "a record had no effect, or two"
    found = yield from RING.read(min(positions), RING.slots)
    assert isinstance(found, Records)
    witness.see(found)
    assert found.next == found.tail
    return found.tail


FATES = st.sampled_from((*[Fate.DONE] * 6, *FAULTS))


def run_schedule(stage: Stage, actors: list[Actor[None]], data: st.DataObject, steps: int) -> None:
    """Steps of any of them in any order, with any fault, and some of them die."""
    for _ in range(data.draw(st.integers(0, steps))):
        alive = [actor for actor in actors if not actor.over]
        chosen = data.draw(st.integers(0, len(alive) + len(stage.late) - 1 + (not alive)))
        if chosen < len(alive):
            if data.draw(st.integers(0, 60)) == 60:
                stage.abandon(alive[chosen])
            else:
                stage.step(alive[chosen], data.draw(FATES))
        elif stage.late:
            stage.arrive(data.draw(st.integers(0, len(stage.late) - 1)))


def check_schedule(data: st.DataObject, steps: int) -> None:
    stage = Stage(memory_nodes=2)
    stage.run(setup())
    witness = Witness()
    writers = [stage.begin(writer(number, witness)) for number in (1, 2, 3)]
    others = [
        stage.begin(consumer(0, 3, witness)),
        stage.begin(consumer(0, 2, witness)),
        stage.begin(consumer(1, 5, witness)),
        stage.begin(reader(witness)),
    ]
    run_schedule(stage, [*writers, *others], data, steps)
    # Clients that live come to an end, side by side: writers need a reader that trims.
    last = [stage.begin(consumer(number, 5, witness, rounds=60)) for number in (0, 1)]
    while any(not actor.over for actor in [*writers, *others, *last]):
        for actor in [*writers, *others, *last]:
            if not actor.over:
                stage.step(actor)
    while stage.late:
        stage.arrive(0)
    for actor in (*writers, *others, *last):
        assert actor.error is None
    tail = stage.run(drain(witness))
    witness.judge(tail, at_rest=not any(actor.abandoned for actor in writers))


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_no_schedule_loses_or_doubles_a_record(data: st.DataObject) -> None:
    check_schedule(data, 60)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_long_schedule_loses_or_doubles_a_record(data: st.DataObject) -> None:
    check_schedule(data, 120)


def simulate(seed: int, profile: str) -> Counter[str]:
    witness = Witness()
    made = [0]

    def program(client: SimulatedClient) -> Steps[None]:
        made[0] += 1
        role = random.Random(made[0] * 1000 + seed).randrange(5)
        if role < 2:
            return writer(made[0], witness, tries=50)
        if role < 4:
            return consumer(role - 2, 3, witness, rounds=6)
        return reader(witness)

    def judge() -> Steps[None]:
        tail = yield from drain(witness)
        witness.judge(tail, at_rest=False)

    programs = PlainPrograms(setup, program, judge)
    report = simulated_steps(seed, programs, profile, number=40).run()
    return report.events + Counter(records=len(witness.seen))


PROFILES = (
    "calm",
    "dying-clients-and-replays",
    "power-cuts",
    "replicas-fail-over",
    "replicas-partitions",
    "replicas-lossy",
)


@pytest.mark.slow
@pytest.mark.parametrize("profile", PROFILES)
def test_no_fault_of_a_cluster_loses_or_doubles_a_record(profile: str) -> None:
    seen = Counter[str]()
    for seed in range(1, 9):
        seen += simulate(seed, profile)
    assert seen["records"] > 50
    if profile != "calm":
        assert seen["steps: OutcomeUnknown"] > 0
