"""Which member may lead when logs may have been damaged: the one that holds most.

Every in-sync member of a configuration held all that was ever acknowledged.  A disk may have lost
the end of one log while its process was down, and that log cannot tell: what rotted away looks like
what was never written.  So a member that has restarted is *unproven*, and leads only when all
members that held everything have told how much they hold now, and none holds more.  A member that
has run since it was counted in sync is *proven*: it leads at once.

Logs are compared by *position*: the incarnation that wrote the last record, then its number.  Two
members have the same record where the same life wrote it, later lives have higher incarnations,
and acknowledged records are in all undamaged logs.  So a log whose position is not lower than an
undamaged one's holds all that was acknowledged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.membership.messages import Member, MemoryNodeEntry


class Position(NamedTuple):
    """Where a log ends; positions compare as the logs do."""

    lived: int  # the incarnation that wrote the last record
    last: Seq


NOTHING = Position(0, 0)

Positions = Mapping[str, Position]  # by identity


@dataclass(frozen=True, slots=True)
class Awaiting:
    """Nothing can be decided yet; ``members`` (identities) must tell their positions first."""

    reason: str
    members: Sequence[str] = ()


def proven(entry: MemoryNodeEntry) -> list[str]:
    """The in-sync replicas that may lead at once."""
    return [each.identity for each in entry.replicas if each.in_sync and not each.unproven]


def longest(entry: MemoryNodeEntry, positions: Positions) -> Member | Awaiting | None:
    """The in-sync replica that holds most; None if none is in sync.

    Awaiting if not all of them have told.
    """
    in_sync = [member for member in entry.replicas if member.in_sync]
    silent = [member for member in in_sync if member.identity not in positions]
    if silent:
        return awaiting(entry, silent)
    return max(in_sync, key=lambda member: positions[member.identity], default=None)


def awaiting(entry: MemoryNodeEntry, silent: Sequence[Member]) -> Awaiting:
    """What to say while ``silent`` have not told how much they hold."""
    places = ", ".join(member.endpoint for member in silent)
    return Awaiting(
        f"memory node {entry.node} waits for its in-sync replica at {places} to say how much of "
        "the log it holds, since a restarted member may have lost the end of its own; start it, "
        "or, if it is lost for good, accept that with "
        f"`sinfonia replica remove --force CLUSTER {entry.node} {silent[0].endpoint}`",
        [member.identity for member in silent],
    )
