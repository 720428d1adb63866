"""A replica that catches up gets nearer all the time: writers add half of what it takes, at most.

What a replica lacks is the log after what it has, and what is left of an image.  It *takes* that
piece by piece; writers add to it.  While it takes ``WRITERS_SHARE`` bytes for each that they add,
what it lacks shrinks, so it has everything after it has taken twice what it lacked at first.

A replica has a *credit* for its writers: it grows by what the replica takes, divided by that share,
and shrinks by what is logged.  The answer to a writer leaves while every replica that catches up
has credit, or after ``PACE_MAX`` all the same.  Nothing is delayed while no replica catches up, nor
while each is fast enough by itself: credit is collected up to a limit, and is full whenever a
replica has everything that there is.

So the delay is bounded, and what a bound costs is this: a replica that takes less in ``PACE_MAX``
than twice what all writers together have under way may not catch up before they pause.

A copier, be it a replica or a backup, needs the log from where it is.  That is kept for it,
as far as the journal's bound goes, until it has asked nothing for ``COPIER_SILENT_MAX``.
"""

from collections.abc import Callable
from enum import Enum

from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.replication.limits import ReplicationLimits

# Of what a replica takes, writers may add one byte for so many.
WRITERS_SHARE = 2

# An answer is held back no longer, in seconds.  Much less than callers wait, and than a
# minitransaction over several memory nodes may be in doubt.  A client that hears nothing meanwhile
# repeats what it asked, and the answer to that waits as well.
PACE_MAX = 1.0

# Writers are not slowed down for a replica that has been silent for so long, in seconds: as long as
# an in-sync replica is waited for by default.
PACE_SILENT_MAX = 1.0

# Nothing is kept for a copier that has asked nothing for so long, in seconds; it may have had to
# save what it copied, or been stopped for a while.
COPIER_SILENT_MAX = 30.0

# More copiers at the same time are surely clients that play; the one silent for longest makes
# room.
COPIERS_MAX = 64


class Asked(Enum):
    """The two things that a copier fetches side by side, one piece of each at a time."""

    LOG = "log"
    PAGES = "pages"


class Copier:
    """One replica that catches up, or a backup; times are the primary's monotonic seconds."""

    __slots__ = (
        "_credit_max",
        "credit",
        "has",
        "heard_at",
        "identity",
        "on_the_way",
        "places",
        "pushed",
    )

    def __init__(self, identity: str, now: float, *, credit_max: int) -> None:
        self.identity = identity  # of a replica; a backup has none
        self.has: Seq | None = None  # it needs the log after this record
        self.heard_at = now
        self._credit_max = credit_max
        self.credit: float = credit_max
        self.places = {Asked.LOG: -1, Asked.PAGES: -1}
        self.on_the_way = {Asked.LOG: 0, Asked.PAGES: 0}
        self.pushed: int | None = None  # bytes of all that was shipped, up to what it has

    def take(self, size: int) -> None:
        """It has taken so many bytes more."""
        self.credit = min(self._credit_max, self.credit + size / WRITERS_SHARE)


class Pacing:
    """All replicas and backups that catch up with one life of a primary."""

    def __init__(self, limits: ReplicationLimits) -> None:
        self._limits = limits
        self.copiers: dict[bytes, Copier] = {}  # by route

    # --- what they take ------------------------------------------------------------------------

    def begins(self, route: bytes, identity: str, seq: Seq, now: float) -> None:
        """A copy of the image begins there; it is right with the log after ``seq`` only."""
        copier = self._heard(route, identity, now)
        copier.has = seq
        copier.places = {Asked.LOG: -1, Asked.PAGES: -1}
        copier.on_the_way = {Asked.LOG: 0, Asked.PAGES: 0}

    def asks(self, route: bytes, identity: str, what: Asked, place: int, now: float) -> None:
        """It asks for what follows ``place``: so it has taken what it was answered before.

        A question that is repeated shows nothing.
        """
        copier = self._heard(route, identity, now)
        if place > copier.places[what]:
            copier.places[what] = place
            copier.take(copier.on_the_way[what])
        copier.on_the_way[what] = 0
        if what is Asked.LOG and copier.has is not None:
            copier.has = max(copier.has, place)
        elif what is Asked.LOG:
            copier.has = place

    def answered(self, route: bytes, what: Asked, size: int) -> None:
        """It is sent so many bytes; none of the log: it has all that is stable."""
        copier = self.copiers[route]  # that has just asked
        copier.on_the_way[what] = size
        if what is Asked.LOG and not size:
            copier.credit = self._limits.credit

    def acknowledges(
        self, route: bytes, identity: str, seq: Seq, position: int, now: float
    ) -> None:
        """It is sent the log as that is shipped, and has it up to ``seq``, which ends at the byte
        ``position`` of all that was shipped.  It may yet fall back to asking for what follows."""
        copier = self._heard(route, identity, now)
        copier.has = seq
        if copier.pushed is not None and position > copier.pushed:
            copier.take(position - copier.pushed)
        copier.pushed = position

    def has_all(self, route: bytes) -> None:
        """At this moment it has everything that was shipped."""
        if route in self.copiers:
            self.copiers[route].credit = self._limits.credit

    def ends(self, route: bytes) -> None:
        """It has caught up, or is none any more."""
        self.copiers.pop(route, None)

    # --- what follows from it ------------------------------------------------------------------

    def spend(self, size: int) -> None:
        """Writers have added so many bytes to the log."""
        for copier in self.copiers.values():
            copier.credit = max(copier.credit - size, -self._limits.debt)

    def may_go_on(self, now: float, counts: Callable[[str, float], bool]) -> bool:
        """Whether writers need not wait; ``counts``: whether now a member is to be paced for."""
        return all(
            copier.credit > 0
            or now - copier.heard_at > PACE_SILENT_MAX
            or not (copier.identity and counts(copier.identity, now))
            for copier in self.copiers.values()
        )

    def needed_after(self, now: float) -> Seq | None:
        """A copier needs the log after this record; None: no copier does."""
        for route, copier in list(self.copiers.items()):
            if now - copier.heard_at > COPIER_SILENT_MAX:
                del self.copiers[route]
        return min(
            (copier.has for copier in self.copiers.values() if copier.has is not None),
            default=None,
        )

    def _heard(self, route: bytes, identity: str, now: float) -> Copier:
        copier = self.copiers.get(route)
        if copier is None:
            if len(self.copiers) >= COPIERS_MAX:
                self.ends(min(self.copiers, key=lambda each: self.copiers[each].heard_at))
            copier = self.copiers[route] = Copier(identity, now, credit_max=self._limits.credit)
        copier.heard_at = now
        return copier

    def check_invariants(self) -> None:
        """Nothing is beyond its bounds."""
        assert len(self.copiers) <= COPIERS_MAX
        for copier in self.copiers.values():
            assert -self._limits.debt <= copier.credit <= self._limits.credit
