"""What primary and replicas agree on: whose log is right, and how far two logs are the same.

Theory of operation
-------------------

A memory node's log is one sequence of records.  Each *life* of the memory node, which is one
primary from its beginning to its end, wrote a stretch of it; a configuration names one primary,
configurations are replaced by compare-and-swap, and so no two members ever write in the same life.
Two members that both have record n of the same life have the same records up to n.

A primary acknowledges a record only when every in-sync replica has it on stable storage.  So each
of them holds all that was ever acknowledged, and the one that is made primary may take its own log
for the truth: what it has beyond the acknowledged was merely not refused yet.  The others
throw away what they have and the new primary has not.  Nothing of that was *applied* to memory at
a replica, because replicas apply only what is ``committed``: known to be at all in-sync members.

Time is used for one thing: to answer reads without asking.  See ``shipping.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sinfonia.protocol.attempts import CLOCK_DRIFT_MARGIN
from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.replication.messages import Life


@dataclass(frozen=True, slots=True)
class ReplicationTimes:
    """In seconds.  lease: how long a replica's acknowledgement lets the primary answer reads.

    drop_after: the silence after which the primary asks to do without a replica.  ack_within: how
    long an acknowledgement may take; a replica that is slower all the time is done without, too.
    By default more than a disk in order takes, and some times as much as the rest of a write.
    """

    lease: float = 0.5
    drop_after: float = 1.0
    ack_within: float = 0.025

    @property
    def counted_lease(self) -> float:
        """What the primary may count on, its clock being perhaps the slower one."""
        return self.lease * (1 - CLOCK_DRIFT_MARGIN)

    @property
    def granted_lease(self) -> float:
        """What a replica waits, its clock being perhaps the faster one."""
        return self.lease * (1 + CLOCK_DRIFT_MARGIN)

    @property
    def slow_for(self) -> float:
        """For so long in all, but for what is forgiven, a replica may be late: see slowness.py."""
        return 2 * self.drop_after

    @property
    def heartbeat(self) -> float:
        """An idle primary sends so often: two may be lost before the lease runs out."""
        return self.lease / 4


def common_prefix(mine: Sequence[Life], last: Seq, theirs: Sequence[Life], their_last: Seq) -> Seq:
    """The last record up to which two logs are certainly the same.

    ``mine`` and ``theirs`` are the lives that wrote them, oldest first.
    """
    their_ends = {life: end for life, _, end in _stretches(theirs, their_last)}
    for life, first, end in reversed(_stretches(mine, last)):
        their_end = their_ends.get(life)
        if their_end is not None and min(end, their_end) >= first:
            return min(end, their_end)
    # Before the oldest life that is remembered there is nothing, or nothing is known of it.
    return 0


def lacks(mine: Sequence[Life], last: Seq, theirs: Sequence[Life], committed: Seq) -> int:
    """Which incarnation wrote record ``committed`` of the other log, if this log has lost it; or 0.

    ``mine`` are the lives that wrote a log that ends with ``last``, ``theirs`` those of a log whose
    record ``committed`` was at all in-sync members.  Also 0 if mine does not remember so early
    lives: then nothing can be said.
    """
    writers = [life for life, _, end in _stretches(theirs, committed) if end >= committed]
    if not committed or not writers:
        return 0
    writer = writers[-1]
    ends = {life: end for life, _, end in _stretches(mine, last)}
    if writer in ends:
        return writer if ends[writer] < committed else 0
    return writer if writer > min(ends, default=0) else 0


def new_lives(history: Sequence[Life], known: Sequence[Life], first: Seq, last: Seq) -> list[Life]:
    """The lives of ``history`` that wrote some of records [first, last] and are not ``known``."""
    newest = known[-1].incarnation if known else 0
    return [
        Life(incarnation, max(begin, first))
        for incarnation, begin, end in _stretches(history, last)
        if end >= first and incarnation > newest
    ]


def _stretches(history: Sequence[Life], last: Seq) -> list[tuple[int, Seq, Seq]]:
    """(incarnation, first record, last record) of each life that wrote anything."""
    ends = [each.first - 1 for each in history[1:]] + [last]
    return [
        (life.incarnation, life.first, min(end, last))
        for life, end in zip(history, ends, strict=False)  # without lives there is one end too many
        if life.first <= min(end, last)
    ]
