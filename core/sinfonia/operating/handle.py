"""A cluster is driven through its handle, wherever its processes run.

Commands, tests, fault injection and the checks of a deployment take a handle, and know nothing else
of the cluster.  There are two interfaces, because a cluster of which only an address is known can
be asked and operated, and no process of it can be started from here:

``ReachableCluster``
    The cluster answers: what its status is, how a client connects, what an operator changes.
``ClusterHandle``
    Its processes are within reach, too: they can be started, stopped, killed and paused.

A capability that only some handles have (files, a network that can be cut) is an attribute that is
None where it is missing, so that the type checker makes every caller say what happens then.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from sinfonia.client.steps import Steps
from sinfonia.minitransaction import Minitransaction, Result
from sinfonia.operating.actions import Action, Done
from sinfonia.operating.cluster_status import ClusterStatus
from sinfonia.operating.sights import ANSWER_WITHIN
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.membership.messages import UnsettledTids
from sinfonia.transport.keys import Keys

T = TypeVar("T")

# A memory node that replays a long log takes its time; one that does not start says so and ends.
START_TIMEOUT = 60.0

# A process finishes its wake-up and lets go of its files; a checkpoint's write may take a while.
STOP_PATIENCE = 10.0

# The longest that a cluster which is whole again may take to be in sync again.
HEAL_TIMEOUT = 40.0

# As long as a client that a program opens tries to find the cluster.
CONNECT_TIMEOUT = 5.0

# A process's log may have grown for days; what explains an end is at its own end.
LOG_TEXT_BYTES = 16 << 20

Reached = Callable[[ClusterStatus], bool]
OnStatus = Callable[[ClusterStatus], None]
Tell = Callable[[str], None]


class ProcessKind(Enum):
    """What a process is for as long as it is described; primary and replica are in the status."""

    MANAGER = "manager"
    MEMBER = "member"


class Condition(Enum):
    """What the operating system says of a process, whether or not the process answers."""

    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class ProcessPlace:
    """One process of a cluster, and where it runs.

    ``node``: the memory node of which it is a member; None of a manager.  ``host``: as faults of
    hosts and of the network name it.
    """

    name: str
    endpoint: str
    host: str
    node: int | None

    @property
    def kind(self) -> ProcessKind:
        """Manager, or member of a memory node."""
        return ProcessKind.MANAGER if self.node is None else ProcessKind.MEMBER


class ClusterClient(Protocol):
    """A connection that waits for each answer; real and simulated clusters can both offer it.

    A program that wants many minitransactions under way at a time opens ``sinfonia.connect`` with
    the handle's ``contact`` and ``keys``.
    """

    def minitransaction(
        self, *, reads_on_failure: bool = False, lock_wait: float = 0.0, tag: str = ""
    ) -> Minitransaction[Result]:
        """As ClusterApi has it."""

    def read(self, node: int, address: int, length: int, *, timeout: float | None = None) -> bytes:
        """As ClusterApi has it."""

    def write(self, node: int, address: int, data: bytes, *, timeout: float | None = None) -> None:
        """As ClusterApi has it."""

    def outcome(self, tid: Tid, *, timeout: float | None = None) -> bool:
        """As ClusterApi has it."""

    def run(self, steps: Steps[T], *, timeout: float | None = None) -> T:
        """As ClusterApi has it."""

    def close(self) -> None:
        """Close the connection."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class ReachableCluster(Protocol):
    """A cluster that answers."""

    @property
    def name(self) -> str:
        """What a command takes as CLUSTER to mean this cluster."""

    @property
    def contact(self) -> str:
        """Where clients connect: endpoints of managers or members, separated by commas."""

    @property
    def keys(self) -> Keys | None:
        """With what clients and operators connect; None: the cluster has no keys.

        Raises ConfigError.
        """

    def places(self) -> list[ProcessPlace]:
        """All processes, the managers first.  Raises Unreachable if no process tells of them."""

    def status(self, timeout: float = ANSWER_WITHIN) -> ClusterStatus:
        """What the processes say of themselves within ``timeout`` seconds.

        Raises Unreachable if no process tells of the others.
        """

    def wait_until(self, reached: Reached, what: str, timeout: float) -> ClusterStatus:
        """Look again and again until ``reached``; the status that was seen then.

        ``what`` names the thing that is waited for.  Raises NotYet after ``timeout`` seconds.
        """

    def wait_until_healthy(self, timeout: float = HEAL_TIMEOUT) -> ClusterStatus:
        """Until every process serves and every replica is in sync.  Raises NotYet."""

    def connect(self, timeout: float = CONNECT_TIMEOUT) -> ClusterClient:
        """A client of the cluster.  Raises Unreachable."""

    def unsettled(self) -> UnsettledTids:
        """The tids that the manager is settling, and the participants for which they wait.

        Raises Unreachable if no manager that leads answers.
        """

    def operate(
        self,
        action: Action,
        *,
        timeout: float | None = None,
        tell: Tell = lambda _: None,
        on_status: OnStatus = lambda _: None,
    ) -> Done:
        """Carry out what an operator wants changed, and wait until it is done.

        ``timeout`` (seconds; None: no limit) ends the waiting and not what was begun.  ``tell``
        gets a line when something is under way, ``on_status`` every look.  An action may be
        repeated: what is done is not done again.  Raises OperationRefused, NotYet, Unreachable or
        ConfigError.
        """


class ProcessFiles(Protocol):
    """The files of processes, where a fault of a disk can be made."""

    def data_directory(self, name: str) -> Path | None:
        """Where process ``name`` keeps its data; None: it has none, as a manager on etcd."""

    def log_directory(self, name: str) -> Path | None:
        """Where process ``name`` keeps its redo log; None: it is in its data directory."""


class NetworkFaults(Protocol):
    """A network between hosts whose directions can be cut one by one."""

    @property
    def addresses(self) -> Mapping[str, str]:
        """The hosts by name; that of the caller, from which clients connect, is among them."""

    def cut(self, sender: str, receiver: str) -> None:
        """What host ``sender`` sends to ``receiver`` is lost from now on."""

    def heal(self) -> None:
        """Every host reaches every other again."""


class HostNetwork(NetworkFaults, Protocol):
    """Hosts on this machine: a process is on the host in which it was started."""

    def inside(self, host: str) -> AbstractContextManager[None]:
        """This thread, and what it starts, is on ``host`` until the context ends."""


class ClusterHandle(ReachableCluster, Protocol):
    """A cluster whose processes are within reach.

    ``names`` are those of ``places``; another name is a ConfigError.  Each method returns when what
    it does has taken effect.
    """

    def start(self, names: Sequence[str] = (), *, timeout: float = START_TIMEOUT) -> list[str]:
        """Start ``names`` (default: all) as far as they do not run, and wait until they serve.

        Returns what was started.  Raises StartFailed; then no process is left that this started.
        """

    def launch(self, names: Sequence[str] = ()) -> list[str]:
        """Start ``names`` (default: all) as far as they do not run, and do not wait for them.

        A process that cannot serve ends, and its log says why.  Returns what was started.
        """

    def stop(self, names: Sequence[str] = (), *, patience: float = STOP_PATIENCE) -> list[str]:
        """Ask ``names`` (default: all) to end; kill those that run ``patience`` seconds later.

        Returns those that were killed.
        """

    def kill(self, name: str) -> None:
        """End process ``name`` at once, as a crash would; nothing happens if it does not run."""

    def pause(self, name: str) -> None:
        """Let process ``name`` stand still.  Raises NotRunning."""

    def resume(self, name: str) -> None:
        """Let process ``name`` go on; nothing happens if it was not paused, or does not run."""

    def condition(self, name: str) -> Condition:
        """Whether process ``name`` runs, by the operating system."""

    def log_text(self, name: str, *, last_bytes: int = LOG_TEXT_BYTES) -> str:
        """The end of what process ``name`` has logged in all its lives; empty if it never ran."""

    @property
    def files(self) -> ProcessFiles | None:
        """The files of the processes; None: they are out of reach."""

    @property
    def network(self) -> NetworkFaults | None:
        """The network between the processes; None: it cannot be cut."""
