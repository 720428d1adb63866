"""The status of a cluster is what its processes say of themselves, or that they are silent.

The directory says which member is primary and which are in sync: it is the only carrier of
configuration.  How far a replica is behind is the difference between what two members say.
"""

from dataclasses import asdict, dataclass, field

from sinfonia.errors import ConfigError
from sinfonia.figures import manager, member
from sinfonia.figures.figure import Figures
from sinfonia.operating.sights import FOLLOWING, SERVING

DOWN = "down"

# The process runs here, but does not answer: it is paused, or at something long.
SILENT = "silent"

MANAGES = "manager"
PRIMARY = "primary"
REPLICA = "replica"
NO_ROLE = ""


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process, which is a member of memory node ``node`` unless that is None.

    ``pid`` is known only of processes that `sinfonia up` started on this machine.
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
        """Whether the process does its work: it serves, or follows its primary."""
        return self.state in (SERVING, FOLLOWING)

    @property
    def reason(self) -> str:
        """Why the process is not well, as far as it says: what it waits for, what is damaged."""
        damage = member.DAMAGE.read(self.figures)
        said = [damage and f"its data is damaged: {damage}", member.WAITING_FOR.read(self.figures)]
        return "; ".join(filter(None, said))

    @property
    def repairs(self) -> int:
        """How often damaged data of the process was replaced by a copy, in this life."""
        return member.REPAIRS.read(self.figures) or 0


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

    def process(self, name: str) -> ProcessStatus:
        """What process ``name`` says of itself.  Raises ConfigError if there is none."""
        for process in self.processes:
            if process.name == name:
                return process
        known = ", ".join(process.name for process in self.processes)
        raise ConfigError(f"there is no process {name!r}; the cluster has {known}")

    def memory_node(self, node: int) -> MemoryNodeStatus:
        """How memory node ``node`` is.  Raises ConfigError if there is none."""
        for each in self.memory_nodes:
            if each.node == node:
                return each
        known = ", ".join(str(each.node) for each in self.memory_nodes) or "none yet"
        raise ConfigError(f"there is no memory node {node}; the cluster has {known}")

    def primary_of(self, node: int) -> str | None:
        """The name of the process that is the primary of ``node``; None: there is none now."""
        return next(iter(self._members(node, PRIMARY)), None)

    def replicas_of(self, node: int) -> list[str]:
        """The names of the processes that are replicas of ``node``."""
        return self._members(node, REPLICA)

    @property
    def leader(self) -> str | None:
        """The name of the manager that leads; None: no manager says that it does."""
        return next((each.name for each in self.processes if leads(each)), None)

    def _members(self, node: int, role: str) -> list[str]:
        return [each.name for each in self.processes if (each.node, each.role) == (node, role)]

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
        """The status for JSON."""
        return {**asdict(self), "problems": self.problems, "healthy": self.healthy}


def leads(process: ProcessStatus) -> bool:
    """Whether a process is a manager that may change the configuration, as far as it knows."""
    return bool(manager.LEADING.read(process.figures))
