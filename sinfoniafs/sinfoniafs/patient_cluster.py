"""The outcome of a change is known before the change is reported, if it can be known in time.

A cluster as the volume sees it: every minitransaction has what is left of its request's time.  If
the outcome is unknown when the time is up, the client asks the participants for it.  If they say
that the minitransaction committed, its result is returned as if the reply had come.  If they say
that it did not, it never will, and the error says so.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.api import ClientStatistics, ClusterApi, MemoryNodeInfo
from sinfonia.client.steps import Steps
from sinfonia.errors import OutcomeUnknown, TimedOut
from sinfonia.minitransaction import Minitransaction, Result
from sinfoniafs import patience

T = TypeVar("T")

# How long to ask for an outcome, on top of the request's time: one round trip if the memory nodes
# answer again, and a few retries.
SETTLE_S: Final = 2.0


class PatientCluster:
    """A connection to a cluster, for requests that have a deadline.

    Calls outside a request have ``timeout``.  The timeout of a single call can only be shorter.
    """

    def __init__(self, cluster: ClusterApi, timeout: float) -> None:
        self._cluster = cluster
        self._timeout = timeout
        self.load = cluster.load
        self.outcome = cluster.outcome
        self.watch = cluster.watch
        self.minitransaction = cluster.minitransaction
        self.aclose = cluster.aclose

    @property
    def nodes(self) -> Mapping[MemoryNodeId, MemoryNodeInfo]:
        return self._cluster.nodes

    @property
    def statistics(self) -> ClientStatistics:
        return self._cluster.statistics

    async def execute(
        self, minitransaction: Minitransaction[Any], *, timeout: float | None = None
    ) -> Result:
        """Execute it in the time left; if the outcome is unknown then, ask for it."""
        left = self._time_left(timeout)
        if minitransaction.read_only:
            return await self._cluster.execute(minitransaction, timeout=left)
        with patience.changing():
            try:
                return await self._cluster.execute(minitransaction, timeout=left)
            except OutcomeUnknown as unknown:
                if not await self._cluster.outcome(unknown.tid, timeout=SETTLE_S):
                    raise TimedOut("no answer in time; it did not happen") from unknown
                return Result(committed=True, reads=await self._read_again(minitransaction))

    async def execute_many(
        self,
        minitransactions: Iterable[Minitransaction[Any]],
        *,
        timeout: float | None = None,
        in_flight: int = 1024,
    ) -> list[Result]:
        """Execute independent ones, each in the time left; unknown outcomes stay unknown."""
        return await self._cluster.execute_many(
            minitransactions, timeout=self._time_left(timeout), in_flight=in_flight
        )

    async def read(
        self, node: int, address: int, length: int, *, timeout: float | None = None
    ) -> bytes:
        left = self._time_left(timeout)
        return await self._cluster.read(node, address, length, timeout=left)

    async def write(
        self, node: int, address: int, data: bytes, *, timeout: float | None = None
    ) -> None:
        minitransaction = self.minitransaction()
        minitransaction.write(node, address, data)
        await self.execute(minitransaction, timeout=timeout)

    async def run(self, steps: Steps[T], *, timeout: float | None = None) -> T:
        return await self._cluster.run(steps, timeout=self._time_left(timeout))

    def _time_left(self, timeout: float | None) -> float:
        left = patience.time_left(otherwise=self._timeout)
        if not left:
            raise TimedOut("the time for this request was over before this was tried")
        return left if timeout is None else min(left, timeout)

    async def _read_again(self, minitransaction: Minitransaction[Any]) -> list[bytes]:
        """The read items of a committed minitransaction whose reply was lost, read anew."""
        if not minitransaction.read_places:
            return []
        reading = self.minitransaction()
        for node, position in minitransaction.read_places:
            item = minitransaction.items[node].reads[position]
            reading.read(node, item.address, item.length)
        return list((await self._cluster.execute(reading, timeout=SETTLE_S)).reads)
