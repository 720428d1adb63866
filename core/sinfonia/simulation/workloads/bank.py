"""A bank over three memory nodes, whose clocks are wrong and which crash, backed up meanwhile.

What must hold at every moment, and so after a restore to any moment:

- the sum of all accounts, between which money is moved over two memory nodes at a time;
- *twin* counters at two memory nodes, which are only raised together, are equal;
- a *relay* of counters: each is raised at one memory node only after the one before it was seen at
  another, by the same client or by a reader of what that one wrote.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sinfonia.backup.archive import Backup
from sinfonia.backup.restore import Restoration
from sinfonia.client.steps import Steps, execute, minitransaction
from sinfonia.simulation.client import SimulatedClient
from sinfonia.simulation.cluster import Cluster
from sinfonia.simulation.fault_plans import begin_faults, end_faults
from sinfonia.simulation.network import Weather
from sinfonia.simulation.participant_harness import PlainMemory
from sinfonia.simulation.profile import Profile
from sinfonia.simulation.simulated_backup import SimulatedBackup
from sinfonia.simulation.simulator import Simulation
from sinfonia.simulation.workload import Workload
from sinfonia.simulation.workloads.steps import StepsWorkload
from sinfonia.storage.address_space import CHUNK_BYTES


class Place(NamedTuple):
    """Where a number is."""

    node: int
    address: int


# Every account and counter lies in a chunk of its own, as the copy of memory counts them.
NODES = 3
CAPACITY = 8 * CHUNK_BYTES
ACCOUNTS = 9
BALANCE = 1000
TOTAL = ACCOUNTS * BALANCE
NUMBER_BYTES = 8

TWINS = (Place(0, 4 * CHUNK_BYTES), Place(1, 4 * CHUNK_BYTES))
TWIN_SEEN = Place(2, 4 * CHUNK_BYTES)
RELAY = tuple(Place(node, row * CHUNK_BYTES) for node, row in ((0, 5), (1, 5), (2, 5), (0, 6)))

# Virtual seconds: before the full backup, before each increment, and for the last answers.
BEFORE_FULL_S = 0.8
BEFORE_INCREMENT_S = 0.6
LAST_ANSWERS_S_MAX = 30.0

# No call ends before it is known what became of it: a relay that goes on in doubt proves nothing.
TIMEOUT_S = 1000.0


def account(number: int) -> Place:
    """Where an account is; each memory node has some."""
    return Place(number % NODES, number // NODES * CHUNK_BYTES)


def encoded(value: int) -> bytes:
    """A value as it is in memory."""
    return value.to_bytes(NUMBER_BYTES, "little")


def decoded(data: bytes) -> int:
    """The inverse."""
    return int.from_bytes(data, "little")


class Bank:
    """Programs that go on until they are told to stop, one for each client."""

    def __init__(self) -> None:
        self.stopping = False
        self._programs: list[Callable[[SimulatedClient], Steps[None]]] = [
            self._move_money,
            self._move_money,
            self._move_money,
            self._relay,
            lambda _: self._copy(RELAY[2], RELAY[3]),
            lambda _: self._raise_twins(),
            lambda _: self._copy(TWINS[0], TWIN_SEEN),
        ]
        self.clients = len(self._programs)

    def set_up(self) -> Steps[None]:
        opening = minitransaction()
        for number in range(ACCOUNTS):
            opening.write(*account(number), encoded(BALANCE))
        yield from execute(opening)

    def program(self, client: SimulatedClient) -> Steps[None]:
        return self._programs.pop(0)(client)

    def judge(self) -> Steps[None]:
        looking = minitransaction()
        for place in _ALL_PLACES:
            looking.read(*place, NUMBER_BYTES)
        found = yield from execute(looking)
        values = dict(zip(_ALL_PLACES, map(decoded, found.reads), strict=True))
        assert_is_right(values.__getitem__, "at rest")

    def _move_money(self, client: SimulatedClient) -> Steps[None]:
        while not self.stopping:
            source, target = client.rng.sample(range(ACCOUNTS), 2)
            looking = minitransaction()
            looking.read(*account(source), NUMBER_BYTES)
            looking.read(*account(target), NUMBER_BYTES)
            found = yield from execute(looking)
            balances = [decoded(data) for data in found.reads]
            amount = client.rng.randint(0, balances[0])
            moving = minitransaction()
            changes = (source, balances[0], -amount), (target, balances[1], amount)
            for number, before, change in changes:
                moving.compare(*account(number), encoded(before))
                moving.write(*account(number), encoded(before + change))
            yield from execute(moving)

    def _relay(self, client: SimulatedClient) -> Steps[None]:
        value = 0
        while not self.stopping:
            value += 1
            # As if it were another process each time, which has heard of nothing yet.
            client.coordinator.clock = 0
            for place in RELAY[:3]:
                raising = minitransaction()
                raising.write(*place, encoded(value))
                yield from execute(raising)

    def _raise_twins(self) -> Steps[None]:
        value = 0
        while not self.stopping:
            value += 1
            raising = minitransaction()
            for place in TWINS:
                raising.write(*place, encoded(value))
            yield from execute(raising)

    def _copy(self, source: Place, target: Place) -> Steps[None]:
        while not self.stopping:
            reading = minitransaction()
            reading.read(*source, NUMBER_BYTES)
            found = yield from execute(reading)
            writing = minitransaction()
            writing.write(*target, found.reads[0])
            yield from execute(writing)


class BackedUpUnderFaults:
    """A plan: memory nodes crash and clocks are set, while a full backup is taken and increments.

    Before each increment one memory node restarts for certain.
    """

    def __init__(self, bank: Bank, root: Path, *, increments: int) -> None:
        self._bank = bank
        self._root = root
        self._increments = increments

    def play(self, cluster: Cluster, workload: Workload) -> None:
        """Of FaultPlan."""
        backup = SimulatedBackup(cluster, self._root)
        cluster.employ(workload)
        faults = begin_faults(cluster, str(cluster.seed))
        cluster.pass_time(BEFORE_FULL_S)
        backup.take_full()
        for _ in range(self._increments):
            cluster.nodes[-1].kill()
            cluster.pass_time(BEFORE_INCREMENT_S)
            backup.take_increment()
        end_faults(cluster, faults)
        self._bank.stopping = True
        done = cluster.run(LAST_ANSWERS_S_MAX, until=lambda: workload.done)
        assert done, "the last answers do not come"


def simulated_bank(
    seed: int, root: Path, *, mode: str = "LOG", crashes: bool = True, increments: int = 0
) -> Simulation:
    """One run, which leaves a backup at ``root``."""
    bank = Bank()
    cluster = Cluster(seed, _profile(bank.clients, mode=mode, crashes=crashes))
    return Simulation(
        cluster,
        BackedUpUnderFaults(bank, root, increments=increments),
        StepsWorkload(cluster, bank, number=bank.clients, loops=(1, 1)),
        replay=f"the same test with seed {seed}",
    )


def _profile(clients: int, *, mode: str, crashes: bool) -> Profile:
    return Profile(
        memory_nodes=NODES,
        clients=clients,
        mode=mode,
        capacity=CAPACITY,
        timeout_s_min=TIMEOUT_S,
        timeout_s_max=TIMEOUT_S,
        weather=Weather(delay_mean=0.005),
        node_kill_rate=1.0 if crashes else 0.0,
        power_loss_share=1.0,
        down_s_max=0.02,
        wall_clocks_set=True,
        clock_step_rate=1.0,
        read_lease_s=0.05,
        settle_s_max=0.1,
        checkpoint_log_bytes=32 * 1024,
    )


def check_moment(root: Path, moment: int) -> dict[str, int]:
    """Restore to ``moment`` and see that it is a state of the bank; some figures of it."""
    restoration = Restoration(Backup(root), moment)
    memories: list[PlainMemory] = []
    for origin in restoration.backup.nodes:
        memory = PlainMemory(CAPACITY)
        state = restoration.recovered(origin, memory)
        state.check_invariants()
        assert not state.in_doubt
        memories.append(memory)

    def value(place: Place) -> int:
        return decoded(memories[place.node][place.address : place.address + NUMBER_BYTES])

    assert_is_right(value, f"at {moment}")
    return {
        "relayed": value(RELAY[-1]),
        "twins": value(TWINS[0]),
        "undecided": sum(map(len, restoration.undecided.values())),
        "committed": len(restoration.committed),
    }


def check_moments(root: Path, rng: random.Random, moments: int) -> dict[str, int]:
    """``check_moment`` at both ends and at some moments between; the figures added up."""
    first, last = Backup(root).moments
    total: dict[str, int] = {}
    for moment in [first, last, *(rng.randint(first, last) for _ in range(moments))]:
        for name, figure in check_moment(root, moment).items():
            total[name] = total.get(name, 0) + figure
    return total


def assert_is_right(value: Callable[[Place], int], when: str) -> None:
    """Assert what holds at every moment."""
    total = sum(value(account(number)) for number in range(ACCOUNTS))
    assert total == TOTAL, f"the sum is {total} {when}"
    twins = [value(place) for place in TWINS]
    assert twins[0] == twins[1], f"half of a minitransaction {when}: {twins}"
    assert value(TWIN_SEEN) <= twins[0], f"seen before it was there, {when}"
    relay = [value(place) for place in RELAY]
    assert relay == sorted(relay, reverse=True), f"effects without cause {when}: {relay}"


_ALL_PLACES = [*map(account, range(ACCOUNTS)), *TWINS, TWIN_SEEN, *RELAY]
