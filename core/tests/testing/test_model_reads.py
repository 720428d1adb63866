"""The model shows what a real cluster may show of a failed minitransaction, and no more."""

import anyio

from sinfonia.minitransaction import Minitransaction, Result
from sinfonia.testing.model import ModelCluster


def guarded_look(cluster: ModelCluster) -> "Minitransaction[Result]":
    """Both nodes are read if node 0 holds a zero, and otherwise all the same."""
    look = cluster.minitransaction(reads_on_failure=True)
    look.compare(0, 0, b"\0")
    look.read(0, 0, 1)
    look.read(1, 0, 1)
    return look


async def look_beside_a_rival(cluster: ModelCluster, look: "Minitransaction[Result]") -> Result:
    """``look`` is under way when a rival, at once, writes both nodes."""
    rival = cluster.minitransaction()
    rival.write(0, 0, b"r")
    rival.write(1, 0, b"r")

    def interleave(which: "Minitransaction[Result]") -> None:
        if which is look:
            for node, memory in cluster.memory.items():
                memory[0:1] = rival.items[node].writes[0].data

    cluster.before_execute = interleave
    return await cluster.execute(look)


def test_reads_of_a_failure_over_several_nodes_never_coexisted() -> None:
    """A reader that takes them for a snapshot is found out on the model."""
    cluster = ModelCluster(memory_nodes=2, capacity=64)
    result = anyio.run(look_beside_a_rival, cluster, guarded_look(cluster))
    assert not result.committed
    assert list(result.reads) == [b"r", b"\0"], "the rival wrote both in one moment"
    assert result.failed_compares[0].found == b"r"


def test_reads_of_a_failure_at_one_node_are_of_one_moment() -> None:
    cluster = ModelCluster(memory_nodes=1, capacity=64)
    look = cluster.minitransaction(reads_on_failure=True)
    look.compare(0, 0, b"\0")
    look.read(0, 0, 1)
    look.read(0, 1, 1)
    [memory] = cluster.memory.values()
    cluster.before_execute = lambda _: memory.__setitem__(slice(0, 2), b"rr")
    result = anyio.run(cluster.execute, look)
    assert list(result.reads) == [b"r", b"r"]


def test_reads_of_a_commit_are_of_one_moment() -> None:
    cluster = ModelCluster(memory_nodes=2, capacity=64)
    look = cluster.minitransaction(reads_on_failure=True)
    look.read(0, 0, 1)
    look.read(1, 0, 1)
    result = anyio.run(look_beside_a_rival, cluster, look)
    assert result.committed
    assert list(result.reads) == [b"r", b"r"]


def test_a_node_whose_compare_failed_when_the_call_began_shows_what_is_there_now() -> None:
    """It cannot have said early that nothing failed there."""
    cluster = ModelCluster(memory_nodes=2, capacity=64)
    look = guarded_look(cluster)
    look.compare(1, 0, b"r")
    result = anyio.run(look_beside_a_rival, cluster, look)
    assert [each.node for each in result.failed_compares] == [0]
    assert list(result.reads) == [b"r", b"r"]
