"""How fast a cluster works: what its members counted between two looks, over the time between.

Counts belong to one life of one primary.  If another one took over in between, or the same one
restarted, there is no rate until the next look.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from sinfonia.figures.figure import Figure, Figures
from sinfonia.figures.member import IDENTITY, INCARNATION, RATES, VOTES
from sinfonia.operating.cluster_status import (
    ClusterStatus,
    MemoryNodeStatus,
    ProcessStatus,
    ReplicaStatus,
)
from sinfonia.protocol.messages import Vote

# What a member counts, by what that is per second.
COUNTS = {figure.rate.name: figure for figure in RATES if figure.rate is not None}
ABORTS = {vote.name: VOTES.of(vote.name.lower()) for vote in Vote if vote is not Vote.OK}

Rates = dict[str, float]


@dataclass(frozen=True, slots=True)
class NodeRates:
    """One memory node, as of the later look; rates are per second, empty if there are none yet.

    A minitransaction counts at each of its memory nodes; ``aborts`` are its votes to abort, by
    reason.
    """

    node: int
    primary: str
    serving: bool
    config_epoch: int
    rates: Rates
    aborts: Rates
    in_doubt: int | None
    replicas: list[ReplicaStatus]


@dataclass(frozen=True, slots=True)
class ClusterRates:
    """All memory nodes over ``interval`` seconds; ``total`` is their sum."""

    cluster: str
    interval: float
    memory_nodes: list[NodeRates]
    total: Rates
    aborts: Rates
    problems: list[str]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def rates_between(earlier: ClusterStatus, later: ClusterStatus, interval: float) -> ClusterRates:
    """What happened in the ``interval`` seconds between the two."""
    nodes = [_node(earlier, later, node, interval) for node in later.memory_nodes]
    return ClusterRates(
        later.cluster,
        interval,
        nodes,
        _sum([node.rates for node in nodes]),
        _sum([node.aborts for node in nodes]),
        later.problems,
    )


def _node(
    earlier: ClusterStatus, later: ClusterStatus, node: MemoryNodeStatus, interval: float
) -> NodeRates:
    before, after = _primary(earlier, node), _primary(later, node)
    same = before is not None and after is not None and _same_life(before, after)
    rates: Rates = {}
    aborts: Rates = {}
    if same and before is not None and after is not None:
        rates = _per_second(COUNTS, before.figures, after.figures, interval)
        aborts = _per_second(ABORTS, before.figures, after.figures, interval)
    return NodeRates(
        node.node,
        node.primary,
        node.serving,
        node.config_epoch,
        rates,
        aborts,
        node.in_doubt,
        node.replicas,
    )


def _primary(status: ClusterStatus, node: MemoryNodeStatus) -> ProcessStatus | None:
    """The process that is the primary of ``node`` at the later look, at this one."""
    return next((each for each in status.processes if each.endpoint == node.primary), None)


def _same_life(before: ProcessStatus, after: ProcessStatus) -> bool:
    return bool(before.figures and after.figures) and _life(before) == _life(after)


def _life(process: ProcessStatus) -> tuple[str | None, int | None]:
    """What makes a life of a primary, as far as it tells it."""
    return IDENTITY.read(process.figures), INCARNATION.read(process.figures)


def _per_second(
    counts: Mapping[str, Figure[int]], before: Figures, after: Figures, interval: float
) -> Rates:
    found: Rates = {}
    for name, figure in counts.items():
        first, last = figure.read(before), figure.read(after)
        if first is not None and last is not None:
            found[name] = max(0.0, last - first) / interval
    return found


def _sum(parts: list[Rates]) -> Rates:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}
