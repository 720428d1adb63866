"""An operator knows a cluster as a whole: its directory, its managers, and its processes if here.

What is to change is asked of the managers; whether it came about is looked up, again and again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.seed import key_hint
from sinfonia.cluster_keys import resolve_keys
from sinfonia.config import ClusterConfig, described_at, resolve_endpoint
from sinfonia.endpoints import normalise_endpoint
from sinfonia.errors import ConfigError, SinfoniaError, Unreachable
from sinfonia.operating.local_cluster import LocalCluster, OnSight
from sinfonia.operating.observer import Observer, Sight, ask_managers
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry
from sinfonia.protocol.messages import MANAGER, Request

# How often is looked whether something has come about.
LOOK_EVERY = 0.1

Tell = Callable[[str], None]


class NotYet(SinfoniaError):
    """What was begun goes on, but is not done within the time that it was given."""


@dataclass(frozen=True, slots=True)
class Done:
    """How it ended; ``changed`` is False if there was nothing to do."""

    changed: bool
    message: str


class Operator:
    """A cluster as its operator has it: its directory, its managers, and its processes if here.

    tell: says a line while something is under way.  on_sight: is called with every look.
    """

    def __init__(
        self,
        cluster: str,
        chosen_keys: Path | None = None,
        *,
        tell: Tell = lambda _: None,
        on_sight: OnSight = lambda _: None,
        timeout: float | None = None,
    ) -> None:
        """The cluster that a user named, as `resolve_endpoint` does.  Raises ConfigError."""
        self.name = cluster
        self.tell = tell
        self._on_sight = on_sight
        self._timeout = timeout
        path = described_at(cluster)
        self._keys = resolve_keys(cluster, chosen_keys)
        self.local = LocalCluster(Path(cluster)) if Path(cluster).is_dir() else None
        if path is None:
            self._asked = resolve_endpoint(cluster).split(",")
            self._managers: list[str] = []
        else:
            config = ClusterConfig.load(path)
            self._asked = [process.endpoint for process in config.processes]
            self._managers = [manager.endpoint for manager in config.manager]
        self._observer = Observer(self._asked, self._keys)

    def close(self) -> None:
        """Ask no more."""
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

    # --- what there is -------------------------------------------------------------------------

    def look(self) -> Sight:
        """What everybody says."""
        sight = self._observer.look()
        self._on_sight(sight)
        return sight

    def directory(self) -> Directory:
        """Who belongs to the cluster.  Raises Unreachable."""
        directory = self.look().directory
        if directory is None:
            raise Unreachable(
                f"no manager or memory node answers at {', '.join(self._asked)}; is the cluster "
                f"up? {key_hint(self._keys)}"
            )
        return directory

    def entry(self, node: int) -> MemoryNodeEntry:
        """What is known of memory node ``node``.  Raises ConfigError if there is none."""
        directory = self.directory()
        entry = directory.entry(MemoryNodeId(node))
        if entry is None:
            known = ", ".join(str(entry.node) for entry in directory.nodes) or "none yet"
            raise ConfigError(f"there is no memory node {node}; the cluster has {known}")
        return entry

    def endpoint(self, member: str) -> str:
        """Where ``member`` is, an endpoint or the name of a process here.  Raises ConfigError."""
        if self.local is None or ":" in member:
            return normalise_endpoint(member)
        if member in self.local.endpoints:
            return self.local.endpoints[member]
        if (self.local.directory / member).is_dir():
            return member  # it was a process here, which has left its data
        known = ", ".join(self.local.endpoints)
        raise ConfigError(f"there is no process {member!r} here; there are {known}")

    def managers(self) -> list[str]:
        """Whom to ask for changes."""
        sight = self._observer.look()
        found = [place for place, status in sight.statuses.items() if status.node == MANAGER]
        told = [] if sight.directory is None else sight.directory.managers
        return list(dict.fromkeys([*self._managers, *found, *told])) or self._asked

    # --- what is to be --------------------------------------------------------------------------

    def request(self, request: Request) -> None:
        """Have a manager do it.  Raises OperationRefused or Unreachable."""
        ask_managers(self.managers(), request, self._keys)

    def wait_until(
        self, reached: Callable[[Sight], bool], what: str, *, patience: float | None = None
    ) -> None:
        """Look until ``reached`` says so.

        ``patience`` overrides how long the operator would wait.  Raises NotYet.
        """
        limit = self._timeout if patience is None else patience
        deadline = None if limit is None else time.monotonic() + limit
        while not reached(self.look()):
            if deadline is not None and time.monotonic() >= deadline:
                raise NotYet(f"{what}: not within {limit:g} s; say the same again to wait on")
            time.sleep(LOOK_EVERY)

    def start(self, names: list[str]) -> None:
        """Start processes here as far as they do not run, and wait until they are ready."""
        assert self.local is not None, "only a cluster on this machine has processes here"
        self.local.start(names, on_sight=self._on_sight)
