"""A whole cluster in one thread and virtual time: one seed decides everything that happens.

The machines are the real ones, down to the bytes of the redo log; only clocks, disks and the
network are played.  A run has three acts:

1. clients work while faults strike (faults.py, at the rates of the seed's profile);
2. everything is mended and must come to rest within a bounded time, with nothing left over;
3. all memory nodes lose their power at once, come back, and a fresh client reads everything.

Then the history of all clients, the last reads included, must be strictly serializable.
"""

import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

from sinfonia.addresses import MemoryNodeId
from sinfonia.checking.history import HistoryRecorder, Outcome
from sinfonia.checking.serializability.check import Serializability, check
from sinfonia.minitransaction import Minitransaction
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry
from sinfonia.simulation.client import SimulatedClient
from sinfonia.simulation.faults import Faults
from sinfonia.simulation.invariants import check_bounds, unrest
from sinfonia.simulation.manager import SimulatedManager
from sinfonia.simulation.memory_node import SimulatedMemoryNode, member_name
from sinfonia.simulation.network import Network, Traffic, Weather
from sinfonia.simulation.operator import SimulatedOperator
from sinfonia.simulation.process import Surroundings
from sinfonia.simulation.profile import (
    AIMED,
    LONG,
    Profile,
    random_profile,
    targeted_profile,
    with_foul_weather,
)
from sinfonia.simulation.progress import BOUT_S, Progress, progress_within
from sinfonia.simulation.scheduler import Scheduler
from sinfonia.simulation.small_sizes import small_sizes
from sinfonia.simulation.store import SimulatedStore
from sinfonia.simulation.store_losses import StoreLosses
from sinfonia.simulation.transcript import words
from sinfonia.simulation.wire import Message, through_the_wire
from sinfonia.simulation.workloads.mix import (
    CAPACITY,
    HOT_BYTES,
    HOT_START,
    LARGE_BYTES,
    LARGE_START,
    RING_BYTES,
    RING_START,
    WIDE_BYTES,
    WIDE_START,
    Workload,
)

# Virtual seconds.  The work of a run is done in ten or twenty; one that takes longer is stuck.
WORK_S_MAX = 120.0
REST_S_MAX = 30.0
REST_STEP_S = 0.25
LAST_READ_TIMEOUT_S = 10.0

LOOPS_MAX = 3

# Every death may leave LOOPS_MAX minitransactions of which nobody says what became of them; with
# many more the history would say little, and take long to check.
CLIENT_DEATHS_MAX = 8
TRACE_EVENTS = 60

# Work that does not come to an end as long as faults come in bouts.
ENDLESS = 10**9


class SimulationFailure(Exception):
    """A rule was broken; the message says which, and what happened before."""


@dataclass(frozen=True, slots=True)
class Report:
    """What happened in one run that ended well."""

    seed: int
    profile: Profile
    outcomes: Counter[Outcome]
    events: Counter[str]
    traffic: Traffic
    virtual_s: float


class Simulation:
    """One cluster, one seed, one run."""

    def __init__(self, seed: int, profile: str = "") -> None:
        """``profile`` is the name of a targeted one; without it the seed draws any."""
        self.seed = seed
        self._profile_name = profile
        self.profile = self._draw_profile()
        self.scheduler = Scheduler()
        self.recorder = HistoryRecorder()
        network: Network[Message] = Network(
            self.scheduler, self._chance("network"), self.profile.weather
        )
        if self.profile.wire:
            network.wire = through_the_wire
        self.surroundings = Surroundings(self.scheduler, network, self.profile, seed)
        ids = [MemoryNodeId(number) for number in range(self.profile.memory_nodes)]
        self.workload = Workload(
            self._chance("workload"),
            ids,
            words_per_node=self.profile.words_per_node,
            kinds=self.profile.kinds,
        )
        # Of each memory node first the one that is to be the primary.
        self.groups = [
            [
                SimulatedMemoryNode(
                    self.surroundings, node, self._chance(member_name(node, member)), member
                )
                for member in range(1 + self.profile.replicas)
            ]
            for node in ids
        ]
        self.nodes = [member for group in self.groups for member in group]
        self.managers = self._make_managers()
        self.operator: SimulatedOperator | None = None
        if self.profile.operator_rate:
            self.operator = SimulatedOperator(
                self.surroundings, self._chance("operator"), members=self.groups
            )
        self._losses: StoreLosses | None = None
        self.clients: list[SimulatedClient] = []
        self._clients_made = 0
        self._left_to_do = self.profile.minitransactions

    def _make_managers(self) -> list[SimulatedManager]:
        """One with a directory of its own, or several that share it."""
        surroundings, number = self.surroundings, self.profile.managers
        if number == 1:
            return [SimulatedManager(surroundings, self._chance("manager"))]
        store = SimulatedStore(self.scheduler, self._chance("store"))
        names = tuple(f"manager{each}" for each in range(number))
        surroundings.managers = list(names)
        return [
            SimulatedManager(
                surroundings, self._chance(name), name=name, managers=names, store=store
            )
            for name in names
        ]

    def run(self) -> Report:
        """Play all three acts; raises SimulationFailure."""
        try:
            with small_sizes(self.profile):
                self._play()
        except Exception as error:  # whatever a machine raises is a finding, and needs its seed
            raise SimulationFailure(self._explain(error)) from error
        outcomes = Counter(each.outcome for each in self.recorder.operations)
        surroundings = self.surroundings
        return Report(
            self.seed,
            self.profile,
            outcomes,
            surroundings.events,
            surroundings.network.traffic,
            self.scheduler.now,
        )

    def _play(self) -> None:
        self._work()
        if self.surroundings.ended:
            self._judge()
            return
        self._come_to_rest()
        self._compare_replicas()
        self._read_everything()
        self._lose_power()
        self._read_everything()
        self._judge()

    # --- act one -------------------------------------------------------------------------------

    def _work(self) -> None:
        for manager in self.managers:
            manager.start()
        if self.operator is not None:
            self.operator.start()
        for node in self.nodes:
            node.start()
        for _ in range(self.profile.clients):
            self._add_client()
        if self.profile.bouts:
            self._work_in_bouts()
        faults = self._begin_faults(str(self.seed))
        self._losses = self._begin_to_lose_stores()
        until = self.scheduler.now + WORK_S_MAX
        done = self.scheduler.run(until=until, stop=self._nothing_left_to_do)
        self._end_faults(faults)
        if self._losses is not None:
            self._losses.stop()
        if self.operator is not None:
            self.operator.stop()
        assert done, f"the work was not done in {WORK_S_MAX} s"

    def _begin_faults(self, seed: str) -> Faults:
        self.surroundings.network.weather = self.profile.weather
        for client in self.clients:
            client.mortal = self._clients_may_die
        return Faults(
            self.surroundings,
            seed=seed,
            nodes=self.nodes,
            managers=self.managers,
            clients=self.clients,
        )

    def _end_faults(self, faults: Faults) -> None:
        """Nothing goes wrong from now on."""
        for client in self.clients:
            client.mortal = False
        faults.stop()
        self.surroundings.network.weather = Weather()

    def _work_in_bouts(self) -> None:
        """After each bout of faults clients get on, though they never stop."""
        progress = Progress(self.recorder, self.workload.words)
        within = progress_within(self.profile)
        left, self._left_to_do = self._left_to_do, ENDLESS
        for bout in range(self.profile.bouts):
            faults = self._begin_faults(f"{self.seed}/{bout}")
            self.scheduler.run(until=self.scheduler.now + BOUT_S, stop=_never)
            self._end_faults(faults)
            progress.begin()
            over = self.scheduler.now
            written = self.scheduler.run(until=over + within, stop=progress.everywhere)
            assert written, f"nobody wrote {progress.missing} within {within:.1f} s after a bout"
        self._left_to_do = left

    @property
    def _clients_may_die(self) -> bool:
        return self.surroundings.events["clients killed"] < CLIENT_DEATHS_MAX

    def _begin_to_lose_stores(self) -> StoreLosses | None:
        if not self.profile.store_loss_rate:
            return None
        [manager] = self.managers
        return StoreLosses(
            self.surroundings, self._chance("store losses"), manager=manager, nodes=self.nodes
        )

    def _nothing_left_to_do(self) -> bool:
        if self.profile.last_copies_rate or self.surroundings.ended:
            return bool(self.surroundings.ended)
        return self._left_to_do <= 0 and not any(
            client.unfinished for client in self.clients if client.alive
        )

    def _next_work(self) -> bool:
        self._left_to_do -= 1
        return self._left_to_do >= 0

    def _add_client(self) -> SimulatedClient:
        name = f"client{self._clients_made}"
        self._clients_made += 1
        client = SimulatedClient(
            self.surroundings,
            name,
            self._chance(name),
            directory=self._directory(),
            workload=self.workload,
            recorder=self.recorder,
            next_work=self._next_work,
            on_death=self._on_client_death,
            on_leave=self._on_client_leave,
        )
        client.mortal = self._clients_may_die
        # The list is shared with the faults, which also strike who comes later.
        self.clients.append(client)
        client.start(client.rng.randint(1, LOOPS_MAX))
        return client

    def _replace_client(self) -> None:
        self._add_client()

    def _on_client_leave(self) -> None:
        if self._left_to_do > 0:
            self.scheduler.after(0.0, self._replace_client)

    def _on_client_death(self) -> None:
        if self._left_to_do > 0:
            self.scheduler.after(0.0, self._replace_client)
        if not self._clients_may_die:
            for client in self.clients:
                client.mortal = False

    def _directory(self) -> Directory:
        """A map as old as can be: it knows where the memory nodes are, and no incarnation."""
        entries = [
            MemoryNodeEntry(group[0].node_id, group[0].name, CAPACITY, group[0].mode, "", 0)
            for group in self.groups
        ]
        return Directory(0, 0, "simulated", entries)

    # --- acts two and three --------------------------------------------------------------------

    def _come_to_rest(self) -> None:
        """Everything comes back and settles, by itself."""
        until = self.scheduler.now + REST_S_MAX
        while left := self._unrest():
            assert self.scheduler.now < until, f"no rest after {REST_S_MAX} s: {left}"
            self.scheduler.run(until=self.scheduler.now + REST_STEP_S, stop=_never)
        # Each life of the manager is a client, too.
        lives = self.surroundings.events["managers killed"] + len(self.managers)
        check_bounds(self.nodes, clients=self._clients_made + lives)

    def _unrest(self) -> str:
        if self._losses is not None and self._losses.lost:
            return "the manager's store is not rebuilt"
        return unrest(self.nodes, self.managers, self.clients)

    def _compare_replicas(self) -> None:
        """At rest all members of a memory node hold the same."""
        for group in self.groups:
            contents = [member.contents() for member in group]
            for member, its in zip(group, contents, strict=True):
                assert its == contents[0], f"{member.name} differs from {group[0].name}"

    def _lose_power(self) -> None:
        """After this the memory nodes know only what is on their disks."""
        if not self.profile.logged:
            return
        before = [group[0].contents() for group in self.groups]
        for node in self.nodes:
            node.kill()
        self._come_to_rest()
        for group, contents in zip(self.groups, before, strict=True):
            for member in group:
                assert member.contents() == contents, f"{member.name} came back with other contents"

    def _read_everything(self) -> None:
        client = self._add_client()
        client.mortal = False
        number = client.execute(self._fill_last_read, timeout=LAST_READ_TIMEOUT_S)
        self.scheduler.run(
            until=self.scheduler.now + 2 * LAST_READ_TIMEOUT_S,
            stop=lambda: not client.unfinished,
        )
        operation = self.recorder.operations[number]
        assert operation.outcome is Outcome.COMMITTED, f"cannot read at rest: {operation}"

    def _fill_last_read(self, minitransaction: Minitransaction[Any]) -> None:
        for node in self.nodes:
            minitransaction.read(node.node_id, HOT_START, HOT_BYTES)
            minitransaction.read(node.node_id, WIDE_START, WIDE_BYTES)
            minitransaction.read(node.node_id, RING_START, RING_BYTES)
            if self.workload.large:
                minitransaction.read(node.node_id, LARGE_START, LARGE_BYTES)

    def _judge(self) -> None:
        verdict = check(self.recorder.operations)
        assert verdict.result is not Serializability.ILLEGAL, verdict.explanation
        # What was given up shows nothing; tests bound how often that may be.
        self.surroundings.events["undecided"] += verdict.result is Serializability.UNKNOWN

    # --- odds and ends -------------------------------------------------------------------------

    def _draw_profile(self) -> Profile:
        name, chance = self._profile_name, self._chance("profile")
        profile = targeted_profile(name, chance) if name else random_profile(chance)
        if name in (*AIMED, *LONG):
            return profile
        return with_foul_weather(profile, self._chance("foul weather"))

    def _chance(self, concern: str) -> random.Random:
        """A generator for each concern, so that one more draw here moves nothing there."""
        return random.Random(f"{self.seed} {concern}")

    def _explain(self, error: Exception) -> str:
        trace = "\n".join(
            f"{at:10.4f}  {words(event)}" for at, event in self.scheduler.trace(TRACE_EVENTS)
        )
        return (
            f"{type(error).__name__}: {error}\n\nthe last events:\n{trace}\n\n"
            f"profile: {self.profile}\nreproduce with: {self._how_to_replay()}"
        )

    def _how_to_replay(self) -> str:
        again = f"make sim RUNS=1 SEED={self.seed}"
        return f"{again} PROFILE={self._profile_name}" if self._profile_name else again


def _never() -> bool:
    return False
