"""A manager's store that was lost is made anew from what the members have kept.

Each member keeps the newest configuration of its memory node that named it, and keeps it before it
acts on it (``known_configuration``).  The law: what is restored is the newest configuration that
any member kept, and only if every member that it names has reported.

Why that is enough.  Let E be that configuration, and say that some member acted as primary in a
later one.  The first that did was in sync before.  Either E names it, or the primary of E asked
that it be counted in sync, and a primary asks that only of members that its own newest
configuration names.  So E names it in both cases; it has reported; and it had kept the later one.
An out-of-sync replica counts as much as any other here: it may have caught up and taken over.

What is restored is later than whatever the lost manager can have said.  Roles stay as they are in
E; the usual rules decide who leads (``configuration``): restarted members compare their logs.
"""

from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import ConfigError
from sinfonia.protocol.identifiers import Counter, Uint64
from sinfonia.protocol.membership.election import Position
from sinfonia.protocol.membership.messages import Directory, Member, MemoryNodeEntry

# So far is what is restored ahead of what is known, in config epochs, versions and incarnations.
# A manager that changed an entry ten times a second would take a day to say as much that nobody
# kept; and a cluster may be rebuilt millions of times before a count reaches its bound.
MARGIN = 1 << 20

# The lost manager may have begun one epoch that no member has logged.  Two more at once would make
# the sessions of living clients stale.
EPOCHS_SKIPPED = 1

REPORT_FORMAT_VERSION = 1


class MemberReport(msgspec.Struct, frozen=True):
    """What the data directory of one member says.

    place: where it was read.  running: a process holds it now.  starts: how often it was started.
    lived, last: the end of its log; 0 if ``empty``, or if it is written to just now.  empty: it
    holds nothing that counts.  damage: why its data is not to be trusted.  epoch: the last that it
    logged.  cluster, version, entry: the newest configuration that it kept, if any;
    configuration_damaged: it kept one that cannot be read any more.
    """

    node: MemoryNodeId
    identity: str
    mode: str
    capacity: Counter
    starts: Counter
    place: str = ""
    running: bool = False
    lived: Uint64 = 0
    last: Counter = 0
    empty: bool = False
    damage: str = ""
    epoch: Counter = 0
    cluster: str = ""
    version: Counter = 0
    entry: MemoryNodeEntry | None = None
    configuration_damaged: bool = False
    format: int = REPORT_FORMAT_VERSION

    @property
    def position(self) -> Position:
        """Where its log ends."""
        return Position(self.lived, self.last)

    @property
    def config_epoch(self) -> int:
        """The newest that it kept."""
        return 0 if self.entry is None else self.entry.config_epoch

    @property
    def endpoint(self) -> str:
        """Where it was when it kept its configuration."""
        named = None if self.entry is None else _named(self.entry, self.identity)
        return "" if named is None else named.endpoint

    @property
    def role(self) -> str:
        """What it was in the configuration that it kept."""
        if self.entry is None:
            return ""
        return role_in(self.entry, self.identity)

    def speaks_of(self, member: Member) -> bool:
        """Whether it is of this member, in this life of it or a later one."""
        return self.identity == member.identity and self.starts >= member.starts


@dataclass(frozen=True, slots=True)
class NodePlan:
    """What is to become of one memory node.

    entry: what will be restored; None: nothing is known, and nothing ever was.  found: the newest
    config epoch.  objections: why that may not be the newest; losses: what is lost with it.
    """

    node: MemoryNodeId
    entry: MemoryNodeEntry | None
    found: int
    objections: list[str]
    losses: list[str]


@dataclass(frozen=True, slots=True)
class Plan:
    """The directory that would be stored, and how it came about."""

    directory: Directory
    nodes: list[NodePlan]

    @property
    def objections(self) -> list[str]:
        """Why not to store it, unless the operator takes the risk."""
        return [each for node in self.nodes for each in node.objections]


def plan_rebuild(
    reports: Sequence[MemberReport],
    *,
    known: Directory | None = None,
    expected: Sequence[MemoryNodeId] = (),
    force: bool = False,
) -> Plan:
    """What to store, by what the members report.

    known: a store that is there, but may be an older copy; it counts as one more that kept
    something.  expected: memory nodes of which there should be members.  force: objections are
    accepted as losses.  Raises ConfigError if the reports do not go together.
    """
    cluster = _cluster(reports, known)
    _refuse_repeated(reports)
    entries = [] if known is None else known.nodes
    nodes = {*expected, *(report.node for report in reports), *(each.node for each in entries)}
    plans = [
        _plan_node(node, [each for each in reports if each.node == node], known, force=force)
        for node in sorted(nodes)
    ]
    versions = [0 if known is None else known.version, *(report.version for report in reports)]
    epochs = [0 if known is None else known.epoch, *(report.epoch for report in reports)]
    directory = Directory(
        version=max(versions) + MARGIN,
        epoch=max(epochs) + EPOCHS_SKIPPED,
        cluster=cluster,
        nodes=[plan.entry for plan in plans if plan.entry is not None],
        managers=[] if known is None else known.managers,
    )
    return Plan(directory, plans)


def role_in(entry: MemoryNodeEntry, identity: str) -> str:
    """What ``entry`` makes of the member ``identity``, in words."""
    if identity == entry.identity:
        return "primary"
    named = _named(entry, identity)
    if named is None:
        return "no member"
    return "in-sync replica" if named.in_sync else "replica, not in sync"


def _cluster(reports: Sequence[MemberReport], known: Directory | None) -> str:
    names = {report.cluster for report in reports if report.entry is not None}
    if known is not None and known.nodes:
        names.add(known.cluster)
    if len(names) > 1:
        raise ConfigError(
            f"these are members of several clusters: {', '.join(sorted(names))}; rebuild one at a "
            "time"
        )
    if not names:
        raise ConfigError(
            "no member has kept a configuration: there is nothing to rebuild; members that have "
            "never served are let in by a new manager"
        )
    return names.pop()


def _refuse_repeated(reports: Sequence[MemberReport]) -> None:
    [(identity, count), *_] = Tally(report.identity for report in reports).most_common(1) or [
        ("", 0)
    ]
    if count > 1:
        places = ", ".join(each.place for each in reports if each.identity == identity)
        raise ConfigError(
            f"there are {count} reports of the data directory {identity} ({places}); leave out "
            "those of older copies, and older reports"
        )


def _plan_node(
    node: MemoryNodeId,
    reports: Sequence[MemberReport],
    known: Directory | None,
    *,
    force: bool,
) -> NodePlan:
    kept = [report.entry for report in reports if report.entry is not None]
    stored = None if known is None else known.entry(node)
    if stored is not None:
        kept.append(stored)
    objections = [_unreadable(report) for report in reports if report.configuration_damaged]
    if not kept:
        if not reports:
            objections.append(f"memory node {node}: none of its members has reported")
        return NodePlan(node, None, 0, objections, [])
    newest = _newest(kept)
    objections += _missing(newest, reports)
    if any(each != newest for each in kept if each.config_epoch == newest.config_epoch):
        objections.append(
            f"memory node {node}: members have seen two different configurations of config epoch "
            f"{newest.config_epoch}, so that two managers have decided without each other"
        )
    accepted = force and bool(objections)
    entry = _raised(newest, reports, loss_accepted=accepted)
    losses = _losses(newest, reports)
    return NodePlan(node, entry, newest.config_epoch, objections, losses)


def _newest(kept: Sequence[MemoryNodeEntry]) -> MemoryNodeEntry:
    """What to go on from; of two histories, the one with more lives."""
    return max(kept, key=lambda entry: (entry.config_epoch, entry.incarnation))


def _missing(entry: MemoryNodeEntry, reports: Sequence[MemberReport]) -> list[str]:
    """Which of the members that ``entry`` names have not told all that they know."""
    objections: list[str] = []
    for member in _members(entry):
        report = next((each for each in reports if each.identity == member.identity), None)
        # A member that holds nothing may be named and not have heard of it yet.
        told = report is not None and (report.entry is not None or report.empty)
        if report is not None and report.speaks_of(member) and told:
            continue
        role = role_in(entry, member.identity)
        which = f"memory node {entry.node}: its {role} at {member.endpoint}"
        risk = (
            "it may hold writes that were acknowledged and are nowhere else, and may have seen a "
            f"later configuration than config epoch {entry.config_epoch}"
        )
        if report is None:
            objections.append(f"{which} has not reported (identity {member.identity}); {risk}")
        elif not report.speaks_of(member):
            objections.append(
                f"{which} has reported from {report.place}, which is an older copy of its data "
                f"directory (started {report.starts} times, not {member.starts}); {risk}"
            )
        elif not report.configuration_damaged:
            objections.append(f"{which} has lost the configuration that it kept; {risk}")
    return objections


def _unreadable(report: MemberReport) -> str:
    return (
        f"memory node {report.node}: the configuration that the member in {report.place} kept is "
        "damaged; it may have been later than what the others kept"
    )


def _losses(entry: MemoryNodeEntry, reports: Sequence[MemberReport]) -> list[str]:
    """What no member holds any more of what was acknowledged, as far as the reports tell."""
    if not entry.identity:
        return [f"memory node {entry.node} had been given up and begins anew"]
    holders = [each for each in _members(entry) if each.in_sync]
    whole = [
        report
        for holder in holders
        for report in reports
        if report.speaks_of(holder) and not report.empty and not report.damage
    ]
    if whole:
        return []
    return [
        f"memory node {entry.node}: none of the members that held all of it reports undamaged "
        "data; put such a member's data back, restore the memory node from a backup, or accept "
        "what a replica lacks with `sinfonia replica promote --force`"
    ]


def _raised(
    entry: MemoryNodeEntry, reports: Sequence[MemberReport], *, loss_accepted: bool
) -> MemoryNodeEntry:
    """``entry``, later than all that the lost manager can have made of it."""
    lives = {report.identity: report for report in reports}

    def goes_on(member: Member) -> bool:
        """Whether the life that ``entry`` names still runs."""
        report = lives.get(member.identity)
        return report is not None and report.running and report.starts == member.starts

    primary = _members(entry)[:1] if entry.identity else []
    undisturbed = not loss_accepted and all(map(goes_on, primary)) and bool(primary)
    replicas = []
    for member in entry.replicas:
        report = lives.get(member.identity)
        present = report is not None and report.speaks_of(member)
        # Without a word from it, it does not hold up those that have reported.
        in_sync = member.in_sync and (present or not loss_accepted)
        proven = undisturbed and not member.unproven and goes_on(member)
        replicas.append(replace(member, in_sync=in_sync, unproven=in_sync and not proven))
    incarnation = entry.incarnation
    if not undisturbed:
        # Its primary begins anew in any case, and no life has the name of another one.
        incarnation = max([incarnation, *(report.lived for report in reports)]) + MARGIN
    return replace(
        entry,
        incarnation=incarnation,
        config_epoch=entry.config_epoch + MARGIN,
        replicas=replicas,
        loss_accepted=incarnation if loss_accepted else entry.loss_accepted,
    )


def _members(entry: MemoryNodeEntry) -> list[Member]:
    """All that ``entry`` names, the primary first, which counts as in sync."""
    primary = Member(
        identity=entry.identity, endpoint=entry.endpoint, starts=entry.starts, in_sync=True
    )
    return [member for member in (primary, *entry.replicas) if member.identity]


def _named(entry: MemoryNodeEntry, identity: str) -> Member | None:
    return next((each for each in _members(entry) if each.identity == identity), None)
