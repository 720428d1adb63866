"""Any program may read a log, from any position on, without a trace in it.

A reader without a writer record holds nothing up: what it has not read in time is trimmed, and it
is told so (``Trimmed``).  Records between ``trimmed`` and the tail have no holes.

Stamps are of the writers' wall clocks, so that the index by time is as good as these are.  An entry
with a stamp that is too high makes a search end before it, one that is too low makes it end behind.
"""

from dataclasses import dataclass
from itertools import takewhile

from groupcomm.log.arrivals import Arrivals
from groupcomm.log.entries import Entry, decode_head
from groupcomm.log.layout import WORD_BYTES, Log
from groupcomm.log.limits import DEFAULT_LIMITS, LogLimits
from sinfonia import LimitExceeded
from sinfonia.client.steps import Steps, execute, minitransaction, wait_for_change
from sinfonia.rings import TAIL_OFFSET
from sinfonia.structures import Trimmed

# A reader that waits for a hint looks so often all the same: soon enough for a conversation at
# first, and 20 small reads a second from each idle reader in the long run.
POLL_SECONDS_MIN = 0.002
POLL_SECONDS_MAX = 0.05

# A search by time looks at so many entries at once: 2 round trips for 4096 entries, 4 for 16 Mi.
# Where slots are large it looks at fewer, for they are read whole.
PROBES = 64
PROBES_MIN = 4


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries side by side from ``first`` on, and where the log began and ended just then."""

    first: int
    entries: tuple[Entry, ...]
    trimmed: int
    tail: int

    @property
    def next(self) -> int:
        """The position after the last of them."""
        return self.first + len(self.entries)


def read(
    log: Log, position: int, count: int, *, limits: LogLimits = DEFAULT_LIMITS
) -> Steps[Entries | Trimmed]:
    """Up to ``count`` entries from ``position`` on; none if ``position`` is the tail.

    One minitransaction, and one or more if bodies are in areas.  Fewer entries come if the log ends
    before.  Raises DamagedEntry, NotFormatted if no log is there, WrongPosition beyond the tail.
    """
    if count <= 0:
        raise LimitExceeded(f"a reader asks for 1 entry or more, not {count}")
    arrivals = Arrivals(log, position, limits)
    entries: list[Entry] = []
    slots = count
    while True:
        t = minitransaction()
        look = arrivals.look(t, slots)
        given_up = arrivals.take(look, (yield from execute(t)))
        if given_up is not None:
            # Those that are complete are good, and the caller learns of the rest when it goes on.
            return _entries(position, entries, arrivals) if entries else given_up
        slots = 0
        entries += arrivals.complete()
        if arrivals.needed == arrivals.position:
            return _entries(position, entries, arrivals)


def _entries(position: int, entries: list[Entry], arrivals: Arrivals) -> Entries:
    return Entries(position, tuple(entries), arrivals.trimmed, arrivals.tail)


def follow(
    log: Log, position: int, count: int, *, poll_seconds_max: float = POLL_SECONDS_MAX
) -> Steps[Entries | Trimmed]:
    """At least one and up to ``count`` entries from ``position`` on: wait until there is one.

    As ``read``; while there is nothing, one minitransaction after the hint that something came, or
    after ``poll_seconds_max`` at the latest.  Raises TimedOut if nothing came.
    """
    delay = min(POLL_SECONDS_MIN, poll_seconds_max)
    while True:
        found = yield from read(log, position, count)
        if isinstance(found, Trimmed) or found.entries:
            return found
        tail = log.ring.address + TAIL_OFFSET
        while not (yield from wait_for_change(log.node, tail, WORD_BYTES, delay)):
            if (yield from log.ring.header()).tail > position:
                break
            delay = min(2 * delay, poll_seconds_max)


def position_at(log: Log, stamp: int) -> Steps[int]:
    """A position whose entry was stamped at ``stamp`` or later, while the entry before was not.

    That is the tail if the search meets no entry with such a stamp, and the first position that is
    not trimmed if that one has it.  If stamps ascend there is exactly one such position.  One
    minitransaction for each factor of PROBES in the number of entries.  Raises DamagedEntry or
    NotFormatted.
    """
    probes = max(PROBES_MIN, min(PROBES, DEFAULT_LIMITS.slot_bytes // log.shape.slot_bytes))
    header = yield from log.ring.header()
    low, high = header.trimmed, header.tail
    while low < high:
        step = -(-(high - low) // probes)
        stamps = yield from _stamps(log, range(low, high, step))
        early = sum(1 for _ in takewhile(lambda found: found < stamp, stamps))
        if early == 0:
            break
        # The last that is early is at low + (early - 1) * step; the next probe is not early.
        low, high = low + (early - 1) * step + 1, min(high, low + early * step)
    return low


def _stamps(log: Log, positions: range) -> Steps[list[int]]:
    """Of the entries at ``positions``; -1, for the distant past, of those that are trimmed."""
    t = minitransaction()
    readings = [log.ring.add_read(t, position, 1) for position in positions]
    result = yield from execute(t)
    stamps = []
    for reading in readings:
        found = reading.take(result)
        stamps.append(-1 if isinstance(found, Trimmed) else decode_head(found.payloads[0]).stamp)
    return stamps
