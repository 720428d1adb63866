"""The clock of one process: near the true time in rate, and anything in offset.

Leases are durations, so the protocol may rely on rates that differ by at most a tenth, and on
nothing else: two clocks that were started together drift apart, and no two show the same time.
Most runs have clocks that are merely bad; in some each is as far from the others as the protocol
allows, and a rate may change at any moment.
"""

import math
import random
from bisect import bisect_right
from dataclasses import dataclass
from typing import Protocol

# Quartz is a thousand times better; a lease must leave room for this much.
RATE_ERROR_MAX = 0.01

# The fastest clock and the slowest one differ by what PROTOCOL.md allows, and by no more.
RATES_DIFFER_BY = 0.1
RATE_MAX = math.sqrt(1 + RATES_DIFFER_BY)
RATE_MIN = 1 / RATE_MAX

# How long a clock that changes its rate keeps one: less than a lease, or for many leases.
RATE_KEPT_S_MEANS = (0.1, 1.0, 10.0)

OFFSET_MAX_S = 1_000_000.0


class Clock(Protocol):
    """Monotonic seconds as one process counts them."""

    def read(self, now: float) -> float:
        """What the clock shows at the true time ``now``."""
        ...

    def true_seconds(self, now: float, seconds: float) -> float:
        """How long it really takes from ``now`` on until the clock has counted ``seconds``."""
        ...


@dataclass(frozen=True, slots=True)
class SteadyClock:
    """A clock that has one rate for ever."""

    rate: float
    offset: float

    @classmethod
    def random(cls, rng: random.Random) -> "SteadyClock":
        """A bad clock, wrong on one side or the other, or a better one."""
        error = rng.choice((-1.0, 1.0, rng.uniform(-1.0, 1.0))) * RATE_ERROR_MAX
        return cls(1.0 + error, rng.uniform(0.0, OFFSET_MAX_S))

    def read(self, now: float) -> float:
        """Of Clock."""
        return self.offset + self.rate * now

    def true_seconds(self, now: float, seconds: float) -> float:
        """Of Clock."""
        del now
        return seconds / self.rate


class ChangingClock:
    """A clock whose rate changes now and then, within what is allowed.

    Each stretch of one rate is drawn when a reading first goes beyond the one before.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._kept_s_mean = rng.choice(RATE_KEPT_S_MEANS)
        # Of each stretch: when it begins, what is shown then, and its rate.
        self._begins = [0.0]
        self._shows = [rng.uniform(0.0, OFFSET_MAX_S)]
        self._rates = [allowed_rate(rng)]

    def read(self, now: float) -> float:
        """Of Clock."""
        while self._begins[-1] <= now:
            self._add_stretch()
        at = bisect_right(self._begins, now) - 1
        return self._shows[at] + self._rates[at] * (now - self._begins[at])

    def true_seconds(self, now: float, seconds: float) -> float:
        """Of Clock."""
        shown = self.read(now) + seconds
        while self._shows[-1] <= shown:
            self._add_stretch()
        at = bisect_right(self._shows, shown) - 1
        return self._begins[at] + (shown - self._shows[at]) / self._rates[at] - now

    def _add_stretch(self) -> None:
        kept = self._rng.expovariate(1.0 / self._kept_s_mean)
        self._begins.append(self._begins[-1] + kept)
        self._shows.append(self._shows[-1] + self._rates[-1] * kept)
        self._rates.append(allowed_rate(self._rng))


def allowed_rate(rng: random.Random) -> float:
    """A rate that the protocol allows: as often as not the fastest one or the slowest."""
    return rng.choice((RATE_MIN, RATE_MAX, rng.uniform(RATE_MIN, RATE_MAX)))


def uneven_clock(rng: random.Random) -> Clock:
    """A clock as wrong as the protocol allows, for ever or now and then."""
    if rng.random() < 0.5:
        return ChangingClock(rng)
    return SteadyClock(rng.choice((RATE_MIN, RATE_MAX)), rng.uniform(0.0, OFFSET_MAX_S))
