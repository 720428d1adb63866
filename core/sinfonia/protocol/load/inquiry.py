"""Memory nodes are asked for their load until they answer: asking again costs nothing.

The question goes over the connections that minitransactions use, to the present primary; so a
memory node that fails over meanwhile is asked at its new place.
"""

import math
from collections.abc import Iterable

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.messages import GetLoad, Load

# A reply that has not come by now was probably lost.
ASK_AGAIN = 0.25


class LoadInquiry:
    """One caller's question to ``nodes``; times are monotonic seconds."""

    def __init__(self, nodes: Iterable[MemoryNodeId]) -> None:
        self.answers: dict[MemoryNodeId, Load] = {}
        self._asked_at = dict.fromkeys(nodes, -math.inf)

    @property
    def unanswered(self) -> list[MemoryNodeId]:
        """The memory nodes that have not answered yet."""
        return list(self._asked_at)

    def due(self, now: float) -> list[SendTo]:
        """What is to be asked now."""
        sends = []
        for node, asked_at in self._asked_at.items():
            if now - asked_at >= ASK_AGAIN:
                self._asked_at[node] = now
                sends.append(SendTo(node, GetLoad()))
        return sends

    def on_load(self, node: MemoryNodeId, load: Load) -> None:
        """An answer; if it is to another caller's question, it is as good."""
        if self._asked_at.pop(node, None) is not None:
            self.answers[node] = load
