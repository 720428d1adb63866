"""The status of a cluster is what its processes say of themselves; of who is silent, that it is.

Who is primary and who is in sync stands in the directory, which is the only carrier of
configuration; how far a replica is behind is the difference between what two members say.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sinfonia.client.seed import key_hint
from sinfonia.cluster_keys import resolve_keys
from sinfonia.config import ClusterConfig, described_at, resolve_endpoint
from sinfonia.errors import Unreachable
from sinfonia.operating.local_cluster import FOLLOWING, SERVING, LocalCluster
from sinfonia.operating.observer import ANSWER_WITHIN, Observer, Sight
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry
from sinfonia.protocol.messages import MANAGER

DOWN = "down"

# It runs here, but does not answer: it is paused, or at something long.
SILENT = "silent"

MANAGES = "manager"
PRIMARY = "primary"
REPLICA = "replica"
NO_ROLE = ""

Figure = int | float | str
Figures = Mapping[str, Figure]


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process; ``pid`` is known only of processes that `sinfonia up` started here.

    ``node`` is the memory node of which it is a member.
    """

    name: str
    endpoint: str
    state: str
    role: str = NO_ROLE
    node: int | None = None
    pid: int | None = None
    figures: Figures = field(default_factory=dict)

    @property
    def well(self) -> bool:
        """Whether it does what it is there for."""
        return self.state in (SERVING, FOLLOWING)

    @property
    def reason(self) -> str:
        """Why it is not well, as far as it says: what it waits for, or what is damaged."""
        damage, waiting = (str(self.figures.get(name, "")) for name in ("damage", "waiting_for"))
        return "; ".join(filter(None, [damage and f"its data is damaged: {damage}", waiting]))

    @property
    def repairs(self) -> int:
        """How often its data was damaged and replaced by a copy, in this life."""
        return _number(self.figures, "repairs") or 0


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """A replica, and how far it is behind its primary, as far as both say.

    ``copied_bytes``: how much of an image it has copied in this life.
    """

    endpoint: str
    in_sync: bool
    records_behind: int | None = None
    percent: float | None = None
    copied_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryNodeStatus:
    """One memory node; ``primary`` is an endpoint, or empty.

    ``pinned``: how many tids the memory nodes must remember because this one is silent.
    ``clients``, ``remembered``: how many clients, and answers to them, its primary remembers.
    """

    node: int
    primary: str
    serving: bool
    mode: str
    capacity_bytes: int
    incarnation: int
    config_epoch: int
    replicas_wanted: int
    replicas: list[ReplicaStatus]
    log_bytes: int | None
    in_doubt: int | None
    pinned: int
    executed: int | None
    clients: int | None = None
    remembered: int | None = None


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """All processes of a cluster, the managers first, and what they are together."""

    cluster: str
    processes: list[ProcessStatus]
    memory_nodes: list[MemoryNodeStatus]

    @property
    def problems(self) -> list[str]:
        """What is not as it should be, a sentence each."""
        found = [
            f"{p.name} is {p.state}" + (f": {p.reason}" if p.reason else "")
            for p in self.processes
            if not p.well
        ]
        managers = [process for process in self.processes if process.role == MANAGES]
        if len(managers) > 1 and not any(leads(manager) for manager in managers):
            found.append("none of the managers leads")
        for node in self.memory_nodes:
            if not node.serving:
                found.append(f"memory node {node.node} has no primary that serves")
            late = [replica.endpoint for replica in node.replicas if not replica.in_sync]
            found += [f"memory node {node.node}: {place} is not in sync" for place in late]
            missing = node.replicas_wanted - len(node.replicas)
            if missing > 0:
                found.append(f"memory node {node.node} lacks {missing} of its replicas")
        return found

    @property
    def healthy(self) -> bool:
        """Whether every process serves and every replica is in sync."""
        return not self.problems

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "problems": self.problems, "healthy": self.healthy}


def leads(manager: ProcessStatus) -> bool:
    """Whether a manager may change the configuration, as far as it knows."""
    return bool(manager.figures.get("leading", 0))


class ClusterView:
    """A cluster that is looked at, once or again and again."""

    def __init__(self, cluster: str, chosen_keys: Path | None = None) -> None:
        """The cluster that a user named, as `resolve_endpoint` does.  Raises ConfigError."""
        path = described_at(cluster)
        self._keys = keys = resolve_keys(cluster, chosen_keys)
        self._local: LocalCluster | None = None
        self._config: ClusterConfig | None = None
        if path is None:
            self._asked = resolve_endpoint(cluster).split(",")
        else:
            self._config = ClusterConfig.load(path)
            self._asked = [process.endpoint for process in self._config.processes]
            if Path(cluster).is_dir():
                self._local = LocalCluster(path.parent)
        self._observer = Observer(self._asked, keys)

    def look(self, timeout: float = ANSWER_WITHIN) -> Sight:
        """What everybody says.  Raises Unreachable if nobody says who belongs to the cluster."""
        sight = self._observer.look(timeout)
        if self._config is None and sight.directory is None:
            asked = ", ".join(self._asked)
            raise Unreachable(
                f"no manager or memory node answers at {asked} within {timeout:g} s; is the "
                f"cluster up, and is this its address? {key_hint(self._keys)}"
            )
        return sight

    def status(self, sight: Sight) -> ClusterStatus:
        """What was seen, put together."""
        directory = sight.directory or Directory(0, 0, "", [])
        processes = [
            self._process(name, endpoint, sight, directory)
            for name, endpoint in self._names(directory, sight).items()
        ]
        nodes = [_memory_node(entry, sight) for entry in directory.nodes]
        name = self._config.cluster if self._config is not None else directory.cluster
        return ClusterStatus(name, processes, nodes)

    def close(self) -> None:
        """Ask no more."""
        self._observer.close()

    def _names(self, directory: Directory, sight: Sight) -> dict[str, str]:
        """Endpoints by name: as described; who is not described is named for its role."""
        if self._config is not None:
            names = {process.name: process.endpoint for process in self._config.processes}
        else:
            names = _manager_names(directory, sight)
        known = set(names.values())
        for entry in directory.nodes:
            members = [entry.endpoint, *(replica.endpoint for replica in entry.replicas)]
            for position, endpoint in enumerate(members):
                if endpoint not in known:
                    name = f"node{entry.node}r{position}" if position else f"node{entry.node}"
                    names[endpoint if name in names else name] = endpoint
        return names

    def _process(
        self, name: str, endpoint: str, sight: Sight, directory: Directory
    ) -> ProcessStatus:
        running = self._local.process(name) if self._local is not None else None
        node, role = _part_in(directory, endpoint)
        answer = sight.statuses.get(endpoint)
        if answer is not None and answer.node == MANAGER:
            role = MANAGES
        if answer is not None and node is None and role == NO_ROLE:
            node = answer.node
        silent = DOWN if running is None else SILENT
        return ProcessStatus(
            name,
            endpoint,
            silent if answer is None else answer.state,
            MANAGES if self._is_manager(endpoint) else role,
            node,
            None if running is None else running.pid,
            {} if answer is None else answer.figures,
        )

    def _is_manager(self, endpoint: str) -> bool:
        managers = self._config.manager if self._config is not None else []
        return any(manager.endpoint == endpoint for manager in managers)


def look_at(cluster: str, chosen_keys: Path | None = None) -> ClusterStatus:
    """The status of the cluster that a user named.

    Raises ConfigError, or Unreachable if nobody says who belongs to the cluster.
    """
    view = ClusterView(cluster, chosen_keys)
    try:
        return view.status(view.look())
    finally:
        view.close()


def replicas_of(node: int, sight: Sight) -> list[ReplicaStatus]:
    """The replicas of a memory node, and how far they are."""
    entries = [] if sight.directory is None else sight.directory.nodes
    entry = next((entry for entry in entries if entry.node == node), None)
    return [] if entry is None else _memory_node(entry, sight).replicas


def _manager_names(directory: Directory, sight: Sight) -> dict[str, str]:
    speaking = [place for place, status in sight.statuses.items() if status.node == MANAGER]
    places = list(dict.fromkeys([*directory.managers, *speaking]))
    if len(places) == 1:
        return {"manager": places[0]}
    return {f"manager{k}": place for k, place in enumerate(places)}


def _part_in(directory: Directory, endpoint: str) -> tuple[int | None, str]:
    """Of which memory node the process at ``endpoint`` is a member, and what it is there."""
    if endpoint in directory.managers:
        return None, MANAGES
    for entry in directory.nodes:
        if entry.endpoint == endpoint and entry.identity:
            return entry.node, PRIMARY
        if any(replica.endpoint == endpoint for replica in entry.replicas):
            return entry.node, REPLICA
    return None, NO_ROLE


def _memory_node(entry: MemoryNodeEntry, sight: Sight) -> MemoryNodeStatus:
    answer = sight.statuses.get(entry.endpoint)
    figures: Figures = {} if answer is None else answer.figures
    last = _number(figures, "last_record")
    replicas = [
        _replica(replica.endpoint, sight, last, in_sync=replica.in_sync)
        for replica in entry.replicas
    ]
    managers = [status for status in sight.statuses.values() if status.node == MANAGER]
    pinned = [_number(status.figures, f"pinned_by_node{entry.node}") or 0 for status in managers]
    return MemoryNodeStatus(
        node=entry.node,
        primary=entry.endpoint if entry.identity else "",
        serving=answer is not None and answer.state == SERVING,
        mode=entry.mode,
        capacity_bytes=entry.capacity,
        incarnation=entry.incarnation,
        config_epoch=entry.config_epoch,
        replicas_wanted=entry.wanted,
        replicas=replicas,
        log_bytes=_number(figures, "log_bytes"),
        in_doubt=_number(figures, "in_doubt"),
        pinned=max(pinned, default=0),
        executed=_number(figures, "votes_ok"),
        clients=_number(figures, "clients"),
        remembered=_number(figures, "remembered"),
    )


def _replica(endpoint: str, sight: Sight, last: int | None, *, in_sync: bool) -> ReplicaStatus:
    answer = sight.statuses.get(endpoint)
    has = None if answer is None else _number(answer.figures, "last_record")
    copied = None if answer is None else _number(answer.figures, "copied_bytes")
    if last is None or has is None:
        return ReplicaStatus(endpoint, in_sync, copied_bytes=copied)
    # The two were not asked at the same moment, so that a replica may seem to be ahead.
    behind = max(0, last - has)
    percent = 100.0 * (last - behind) / last if last else 100.0
    return ReplicaStatus(endpoint, in_sync, behind, percent, copied)


def _number(figures: Figures, name: str) -> int | None:
    figure = figures.get(name)
    return figure if isinstance(figure, int) else None
