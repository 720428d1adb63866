"""The part of primary is moved only to a member that has just shown that it is there.

To depose a primary that lives for a member that has just died could lose what both hold, if that is
in memory only.  So an operator's request waits until its heir answers a probe that was sent after
it, for ``fail_after`` at most.
"""

from typing import NamedTuple

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.membership.failure_detector import MemberLife
from sinfonia.protocol.membership.messages import HandOver


class PendingHandOver(NamedTuple):
    """An operator's request, made over ``route``, that waits for the ``heir`` to answer."""

    route: bytes
    request: HandOver
    heir: MemberLife
    asked_at: float


class HandOvers:
    """The requests that wait, one for each memory node; times are monotonic seconds."""

    def __init__(self) -> None:
        self._pending: dict[MemoryNodeId, PendingHandOver] = {}

    @property
    def nodes(self) -> list[MemoryNodeId]:
        """The memory nodes whose heir has not answered yet."""
        return list(self._pending)

    def begin(self, node: MemoryNodeId, pending: PendingHandOver) -> None:
        """Wait for the heir; a later request takes the place of an earlier one."""
        self._pending[node] = pending

    def on_answer(
        self, node: MemoryNodeId, life: MemberLife, asked_at: float
    ) -> PendingHandOver | None:
        """A member has answered what it was asked at ``asked_at``: the request that may go on."""
        pending = self._pending.get(node)
        if pending is None or pending.heir != life or asked_at < pending.asked_at:
            return None
        return self._pending.pop(node)

    def give_up(self, now: float, *, after: float) -> list[tuple[MemoryNodeId, PendingHandOver]]:
        """The requests that have waited for ``after`` seconds; they wait no more."""
        over = [(node, p) for node, p in self._pending.items() if now - p.asked_at >= after]
        for node, _ in over:
            del self._pending[node]
        return over
