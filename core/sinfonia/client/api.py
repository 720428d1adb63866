"""What every client of a cluster offers, whatever drives it, is said once, here.

``ClusterApi`` is what libraries should ask for: ``sinfonia.Cluster`` is one, and so is
``sinfonia.testing.model.ModelCluster``.  ``sinfonia.BlockingCluster`` has the same methods, which
wait for what they return.  Clients have these docstrings, and none of their own.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.load import NodeLoad
from sinfonia.client.steps import Steps
from sinfonia.client.watch import Watch
from sinfonia.minitransaction import Minitransaction, Result
from sinfonia.protocol.identifiers import Tid

T = TypeVar("T")
ClientT = TypeVar("ClientT")

# A caller that names no timeout waits out a restart of a memory node.
DEFAULT_TIMEOUT = 30.0

# A pipeline sends after so many, and when it must wait.
SEND_TOGETHER = 64


# Callers that come one after the other share a message of so many: then the memory node works on
# the first ones while the next are prepared.
SEND_SOON = 32


def time_allowed(timeout: float | None) -> float:
    """Seconds; a timeout of 0 is over at once, and None is the default."""
    return DEFAULT_TIMEOUT if timeout is None else timeout


@dataclass(frozen=True, slots=True)
class MemoryNodeInfo:
    """A memory node as the directory knows it; ``capacity`` is in bytes."""

    node: MemoryNodeId
    endpoint: str
    capacity: int
    mode: str


@dataclass(slots=True)
class ClientStatistics:
    """Counts since the client was opened.

    executed: minitransactions whose outcome became known; retried: busy locks met with a new tid;
    resent: requests sent again because no reply came; unknown: outcomes left unknown.
    """

    executed: int = 0
    retried: int = 0
    resent: int = 0
    unknown: int = 0

    def add(self, others: "ClientStatistics") -> None:
        """Count what ``others`` count, too."""
        self.executed += others.executed
        self.retried += others.retried
        self.resent += others.resent
        self.unknown += others.unknown


def documented_by(api: type[object]) -> Callable[[type[ClientT]], type[ClientT]]:
    """Give a class the docstrings of ``api`` for all methods and properties that have none.

    The blocking client cannot inherit from the asynchronous interface, and its users read the same.
    """

    def document(client: type[ClientT]) -> type[ClientT]:
        for name, member in vars(client).items():
            described = inspect.isfunction(member) or isinstance(member, property)
            if described and not name.startswith("_") and not member.__doc__:
                member.__doc__ = inspect.getdoc(getattr(api, name, None))
        return client

    return document


class ClusterApi(Protocol):
    """An open connection to a cluster.

    Where no ``timeout`` is given it is 30 seconds (DEFAULT_TIMEOUT): enough for a memory node to
    restart.
    """

    @property
    def nodes(self) -> Mapping[MemoryNodeId, MemoryNodeInfo]:
        """The memory nodes, by id."""

    @property
    def statistics(self) -> ClientStatistics:
        """Counts of this client; of the blocking one, of all its threads together."""

    def minitransaction(
        self, *, reads_on_failure: bool = False, lock_wait: float = 0.0, tag: str = ""
    ) -> Minitransaction[Any]:
        """An empty minitransaction, to be filled and executed.

        ``reads_on_failure``: return the read items even if a compare fails, of each memory node
        as of a moment of its own; ``lock_wait`` (seconds) and ``tag`` as Minitransaction has them.
        Raises LimitExceeded.
        """

    async def execute(
        self, minitransaction: Minitransaction[Any], *, timeout: float | None = None
    ) -> Result:
        """Execute and commit ``minitransaction``; ``timeout`` in seconds.

        Busy locks are retried until the timeout.  That compares failed, so that nothing happened,
        is a Result.  Raises InvalidMinitransaction or NotExecuted (definite: it did not happen and
        never will) or OutcomeUnknown: it may have happened, and ``outcome`` settles it.
        """

    async def execute_many(
        self,
        minitransactions: Iterable[Minitransaction[Any]],
        *,
        timeout: float | None = None,
        in_flight: int = 1024,
    ) -> list[Result]:
        """Execute independent minitransactions, at most ``in_flight`` at a time.

        They are not ordered among each other; ``timeout`` (seconds) is for each.  Returns their
        results in the order given.  If some fail, the others are executed all the same, and the
        first error, as ``execute`` raises it, is raised then.
        """

    async def read(
        self, node: int, address: int, length: int, *, timeout: float | None = None
    ) -> bytes:
        """The ``length`` bytes at ``address`` of ``node``; errors as ``execute``, all definite."""

    async def write(
        self, node: int, address: int, data: bytes, *, timeout: float | None = None
    ) -> None:
        """Put ``data`` at ``address`` of ``node``; errors as ``execute``."""

    async def load(
        self, node: int | None = None, *, timeout: float | None = None
    ) -> Mapping[MemoryNodeId, NodeLoad]:
        """What ``node``, or each memory node, did lately, by window and tag (section 3.6).

        Asks their primaries, again and again for ``timeout`` seconds.  Raises OutOfRange if there
        is no such memory node, and Unreachable if one does not answer; both are definite.
        """

    async def outcome(self, tid: Tid, *, timeout: float | None = None) -> bool:
        """Whether the minitransaction of an OutcomeUnknown happened; if not, it never will.

        Raises OutcomeUnknown if that cannot be found out within ``timeout`` seconds, or is too
        long ago.  With the blocking client, the thread that got the OutcomeUnknown must ask.
        """

    def watch(self, node: int, address: int, length: int) -> Watch:
        """Watch the ``length`` bytes at ``address`` of ``node``, within ``async with`` (watch.py).

        ``length`` may be that of the memory.  There are limits to the number of watches, of a
        client and of a memory node; a reader that meets them has to poll.  A watch of the blocking
        client is opened by ``with``, and belongs to the thread that opens it.
        """

    async def run(self, steps: Steps[T], *, timeout: float | None = None) -> T:
        """Carry out an operation of several minitransactions (steps.py).

        ``timeout`` (seconds) is for all of it; each minitransaction gets what is left.  Raises
        what the operation raises; and TimedOut (definite: what it has executed it has executed,
        and no more is under way) if it would pause beyond the deadline.
        """

    async def aclose(self) -> None:
        """Close the connection.

        Calls that are under way in other tasks raise OutcomeUnknown, or NotExecuted if it is known
        that they did not happen.
        """


class ConnectedApi(ClusterApi, Protocol):
    """A client of processes, which may move."""

    async def refresh(self, *, timeout: float = 5.0) -> None:
        """Ask where the memory nodes are now (section 4.11); new ones are in ``nodes`` then.

        There is no need to ask when one fails over.  Raises Unreachable if none answers within
        ``timeout`` seconds.
        """
