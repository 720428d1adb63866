"""An in-sync member holds everything that was ever acknowledged: so the configuration is changed.

Only an in-sync replica becomes primary; only the primary of the current life may declare a member
in sync; and a member that lost its data is no longer in sync.  A member that has restarted may have
lost the end of its log without knowing it, so it leads only if no in-sync member holds more
(``election``).  Each change has a config epoch of its own, and each primary that begins an
incarnation of its own.

Nothing is decided by a directory that is older than what a member has seen: it was lost, or put
back from an old copy, and may name a stale replica.

Every function here, in ``registering`` (members that start) and in ``operator_requests`` takes an
entry of the directory and returns the entry that follows, the same one if there is nothing to
change, or a Refusal that says what to do.  They know no time and remember nothing.  Live members
come in as ``alive``: identities, the one with the longest log first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from sinfonia.protocol.membership.election import proven
from sinfonia.protocol.membership.messages import (
    Member,
    MemoryNodeEntry,
    Reconfigure,
)

# What a mode that keeps replicas is called by.
REPLICATED_SUFFIX = "-REPL"

# Each replica costs the primary a copy of its log stream; more than a handful is surely a slip.
REPLICAS_MAX = 8

# What a directory names is read by everybody for as long as the cluster lives, so that it must make
# sense.  Counts of lives and epochs grow by one at a time: none ever comes near this.
NODE_MAX = 2**31
COUNT_MAX = 2**48
WORD_CHARACTERS_MAX = 64


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something is not done, and what to do instead.

    ``rolled_back``, if not 0: the member's data directory is an older copy, of which that many
    starts are known.
    """

    reason: str
    rolled_back: int = 0


Change = MemoryNodeEntry | Refusal

REBUILD = (
    "its store was lost, or put back from an older copy, or is another cluster's; stop the manager "
    "and rebuild its store from its members, with `sinfonia rebuild-manager local DIR` on this "
    "machine, or see `sinfonia rebuild-manager --help`"
)


def keeps_replicas(mode: str) -> bool:
    """Whether memory nodes of ``mode`` may have replicas."""
    return mode.endswith(REPLICATED_SUFFIX)


def replica(entry: MemoryNodeEntry, *, identity: str = "", endpoint: str = "") -> Member | None:
    """The replica with this identity, or the one at this endpoint."""
    for member in entry.replicas:
        if (identity and member.identity == identity) or (endpoint and member.endpoint == endpoint):
            return member
    return None


def best_proven(entry: MemoryNodeEntry, alive: Sequence[str]) -> str | None:
    """Which replica should be primary if the present one cannot; None if none that is alive may.

    Only a proven one: an unproven one may hold less than the primary, which cannot be asked.
    """
    eligible = proven(entry)
    return next((identity for identity in alive if identity in eligible), None)


def promoted(
    entry: MemoryNodeEntry, identity: str, *, former: Member | None = None
) -> MemoryNodeEntry:
    """The in-sync replica ``identity`` becomes primary; the old primary a replica, out of sync.

    ``former`` describes the old primary, if its life is not the one in the entry.
    """
    heir = replica(entry, identity=identity)
    assert heir is not None, "the heir is a replica"
    assert heir.in_sync, "the heir holds everything"
    if former is None:
        former = Member(
            identity=entry.identity,
            endpoint=entry.endpoint,
            starts=entry.starts,
            in_sync=False,
            life=entry.life,
        )
    others = [member for member in entry.replicas if member is not heir]
    return replace(
        entry,
        endpoint=heir.endpoint,
        identity=heir.identity,
        starts=heir.starts,
        life=heir.life,
        incarnation=entry.incarnation + 1,
        config_epoch=entry.config_epoch + 1,
        replicas=[*others, former],
    )


def on_reconfigure(entry: MemoryNodeEntry, request: Reconfigure) -> Change:
    """The primary names the members in sync; that counts if it knows the configuration."""
    if (request.incarnation, request.config_epoch) != (entry.incarnation, entry.config_epoch):
        return Refusal("the configuration has changed meanwhile")
    in_sync, seen = set(request.in_sync), set(request.proven)
    if not in_sync <= {member.identity for member in entry.replicas}:
        return Refusal("it names a member that is no replica")
    # A new epoch even if nothing changes: what was asked in this one before comes to nothing.
    return changed(
        entry,
        [
            replace(
                member,
                in_sync=member.identity in in_sync,
                # What was not in sync is, by the primary's word, in its present life.
                unproven=member.unproven and member.identity in in_sync - seen,
            )
            for member in entry.replicas
        ],
    )


def changed(entry: MemoryNodeEntry, replicas: list[Member]) -> MemoryNodeEntry:
    """The configuration with these replicas, under a new config epoch."""
    return replace(entry, replicas=replicas, config_epoch=entry.config_epoch + 1)


def older_store(entry: MemoryNodeEntry, seen: int) -> str:
    """Why nothing is decided of a memory node of which members have seen config epoch ``seen``."""
    return (
        f"a member of memory node {entry.node} has seen config epoch {seen}, but the manager knows "
        f"only config epoch {entry.config_epoch}: {REBUILD}"
    )


def no_replicas_in(mode: str) -> str:
    """Why a memory node of ``mode`` may have no replicas."""
    return f"mode {mode} keeps no replicas; modes RAM-REPL, LOG-REPL and NVRAM-REPL do"


def too_many(wanted: int) -> str:
    """Why a memory node may not have so many replicas."""
    return f"{wanted} replicas are more than the {REPLICAS_MAX} that a memory node may have"
