"""The status of a cluster is what its processes say of themselves; one that is silent is down.

All are asked at once, so that dead processes cost one timeout and not one each.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sinfonia.cli.local_cluster import MANAGER, LocalCluster
from sinfonia.client.seed import ASK_EVERY, Inquiry, ask_for_directory
from sinfonia.config import ClusterConfig, config_file, resolve_endpoint
from sinfonia.protocol.messages import MANAGER as MANAGER_NODE
from sinfonia.protocol.messages import GetStatus, Status

# A process that serves answers within a wake-up; one that syncs a lot may take a moment.
ANSWER_WITHIN = 1.0

DOWN = "down"
SERVING = "serving"

Figures = Mapping[str, int | float | str]


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process; ``pid`` is known only of processes that `sinfonia up` started here."""

    name: str
    endpoint: str
    state: str
    pid: int | None = None
    figures: Figures = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """All processes of a cluster, the manager first."""

    cluster: str
    processes: list[ProcessStatus]

    @property
    def healthy(self) -> bool:
        """Whether every process serves."""
        return all(process.state == SERVING for process in self.processes)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "healthy": self.healthy}


def look_at(cluster: str) -> ClusterStatus:
    """Ask every process of the cluster that a user named, as `resolve_endpoint` does.

    Raises ConfigError, or Unreachable if nobody says who belongs to the cluster.
    """
    path = Path(cluster)
    if cluster.startswith("tcp://") or not path.exists():
        return _look_from_afar(resolve_endpoint(cluster))
    config = ClusterConfig.load(config_file(path))
    endpoints = {MANAGER: config.manager.endpoint}
    endpoints |= {f"node{node.node}": node.endpoint for node in config.memory_node}
    running = LocalCluster(path).running if path.is_dir() else {}
    answers = ask_all(endpoints.values())
    processes = [
        _status_of(name, endpoint, answers.get(endpoint), running[name].pid)
        if name in running
        else _status_of(name, endpoint, answers.get(endpoint))
        for name, endpoint in endpoints.items()
    ]
    return ClusterStatus(config.cluster, processes)


def ask_all(endpoints: Iterable[str], *, timeout: float = ANSWER_WITHIN) -> dict[str, Status]:
    """What the processes at ``endpoints`` say within ``timeout`` seconds, by endpoint."""
    inquiries = {endpoint: Inquiry(endpoint, GetStatus(), Status) for endpoint in endpoints}
    answers: dict[str, Status] = {}
    deadline = time.monotonic() + timeout
    try:
        while len(answers) < len(inquiries) and (now := time.monotonic()) < deadline:
            for endpoint in inquiries.keys() - answers.keys():
                answer = inquiries[endpoint].poll(now)
                if isinstance(answer, Status):
                    answers[endpoint] = answer
            time.sleep(ASK_EVERY)
    finally:
        for inquiry in inquiries.values():
            inquiry.close()
    return answers


def _look_from_afar(endpoint: str) -> ClusterStatus:
    """The directory of the process at ``endpoint`` says who belongs to its cluster."""
    directory = ask_for_directory(endpoint)
    nodes = {f"node{entry.node}": entry.endpoint for entry in directory.nodes}
    answers = ask_all({endpoint, *nodes.values()})
    processes = [_status_of(name, place, answers.get(place)) for name, place in nodes.items()]
    here = answers.get(endpoint)
    if here is not None and here.node == MANAGER_NODE:
        processes.insert(0, _status_of(MANAGER, endpoint, here))
    return ClusterStatus(directory.cluster, processes)


def _status_of(
    name: str, endpoint: str, answer: Status | None, pid: int | None = None
) -> ProcessStatus:
    if answer is None:
        return ProcessStatus(name, endpoint, DOWN, pid)
    return ProcessStatus(name, endpoint, answer.state, pid, answer.figures)
