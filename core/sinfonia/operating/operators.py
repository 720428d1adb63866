"""An operator changes a cluster by asking its managers, and looks whether the change came about.

Managers grant or refuse every change.  Processes are started and ended here only if the cluster is
described on this machine.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.seed import key_hint
from sinfonia.config import ClusterConfig
from sinfonia.endpoints import normalise_endpoint
from sinfonia.errors import ConfigError, Unreachable
from sinfonia.operating.handle import Tell
from sinfonia.operating.observer import Observer, ask_managers
from sinfonia.operating.refusals import NotYet
from sinfonia.operating.sights import OnSight, Sight
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.membership.messages import (
    Directory,
    GetUnsettled,
    MemoryNodeEntry,
    UnsettledTids,
)
from sinfonia.protocol.messages import MANAGER, Request
from sinfonia.transport.keys import Keys

# How often an operator looks whether something has come about.
LOOK_EVERY = 0.1


class ProcessesHere(Protocol):
    """The processes of a cluster that this machine describes, starts and ends."""

    @property
    def config(self) -> ClusterConfig: ...

    @property
    def directory(self) -> Path: ...

    @property
    def endpoints(self) -> Mapping[str, str]: ...

    @property
    def running(self) -> Mapping[str, object]: ...

    def change(self, config: ClusterConfig) -> None: ...

    def start(self, names: Sequence[str], *, on_sight: OnSight) -> list[str]: ...

    def stop(self, names: Sequence[str]) -> list[str]: ...


class Operator:
    """One action on a cluster: what it asks, and what it waits for."""

    def __init__(
        self,
        name: str,
        *,
        asked: Sequence[str],
        managers: Sequence[str],
        keys: Keys | None,
        local: ProcessesHere | None,
        tell: Tell,
        on_sight: OnSight,
        timeout: float | None,
    ) -> None:
        """Act on the cluster that commands call ``name``.

        ``asked``: processes that tell of the others; ``managers``: those that are known already.
        ``tell`` gets a line when something is under way, ``on_sight`` every look.  ``timeout`` in
        seconds; None: wait as long as it takes.  Raises ConfigError.
        """
        self.name = name
        self.tell = tell
        self.local = local
        self._on_sight = on_sight
        self._timeout = timeout
        self._keys = keys
        self._asked = list(asked)
        self._managers = list(managers)
        self._observer = Observer(self._asked, keys)

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

    # --- what there is -------------------------------------------------------------------------

    def look(self) -> Sight:
        """What all processes answer."""
        sight = self._observer.look()
        self._on_sight(sight)
        return sight

    def directory(self) -> Directory:
        """Which processes belong to the cluster.  Raises Unreachable."""
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
        """The managers to ask for changes."""
        sight = self._observer.look()
        found = [place for place, status in sight.statuses.items() if status.node == MANAGER]
        told = [] if sight.directory is None else sight.directory.managers
        return list(dict.fromkeys([*self._managers, *found, *told])) or self._asked

    # --- what is to be --------------------------------------------------------------------------

    def request(self, request: Request) -> None:
        """Have the manager that leads do it.  Raises OperationRefused or Unreachable."""
        ask_managers(self.managers(), request, self._keys)

    def unsettled(self, tid: Tid | None = None) -> UnsettledTids:
        """What the manager that leads is settling; or only ``tid``.  Raises Unreachable."""
        answer = ask_managers(self.managers(), GetUnsettled(tid), self._keys)
        assert isinstance(answer, UnsettledTids), "a manager answers what it was asked"
        return answer

    def wait_until(
        self, reached: Callable[[Sight], bool], what: str, *, patience: float | None = None
    ) -> None:
        """Look until ``reached`` says so.

        ``patience`` (seconds) takes the place of the operator's timeout.  Raises NotYet.
        """
        limit = self._timeout if patience is None else patience
        deadline = None if limit is None else time.monotonic() + limit
        while not reached(self.look()):
            if deadline is not None and time.monotonic() >= deadline:
                raise NotYet(f"{what}: not within {limit:g} s; say the same again to wait on")
            time.sleep(LOOK_EVERY)

    def start(self, names: Sequence[str]) -> None:
        """Start processes here as far as they do not run, and wait until they are ready."""
        assert self.local is not None, "only a cluster on this machine has processes here"
        self.local.start(names, on_sight=self._on_sight)
