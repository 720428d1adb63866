"""An application node in the simulator: the real coordinator, and a program that uses it.

The program runs a few loops side by side; each executes one minitransaction after another and
writes into the history what it asked and what it was told.  A client that is killed never comes
back: whatever it had under way is for others to settle.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sinfonia.addresses import MemoryNodeId
from sinfonia.checking.asked_and_told import (
    answers,
    compare_items,
    failed_items,
    full_rings,
    read_items,
    update_items,
    write_items,
)
from sinfonia.checking.history import HistoryRecorder, Outcome
from sinfonia.client.connection import CLOSE_PATIENCE
from sinfonia.errors import OutcomeUnknown, SinfoniaError
from sinfonia.minitransaction import Minitransaction
from sinfonia.protocol.attempts import Call
from sinfonia.protocol.coordinator import TICK, Coordinator
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.membership.messages import Directory
from sinfonia.protocol.messages import (
    MANAGER,
    PROTOCOL_VERSION,
    GetDirectory,
    Replies,
    Request,
    Requests,
)
from sinfonia.protocol.recovery import Outcome as Settled
from sinfonia.simulation.process import Killed, Process, Surroundings
from sinfonia.simulation.wire import Message
from sinfonia.simulation.workloads.mix import Beliefs, Workload

# A call ends by its deadline, which the coordinator looks at once in a TICK.
LATE_MAX_S = 3 * TICK

# Of the members that a client knows, it asks so many at a time where the memory nodes are.
MEMBERS_ASKED = 3

# How often a client that was told "unknown" asks for the outcome later.
CURIOSITY = 0.7

# The classes of its minitransactions.
TAGS = ("", "", "one class", "another")


@dataclass(frozen=True, slots=True)
class Asked:
    """One minitransaction of the program: its number in the history, and when it must be over."""

    number: int
    minitransaction: Minitransaction[Any]
    deadline: float


class SimulatedClient(Process):
    """A coordinator with a closed loop of work; ``next_work`` is False when there is none left."""

    def __init__(
        self,
        surroundings: Surroundings,
        name: str,
        rng: random.Random,
        *,
        directory: Directory,
        workload: Workload,
        recorder: HistoryRecorder,
        next_work: Callable[[], bool],
        on_death: Callable[[], None],
        on_leave: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(surroundings, name, rng)
        self.coordinator = Coordinator(client=rng.getrandbits(64), rng=rng, directory=directory)
        self.unfinished: dict[int, Asked] = {}
        self.mortal = True
        self._only_reads = rng.random() < surroundings.profile.readers_share
        self._workload = workload
        self._recorder = recorder
        self._next_work = next_work
        self._on_death = on_death
        self._on_leave = on_leave
        self._stays = surroundings.profile.client_stays
        self._beliefs = Beliefs([entry.node for entry in directory.nodes])
        self._unknown: list[tuple[int, Tid]] = []
        self._wakeup_at = 0.0
        self._was_paused = False

    def start(self, loops: int) -> None:
        """Begin to work, with ``loops`` minitransactions at a time."""
        self.begin_life()
        for _ in range(loops):
            self._think()

    def pause(self) -> None:
        self._was_paused = True
        super().pause()

    def execute(self, fill: Callable[[Minitransaction[Any]], None], *, timeout: float) -> int:
        """Start one minitransaction; returns its number in the history."""
        minitransaction: Minitransaction[Any] = Minitransaction(
            _NOBODY,
            reads_on_failure=self.rng.random() < 0.3,
            lock_wait=self.rng.choice(self.surroundings.profile.lock_waits),
            tag=self.rng.choice(TAGS),
        )
        fill(minitransaction)
        number = self._recorder.invoke(
            self.name,
            compares=compare_items(minitransaction),
            reads=read_items(minitransaction),
            writes=write_items(minitransaction),
            updates=update_items(minitransaction),
        )
        asked = Asked(number, minitransaction, self.now + timeout)
        self.unfinished[number] = asked
        call, sends = self.coordinator.begin(minitransaction, now=self.now, deadline=asked.deadline)
        call.waiter = asked
        self._carry_out(sends)
        return number

    def on_message(self, source: str, message: Message) -> None:
        assert isinstance(message, Replies), f"{source} sent {message}"
        if message.node != MANAGER:
            node = MemoryNodeId(message.node)
            self._carry_out(self.coordinator.on_replies(node, message, self.now))
            return
        for reply in message.replies:
            if isinstance(reply, Directory):
                self._carry_out(self.coordinator.on_directory(reply, self.now))

    def on_killed(self) -> None:
        self.surroundings.events["clients killed"] += 1
        self._on_death()

    # --- the program ---------------------------------------------------------------------------

    def _leave(self) -> None:
        """Close the connection, as programs do: when nothing is under way, or soon after."""
        if self.unfinished:
            return  # another loop is at it
        for node, goodbye in self.coordinator.goodbyes().items():
            self.send(self.coordinator.known.entries[node].endpoint, goodbye)
        self.surroundings.scheduler.note(self.name, "leaves")
        self.surroundings.events["clients left"] += 1
        self.surroundings.network.detach(self.name)
        self.alive = False
        self._on_leave()

    def _think(self) -> None:
        if self.surroundings.profile.client_stays and self._stays <= 0:
            self.later(0.0 if self.coordinator.idle else CLOSE_PATIENCE, self._leave)
            return
        mean = self.surroundings.profile.think_s_mean
        self.later(self.rng.expovariate(1.0 / mean), self._work)

    def _work(self) -> None:
        if not self._next_work():
            return
        self._stays -= 1
        profile = self.surroundings.profile
        timeout = self.rng.uniform(profile.timeout_s_min, profile.timeout_s_max)
        self.execute(self._fill, timeout=timeout)

    def _fill(self, minitransaction: Minitransaction[Any]) -> None:
        self._workload.fill(minitransaction, self._beliefs, only_reads=self._only_reads)

    def _on_finished(self, call: Call) -> None:
        asked: Asked = call.waiter
        del self.unfinished[asked.number]
        late = self.now - asked.deadline
        assert self._was_paused or late <= LATE_MAX_S, (
            f"operation #{asked.number} ended {late:.3f} s after its deadline"
        )
        if call.result is not None:
            result = call.result
            self._beliefs.learn_from(asked.minitransaction, result)
            self._recorder.complete(
                asked.number,
                Outcome.COMMITTED if result.committed else Outcome.FAILED,
                values=tuple(result.reads),
                failed=failed_items(result),
                answers=answers(asked.minitransaction, result),
                full=full_rings(asked.minitransaction, result),
            )
        else:
            assert call.error is not None
            self._on_error(asked, call.error)
        self._think()

    def _on_error(self, asked: Asked, error: SinfoniaError) -> None:
        if error.definite:
            self._recorder.complete(asked.number, Outcome.NOT_EXECUTED)
            return
        assert isinstance(error, OutcomeUnknown)
        assert isinstance(error.tid, Tid)
        self.surroundings.events["outcomes unknown"] += 1
        if self.rng.random() < CURIOSITY:
            self._unknown.append((asked.number, error.tid))

    def _ask_for_outcomes(self) -> None:
        for number, tid in list(self._unknown):
            outcome = self.coordinator.outcome(tid)
            if outcome is None:
                continue
            self._unknown.remove((number, tid))
            self.surroundings.events[f"unknown outcomes found {outcome.value}"] += 1
            if outcome is Settled.COMMITTED:
                self._recorder.resolve(number)
            elif outcome is Settled.ABORTED:
                self._recorder.complete(number, Outcome.NOT_EXECUTED)

    # --- the driver ----------------------------------------------------------------------------

    def _carry_out(self, sends: list[SendTo]) -> None:
        """Send what is ready together in one message for each memory node."""
        finished, self.coordinator.finished = self.coordinator.finished, []
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
        if self._unknown:
            self._ask_for_outcomes()
        if self.coordinator.wants_directory(self.now):
            self._ask_for_directory()
        self._plan_wakeup()

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
        self._carry_out(self.coordinator.on_tick(self.now))


class _Nobody:
    """Minitransactions here are executed by the coordinator, not by themselves."""

    def execute(
        self, minitransaction: Minitransaction[Any], *, timeout: float | None = None
    ) -> None:
        raise NotImplementedError


_NOBODY = _Nobody()
