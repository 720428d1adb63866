"""What is slow and goes on living: disks, links, and links that are clogged for a while.

No message and no write is lost in such weather.  That is what makes it dangerous: a slow process is
neither dead nor in time, and what was held up arrives all at once.
"""

import random
from collections.abc import Callable, Sequence

from sinfonia.simulation.memory_node import SimulatedMemoryNode
from sinfonia.simulation.process import Process, Surroundings

# How much longer a sync takes: from what no member is dropped for, up to a silence for which a
# member is taken for dead.
SLOW_SYNC_S_MIN = 0.05
SLOW_SYNC_S_MAX = 1.0

# For how long a disk or a link is slow.
SLOW_S_MIN = 0.5
SLOW_S_MAX = 4.0

# All processes of a swizzle are clogged, one by one, within this time; and released within as much.
SWIZZLE_S_MAX = 1.5

Strike = Callable[[random.Random], None]


class FoulWeather:
    """Strikes when it is told to; ``disturb(seconds)`` is told that processes may be late."""

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        nodes: Sequence[SimulatedMemoryNode],
        others: Sequence[Sequence[Process]],
        disturb: Callable[[float], None],
    ) -> None:
        """``others`` are the managers and the clients; both lists may grow."""
        self._surroundings = surroundings
        self._nodes = nodes
        self._others = others
        self._disturb = disturb

    @property
    def kinds(self) -> list[tuple[float, Strike]]:
        """The rate of each kind of weather, and what it does."""
        profile = self._surroundings.profile
        return [
            (profile.slow_disk_rate, self._slow_disk),
            (profile.slow_link_rate, self._slow_links),
            (profile.swizzle_rate, self._swizzle),
        ]

    def stop(self) -> None:
        """Everything is as fast as ever, and what was held up arrives."""
        network = self._surroundings.network
        network.slow.clear()
        for link in network.clogged:
            network.unclog(link)
        for node in self._nodes:
            node.disk.sync_s = 0.0

    def _slow_disk(self, rng: random.Random) -> None:
        """The syncs of one member take longer."""
        node = rng.choice(self._nodes)
        node.disk.sync_s = rng.uniform(SLOW_SYNC_S_MIN, SLOW_SYNC_S_MAX)
        self._note("slow disks", node.name, f"syncs in {node.disk.sync_s:.3f} s more")
        self._later(rng.uniform(SLOW_S_MIN, SLOW_S_MAX), self._quick_disk, node)

    def _quick_disk(self, node: SimulatedMemoryNode) -> None:
        node.disk.sync_s = 0.0

    def _slow_links(self, rng: random.Random) -> None:
        """What goes to one process from some others, or from it to them, takes longer."""
        names = self._names()
        one = rng.choice(names)
        some = [name for name in names if name != one and rng.random() < 0.5]
        most = self._surroundings.profile.slow_link_s_max
        seconds = rng.triangular(0.0, most, most)
        links = [(name, one) if rng.random() < 0.5 else (one, name) for name in some]
        network = self._surroundings.network
        network.slow.update(dict.fromkeys(links, seconds))
        self._note("slow links", *links, f"take {seconds:.3f} s more")
        lasts = rng.uniform(SLOW_S_MIN, SLOW_S_MAX)
        self._later(lasts, self._quick_links, links)
        self._disturb(lasts + seconds)

    def _quick_links(self, links: list[tuple[str, str]]) -> None:
        for link in links:
            self._surroundings.network.slow.pop(link, None)

    def _swizzle(self, rng: random.Random) -> None:
        """Clog the links of some processes, one process after another; release them in another
        order."""
        names = self._names()
        victims = rng.sample(names, rng.randint(2, max(2, len(names) // 2)))
        self._note("swizzles", *victims)
        clogging = sorted(rng.uniform(0.0, SWIZZLE_S_MAX) for _ in victims)
        for name, seconds in zip(victims, clogging, strict=True):
            links = [(name, other) for other in names] + [(other, name) for other in names]
            self._later(seconds, self._surroundings.network.clog, links)
        rng.shuffle(victims)
        releasing = sorted(rng.uniform(SWIZZLE_S_MAX, 2 * SWIZZLE_S_MAX) for _ in victims)
        for name, seconds in zip(victims, releasing, strict=True):
            self._later(seconds, self._release, name)
        self._disturb(2 * SWIZZLE_S_MAX)

    def _release(self, name: str) -> None:
        network = self._surroundings.network
        for link in network.clogged:
            if name in link:
                network.unclog(link)

    def _names(self) -> list[str]:
        return [each.name for group in (self._nodes, *self._others) for each in group]

    def _later(self, seconds: float, callback: Callable[..., None], *arguments: object) -> None:
        self._surroundings.scheduler.after(seconds, callback, *arguments)

    def _note(self, event: str, *what: object) -> None:
        self._surroundings.events[event] += 1
        self._surroundings.scheduler.note(event, *what)
