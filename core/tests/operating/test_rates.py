"""What `sinfonia top` makes of two looks at a cluster."""

import json

import pytest

from sinfonia.figures.figure import Value
from sinfonia.operating.cluster_status import ClusterStatus, MemoryNodeStatus, ProcessStatus
from sinfonia.operating.rates import ClusterRates, rates_between

LIFE: dict[str, Value] = {"identity": "a", "incarnation": 3}


def look(
    figures: dict[str, Value], *, endpoint: str = "tcp://a:1", state: str = "serving"
) -> ClusterStatus:
    """A cluster of one memory node whose primary says this."""
    node = MemoryNodeStatus(
        node=0,
        primary=endpoint,
        serving=state == "serving",
        mode="LOG",
        capacity_bytes=4096,
        incarnation=3,
        config_epoch=1,
        replicas_wanted=0,
        replicas=[],
        log_bytes=0,
        in_doubt=0,
        pinned=0,
        executed=0,
    )
    process = ProcessStatus("node0", endpoint, state, "primary", 0, None, figures)
    return ClusterStatus("demo", [process], [node])


def rates_of(earlier: ClusterStatus, later: ClusterStatus) -> ClusterRates:
    return rates_between(earlier, later, 2.0)


def test_a_rate_is_what_was_counted_over_the_time_between() -> None:
    before: dict[str, Value] = {"votes_ok": 100, "votes_bad_lock": 1, "logged_bytes": 0}
    after: dict[str, Value] = {"votes_ok": 300, "votes_bad_lock": 5, "logged_bytes": 4096}
    found = rates_of(look(LIFE | before), look(LIFE | after))
    [node] = found.memory_nodes
    assert node.rates == found.total == {"minitransactions": 100.0, "logged_bytes": 2048.0}
    assert node.aborts == found.aborts == {"BAD_LOCK": 2.0}
    assert json.loads(json.dumps(found.as_dict()))["interval"] == 2.0


@pytest.mark.parametrize("change", ["restarted", "failed over", "was down", "is down"])
def test_there_is_no_rate_over_a_change_of_primary(change: str) -> None:
    earlier, later = look(LIFE | {"votes_ok": 100}), look(LIFE | {"votes_ok": 300})
    if change == "restarted":
        later = look(LIFE | {"incarnation": 4, "votes_ok": 300})
    elif change == "failed over":
        later = look(LIFE | {"votes_ok": 300}, endpoint="tcp://b:1")
    elif change == "was down":
        earlier = look({}, state="down")
    else:
        later = look({}, state="down")
    found = rates_of(earlier, later)
    assert found.memory_nodes[0].rates == found.total == {}
    assert found.memory_nodes[0].serving is (change != "is down")


def test_what_a_cluster_does_is_the_sum_of_its_memory_nodes() -> None:
    one, other = look(LIFE | {"votes_ok": 0}), look(LIFE | {"votes_ok": 10})
    both = [ClusterStatus("demo", each.processes, each.memory_nodes * 2) for each in (one, other)]
    assert rates_of(*both).total == {"minitransactions": 10.0}
