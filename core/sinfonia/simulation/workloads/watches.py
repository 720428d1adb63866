"""Readers that rely on hints, and writers, on a simulated cluster under every fault.

Each memory node has one watched word.  Writers put in it, at one memory node or at all at once,
values that nobody wrote before; readers watch all words and read one only after a hint, and after
a slow poll if they are given one.  A reader may believe something old for a while, but not for
good: when everything is mended and at rest, all have read what is there.

Then hints are tried one by one: as they come, with the hint of one commit lost, and without any.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.memnode.node import MemoryNode
from sinfonia.minitransaction import Minitransaction
from sinfonia.protocol.attempts import Call
from sinfonia.protocol.coordinator import Coordinator
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.membership.messages import Directory
from sinfonia.protocol.messages import (
    MANAGER,
    PROTOCOL_VERSION,
    GetDirectory,
    Hints,
    Replies,
    Request,
    Requests,
)
from sinfonia.protocol.watches import WATCH_LEASE
from sinfonia.protocol.watching import ASK_AGAIN, WATCH_RENEW, Watched
from sinfonia.simulation.faults import Faults
from sinfonia.simulation.network import Weather
from sinfonia.simulation.process import Process, Surroundings
from sinfonia.simulation.simulator import WORK_S_MAX, Simulation
from sinfonia.simulation.wire import Message

WORD = 256
WORD_BYTES = 8

# What a program waits for one answer: in the work it may give up, and try something else.
TIMEOUT_S = 3.0

# At rest: a message there and one back, a wake-up, and a clock that is slow.
SOON_S = 0.5

# What a lost hint costs: the renewal, and its answer if that was lost, too.
RENEWAL_S = (WATCH_RENEW + ASK_AGAIN) * 1.1 + SOON_S

TRIES_MAX = 5

READERS = 3
WRITERS = 2
WRITES = 25

# Readers that die are replaced; each leaves watches behind.
READER_DEATHS_MAX = 3

Done = Callable[[Call], None]


class ApplicationNode(Process):
    """A coordinator, and what to do as each of its calls ends."""

    def __init__(
        self, surroundings: Surroundings, name: str, rng: random.Random, directory: Directory
    ) -> None:
        super().__init__(surroundings, name, rng)
        self.coordinator = Coordinator(client=rng.getrandbits(64), rng=rng, directory=directory)
        self._wakeup_at = 0.0

    def execute(self, t: Minitransaction[Any], done: Done, *, timeout: float = TIMEOUT_S) -> None:
        """Execute ``t``; ``done`` is told how it ended."""
        call, sends = self.coordinator.begin(t, now=self.now, deadline=self.now + timeout)
        call.waiter = done
        self.carry_out(sends)

    def carry_out(self, sends: list[SendTo]) -> None:
        """Send what is to be sent, and see what has come of what was."""
        coordinator = self.coordinator
        batches: dict[MemoryNodeId, list[Request]] = {}
        for send in sends:
            batches.setdefault(send.node, []).append(send.request)
        for node, requests in batches.items():
            endpoint = coordinator.known.entries[node].endpoint
            self.send(endpoint, coordinator.envelope(node, requests))
        finished, coordinator.finished = coordinator.finished, []
        for call in finished:
            call.waiter(call)
        self.on_news(list(coordinator.watching.news.values()))
        if coordinator.wants_directory(self.now):
            batch = Requests(PROTOCOL_VERSION, coordinator.client, 0, 0, [GetDirectory()])
            for endpoint in {*self.surroundings.managers, *coordinator.known.members()}:
                self.later(0.0, self.send, endpoint, batch)
        self._plan_wakeup()

    def on_news(self, news: list[Watched]) -> None:
        """Of these watches there is something new."""

    def on_message(self, source: str, message: Message) -> None:
        assert isinstance(message, Replies), f"{source} sent {message}"
        if message.node != MANAGER:
            node = MemoryNodeId(message.node)
            self.carry_out(self.coordinator.on_replies(node, message, self.now))
            return
        for reply in message.replies:
            if isinstance(reply, Directory):
                self.carry_out(self.coordinator.on_directory(reply, self.now))

    def _plan_wakeup(self) -> None:
        wakeup = self.coordinator.next_wakeup()
        if wakeup is None or self.now < self._wakeup_at <= wakeup:
            return
        self._wakeup_at = max(wakeup, self.now)
        self.at(self._wakeup_at, self._wake_up)

    def _wake_up(self) -> None:
        self.carry_out(self.coordinator.on_tick(self.now))
        self.coordinator.watching.check_invariants()


class Writer(ApplicationNode):
    """Writes its own values, one after the other; ``left`` says how many more."""

    left = WRITES
    busy = False

    def start(self) -> None:
        """Begin."""
        self.begin_life()
        self._go_on()

    def write(self, nodes: list[MemoryNodeId], done: Done) -> None:
        """Put a new value at each of ``nodes``, at once."""
        t: Minitransaction[Any] = Minitransaction(_NOBODY)
        for node in nodes:
            t.write(node, WORD, self.rng.randbytes(WORD_BYTES))
        self.busy = True

        def on_done(call: Call) -> None:
            self.busy = False
            done(call)

        self.execute(t, on_done)

    def _go_on(self) -> None:
        if self.left:
            self.left -= 1
            self.later(self.rng.expovariate(1 / 0.3), self._write_next)

    def _write_next(self) -> None:
        nodes = list(self.coordinator.known.entries)
        self.write(
            nodes if self.rng.random() < 0.3 else [self.rng.choice(nodes)], lambda _: self._go_on()
        )


@dataclass
class Belief:
    """What a reader holds one word to be, and what it was told when it last began to read."""

    watched: Watched
    told: int = 0
    reading: bool = False
    value: bytes = b""
    reads: int = 0


class Reader(ApplicationNode):
    """Watches the word of every memory node; ``poll_s``: reads unasked so often."""

    poll_s: float | None = None

    def start(self) -> None:
        """Begin."""
        self.begin_life()
        self.beliefs: dict[MemoryNodeId, Belief] = {}
        for node in self.coordinator.known.entries:
            watched, sends = self.coordinator.watch(node, WORD, WORD_BYTES, now=self.now)
            self.beliefs[node] = Belief(watched)
            self.carry_out(sends)

    def on_news(self, news: list[Watched]) -> None:
        for watched in news:
            self._look_at(self.beliefs[watched.node])
        self.coordinator.watching.news.clear()

    def poll(self) -> None:
        """From now on, read every ``poll_s``."""
        if self.poll_s is not None:
            for belief in self.beliefs.values():
                self._read(belief)
            self.later(self.poll_s, self.poll)

    def _look_at(self, belief: Belief) -> None:
        assert not belief.watched.refused
        if belief.watched.version != belief.told:
            self._read(belief)

    def _read(self, belief: Belief) -> None:
        """What was told before the read began is dealt with; what comes later is not."""
        if belief.reading:
            return
        belief.reading = True
        belief.told = belief.watched.version
        belief.reads += 1
        t: Minitransaction[Any] = Minitransaction(_NOBODY)
        t.read(belief.watched.node, WORD, WORD_BYTES)
        self.execute(t, lambda call: self._on_read(belief, call))

    def _on_read(self, belief: Belief, call: Call) -> None:
        belief.reading = False
        if call.result is None:
            belief.told = -1  # it did not read after all
        else:
            [belief.value] = call.result.reads
        self._look_at(belief)


class WatchSimulation(Simulation):
    """One cluster, one seed, readers and writers."""

    def __init__(self, seed: int, profile: str = "") -> None:
        super().__init__(seed, profile)
        self.readers: list[Reader] = []
        self.writers: list[Writer] = []
        self._everybody: list[Process] = []
        # Hints that are kept from the readers: renewals too, unless that would be the end of it.
        self._deaf = False
        through = self.surroundings.network.wire
        self.surroundings.network.wire = lambda message: self._listen(through(message))

    def _listen(self, message: Message) -> Message:
        if not self._deaf or not isinstance(message, Replies):
            return message
        replies = [reply for reply in message.replies if not isinstance(reply, Hints)]
        return msgspec.structs.replace(message, replies=replies)

    def _play(self) -> None:
        self._work()
        self._come_to_rest()
        self._all_know(within=RENEWAL_S, why="at rest")
        self._the_dead_are_forgotten()
        self._a_hint_is_enough()
        self._a_lost_hint_is_found_by_the_renewal()
        self._a_poll_does_without_hints()

    # --- act one -------------------------------------------------------------------------------

    def _work(self) -> None:
        for manager in self.managers:
            manager.start()
        for node in self.nodes:
            node.start()
        if self.operator is not None:
            self.operator.start()
        for number in range(WRITERS):
            writer = Writer(*self._application_node(f"writer{number}"))
            self.writers.append(writer)
            self._everybody.append(writer)
            writer.start()
        for _ in range(READERS):
            self._add_reader()
        self._plan_death()
        faults = Faults(
            self.surroundings,
            seed=self.seed,
            nodes=self.nodes,
            managers=self.managers,
            clients=self._everybody,
        )
        done = self.scheduler.run(until=WORK_S_MAX, stop=self._all_written)
        faults.stop()
        if self.operator is not None:
            self.operator.stop()
        self.surroundings.network.weather = Weather()
        assert done, f"the work was not done in {WORK_S_MAX} s"

    def _application_node(self, name: str) -> tuple[Surroundings, str, random.Random, Directory]:
        self._clients_made += 1
        return self.surroundings, name, self._chance(name), self._directory()

    def _add_reader(self) -> None:
        reader = Reader(*self._application_node(f"reader{self._clients_made}"))
        self.readers.append(reader)
        self._everybody.append(reader)
        reader.start()

    def _plan_death(self) -> None:
        chance = self._chance("deaths of readers")
        for _ in range(READER_DEATHS_MAX):
            self.scheduler.after(chance.uniform(0.0, 20.0), self._replace_reader, chance)

    def _replace_reader(self, chance: random.Random) -> None:
        if not self._all_written():
            victim = chance.choice(self.readers)
            self.readers.remove(victim)
            victim.kill()
            self.surroundings.events["readers killed"] += 1
            self._add_reader()

    def _all_written(self) -> bool:
        return not any(writer.left or writer.busy for writer in self.writers)

    # --- act two -------------------------------------------------------------------------------

    def _all_know(self, *, within: float, why: str) -> None:
        """Every reader believes what is there."""
        start = self.scheduler.now
        known = self.scheduler.run(until=start + within, stop=lambda: not self._mistakes())
        assert known, f"{why}, after {within:.1f} s: {'; '.join(self._mistakes())}"

    def _mistakes(self) -> list[str]:
        words = [self._word(number) for number in range(len(self.groups))]
        return [
            f"{reader.name} takes {belief.value.hex()} for the word of node {node}"
            for reader in self.readers
            for node, belief in reader.beliefs.items()
            if belief.value != words[node]
        ]

    def _word(self, number: int) -> bytes | None:
        """What is in a word; None while it fails over, which it may do at rest, too."""
        node = self._primary(number)
        return None if node is None else node.space.read(WORD, WORD_BYTES)

    def _primary(self, number: int) -> MemoryNode | None:
        primaries = [member.node for member in self.groups[number] if member.leads]
        return primaries[0] if len(primaries) == 1 else None

    def _lives(self) -> list[int | None]:
        primaries = [self._primary(number) for number in range(len(self.groups))]
        return [None if node is None else node.participant.incarnation for node in primaries]

    def _the_dead_are_forgotten(self) -> None:
        """Within a lease the watches are those of living readers, one each and no more."""
        self._let_pass(WATCH_LEASE * 1.1)
        for number in range(len(self.groups)):
            node = self._primary(number)
            if node is not None:
                watches = node.participant.watches
                watches.check_invariants()
                assert len(watches) == len(self.readers), f"node {number} has {len(watches)}"

    def _a_hint_is_enough(self) -> None:
        lives = self._lives()
        reads = self._reads()
        writes = self._write_everywhere()
        self._all_know(within=SOON_S, why="after a commit")
        self._let_pass(RENEWAL_S)
        reads = self._reads() - reads
        if writes == 1 and lives == self._lives():
            # One for each commit that they were told of, and none for renewals.
            assert reads == len(self.readers) * len(self.groups)
            self.surroundings.events["hints counted"] += reads

    def _a_lost_hint_is_found_by_the_renewal(self) -> None:
        self._deaf = True
        self._write_everywhere()
        self._let_pass(SOON_S)
        assert self._mistakes(), "deafness is no hindrance"
        self._deaf = False
        self._all_know(within=RENEWAL_S, why="with a hint lost")

    def _a_poll_does_without_hints(self) -> None:
        self._deaf = True
        self._write_everywhere()
        self._let_pass(RENEWAL_S)
        assert self._mistakes(), "deafness is no hindrance"
        for reader in self.readers:
            reader.poll_s = 1.0
            reader.poll()
        self._let_pass(1.0)
        self._write_everywhere()
        self._all_know(within=1.0 * 1.1 + SOON_S, why="without hints")

    def _write_everywhere(self) -> int:
        """Commit a new value at all memory nodes; how many times it had to be tried.

        The writer was silent for long: it may be told "unknown" by nodes that have forgotten it.
        """
        writer = self.writers[0]
        over: list[Call] = []
        for tried in range(1, TRIES_MAX):
            writer.write(list(writer.coordinator.known.entries), over.append)
            until = self.scheduler.now + 2 * TIMEOUT_S
            self.scheduler.run(until=until, stop=lambda: not writer.busy)
            assert len(over) == tried, "a write did not end"
            if over[-1].result is not None:
                return tried
        raise AssertionError(f"cannot write at rest: {over[-1].error}")

    def _let_pass(self, seconds: float) -> None:
        self.scheduler.run(until=self.scheduler.now + seconds, stop=lambda: False)

    def _reads(self) -> int:
        return sum(belief.reads for each in self.readers for belief in each.beliefs.values())


class _Nobody:
    """Minitransactions here are executed by the coordinator, not by themselves."""

    def execute(
        self, minitransaction: Minitransaction[Any], *, timeout: float | None = None
    ) -> None:
        raise NotImplementedError


_NOBODY = _Nobody()
