"""The members of a memory node: how each request changes its configuration, or why it is refused.

Every function takes an entry of the directory and returns the entry that follows, the same one if
there is nothing to change, or a Refusal that says what to do.  They know no time and remember
nothing.  Live members come in as ``alive``: identities, the one with the longest log first.

The law: an in-sync member holds everything that was ever acknowledged.  So only an in-sync replica
becomes primary; only the primary of the current life may declare a member in sync; and
a member that lost its data is no longer in sync.  A member that has restarted may have lost the end
of its log without knowing it, so it leads only if no in-sync member holds more (``election``).
Each change has a config epoch of its own, and each primary that begins an incarnation of its own.

Nothing is decided by a directory that is older than what a member has seen: it was lost, or put
back from an old copy, and may name a stale replica.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from sinfonia.addresses import ADDRESS_MAX
from sinfonia.protocol.membership.election import Awaiting, Position, Positions, longest, proven
from sinfonia.protocol.membership.messages import (
    HandOver,
    Member,
    MemoryNodeEntry,
    Reconfigure,
    Register,
    RemoveReplica,
    WantReplicas,
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

_REBUILD = (
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


# --- members that register -----------------------------------------------------------------------


def on_register(
    entry: MemoryNodeEntry | None,
    request: Register,
    alive: Sequence[str],
    positions: Positions | None = None,
) -> Change | Awaiting:
    """A member has started, or asks again because it has not heard the answer.

    ``positions``: what in-sync replicas have told since this life of the member is known.
    """
    if not _makes_sense(request):
        return Refusal(
            f"what this process says of memory node {request.node} makes no sense: its number, "
            f"capacity ({request.capacity}), mode, identity, lives or epoch are out of all bounds; "
            "if its data directory is damaged, move that away"
        )
    if request.known_epoch > (0 if entry is None else entry.config_epoch):
        return _older_than_its_members(entry, request)
    if entry is None:
        return _first(request)
    if not entry.identity:
        return _refounded(entry, request)
    for word, mine, known in (
        ("mode", request.mode, entry.mode),
        ("capacity", request.capacity, entry.capacity),
    ):
        if mine != known:
            return Refusal(
                f"memory node {entry.node} has {word} {known}, not {mine}; start all its members "
                f"with {word} {known}"
            )
    if request.identity == entry.identity:
        return _primary_again(entry, request, alive, positions or {})
    known_replica = replica(entry, identity=request.identity)
    if known_replica is not None:
        return _replica_again(entry, known_replica, request)
    return _stranger(entry, request, alive, positions or {})


def _makes_sense(request: Register) -> bool:
    """Whether it can stand in a directory, and what follows from it, too."""
    return (
        0 <= request.node <= NODE_MAX
        and 0 < request.capacity <= ADDRESS_MAX
        and max(request.starts, request.lived, request.epoch, request.known_epoch) <= COUNT_MAX
        and len(request.mode) <= WORD_CHARACTERS_MAX
        and 0 < len(request.identity) <= WORD_CHARACTERS_MAX
    )


def _first(request: Register) -> Change:
    """No member has ever registered as this memory node."""
    if request.replicas and not keeps_replicas(request.mode):
        return Refusal(_no_replicas_in(request.mode))
    if request.replicas > REPLICAS_MAX:
        return Refusal(_too_many(request.replicas))
    return MemoryNodeEntry(
        node=request.node,
        endpoint=request.endpoint,
        capacity=request.capacity,
        mode=request.mode,
        identity=request.identity,
        incarnation=request.lived + 1,
        starts=request.starts,
        config_epoch=1,
        wanted=request.replicas,
        life=request.life,
    )


def _older_than_its_members(entry: MemoryNodeEntry | None, request: Register) -> Awaiting:
    """The manager knows less than a member has seen."""
    if entry is not None:
        return Awaiting(older_store(entry, request.known_epoch))
    return Awaiting(
        f"this member of memory node {request.node} has seen config epoch {request.known_epoch}, "
        f"but the manager knows nothing of it: {_REBUILD}"
    )


def older_store(entry: MemoryNodeEntry, seen: int) -> str:
    """Why nothing is decided of a memory node of which members have seen config epoch ``seen``."""
    return (
        f"a member of memory node {entry.node} has seen config epoch {seen}, but the manager knows "
        f"only config epoch {entry.config_epoch}: {_REBUILD}"
    )


def _refounded(entry: MemoryNodeEntry, request: Register) -> MemoryNodeEntry:
    """An operator has given up what there was: it begins anew, and no old copy counts."""
    others = [
        replace(member, in_sync=False)
        for member in entry.replicas
        if request.identity != member.identity and request.endpoint != member.endpoint
    ]
    incarnation = max(entry.incarnation, request.lived) + 1
    return replace(
        entry,
        endpoint=request.endpoint,
        capacity=request.capacity,
        mode=request.mode,
        identity=request.identity,
        incarnation=incarnation,
        starts=request.starts,
        config_epoch=entry.config_epoch + 1,
        replicas=others,
        loss_accepted=incarnation,
        life=request.life,
    )


def _primary_again(
    entry: MemoryNodeEntry, request: Register, alive: Sequence[str], positions: Positions
) -> Change | Awaiting:
    """The primary of the last configuration."""
    if _is_same_life(request, entry):
        return entry
    if request.starts <= entry.starts:
        return _out_of_date(entry, entry.starts)
    if request.empty:
        return _without_its_data(entry, request, alive, positions)
    # A log that is complete holds all that was acknowledged, whatever the others hold.
    best = None if request.complete else longest(entry, positions)
    if isinstance(best, Awaiting):
        return best
    if best is not None and positions[best.identity] > Position(request.lived, request.last):
        return promoted(entry, best.identity, former=_newcomer(request))
    return replace(
        entry,
        endpoint=request.endpoint,
        starts=request.starts,
        incarnation=entry.incarnation + 1,
        config_epoch=entry.config_epoch + 1,
        life=request.life,
    )


def _without_its_data(
    entry: MemoryNodeEntry, request: Register, alive: Sequence[str], positions: Positions
) -> Change | Awaiting:
    """The primary has come back with nothing that counts."""
    # An in-sync replica that is away has the data all the same: the memory node waits for it.
    heir = best_proven(entry, [*alive, *entry.in_sync])
    if heir is None:
        best = longest(entry, positions)
        if isinstance(best, Awaiting):
            return best
        if best is None:
            what = "with damaged data" if request.damaged else "without its data"
            return Refusal(
                f"memory node {entry.node} ({entry.mode}) has restarted {what}, and no replica "
                f"is in sync; restore it from a backup, or, {_accept_the_loss(entry)}"
            )
        heir = best.identity
    return promoted(entry, heir, former=_newcomer(request))


def _is_same_life(request: Register, known: Member | MemoryNodeEntry) -> bool:
    """Whether it is the life that is known, and not an older copy that counts the same."""
    return request.starts == known.starts and request.life == known.life


def _replica_again(entry: MemoryNodeEntry, known: Member, request: Register) -> Change:
    """One of the replicas."""
    if _is_same_life(request, known):
        if not request.resigns:
            return entry
        # Always a new epoch: what was asked in the one before comes to nothing.
        resigned = replace(known, in_sync=False)
        return _changed(entry, [resigned if each is known else each for each in entry.replicas])
    if request.starts <= known.starts:
        return _out_of_date(entry, known.starts)
    # What it holds may be less than what it held.
    in_sync = known.in_sync and not request.empty
    now = replace(_newcomer(request), in_sync=in_sync, unproven=in_sync)
    return _changed(entry, [now if member is known else member for member in entry.replicas])


def _stranger(
    entry: MemoryNodeEntry, request: Register, alive: Sequence[str], positions: Positions
) -> Change | Awaiting:
    """A data directory that was never a member, or is none any more."""
    newcomer = _newcomer(request)
    replaced = replica(entry, endpoint=request.endpoint)
    if replaced is not None:
        return _changed(
            entry, [newcomer if member is replaced else member for member in entry.replicas]
        )
    if request.endpoint == entry.endpoint and entry.in_sync:
        heir = best_proven(entry, alive)
        if heir is None:
            best = longest(entry, positions)
            if isinstance(best, Awaiting):
                return best
            assert best is not None, "some are in sync"
            heir = best.identity
        return promoted(entry, heir, former=newcomer)
    if keeps_replicas(entry.mode) and request.endpoint != entry.endpoint:
        if len(entry.replicas) < entry.wanted:
            return _changed(entry, [*entry.replicas, newcomer])
        return Refusal(
            f"memory node {entry.node} has the {entry.wanted} replicas that are wanted; want more "
            f"with `sinfonia replica add CLUSTER {entry.node}`, or remove one first"
        )
    return Refusal(
        f"memory node {entry.node} is known with another data directory (identity "
        f"{entry.identity}, this one is {request.identity}); start it with that one, or "
        f"{_accept_the_loss(entry)}"
    )


# --- another primary -----------------------------------------------------------------------------


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


def _promoted_with_loss(entry: MemoryNodeEntry, heir: Member) -> MemoryNodeEntry:
    """An operator has accepted what ``heir`` lacks: no other copy counts from now on."""
    replicas = [
        replace(member, in_sync=member is heir, unproven=False) for member in entry.replicas
    ]
    after = promoted(replace(entry, replicas=replicas), heir.identity)
    return replace(after, loss_accepted=after.incarnation)


def on_hand_over(
    entry: MemoryNodeEntry,
    request: HandOver,
    alive: Sequence[str],
    *,
    primary_is_up: bool = True,
) -> Change:
    """An operator moves the part of primary to an in-sync replica, or, by force, to any one."""
    if request.endpoint == entry.endpoint:
        return entry
    heir = replica(entry, endpoint=request.endpoint)
    if heir is None:
        return Refusal(_no_such_replica(entry, request.endpoint))
    certain = heir.in_sync and not heir.unproven
    if not certain and not request.force:
        return Refusal(
            f"the replica of memory node {entry.node} at {heir.endpoint} is not in sync; wait "
            "until `sinfonia status` says that it is, or, if the primary is lost for good, accept "
            "what this replica lacks with `sinfonia replica promote --force CLUSTER "
            f"{entry.node} {heir.endpoint}`"
        )
    if heir.identity not in alive:
        return Refusal(
            f"the replica of memory node {entry.node} at {heir.endpoint} does not answer; start it "
            "first"
        )
    if certain:
        return promoted(entry, heir.identity)
    if primary_is_up:
        return Refusal(
            f"memory node {entry.node} is up at {entry.endpoint} and holds its data; nothing needs "
            "to be given up by force"
        )
    return _promoted_with_loss(entry, heir)


# --- the set of replicas -------------------------------------------------------------------------


def on_reconfigure(entry: MemoryNodeEntry, request: Reconfigure) -> Change:
    """The primary names the members in sync; that counts if it knows the configuration."""
    if (request.incarnation, request.config_epoch) != (entry.incarnation, entry.config_epoch):
        return Refusal("the configuration has changed meanwhile")
    in_sync, seen = set(request.in_sync), set(request.proven)
    if not in_sync <= {member.identity for member in entry.replicas}:
        return Refusal("somebody in it is no replica")
    # A new epoch even if nothing changes: what was asked in this one before comes to nothing.
    return _changed(
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


def on_want_replicas(entry: MemoryNodeEntry, request: WantReplicas) -> Change:
    """An operator wants more replicas, or no more to come."""
    if request.wanted == entry.wanted:
        return entry
    if not keeps_replicas(entry.mode):
        return Refusal(_no_replicas_in(entry.mode))
    if request.wanted > REPLICAS_MAX:
        return Refusal(_too_many(request.wanted))
    if request.wanted < len(entry.replicas):
        return Refusal(
            f"memory node {entry.node} has {len(entry.replicas)} replicas; say which to give up "
            f"with `sinfonia replica remove CLUSTER {entry.node} ENDPOINT`"
        )
    return replace(entry, wanted=request.wanted, config_epoch=entry.config_epoch + 1)


def on_remove_replica(entry: MemoryNodeEntry, request: RemoveReplica) -> Change:
    """An operator wants one replica less."""
    if request.endpoint == entry.endpoint:
        return Refusal(
            f"{entry.endpoint} is the primary of memory node {entry.node}; make another member "
            f"primary first, with `sinfonia replica promote CLUSTER {entry.node} ENDPOINT`"
        )
    removed = replica(entry, endpoint=request.endpoint)
    if removed is None:
        return entry
    if removed.in_sync and len(entry.in_sync) == 1 and not request.force:
        return Refusal(
            f"the replica at {removed.endpoint} is the only one of memory node {entry.node} that "
            "is in sync; wait for another one, or accept with --force that the primary alone holds "
            "the data"
        )
    others = [member for member in entry.replicas if member is not removed]
    wanted = max(entry.wanted - 1, len(others))
    return replace(_changed(entry, others), wanted=wanted)


def on_recreate(entry: MemoryNodeEntry, *, primary_is_up: bool) -> Change:
    """An operator gives up what the memory node held; the next to register becomes its member."""
    if not entry.identity:
        return entry
    if primary_is_up:
        return Refusal(
            f"memory node {entry.node} is up at {entry.endpoint} and holds its data; if it shall "
            "begin anew all the same, stop it and move its data directory away first"
        )
    if entry.in_sync:
        member = next(member for member in entry.replicas if member.in_sync)
        return Refusal(
            f"the replica of memory node {entry.node} at {member.endpoint} holds the data; start "
            "it, and it becomes primary if the present one is away; if it is lost, too, say so "
            f"with `sinfonia replica remove --force CLUSTER {entry.node} {member.endpoint}` first"
        )
    return replace(entry, identity="", starts=0, config_epoch=entry.config_epoch + 1)


# --- words ---------------------------------------------------------------------------------------


def _newcomer(request: Register) -> Member:
    return Member(
        identity=request.identity,
        endpoint=request.endpoint,
        starts=request.starts,
        in_sync=False,
        life=request.life,
    )


def _changed(entry: MemoryNodeEntry, replicas: list[Member]) -> MemoryNodeEntry:
    return replace(entry, replicas=replicas, config_epoch=entry.config_epoch + 1)


def _out_of_date(entry: MemoryNodeEntry, starts: int) -> Refusal:
    return Refusal(
        f"this member of memory node {entry.node} has been started again since; this process is "
        "out of date, or its data directory is an older copy: put the newest one back, restore it "
        "from a backup, or move it away so that the member begins anew",
        rolled_back=starts,
    )


def _accept_the_loss(entry: MemoryNodeEntry) -> str:
    return (
        f"if its data is lost for good, accept that with `sinfonia recreate CLUSTER {entry.node}`"
    )


def _no_such_replica(entry: MemoryNodeEntry, endpoint: str) -> str:
    known = ", ".join(member.endpoint for member in entry.replicas) or "none"
    return f"memory node {entry.node} has no replica at {endpoint}; its replicas: {known}"


def _no_replicas_in(mode: str) -> str:
    return f"mode {mode} keeps no replicas; modes RAM-REPL, LOG-REPL and NVRAM-REPL do"


def _too_many(wanted: int) -> str:
    return f"{wanted} replicas are more than the {REPLICAS_MAX} that a memory node may have"
