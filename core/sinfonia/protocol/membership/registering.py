"""A member that starts gets the part that its data entitles it to, and none without its data.

The first to register founds the memory node; the primary of the last configuration leads on, if no
in-sync member holds more; a replica follows; a data directory that was never a member fills a place
that is free.  A member that came back without its data, or with an older copy, gets no part in
which that could matter.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from sinfonia.addresses import ADDRESS_MAX
from sinfonia.protocol.membership import configuration
from sinfonia.protocol.membership.configuration import (
    COUNT_MAX,
    NODE_MAX,
    REBUILD,
    REPLICAS_MAX,
    WORD_CHARACTERS_MAX,
    Change,
    Refusal,
    changed,
    keeps_replicas,
    no_replicas_in,
    older_store,
    replica,
    too_many,
)
from sinfonia.protocol.membership.election import Awaiting, Position, Positions, longest
from sinfonia.protocol.membership.messages import Member, MemoryNodeEntry, Register


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
        return Refusal(no_replicas_in(request.mode))
    if request.replicas > REPLICAS_MAX:
        return Refusal(too_many(request.replicas))
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
        f"but the manager knows nothing of it: {REBUILD}"
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
        return configuration.promoted(entry, best.identity, former=_newcomer(request))
    return replace(
        entry,
        endpoint=request.endpoint,
        starts=request.starts,
        incarnation=max(entry.incarnation, request.lived) + 1,
        config_epoch=entry.config_epoch + 1,
        life=request.life,
    )


def _without_its_data(
    entry: MemoryNodeEntry, request: Register, alive: Sequence[str], positions: Positions
) -> Change | Awaiting:
    """The primary has come back with nothing that counts."""
    # An in-sync replica that is away has the data all the same: the memory node waits for it.
    heir = configuration.best_proven(entry, [*alive, *entry.in_sync])
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
    return configuration.promoted(entry, heir, former=_newcomer(request))


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
        return changed(entry, [resigned if each is known else each for each in entry.replicas])
    if request.starts <= known.starts:
        return _out_of_date(entry, known.starts)
    # What it holds may be less than what it held.
    in_sync = known.in_sync and not request.empty
    now = replace(_newcomer(request), in_sync=in_sync, unproven=in_sync)
    return changed(entry, [now if member is known else member for member in entry.replicas])


def _stranger(
    entry: MemoryNodeEntry, request: Register, alive: Sequence[str], positions: Positions
) -> Change | Awaiting:
    """A data directory that was never a member, or is none any more."""
    newcomer = _newcomer(request)
    replaced = replica(entry, endpoint=request.endpoint)
    if replaced is not None:
        return changed(
            entry, [newcomer if member is replaced else member for member in entry.replicas]
        )
    if request.endpoint == entry.endpoint and entry.in_sync:
        heir = configuration.best_proven(entry, alive)
        if heir is None:
            best = longest(entry, positions)
            if isinstance(best, Awaiting):
                return best
            assert best is not None, "some are in sync"
            heir = best.identity
        return configuration.promoted(entry, heir, former=newcomer)
    if keeps_replicas(entry.mode) and request.endpoint != entry.endpoint:
        if len(entry.replicas) < entry.wanted:
            return changed(entry, [*entry.replicas, newcomer])
        return Refusal(
            f"memory node {entry.node} has the {entry.wanted} replicas that are wanted; want more "
            f"with `sinfonia replica add CLUSTER {entry.node}`, or remove one first"
        )
    return Refusal(
        f"memory node {entry.node} is known with another data directory (identity "
        f"{entry.identity}, this one is {request.identity}); start it with that one, or "
        f"{_accept_the_loss(entry)}"
    )


def _newcomer(request: Register) -> Member:
    return Member(
        identity=request.identity,
        endpoint=request.endpoint,
        starts=request.starts,
        in_sync=False,
        life=request.life,
    )


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
