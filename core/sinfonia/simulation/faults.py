"""What strikes a simulated cluster, at random moments, until it is told to stop.

Each kind of fault has its own generator of chance, so that a profile without one kind meets the
others at the same moments.
"""

import random
from collections.abc import Callable, Sequence

from sinfonia.simulation.disk_faults import DiskFaults
from sinfonia.simulation.foul_weather import FoulWeather
from sinfonia.simulation.last_copies import LastCopies
from sinfonia.simulation.manager import SimulatedManager
from sinfonia.simulation.memory_node import SimulatedMemoryNode
from sinfonia.simulation.process import Process, Surroundings
from sinfonia.simulation.scrubbed_disks import ScrubbedDisks

LINKS_CUT_SHARE = 0.3
DISK_FULL_S_MAX = 1.0
STORE_AWAY_S_MAX = 2.0

# A process that was taken for dead knows what became of it after so many times ``fail_after``.
DISTURBED_FACTOR = 2.0

# A replica that blinks is back before its primary misses it.
BLINK_S_MAX = 0.02

# A primary that takes two or three steps more before it dies may say what no other member will.
LAST_WORDS_MAX = 3


class Faults:
    """Strikes at the rates of the profile."""

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        seed: int | str,
        nodes: Sequence[SimulatedMemoryNode],
        managers: Sequence[SimulatedManager],
        clients: Sequence[Process],
    ) -> None:
        self._surroundings = surroundings
        self._nodes = nodes
        self._managers = managers
        self._clients = clients
        self._active = True
        self._disturbed_until = 0.0
        self._store = managers[0].shared
        self._disks = DiskFaults(surroundings, nodes=nodes, managers=managers)
        self._scrubbed = ScrubbedDisks(surroundings, nodes)
        self._last_copies = LastCopies(surroundings, nodes=nodes, managers=managers)
        profile = surroundings.profile
        if self._store is not None:
            self._store.answers_lost = profile.store_answers_lost
        kinds: list[tuple[float, Callable[[random.Random], None]]] = [
            (profile.node_kill_rate, self._kill_node),
            (profile.cluster_kill_rate, self._kill_cluster),
            (profile.manager_kill_rate, self._kill_manager),
            (profile.pause_rate, self._pause),
            (profile.partition_rate, self._partition),
            (profile.fsync_failure_rate, self._fail_sync),
            (profile.disk_full_rate, self._fill_disk),
            (profile.clock_step_rate, self._step_clock),
            (profile.replica_blink_rate, self._blink),
            (profile.store_away_rate, self._take_store_away),
            (profile.replica_cut_rate, self._cut_members),
            (profile.strand_rate, self._strand_primary),
            (profile.last_words_rate, self._kill_after_last_words),
            (profile.disk_damage_rate, self._damage_disk),
            (profile.last_copies_rate, self._damage_last_copies),
            (profile.rot_rate, self._let_rot),
        ]
        self._weather = FoulWeather(
            surroundings, nodes=nodes, others=(managers, clients), disturb=self._disturb
        )
        for rate, strike in (*kinds, *self._weather.kinds):
            if rate:
                self._plan(random.Random(f"{seed} {strike.__name__}"), rate, strike)

    def stop(self) -> None:
        """Strike no more, and mend what is broken."""
        self._active = False
        self._surroundings.network.heal()
        self._weather.stop()
        for process in (*self._nodes, *self._managers, *self._clients):
            process.resume()
        if self._store is not None:
            self._store.away_from.clear()
            self._store.answers_lost = 0.0
        self._disks.stop()
        self._scrubbed.stop()
        for node in self._nodes:
            node.mend_disk()

    def _plan(
        self, rng: random.Random, rate: float, strike: Callable[[random.Random], None]
    ) -> None:
        self._surroundings.scheduler.after(rng.expovariate(rate), self._strike, rng, rate, strike)

    def _strike(
        self, rng: random.Random, rate: float, strike: Callable[[random.Random], None]
    ) -> None:
        if self._active:
            strike(rng)
            self._plan(rng, rate, strike)

    def _kill_node(self, rng: random.Random) -> None:
        node = rng.choice(self._nodes)
        if not self._surroundings.profile.logged:
            # At once: a member that dies later may by then be the only one that holds something.
            if self._may_lose(node):
                node.kill()
        elif rng.random() < self._surroundings.profile.kill_in_disk_share:
            node.die_soon(rng)
        else:
            node.kill()

    def _may_lose(self, victim: SimulatedMemoryNode) -> bool:
        """Whether all that ``victim`` holds is in the memory of another member, too.

        A member that was cut off or stood still just now may have been replaced without knowing; to
        kill another one then would be more than a memory node without a disk can bear.
        """
        if self._surroundings.scheduler.now < self._disturbed_until:
            return False
        directories = [each.manager.directory for each in self._managers if each.manager]
        directory = max(directories, key=lambda each: each.version, default=None)
        entry = directory and directory.entry(victim.node_id)
        if not entry or not entry.in_sync:
            return False
        holders = {
            (each.node.identity, each.node.starts)
            for each in self._members_of(victim)
            if each.node is not None
            and each.node.entry is not None
            and each.node.entry.incarnation == entry.incarnation
        }
        wanted = [(each.identity, each.starts) for each in entry.replicas if each.in_sync]
        return holders.issuperset([(entry.identity, entry.starts), *wanted])

    def _step_clock(self, rng: random.Random) -> None:
        self._surroundings.events["clock steps"] += 1
        rng.choice(self._nodes).step_wall_clock(rng)

    def _kill_cluster(self, rng: random.Random) -> None:
        for node in self._nodes:
            node.kill()
        for manager in self._managers:
            if rng.random() < 0.5:
                manager.kill()

    def _kill_manager(self, rng: random.Random) -> None:
        rng.choice(self._managers).kill()

    def _pause(self, rng: random.Random) -> None:
        process = rng.choice([*self._nodes, *self._managers, *self._clients])
        if process.alive and not process.paused:
            self._surroundings.events["pauses"] += 1
            process.pause()
            seconds = rng.uniform(0.0, self._surroundings.profile.pause_s_max)
            self._surroundings.scheduler.after(seconds, process.resume)
            self._disturb(seconds)

    def _partition(self, rng: random.Random) -> None:
        """Cut a part off from the rest, in one direction or both, or links here and there."""
        names = [each.name for each in (*self._nodes, *self._managers, *self._clients)]
        if rng.random() < 0.3:
            links = {(a, b) for a in names for b in names if rng.random() < LINKS_CUT_SHARE}
        else:
            apart = set(rng.sample(names, rng.choice((1, len(names) // 2))))
            out = {(a, b) for a in apart for b in names if b not in apart}
            back = {(b, a) for a, b in out}
            links = rng.choice((out, back, out | back))
        self._surroundings.events["partitions"] += 1
        self._cut(rng, links)

    def _cut(self, rng: random.Random, links: set[tuple[str, str]]) -> None:
        # Sorted, so that nothing depends on how this Python hashes strings.
        self._surroundings.scheduler.note("cut", *sorted(links))
        self._surroundings.network.cut(links)
        seconds = rng.uniform(0.1, self._surroundings.profile.partition_s_max)
        self._surroundings.scheduler.after(seconds, self._surroundings.network.heal)
        self._disturb(seconds)

    def _disturb(self, seconds: float) -> None:
        """A process may be taken for dead: until then and until all know that it was replaced."""
        surroundings = self._surroundings
        until = (
            surroundings.scheduler.now
            + seconds
            + DISTURBED_FACTOR * surroundings.profile.fail_after_s
        )
        self._disturbed_until = max(self._disturbed_until, until)

    def _cut_members(self, rng: random.Random) -> None:
        """Cut the members of one memory node off from each other, in one direction or both."""
        members = self._members_of(rng.choice(self._nodes))
        one = rng.choice(members)
        out = {(one.name, each.name) for each in members if each is not one}
        back = {(b, a) for a, b in out}
        self._surroundings.events["members cut off"] += 1
        self._cut(rng, rng.choice((out, back, out | back)))

    def _strand_primary(self, rng: random.Random) -> None:
        """Cut a primary off with some clients, which hear of nothing, and perhaps its replicas."""
        primaries = [each for each in self._nodes if each.leads]
        if not primaries:
            return
        primary = rng.choice(primaries)
        every = [each.name for each in (*self._nodes, *self._managers, *self._clients)]
        stranded = {primary.name}
        stranded |= {each.name for each in self._clients if rng.random() < 0.5}  # as they come
        rest = [name for name in every if name not in stranded]
        if rng.random() < 0.5:
            members = {each.name for each in self._members_of(primary)}
            rest = [name for name in rest if name not in members]
        out = {(a, b) for a in stranded for b in rest}
        back = {(b, a) for a, b in out}
        self._surroundings.events["primaries stranded"] += 1
        self._cut(rng, rng.choice((out, back, out | back, out | back)))

    def _members_of(self, node: SimulatedMemoryNode) -> list[SimulatedMemoryNode]:
        return [each for each in self._nodes if each.node_id == node.node_id]

    def _blink(self, rng: random.Random) -> None:
        """A replica dies and is back before it is missed."""
        replicas = [each for each in self._nodes if each.node is not None and not each.leads]
        if not replicas:
            return
        replica = rng.choice(replicas)
        if self._surroundings.profile.logged or self._may_lose(replica):
            self._surroundings.events["replicas that blinked"] += 1
            replica.down_s_max = BLINK_S_MAX
            replica.kill()

    def _kill_after_last_words(self, rng: random.Random) -> None:
        """A primary dies when it has said a few things more, to its replicas or its clients."""
        primaries = [each for each in self._nodes if each.leads]
        if primaries and self._surroundings.profile.logged:
            rng.choice(primaries).die_after_sends(rng.randint(0, LAST_WORDS_MAX))

    def _damage_disk(self, rng: random.Random) -> None:
        self._disks.strike(rng)

    def _let_rot(self, rng: random.Random) -> None:
        self._scrubbed.strike(rng)

    def _damage_last_copies(self, rng: random.Random) -> None:
        self._last_copies.strike(rng)

    def _take_store_away(self, rng: random.Random) -> None:
        """The store that managers share is away, for some of them or for all."""
        store = self._store
        if store is None:
            return
        away = [each.name for each in self._managers if rng.random() < 0.5]
        self._surroundings.events["store away"] += bool(away)
        store.away_from.update(away)
        self._surroundings.scheduler.after(
            rng.uniform(0.1, STORE_AWAY_S_MAX), store.away_from.difference_update, away
        )

    def _fail_sync(self, rng: random.Random) -> None:
        self._surroundings.events["failed syncs"] += 1
        rng.choice(self._nodes).fail_next_sync()

    def _fill_disk(self, rng: random.Random) -> None:
        node = rng.choice(self._nodes)
        self._surroundings.events["full disks"] += 1
        node.fill_disk()
        self._surroundings.scheduler.after(rng.uniform(0.0, DISK_FULL_S_MAX), node.mend_disk)
