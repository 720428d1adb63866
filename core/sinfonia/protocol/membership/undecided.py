"""What memory nodes report as undecided is settled, one tid at a time or in bulk.

Minitransactions are in doubt for too long because a client or a memory node died.  For each a
recovery coordinator runs (section 4.4), except while a whole system comes back: then the memory
nodes that have restarted report first, and what all participants voted OK on needs no question
(4.6).
"""

from collections import Counter
from collections.abc import Callable, Iterable

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.membership.whole_system import WholeSystemRecovery
from sinfonia.protocol.messages import CommitAck, ProbeReply, Resolved, Unsettled
from sinfonia.protocol.recovery import Recoveries


class Undecided:
    """What the memory nodes reported, and what is being done about it.

    ``serving``: what each memory node last said of itself.
    """

    def __init__(self) -> None:
        self.recoveries = Recoveries()
        self.whole_system = WholeSystemRecovery()
        self.serving: dict[MemoryNodeId, bool] = {}
        self._unsettled: dict[MemoryNodeId, list[Unsettled]] = {}

    def __len__(self) -> int:
        """How many tids are undecided."""
        return len({each.tid for unsettled in self._unsettled.values() for each in unsettled})

    def on_new_life(self, node: MemoryNodeId) -> None:
        """``node`` begins another life: what it reported before says nothing."""
        self.serving[node] = False
        self._unsettled.pop(node, None)

    def on_report(
        self,
        node: MemoryNodeId,
        reply: ProbeReply,
        now: float,
        is_up: Callable[[MemoryNodeId], bool],
    ) -> list[SendTo]:
        """The primary of ``node`` has answered a probe; ``is_up``: see WholeSystemRecovery."""
        self.serving[node] = reply.serving
        self._unsettled[node] = reply.unsettled
        sends: list[SendTo] = []
        if self.whole_system.awaits_report(node):
            for each in self.whole_system.on_report(node, reply.unsettled):
                sends += self.recoveries.on_all_voted(each, now)
            return [*sends, *self.give_up_waiting(now, is_up)]
        for each in reply.unsettled:
            if not self.whole_system.waits(each.tid):
                sends += self.recoveries.begin(each, now)
        return sends

    def on_reply(self, node: MemoryNodeId, reply: Resolved | CommitAck) -> list[SendTo]:
        """A participant has answered a recovery coordinator."""
        return self.recoveries.on_reply(node, reply)

    def give_up_waiting(self, now: float, is_up: Callable[[MemoryNodeId], bool]) -> list[SendTo]:
        """Ask about what cannot be settled in bulk."""
        given_up = self.whole_system.give_up(is_up, now)
        return [send for each in given_up for send in self.recoveries.begin(each, now)]

    def pinned_by(self, silent: Iterable[MemoryNodeId]) -> Counter[MemoryNodeId]:
        """How many tids wait for each of the ``silent`` memory nodes."""
        silent = set(silent)
        waiting = {
            (node, each.tid)
            for unsettled in self._unsettled.values()
            for each in unsettled
            for node in silent.intersection(each.participants)
        }
        return Counter(node for node, _ in waiting)
