"""A view of a cluster asks its processes and puts their answers together; it keeps no status.

Names come from the description if there is one.  A process that is in the directory only is named
for its part there.
"""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from sinfonia.client.seed import key_hint
from sinfonia.config import ClusterConfig
from sinfonia.errors import Unreachable
from sinfonia.figures import manager, member
from sinfonia.figures.figure import Figures
from sinfonia.operating.cluster_status import (
    DOWN,
    MANAGES,
    NO_ROLE,
    PRIMARY,
    REPLICA,
    SILENT,
    ClusterStatus,
    MemoryNodeStatus,
    ProcessStatus,
    ReplicaStatus,
)
from sinfonia.operating.observer import Observer
from sinfonia.operating.sights import ANSWER_WITHIN, SERVING, Sight
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry
from sinfonia.protocol.messages import MANAGER
from sinfonia.transport.keys import Keys

# The pid of a process by its name; None: it does not run on this machine.
PidOf = Callable[[str], int | None]


class ClusterView:
    """A cluster that is looked at, once or again and again."""

    def __init__(
        self,
        asked: Sequence[str],
        keys: Keys | None,
        config: ClusterConfig | None,
        pid_of: PidOf | None,
    ) -> None:
        """Ask the processes at ``asked``, and those that they name.  Raises ConfigError.

        ``pid_of``: None if the processes are on other machines.
        """
        self._asked = asked
        self._keys = keys
        self._config = config
        self._pid_of = pid_of
        self._observer = Observer(asked, keys)

    def look(self, timeout: float = ANSWER_WITHIN) -> Sight:
        """What all processes answer.  Raises Unreachable if none tells of the others."""
        sight = self._observer.look(timeout, ended=self._ended())
        if self._config is None and sight.directory is None:
            asked = ", ".join(self._asked)
            raise Unreachable(
                f"no manager or memory node answers at {asked} within {timeout:g} s; is the "
                f"cluster up, and is this its address? {key_hint(self._keys)}"
            )
        return sight

    def status(self, sight: Sight) -> ClusterStatus:
        """What was seen, put together."""
        return status_of(sight, self._config, self._pid_of)

    def _ended(self) -> list[str]:
        """Where a process is described that does not run here, while others do.

        If none runs here, they may run elsewhere.
        """
        if self._config is None or self._pid_of is None:
            return []
        processes = self._config.processes
        ended = [each.endpoint for each in processes if self._pid_of(each.name) is None]
        return ended if len(ended) < len(processes) else []

    def close(self) -> None:
        """Close the connections to the processes."""
        self._observer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def status_of(sight: Sight, config: ClusterConfig | None, pid_of: PidOf | None) -> ClusterStatus:
    """The status of the cluster that ``config`` describes, or else that the directory tells."""
    directory = sight.directory or Directory(0, 0, "", [])
    managers = [] if config is None else [manager.endpoint for manager in config.manager]
    processes = []
    for name, endpoint in names_of(sight, config).items():
        answer = sight.statuses.get(endpoint)
        node, role = _part_in(directory, endpoint)
        if endpoint in managers or (answer is not None and answer.node == MANAGER):
            role = MANAGES
        elif answer is not None and node is None and role == NO_ROLE:
            node = answer.node
        pid = None if pid_of is None else pid_of(name)
        silent = DOWN if pid is None else SILENT
        state = silent if answer is None else answer.state
        figures: Figures = {} if answer is None else answer.figures
        processes.append(ProcessStatus(name, endpoint, state, role, node, pid, figures))
    return ClusterStatus(
        cluster=directory.cluster if config is None else config.cluster,
        processes=processes,
        memory_nodes=[_memory_node(entry, sight) for entry in directory.nodes],
    )


def names_of(sight: Sight, config: ClusterConfig | None) -> dict[str, str]:
    """Endpoints by name, the managers first."""
    directory = sight.directory or Directory(0, 0, "", [])
    if config is not None:
        names = {process.name: process.endpoint for process in config.processes}
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
    last = member.LAST_RECORD.read(figures)
    replicas = [
        _replica(replica.endpoint, sight, last, in_sync=replica.in_sync)
        for replica in entry.replicas
    ]
    managers = [status for status in sight.statuses.values() if status.node == MANAGER]
    pinned = [manager.PINNED.of(entry.node).read(each.figures) or 0 for each in managers]
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
        log_bytes=member.LOG_BYTES.read(figures),
        in_doubt=member.IN_DOUBT.read(figures),
        pinned=max(pinned, default=0),
        executed=member.VOTES_OK.read(figures),
        clients=member.CLIENTS.read(figures),
        remembered=member.REMEMBERED.read(figures),
    )


def _replica(endpoint: str, sight: Sight, last: int | None, *, in_sync: bool) -> ReplicaStatus:
    answer = sight.statuses.get(endpoint)
    has = None if answer is None else member.LAST_RECORD.read(answer.figures)
    copied = None if answer is None else member.COPIED_BYTES.read(answer.figures)
    if last is None or has is None:
        return ReplicaStatus(endpoint, in_sync, copied_bytes=copied)
    # The two were not asked at the same moment, so that a replica may seem to be ahead.
    behind = max(0, last - has)
    percent = 100.0 * (last - behind) / last if last else 100.0
    return ReplicaStatus(endpoint, in_sync, behind, percent, copied)
