"""Clients of one hash map while it grows, step by step in every order and under every fault.

What they are told must be strictly serializable, key by key and over several keys; a scan meets
what is there throughout once; and no byte of space is lost, whichever client dies at whatever step.
"""

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinfonia.addresses import MemoryNodeId
from sinfonia.checking.history import Extent, HistoryRecorder, Located, Outcome
from sinfonia.checking.serializability.check import Serializability, check
from sinfonia.client.steps import Steps, pause
from sinfonia.errors import NotExecuted, OutcomeUnknown, SinfoniaError
from sinfonia.minitransaction import Minitransaction
from sinfonia.simulation.client import SimulatedClient
from sinfonia.simulation.workloads.steps import PlainPrograms, simulated_steps
from sinfonia.structures import (
    Conflict,
    Found,
    GuardFailed,
    HashMap,
    Place,
    Region,
    Stored,
    UnsettledUpdate,
    create_hash_map,
    scan,
)
from sinfonia.testing.hash_map_audit import audit
from sinfonia.testing.stepwise import FAULTS, Actor, Fate, Stage

NODE = MemoryNodeId(0)
HOME = Place(0, 64)
REGIONS = (Region(0, 2048, 60_000), Region(1, 64, 60_000))
BUCKET_BYTES = 1024

KEYS = [b"key %d" % number for number in range(4)]
STEADY = [b"steady %d" % number for number in range(12)]
LENGTHS = (8, 8, 40, 300, 700)
ABSENT = bytes(8)


class Witness:
    """A history in which each key is a word of memory, and each value a number of its own."""

    def __init__(self) -> None:
        self.recorder = HistoryRecorder()
        self.versions: dict[tuple[bytes, int], bytes] = {}
        self.values = 0

    def new_value(self, rng: random.Random) -> bytes:
        """Never one that was there before; some of them go out of line."""
        self.values += 1
        return self.values.to_bytes(8, "little").ljust(rng.choice(LENGTHS), b".")

    def saw(self, key: bytes, found: Found | None) -> bytes:
        """Its number; a version never means two values."""
        if found is None:
            return ABSENT
        number = found.value[:8]
        assert found.value[8:] in {b"." * (length - 8) for length in LENGTHS}, "a torn value"
        assert self.versions.setdefault((key, found.version), number) == number
        return number

    def get(self, map_: HashMap, keys: Sequence[bytes]) -> Steps[dict[bytes, Found]]:
        """Look keys up at one moment."""
        number = self.recorder.invoke("", reads=tuple(Extent(NODE, place(k), 8) for k in keys))
        try:
            found = yield from map_.get_many(keys)
        except NotExecuted:
            self.recorder.complete(number, Outcome.NOT_EXECUTED)
            raise
        values = tuple(self.saw(key, found.get(key)) for key in keys)
        self.recorder.complete(number, Outcome.COMMITTED, values=values)
        return found

    def update(
        self,
        map_: HashMap,
        changes: dict[bytes, bytes | None],
        expected: dict[bytes, Found | None] | None = None,
    ) -> Steps[None]:
        """Change keys, if others are as they were found."""
        number = self.recorder.invoke(
            "",
            compares=tuple(
                Located(NODE, place(key), self.saw(key, found))
                for key, found in (expected or {}).items()
            ),
            writes=tuple(
                Located(NODE, place(key), ABSENT if new is None else new[:8])
                for key, new in changes.items()
            ),
        )
        versions = {key: found.version if found else 0 for key, found in (expected or {}).items()}
        done: Stored | Conflict | GuardFailed | None
        try:
            done = yield from map_.update(changes, expected=versions)
        except UnsettledUpdate as error:
            done = yield from self.ask_again(map_, error)
            if done is None:
                self.recorder.complete(number, Outcome.NOT_EXECUTED)
                return
        except NotExecuted:
            self.recorder.complete(number, Outcome.NOT_EXECUTED)
            raise
        if isinstance(done, Conflict):
            assert any(versions[key] != version for key, version in done.versions.items())
            self.recorder.complete(number, Outcome.NOT_EXECUTED)
            return
        assert isinstance(done, Stored)
        for key, new in changes.items():
            if new is not None:
                self.saw(key, Found(new, done.versions[key]))
        self.recorder.complete(number, Outcome.COMMITTED)

    @staticmethod
    def ask_again(map_: HashMap, error: UnsettledUpdate) -> Steps[Stored | None]:
        """Once, and then live with it."""
        try:
            return (yield from map_.settle(error.pending))
        except NotExecuted as later:
            raise error from later

    def judge(self) -> None:
        verdict = check(self.recorder.operations)
        assert verdict.result is Serializability.OK, verdict.explanation


def place(key: bytes) -> int:
    return 8 * KEYS.index(key)


def setup() -> Steps[None]:
    yield from create_hash_map(HOME, REGIONS, bucket_bytes=BUCKET_BYTES)
    map_ = yield from HashMap.open(HOME, writer=0)
    yield from map_.update(dict.fromkeys(STEADY, b"there"))


def opened(writer: int) -> Steps[HashMap]:
    while True:
        try:
            return (yield from HashMap.open(HOME, writer=writer))
        except SinfoniaError:
            yield from pause(0.01)


def client(writer: int, witness: Witness, operations: int) -> Steps[None]:
    """Gets, puts, removes, compares-and-swaps, of one key or two."""
    rng = random.Random(writer)
    map_ = yield from opened(writer)
    for _ in range(operations):
        keys = rng.sample(KEYS, rng.choice((1, 1, 2)))
        try:
            if rng.random() < 0.3:
                yield from witness.get(map_, keys)
                continue
            changes = {key: None if rng.random() < 0.2 else witness.new_value(rng) for key in keys}
            expected: dict[bytes, Found | None] | None = None
            if rng.random() < 0.5:
                looked_at = rng.sample(KEYS, rng.choice((1, 2)))
                found = yield from witness.get(map_, looked_at)
                expected = {key: found.get(key) for key in looked_at}
            yield from witness.update(map_, changes, expected)
        except (NotExecuted, OutcomeUnknown):
            yield from pause(0.01)


def grower(writer: int, count: int) -> Steps[None]:
    """Fill the map with keys that no test looks at."""
    map_ = yield from opened(writer)
    for number in range(count):
        try:
            yield from map_.put(b"filler %d %d" % (writer, number), bytes(60))
        except (NotExecuted, OutcomeUnknown):
            yield from pause(0.01)


def scanner(writer: int, rounds: int) -> Steps[None]:
    """Meet each steady key once, whatever else goes on."""
    map_ = yield from opened(writer)
    for _ in range(rounds):
        met: Counter[bytes] = Counter()
        point: int | None = 0
        while point is not None:
            try:
                page = yield from scan(map_, point, buckets=2)
            except NotExecuted:
                yield from pause(0.01)
                continue
            met.update(key for key, _ in page.entries)
            point = page.next
        assert max(met.values()) == 1, "a scan met a key twice"
        assert set(STEADY) <= set(met), "a scan missed a key"


def settled(witness: Witness) -> Steps[int]:
    """Read everything, with a directory that knows nothing; returns how many buckets there are."""
    map_ = yield from HashMap.open(HOME, writer=0)
    yield from witness.get(map_, KEYS)
    assert len((yield from map_.get_many(STEADY))) == len(STEADY)
    return (yield from audit(map_))


FATES = st.sampled_from((*[Fate.DONE] * 8, *FAULTS))


def step(stage: Stage, actor: Actor[None], fate: Fate) -> None:
    """A read without an answer is a definite error: nothing can have changed."""
    todo = actor.drive.step
    reads = isinstance(todo, Minitransaction) and todo.read_only
    stage.step(actor, Fate.NOT_EXECUTED if reads and fate is not Fate.DONE else fate)


def check_schedule(data: st.DataObject, steps: int, seed: int) -> None:
    stage = Stage(memory_nodes=2)
    stage.run(setup())
    witness = Witness()
    seed *= 1000
    actors: list[Actor[None]] = [
        *(stage.begin(client(seed + number, witness, 6)) for number in (1, 2, 3)),
        *(stage.begin(grower(seed + number, 10)) for number in (4, 5)),
        stage.begin(scanner(seed + 6, 2)),
    ]
    for _ in range(data.draw(st.integers(0, steps))):
        alive = [actor for actor in actors if not actor.over]
        if not alive:
            break
        chosen = data.draw(st.integers(0, len(alive) + len(stage.late) - 1))
        if chosen >= len(alive):
            stage.arrive(chosen - len(alive))
        elif data.draw(st.integers(0, 60)) == 60:
            stage.abandon(alive[chosen])
        else:
            step(stage, alive[chosen], data.draw(FATES))
    while any(not actor.over for actor in actors):
        for actor in actors:
            if not actor.over:
                stage.step(actor)
    while stage.late:
        stage.arrive(0)
    for actor in actors:
        assert actor.error is None
    stage.run(settled(witness))
    witness.judge()


@settings(max_examples=10, deadline=None)
@given(st.data(), st.integers(0, 1000))
def test_no_schedule_shows_a_client_what_cannot_be(data: st.DataObject, seed: int) -> None:
    check_schedule(data, 60, seed)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(0, 1000))
def test_no_long_schedule_shows_a_client_what_cannot_be(data: st.DataObject, seed: int) -> None:
    check_schedule(data, 150, seed)


@pytest.mark.slow
def test_a_split_that_is_abandoned_at_any_step_does_no_harm() -> None:
    """The next client does what is left to do."""
    steps = 0
    over = False
    while not over:
        for fate in Fate:
            stage = Stage(memory_nodes=2)
            stage.run(setup())
            first = stage.begin(grower(1, 20))
            for _ in range(steps):
                stage.step(first)
            if first.over:
                over = True
                break
            # The last step is struck as well.
            step(stage, first, fate)
            stage.abandon(first)
            stage.run(grower(2, 20))
            while stage.late:
                stage.arrive(0)
            assert stage.run(settled(Witness())) >= 3
        steps += 1
    assert steps > 40


def simulate(seed: int, profile: str) -> Counter[str]:
    witness = Witness()
    made = [0]
    buckets = [0]

    def program(node: SimulatedClient) -> Steps[None]:
        del node
        made[0] += 1
        number = seed * 1000 + made[0]
        if made[0] % 4 == 0:
            return grower(number, 10)
        if made[0] % 7 == 0:
            return scanner(number, 1)
        return client(number, witness, 4)

    def judge() -> Steps[None]:
        buckets[0] = yield from settled(witness)
        witness.judge()

    programs = PlainPrograms(setup, program, judge)
    report = simulated_steps(seed, programs, profile, number=24).run()
    return report.events + Counter(buckets=buckets[0])


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
def test_no_fault_of_a_cluster_shows_a_client_what_cannot_be(profile: str) -> None:
    seen = Counter[str]()
    for seed in range(1, 31):
        seen += simulate(seed, profile)
    assert seen["buckets"] > 30 * 3
    if profile != "calm":
        assert seen["steps: OutcomeUnknown"] > 0
