"""A simulated process: it may be killed between any two steps, and be paused for any time.

What a process asked to happen later dies with it; while it is paused, everything waits, and then
comes all at once while the clock has gone on.
"""

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from sinfonia.simulation.clock import Clock, SteadyClock, uneven_clock
from sinfonia.simulation.disk import PowerLost
from sinfonia.simulation.marks import Seen
from sinfonia.simulation.network import Network
from sinfonia.simulation.profile import Profile
from sinfonia.simulation.scheduler import Scheduler
from sinfonia.simulation.wire import Message

# Added to a wake-up, so that rounding lets none come just before its time.
CLOCK_GRAIN_S = 1e-6


class Killed(BaseException):
    """The process dies in the middle of a step; like the real thing, no handler may stop it."""


@dataclass(slots=True)
class Surroundings:
    """What the processes of one simulation share.  ``events`` counts what happened to them."""

    scheduler: Scheduler
    network: Network[Message]
    profile: Profile
    seed: int = 0
    managers: list[str] = field(default_factory=lambda: ["manager"])
    events: Counter[str] = field(default_factory=Counter)
    ended: str = ""  # why the run is over before its work is done
    seen: Seen = field(init=False)

    def __post_init__(self) -> None:
        self.seen = Seen(self.events)


class Process:
    """A name on the network, a clock, and lives that are numbered."""

    def __init__(self, surroundings: Surroundings, name: str, rng: random.Random) -> None:
        self.surroundings = surroundings
        self.name = name
        self.rng = rng
        self.clock: Clock = SteadyClock.random(rng)
        if surroundings.profile.uneven_clocks:
            self.clock = uneven_clock(random.Random(f"{surroundings.seed} clock of {name}"))
        self.life = 0
        self.alive = False
        self.paused = False
        self._scheduler = surroundings.scheduler
        # What the clock shows is asked for several times in one step.
        self._read_at = math.nan
        self._shown = 0.0
        self._held: list[tuple[int, Callable[..., None], tuple[object, ...]]] = []

    @property
    def now(self) -> float:
        """What this process's clock shows."""
        at = self._scheduler.now
        if at != self._read_at:
            self._read_at, self._shown = at, self.clock.read(at)
        return self._shown

    def begin_life(self) -> None:
        """From now on messages arrive."""
        assert not self.alive
        self.life += 1
        self.alive = True
        self.surroundings.network.attach(self.name, self._on_message)

    def kill(self) -> None:
        """Drop everything that is not on a disk."""
        if not self.alive:
            return
        self.surroundings.scheduler.note(self.name, "dies")
        self.alive = False
        self.paused = False
        self._held.clear()
        self.surroundings.network.detach(self.name)
        self.on_killed()

    def pause(self) -> None:
        """Stop taking steps."""
        self.surroundings.scheduler.note(self.name, "stands still")
        self.paused = True

    def resume(self) -> None:
        """Take all the steps that had to wait."""
        if not self.paused:
            return
        self.surroundings.scheduler.note(self.name, "goes on")
        self.paused = False
        held, self._held = self._held, []
        # As a driver does: first what has come, then what the clock says.
        held.sort(key=lambda step: step[1] != self.on_message)
        for life, callback, arguments in held:
            self._step(life, callback, arguments)

    def later(self, delay: float, callback: Callable[..., None], *arguments: object) -> None:
        """Call ``callback`` in ``delay`` seconds, if this life lasts that long."""
        self._scheduler.after(delay, self._step, self.life, callback, arguments)

    def at(self, shown: float, callback: Callable[..., None], *arguments: object) -> None:
        """Call ``callback`` when its clock shows ``shown``, if this life lasts that long."""
        self.later(self.real_seconds(shown - self.now) + CLOCK_GRAIN_S, callback, *arguments)

    def real_seconds(self, seconds: float) -> float:
        """How long ``seconds`` of its clock really take from now on."""
        return self.clock.true_seconds(self.surroundings.scheduler.now, seconds)

    def send(self, destination: str, message: Message) -> None:
        """Put a message on the network."""
        self.surroundings.network.send(self.name, destination, message)

    def on_message(self, source: str, message: Message) -> None:
        """A message has arrived."""
        raise NotImplementedError

    def on_killed(self) -> None:
        """The process is dead; see to what outlives it."""

    def _on_message(self, source: str, message: Message) -> None:
        self._step(self.life, self.on_message, (source, message))

    def _step(
        self, life: int, callback: Callable[..., None], arguments: tuple[object, ...]
    ) -> None:
        if not self.alive or life != self.life:
            return
        if self.paused:
            self._held.append((life, callback, arguments))
            return
        try:
            callback(*arguments)
        except (Killed, PowerLost):
            self.kill()
