"""A reader of a ring knows the next position that it wants, and nothing else.

It may keep that to itself (``follow``), or on a memory node, in a ``Cursor``.  A cursor is moved by
items in the minitransaction that does what the records ask for: then each record has its effect
once, whichever process dies, and of two readers with one cursor the second fails its compare and
starts over.

A trim compares the cursors in the same minitransaction, so that it passes no reader that has not
moved its cursor lately.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sinfonia.client.steps import Steps, execute, minitransaction, wait_for_change
from sinfonia.minitransaction import Minitransaction, Relation
from sinfonia.rings import HEADER_BYTES, TAIL_OFFSET
from sinfonia.structures.guards import Guard
from sinfonia.structures.ring.ring import Records, Ring, Trimmed

CURSOR_BYTES = 8

# A reader that waits for a hint looks so often all the same, at first and in the long run: soon
# enough for a conversation, and 20 small reads a second from each idle reader.
POLL_SECONDS_MIN = 0.002
POLL_SECONDS_MAX = 0.05


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position, u64, at ``address`` of ``node``; memory that is zero is a cursor at the start."""

    node: int
    address: int

    def position(self) -> Steps[int]:
        """Where the cursor is."""
        t = minitransaction()
        t.read(self.node, self.address, CURSOR_BYTES)
        return int.from_bytes((yield from execute(t)).reads[0], "little")

    def add_advance(self, t: Minitransaction[Any], position: int, to: int) -> Guard:
        """Have ``t`` move the cursor from ``position`` to ``to``; it fails if another did."""
        found = position.to_bytes(CURSOR_BYTES, "little")
        index = t.compare(self.node, self.address, found)
        t.write(self.node, self.address, to.to_bytes(CURSOR_BYTES, "little"))
        return Guard((index,))


def follow(
    ring: Ring,
    position: int,
    count: int,
    *,
    poll_seconds_max: float = POLL_SECONDS_MAX,
) -> Steps[Records | Trimmed]:
    """Up to ``count`` records from ``position`` on, at least one: wait until there is one.

    One round trip if it is there; else one more after the hint that it came, or after the header
    said so, which is read every ``poll_seconds_max`` at the latest.  Raises as ``Ring.read``, and
    TimedOut if none came.
    """
    delay = min(POLL_SECONDS_MIN, poll_seconds_max)
    while True:
        found = yield from ring.read(position, count)
        if isinstance(found, Trimmed) or found.payloads or count == 0:
            return found
        tail = ring.address + TAIL_OFFSET
        while not (yield from wait_for_change(ring.node, tail, CURSOR_BYTES, delay)):
            if (yield from ring.header()).tail > position:
                break
            delay = min(2 * delay, poll_seconds_max)


def fetch(ring: Ring, cursor: Cursor, count: int) -> Steps[Records | Trimmed]:
    """Up to ``count`` records from where ``cursor`` is, without moving it.  Two round trips.

    Move it by ``cursor.add_advance(t, records.first, records.next)`` in the minitransaction that
    does what they ask for, and go on from ``records.next`` by ``Ring.read``.
    """
    position = yield from cursor.position()
    return (yield from ring.read(position, count))


def trim_behind(ring: Ring, cursors: Sequence[Cursor]) -> Steps[int]:
    """Trim what all ``cursors`` have passed; returns the first position that is not given up.

    Two round trips.  A cursor that was set back meanwhile is not passed: nothing is trimmed then.
    Raises NotFormatted, and WrongPosition if a cursor is beyond the tail.
    """
    t = minitransaction()
    for cursor in cursors:
        t.read(cursor.node, cursor.address, CURSOR_BYTES)
    header = t.read(ring.node, ring.address, HEADER_BYTES)
    reads = (yield from execute(t)).reads
    known = ring.decode_header(reads[header])
    up_to = min((int.from_bytes(reads[k], "little") for k in range(len(cursors))), default=0)
    if up_to <= known.trimmed:
        return known.trimmed
    t = minitransaction()
    guard = ring.add_trim(t, up_to)
    for cursor in cursors:
        t.check(cursor.node, cursor.address, Relation.AT_LEAST, up_to)
    result = yield from execute(t)
    if result.committed:
        return up_to
    if guard.holds(result):
        return known.trimmed
    return ring.trimmed_instead(result, guard, up_to)
