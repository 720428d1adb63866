"""Real processes on hosts of their own, cut off from each other in every shape."""

import time
from collections.abc import Callable
from contextlib import closing

import pytest

from sinfonia import connect_blocking
from sinfonia.client.seed import ask_for_directory
from sinfonia.config import Times
from sinfonia.operating.cluster_status import REPLICA, SILENT, ClusterStatus
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.protocol.messages import Voted, WrongConfig
from sinfonia.testing.bank import NODES, bank_under_load
from sinfonia.testing.cluster_on_hosts import cluster_on_hosts
from sinfonia.testing.fixed_endpoint_client import FixedEndpointClient
from sinfonia.testing.netns import TEST, missing_for_networks
from sinfonia.testing.real_cluster import (
    primary_of,
    replicas_of,
    wait_until,
    wait_until_well,
)

pytestmark = [
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_for_networks()), reason=missing_for_networks()),
]

DEADLINE = 30.0

# Detection, the lease, what is in doubt, and news that come a second time as the first were lost.
INTERRUPTION_MAX = 5.0

# No call waits for a manager: it takes what it takes on a machine that is busy.
UNDISTURBED_MAX = 1.0

CUTS_OF_A_PRIMARY = {
    "from all": ("manager", "replica", "others", TEST),
    "from the manager": ("manager",),
    "from its replica": ("replica",),
    "from manager and replica": ("manager", "replica"),
}


@pytest.mark.parametrize("direction", ["both ways", "what it says", "what it hears"])
def test_service_goes_on_without_a_primary_that_is_cut_off(direction: str) -> None:
    with cluster_on_hosts() as (cluster, network), bank_under_load(cluster.endpoint) as bank:
        for shape, others in CUTS_OF_A_PRIMARY.items():
            bank.begin_to_measure()
            victim = primary_of(cluster, 0)
            [replica] = replicas_of(cluster, 0)
            for other in named(cluster, others, victim, replica):
                if direction != "what it hears":
                    network.cut(victim, other)
                if direction != "what it says":
                    network.cut(other, victim)
            bank.wait_for_more()
            network.heal()
            wait_until_well(cluster)
            bank.wait_for_more()
            assert bank.longest_call < INTERRUPTION_MAX, f"cut {shape}, {direction}"


def test_a_primary_that_only_clients_reach_answers_no_reads() -> None:
    """It cannot know that it was replaced, and everything it has is acknowledged."""
    with cluster_on_hosts() as (cluster, network):
        victim = primary_of(cluster, 0)
        with closing(FixedEndpointClient(ask_for_directory(cluster.endpoint), 0)) as client:
            client.replies_until(Voted)
            for other in set(network.addresses) - {victim, TEST}:
                network.cut(victim, other)
                network.cut(other, victim)
            wait_until(cluster, is_primary_elsewhere(victim), "the primary is replaced")
            with connect_blocking(cluster.endpoint) as connection:
                connection.write(0, 0, b"new", timeout=DEADLINE)
            client.forget_answers()
            assert client.replies_within(2.0) == []
            network.heal()
            client.replies_until(WrongConfig)
        wait_until_well(cluster)


def test_what_a_primary_acknowledged_is_kept_though_it_dies_cut_off_from_its_replica() -> None:
    with cluster_on_hosts() as (cluster, network), bank_under_load(cluster.endpoint) as bank:
        for node in range(NODES):
            victim = primary_of(cluster, node)
            [replica] = replicas_of(cluster, node)
            network.cut(victim, replica)
            # Not so long that it may do without the replica.
            time.sleep(Times().drop_after / 2)
            cluster.kill(victim)
            network.heal()
            bank.wait_for_more()
            assert primary_of(cluster, node) == replica
            cluster.start([victim])
            wait_until_well(cluster)


@pytest.mark.parametrize("way", ["to", "from"])
def test_clients_that_lose_what_goes_to_or_from_a_primary_wait_until_it_heals(way: str) -> None:
    """No other process sees anything wrong; no call fails that has time left."""
    with cluster_on_hosts() as (cluster, network), bank_under_load(cluster.endpoint) as bank:
        victim = primary_of(cluster, 1)
        ends = (TEST, victim) if way == "to" else (victim, TEST)
        network.cut(*ends)
        wait_until(cluster, is_silent(victim), "what is said is lost")
        network.heal()
        bank.wait_for_more()
        assert primary_of(cluster, 1) == victim


def test_a_manager_that_is_cut_off_is_not_needed() -> None:
    with cluster_on_hosts() as (cluster, network), bank_under_load(cluster.endpoint) as bank:
        for other in network.addresses:
            if other != "manager":
                network.cut("manager", other)
                network.cut(other, "manager")
        bank.begin_to_measure()
        bank.wait_for_more(100)
        wait_until(cluster, is_silent("manager"), "what is said is lost")
        bank.wait_for_more()
        assert bank.longest_call < UNDISTURBED_MAX
        # Back again, it may take for dead whose connection comes back later than others.
        network.heal()
        wait_until_well(cluster)
        bank.wait_for_more()
        assert bank.longest_call < INTERRUPTION_MAX


def is_primary_elsewhere(former: str) -> Callable[[ClusterStatus], bool]:
    """Whether ``former`` is no primary any more."""
    return lambda status: any(p.name == former and p.role == REPLICA for p in status.processes)


def named(cluster: LocalCluster, others: tuple[str, ...], victim: str, replica: str) -> list[str]:
    """The hosts that are meant."""
    found = {"manager": ["manager"], "replica": [replica], TEST: [TEST]}
    rest = [name for name in cluster.endpoints if name not in ("manager", victim, replica)]
    return [name for other in others for name in found.get(other, rest)]


def is_silent(name: str) -> Callable[[ClusterStatus], bool]:
    """Whether nothing is heard of the process ``name``."""
    return lambda status: any(p.name == name and p.state == SILENT for p in status.processes)
