"""A description of a cluster is right, or the error says what is wrong where."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinfonia.config import MODES, ClusterConfig, format_size, parse_size, resolve_endpoint
from sinfonia.errors import ConfigError
from sinfonia.memnode.settings import MODES as KNOWN_MODES

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

[[memory_node]]
node = 2
endpoint = "10.0.0.2"
capacity = 4096
mode = "NVRAM-REPL"
data_directory = "node2"
log_directory = "/nvram/node2"
keep_log = "1GiB"

[[memory_node.replica]]
endpoint = "10.0.0.3"
data_directory = "node2-copy"
log_directory = "nvram"
name = "copy"

[[memory_node.replica]]
endpoint = "10.0.0.4"
listen = "tcp://0.0.0.0:7002"
data_directory = "node2r2"
replaces = "tcp://10.0.0.3:7000"

[times]
in_doubt_timeout = 0.5
"""

ALONE = """
[manager]
endpoint = "tcp://127.0.0.1:7000"
data_directory = "manager"
"""

THREE_ON_ETCD = """
[[manager]]
endpoint = "10.1.0.1"

[[manager]]
endpoint = "10.1.0.2"

[[manager]]
endpoint = "10.1.0.3:7001"

[etcd]
endpoints = ["http://127.0.0.1:2379"]
"""


@pytest.fixture
def described(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.toml"
    path.write_text(GOOD, "utf-8")
    return path


def test_a_description_is_completed_as_it_is_read(described: Path) -> None:
    config = ClusterConfig.load(described)
    first, second, _ = config.memory_node
    assert (first.mode, first.capacity, first.listen) == ("LOG", 2**30, first.endpoint)
    assert Path(first.data_directory) == described.parent / "node0"
    assert (second.endpoint, second.listen) == ("tcp://10.0.0.1:7000", "tcp://0.0.0.0:7002")
    assert second.data_directory == "/data/node1"
    assert (config.times.in_doubt_timeout, config.times.read_lease) == (0.5, 0.25)


def test_the_members_of_a_memory_node_are_completed_too(described: Path) -> None:
    config = ClusterConfig.load(described)
    node = config.describe(2)
    assert [member.name for member in node.members] == ["node2", "copy", "node2r2"]
    assert [member.listen for member in node.members] == [
        "tcp://10.0.0.2:7000",
        "tcp://10.0.0.3:7000",
        "tcp://0.0.0.0:7002",
    ]
    directory = described.parent
    places = [(member.data_directory, member.log_directory) for member in node.members]
    assert places == [
        (str(directory / "node2"), "/nvram/node2"),
        (str(directory / "node2-copy"), str(directory / "nvram")),
        (str(directory / "node2r2"), ""),
    ]
    assert (node.keep_log, config.describe(0).keep_log) == (2**30, 2**28)
    assert (config.times.lease, config.times.fail_after, config.times.drop_after) == (0.5, 1, 1)
    assert [process.name for process in config.processes][:2] == ["manager", "node0"]


@pytest.mark.parametrize("on_etcd", [False, True])
def test_what_is_written_reads_as_the_same(described: Path, on_etcd: bool) -> None:
    if on_etcd:
        described.write_text(GOOD.replace(ALONE, THREE_ON_ETCD), "utf-8")
    config = ClusterConfig.load(described)
    described.write_text(config.to_toml(described.parent), "utf-8")
    assert ClusterConfig.load(described) == config


def test_several_managers_are_all_told_to_clients(described: Path) -> None:
    described.write_text(GOOD.replace(ALONE, THREE_ON_ETCD), "utf-8")
    config = ClusterConfig.load(described)
    assert [manager.name for manager in config.manager] == ["manager0", "manager1", "manager2"]
    assert config.etcd is not None
    assert config.etcd.endpoints == ["http://127.0.0.1:2379"]
    everywhere = "tcp://10.1.0.1:7000,tcp://10.1.0.2:7000,tcp://10.1.0.3:7001"
    assert config.endpoint == resolve_endpoint(str(described)) == everywhere
    assert resolve_endpoint("10.1.0.1, 10.1.0.2,tcp://10.1.0.3:7001") == everywhere


def test_the_modes_are_those_that_memory_nodes_know() -> None:
    assert MODES == KNOWN_MODES


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("capacity = 4096", "capasity = 4096", r"memory_node\[1\].capasity: .*mean 'capacity'"),
        ("cluster =", "clutser =", "clutser: unknown; did you mean 'cluster'?"),
        ("in_doubt_timeout", "in_doubt_time", "times.in_doubt_time: .*'in_doubt_timeout'"),
        ("[times]", "[time]", "time: unknown; did you mean 'times'?"),
        ('mode = "RAM"', 'mode = "RAN"', r"memory_node\[1\].mode: .*'RAN'; allowed: RAM, RAM-REPL"),
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
        ("[manager]", "[[manager]]\nendpoint = 'x'\n[[manager]]", "2 managers need etcd to agree"),
        ("[manager]", "[etcd]\nendpoints = []\n[manager]", "etcd.endpoints: it must name etcd"),
        ("[manager]", "[etcd]\nendpoints = ['a']\n[manager]", "'a' is not like http://127.0.0.1"),
        (
            "[manager]",
            "[etcd]\nendpoints = ['http://a:2379']\n[manager]",
            "manager.data_directory: with etcd a manager has no file; leave it out",
        ),
        ('data_directory = "manager"', "", "manager.data_directory: it must name a directory"),
        ("[manager]", "[manager]\nnode = 1", "manager.node: unknown"),
        (
            '"NVRAM-REPL"',
            '"NVRAM"',
            r"memory_node\[2\].replica: mode NVRAM keeps none; choose mode NVRAM-REPL, or leave",
        ),
        ('"NVRAM-REPL"', '"RAM-REPL"', r"memory_node\[2\].replica\[0\].log_directory: mode RAM-R"),
        ('"nvram"', '"node2"', "log_directory: .*/node2 is there 2 times"),
        ('"copy"', '"node0"', "name: node0 is there 2 times"),
        ('"copy"', '"../x"', r"replica\[0\].name: '../x' is not made of letters"),
        (
            "10.0.0.4",
            "10.0.0.4:x",
            r"memory_node\[2\].replica\[1\].endpoint: .* is not an endpoint",
        ),
        ("10.0.0.3", "10.0.0.2", "endpoint: tcp://10.0.0.2:7000 is there 2 times"),
        ("[times]", "[times]\nlease = 1.0", "times.lease: 1.0 is not less than fail_after"),
        ("[times]", "[times]\ndrop_after = 0.4", "times.drop_after: 0.4 is not more than half"),
        ("replaces =", "replace =", r"memory_node\[2\].replica\[1\].replace: .*mean 'replaces'"),
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
    with pytest.raises(ConfigError, match="cluster 'test' has no memory node 3; it has 0, 1, 2"):
        ClusterConfig.load(described).describe(3)


@given(st.integers(1, 2**62))
def test_a_size_survives_being_written(size: int) -> None:
    assert parse_size(format_size(size)) == size


def test_a_cluster_may_be_named_by_endpoint_directory_or_file(described: Path) -> None:
    for name in (str(described), str(described.parent), "tcp://127.0.0.1:7000", "127.0.0.1:7000"):
        assert resolve_endpoint(name) == "tcp://127.0.0.1:7000"
    assert ClusterConfig.load(described.parent) == ClusterConfig.load(described)
    assert resolve_endpoint("somewhere") == "tcp://somewhere:7000"


def test_a_cluster_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no cluster at .*; make one with `sinfonia up"):
        resolve_endpoint(str(tmp_path))
    with pytest.raises(ConfigError, match="there is no cluster at nowhere/cluster"):
        resolve_endpoint("nowhere/cluster")
