"""A figure is written and read through its declaration, never through its name alone.

So the type checker knows the type of every value, a figure that no table lists cannot be given, and
a reader cannot ask for one that does not exist.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Generic, TypeVar

Value = int | float | str
Figures = Mapping[str, Value]

V = TypeVar("V", int, float, str)


class Kind(Enum):
    """How a figure changes; the words are Prometheus's."""

    COUNTER = "counter"  # only grows within one life of a process
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    WORD = "word"


class Unit(Enum):
    """What a figure counts; status and `top` show it accordingly."""

    NUMBER = "number"
    BYTES = "bytes"
    SECONDS = "seconds"
    NONE = ""


class Role(Enum):
    """What a process is at the moment that it gives a figure."""

    STARTING = "starting"
    PRIMARY = "primary"
    REPLICA = "replica"
    MANAGING = "managing"
    STANDBY = "standby"
    CLIENT = "client"


MEMBERS = frozenset({Role.STARTING, Role.PRIMARY, Role.REPLICA})
ACTIVE_MEMBERS = frozenset({Role.PRIMARY, Role.REPLICA})
PRIMARIES = frozenset({Role.PRIMARY})
REPLICAS = frozenset({Role.REPLICA})
MANAGERS = frozenset({Role.MANAGING, Role.STANDBY})
ACTIVE_MANAGERS = frozenset({Role.MANAGING})
CLIENTS = frozenset({Role.CLIENT})


@dataclass(frozen=True, slots=True)
class Rate:
    """How `top` shows a counter, per second: its name in JSON, and its column."""

    name: str
    column: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure(Generic[V]):
    """One figure.

    roles: the processes that give it; ``when``: only if this is so, in words (empty: always).
    metric: its name in Prometheus (empty: it is not a metric of its own).  words: all values of a
    word that is a metric.  column: the heading under which `status` shows it; rate: how `top` does.
    """

    name: str
    type: type[V]
    kind: Kind
    help: str
    roles: frozenset[Role]
    unit: Unit = Unit.NUMBER
    when: str = ""
    metric: str = ""
    words: tuple[str, ...] = ()
    column: str = ""
    rate: Rate | None = None

    def fits(self, value: Value) -> bool:
        """Whether ``value`` is of the figure's type; a whole number is a float, too."""
        return isinstance(value, int | float if self.type is float else self.type)

    def read(self, figures: Figures) -> V | None:
        """The figure as a process gave it; None if it did not."""
        value = figures.get(self.name)
        if value is None or not self.fits(value):
            return None
        return self.type(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureFamily(Generic[V]):
    """Figures that differ in what they are about, which ``label`` names in Prometheus.

    Their names are ``prefix`` and that.  The rest is as Figure has it.
    """

    prefix: str
    label: str
    type: type[V]
    kind: Kind
    help: str
    roles: frozenset[Role]
    unit: Unit = Unit.NUMBER
    when: str = ""
    metric: str = ""
    column: str = ""

    def of(self, about: object) -> Figure[V]:
        """The figure about one thing."""
        return Figure(
            name=f"{self.prefix}{about}",
            type=self.type,
            kind=self.kind,
            help=self.help,
            roles=self.roles,
            unit=self.unit,
            when=self.when,
        )

    def read(self, figures: Figures) -> Iterator[tuple[str, V]]:
        """The figures of the family that a process gave, by what they are about."""
        for name in figures:
            if name.startswith(self.prefix):
                about = name.removeprefix(self.prefix)
                value = self.of(about).read(figures)
                if value is not None:
                    yield about, value


def counter(
    name: str,
    metric: str,
    roles: frozenset[Role],
    meaning: str,
    *,
    unit: Unit = Unit.NUMBER,
    when: str = "",
    rate: Rate | None = None,
    column: str = "",
) -> Figure[int]:
    """A whole number that only grows within one life of a process."""
    return Figure(
        name=name,
        type=int,
        kind=Kind.COUNTER,
        help=meaning,
        roles=roles,
        unit=unit,
        when=when,
        metric=metric,
        rate=rate,
        column=column,
    )


def gauge(
    name: str,
    metric: str,
    roles: frozenset[Role],
    meaning: str,
    *,
    unit: Unit = Unit.NUMBER,
    when: str = "",
    rate: Rate | None = None,
    column: str = "",
) -> Figure[int]:
    """A whole number that goes up and down."""
    figure = counter(name, metric, roles, meaning, unit=unit, when=when, rate=rate, column=column)
    return replace(figure, kind=Kind.GAUGE)


def seconds_counter(
    name: str, metric: str, roles: frozenset[Role], meaning: str, *, when: str = ""
) -> Figure[float]:
    """Time that only grows within one life of a process."""
    return Figure(
        name=name,
        type=float,
        kind=Kind.COUNTER,
        help=meaning,
        roles=roles,
        unit=Unit.SECONDS,
        when=when,
        metric=metric,
    )


def seconds_gauge(
    name: str, metric: str, roles: frozenset[Role], meaning: str, *, when: str = ""
) -> Figure[float]:
    """Time that goes up and down."""
    return replace(seconds_counter(name, metric, roles, meaning, when=when), kind=Kind.GAUGE)


def word(
    name: str,
    roles: frozenset[Role],
    meaning: str,
    *,
    when: str = "",
    metric: str = "",
    words: tuple[str, ...] = (),
) -> Figure[str]:
    """Text; with ``words``, one of these."""
    return Figure(
        name=name,
        type=str,
        kind=Kind.WORD,
        help=meaning,
        roles=roles,
        unit=Unit.NONE,
        when=when,
        metric=metric,
        words=words,
    )
