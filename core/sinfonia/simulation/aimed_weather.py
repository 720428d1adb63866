"""Profiles for weather that no other profile has: each is aimed at one kind of it.

They stand apart from those of aimed_profiles.py, of which a seed without a profile's name draws
one: what such a seed has always meant does not change when there is another kind of weather.
"""

from typing import Any

from sinfonia.simulation.network import Weather

# For memory nodes without replicas.
FOUL: dict[str, dict[str, Any]] = {
    # Votes of a snapshot that come as its locks are about to let go, on clocks that disagree when
    # that is.
    "uneven-clocks": {
        "uneven_clocks": True,
        "kinds": ("blind_write",),
        "readers_share": 0.3,
        "memory_nodes": 2,
        "clients": 6,
        "words_per_node": 1,
        "minitransactions": 120,
        "think_s_mean": 0.03,
        "timeout_s_max": 10.0,
        "read_lease_s": 0.2,
        "lock_waits": (0.05,),
        "slow_link_rate": 5.0,
        "slow_link_s_max": 0.23,
        "flush_s_mean": 0.0002,
        "weather": Weather(delay_mean=0.0002),
    },
    # A sync takes as long as a silence for which others are taken for dead.
    "slow-disks": {"slow_disk_rate": 2.0, "node_kill_rate": 0.3},
    "slow-links": {
        "slow_link_rate": 2.0,
        "client_kill_chance": 0.005,
        "weather": Weather(duplication=0.2, replay=0.1),
    },
    "swizzles": {"swizzle_rate": 1.0, "node_kill_rate": 0.3},
    # Faults in bouts, and clients that must get on between them.
    "bouts": {
        "bouts": 3,
        "kinds": ("blind_write", "swap"),
        "memory_nodes": 2,
        "clients": 4,
        "words_per_node": 1,
        "think_s_mean": 0.3,
        "client_kill_chance": 0.01,
        "node_kill_rate": 1.0,
        "manager_kill_rate": 0.3,
        "pause_rate": 0.5,
        "partition_rate": 0.5,
        "swizzle_rate": 0.2,
        "epoch_s": 3600.0,
        "in_doubt_timeout_s": 0.8,
    },
}


# For those with replicas; the mode is LOG-REPL unless it is named.
FOUL_REPLICATED: dict[str, dict[str, Any]] = {
    # A primary that was replaced, and readers that ask it until the last moment of its lease.
    "replicas-uneven-clocks": {
        "uneven_clocks": True,
        "kinds": ("swap",),
        "readers_share": 0.8,
        "replicas": 1,
        "memory_nodes": 1,
        "clients": 6,
        "words_per_node": 1,
        "minitransactions": 500,
        "think_s_mean": 0.3,
        "lease_s": 8.0,
        "epoch_s": 3600.0,  # each begins with a record; heartbeats are as rare as leases are long
        "fail_after_s": 0.6,
        "drop_after_s": 20.0,
        "read_lease_s": 0.02,
        "settle_s_max": 0.0,
        "partition_s_max": 20.0,
        "strand_rate": 0.2,
    },
    # A member that is alive but slow, so that its primary and all clients wait for it.
    "replicas-slow-disks": {
        "replicas": 2,
        "drop_after_s": 0.5,
        "slow_disk_rate": 1.5,
        "node_kill_rate": 0.2,
    },
    "replicas-slow-links": {"replicas": 1, "slow_link_rate": 1.5, "node_kill_rate": 0.3},
    "replicas-swizzles": {
        "replicas": 2,
        "managers": 3,
        "swizzle_rate": 0.7,
        "operator_rate": 0.5,
    },
    # Faults in bouts, and clients that must get on between them.
    "replicas-bouts": {
        "bouts": 3,
        "kinds": ("blind_write", "swap"),
        "replicas": 1,
        "memory_nodes": 2,
        "clients": 4,
        "words_per_node": 1,
        "think_s_mean": 0.3,
        "client_kill_chance": 0.005,
        "node_kill_rate": 0.7,
        "manager_kill_rate": 0.2,
        "pause_rate": 0.3,
        "partition_rate": 0.3,
        "slow_disk_rate": 0.3,
        "swizzle_rate": 0.2,
        "in_doubt_timeout_s": 0.8,
    },
}


# Work that is as much as runs of a few seconds allow: thousands of minitransactions, some of them
# with hundreds of KiB.  Every client does a bit of everything, and outcomes are seldom unknown.
_MUCH: dict[str, Any] = {
    "kinds": (
        *("swap", "swap", "blind_write", "blind_write", "transfer", "compare_and_swap"),
        *("guarded_write", "read_many", "validate", "add", "add_apart", "append", "trim"),
        "large_swap",
    ),
    "clients": 6,
    "minitransactions": 2500,
    "words_per_node": 3,
    "think_s_mean": 0.02,
    "timeout_s_min": 4.0,
    "timeout_s_max": 10.0,
    "node_kill_rate": 0.1,
    "down_s_max": 0.3,
    "checkpoint_log_bytes": 1024 * 1024,
    "weather": Weather(duplication=0.01, late=0.01, late_max=0.2),
}
MUCH: dict[str, dict[str, Any]] = {"much": _MUCH}
MUCH_REPLICATED: dict[str, dict[str, Any]] = {
    "replicas-much": _MUCH | {"replicas": 1, "node_kill_rate": 0.04, "keep_log_bytes": 1024 * 1024},
}
