"""A description of a cluster is right, or the error says what is wrong where."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinfonia.config import ClusterConfig, format_size, parse_size, resolve_endpoint
from sinfonia.errors import ConfigError

GOOD = """
cluster = "test"

[manager]
endpoint = "tcp://127.0.0.1:7000"
data_directory = "manager"

[[memory_node]]
node = 0
endpoint = "tcp://127.0.0.1:7001"
capacity = "1GiB"
data_directory = "node0"

[[memory_node]]
node = 1
endpoint = "10.0.0.1"
listen = "tcp://0.0.0.0:7002"
capacity = 4096
mode = "RAM"
data_directory = "/data/node1"

[times]
in_doubt_timeout = 0.5
"""


@pytest.fixture
def described(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.toml"
    path.write_text(GOOD, "utf-8")
    return path


def test_a_description_is_completed_as_it_is_read(described: Path) -> None:
    config = ClusterConfig.load(described)
    first, second = config.memory_node
    assert (first.mode, first.capacity, first.listen) == ("LOG", 2**30, first.endpoint)
    assert Path(first.data_directory) == described.parent / "node0"
    assert (second.endpoint, second.listen) == ("tcp://10.0.0.1:7000", "tcp://0.0.0.0:7002")
    assert second.data_directory == "/data/node1"
    assert (config.times.in_doubt_timeout, config.times.read_lease) == (0.5, 0.25)


def test_what_is_written_reads_as_the_same(described: Path) -> None:
    config = ClusterConfig.load(described)
    described.write_text(config.to_toml(described.parent), "utf-8")
    assert ClusterConfig.load(described) == config


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("capacity = 4096", "capasity = 4096", r"memory_node\[1\].capasity: .*mean 'capacity'"),
        ("cluster =", "clutser =", "clutser: unknown; did you mean 'cluster'?"),
        ("in_doubt_timeout", "in_doubt_time", "times.in_doubt_time: .*'in_doubt_timeout'"),
        ("[times]", "[time]", "time: unknown; did you mean 'times'?"),
        ('mode = "RAM"', 'mode = "RAN"', r"memory_node\[1\].mode: .*'RAN'; allowed: LOG, RAM"),
        ("node = 1", 'node = "1"', r"memory_node\[1\].node: Expected int, got str"),
        ("node = 1", "node = 0", "memory_node.node: 0 is there 2 times"),
        ("node = 1", "node = -1", "memory_node.node: -1 is not from 0 to"),
        ('"1GiB"', '"1GB"', r"memory_node\[0\].capacity: '1GB' is not a size; write bytes, or"),
        ("4096", "0", r"memory_node\[1\].capacity: 0 is not a size"),
        ("4096", "1.5", r"memory_node\[1\].capacity: '1.5' is not a size"),
        ("127.0.0.1:7001", "127.0.0.1:70011", r"memory_node\[0\].endpoint: .* is not an endpoint"),
        ("127.0.0.1:7001", "127.0.0.1:7000", "endpoint: tcp://127.0.0.1:7000 is there 2 times"),
        ('"node0"', '"manager"', "data_directory: .*/manager is there 2 times"),
        ('"node0"', '""', r"memory_node\[0\].data_directory: it must name a directory"),
        ("0.5", "-1.0", "times.in_doubt_timeout: -1.0 is not a time; it is in seconds"),
        ("0.5", "nan", "times.in_doubt_timeout: nan is not a time"),
        ('cluster = "test"', "", "missing cluster"),
        ('cluster = "test"', 'cluster = ""', "a cluster needs a name"),
        ("[manager]", "[manager", "is not TOML: .*line"),
    ],
)
def test_a_mistake_is_named_with_file_and_key(
    described: Path, right: str, wrong: str, complaint: str
) -> None:
    assert right in GOOD
    described.write_text(GOOD.replace(right, wrong, 1), "utf-8")
    with pytest.raises(ConfigError, match=complaint) as caught:
        ClusterConfig.load(described)
    assert str(described) in str(caught.value)


def test_a_cluster_without_memory_nodes_is_refused(described: Path) -> None:
    described.write_text(GOOD.partition("[[memory_node]]")[0] + "memory_node = []\n", "utf-8")
    with pytest.raises(ConfigError):
        ClusterConfig.load(described)


def test_an_unknown_memory_node_is_refused_with_those_there_are(described: Path) -> None:
    with pytest.raises(ConfigError, match="cluster 'test' has no memory node 2; it has 0, 1"):
        ClusterConfig.load(described).describe(2)


@given(st.integers(1, 2**62))
def test_a_size_survives_being_written(size: int) -> None:
    assert parse_size(format_size(size)) == size


def test_a_cluster_may_be_named_by_endpoint_directory_or_file(described: Path) -> None:
    for name in (str(described), str(described.parent), "tcp://127.0.0.1:7000", "127.0.0.1:7000"):
        assert resolve_endpoint(name) == "tcp://127.0.0.1:7000"
    assert resolve_endpoint("somewhere") == "tcp://somewhere:7000"


def test_a_cluster_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no cluster at .*; make one with `sinfonia up"):
        resolve_endpoint(str(tmp_path))
    with pytest.raises(ConfigError, match="there is no cluster at nowhere/cluster"):
        resolve_endpoint("nowhere/cluster")
