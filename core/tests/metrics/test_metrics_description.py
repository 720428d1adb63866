"""Where processes answer Prometheus is described like all else, and refused if it is wrong."""

from pathlib import Path

import msgspec
import pytest

from sinfonia.config import ClusterConfig, normalise_metrics
from sinfonia.errors import ConfigError
from sinfonia.operating.local_cluster import LOOPBACK
from sinfonia.operating.local_description import (
    new_cluster,
    port_of,
    ports_needed,
    with_memory_node,
    with_metrics,
    with_replica,
    without_member,
)

FIRST_PORT = 23_000
FIRST_METRICS_PORT = FIRST_PORT + 5
HERE = Path("/cluster")


def described(*, metrics: bool = True) -> ClusterConfig:
    number = ports_needed(2, 1)
    config = new_cluster(
        "test",
        memory_nodes=2,
        mode="RAM-REPL",
        capacity=4096,
        ports=range(FIRST_PORT, FIRST_PORT + number),
        replicas=1,
    )
    if metrics:
        return with_metrics(config, range(FIRST_METRICS_PORT, FIRST_METRICS_PORT + number))
    return config


def metrics_of(config: ClusterConfig) -> list[str]:
    return [process.metrics for process in config.processes]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("9100", "127.0.0.1:9100"),
        (":9100", "127.0.0.1:9100"),
        ("10.0.0.1:9100", "10.0.0.1:9100"),
        ("node-1.example.org:9100", "node-1.example.org:9100"),
        ("[::1]:9100", "[::1]:9100"),
    ],
)
def test_a_place_may_be_a_port_of_loopback(written: str, meant: str) -> None:
    assert normalise_metrics(written) == meant


@pytest.mark.parametrize(
    "written",
    ["", "x", "host:", "host:0", "65536", "tcp://host:1", "::1:9100", "[host]:1", "a b:1", "h:²"],
)
def test_what_is_no_place_is_refused(written: str) -> None:
    with pytest.raises(ConfigError):
        normalise_metrics(written)


def test_a_cluster_on_one_machine_has_a_port_for_each_process() -> None:
    """In the order of the endpoints, so that people find them."""
    config = described()
    order = sorted(config.processes, key=lambda process: port_of(process.endpoint))
    assert [port_of(process.metrics) for process in order] == list(
        range(FIRST_METRICS_PORT, FIRST_METRICS_PORT + len(order))
    )


def test_the_description_survives_being_written(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(described().to_toml(tmp_path), "utf-8")
    config = ClusterConfig.load(file)
    assert metrics_of(config) == metrics_of(described())


def test_processes_that_are_added_answer_too_where_none_does_yet() -> None:
    """Metrics begin where the endpoints end, so that the next of these would be the first."""
    config = with_memory_node(described(), HERE, 2, capacity=None, replicas=2)
    config = with_replica(config, HERE, 0)
    places = metrics_of(config)
    assert all(place.startswith(f"{LOOPBACK}:") for place in places)
    ports = [port_of(place) for place in places]
    ports += [port_of(process.endpoint) for process in config.processes]
    assert len(ports) == len(set(ports))


def test_without_metrics_those_that_are_added_have_none() -> None:
    config = with_memory_node(described(metrics=False), HERE, 2, capacity=None, replicas=1)
    assert set(metrics_of(with_replica(config, HERE, 0))) == {""}


def test_a_replica_that_becomes_the_first_member_keeps_its_place() -> None:
    config = described()
    first, replica = config.describe(0).members
    after = without_member(config, 0, first.endpoint)
    assert after.describe(0).metrics == replica.metrics


@pytest.mark.parametrize(
    ("first", "complaint"), [(65_533, "end at 65535"), (FIRST_PORT + 2, "both a process's and")]
)
def test_ports_that_cannot_be_are_refused(first: int, complaint: str) -> None:
    config = described(metrics=False)
    with pytest.raises(ConfigError, match=complaint):
        with_metrics(config, range(first, first + len(config.processes)))


def test_two_processes_cannot_answer_at_one_place(tmp_path: Path) -> None:
    config = described()
    place = config.memory_node[0].metrics
    manager = msgspec.structs.replace(config.manager[0], metrics=place)
    file = tmp_path / "cluster.toml"
    file.write_text(msgspec.structs.replace(config, manager=[manager]).to_toml(tmp_path), "utf-8")
    with pytest.raises(ConfigError, match=r"metrics.*twice|metrics.*" + place):
        ClusterConfig.load(file)


def test_a_place_that_is_wrong_is_named_with_its_key(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    text = described().to_toml(tmp_path)
    file.write_text(text.replace(f'"{LOOPBACK}:{FIRST_METRICS_PORT}"', '"nowhere"'), "utf-8")
    with pytest.raises(ConfigError, match=r"manager\.metrics: 'nowhere'"):
        ClusterConfig.load(file)
