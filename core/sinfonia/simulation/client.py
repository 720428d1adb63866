"""An application node in the simulator: the real coordinator, driven as its process drives it.

What the application node does is its workload's business: a program executes minitransactions and
is called back with each outcome.  A client that is killed never comes back: what it had under way
is for others to settle.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sinfonia.addresses import MemoryNodeId
from sinfonia.minitransaction import Minitransaction
from sinfonia.protocol.attempts import Call
from sinfonia.protocol.calls import TICK
from sinfonia.protocol.coordinator import Coordinator
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.membership.messages import Directory
from sinfonia.protocol.messages import (
    MANAGER,
    PROTOCOL_VERSION,
    GetDirectory,
    Replies,
    Request,
    Requests,
)
from sinfonia.simulation.process import Killed, Process, Surroundings
from sinfonia.simulation.wire import Message

# A call ends by its deadline, which the coordinator looks at once in a TICK.
LATE_MAX_S = 3 * TICK

# Of the members that a client knows, it asks so many at a time where the memory nodes are.
MEMBERS_ASKED = 3

Done = Callable[[Call], None]


@dataclass(frozen=True, slots=True)
class Pending:
    """A minitransaction under way: its number, when it must be over, and what to call then."""

    number: int
    deadline: float
    done: Done


class SimulatedClient(Process):
    """A coordinator and its driver.  ``after_each`` is called when the coordinator took something
    in, for a program that looks at more than the outcome of each call."""

    def __init__(
        self,
        surroundings: Surroundings,
        name: str,
        rng: random.Random,
        *,
        directory: Directory,
        on_death: Callable[[], None],
        on_leave: Callable[[], None],
    ) -> None:
        super().__init__(surroundings, name, rng)
        self.coordinator = Coordinator(client=rng.getrandbits(64), rng=rng, directory=directory)
        self.unfinished: dict[int, Pending] = {}
        self.mortal = True
        self.after_each: Callable[[], None] = _do_nothing
        self._on_death = on_death
        self._on_leave = on_leave
        self._begun = 0
        self._wakeup_at = 0.0
        self._was_paused = False

    @property
    def true_now(self) -> float:
        """Virtual seconds that are the same for every process; no program may act on them."""
        return self.surroundings.scheduler.now

    def execute(self, minitransaction: Minitransaction[Any], *, timeout: float, done: Done) -> None:
        """Start one minitransaction; ``done`` is told how it ended.

        Raises what a client raises for a minitransaction that it does not even send.
        """
        deadline = self.now + timeout
        call, sends = self.coordinator.begin(minitransaction, now=self.now, deadline=deadline)
        self._begun += 1
        pending = Pending(self._begun, deadline, done)
        self.unfinished[pending.number] = pending
        call.waiter = pending
        self.carry_out(sends)

    def leave(self) -> None:
        """Close the connection, as programs do."""
        for node, goodbye in self.coordinator.goodbyes().items():
            self.send(self.coordinator.known.entries[node].endpoint, goodbye)
        self.surroundings.scheduler.note(self.name, "leaves")
        self.surroundings.events["clients left"] += 1
        self.surroundings.network.detach(self.name)
        self.alive = False
        self._on_leave()

    def pause(self) -> None:
        self._was_paused = True
        super().pause()

    def on_message(self, source: str, message: Message) -> None:
        assert isinstance(message, Replies), f"{source} sent {message}"
        if message.node != MANAGER:
            node = MemoryNodeId(message.node)
            self.carry_out(self.coordinator.on_replies(node, message, self.now))
            return
        for reply in message.replies:
            if isinstance(reply, Directory):
                self.carry_out(self.coordinator.on_directory(reply, self.now))

    def on_killed(self) -> None:
        self.surroundings.events["clients killed"] += 1
        self._on_death()

    # --- the driver ----------------------------------------------------------------------------

    def carry_out(self, sends: list[SendTo]) -> None:
        """Send what is ready together in one message for each memory node."""
        finished = self.coordinator.take_finished()
        batches: dict[MemoryNodeId, list[Request]] = {}
        for send in sends:
            batches.setdefault(send.node, []).append(send.request)
        for node, requests in batches.items():
            self._perhaps_die()
            endpoint = self.coordinator.known.entries[node].endpoint
            self.send(endpoint, self.coordinator.envelope(node, requests))
        self._perhaps_die()
        for call in finished:
            self._on_finished(call)
        self.after_each()
        if self.coordinator.wants_directory(self.now):
            self._ask_for_directory()
        self.coordinator.check_invariants()
        self._plan_wakeup()

    def _on_finished(self, call: Call) -> None:
        pending: Pending = call.waiter
        del self.unfinished[pending.number]
        late = self.now - pending.deadline
        assert self._was_paused or late <= LATE_MAX_S, (
            f"call {pending.number} of {self.name} ended {late:.3f} s after its deadline"
        )
        pending.done(call)

    def _ask_for_directory(self) -> None:
        self.surroundings.events["directories asked for"] += 1
        batch = Requests(PROTOCOL_VERSION, self.coordinator.client, 0, 0, [GetDirectory()])
        members = list(self.coordinator.known.members())
        some = self.rng.sample(members, min(MEMBERS_ASKED, len(members)))
        for endpoint in (*self.surroundings.managers, *some):
            self.send(endpoint, batch)

    def _perhaps_die(self) -> None:
        chance = self.surroundings.profile.client_kill_chance
        if chance and self.mortal and self.rng.random() < chance:
            raise Killed

    def _plan_wakeup(self) -> None:
        wakeup = self.coordinator.next_wakeup()
        if wakeup is None or self.now < self._wakeup_at <= wakeup:
            return
        self._wakeup_at = max(wakeup, self.now)
        self.at(self._wakeup_at, self._wake_up)

    def _wake_up(self) -> None:
        self.carry_out(self.coordinator.on_tick(self.now))


def _do_nothing() -> None:
    pass
