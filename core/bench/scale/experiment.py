"""One point of the figures: a system of one size under one load, until it has done enough.

The same seed and costs give the same numbers, to the last digit.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import msgspec

from bench.scale.costs import Costs
from bench.scale.system import ApplicationNode, MemoryNode, Network, Process
from bench.scale.workload import Workload
from sinfonia.addresses import MemoryNodeId
from sinfonia.simulation.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Load:
    """What a minitransaction is: how many memory nodes it touches, with how many
    compare-and-swaps; None: all of them, and one at each."""

    spread: int | None
    compare_and_swaps: int | None

    def workload(self, memory_nodes: int) -> Workload | None:
        """For a system of that size; None: it is too small or too large for it."""
        spread = self.spread or memory_nodes
        swaps = self.compare_and_swaps or memory_nodes
        return Workload(memory_nodes, spread, swaps) if spread <= min(memory_nodes, swaps) else None


# Figure 14 is "2": six items, which are three compare-and-swaps.  Figure 15 is "all-16".
LOADS = {
    "1": Load(spread=1, compare_and_swaps=3),
    "2": Load(spread=2, compare_and_swaps=3),
    "all": Load(spread=None, compare_and_swaps=None),
    "all-16": Load(spread=None, compare_and_swaps=16),
}

# Programs of an application node that each wait for one minitransaction at a time, as in the paper.
PROGRAMS = 32

# Fewer of them where a minitransaction has hundreds of participants: so many votes awaited by each
# are enough to keep every memory node busy, and all of them have to fit into one process.
VOTES_IN_FLIGHT_MAX = 512

# How often each program is served, on average: before counting begins, and while it lasts.
ROUNDS_BEFORE = 2
ROUNDS_COUNTED = 4

# But so many votes at least are counted, so that chance evens out in small systems, too.
VOTES_COUNTED_MIN = 50_000

# Virtual seconds after which something must be wrong.
PATIENCE_S = 600.0


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """What was found for one load and one size.

    ``messages``: requests and replies; ``batches``: what crossed the network, many messages in one.
    ``attempts``: tids, of which the last one met no busy lock.  ``busy``: mean share of the time.
    ``efficiency``: how much of its share of growth it has kept (``relative_to``).
    """

    load: str
    memory_nodes: int
    application_nodes: int
    spread: int
    compare_and_swaps: int
    programs: int
    minitransactions: int
    minitransactions_per_s: int
    messages_per_minitransaction: float
    batches_per_minitransaction: float
    attempts_per_minitransaction: float
    memory_nodes_busy: float
    application_nodes_busy: float
    efficiency: float = 1.0

    def relative_to(self, base: Self) -> Self:
        """The same, with its scalability efficiency: growth of throughput by growth of size."""
        growth = self.minitransactions_per_s / base.minitransactions_per_s
        efficiency = round(growth / (self.memory_nodes / base.memory_nodes), 3)
        return msgspec.structs.replace(self, efficiency=efficiency)


def run(
    load: str, *, memory_nodes: int, costs: Costs, seed: int, votes_min: int = VOTES_COUNTED_MIN
) -> Point | None:
    """Measure ``memory_nodes``, with as many application nodes; None: the load is not for them."""
    workload = LOADS[load].workload(memory_nodes)
    if workload is None:
        return None
    programs = max(1, min(PROGRAMS, VOTES_IN_FLIGHT_MAX // workload.spread))
    system = System(workload, costs, seed)
    system.start(programs)
    one_round = memory_nodes * programs
    before = system.run_until(committed=ROUNDS_BEFORE * one_round)
    counted = max(ROUNDS_COUNTED * one_round, votes_min // workload.spread)
    after = system.run_until(committed=before.committed + counted)
    system.check_invariants()
    seconds = after.now - before.now
    committed = after.committed - before.committed
    memory_busy_s = after.memory_nodes_busy_s - before.memory_nodes_busy_s
    application_busy_s = after.application_nodes_busy_s - before.application_nodes_busy_s
    return Point(
        load=load,
        memory_nodes=memory_nodes,
        application_nodes=memory_nodes,
        spread=workload.spread,
        compare_and_swaps=workload.compare_and_swaps,
        programs=programs,
        minitransactions=committed,
        minitransactions_per_s=round(committed / seconds),
        messages_per_minitransaction=round((after.messages - before.messages) / committed, 2),
        batches_per_minitransaction=round((after.batches - before.batches) / committed, 2),
        attempts_per_minitransaction=round((after.attempts - before.attempts) / committed, 4),
        memory_nodes_busy=round(memory_busy_s / seconds / memory_nodes, 2),
        application_nodes_busy=round(application_busy_s / seconds / memory_nodes, 2),
    )


@dataclass(frozen=True, slots=True)
class Reading:
    """A system's counters at one moment."""

    now: float
    committed: int
    attempts: int
    messages: int
    batches: int
    memory_nodes_busy_s: float
    application_nodes_busy_s: float


class System:
    """Memory nodes, and as many application nodes."""

    def __init__(self, workload: Workload, costs: Costs, seed: int) -> None:
        self._scheduler = Scheduler()
        self._network = Network(self._scheduler, costs.network)
        self._memory_nodes = [
            MemoryNode(self._network, MemoryNodeId(node), costs.memory_node)
            for node in range(workload.memory_nodes)
        ]
        self._application_nodes = [
            ApplicationNode(
                self._network,
                costs.application_node,
                memory_nodes=self._memory_nodes,
                workload=workload,
                rng=random.Random(f"{seed}/{number}"),
            )
            for number in range(workload.memory_nodes)
        ]

    def start(self, programs: int) -> None:
        """Set so many programs of each application node to work."""
        for node in self._application_nodes:
            node.start(programs)

    def run_until(self, *, committed: int) -> Reading:
        """Let time pass until so much is done; the counters then."""
        tally = self._network.tally
        done = self._scheduler.run(until=PATIENCE_S, stop=lambda: tally.committed >= committed)
        assert done, f"{tally.committed} of {committed} minitransactions in {PATIENCE_S} s"
        return Reading(
            now=self._scheduler.now,
            committed=tally.committed,
            attempts=tally.attempts,
            messages=tally.messages,
            batches=tally.batches,
            memory_nodes_busy_s=_busy_s(self._memory_nodes),
            application_nodes_busy_s=_busy_s(self._application_nodes),
        )

    def check_invariants(self) -> None:
        """What holds between two events."""
        for node in self._memory_nodes:
            node.participant.check_invariants()


def _busy_s(processes: Sequence[Process]) -> float:
    return sum(process.busy_s for process in processes)
