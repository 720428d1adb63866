"""Managers and their store are killed, and operators are at work; minitransactions go on."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sinfonia import connect_blocking
from sinfonia.addresses import MemoryNodeId
from sinfonia.operating.actions import (
    Action,
    AddMemoryNode,
    AddReplica,
    DrainHost,
    MoveMember,
    Promote,
    RemoveReplica,
)
from sinfonia.operating.cluster_status import ClusterStatus
from sinfonia.operating.handle import ClusterHandle
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.testing.bank import Bank, bank_under_load
from sinfonia.testing.etcd import Etcd, running_etcd
from sinfonia.testing.real_cluster import (
    primary_of,
    real_cluster,
    wait_until,
    wait_until_well,
)

pytestmark = [pytest.mark.network, pytest.mark.slow]

DEADLINE = 60.0

# No call waits for a manager: it takes what it takes on a machine that is busy.
UNDISTURBED_MAX = 1.0

# A hand-over is a lease, and what is in doubt is settled.
HAND_OVER_MAX = 3.0

MANAGERS = ("manager0", "manager1")


def test_the_only_manager_is_not_missed_until_a_primary_must_be_replaced() -> None:
    with real_cluster() as cluster, bank_under_load(cluster.endpoint) as bank:
        with undisturbed(bank):
            cluster.kill("manager")
            bank.wait_for_more(100)
            cluster.start(["manager"])
            bank.wait_for_more()
        assert_a_fail_over_happens(cluster, bank)


def test_a_primary_that_dies_while_the_manager_is_away_is_replaced_once_it_is_back() -> None:
    with real_cluster() as cluster, bank_under_load(cluster.endpoint) as bank:
        cluster.kill("manager")
        bank.wait_for_more()
        cluster.kill("node1")
        cluster.start(["manager"])
        bank.wait_for_more()
        assert primary_of(cluster, 1) == "node1r1"
        cluster.start(["node1"])
        wait_until_well(cluster)


def test_the_other_manager_replaces_a_primary_that_dies_after_the_leader() -> None:
    with managed_on_etcd() as (cluster, _), bank_under_load(cluster.endpoint) as bank:
        leader = leader_of(cluster)
        with undisturbed(bank):
            cluster.kill(leader)
            bank.wait_for_more(100)
        assert_a_fail_over_happens(cluster, bank)
        assert leader_of(cluster) != leader
        cluster.start([leader])
        wait_until_well(cluster)


def test_the_death_of_the_leader_of_etcd_disturbs_no_call() -> None:
    with managed_on_etcd() as (cluster, etcd), bank_under_load(cluster.endpoint) as bank:
        victim = etcd.leader()
        with undisturbed(bank):
            etcd.kill(victim)
            bank.wait_for_more(100)
        assert_a_fail_over_happens(cluster, bank)
        etcd.start(victim)
        assert_a_fail_over_happens(cluster, bank)


def test_without_any_manager_and_without_etcd_transfers_go_on() -> None:
    with managed_on_etcd() as (cluster, etcd), bank_under_load(cluster.endpoint) as bank:
        with undisturbed(bank):
            for manager in MANAGERS:
                cluster.kill(manager)
            etcd.kill()
            bank.wait_for_more(100)
        etcd.start()
        cluster.start(MANAGERS)
        wait_until(cluster, has_leader, "a manager leads again")
        assert_a_fail_over_happens(cluster, bank)


def test_operators_move_everything_while_clients_work() -> None:
    with (
        real_cluster() as cluster,
        bank_under_load(cluster.endpoint) as bank,
        connect_blocking(cluster.endpoint) as connection,
    ):
        bank.begin_to_measure()
        actions: list[Action] = [
            AddReplica(0),
            MoveMember(1, "node1"),
            MoveMember(1, "node1r1"),
            Promote(0, "node0r2"),
            RemoveReplica(0, "node0"),
            DrainHost(cluster.endpoints["node2"].removeprefix("tcp://")),
            AddMemoryNode(3, capacity=1 << 20, replicas=1),
        ]
        for action in actions:
            cluster.operate(action, timeout=DEADLINE)
            bank.wait_for_more()
            assert bank.longest_call < HAND_OVER_MAX
        status = wait_until_well(cluster)
        assert status.primary_of(0) == "node0r2"
        assert {status.primary_of(1), *status.replicas_of(1)} == {"node1r2", "node1r3"}
        assert status.primary_of(2) == "node2r1"
        connection.refresh()
        assert MemoryNodeId(3) in connection.nodes
        connection.write(3, 0, b"new")
        assert connection.read(3, 0, 3) == b"new"


@contextmanager
def managed_on_etcd() -> Iterator[tuple[LocalCluster, Etcd]]:
    """Two managers on three members of etcd."""
    with (
        running_etcd(3) as etcd,
        real_cluster(managers=len(MANAGERS), etcd=etcd.endpoints) as cluster,
    ):
        wait_until(cluster, has_leader, "a manager leads")
        yield cluster, etcd


@contextmanager
def undisturbed(bank: Bank) -> Iterator[None]:
    """No call takes long in this block."""
    bank.begin_to_measure()
    yield
    assert bank.longest_call < UNDISTURBED_MAX


def assert_a_fail_over_happens(cluster: LocalCluster, bank: Bank) -> None:
    """Kill a primary, see it replaced, and have it back."""
    victim = primary_of(cluster, 0)
    cluster.kill(victim)
    bank.wait_for_more()
    assert primary_of(cluster, 0) != victim
    cluster.start([victim])
    wait_until(
        cluster, lambda status: len(in_sync_with(status, 0)) == 1, "the old primary is in sync"
    )


def in_sync_with(status: ClusterStatus, node: int) -> list[str]:
    return [each.endpoint for each in status.memory_nodes[node].replicas if each.in_sync]


def has_leader(status: ClusterStatus) -> bool:
    return status.leader in MANAGERS


def leader_of(cluster: ClusterHandle) -> str:
    leader = cluster.status().leader
    assert leader is not None
    return leader
