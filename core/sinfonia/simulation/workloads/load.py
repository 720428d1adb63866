"""Progress under load, in the simulator: writers never stop, and things get better all the same.

One memory node with one replica; each client overwrites a place of its own, again and again, and
believes what it was told.  Two stories:

- the replica dies and comes back, and must be in sync again while writers go on;
- the disk of the replica becomes slow, and writers must be about as fast as before; then it is
  mended, and the replica must be in sync again.

In the end everybody holds the last value that each writer was told is there.
"""

from collections.abc import Callable

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.steps import Steps, minitransaction
from sinfonia.simulation.memory_node import SimulatedMemoryNode
from sinfonia.simulation.network import Network, Weather
from sinfonia.simulation.profile import Profile
from sinfonia.simulation.wire import Message
from sinfonia.simulation.workloads.steps import StepsClient, StepsSimulation

NODE = MemoryNodeId(0)

CLIENTS = 4
LOOPS = 3
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


class SlowMember(SimulatedMemoryNode):
    """A member that stands still for ``sync_s`` whenever its log is to be synced."""

    sync_s = 0.0
    away_until = 0.0
    _waited = False

    def start(self) -> None:
        """Begin a life, unless it is to be away."""
        if self.surroundings.scheduler.now >= self.away_until:
            self._waited = False
            super().start()

    def _wake_up(self) -> None:
        assert self.node is not None
        journal = self.node.member_state.journal
        if self.sync_s and journal is not None and journal.dirty and not self._waited:
            self._waited = True
            self.pause()
            self.surroundings.scheduler.after(self.sync_s, self._go_on, self.life)
            return
        self._waited = False
        super()._wake_up()

    def _go_on(self, life: int) -> None:
        if self.alive and life == self.life:
            self.resume()
            self._step(life, self._wake_up, ())


class OrderedNetwork(Network[Message]):
    """Each link delivers in order, as connections do: what comes out of order is sent again, and
    that, not pacing, would decide how fast everything is."""

    def _dispatch(self, source: str, destination: str, message: Message) -> None:
        arrives = self.scheduler.now + self.rng.expovariate(1.0 / self.weather.delay_mean)
        arrives = max(arrives, self._busy_until.get((source, destination), 0.0))
        self._busy_until[source, destination] = arrives
        delay = arrives - self.scheduler.now
        self.scheduler.after(delay, self._arrive, source, destination, message)

    def __init__(self, network: Network[Message]) -> None:
        """In place of ``network``."""
        super().__init__(network.scheduler, network.rng, network.weather)
        self._busy_until: dict[tuple[str, str], float] = {}


class LoadSimulation(StepsSimulation):
    """One seed of one of the stories; ``run`` raises SimulationFailure."""

    def __init__(self, seed: int, story: str) -> None:
        """``story``: one of STORIES."""
        self.told: dict[int, int] = {}
        self._stopping = False
        self._next_place = 0
        super().__init__(
            seed, setup=_nothing, program=self._write_on, judge=self._read_back, programs=1 << 30
        )
        self.surroundings.network = OrderedNetwork(self.surroundings.network)
        self._story = STORIES[story]
        self._story_name = story
        self.nodes = [
            SlowMember(self.surroundings, NODE, self._chance(f"member{number}"), number)
            for number in range(2)
        ]
        self.groups = [list(self.nodes)]

    def _draw_profile(self) -> Profile:
        rng = self._chance("profile")
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

    # --- the work ------------------------------------------------------------------------------

    def _work(self) -> None:
        for manager in self.managers:
            manager.start()
        for node in self.nodes:
            node.start()
        self._until(self._in_sync, IN_SYNC_S_MAX, "the replica joins")
        for _ in range(self.profile.clients):
            client = self._make_client()
            client.mortal = False
            client.work(self._next_program, LOOPS)
        self._story(self)
        self._stopping = True
        self._left_to_do = 0
        self._until(self._nothing_left_to_do, IN_SYNC_S_MAX, "the last writes are answered")

    def speed(self, seconds: float) -> float:
        """Writes in a second, while ``seconds`` pass."""
        before = self.surroundings.events["steps"]
        self._pass(seconds)
        return (self.surroundings.events["steps"] - before) / seconds

    @property
    def replica(self) -> SlowMember:
        """The member that is not the primary."""
        [member] = [member for member in self.nodes if not member.leads]
        assert isinstance(member, SlowMember)
        return member

    def return_under_load(self) -> None:
        """It dies, misses more than is kept of the log, and is in sync again under load."""
        self.speed(BEFORE_S)
        replica = self.replica
        replica.away_until = self.scheduler.now + AWAY_S
        replica.kill()
        self._pass(AWAY_S)
        replica.start()
        copies = self.surroundings.events["copies begun"]
        assert not self._in_sync(), "it missed nothing"
        self._until(self._in_sync, IN_SYNC_S_MAX, "a replica is in sync again under load")
        assert self.surroundings.events["copies begun"] <= copies + 1, "it copied more than once"
        assert self.speed(BEFORE_S), "there was no load"

    def slow_disk(self) -> None:
        """Its disk becomes slow, and is mended."""
        fast = self.speed(BEFORE_S)
        replica = self.replica
        replica.sync_s = self._chance("disk").uniform(*SLOW_SYNC_S)
        self._until(
            lambda: self.speed(BEFORE_S) >= fast * SPEED_KEPT_MIN and not self._in_sync(),
            FAST_AGAIN_S_MAX,
            "writers do without a slow replica",
        )
        kept = self.speed(SLOW_S) / fast
        assert kept >= SPEED_KEPT_MIN, f"a slow replica leaves writers {kept:.2f} of their speed"
        replica.sync_s = 0.0
        self._until(self._in_sync, IN_SYNC_S_MAX, "a replica whose disk was mended is in sync")
        assert self.speed(BEFORE_S), "there was no load"

    # --- programs ------------------------------------------------------------------------------

    def _write_on(self, client: StepsClient) -> Steps[None]:
        del client
        place = self._next_place
        self._next_place += 1
        number = 0
        while not self._stopping:
            number += 1
            t = minitransaction()
            t.write(NODE, place * RECORD_BYTES, _value(number))
            yield t
            self.told[place] = number

    def _read_back(self) -> Steps[None]:
        for place, number in self.told.items():
            t = minitransaction()
            t.read(NODE, place * RECORD_BYTES, RECORD_BYTES)
            result = yield t
            assert result.reads[0] == _value(number), f"writer {place} was told {number}"

    # --- odds and ends -------------------------------------------------------------------------

    def _in_sync(self) -> bool:
        manager = self.managers[0].manager
        entry = None if manager is None else manager.directory.entry(NODE)
        return entry is not None and len(entry.in_sync) == 1

    def _pass(self, seconds: float) -> None:
        self.scheduler.run(until=self.scheduler.now + seconds, stop=lambda: False)

    def _until(self, true: Callable[[], bool], seconds: float, what: str) -> None:
        until = self.scheduler.now + seconds
        while not true():
            assert self.scheduler.now < until, f"not within {seconds} s: {what}"
            self._pass(LOOK_S)

    def _how_to_replay(self) -> str:
        return f"LoadSimulation({self.seed}, {self._story_name!r}).run()"


STORIES: dict[str, Callable[[LoadSimulation], None]] = {
    "return under load": LoadSimulation.return_under_load,
    "slow disk": LoadSimulation.slow_disk,
}


def _value(number: int) -> bytes:
    return number.to_bytes(NUMBER_BYTES, "little") * (RECORD_BYTES // NUMBER_BYTES)


def _nothing() -> Steps[None]:
    return
    yield
