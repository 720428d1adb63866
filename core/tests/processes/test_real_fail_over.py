"""Members of memory nodes killed and paused under load: service goes on, and nothing is lost."""

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing

import pytest

from sinfonia import connect_blocking
from sinfonia.client.seed import ask_for_directory
from sinfonia.config import Times
from sinfonia.protocol.messages import NotServing, Voted, WrongConfig
from sinfonia.testing.bank import audit, bank_under_load, open_accounts
from sinfonia.testing.fixed_endpoint_client import FixedEndpointClient
from sinfonia.testing.real_cluster import (
    paused,
    primary_of,
    process_status,
    real_cluster,
    replicas_of,
    wait_until,
    wait_until_well,
)

pytestmark = [pytest.mark.network, pytest.mark.slow]

DEADLINE = 30.0

# What is promised for the default times: detection and lease, and what is in doubt settled.
FAIL_OVER_MAX = 3.0

# Longer than a fail-over takes, so that the paused primary comes back after it, and still believes
# that it leads.
PAUSE = FAIL_OVER_MAX

MIB = 1 << 20


def test_primaries_killed_one_after_the_other_cost_seconds_and_no_transfer() -> None:
    """Also those that were replicas a moment before."""
    with real_cluster() as cluster, bank_under_load(cluster.endpoint) as bank:
        for node in (0, 1, 0, 2, 0):
            bank.begin_to_measure()
            victim = primary_of(cluster, node)
            cluster.kill(victim)
            bank.wait_for_more()
            assert bank.longest_call < FAIL_OVER_MAX
            assert primary_of(cluster, node) != victim
            cluster.start([victim])
            wait_until_well(cluster)
        bank.wait_for_more()


def test_a_killed_replica_is_done_without_and_comes_back() -> None:
    with real_cluster() as cluster, bank_under_load(cluster.endpoint) as bank:
        for node in (1, 2):
            [victim] = replicas_of(cluster, node)
            before = process_status(cluster, primary_of(cluster, node))
            cluster.kill(victim)
            bank.wait_for_more()
            cluster.start([victim])
            wait_until_well(cluster)
            after = process_status(cluster, primary_of(cluster, node))
            assert after.endpoint == before.endpoint
            assert after.figures["incarnation"] == before.figures["incarnation"]
        assert bank.longest_call < FAIL_OVER_MAX


def test_two_replicas_outlive_two_primaries() -> None:
    with real_cluster(replicas=2) as cluster, bank_under_load(cluster.endpoint) as bank:
        first = primary_of(cluster, 0)
        cluster.kill(first)
        bank.wait_for_more()
        wait_until(
            cluster,
            lambda status: sum(each.in_sync for each in status.memory_nodes[0].replicas) == 1,
            "the remaining replica is in sync with the new primary",
        )
        second = primary_of(cluster, 0)
        cluster.kill(second)
        bank.wait_for_more()
        cluster.start([first, second])
        wait_until_well(cluster)


def test_a_paused_primary_that_goes_on_is_refused_and_becomes_a_replica() -> None:
    with real_cluster() as cluster, bank_under_load(cluster.endpoint) as bank:
        for node in (0, 1):
            victim = primary_of(cluster, node)
            with closing(FixedEndpointClient(ask_for_directory(cluster.endpoint), node)) as client:
                client.replies_until(Voted)
                with paused(cluster, victim):
                    resume_at = time.monotonic() + PAUSE
                    bank.wait_for_more()
                    assert bank.longest_call < FAIL_OVER_MAX
                    client.forget_answers()
                    client.ask()
                    time.sleep(max(0.0, resume_at - time.monotonic()))
                answers = client.replies_until(WrongConfig)
            assert all(isinstance(each, WrongConfig | NotServing) for each in answers), answers
            wait_until_well(cluster)
            assert victim in replicas_of(cluster, node)
        bank.wait_for_more()


def test_killed_clients_leave_whole_transfers_and_hold_no_other_up() -> None:
    times = Times(in_doubt_timeout=1.0)
    with real_cluster(times=times) as cluster:
        with connect_blocking(cluster.endpoint) as connection:
            open_accounts(connection)
        acknowledged: dict[int, int] = {}
        for generation in range(3):
            tellers = range(3 * generation, 3 * generation + 3)
            acknowledged |= work_and_die(cluster.endpoint, tellers, 30 + 7 * generation)
            audit(cluster.endpoint, acknowledged)


def test_a_replica_that_was_away_for_long_copies_the_image_and_the_primary_does_not_wait() -> None:
    with (
        real_cluster(checkpoint_log=4 * MIB, keep_log=MIB) as cluster,
        bank_under_load(cluster.endpoint) as bank,
        connect_blocking(cluster.endpoint) as connection,
    ):
        [victim] = replicas_of(cluster, 0)
        cluster.kill(victim)
        bank.wait_for_more()
        for k in range(150):
            connection.write(0, (100 + k % 50) * MIB, bytes([k]) * MIB, timeout=DEADLINE)
        bank.begin_to_measure()
        cluster.start([victim])
        wait_until_well(cluster)
        copied = process_status(cluster, victim).figures["copied_bytes"]
        assert isinstance(copied, int)
        assert copied >= 50 * MIB
        assert bank.longest_call < 1.0
        # What was copied is good to serve from.
        cluster.kill(primary_of(cluster, 0))
        for k in (100, 149):
            found = connection.read(0, (100 + k % 50) * MIB, MIB, timeout=DEADLINE)
            assert found == bytes([k]) * MIB


def work_and_die(endpoint: str, tellers: Sequence[int], transfers: int) -> dict[int, int]:
    """Tellers as processes, killed when the first has made so many; what each was told."""
    with ExitStack() as stack:
        processes = {}
        for teller in tellers:
            command = [sys.executable, "-m", "sinfonia.testing.bank", endpoint, str(teller)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            processes[teller] = process
        told = {}
        for teller, process in processes.items():
            assert process.stdout is not None
            told[teller] = 0
            while told[teller] < transfers:
                told[teller] = int(process.stdout.readline())
        for teller, process in processes.items():
            assert process.stdout is not None
            process.kill()
            told[teller] = max(told[teller], *map(int, process.stdout.read().split()), 0)
    return told
