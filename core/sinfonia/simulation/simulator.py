"""A whole cluster in one thread and virtual time: one seed decides everything that happens.

The machines are the real ones, down to the bytes of the redo log; only clocks, disks and the
network are played.  A run is a cluster, a plan of faults and a workload, and it has three acts:

1. clients work while faults strike;
2. everything is mended and must come to rest within a bounded time, with nothing left over;
3. all memory nodes lose their power at once and come back.

The workload inspects the cluster after the second act and after the third.  In the end it judges
what clients were told.
"""

from collections import Counter
from dataclasses import dataclass

from sinfonia.checking.history import Outcome
from sinfonia.simulation.cluster import Cluster
from sinfonia.simulation.fault_plans import FaultPlan
from sinfonia.simulation.network import Traffic, Weather
from sinfonia.simulation.profile import Profile
from sinfonia.simulation.rest import come_to_rest, compare_replicas, lose_power
from sinfonia.simulation.transcript import words
from sinfonia.simulation.workload import Workload

TRACE_EVENTS = 60


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
    """One run.  ``replay`` says to a person how it is run again."""

    def __init__(
        self, cluster: Cluster, faults: FaultPlan, workload: Workload, *, replay: str
    ) -> None:
        self.cluster = cluster
        self.faults = faults
        self.workload = workload
        self._replay = replay

    def run(self) -> Report:
        """Play all three acts; raises SimulationFailure."""
        cluster = self.cluster
        try:
            self._play()
        except Exception as error:  # whatever a machine raises is a finding, and needs its seed
            raise SimulationFailure(self._explain(error)) from error
        return Report(
            cluster.seed,
            cluster.profile,
            Counter(each.outcome for each in cluster.recorder.operations),
            cluster.events,
            cluster.surroundings.network.traffic,
            cluster.scheduler.now,
        )

    def _play(self) -> None:
        cluster, workload = self.cluster, self.workload
        self._set_up()
        self.faults.play(cluster, workload)
        if not cluster.surroundings.ended:
            come_to_rest(cluster)
            compare_replicas(cluster)
            workload.inspect(cluster)
            lose_power(cluster)
            workload.inspect(cluster)
        workload.judge(cluster)

    def _set_up(self) -> None:
        """In fine weather."""
        cluster, network = self.cluster, self.cluster.surroundings.network
        cluster.start()
        weather, network.weather = network.weather, Weather()
        self.workload.set_up(cluster)
        network.weather = weather

    def _explain(self, error: Exception) -> str:
        trace = "\n".join(
            f"{at:10.4f}  {words(event)}"
            for at, event in self.cluster.scheduler.trace(TRACE_EVENTS)
        )
        return (
            f"{type(error).__name__}: {error}\n\nthe last events:\n{trace}\n\n"
            f"profile: {self.cluster.profile}\nreproduce with: {self._replay}"
        )


def replay_command(seed: int, profile: str) -> str:
    """How a run of ``python -m sinfonia.simulation`` is run again."""
    again = f"make sim RUNS=1 SEED={seed}"
    return f"{again} PROFILE={profile}" if profile else again
