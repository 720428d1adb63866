"""An operator in the simulator: moves the part of primary about, and takes replicas out and in.

What is asked is sent to every manager; the one that leads does it, or refuses.  In the end the
operator wants as many replicas as there were in the beginning.
"""

import random
from collections.abc import Sequence

from sinfonia.protocol.membership.messages import HandOver, RemoveReplica, WantReplicas
from sinfonia.protocol.messages import PROTOCOL_VERSION, Request, Requests
from sinfonia.simulation.memory_node import SimulatedMemoryNode
from sinfonia.simulation.process import Process, Surroundings
from sinfonia.simulation.wire import Message

# How long a memory node does without the replica that was removed.
REMOVED_S_MAX = 1.0

# What the operator wants in the end is said so often: a late message may have undone it.
SAY_AGAIN_S = 0.5


class SimulatedOperator(Process):
    """Asks for something at the rate of the profile until it is told to stop."""

    def __init__(
        self,
        surroundings: Surroundings,
        rng: random.Random,
        *,
        members: Sequence[Sequence[SimulatedMemoryNode]],
    ) -> None:
        """``members`` of each memory node."""
        super().__init__(surroundings, "operator", rng)
        self._members = members
        self._working = True

    def start(self) -> None:
        """Begin to work."""
        self.begin_life()
        self._plan()

    def stop(self) -> None:
        """Want what there was, and nothing else."""
        self._working = False
        self._want_replicas()

    def on_message(self, source: str, message: Message) -> None:
        """Whether it was done shows in the cluster."""

    def _plan(self) -> None:
        rate = self.surroundings.profile.operator_rate
        self.later(self.rng.expovariate(rate), self._work)

    def _work(self) -> None:
        if not self._working:
            return
        member = self.rng.choice(self.rng.choice(self._members))
        if self.rng.random() >= self.surroundings.profile.remove_share:
            self._ask(HandOver(member.node_id, member.name))
        else:
            self.surroundings.events["replicas removed"] += 1
            force = self.rng.random() < 0.5
            self._ask(RemoveReplica(member.node_id, member.name, force))
            self.later(self.rng.uniform(0.0, REMOVED_S_MAX), self._want_again, member)
        self._plan()

    def _want_again(self, member: SimulatedMemoryNode) -> None:
        if self._working:
            self._ask(WantReplicas(member.node_id, self.surroundings.profile.replicas))

    def _want_replicas(self) -> None:
        for members in self._members:
            self._ask(WantReplicas(members[0].node_id, self.surroundings.profile.replicas))
        self.later(SAY_AGAIN_S, self._want_replicas)

    def _ask(self, request: Request) -> None:
        for manager in self.surroundings.managers:
            self.send(manager, Requests(PROTOCOL_VERSION, 0, 0, 0, [request]))
