"""What strikes a simulated cluster, at random moments, until it is told to stop.

Each kind of fault has its own generator of chance, so that a profile without one kind meets the
others at the same moments.
"""

import random
from collections.abc import Callable, Sequence

from sinfonia.testing.process import Process, Surroundings
from sinfonia.testing.simulated_manager import SimulatedManager
from sinfonia.testing.simulated_memory_node import SimulatedMemoryNode

PAUSE_S_MAX = 1.5
PARTITION_S_MAX = 2.0
LINKS_CUT_SHARE = 0.3
DISK_FULL_S_MAX = 1.0


class Faults:
    """Strikes at the rates of the profile."""

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        seed: int,
        nodes: Sequence[SimulatedMemoryNode],
        manager: SimulatedManager,
        clients: Sequence[Process],
    ) -> None:
        self._surroundings = surroundings
        self._nodes = nodes
        self._manager = manager
        self._clients = clients
        self._active = True
        profile = surroundings.profile
        kinds: list[tuple[float, Callable[[random.Random], None]]] = [
            (profile.node_kill_rate, self._kill_node),
            (profile.cluster_kill_rate, self._kill_cluster),
            (profile.manager_kill_rate, self._kill_manager),
            (profile.pause_rate, self._pause),
            (profile.partition_rate, self._partition),
            (profile.fsync_failure_rate, self._fail_sync),
            (profile.disk_full_rate, self._fill_disk),
        ]
        for rate, strike in kinds:
            if rate:
                self._plan(random.Random(f"{seed} {strike.__name__}"), rate, strike)

    def stop(self) -> None:
        """Strike no more, and mend what is broken."""
        self._active = False
        self._surroundings.network.heal()
        for process in (*self._nodes, self._manager, *self._clients):
            process.resume()
        for node in self._nodes:
            node.mend_disk()

    def _plan(
        self, rng: random.Random, rate: float, strike: Callable[[random.Random], None]
    ) -> None:
        self._surroundings.scheduler.after(rng.expovariate(rate), self._strike, rng, rate, strike)

    def _strike(
        self, rng: random.Random, rate: float, strike: Callable[[random.Random], None]
    ) -> None:
        if self._active:
            strike(rng)
            self._plan(rng, rate, strike)

    def _kill_node(self, rng: random.Random) -> None:
        node = rng.choice(self._nodes)
        if rng.random() < self._surroundings.profile.kill_in_disk_share:
            node.die_soon(rng)
        else:
            node.kill()

    def _kill_cluster(self, rng: random.Random) -> None:
        for node in self._nodes:
            node.kill()
        if rng.random() < 0.5:
            self._manager.kill()

    def _kill_manager(self, rng: random.Random) -> None:
        del rng
        self._manager.kill()

    def _pause(self, rng: random.Random) -> None:
        process = rng.choice([*self._nodes, self._manager, *self._clients])
        if process.alive and not process.paused:
            self._surroundings.events["pauses"] += 1
            process.pause()
            self._surroundings.scheduler.after(rng.uniform(0.0, PAUSE_S_MAX), process.resume)

    def _partition(self, rng: random.Random) -> None:
        """Cut a part off from the rest, in one direction or both, or links here and there."""
        names = [each.name for each in (*self._nodes, self._manager, *self._clients)]
        if rng.random() < 0.3:
            links = {(a, b) for a in names for b in names if rng.random() < LINKS_CUT_SHARE}
        else:
            apart = set(rng.sample(names, rng.choice((1, len(names) // 2))))
            out = {(a, b) for a in apart for b in names if b not in apart}
            back = {(b, a) for a, b in out}
            links = rng.choice((out, back, out | back))
        self._surroundings.events["partitions"] += 1
        # Sorted, so that nothing depends on how this Python hashes strings.
        self._surroundings.scheduler.note("cut", *sorted(links))
        self._surroundings.network.cut(links)
        self._surroundings.scheduler.after(
            rng.uniform(0.1, PARTITION_S_MAX), self._surroundings.network.heal
        )

    def _fail_sync(self, rng: random.Random) -> None:
        self._surroundings.events["failed syncs"] += 1
        rng.choice(self._nodes).fail_next_sync()

    def _fill_disk(self, rng: random.Random) -> None:
        node = rng.choice(self._nodes)
        self._surroundings.events["full disks"] += 1
        node.fill_disk()
        self._surroundings.scheduler.after(rng.uniform(0.0, DISK_FULL_S_MAX), node.mend_disk)
