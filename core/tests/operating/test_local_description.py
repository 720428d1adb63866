"""Descriptions of clusters on one machine, as values."""

import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinfonia.config import CONFIG_FILE, ClusterConfig, Mode
from sinfonia.errors import ConfigError
from sinfonia.operating.local_description import (
    LOOPBACK,
    free_ports,
    new_cluster,
    port_of,
    ports_needed,
    with_memory_node,
    with_replica,
    without_member,
    write_description,
)

MIB = 1 << 20
FIRST_PORT = 14_000


def described(
    directory: Path, *, memory_nodes: int = 1, replicas: int = 1, mode: Mode = "LOG-REPL"
) -> ClusterConfig:
    """A new cluster, as its processes would read it."""
    ports = range(FIRST_PORT, FIRST_PORT + ports_needed(memory_nodes, replicas))
    config = new_cluster(
        "demo",
        memory_nodes=memory_nodes,
        mode=mode,
        capacity=MIB,
        ports=ports,
        replicas=replicas,
    )
    return written(config, directory)


def written(config: ClusterConfig, directory: Path) -> ClusterConfig:
    write_description(config, directory)
    return ClusterConfig.load(directory / CONFIG_FILE)


def names(config: ClusterConfig) -> list[str]:
    return [process.name for process in config.processes]


def test_ports_follow_each_other_first_members_before_replicas(tmp_path: Path) -> None:
    config = described(tmp_path, memory_nodes=2, replicas=2)
    ports = {process.name: port_of(process.endpoint) - FIRST_PORT for process in config.processes}
    assert ports == {
        "manager": 0,
        "node0": 1,
        "node1": 2,
        "node0r1": 3,
        "node0r2": 4,
        "node1r1": 5,
        "node1r2": 6,
    }


def test_what_is_added_takes_ports_that_are_free(tmp_path: Path) -> None:
    config = described(tmp_path)
    highest = max(port_of(process.endpoint) for process in config.processes)
    with socket.socket() as rival:
        rival.bind((LOOPBACK, highest + 1))
        grown = written(with_replica(config, tmp_path, 0), tmp_path)
    assert port_of(grown.describe(0).replica[-1].endpoint) > highest + 1


def test_a_name_whose_data_is_still_there_is_not_used_again(tmp_path: Path) -> None:
    config = described(tmp_path)
    (tmp_path / "node0r2").mkdir()
    assert names(written(with_replica(config, tmp_path, 0), tmp_path))[-1] == "node0r3"


def test_the_next_member_takes_the_place_of_the_first_and_keeps_its_name(tmp_path: Path) -> None:
    config = described(tmp_path, replicas=2)
    [_, first, second, third] = config.processes
    shrunk = written(without_member(config, 0, first.endpoint), tmp_path)
    assert [shrunk.describe(0).name, *(each.name for each in shrunk.describe(0).replica)] == [
        second.name,
        third.name,
    ]
    assert shrunk.describe(0).data_directory == second.data_directory


def test_a_replica_that_replaced_a_member_that_is_gone_replaces_none(tmp_path: Path) -> None:
    config = described(tmp_path)
    source = config.describe(0).replica[0].endpoint
    config = written(with_replica(config, tmp_path, 0, replaces=source), tmp_path)
    assert config.describe(0).replica[-1].replaces == source
    shrunk = written(without_member(config, 0, source), tmp_path)
    assert [replica.replaces for replica in shrunk.describe(0).replica] == [""]


def test_an_added_memory_node_is_like_the_first(tmp_path: Path) -> None:
    config = described(tmp_path)
    grown = written(with_memory_node(config, tmp_path, 7, capacity=None, replicas=None), tmp_path)
    node = grown.describe(7)
    assert (node.capacity, node.mode, len(node.replica)) == (MIB, "LOG-REPL", 1)
    assert [member.name for member in node.members] == ["node7", "node7r1"]


@pytest.mark.parametrize("mode", ["RAM", "LOG", "NVRAM"])
def test_a_mode_without_replicas_gets_none(tmp_path: Path, mode: Mode) -> None:
    config = described(tmp_path, replicas=0, mode=mode)
    with pytest.raises(ConfigError, match=f"mode {mode}"):
        with_replica(config, tmp_path, 0)
    with pytest.raises(ConfigError, match=f"mode {mode} keeps no replicas"):
        with_memory_node(config, tmp_path, 1, capacity=None, replicas=1)
    with pytest.raises(ConfigError, match=f"choose mode {mode}-REPL"):
        described(tmp_path, mode=mode)


def test_several_managers_need_etcd() -> None:
    with pytest.raises(ConfigError, match="3 managers need etcd to agree; say where it is"):
        new_cluster(
            "demo",
            memory_nodes=1,
            mode="LOG",
            capacity=MIB,
            ports=free_ports(ports_needed(1, managers=3)),
            managers=3,
        )


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_whatever_is_added_and_removed_a_good_description_remains(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("cluster")
    config = described(directory, memory_nodes=2)
    for _ in range(data.draw(st.integers(0, 6))):
        node = data.draw(st.sampled_from([each.node for each in config.memory_node]))
        members = [member.endpoint for member in config.describe(node).members]
        if len(members) > 1 and data.draw(st.booleans()):
            changed = without_member(config, node, data.draw(st.sampled_from(members)))
        else:
            replaced = data.draw(st.sampled_from(["", *members]))
            changed = with_replica(config, directory, node, replaces=replaced)
        # Reading it checks that names, places and directories are each there once.
        config = written(changed, directory)
        assert len(config.processes) == len(changed.processes)
