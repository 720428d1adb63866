"""`sinfonia up` starts what can be started, and says what cannot and what to do about it."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sinfonia import connect_blocking
from sinfonia.cli.main import main
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.testing.plugin import ClusterFactory

pytestmark = pytest.mark.network


def sinfonia(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def flip_a_bit_in_the_middle(data_directory: Path) -> None:
    """Of the log, with good blocks behind it."""
    [segment] = data_directory.glob("log.*")
    content = bytearray(segment.read_bytes())
    second = [match.start() for match in re.finditer(b"SNRL", content)][1]
    content[second + 40] ^= 1
    segment.write_bytes(content)


def written_and_down(cluster: LocalCluster, nodes: int) -> None:
    with connect_blocking(cluster.endpoint) as connection:
        for address in range(5):
            for node in range(nodes):
                connection.write(node, 8 * address, b"recorded")
    cluster.stop()


def test_a_damaged_memory_node_does_not_keep_the_others_down(
    cluster_factory: ClusterFactory,
) -> None:
    cluster = cluster_factory(memory_nodes=2)
    written_and_down(cluster, nodes=2)
    flip_a_bit_in_the_middle(cluster.directory / "node1")
    up = sinfonia("up", cluster.directory)
    assert up.exit_code == 1
    assert re.search(r"node1 did not start: .*log\.0+ is damaged at byte \d+", up.stderr)
    assert "only copy" in up.stderr
    assert "`sinfonia restore`" in up.stderr
    assert "Running: manager, node0." in up.stderr
    assert list(cluster.running) == ["manager", "node0"]
    with connect_blocking(cluster.endpoint) as connection:
        assert connection.read(0, 0, 8) == b"recorded"
    again = sinfonia("up", cluster.directory)
    assert again.exit_code == 1
    assert list(cluster.running) == ["manager", "node0"]


def test_a_member_without_its_identity_is_replaced_by_another(
    cluster_factory: ClusterFactory,
) -> None:
    cluster = cluster_factory(mode="LOG-REPL", replicas=1)
    written_and_down(cluster, nodes=1)
    identity = cluster.directory / "node0r1" / "identity"
    content = bytearray(identity.read_bytes())
    content[-1] ^= 1
    identity.write_bytes(content)
    up = sinfonia("up", cluster.directory)
    assert up.exit_code == 1
    assert "node0r1 did not start" in up.stderr
    assert "Running: manager, node0." in up.stderr
    try:
        commands = re.findall(r"`sinfonia (replica (?:add|remove) [^`]*)`", up.stderr)
        assert [command.split()[1] for command in commands] == ["remove", "add"]
        for command in commands:
            done = sinfonia(*command.split())
            assert done.exit_code == 0, done.output
        assert cluster.status().healthy
        with connect_blocking(cluster.endpoint) as connection:
            assert connection.read(0, 0, 8) == b"recorded"
    finally:
        # As it is described now: the replica that was added is no process of `cluster`.
        assert LocalCluster(cluster.directory).stop() == []
