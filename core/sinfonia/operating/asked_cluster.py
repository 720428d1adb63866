"""A cluster whose processes answer over the network: its status, its clients, its operators.

Whether the processes are on this machine makes no difference here; see local_cluster.py and
remote_cluster.py.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

from sinfonia.client.blocking import BlockingCluster, connect_blocking
from sinfonia.config import ClusterConfig
from sinfonia.operating.actions import Action, Done
from sinfonia.operating.cluster_load import ClusterLoad, ask_for_load
from sinfonia.operating.cluster_status import ClusterStatus
from sinfonia.operating.cluster_view import ClusterView, PidOf, status_of
from sinfonia.operating.handle import (
    CONNECT_TIMEOUT,
    HEAL_TIMEOUT,
    OnStatus,
    ProcessPlace,
    Reached,
    Tell,
)
from sinfonia.operating.operations.carrying_out import carry_out
from sinfonia.operating.operators import Operator, ProcessesHere
from sinfonia.operating.refusals import NotYet
from sinfonia.operating.sights import ANSWER_WITHIN
from sinfonia.protocol.membership.messages import UnsettledTids
from sinfonia.transport.keys import Keys

# How often a cluster is looked at that is waited for, and how long a look waits for the silent:
# less than for one status, because silence is what is waited out.
LOOK_EVERY = 0.05
LOOK_WITHIN = 0.3


class AskedCluster(ABC):
    """What ReachableCluster promises, for every cluster that can be asked."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What a command takes as CLUSTER to mean this cluster."""

    @property
    @abstractmethod
    def asked(self) -> Sequence[str]:
        """Endpoints of processes that tell of the others."""

    @property
    @abstractmethod
    def description(self) -> ClusterConfig | None:
        """The cluster's description; None: only endpoints are known."""

    @property
    @abstractmethod
    def keys(self) -> Keys | None:
        """With what to connect; None: the cluster has no keys.  Raises ConfigError."""

    @abstractmethod
    def places(self) -> list[ProcessPlace]:
        """All processes, the managers first."""

    @property
    @abstractmethod
    def pid_of(self) -> PidOf | None:
        """Tells the pid of a process by its name; None: the processes are on other machines."""

    @abstractmethod
    def _processes_here(self) -> ProcessesHere | None:
        """The processes that an operator can start and end; None: they are elsewhere."""

    @property
    def contact(self) -> str:
        """Where clients connect: endpoints of managers or members, separated by commas."""
        config = self.description
        return ",".join(self.asked) if config is None else config.endpoint

    def view(self) -> ClusterView:
        """A view of the cluster, to look at it again and again; close it.  Raises ConfigError."""
        return ClusterView(self.asked, self.keys, self.description, self.pid_of)

    def status(self, timeout: float = ANSWER_WITHIN) -> ClusterStatus:
        """As ReachableCluster has it."""
        with self.view() as view:
            return view.status(view.look(timeout))

    def wait_until(self, reached: Reached, what: str, timeout: float) -> ClusterStatus:
        """As ReachableCluster has it."""
        deadline = time.monotonic() + timeout
        with self.view() as view:
            while True:
                status = view.status(view.look(LOOK_WITHIN))
                if reached(status):
                    return status
                if time.monotonic() >= deadline:
                    problems = "; ".join(status.problems) or "all processes are well"
                    raise NotYet(f"{what}: not within {timeout:g} s; {problems}")
                time.sleep(LOOK_EVERY)

    def wait_until_healthy(self, timeout: float = HEAL_TIMEOUT) -> ClusterStatus:
        """As ReachableCluster has it."""
        return self.wait_until(lambda status: status.healthy, "the cluster is well", timeout)

    def load(self, timeout: float = ANSWER_WITHIN) -> ClusterLoad:
        """What the memory nodes did lately.  Raises Unreachable if no process tells of them."""
        return ask_for_load(self.contact.split(","), self.keys, timeout)

    def connect(self, timeout: float = CONNECT_TIMEOUT) -> BlockingCluster:
        """As ReachableCluster has it."""
        return connect_blocking(self.contact, timeout=timeout, keys=self.keys)

    def operate(
        self,
        action: Action,
        *,
        timeout: float | None = None,
        tell: Tell = lambda _: None,
        on_status: OnStatus = lambda _: None,
    ) -> Done:
        """As ReachableCluster has it."""
        with self._operator(timeout=timeout, tell=tell, on_status=on_status) as operator:
            return carry_out(operator, action)

    def unsettled(self) -> UnsettledTids:
        """As ReachableCluster has it."""
        with self._operator() as operator:
            return operator.unsettled()

    def _operator(
        self,
        *,
        timeout: float | None = None,
        tell: Tell = lambda _: None,
        on_status: OnStatus = lambda _: None,
    ) -> Operator:
        config = self.description
        return Operator(
            self.name,
            asked=self.asked,
            managers=[] if config is None else [each.endpoint for each in config.manager],
            keys=self.keys,
            local=self._processes_here(),
            tell=tell,
            on_sight=lambda sight: on_status(status_of(sight, self.description, self.pid_of)),
            timeout=timeout,
        )
