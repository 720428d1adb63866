"""A client that names a memory node that never existed holds locks until an operator settles it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sinfonia import Contended, connect_blocking
from sinfonia.cli.main import main
from sinfonia.config import Times
from sinfonia.operating.actions import SettleTid
from sinfonia.operating.handle import ClusterHandle
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.operating.refusals import OperationRefused
from sinfonia.protocol.membership.messages import UnsettledTid
from sinfonia.testing.plugin import ClusterFactory

pytestmark = pytest.mark.network

PREPARE_AND_WAIT = Path(__file__).with_name("prepare_and_wait.py")

# Short, because every test here waits until the manager finds what is in doubt.
TIMES = Times(in_doubt_timeout=0.4, fail_after=1.0)
DEADLINE = 20.0


def sinfonia(*arguments: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments], input=answer)


@contextmanager
def prepared(cluster: LocalCluster, *arguments: str) -> Iterator[None]:
    """A client has the OK votes of the memory nodes in ``arguments``, and has died since."""
    command = [sys.executable, str(PREPARE_AND_WAIT), cluster.endpoint, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == "voted\n"
        finally:
            client.kill()
    yield


def in_doubt(cluster: ClusterHandle) -> UnsettledTid:
    """The tid that is being settled, once all that exist have answered."""
    found: list[UnsettledTid] = []

    def look(_: object) -> bool:
        found[:] = cluster.unsettled().tids
        return len(found) == 1 and not found[0].silent

    cluster.wait_until(look, "the manager has found the tid", DEADLINE)
    return found[0]


def test_what_a_liar_left_in_doubt_is_listed_and_settled(cluster_factory: ClusterFactory) -> None:
    cluster = cluster_factory(memory_nodes=2, times=TIMES)
    with connect_blocking(cluster.endpoint) as connection:
        connection.write(0, 0, b"old")
        assert "Nothing is in doubt" in sinfonia("settle", cluster.directory).stdout
        with prepared(cluster, "0", "1", "also", "7"):
            found = in_doubt(cluster)
        assert (found.participants, found.absent) == ([0, 1, 7], [7])
        shown = sinfonia("settle", cluster.directory)
        assert str(found.tid) in shown.stdout
        [listed] = json.loads(sinfonia("settle", cluster.directory, "--json").stdout)["tids"]
        assert (listed["tid"], listed["absent"]) == (str(found.tid), [7])
        with pytest.raises(Contended):
            connection.read(0, 0, 3, timeout=0.1)
        asked = sinfonia("settle", cluster.directory, found.tid, answer="n\n")
        assert asked.exit_code == 1
        assert cluster.unsettled().total == 1
        done = sinfonia("settle", cluster.directory, found.tid, answer="y\n")
        assert done.exit_code == 0, done.output
        assert f"{found.tid} is aborted" in done.stdout
        assert connection.read(0, 0, 3, timeout=2.0) == b"old"
        assert connection.read(1, 0, 3, timeout=2.0) == bytes(3)
        again = sinfonia("settle", cluster.directory, found.tid, "--yes", "--json")
        assert json.loads(again.stdout)["changed"] is False


def test_what_was_settled_stays_so_over_a_restart_of_everything(
    cluster_factory: ClusterFactory,
) -> None:
    cluster = cluster_factory(memory_nodes=2, times=TIMES)
    with prepared(cluster, "0", "1", "also", "7", "9"):
        found = in_doubt(cluster)
    assert cluster.operate(SettleTid(found.tid)).changed
    for place in cluster.places():
        cluster.kill(place.name)
    cluster.start()
    with connect_blocking(cluster.endpoint) as connection:
        for node in (0, 1):
            assert connection.read(node, 0, 3, timeout=DEADLINE) == bytes(3)
    assert cluster.unsettled().total == 0


def test_a_participant_that_is_away_is_not_taken_for_one_that_never_was(
    cluster_factory: ClusterFactory,
) -> None:
    cluster = cluster_factory(memory_nodes=2, times=TIMES)
    with connect_blocking(cluster.endpoint) as connection:
        with prepared(cluster, "0", "1"):
            cluster.kill("node1")
        cluster.wait_until(
            lambda _: cluster.unsettled().total == 1, "the manager has found the tid", DEADLINE
        )
        [found] = cluster.unsettled().tids
        for force in (False, True):
            with pytest.raises(OperationRefused, match=r"all participants .* exist"):
                cluster.operate(SettleTid(found.tid, force))
        cluster.start(["node1"])
        # It had voted OK: with its vote the minitransaction has committed.
        assert connection.read(0, 0, 3, timeout=DEADLINE) == b"new"
        assert connection.read(1, 0, 3, timeout=DEADLINE) == b"new"


def test_what_is_no_tid_is_refused_in_one_line() -> None:
    refused = sinfonia("settle", "tcp://127.0.0.1:1", "12")
    assert refused.exit_code == 2
    assert "is not a tid" in refused.stderr
