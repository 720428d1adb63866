"""What may go wrong in one simulated run, and how often.

A run in which everything goes wrong all the time finds little: nothing gets far enough to break.
So each seed draws its own profile, in which most faults are absent and the rest frequent (swarm
testing), or one of a few that are each aimed at one trap.
"""

import random
from dataclasses import dataclass, replace
from typing import Any

from sinfonia.testing.network import Weather

CLEAR = Weather()


@dataclass(frozen=True, slots=True)
class Profile:
    """The make-up of a run.  Rates are per virtual second, chances and shares are probabilities."""

    memory_nodes: int = 3
    clients: int = 4
    minitransactions: int = 60
    words_per_node: int = 2
    kinds: tuple[str, ...] = ()  # of minitransactions, as workload.py names them; none: all
    logged: bool = True
    weather: Weather = CLEAR
    think_s_mean: float = 0.01
    timeout_s_max: float = 4.0
    client_kill_chance: float = 0.0  # for each step of a client
    node_kill_rate: float = 0.0
    kill_in_disk_share: float = 0.5  # of the kills of memory nodes: those in the middle of a flush
    power_loss_share: float = 0.7  # of their deaths: those that lose what is not synced
    cluster_kill_rate: float = 0.0
    manager_kill_rate: float = 0.0
    pause_rate: float = 0.0
    partition_rate: float = 0.0
    fsync_failure_rate: float = 0.0
    disk_full_rate: float = 0.0
    down_s_max: float = 1.0
    flush_s_mean: float = 0.0002  # how long a memory node collects what shares a sync
    settle_s_max: float = 1.0
    checkpoint_log_bytes: int = 16 * 1024
    epoch_s: float = 3600.0
    in_doubt_timeout_s: float = 0.8
    wire: bool = False  # pass every message through the codec


# Each is aimed at one trap; what it does not name is drawn at random.
TARGETED: dict[str, dict[str, Any]] = {
    "calm": {},
    "replays": {"weather": Weather(duplication=0.3, replay=0.3, late=0.1, late_max=0.5)},
    "dying-clients": {"client_kill_chance": 0.015, "weather": Weather(late=0.1, late_max=3.0)},
    "dying-clients-and-replays": {
        "client_kill_chance": 0.015,
        "weather": Weather(duplication=0.2, replay=0.3, late=0.1, late_max=4.0),
    },
    "power-cuts": {"node_kill_rate": 2.0, "cluster_kill_rate": 0.2, "down_s_max": 0.3},
    "power-cuts-and-late-messages": {
        "node_kill_rate": 2.0,
        "down_s_max": 0.1,
        "weather": Weather(loss=0.05, late=0.2, late_max=0.5),
    },
    "everybody-dies": {
        "client_kill_chance": 0.01,
        "node_kill_rate": 1.5,
        "manager_kill_rate": 0.5,
        "down_s_max": 0.3,
        "weather": Weather(late=0.05, late_max=2.0),
    },
    "bad-disks": {
        "fsync_failure_rate": 1.0,
        "disk_full_rate": 0.5,
        "node_kill_rate": 0.5,
        "down_s_max": 0.3,
    },
    "partitions": {"partition_rate": 1.0, "pause_rate": 0.5},
    # Votes of a snapshot that come late, because their client stood still.
    "pauses-in-snapshots": {
        "kinds": ("read_many", "blind_write", "swap"),
        "pause_rate": 4.0,
        "think_s_mean": 0.01,
        "weather": Weather(late=0.3, late_max=0.8),
    },
    # Locks that are lost in a restart so short that hardly anybody sees it.
    "blinks": {
        "kinds": ("read_many", "blind_write", "guarded_write"),
        "memory_nodes": 2,
        "words_per_node": 1,
        "think_s_mean": 0.01,
        "node_kill_rate": 4.0,
        "down_s_max": 0.005,
        "settle_s_max": 0.0,
        "weather": Weather(late=0.3, late_max=0.2),
    },
    "blinks-behind-cut-links": {
        "kinds": ("read_many", "blind_write", "swap", "guarded_write", "guarded_write"),
        "memory_nodes": 2,
        "clients": 6,
        "words_per_node": 1,
        "think_s_mean": 0.005,
        "timeout_s_max": 10.0,
        "node_kill_rate": 4.0,
        "partition_rate": 4.0,
        "down_s_max": 0.005,
        "settle_s_max": 0.0,
        "in_doubt_timeout_s": 4.0,
        "weather": Weather(late=0.3, late_max=1.0),
    },
    # Copies of requests that come to the next life of a memory node.
    "blinks-and-late-duplicates": {
        "kinds": ("swap",),
        "memory_nodes": 3,
        "words_per_node": 1,
        "think_s_mean": 0.2,
        "node_kill_rate": 4.0,
        "down_s_max": 0.005,
        "settle_s_max": 0.0,
        "weather": Weather(duplication=0.5, late=0.4, late_max=0.8),
    },
    "lost-replies": {
        "kinds": ("swap", "blind_write"),
        "memory_nodes": 2,
        "node_kill_rate": 4.0,
        "down_s_max": 0.02,
        "checkpoint_log_bytes": 512,
        "weather": Weather(loss=0.3),
    },
    "torn-writes": {
        "kinds": ("wide_swap", "wide_swap", "swap"),
        "node_kill_rate": 3.0,
        "kill_in_disk_share": 1.0,
        "power_loss_share": 1.0,
        "down_s_max": 0.1,
    },
}


def targeted_profile(name: str, rng: random.Random) -> Profile:
    """The profile of that name, with sizes drawn for one seed."""
    return replace(_sizes(rng), **TARGETED[name])


def random_profile(rng: random.Random) -> Profile:
    """A profile drawn for one seed."""
    if rng.random() < 0.5:
        return targeted_profile(rng.choice(list(TARGETED)), rng)
    return replace(_sizes(rng), **_swarm(rng))


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


def _swarm(rng: random.Random) -> dict[str, Any]:
    def perhaps(most: float) -> float:
        return rng.uniform(0.0, most) if rng.random() < 0.4 else 0.0

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
        return faults | {"logged": False}
    return faults | {
        "node_kill_rate": perhaps(2.0),
        "kill_in_disk_share": rng.random(),
        "power_loss_share": rng.random(),
        "cluster_kill_rate": perhaps(0.3),
        "fsync_failure_rate": perhaps(0.5),
        "disk_full_rate": perhaps(0.3),
    }
