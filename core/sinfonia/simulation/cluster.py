"""A simulated cluster: memory nodes, managers, an operator and clients, in one virtual time.

The cluster owns its processes and what they share.  Everything that is drawn at random comes from
one generator for each concern, so that one more draw for one concern moves nothing elsewhere.
"""

import random
from collections import Counter
from collections.abc import Callable

from sinfonia.addresses import MemoryNodeId
from sinfonia.checking.history import HistoryRecorder
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry
from sinfonia.simulation.client import SimulatedClient
from sinfonia.simulation.manager import SimulatedManager
from sinfonia.simulation.memory_node import SimulatedMemoryNode, member_name
from sinfonia.simulation.network import Network
from sinfonia.simulation.operator import SimulatedOperator
from sinfonia.simulation.process import Surroundings
from sinfonia.simulation.profile import Profile
from sinfonia.simulation.scheduler import Scheduler
from sinfonia.simulation.store import SimulatedStore
from sinfonia.simulation.store_losses import StoreLosses
from sinfonia.simulation.wire import Message, through_the_wire
from sinfonia.simulation.workload import Workload

# Every death of a client may leave a few minitransactions whose outcome is unknown; with many more
# deaths the history would say little, and take long to check.
CLIENT_DEATHS_MAX = 8


class Cluster:
    """All processes of one run.  ``recorder`` holds the history that clients write down."""

    def __init__(
        self,
        seed: int,
        profile: Profile,
        *,
        network: type[Network[Message]] = Network,
        member: type[SimulatedMemoryNode] = SimulatedMemoryNode,
    ) -> None:
        """``network`` and ``member`` are what a story of its own needs."""
        self._member = member
        self.seed = seed
        self.profile = profile
        self.scheduler = Scheduler()
        self.recorder = HistoryRecorder()
        messages = network(self.scheduler, self.chance("network"), profile.weather)
        if profile.wire:
            messages.wire = through_the_wire
        self.surroundings = Surroundings(self.scheduler, messages, profile, seed)
        self.node_ids = [MemoryNodeId(number) for number in range(profile.memory_nodes)]
        # The first member of each group is the first primary.
        self.groups = [
            [self._make_member(node, number) for number in range(1 + profile.replicas)]
            for node in self.node_ids
        ]
        self.nodes = [member for group in self.groups for member in group]
        self.managers = self._make_managers()
        self.operator: SimulatedOperator | None = None
        if profile.operator_rate:
            self.operator = SimulatedOperator(
                self.surroundings, self.chance("operator"), members=self.groups
            )
        self.store_losses: StoreLosses | None = None
        if profile.store_loss_rate:
            [manager] = self.managers
            self.store_losses = StoreLosses(
                self.surroundings, self.chance("store losses"), manager=manager, nodes=self.nodes
            )
        self.clients: list[SimulatedClient] = []
        self.clients_made = 0

    @property
    def events(self) -> Counter[str]:
        """How often each thing happened."""
        return self.surroundings.events

    def chance(self, concern: str) -> random.Random:
        """The generator for one concern."""
        return random.Random(f"{self.seed} {concern}")

    def start(self) -> None:
        """Begin the first life of every manager and memory node."""
        for manager in self.managers:
            manager.start()
        for node in self.nodes:
            node.start()

    # --- time ----------------------------------------------------------------------------------

    def run(self, seconds: float, *, until: Callable[[], bool]) -> bool:
        """Let time pass until ``until()`` holds, for ``seconds`` at most; whether it holds."""
        return self.scheduler.run(until=self.scheduler.now + seconds, stop=until)

    def pass_time(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        self.run(seconds, until=lambda: False)

    # --- clients -------------------------------------------------------------------------------

    def employ(self, workload: Workload) -> None:
        """Start the clients of ``workload``; one that dies or leaves is replaced.

        A client is replaced as long as there is work left to begin.
        """

        def replace() -> None:
            if workload.work_left:
                self.scheduler.after(0.0, add)

        def on_death() -> None:
            replace()
            if not self._clients_may_die:
                self.set_mortal(mortal=False)

        def add() -> None:
            client = self._make_client(on_death, replace)
            client.mortal = self._clients_may_die
            workload.program(client)

        for _ in range(workload.clients):
            add()

    def add_client(self, program: Callable[[SimulatedClient], None]) -> SimulatedClient:
        """Start one more client, which no fault of its own program strikes."""
        client = self._make_client(_do_nothing, _do_nothing)
        client.mortal = False
        program(client)
        return client

    def set_mortal(self, *, mortal: bool) -> None:
        """Decide whether clients may die between two messages, as often as the profile says."""
        for client in self.clients:
            client.mortal = mortal and self._clients_may_die

    @property
    def _clients_may_die(self) -> bool:
        return self.events["clients killed"] < CLIENT_DEATHS_MAX

    def _make_client(
        self, on_death: Callable[[], None], on_leave: Callable[[], None]
    ) -> SimulatedClient:
        name = f"client{self.clients_made}"
        self.clients_made += 1
        client = SimulatedClient(
            self.surroundings,
            name,
            self.chance(name),
            directory=self._first_directory(),
            on_death=on_death,
            on_leave=on_leave,
        )
        # The list is shared with the faults, which also strike clients that come later.
        self.clients.append(client)
        return client

    def _first_directory(self) -> Directory:
        """A map as old as can be: it knows where the memory nodes are, and no incarnation."""
        capacity = self.profile.capacity
        entries = [
            MemoryNodeEntry(
                node=group[0].node_id,
                endpoint=group[0].name,
                capacity=capacity,
                mode=group[0].mode,
                identity="",
                incarnation=0,
            )
            for group in self.groups
        ]
        return Directory(version=0, epoch=0, cluster="simulated", nodes=entries)

    # --- memory nodes and managers -------------------------------------------------------------

    def _make_member(self, node: MemoryNodeId, number: int) -> SimulatedMemoryNode:
        rng = self.chance(member_name(node, number))
        return self._member(self.surroundings, node, rng, number)

    def _make_managers(self) -> list[SimulatedManager]:
        """One manager with a directory of its own, or several that share one."""
        surroundings, number = self.surroundings, self.profile.managers
        if number == 1:
            return [SimulatedManager(surroundings, self.chance("manager"))]
        store = SimulatedStore(self.scheduler, self.chance("store"))
        names = tuple(f"manager{each}" for each in range(number))
        surroundings.managers = list(names)
        return [
            SimulatedManager(
                surroundings, self.chance(name), name=name, managers=names, store=store
            )
            for name in names
        ]


def _do_nothing() -> None:
    pass
