"""Leases, client tables and allocators on simulated clusters, while everything fails.

The machines below are the real ones, replicas, fail-overs and all: simulation/workloads/steps.py.
"""

import struct
from collections import Counter
from collections.abc import Callable

import pytest

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.steps import Steps, execute, minitransaction, pause
from sinfonia.errors import NotExecuted, OutcomeUnknown
from sinfonia.minitransaction import Relation
from sinfonia.simulation.client import SimulatedClient
from sinfonia.simulation.workloads.steps import simulated_steps
from sinfonia.structures import (
    Allocator,
    Arena,
    ArenaHeader,
    Claim,
    ClientTable,
    Forgotten,
    Guard,
    Held,
    Intent,
    Lease,
    LeaseLost,
    NoSpace,
    Run,
    TableFull,
    acquire_all,
    execute_until_known,
)
from sinfonia.structures.client_table import Lane

SEEDS = (1, 3)  # that are soon over
MORE_SEEDS = (0, 2, *range(4, 34))
DURATION = 0.6

HERE, THERE = MemoryNodeId(0), MemoryNodeId(1)
WORD = struct.Struct("<Q")

# A program tries so often to hear of an outcome that it must know.
TRIES = 6


def identity(client: SimulatedClient) -> bytes:
    return client.rng.randbytes(16)


def read_words(node: int, address: int, words: int) -> Steps[tuple[int, ...]]:
    t = minitransaction()
    t.read(node, address, 8 * words)
    data = (yield from execute(t)).reads[0]
    return struct.unpack(f"<{words}Q", data)


def nothing() -> Steps[None]:
    yield from pause(0.0)


# --- leases --------------------------------------------------------------------------------------


class Leases:
    """Programs hold one lease or two, and write under them; some stand still meanwhile."""

    LEASES = (Lease(HERE, 128), Lease(THERE, 128))
    NOTE = 4096  # the fence of the last writer, and how often all wrote

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.holders: dict[tuple[Lease, int], Claim] = {}
        self.written: Counter[Lease] = Counter()
        self.perhaps: Counter[Lease] = Counter()

    def set_up(self) -> Steps[None]:
        yield from nothing()

    def program(self, client: SimulatedClient) -> Steps[None]:
        claim = Claim(identity(client), client.rng.getrandbits(64))
        wanted = client.rng.choice((self.LEASES, self.LEASES[:1], self.LEASES[1:]))
        held = yield from self._acquire(wanted, claim)
        for each in held:
            assert self.holders.setdefault((each.lease, each.fence), claim) == claim
        for _ in range(client.rng.randint(1, 3)):
            if client.rng.random() < 0.2:
                yield from pause(client.rng.uniform(0.0, 2 * DURATION))
            for each in held:
                yield from self._write(each)
        for each in held:
            yield from each.release()

    def _acquire(self, wanted: tuple[Lease, ...], claim: Claim) -> Steps[tuple[Held, ...]]:
        while True:
            try:
                return (yield from acquire_all(wanted, claim, DURATION))
            except (NotExecuted, OutcomeUnknown):
                self.events["acquired again"] += 1

    def _write(self, held: Held) -> Steps[None]:
        t = minitransaction()
        guard = held.check(t)
        node = held.lease.node
        t.check(node, self.NOTE, Relation.AT_MOST, held.fence)
        t.write(node, self.NOTE, WORD.pack(held.fence))
        t.add(node, self.NOTE + 8, 1)
        try:
            result = yield from execute(t)
        except OutcomeUnknown:
            self.perhaps[held.lease] += 1
            return
        if result.committed:
            self.written[held.lease] += 1
        else:
            assert not guard.holds(result), "another wrote under a later fence, and yet it holds"
            self.events["stale holders refused"] += 1

    def judge(self) -> Steps[None]:
        for lease in self.LEASES:
            _, written = yield from read_words(lease.node, self.NOTE, 2)
            known = self.written[lease]
            # A client that died knew of one more at most.
            assert known <= written <= known + self.perhaps[lease] + 30


# --- client tables -------------------------------------------------------------------------------


class Clients:
    """Each program is a client with operations that must be carried out once each."""

    TABLE = ClientTable(HERE, 128, slots=16)
    COUNTS = 4096  # a word for each client: how often its operations took effect
    CLIENTS_MAX = 64
    OPERATIONS = 4

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.begun: list[int] = []
        self.known: list[int] = []
        self.lanes: dict[Lane, int] = {}

    def set_up(self) -> Steps[None]:
        yield from nothing()

    def program(self, client: SimulatedClient) -> Steps[None]:
        number = len(self.known)
        assert number < self.CLIENTS_MAX
        self.known.append(0)
        self.begun.append(0)
        if client.rng.random() < 0.15:
            self.events["slots taken back"] += yield from self.TABLE.sweep(DURATION)
        try:
            [lane] = yield from self.TABLE.register(identity(client))
        except TableFull:
            self.events["slots taken back"] += yield from self.TABLE.sweep(DURATION)
            return
        assert self.lanes.setdefault(lane, number) == number, "a lane was given to two"
        try:
            for sequence in range(1, self.OPERATIONS + 1):
                if client.rng.random() < 0.05:
                    yield from pause(2 * DURATION)
                yield from self._operate(number, lane, sequence)
        except Forgotten:
            self.events["forgotten"] += 1
            return
        yield from self.TABLE.unregister([lane])

    def _operate(self, number: int, lane: Lane, sequence: int) -> Steps[None]:
        self.begun[number] = sequence
        answer = WORD.pack(sequence) * 2
        for _ in range(TRIES):
            try:
                carried = yield from self.TABLE.once(
                    lane,
                    sequence,
                    lambda t: t.add(HERE, self.COUNTS + 8 * number, 1),
                    answer,
                )
            except (NotExecuted, OutcomeUnknown):
                self.events["asked again"] += 1
                continue
            assert carried.answer == answer
            self.events["found done"] += carried.result is None
            self.known[number] = sequence
            return
        yield from execute(minitransaction())

    def judge(self) -> Steps[None]:
        counts = yield from read_words(HERE, self.COUNTS, self.CLIENTS_MAX)
        for count, known, begun in zip(counts, self.known, self.begun, strict=False):
            assert known <= count <= begun, f"{count} effects of {known} to {begun} operations"


# --- allocators ----------------------------------------------------------------------------------


class Allocations:
    """Programs allocate, link, unlink and free, on an arena of each memory node."""

    ARENAS = tuple(
        Arena(node, 128, ArenaHeader(blocks=200, block_bytes=64, data=1 << 16, intents=4))
        for node in (HERE, THERE)
    )
    LINKS = 8192  # on the first memory node, so that those of the second arena need two phases
    PLACES = 12

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.last_judged: tuple[int, ...] = ()

    def set_up(self) -> Steps[None]:
        for arena in self.ARENAS:
            yield from arena.format()

    def program(self, client: SimulatedClient) -> Steps[None]:
        claim = Claim(identity(client), client.rng.getrandbits(64))
        try:
            reservation = yield from Allocator(self.ARENAS).reserve(claim, DURATION)
            for attempt in range(client.rng.randint(1, 4)):
                if client.rng.random() < 0.2:
                    yield from pause(client.rng.uniform(0.0, 2 * DURATION))
                intent = yield from reservation.allocate(client.rng.choice((1, 3, 70)), attempt)
                place = client.rng.randrange(self.PLACES)
                if client.rng.random() < 0.1:
                    yield from reservation.arena.abandon(intent)
                elif not (yield from self._replace(place, reservation.arena, intent)):
                    self.events["not linked"] += 1
            if client.rng.random() < 0.7:
                yield from reservation.held.release()
        except LeaseLost:
            self.events["arenas lost"] += 1
        except NoSpace:
            self.events["no space"] += 1
            yield from self._replace(client.rng.randrange(self.PLACES), None, None)

    def _replace(self, place: int, arena: Arena | None, intent: Intent | None) -> Steps[bool]:
        """Link ``intent`` from a place, and free what was linked there; False if it has ended."""
        address = self.LINKS + 8 * place
        while True:
            if arena is not None and intent not in (yield from arena.look()).outstanding():
                return False
            [old] = yield from read_words(HERE, address, 1)
            t = minitransaction()
            unchanged = t.compare(HERE, address, WORD.pack(old))
            freed = Guard([])
            if old:
                its, run = self._linked(old)
                freed = its.give_back(t, run)
            word = 0
            if arena is not None and intent is not None:
                word = self._word(arena, intent.run)
                arena.link(t, intent)
            t.write(HERE, address, WORD.pack(word))
            result = yield from execute_until_known(t)
            if result.committed:
                return True
            if len(t.items) == 1 and Guard([unchanged]).holds(result):
                assert freed.holds(result), "what was linked was free"

    def _word(self, arena: Arena, run: Run) -> int:
        return self.ARENAS.index(arena) << 32 | run.first << 16 | run.blocks

    def _linked(self, word: int) -> tuple[Arena, Run]:
        return self.ARENAS[word >> 32], Run(word >> 16 & 0xFFFF, word & 0xFFFF)

    def judge(self) -> Steps[None]:
        words = yield from read_words(HERE, self.LINKS, self.PLACES)
        assert not self.last_judged or words == self.last_judged
        self.last_judged = words
        for arena in self.ARENAS:
            held = yield from arena.lease.acquire(Claim(b"judge of the end", len(words)), DURATION)
            self.events["swept at the end"] += len((yield from arena.sweep()))
            view = yield from arena.look()
            assert not view.outstanding()
            bits = 0
            for its, run in (self._linked(word) for word in words if word):
                if its == arena:
                    assert not bits & run.bits, "blocks were given to two"
                    bits |= run.bits
            used = view.used & ((1 << arena.header.blocks) - 1)
            assert used == bits, "blocks were lost, or freed under a link"
            yield from held.release()


Scenario = Leases | Clients | Allocations
SCENARIOS = (Leases, Clients, Allocations)


def play(make: Callable[[], Scenario], seed: int, profile: str = "") -> Counter[str]:
    scenario = make()
    report = simulated_steps(seed, scenario, profile).run()
    return report.events + scenario.events


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_promised_holds(scenario: Callable[[], Scenario], seed: int) -> None:
    play(scenario, seed)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_is_promised_holds_for_many_seeds(scenario: Callable[[], Scenario]) -> None:
    """And what it is promised against does happen."""
    events: Counter[str] = Counter()
    for seed in MORE_SEEDS:
        events += play(scenario, seed)
    seen = {
        Leases: ("stale holders refused", "acquired again"),
        Clients: ("found done", "asked again", "forgotten", "slots taken back"),
        Allocations: ("arenas lost", "swept at the end", "not linked"),
    }
    for event in (*seen[scenario], "fail-overs", "clients killed", "steps: OutcomeUnknown"):  # type: ignore[index]
        assert events[event], f"never: {event}"
