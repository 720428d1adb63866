"""Weather in which nothing is lost: slow disks and links, and links clogged for a while."""

import random
from collections.abc import Callable

from sinfonia.checking.history import Outcome
from sinfonia.simulation.disk import VirtualDisk
from sinfonia.simulation.foul_weather import FoulWeather
from sinfonia.simulation.simulator import Report
from sinfonia.simulation.workloads.minitransactions import simulated

SYNC_S = 0.1


def _calm_run(sync_s: float) -> Report:
    simulation = simulated(3, "calm")
    for node in simulation.cluster.nodes:
        node.disk.sync_s = sync_s
    return simulation.run()


def test_a_sync_takes_as_long_as_the_disk_is_slow() -> None:
    disk = VirtualDisk(random.Random(1))
    disk.sync_s = SYNC_S
    disk.open("file", create=True).sync()
    disk.sync_directory()
    assert disk.stalled_s == 2 * SYNC_S


def test_members_with_slow_disks_do_the_same_work_but_later() -> None:
    quick, slow = _calm_run(0.0), _calm_run(SYNC_S)
    assert slow.virtual_s > 2 * quick.virtual_s
    assert slow.outcomes.total() == quick.outcomes.total()
    assert slow.outcomes[Outcome.COMMITTED] > slow.outcomes.total() / 2


def _nothing(seconds: float) -> None:
    """No fault here depends on what is late."""
    del seconds


class _Swizzled:
    """A cluster that does nothing, and when which of its processes were clogged and released."""

    def __init__(self, seed: int) -> None:
        self.simulation = simulated(seed, "swizzles")
        surroundings = self.simulation.cluster.surroundings
        self.network, self.scheduler = surroundings.network, surroundings.scheduler
        weather = FoulWeather(
            surroundings,
            nodes=self.simulation.cluster.nodes,
            others=(self.simulation.cluster.managers,),
            disturb=_nothing,
        )
        swizzle = self._of_rate(weather, surroundings.profile.swizzle_rate)
        swizzle(random.Random(seed))
        self.clogged: list[str] = []
        self.released: list[str] = []
        self._look()
        self.scheduler.run(until=10.0, stop=lambda: False)

    @staticmethod
    def _of_rate(weather: FoulWeather, rate: float) -> Callable[[random.Random], None]:
        [strike] = [strike for its, strike in weather.kinds if its == rate]
        return strike

    def _look(self) -> None:
        """A process is clogged if it does not even reach itself."""
        now = {source for source, destination in self.network.clogged if source == destination}
        before = set(self.clogged) - set(self.released)
        self.clogged += sorted(now - before - set(self.released))
        self.released += sorted(before - now)
        self.scheduler.after(0.001, self._look)


def test_a_swizzle_clogs_one_after_another_and_releases_them_in_another_order() -> None:
    runs = [_Swizzled(seed) for seed in range(12)]
    for run in runs:
        assert len(run.clogged) >= 2
        assert sorted(run.clogged) == sorted(run.released)
        assert run.network.clogged == []
    assert any(run.clogged != run.released for run in runs)
    assert any(run.clogged == run.released for run in runs)
