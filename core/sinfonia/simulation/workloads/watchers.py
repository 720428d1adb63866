"""The two programs of the workload ``watches``: one writes watched words, one follows the hints.

A reader reads only after a hint, and one word at a time.  What it was told before a read began is
dealt with by that read; what it is told later is not.
"""

from dataclasses import dataclass

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.steps import minitransaction
from sinfonia.protocol.attempts import Call
from sinfonia.protocol.watching import Watched
from sinfonia.simulation.client import Done, SimulatedClient
from sinfonia.simulation.workload import Budget

WORD = 256
WORD_BYTES = 8

# What a program waits for one answer: in the work it may give up, and try something else.
TIMEOUT_S = 3.0

POLL_S = 1.0

# Of a writer: how long it waits between two writes, and how often it writes everywhere at once.
PAUSE_S_MEAN = 0.3
EVERYWHERE_SHARE = 0.3


class Writer:
    """Writes values that were never there before, one after another, while there is work left."""

    def __init__(self, client: SimulatedClient, budget: Budget) -> None:
        self.client = client
        self.busy = False
        self._budget = budget

    def start(self) -> None:
        """Begin."""
        self.client.begin_life()
        self._go_on()

    def write(self, nodes: list[MemoryNodeId], done: Done) -> None:
        """Put a new value at each of ``nodes``, at once."""
        t = minitransaction()
        for node in nodes:
            t.write(node, WORD, self.client.rng.randbytes(WORD_BYTES))
        self.busy = True

        def on_done(call: Call) -> None:
            self.busy = False
            done(call)

        self.client.execute(t, timeout=TIMEOUT_S, done=on_done)

    def _go_on(self) -> None:
        if self._budget.take():
            self.busy = True
            self.client.later(self.client.rng.expovariate(1 / PAUSE_S_MEAN), self._write_next)

    def _write_next(self) -> None:
        nodes, rng = list(self.client.coordinator.known.entries), self.client.rng
        everywhere = rng.random() < EVERYWHERE_SHARE
        self.write(nodes if everywhere else [rng.choice(nodes)], lambda _: self._go_on())


@dataclass
class Belief:
    """What a reader holds one word to be, and what it was told when it last began to read."""

    watched: Watched
    told: int = 0
    reading: bool = False
    value: bytes = b""
    reads: int = 0


class Reader:
    """Watches the word of every memory node, and polls them if it is told to."""

    def __init__(self, client: SimulatedClient) -> None:
        self.client = client
        self.polls = False
        self.beliefs: dict[MemoryNodeId, Belief] = {}
        client.after_each = self._take_news

    def start(self) -> None:
        """Begin."""
        self.client.begin_life()
        # In a step of its own: the client may die of any message that it sends.
        self.client.later(0.0, self._watch_all)

    def poll(self) -> None:
        """Read every word now and then, as long as ``polls`` is set."""
        if self.polls:
            for belief in self.beliefs.values():
                self._read(belief)
            self.client.later(POLL_S, self.poll)

    def _watch_all(self) -> None:
        client = self.client
        for node in client.coordinator.known.entries:
            watched, sends = client.coordinator.watch(node, WORD, WORD_BYTES, now=client.now)
            self.beliefs[node] = Belief(watched)
            client.carry_out(sends)

    def _take_news(self) -> None:
        watching = self.client.coordinator.watching
        for watched in list(watching.news.values()):
            self._look_at(self.beliefs[watched.node])
        watching.news.clear()
        watching.check_invariants()

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
        t = minitransaction()
        t.read(belief.watched.node, WORD, WORD_BYTES)
        self.client.execute(t, timeout=TIMEOUT_S, done=lambda call: self._on_read(belief, call))

    def _on_read(self, belief: Belief, call: Call) -> None:
        belief.reading = False
        if call.result is None:
            belief.told = -1  # it did not read after all
        else:
            [belief.value] = call.result.reads
        self._look_at(belief)
