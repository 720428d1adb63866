"""The clock that promises are measured on: it never steps, and it goes on while the machine sleeps.

Leases and read locks end by themselves.  On a clock that stands still in suspend, as
CLOCK_MONOTONIC does, they would outlast a suspend, and two members could serve at once.

Code that measures a promise must read the clock on the right side of the event: after receiving
what the promise is counted from, after computing what the promise covers.  A process may be stopped
between any two of its steps.
"""

import time


def seconds() -> float:
    """Seconds since the machine started, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
