"""Everything killed, or the disk full: what the mode promises is kept, or it is said what to do."""

import os
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from sinfonia import connect_blocking
from sinfonia.cli.main import main
from sinfonia.operating.handle import Condition
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.operating.observer import ask_all
from sinfonia.operating.refusals import StartFailed
from sinfonia.protocol.membership.configuration import keeps_replicas
from sinfonia.testing.bank import bank_under_load
from sinfonia.testing.real_cluster import (
    primary_of,
    process_status,
    real_cluster,
    replicas_of,
    wait_until_well,
)

pytestmark = [pytest.mark.network, pytest.mark.slow]

MIB = 1 << 20
DEADLINE = 30.0


@pytest.mark.parametrize("mode", ["LOG", "LOG-REPL", "NVRAM", "NVRAM-REPL"])
def test_everything_killed_comes_back_by_itself_in_any_order(mode: str) -> None:
    rng = random.Random(mode)
    replicas = 1 if keeps_replicas(mode) else 0
    with (
        real_cluster(mode=mode, replicas=replicas) as cluster,
        bank_under_load(cluster.endpoint) as bank,
    ):
        for _ in range(2):
            names = list(cluster.endpoints)
            rng.shuffle(names)
            for name in names:
                cluster.kill(name)
            rng.shuffle(names)
            start_one_after_the_other(cluster, names)
            wait_until_well(cluster)
            bank.wait_for_more()


def test_everything_killed_a_moment_after_a_fail_over_comes_back() -> None:
    """The former primary is the first to start again, and must not pass for the present one."""
    with real_cluster() as cluster, bank_under_load(cluster.endpoint) as bank:
        former = [primary_of(cluster, node) for node in range(3)]
        for name in former:
            cluster.kill(name)
        bank.wait_for_more()
        for name in cluster.endpoints:
            cluster.kill(name)
        others = [name for name in cluster.endpoints if name not in former]
        start_one_after_the_other(cluster, [*former, *others])
        wait_until_well(cluster)
        bank.wait_for_more()


def test_data_in_memory_survives_as_long_as_one_member_is_left() -> None:
    with (
        real_cluster(mode="RAM-REPL", keep_log=MIB) as cluster,
        bank_under_load(cluster.endpoint) as bank,
        connect_blocking(cluster.endpoint) as connection,
    ):
        for node, _ in product(range(3), range(10)):
            # More than log and window of the primary keep, so that it must come with the image.
            connection.write(node, 100 * MIB, b"kept" * MIB)
        for name in ("node0", "node1", "node0r1", "node2r1", "node0"):
            cluster.kill(name)
            bank.wait_for_more()
            cluster.start([name])
            wait_until_well(cluster)
            copied = process_status(cluster, name).figures["copied_bytes"]
            assert isinstance(copied, int)
            assert copied >= 4 * MIB
        for node in range(3):
            assert connection.read(node, 100 * MIB, 4 * MIB) == b"kept" * MIB


def test_data_in_memory_that_no_member_holds_is_given_up_by_consent_only() -> None:
    with real_cluster(mode="RAM-REPL", memory_nodes=1) as cluster:
        with connect_blocking(cluster.endpoint) as connection:
            connection.write(0, 0, b"gone")
        [replica] = replicas_of(cluster, 0)
        for name in ("node0", replica):
            cluster.kill(name)
        with pytest.raises(StartFailed, match=r"restarted without its data.*sinfonia recreate"):
            cluster.start([replica, "node0"])
        recreate = CliRunner().invoke(main, ["recreate", str(cluster.directory), "0", "--yes"])
        assert recreate.exit_code == 0, recreate.output
        cluster.start()
        wait_until_well(cluster)
        with connect_blocking(cluster.endpoint) as connection:
            assert connection.read(0, 0, 4) == bytes(4)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_member_whose_disk_is_full_stops_and_its_replica_goes_on(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path, "96m") as enlarge,
        real_cluster(started=False) as cluster,
    ):
        first, *others = cluster.config.memory_node
        first = replace(first, data_directory=str(tmp_path))
        cluster.change(replace(cluster.config, memory_node=[first, *others]))
        cluster.start()
        with (
            bank_under_load(cluster.endpoint) as bank,
            connect_blocking(cluster.endpoint) as connection,
        ):
            written = 0
            while cluster.condition("node0") is Condition.RUNNING:
                connection.write(0, (100 + written % 32) * MIB, bytes([written]) * MIB)
                written += 1
                assert written < 200, "the disk is never full"
            assert re.search(
                r"No space left on device; this memory node has stopped serving; .*free space",
                cluster.log_text("node0"),
            )
            bank.wait_for_more()
            assert primary_of(cluster, 0) == "node0r1"
            enlarge("1g")
            cluster.start(["node0"])
            wait_until_well(cluster)
            last = written - 1
            found = connection.read(0, (100 + last % 32) * MIB, MIB)
            assert found == bytes([last]) * MIB


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A file system at ``place``; gives what changes its size."""

    def enlarge(new_size: str) -> None:
        options = ["-o", f"remount,size={new_size}"]
        subprocess.run(["mount", *options, str(place)], check=True, timeout=DEADLINE)

    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "sinfonia-test", str(place)]
    subprocess.run(command, check=True, timeout=DEADLINE)
    try:
        yield enlarge
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=DEADLINE)


def start_one_after_the_other(cluster: LocalCluster, names: list[str]) -> None:
    """Start the next as soon as the one before says anything at all."""
    deadline = time.monotonic() + 2 * DEADLINE
    for name in names:
        cluster.launch([name])
        while not ask_all([cluster.endpoints[name]]):
            assert time.monotonic() < deadline, f"{name} does not answer"
