"""What a participant keeps of a minitransaction from its vote until all know the outcome.

Figure 5 of the paper, by the names used here:

===============  ==================================================================================
redo-log         ``storage.redo_log``: records.OnePhase, Prepared, Decided, ...
in-doubt         ``LiveParticipantState.in_doubt``: voted OK, outcome unknown, all locks held
decided          ``LiveParticipantState.decided``: committed; some participant may still ask
forced-abort     the BAD_FORCED answers in ``sessions``
all-log-tids     in-doubt, decided and the OK answers in ``sessions`` together
===============  ==================================================================================

The paper keeps a committed tid in the log until every participant has applied it (section 4.7), so
a dead participant pins all their logs.  Here the log is cut at each checkpoint, which carries
these lists instead, and a dead participant pins only the few tids it was part of.
"""

from collections.abc import Sequence

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.messages import Unsettled, Vote, Voted
from sinfonia.protocol.records import LockRange, Prepared

# Beyond this many undecided minitransactions a node votes BAD_LOAD.
IN_DOUBT_MAX = 16 * 1024

# Committed tids that wait to be forgotten, beyond which a node prepares no more: some participant
# or client has been away for very long, and memory must not grow without end.
DECIDED_MAX = 256 * 1024

# How many unsettled tids one probe reports; the next probe reports the rest.
PROBE_TIDS_MAX = 1024

# And how many participants they may have together, so that the report is a small message; one tid
# is always reported.
PROBE_PARTICIPANTS_MAX = 64 * 1024

# What an item, its lock or a participant's name takes in memory beside the item's bytes.
ITEM_BYTES = 128


class InDoubt(msgspec.Struct, frozen=True):
    """A minitransaction that was voted OK, with all that recovery may need.

    ``since`` is when the vote was given, in the node's monotonic seconds; minus infinity for one
    that was found in the log, which is always old enough to be asked about.
    ``tag`` is its class, which the log does not know.
    """

    prepared: Prepared
    since: float
    tag: str = ""

    @property
    def size(self) -> int:
        """The bytes that it keeps."""
        prepared = self.prepared
        items = len(prepared.reads) + len(prepared.writes) + len(prepared.ranges)
        return (
            ITEM_BYTES * (items + len(prepared.participants))
            + sum(map(len, prepared.reads))
            + sum(len(item.data) for item in prepared.writes)
        )

    @property
    def voted(self) -> Voted:
        return ok_vote(self.prepared)

    @property
    def unsettled(self) -> Unsettled:
        return Unsettled(self.prepared.tid, self.prepared.participants)


class DecidedEntry(msgspec.Struct, frozen=True):
    """A committed minitransaction that a client or a recovery coordinator may still ask about."""

    tid: Tid
    participants: list[MemoryNodeId]
    voted: Voted
    since: float

    @property
    def unsettled(self) -> Unsettled:
        return Unsettled(self.tid, self.participants)


class Reading(msgspec.Struct, frozen=True):
    """The locks of a read-only minitransaction, which let go by themselves at ``until``."""

    ranges: list[LockRange]
    until: float


def first_of(unsettled: Sequence[Unsettled]) -> list[Unsettled]:
    """As many of ``unsettled`` as one probe reports."""
    room = PROBE_PARTICIPANTS_MAX
    first: list[Unsettled] = []
    for each in unsettled[:PROBE_TIDS_MAX]:
        room -= len(each.participants)
        if room < 0 and first:
            break
        first.append(each)
    return first


def ok_vote(prepared: Prepared) -> Voted:
    """The OK vote that ``prepared`` recorded."""
    return Voted(prepared.tid.counter, Vote.OK, prepared.reads)
