"""A tid that waits for a participant that never existed is aborted, at an operator's word.

Why that is safe.  A minitransaction has committed if every participant has voted OK, and only then.
A memory node that never existed has not voted, and the directory says whether one exists: a memory
node is stored there before any client is told of it, and never leaves it.  So if a participant is
not in the directory, the minitransaction has not committed.  It never will, either: all other
participants are asked before, and told to abort, which they keep.

What the directory says holds only if it is not an older copy.  If a member has seen later than what
is stored, or one cannot be asked, the operator has to accept the risk by force.  No check can find
a memory node that was lost together with the store; therefore the command asks a person.

A participant that exists and is away is none of this: it may have voted OK.
"""

from itertools import islice

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.membership.failure_detector import primary_life
from sinfonia.protocol.membership.members import Members
from sinfonia.protocol.membership.messages import (
    Directory,
    GetUnsettled,
    Settle,
    UnsettledTid,
    UnsettledTids,
)
from sinfonia.protocol.recovery import Recoveries, RecoveryCoordinator

# What one answer tells of; more is for later answers, when these are settled.
UNSETTLED_TOLD_MAX = 1000


def absent_of(recovery: RecoveryCoordinator, directory: Directory) -> list[MemoryNodeId]:
    """The participants of a tid that are in no configuration."""
    return [node for node in recovery.participants if directory.entry(node) is None]


def unsettled_tids(
    request: GetUnsettled, recoveries: Recoveries, directory: Directory, now: float
) -> UnsettledTids:
    """What is being settled, for an operator."""
    found = (each for each in recoveries.open() if request.tid in (None, each.tid))
    told = []
    for recovery in islice(found, UNSETTLED_TOLD_MAX):
        absent = absent_of(recovery, directory)
        silent = [node for node in recovery.silent if node not in absent]
        seconds = max(0.0, now - recovery.begun_at)
        told.append(UnsettledTid(recovery.tid, recovery.participants, absent, silent, seconds))
    return UnsettledTids(len(recoveries), told)


def settle(
    request: Settle,
    *,
    recoveries: Recoveries,
    directory: Directory,
    members: Members,
    now: float,
) -> tuple[list[SendTo], str]:
    """What has to be sent, and why the request is refused; empty if it is granted."""
    recovery = next((each for each in recoveries.open() if each.tid == request.tid), None)
    if recovery is None:
        return [], ""  # it was settled meanwhile
    absent = absent_of(recovery, directory)
    if not absent:
        silent = ", ".join(map(str, recovery.silent)) or "none"
        return [], (
            f"all participants of {recovery.tid} exist; memory nodes that have not answered yet: "
            f"{silent}. Start them: the manager settles the tid when they answer"
        )
    doubt = "" if request.force else _doubt(directory, members, now)
    if doubt:
        return [], (
            f"{doubt}, or accept with --force that half of an acknowledged minitransaction may be "
            "undone"
        )
    return recoveries.on_absent(request.tid, absent), ""


def _doubt(directory: Directory, members: Members, now: float) -> str:
    """Why the directory may be an older copy, and what to do; empty if nothing says so."""
    detector = members.detector
    lives = {entry.node: primary_life(entry) for entry in directory.nodes}
    later = [
        entry.node
        for entry in directory.nodes
        if members.is_behind(entry)
        or detector.directory_version(lives[entry.node]) > directory.version
    ]
    if later:
        return (
            f"members of memory nodes {', '.join(map(str, later))} have seen a later directory "
            "than is stored, so that this one may lack a memory node that voted. Rebuild it with "
            "`sinfonia rebuild-manager`"
        )
    unheard = [node for node, life in lives.items() if not detector.is_alive(life, now)]
    if unheard:
        return (
            f"memory nodes {', '.join(map(str, unheard))} do not answer, so that it is unknown "
            "whether they have seen a later directory. Start them"
        )
    return ""
