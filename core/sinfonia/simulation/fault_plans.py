"""When faults strike: a plan lets them happen while clients work, and ends with nothing broken.

The plan decides when a run's work is over.  What strikes, and where, is drawn in faults.py at the
rates of the profile; a workload with a story of its own has its own plan (workloads/load.py).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from sinfonia.checking.history import Extent
from sinfonia.simulation.cluster import Cluster
from sinfonia.simulation.faults import Faults
from sinfonia.simulation.network import Weather
from sinfonia.simulation.progress import BOUT_S, Progress, progress_within
from sinfonia.simulation.workload import Workload

# Virtual seconds.  The work of a run is done in ten or twenty; one that takes longer is stuck.
WORK_S_MAX = 120.0


class FaultPlan(Protocol):
    """The first act of a run."""

    def play(self, cluster: Cluster, workload: Workload) -> None:
        """Let clients do all their work, and let things go wrong meanwhile.

        Afterwards nothing goes wrong any more.  Raises AssertionError if the work takes too long.
        """
        ...


class FaultsUntilDone:
    """Faults strike at the rates of the profile until the work is done, or its time is up.

    Work that may be impossible under faults is given ``calm_s_max`` more, in which nothing goes
    wrong.
    """

    def __init__(self, work_s_max: float = WORK_S_MAX, calm_s_max: float = 0.0) -> None:
        self._work_s_max = work_s_max
        self._calm_s_max = calm_s_max

    def play(self, cluster: Cluster, workload: Workload) -> None:
        """Of FaultPlan."""
        with_operator(cluster)
        cluster.employ(workload)
        self.strike(cluster, workload)

    def strike(self, cluster: Cluster, workload: Workload) -> None:
        """Let faults strike clients that are at work."""
        faults = begin_faults(cluster, str(cluster.seed))
        losses = cluster.store_losses
        if losses is not None:
            losses.begin()
        done = cluster.run(self._work_s_max, until=_end_of(cluster, workload))
        end_faults(cluster, faults)
        if losses is not None:
            losses.stop()
        if cluster.operator is not None:
            cluster.operator.stop()
        if self._calm_s_max and not done:
            done = cluster.run(self._calm_s_max, until=lambda: workload.done)
        calm = f", the last {self._calm_s_max} s of them calm" if self._calm_s_max else ""
        assert done, f"the work was not done in {self._work_s_max + self._calm_s_max} s{calm}"


class Endless(Protocol):
    """A workload whose clients go on for as long as they are told to."""

    @property
    def words(self) -> Sequence[Extent]:
        """What clients write again and again."""
        ...

    def endless(self) -> AbstractContextManager[None]:
        """Meanwhile the work does not end."""
        ...


class FaultsInBouts:
    """Faults come in bouts; after each, clients get on in bounded time though they never stop.

    What is left of the work is done after the last bout, under faults again.
    """

    def __init__(self, work: Endless) -> None:
        self._work = work
        self._after = FaultsUntilDone()

    def play(self, cluster: Cluster, workload: Workload) -> None:
        """Of FaultPlan."""
        with_operator(cluster)
        cluster.employ(workload)
        progress = Progress(cluster.recorder, self._work.words)
        within = progress_within(cluster.profile)
        with self._work.endless():
            for bout in range(cluster.profile.bouts):
                faults = begin_faults(cluster, f"{cluster.seed}/{bout}")
                cluster.pass_time(BOUT_S)
                end_faults(cluster, faults)
                progress.begin()
                written = cluster.run(within, until=progress.everywhere)
                assert written, (
                    f"{progress.missing} was not written within {within:.1f} s after a bout"
                )
        self._after.strike(cluster, workload)


def with_operator(cluster: Cluster) -> None:
    """Let the operator, if there is one, begin to ask for changes."""
    if cluster.operator is not None:
        cluster.operator.start()


def begin_faults(cluster: Cluster, label: str) -> Faults:
    """From now on things go wrong; ``label`` decides which, and when."""
    cluster.surroundings.network.weather = cluster.profile.weather
    cluster.set_mortal(mortal=True)
    return Faults(
        cluster.surroundings,
        seed=label,
        nodes=cluster.nodes,
        managers=cluster.managers,
        clients=cluster.clients,
    )


def end_faults(cluster: Cluster, faults: Faults) -> None:
    """Nothing goes wrong from now on."""
    cluster.set_mortal(mortal=False)
    faults.stop()
    cluster.surroundings.network.weather = Weather()


def _end_of(cluster: Cluster, workload: Workload) -> Callable[[], bool]:
    """When the work is over: when it is done, or, if the last copies are to be lost, then."""
    if cluster.profile.last_copies_rate:
        return lambda: bool(cluster.surroundings.ended)
    return lambda: workload.done
