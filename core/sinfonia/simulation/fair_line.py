"""The line for locks as the simulator has it: the real one, which checks the order.

A waiter is served only if no waiter before it wants the same bytes, and no waiter waits longer than
the longest wait.  A waiter leaves the line once.
"""

from collections.abc import Sequence

from sinfonia.minitransaction import LOCK_WAIT_MAX
from sinfonia.protocol.lock_waits import LockLimits, LockWaits, Waiter
from sinfonia.protocol.locks import lock_ranges
from sinfonia.protocol.messages import ExecCommit
from sinfonia.protocol.records import LockRange


class FairLine(LockWaits):
    """The line of one memory node."""

    def __init__(self, limits: LockLimits) -> None:
        super().__init__(limits)
        self._late: list[Waiter] = []

    def admit(self, route: bytes, client: int, request: ExecCommit, now: float) -> bool:
        assert not self.holds(client, request.counter), f"{request.counter} stands in line twice"
        admitted = super().admit(route, client, request, now)
        if admitted:
            *_, last = self
            assert last.request is request, "a waiter was let in before others"
            assert last.until <= now + LOCK_WAIT_MAX
        return admitted

    def overdue(self, now: float) -> list[Waiter]:
        self._late = super().overdue(now)
        return self._late

    def leave(self, waiter: Waiter) -> None:
        if waiter not in self._late:
            ranges = _ranges(waiter.request)
            for other in self:
                if other is waiter:
                    break
                assert not _conflict(_ranges(other.request), ranges), (
                    f"{waiter.request.counter} was served before {other.request.counter}"
                )
        super().leave(waiter)


def _ranges(request: ExecCommit) -> list[LockRange]:
    return lock_ranges(
        request.compares, request.reads, request.writes, request.conditions, request.updates
    )


def _conflict(some: Sequence[LockRange], others: Sequence[LockRange]) -> bool:
    return any(
        one.start < other.end and other.start < one.end and (one.exclusive or other.exclusive)
        for one in some
        for other in others
    )
