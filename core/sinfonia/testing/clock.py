"""The clock of one process: near the true time in rate, and anything in offset.

Leases are durations, so the protocol may rely on rates that differ by at most RATE_ERROR_MAX, and
on nothing else: two clocks that were started together drift apart, and no two show the same time.
"""

import random
from dataclasses import dataclass

# Quartz is a thousand times better; a lease must leave room for this much.
RATE_ERROR_MAX = 0.01

OFFSET_MAX_S = 1_000_000.0


@dataclass(frozen=True, slots=True)
class Clock:
    """Monotonic seconds as one process counts them."""

    rate: float
    offset: float

    @classmethod
    def random(cls, rng: random.Random) -> "Clock":
        """A clock as wrong as it may be, on one side or the other, or a better one."""
        error = rng.choice((-1.0, 1.0, rng.uniform(-1.0, 1.0))) * RATE_ERROR_MAX
        return cls(1.0 + error, rng.uniform(0.0, OFFSET_MAX_S))

    def read(self, now: float) -> float:
        """What the clock shows at the true time ``now``."""
        return self.offset + self.rate * now
