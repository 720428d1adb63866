"""Single minitransactions, each written into a history, which must be strictly serializable.

Each client runs a few loops side by side; each loop executes one minitransaction after another and
writes down what it asked and what it was told.  At rest a fresh client reads everything, and its
reads belong to the history.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from sinfonia.checking.asked_and_told import (
    answers,
    compare_items,
    failed_items,
    full_rings,
    read_items,
    update_items,
    write_items,
)
from sinfonia.checking.history import Extent, Outcome
from sinfonia.checking.serializability.check import Serializability, check
from sinfonia.client.connection import CLOSE_PATIENCE
from sinfonia.client.steps import minitransaction as unbound_minitransaction
from sinfonia.errors import OutcomeUnknown, SinfoniaError
from sinfonia.minitransaction import Minitransaction
from sinfonia.protocol.attempts import Call
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.recovery import Outcome as Settled
from sinfonia.simulation.client import SimulatedClient
from sinfonia.simulation.cluster import Cluster
from sinfonia.simulation.fault_plans import FaultsInBouts, FaultsUntilDone
from sinfonia.simulation.profile import draw_profile
from sinfonia.simulation.simulator import Simulation, replay_command
from sinfonia.simulation.workload import LOOPS_MAX, Budget
from sinfonia.simulation.workloads.mix import (
    HOT_BYTES,
    HOT_START,
    LARGE_BYTES,
    LARGE_START,
    RING_BYTES,
    RING_START,
    WIDE_BYTES,
    WIDE_START,
    Beliefs,
    Mix,
)

LAST_READ_TIMEOUT_S = 10.0

# How often a client that was told "unknown" asks for the outcome later.
CURIOSITY = 0.7

# The classes of its minitransactions.
TAGS = ("", "", "one class", "another")

# Work that does not come to an end as long as faults come in bouts.
ENDLESS = 10**9

Fill = Callable[[Minitransaction[Any]], None]


class Choice(Protocol):
    """Chooses what a minitransaction does."""

    def fill(
        self, minitransaction: Minitransaction[Any], beliefs: Beliefs, *, only_reads: bool = False
    ) -> None:
        """Add the items; ``beliefs`` is what the client takes to be in memory."""
        ...


def strictly_serializable(cluster: Cluster) -> None:
    """Assert that the history is, as far as a search can tell."""
    verdict = check(cluster.recorder.operations)
    assert verdict.result is not Serializability.ILLEGAL, verdict.explanation
    # What was given up shows nothing; tests bound how often that may be.
    cluster.events["undecided"] += verdict.result is Serializability.UNKNOWN


class Minitransactions:
    """The workload.

    ``choice`` fills the minitransactions, by default as the profile says; ``judge`` decides on the
    history.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        choice: Choice | None = None,
        judge: Callable[[Cluster], None] = strictly_serializable,
    ) -> None:
        profile = cluster.profile
        self.recorder = cluster.recorder
        self.mix = Mix(
            cluster.chance("workload"),
            cluster.node_ids,
            words_per_node=profile.words_per_node,
            kinds=profile.kinds,
        )
        self.choice = choice or self.mix
        self._judge = judge
        self.budget = Budget(profile.minitransactions)
        self.clients = profile.clients
        self._clients = cluster.clients

    @property
    def work_left(self) -> bool:
        return self.budget.left > 0

    @property
    def done(self) -> bool:
        # Asked after each step of a run, so the usual answer comes first.
        if self.budget.left > 0:
            return False
        return not any(client.unfinished for client in self._clients if client.alive)

    @property
    def words(self) -> Sequence[Extent]:
        """The places that clients write again and again."""
        return self.mix.words

    @contextmanager
    def endless(self) -> Iterator[None]:
        """Meanwhile clients find always more to do."""
        left, self.budget.left = self.budget.left, ENDLESS
        yield
        self.budget.left = left

    def set_up(self, cluster: Cluster) -> None:
        """Clients begin with memory as it comes."""

    def program(self, client: SimulatedClient) -> None:
        self._begin(client)

    def inspect(self, cluster: Cluster) -> None:
        """Read everything: at rest, a read of all memory nodes commits."""
        programs: list[_Program] = []
        client = cluster.add_client(lambda client: programs.append(self._begin(client)))
        number = programs[0].execute(
            lambda t: self._fill_last_read(t, cluster), timeout=LAST_READ_TIMEOUT_S
        )
        cluster.run(2 * LAST_READ_TIMEOUT_S, until=lambda: not client.unfinished)
        operation = self.recorder.operations[number]
        assert operation.outcome is Outcome.COMMITTED, f"cannot read at rest: {operation}"

    def judge(self, cluster: Cluster) -> None:
        self._judge(cluster)

    def _begin(self, client: SimulatedClient) -> "_Program":
        program = _Program(self, client)
        program.start()
        return program

    def _fill_last_read(self, minitransaction: Minitransaction[Any], cluster: Cluster) -> None:
        for node in cluster.nodes:
            minitransaction.read(node.node_id, HOT_START, HOT_BYTES)
            minitransaction.read(node.node_id, WIDE_START, WIDE_BYTES)
            minitransaction.read(node.node_id, RING_START, RING_BYTES)
            if self.mix.large:
                minitransaction.read(node.node_id, LARGE_START, LARGE_BYTES)


class _Program:
    """What one client does, believes and has been told."""

    def __init__(self, work: Minitransactions, client: SimulatedClient) -> None:
        self._work = work
        self._client = client
        self._rng: random.Random = client.rng
        self._recorder = work.recorder
        self._profile = client.surroundings.profile
        self._events = client.surroundings.events
        self._only_reads = self._rng.random() < self._profile.readers_share
        self._stays = self._profile.client_stays
        self._beliefs = Beliefs(list(client.coordinator.known.entries))
        self._unknown: list[tuple[int, Tid]] = []
        client.after_each = self._ask_for_outcomes

    def start(self) -> None:
        """Begin to work, with a few minitransactions at a time."""
        loops = self._rng.randint(1, LOOPS_MAX)
        self._client.begin_life()
        for _ in range(loops):
            self._think()

    def execute(self, fill: Fill, *, timeout: float) -> int:
        """Start one minitransaction; returns its number in the history."""
        minitransaction = unbound_minitransaction(
            reads_on_failure=self._rng.random() < 0.3,
            lock_wait=self._rng.choice(self._profile.lock_waits),
            tag=self._rng.choice(TAGS),
        )
        fill(minitransaction)
        number = self._recorder.invoke(
            self._client.name,
            compares=compare_items(minitransaction),
            reads=read_items(minitransaction),
            writes=write_items(minitransaction),
            updates=update_items(minitransaction),
        )
        self._client.execute(
            minitransaction,
            timeout=timeout,
            done=lambda call: self._on_finished(number, minitransaction, call),
        )
        return number

    def _think(self) -> None:
        client = self._client
        if self._profile.client_stays and self._stays <= 0:
            client.later(0.0 if client.coordinator.idle else CLOSE_PATIENCE, self._leave)
            return
        client.later(self._rng.expovariate(1.0 / self._profile.think_s_mean), self._go_on)

    def _leave(self) -> None:
        """Go when nothing is under way, or soon after."""
        if not self._client.unfinished:  # else another loop will do it
            self._client.leave()

    def _go_on(self) -> None:
        if not self._work.budget.take():
            return
        self._stays -= 1
        timeout = self._rng.uniform(self._profile.timeout_s_min, self._profile.timeout_s_max)
        self.execute(self._fill, timeout=timeout)

    def _fill(self, minitransaction: Minitransaction[Any]) -> None:
        self._work.choice.fill(minitransaction, self._beliefs, only_reads=self._only_reads)

    # --- outcomes ------------------------------------------------------------------------------

    def _on_finished(self, number: int, minitransaction: Minitransaction[Any], call: Call) -> None:
        if call.result is not None:
            result = call.result
            self._beliefs.learn_from(minitransaction, result)
            self._recorder.complete(
                number,
                Outcome.COMMITTED if result.committed else Outcome.FAILED,
                values=tuple(result.reads),
                failed=failed_items(result),
                answers=answers(minitransaction, result),
                full=full_rings(minitransaction, result),
            )
        else:
            assert call.error is not None
            self._on_error(number, call.error)
        self._think()

    def _on_error(self, number: int, error: SinfoniaError) -> None:
        if error.definite:
            self._recorder.complete(number, Outcome.NOT_EXECUTED)
            return
        assert isinstance(error, OutcomeUnknown)
        assert isinstance(error.tid, Tid)
        self._events["outcomes unknown"] += 1
        if self._rng.random() < CURIOSITY:
            self._unknown.append((number, error.tid))

    def _ask_for_outcomes(self) -> None:
        """Look what has become of minitransactions whose outcome was unknown."""
        for number, tid in list(self._unknown):
            outcome = self._client.coordinator.outcome(tid)
            if outcome is None:
                continue
            self._unknown.remove((number, tid))
            self._events[f"unknown outcomes found {outcome.value}"] += 1
            if outcome is Settled.COMMITTED:
                self._recorder.resolve(number)
            elif outcome is Settled.ABORTED:
                self._recorder.complete(number, Outcome.NOT_EXECUTED)


def simulated(seed: int, profile: str = "") -> Simulation:
    """One run; ``profile`` is the name of a targeted one, without it the seed draws any."""
    cluster = Cluster(seed, draw_profile(seed, profile))
    workload = Minitransactions(cluster)
    faults = FaultsInBouts(workload) if cluster.profile.bouts else FaultsUntilDone()
    return Simulation(cluster, faults, workload, replay=replay_command(seed, profile))
