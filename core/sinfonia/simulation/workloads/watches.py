"""Readers that rely on hints, and writers, on a simulated cluster under every fault.

Each memory node has one watched word.  Writers put in it, at one memory node or at all at once,
values that were never there before; readers watch all words and read one only after a hint, and
after a slow poll if they are given one.  A reader may believe something old for a while, but not
for good: when everything is mended and at rest, all have read what is there.

Then hints are tried one by one: as they come, with the hint of one commit lost, and without any.
After all memory nodes have lost their power, hints come as before.
"""

import random

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.memnode.node import MemoryNode
from sinfonia.protocol.attempts import Call
from sinfonia.protocol.messages import Hints, Replies
from sinfonia.protocol.watches import WATCH_LEASE
from sinfonia.protocol.watching import ASK_AGAIN, WATCH_RENEW
from sinfonia.simulation.client import SimulatedClient
from sinfonia.simulation.cluster import Cluster
from sinfonia.simulation.fault_plans import FaultsUntilDone
from sinfonia.simulation.profile import draw_profile
from sinfonia.simulation.rest import come_to_rest
from sinfonia.simulation.simulator import Simulation
from sinfonia.simulation.wire import Message
from sinfonia.simulation.workload import Budget
from sinfonia.simulation.workloads.watchers import (
    POLL_S,
    TIMEOUT_S,
    WORD,
    WORD_BYTES,
    Reader,
    Writer,
)

# At rest: a message there and one back, a wake-up, and a clock that is slow.
SOON_S = 0.5

# What a lost hint costs: the renewal, and its answer if that was lost, too.
RENEWAL_S = (WATCH_RENEW + ASK_AGAIN) * 1.1 + SOON_S

TRIES_MAX = 5

READERS = 3
WRITERS = 2
WRITES = 50

# Readers that die are replaced; each leaves watches behind.
READER_DEATHS_MAX = 3
READER_DIES_BY_S = 20.0


class Watches:
    """The workload: first come the writers, then the readers."""

    clients = WRITERS + READERS

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._budget = Budget(WRITES)
        self._writers: list[Writer] = []
        self._readers: list[Reader] = []
        self._inspected = False
        # Whether hints are kept from the readers.
        self._deaf = False
        network = cluster.surroundings.network
        through = network.wire
        network.wire = lambda message: self._listen(through(message))

    @property
    def work_left(self) -> bool:
        return not self.done

    @property
    def done(self) -> bool:
        return self._budget.left <= 0 and not any(writer.busy for writer in self.writers)

    @property
    def writers(self) -> list[Writer]:
        """Those that live."""
        return [each for each in self._writers if each.client.alive]

    @property
    def readers(self) -> list[Reader]:
        """Those that live."""
        return [each for each in self._readers if each.client.alive]

    def set_up(self, cluster: Cluster) -> None:
        """Decide when readers die."""
        chance = cluster.chance("deaths of readers")
        for _ in range(READER_DEATHS_MAX):
            cluster.scheduler.after(
                chance.uniform(0.0, READER_DIES_BY_S), self._kill_reader, chance
            )

    def program(self, client: SimulatedClient) -> None:
        if len(self.writers) < WRITERS:
            writer = Writer(client, self._budget)
            self._writers.append(writer)
            writer.start()
        else:
            reader = Reader(client)
            self._readers.append(reader)
            reader.start()

    def inspect(self, cluster: Cluster) -> None:
        if self._inspected:
            self._hints_come_after_a_loss_of_power()
        else:
            self._inspected = True
            self._all_know(within=RENEWAL_S, why="at rest")
            self._the_dead_are_forgotten()
            self._a_hint_is_enough()
            self._a_lost_hint_is_found_by_the_renewal()
            self._a_poll_does_without_hints()
        come_to_rest(cluster)

    def judge(self, cluster: Cluster) -> None:
        """What readers believe was compared with what is there."""

    def _listen(self, message: Message) -> Message:
        if not self._deaf or not isinstance(message, Replies):
            return message
        replies = [reply for reply in message.replies if not isinstance(reply, Hints)]
        return msgspec.structs.replace(message, replies=replies)

    def _kill_reader(self, chance: random.Random) -> None:
        if not self.done and self.readers:
            self._cluster.events["readers killed"] += 1
            chance.choice(self.readers).client.kill()

    # --- what is inspected ---------------------------------------------------------------------

    def _all_know(self, *, within: float, why: str) -> None:
        """Every reader believes what is there."""
        known = self._cluster.run(within, until=lambda: not self._mistakes())
        assert known, f"{why}, after {within:.1f} s: {'; '.join(self._mistakes())}"

    def _mistakes(self) -> list[str]:
        words = {node: self._word(node) for node in self._cluster.node_ids}
        return [
            f"{reader.client.name} takes {belief.value.hex()} for the word of node {node}"
            for reader in self.readers
            for node, belief in reader.beliefs.items()
            if belief.value != words[node]
        ]

    def _word(self, number: MemoryNodeId) -> bytes | None:
        """What is in a word; None while it fails over, which it may do at rest, too."""
        node = self._primary(number)
        return None if node is None else node.space.read(WORD, WORD_BYTES)

    def _primary(self, number: MemoryNodeId) -> MemoryNode | None:
        primaries = [member.node for member in self._cluster.groups[number] if member.leads]
        return primaries[0] if len(primaries) == 1 else None

    def _lives(self) -> list[int | None]:
        primaries = [self._primary(number) for number in self._cluster.node_ids]
        return [None if node is None else node.incarnation for node in primaries]

    def _the_dead_are_forgotten(self) -> None:
        """Within a lease the watches are those of living readers, one each and no more."""
        self._cluster.pass_time(WATCH_LEASE * 1.1)
        for number in self._cluster.node_ids:
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
        self._cluster.pass_time(RENEWAL_S)
        reads = self._reads() - reads
        if writes == 1 and lives == self._lives():
            # One for each commit that they were told of, and none for renewals.
            assert reads == len(self.readers) * len(self._cluster.groups)
            self._cluster.events["hints counted"] += reads

    def _a_lost_hint_is_found_by_the_renewal(self) -> None:
        self._deaf = True
        self._write_everywhere()
        self._cluster.pass_time(SOON_S)
        assert self._mistakes(), "deafness is no hindrance"
        self._deaf = False
        self._all_know(within=RENEWAL_S, why="with a hint lost")

    def _a_poll_does_without_hints(self) -> None:
        self._deaf = True
        self._write_everywhere()
        self._cluster.pass_time(RENEWAL_S)
        assert self._mistakes(), "deafness is no hindrance"
        for reader in self.readers:
            reader.polls = True
            reader.poll()
        self._cluster.pass_time(POLL_S)
        self._write_everywhere()
        self._all_know(within=POLL_S * 1.1 + SOON_S, why="without hints")
        for reader in self.readers:
            reader.polls = False
        self._deaf = False

    def _hints_come_after_a_loss_of_power(self) -> None:
        """Memory nodes that restarted know of no watch before its reader renews it."""
        self._cluster.pass_time(RENEWAL_S)
        self._write_everywhere()
        self._all_know(within=SOON_S, why="after a loss of power")

    def _write_everywhere(self) -> int:
        """Commit a new value at all memory nodes; how many times it had to be tried.

        The writer was silent for long: it may be told "unknown" by nodes that have forgotten it.
        """
        [writer, *_] = self.writers
        over: list[Call] = []
        for tried in range(1, TRIES_MAX):
            writer.write(self._cluster.node_ids, over.append)
            self._cluster.run(2 * TIMEOUT_S, until=lambda: not writer.busy)
            assert len(over) == tried, "a write did not end"
            if over[-1].result is not None:
                return tried
        raise AssertionError(f"cannot write at rest: {over[-1].error}")

    def _reads(self) -> int:
        return sum(belief.reads for each in self.readers for belief in each.beliefs.values())


def simulated_watches(seed: int, profile: str = "") -> Simulation:
    """One run; ``profile`` is the name of a targeted one, without it the seed draws any."""
    cluster = Cluster(seed, draw_profile(seed, profile))
    return Simulation(
        cluster,
        FaultsUntilDone(),
        Watches(cluster),
        replay=f"simulated_watches({seed}, {profile!r}).run()",
    )
