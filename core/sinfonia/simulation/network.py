"""A network that may do to a message what networks do: delay, lose, double, reorder and replay it.

It never invents or changes one.  A message goes to the process that is attached under the name
when it arrives, also to the next life of the process that it was sent to.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sinfonia.simulation.scheduler import Scheduler

MessageT = TypeVar("MessageT")

Link = tuple[str, str]  # source, destination

# Old messages that a replay chooses from.
REPLAY_MEMORY = 64


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad the network is; probabilities are per message, times in seconds."""

    delay_mean: float = 0.001
    late: float = 0.0  # the probability of a delay of up to late_max
    late_max: float = 1.0
    loss: float = 0.0
    duplication: float = 0.0
    replay: float = 0.0  # of sending an old message again along with this one


@dataclass(slots=True)
class Traffic:
    """Counts of messages."""

    sent: int = 0
    lost: int = 0
    duplicated: int = 0
    replayed: int = 0


@dataclass(slots=True)
class Network(Generic[MessageT]):
    """Links between processes, which are known by their names.

    ``wire`` is applied to each message that arrives: the identity, or encode and decode.
    """

    scheduler: Scheduler
    rng: random.Random
    weather: Weather
    wire: Callable[[MessageT], MessageT] = lambda message: message
    traffic: Traffic = field(default_factory=Traffic)
    _receivers: dict[str, Callable[[str, MessageT], None]] = field(default_factory=dict)
    slow: dict[Link, float] = field(default_factory=dict)  # seconds that a message takes longer
    _cut: set[Link] = field(default_factory=set)
    _clogged: dict[Link, list[MessageT]] = field(default_factory=dict)  # what is held up there
    _old: list[tuple[str, str, MessageT]] = field(default_factory=list)

    def attach(self, name: str, receive: Callable[[str, MessageT], None]) -> None:
        """Deliver what is sent to ``name`` by calling ``receive(source, message)``."""
        self._receivers[name] = receive

    def detach(self, name: str) -> None:
        """Lose what arrives for ``name`` from now on."""
        self._receivers.pop(name, None)

    def send(self, source: str, destination: str, message: MessageT) -> None:
        """Perhaps deliver ``message``, at some time, once or more often."""
        rng, weather = self.rng, self.weather
        self.traffic.sent += 1
        if weather.replay:
            self._remember(source, destination, message)
            if rng.random() < weather.replay:
                self.traffic.replayed += 1
                self._dispatch(*rng.choice(self._old))
        if weather.duplication and rng.random() < weather.duplication:
            self.traffic.duplicated += 1
            self._dispatch(source, destination, message)
        if weather.loss and rng.random() < weather.loss:
            self._lose(source, destination, message)
        else:
            self._dispatch(source, destination, message)

    def cut(self, links: Iterable[Link]) -> None:
        """Lose what arrives over these links until ``heal``."""
        self._cut.update(links)

    def heal(self) -> None:
        """Undo all cuts."""
        self._cut.clear()

    @property
    def troubled(self) -> bool:
        """Whether some link is cut, clogged or slow."""
        return bool(self._cut or self._clogged or self.slow)

    def clog(self, links: Iterable[Link]) -> None:
        """Hold up what would arrive over these links until they are unclogged."""
        for link in links:
            self._clogged.setdefault(link, [])

    @property
    def clogged(self) -> list[Link]:
        """The links over which nothing arrives now, and nothing is lost."""
        return list(self._clogged)

    def unclog(self, link: Link) -> None:
        """What was held up there arrives soon, and what is sent from now on as well."""
        for message in self._clogged.pop(link):
            self._dispatch(*link, message)

    def _remember(self, source: str, destination: str, message: MessageT) -> None:
        if len(self._old) < REPLAY_MEMORY:
            self._old.append((source, destination, message))
        else:
            # A random victim, so that some messages are remembered for very long.
            self._old[self.rng.randrange(REPLAY_MEMORY)] = (source, destination, message)

    def _dispatch(self, source: str, destination: str, message: MessageT) -> None:
        delay = self.rng.expovariate(1.0 / self.weather.delay_mean)
        if self.weather.late and self.rng.random() < self.weather.late:
            delay += self.rng.uniform(0.0, self.weather.late_max)
        if self.slow:
            delay += self.slow.get((source, destination), 0.0)
        self.scheduler.after(delay, self._arrive, source, destination, message)

    def _arrive(self, source: str, destination: str, message: MessageT) -> None:
        if self._clogged and (source, destination) in self._clogged:
            self._clogged[source, destination].append(message)
            return
        receive = self._receivers.get(destination)
        if receive is None or (self._cut and (source, destination) in self._cut):
            self._lose(source, destination, message)
            return
        self.scheduler.note(source, "->", destination, message)
        receive(source, self.wire(message))

    def _lose(self, source: str, destination: str, message: MessageT) -> None:
        self.traffic.lost += 1
        self.scheduler.note(source, "-> (lost)", destination, message)
