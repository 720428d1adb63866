"""What may go wrong in one simulated run, and how often.

A run in which everything goes wrong all the time finds little: nothing gets far enough to break.
So each seed draws its own profile, in which most faults are absent and the rest frequent (swarm
testing), or one of a few that are each aimed at one trap.
"""

import random
from dataclasses import dataclass, replace
from typing import Any

from sinfonia.simulation.aimed_profiles import (
    COMING_AND_GOING,
    DAMAGED,
    LOST_STORES,
    REPLICATED,
    TARGETED,
)
from sinfonia.simulation.aimed_weather import FOUL, FOUL_REPLICATED, MUCH, MUCH_REPLICATED
from sinfonia.simulation.network import Weather
from sinfonia.storage.address_space import CHUNK_BYTES

CLEAR = Weather()

# Of each memory node: small, so that all of it can be compared.
CAPACITY = 2 * CHUNK_BYTES


@dataclass(frozen=True, slots=True)
class Profile:
    """The make-up of a run.  Rates are per virtual second, chances and shares are probabilities."""

    memory_nodes: int = 3
    clients: int = 4
    minitransactions: int = 60
    words_per_node: int = 2
    kinds: tuple[str, ...] = ()  # of minitransactions, as workloads/mix.py names them; none: all
    mode: str = "LOG"
    capacity: int = CAPACITY
    replicas: int = 0
    lease_s: float = 0.5
    drop_after_s: float = 1.0
    ack_within_s: float = 10.0  # long, so that all are in sync at rest
    fail_after_s: float = 1.0
    read_lease_s: float = 0.25
    keep_log_bytes: int = 1024 * 1024
    apply_records: int = 16  # that a member applies in one wake-up
    piece_bytes: int = 4096  # of a checkpoint, and of what a replica pulls
    window_bytes: int = 32 * 1024 * 1024  # of the log that a primary has ready for its replicas
    readers_share: float = 0.0  # of the clients: those that never write
    lock_waits: tuple[float, ...] = (0.0, 0.0, 0.002, 0.02, 0.05)  # that clients ask for
    weather: Weather = CLEAR
    think_s_mean: float = 0.01
    timeout_s_min: float = 0.2
    timeout_s_max: float = 4.0
    client_kill_chance: float = 0.0  # for each step of a client
    client_stays: int = 0  # minitransactions after which it leaves, and another comes; 0: for ever
    idle_sessions_kept: int = 8 * 1024  # of clients that a memory node may forget
    node_kill_rate: float = 0.0
    kill_in_disk_share: float = 0.5  # of the kills of memory nodes: those in the middle of a flush
    power_loss_share: float = 0.7  # of their deaths: those that lose what is not synced
    cluster_kill_rate: float = 0.0
    replica_blink_rate: float = 0.0  # of replicas that die and are back at once
    managers: int = 1
    manager_kill_rate: float = 0.0
    store_away_rate: float = 0.0  # of the store that several managers share, for some or for all
    store_answers_lost: float = 0.0
    operator_rate: float = 0.0  # of hand-overs, and of replicas removed and added
    remove_share: float = 0.3  # of what an operator does
    store_loss_rate: float = 0.0  # of an only manager's store that is lost, and rebuilt later
    store_put_back_share: float = 0.0  # of these: an older copy of it is put back
    pause_rate: float = 0.0
    pause_s_max: float = 1.5
    partition_rate: float = 0.0
    partition_s_max: float = 2.0
    replica_cut_rate: float = 0.0  # of links between the members of one memory node
    strand_rate: float = 0.0  # of a primary left alone with some clients
    last_words_rate: float = 0.0  # of primaries that die just after they sent a record
    fsync_failure_rate: float = 0.0
    disk_full_rate: float = 0.0
    rot_rate: float = 0.0  # of what a running member's scrubber is to find and repair
    scrub_rate: int = 0  # bytes per second
    last_copies_rate: float = 0.0  # of the last intact copy being damaged, once in a run
    mark_every_s: float = 0.25  # that the mark of what was synced lags behind
    only_ends_lost: bool = False  # of all damage to what was synced
    disk_damage_rate: float = 0.0  # of what was synced, while an intact copy remains
    down_s_max: float = 1.0
    flush_s_mean: float = 0.0002  # how long a memory node collects what shares a sync
    settle_s_max: float = 1.0
    checkpoint_log_bytes: int = 16 * 1024
    epoch_s: float = 3600.0
    in_doubt_timeout_s: float = 0.8
    wire: bool = False  # pass every message through the codec
    wall_clocks_set: bool = False  # whether they are wrong by less than a day, as backups need
    clock_step_rate: float = 0.0  # of the wall clocks of memory nodes
    slow_disk_rate: float = 0.0  # of members whose syncs take longer for a while
    slow_link_rate: float = 0.0  # of processes to and from which messages take longer
    slow_link_s_max: float = 1.0
    swizzle_rate: float = 0.0  # of links clogged one by one, and released in another order
    bouts: int = 0  # of faults; after each, progress is demanded while clients go on
    uneven_clocks: bool = False  # whether rates differ by as much as the protocol allows

    @property
    def logged(self) -> bool:
        """Whether data survives the death of all members."""
        return not self.mode.startswith("RAM")


# Names for a profile that is drawn at random, all of it: without replicas, and with.
WITHOUT_REPLICAS = "without-replicas"
WITH_REPLICAS = "with-replicas"
AIMED = (*TARGETED, *REPLICATED, *COMING_AND_GOING, *FOUL, *FOUL_REPLICATED)
LONG = (*MUCH, *MUCH_REPLICATED)  # runs that take many times as long as others
PROFILES = (WITHOUT_REPLICAS, WITH_REPLICAS, *AIMED, *LONG, *LOST_STORES, *DAMAGED)

_REPLICATED = REPLICATED | FOUL_REPLICATED | MUCH_REPLICATED | LOST_STORES
_ALL_AIMED: dict[str, dict[str, Any]] = (
    _REPLICATED | TARGETED | COMING_AND_GOING | FOUL | MUCH | DAMAGED
)

# Of the profiles that are drawn: those with each kind of foul weather.
FOUL_SHARE = 0.15
UNEVEN_CLOCKS_SHARE = 0.25

REPLICATED_SHARE = 0.6  # of the profiles of which nothing is said
REPLICATED_MODES = ("LOG-REPL", "LOG-REPL", "LOG-REPL", "NVRAM-REPL", "RAM-REPL")


def draw_profile(seed: int, name: str = "") -> Profile:
    """The profile of a run; ``name`` is that of a targeted one, without it the seed draws any."""
    chance = random.Random(f"{seed} profile")
    profile = targeted_profile(name, chance) if name else random_profile(chance)
    if name in (*AIMED, *LONG):
        return profile
    return with_foul_weather(profile, random.Random(f"{seed} foul weather"))


def targeted_profile(name: str, rng: random.Random) -> Profile:
    """The profile of that name, with sizes drawn for one seed."""
    if name == WITHOUT_REPLICAS:
        return _without_replicas(rng)
    if name == WITH_REPLICAS:
        return _with_replicas(rng)
    aimed = _ALL_AIMED[name]
    if name in _REPLICATED or "replicas" in aimed:
        chosen: dict[str, Any] = {"mode": "LOG-REPL", **aimed}
        return replace(_replicated_sizes(rng), **chosen)
    return replace(_sizes(rng), **aimed)


def random_profile(rng: random.Random) -> Profile:
    """A profile drawn for one seed."""
    return _with_replicas(rng) if rng.random() < REPLICATED_SHARE else _without_replicas(rng)


def with_foul_weather(profile: Profile, rng: random.Random) -> Profile:
    """``profile``, now and then with weather as well that its name does not promise.

    It is drawn after everything else and by a generator of its own, so that a seed without it is
    what it always was.
    """

    def perhaps(most: float) -> float:
        return rng.uniform(0.0, most) if rng.random() < FOUL_SHARE else 0.0

    return replace(
        profile,
        uneven_clocks=rng.random() < UNEVEN_CLOCKS_SHARE,
        slow_disk_rate=perhaps(1.0),
        slow_link_rate=perhaps(1.0),
        swizzle_rate=perhaps(0.5),
    )


def _without_replicas(rng: random.Random) -> Profile:
    if rng.random() < 0.5:
        return targeted_profile(rng.choice(list(TARGETED)), rng)
    return replace(_sizes(rng), **_swarm(rng))


def _with_replicas(rng: random.Random) -> Profile:
    if rng.random() < 0.5:
        return targeted_profile(rng.choice(list(REPLICATED)), rng)
    swarm = _swarm(rng) | _replicated_swarm(rng)
    if swarm["mode"] == "RAM-REPL":
        # What is only in memory may be lost with two members, however they die.
        swarm |= {"cluster_kill_rate": 0.0, "fsync_failure_rate": 0.0, "disk_full_rate": 0.0}
    return replace(_replicated_sizes(rng), **swarm)


def _sizes(rng: random.Random) -> Profile:
    return Profile(
        memory_nodes=rng.randint(2, 5),
        clients=rng.randint(2, 6),
        minitransactions=rng.randint(50, 80),
        words_per_node=rng.randint(1, 3),
        think_s_mean=rng.choice((0.001, 0.02, 0.1)),
        timeout_s_max=rng.choice((1.0, 4.0, 10.0)),
        flush_s_mean=rng.choice((0.0002, 0.0002, 0.005)),
        settle_s_max=rng.choice((0.0, 0.1, 1.0)),
        checkpoint_log_bytes=rng.choice((2 * 1024, 16 * 1024, 1024 * 1024)),
        epoch_s=rng.choice((3600.0, 3600.0, 4.0, 1.5)),
        in_doubt_timeout_s=rng.choice((0.8, 0.8, 4.0)),
        wire=rng.random() < 0.1,
    )


def _replicated_sizes(rng: random.Random) -> Profile:
    return replace(
        _sizes(rng),
        memory_nodes=rng.randint(2, 3),
        clients=rng.randint(2, 4),
        minitransactions=rng.randint(50, 60),
        timeout_s_max=10.0,
        lease_s=rng.choice((0.3, 0.5, 0.8)),
        fail_after_s=rng.choice((0.6, 1.0)),
        drop_after_s=rng.choice((0.5, 1.0)),
        keep_log_bytes=rng.choice((512, 16 * 1024, 1024 * 1024)),
        piece_bytes=rng.choice((1, 4096, 512 * 1024)),
        window_bytes=rng.choice((256, 4096, 32 * 1024 * 1024)),
        pause_s_max=4.0,
        partition_s_max=4.0,
    )


def _replicated_swarm(rng: random.Random) -> dict[str, Any]:
    def perhaps(most: float) -> float:
        return _perhaps(rng, most)

    return {
        "mode": rng.choice(REPLICATED_MODES),
        "replicas": rng.choice((1, 1, 2)),
        "node_kill_rate": perhaps(2.0),
        "replica_blink_rate": perhaps(1.0),
        "replica_cut_rate": perhaps(0.7),
        "strand_rate": perhaps(0.5),
        "last_words_rate": perhaps(1.0),
        "clock_step_rate": perhaps(1.0),
        "managers": rng.choice((1, 1, 2, 3)),
        "store_away_rate": perhaps(0.5),
        "store_answers_lost": perhaps(0.2),
        "operator_rate": perhaps(1.0),
    }


def _perhaps(rng: random.Random, most: float) -> float:
    return rng.uniform(0.0, most) if rng.random() < 0.4 else 0.0


def _swarm(rng: random.Random) -> dict[str, Any]:
    def perhaps(most: float) -> float:
        return _perhaps(rng, most)

    weather = Weather(
        delay_mean=rng.choice((0.0002, 0.001, 0.01)),
        late=perhaps(0.2),
        late_max=rng.choice((0.05, 0.5, 3.0)),
        loss=perhaps(0.1),
        duplication=perhaps(0.3),
        replay=perhaps(0.2),
    )
    faults: dict[str, Any] = {
        "weather": weather,
        "client_kill_chance": perhaps(0.015),
        "manager_kill_rate": perhaps(0.5),
        "pause_rate": perhaps(0.5),
        "partition_rate": perhaps(0.5),
        "down_s_max": rng.choice((0.05, 0.5, 2.0)),
    }
    if rng.random() < 0.15:
        # Memory nodes in RAM mode have nothing to come back with, so they do not die.
        return faults | {"mode": "RAM"}
    return faults | {
        "node_kill_rate": perhaps(2.0),
        "kill_in_disk_share": rng.random(),
        "power_loss_share": rng.random(),
        "cluster_kill_rate": perhaps(0.3),
        "fsync_failure_rate": perhaps(0.5),
        "disk_full_rate": perhaps(0.3),
    }
