"""Progress under load: writers never stop, and things get better all the same.

One memory node with one replica; each writer overwrites a place of its own, again and again, and
believes what it was told.  Two stories take the place of random faults:

- the replica dies and comes back, and must be in sync again while writers go on;
- the disk of the replica becomes slow, and writers must be about as fast as before; then it is
  mended, and the replica must be in sync again.

In the end all members hold the last value of which each writer was told that it is there.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.steps import Steps, execute, minitransaction, pause
from sinfonia.simulation.client import SimulatedClient
from sinfonia.simulation.cluster import Cluster
from sinfonia.simulation.memory_node import SimulatedMemoryNode
from sinfonia.simulation.network import Network, Weather
from sinfonia.simulation.profile import Profile
from sinfonia.simulation.simulator import Simulation
from sinfonia.simulation.wire import Message
from sinfonia.simulation.workload import Workload
from sinfonia.simulation.workloads.steps import StepsWorkload

NODE = MemoryNodeId(0)

CLIENTS = 4
LOOPS = (3, 3)
RECORD_BYTES = 480

# Each loop has a place; a value is a number, as often as there is room.
NUMBER_BYTES = 8

# Virtual seconds: writers alone, the replica away, and how long anything may take at most.
BEFORE_S = 2.0
AWAY_S = 4.0
IN_SYNC_S_MAX = 40.0
FAST_AGAIN_S_MAX = 20.0
SLOW_S = 6.0
LOOK_S = 0.5

# Writers may lose so much of their speed to a slow replica, once it is given up.
SPEED_KEPT_MIN = 0.5

# Of a slow disk, so that an acknowledgement takes some times as long as it may.
SLOW_SYNC_S = (0.2, 0.4)
ACK_WITHIN_S = 0.1
DROP_AFTER_S = 0.5

# Writers are told when to stop, and by then none has run out of work.
ENDLESS = 1 << 30


@dataclass(slots=True)
class OrderedNetwork(Network[Message]):
    """Each link delivers in order, as connections do.

    What comes out of order is sent again, and that, not pacing, would decide how fast everything
    is.
    """

    _busy_until: dict[tuple[str, str], float] = field(default_factory=dict)

    def _dispatch(self, source: str, destination: str, message: Message) -> None:
        arrives = self.scheduler.now + self.rng.expovariate(1.0 / self.weather.delay_mean)
        arrives = max(arrives, self._busy_until.get((source, destination), 0.0))
        self._busy_until[source, destination] = arrives
        delay = arrives - self.scheduler.now
        self.scheduler.after(delay, self._arrive, source, destination, message)


class SlowMember(SimulatedMemoryNode):
    """A member that stands still for ``log_sync_s`` before its log is synced, and at no other time.

    A slow disk (``VirtualDisk.sync_s``) would hold up checkpoints as well, and so keep the member
    silent for so long that it is given up for that.
    """

    log_sync_s = 0.0
    _waited = False

    def start(self) -> None:
        self._waited = False
        super().start()

    def _wake_up(self) -> None:
        assert self.node is not None
        journal = self.node.member_state.journal
        if self.log_sync_s and journal is not None and journal.dirty and not self._waited:
            self._waited = True
            self.pause()
            self.surroundings.scheduler.after(self.log_sync_s, self._after_wait, self.life)
            return
        self._waited = False
        super()._wake_up()

    def _after_wait(self, life: int) -> None:
        if self.alive and life == self.life:
            self.resume()
            self._step(life, self._wake_up, ())


class Overwriting:
    """Programs that write until they are told to stop; ``told`` are the numbers acknowledged."""

    def __init__(self) -> None:
        self.told: dict[int, int] = {}
        self.stopping = False
        self._next_place = 0

    def set_up(self) -> Steps[None]:
        yield from pause(0.0)

    def program(self, client: SimulatedClient) -> Steps[None]:
        del client
        place = self._next_place
        self._next_place += 1
        number = 0
        while not self.stopping:
            number += 1
            t = minitransaction()
            t.write(NODE, place * RECORD_BYTES, _value(number))
            yield from execute(t)
            self.told[place] = number

    def judge(self) -> Steps[None]:
        for place, number in self.told.items():
            t = minitransaction()
            t.read(NODE, place * RECORD_BYTES, RECORD_BYTES)
            result = yield from execute(t)
            assert result.reads[0] == _value(number), f"writer {place} was told {number}"


class Story:
    """A plan in which one thing after another happens to the cluster, under load all the time."""

    def __init__(self, tell: "Tell", writers: Overwriting) -> None:
        self._tell = tell
        self._writers = writers

    def play(self, cluster: Cluster, workload: Workload) -> None:
        """Of FaultPlan."""
        scene = Scene(cluster)
        scene.until(scene.in_sync, IN_SYNC_S_MAX, "the replica joins")
        cluster.employ(workload)
        self._tell(scene)
        self._writers.stopping = True
        assert isinstance(workload, StepsWorkload)
        workload.budget.left = 0
        scene.until(lambda: workload.done, IN_SYNC_S_MAX, "the last writes are answered")


class Scene:
    """What a story needs to see and do."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def speed(self, seconds: float) -> float:
        """Writes in a second, while ``seconds`` pass."""
        before = self.cluster.events["steps"]
        self.cluster.pass_time(seconds)
        return (self.cluster.events["steps"] - before) / seconds

    @property
    def replica(self) -> SlowMember:
        """The member that is not the primary."""
        [member] = [member for member in self.cluster.nodes if not member.leads]
        assert isinstance(member, SlowMember)
        return member

    def in_sync(self) -> bool:
        """Whether the replica counts."""
        manager = self.cluster.managers[0].manager
        entry = None if manager is None else manager.directory.entry(NODE)
        return entry is not None and len(entry.in_sync) == 1

    def until(self, true: Callable[[], bool], seconds: float, what: str) -> None:
        """Let time pass until something is ``true``; it is looked at now and then."""
        scheduler = self.cluster.scheduler
        end = scheduler.now + seconds
        while not true():
            assert scheduler.now < end, f"not within {seconds} s: {what}"
            self.cluster.pass_time(LOOK_S)


Tell = Callable[[Scene], None]


def return_under_load(scene: Scene) -> None:
    """The replica dies, misses more than is kept of the log, and is in sync again under load."""
    events = scene.cluster.events
    scene.speed(BEFORE_S)
    scene.replica.kill_for(AWAY_S)
    scene.cluster.pass_time(AWAY_S)
    copies = events["copies begun"]
    assert not scene.in_sync(), "it missed nothing"
    scene.until(scene.in_sync, IN_SYNC_S_MAX, "a replica is in sync again under load")
    assert events["copies begun"] <= copies + 1, "it copied more than once"
    assert scene.speed(BEFORE_S), "there was no load"


def slow_disk(scene: Scene) -> None:
    """The disk of the replica becomes slow, and is mended."""
    fast = scene.speed(BEFORE_S)
    replica = scene.replica
    replica.log_sync_s = scene.cluster.chance("disk").uniform(*SLOW_SYNC_S)
    scene.until(
        lambda: scene.speed(BEFORE_S) >= fast * SPEED_KEPT_MIN and not scene.in_sync(),
        FAST_AGAIN_S_MAX,
        "writers do without a slow replica",
    )
    kept = scene.speed(SLOW_S) / fast
    assert kept >= SPEED_KEPT_MIN, f"a slow replica leaves writers {kept:.2f} of their speed"
    replica.log_sync_s = 0.0
    scene.until(scene.in_sync, IN_SYNC_S_MAX, "a replica whose disk was mended is in sync")
    assert scene.speed(BEFORE_S), "there was no load"


STORIES: dict[str, Tell] = {"return under load": return_under_load, "slow disk": slow_disk}


def simulated_load(seed: int, story: str) -> Simulation:
    """One run of one of STORIES."""
    profile = _profile(random.Random(f"{seed} profile"))
    cluster = Cluster(seed, profile, network=OrderedNetwork, member=SlowMember)
    writers = Overwriting()
    workload = StepsWorkload(cluster, writers, number=ENDLESS, loops=LOOPS)
    return Simulation(
        cluster,
        Story(STORIES[story], writers),
        workload,
        replay=f"simulated_load({seed}, {story!r}).run()",
    )


def _profile(rng: random.Random) -> Profile:
    return Profile(
        memory_nodes=1,
        clients=CLIENTS,
        mode="LOG-REPL",
        replicas=1,
        keep_log_bytes=4 * 1024,
        checkpoint_log_bytes=2 * 1024,
        piece_bytes=rng.choice((2, 4)) * 1024,
        window_bytes=8 * 1024,
        timeout_s_min=10.0,
        timeout_s_max=10.0,
        settle_s_max=0.0,
        ack_within_s=ACK_WITHIN_S,
        drop_after_s=DROP_AFTER_S,
        weather=Weather(delay_mean=rng.choice((0.01, 0.02)), loss=rng.choice((0.0, 0.01))),
    )


def _value(number: int) -> bytes:
    return number.to_bytes(NUMBER_BYTES, "little") * (RECORD_BYTES // NUMBER_BYTES)
