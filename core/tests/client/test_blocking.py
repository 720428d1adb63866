"""The blocking client: the same names and promises as the async one, for scripts and threads."""

import signal
import threading

import pytest

from sinfonia import (
    BlockingCluster,
    LimitExceeded,
    OutcomeUnknown,
    OutOfRange,
    TimedOut,
    Unreachable,
    connect_blocking,
)
from sinfonia.client.cluster import Cluster
from sinfonia.minitransaction import BYTES_MAX, ITEMS_MAX
from sinfonia.operating.local_cluster import LocalCluster, free_ports
from sinfonia.protocol.identifiers import Tid
from sinfonia.testing.plugin import ClusterFactory

pytestmark = pytest.mark.network

CAPACITY = 32 * 1024 * 1024


@pytest.fixture(scope="module")
def cluster(shared_cluster_factory: ClusterFactory) -> LocalCluster:
    return shared_cluster_factory(memory_nodes=2, mode="RAM", capacity=CAPACITY)


def test_what_is_written_is_read(cluster: LocalCluster) -> None:
    with connect_blocking(cluster.endpoint) as connection:
        connection.write(0, 0, b"first")
        connection.write(1, CAPACITY - 4, b"last")
        assert connection.read(0, 0, 5) == b"first"
        assert connection.read(1, CAPACITY - 4, 4) == b"last"


def test_a_minitransaction_over_two_nodes_is_all_or_nothing(cluster: LocalCluster) -> None:
    with connect_blocking(cluster.endpoint) as connection:
        connection.write(0, 100, b"old")
        for expected, committed in ((b"new", False), (b"old", True)):
            swap = connection.minitransaction(reads_on_failure=True)
            swap.compare(0, 100, expected)
            swap.read(0, 100, 3)
            swap.write(1, 100, b"moved")
            result = swap.execute()
            assert result.committed is committed
            assert list(result.reads) == [b"old"]
            assert [failed.found for failed in result.failed_compares] == [b"old"] * (not committed)
        assert connection.read(1, 100, 5) == b"moved"


@pytest.mark.parametrize("in_flight", [1, 7, 1024])
def test_a_pipeline_returns_results_in_order(cluster: LocalCluster, in_flight: int) -> None:
    with connect_blocking(cluster.endpoint) as connection:
        for k in range(300):
            connection.write(k % 2, 8 * k, k.to_bytes(8, "big"))
        reads = []
        for k in range(300):
            minitransaction = connection.minitransaction()
            minitransaction.read(k % 2, 8 * k, 8)
            reads.append(minitransaction)
        results = connection.execute_many(reads, in_flight=in_flight)
        found = [int.from_bytes(result.reads[0], "big") for result in results]
        assert found == list(range(300))


def test_a_failure_in_a_pipeline_does_not_stop_the_others(cluster: LocalCluster) -> None:
    with connect_blocking(cluster.endpoint) as connection:
        good, bad = connection.minitransaction(), connection.minitransaction()
        bad.read(0, CAPACITY, 1)
        good.write(0, 5000, b"done")
        with pytest.raises(OutOfRange):
            connection.execute_many([bad, good])
        assert connection.read(0, 5000, 4) == b"done"


def test_threads_do_not_disturb_each_other(cluster: LocalCluster) -> None:
    """Each adds to the same word, by compare and swap."""

    def add(connection: BlockingCluster) -> None:
        for _ in range(50):
            while True:
                old = connection.read(0, 800, 8)
                swap = connection.minitransaction()
                swap.compare(0, 800, old)
                swap.write(0, 800, (int.from_bytes(old, "big") + 1).to_bytes(8, "big"))
                if swap.execute().committed:
                    break

    with connect_blocking(cluster.endpoint) as connection:
        connection.write(0, 800, bytes(8))
        threads = [threading.Thread(target=add, args=[connection]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30.0)
        assert int.from_bytes(connection.read(0, 800, 8), "big") == 200
        assert connection.statistics.executed >= 400
        assert connection.statistics.unknown == 0


def test_what_cannot_be_executed_is_refused_before_it_is_sent(cluster: LocalCluster) -> None:
    with connect_blocking(cluster.endpoint) as connection:
        with pytest.raises(OutOfRange, match=f"memory node 0 has {CAPACITY} bytes"):
            connection.read(0, CAPACITY - 1, 2)
        with pytest.raises(OutOfRange, match="there is no memory node 9; the cluster has 0, 1"):
            connection.read(9, 0, 1)
        with pytest.raises(OutOfRange):
            connection.read(0, -1, 1)
        with pytest.raises(LimitExceeded, match=f"at most {BYTES_MAX} bytes"):
            connection.write(0, 0, bytes(BYTES_MAX + 1))
        many = connection.minitransaction()
        for _ in range(ITEMS_MAX):
            many.read(0, 0, 1)
        with pytest.raises(LimitExceeded, match=f"at most {ITEMS_MAX} items"):
            many.read(0, 0, 1)
        assert len(many.execute().reads) == ITEMS_MAX
        connection.write(0, 0, bytes(BYTES_MAX))


def test_a_dead_memory_node_has_certainly_not_executed_what_never_reached_it(
    cluster_factory: ClusterFactory,
) -> None:
    cluster = cluster_factory(memory_nodes=2)
    with connect_blocking(cluster.endpoint) as connection:
        connection.write(1, 0, b"before")
        cluster.kill("node1")
        for attempt in (
            lambda: connection.read(1, 0, 6, timeout=0.2),
            lambda: connection.write(1, 0, b"never.", timeout=0.2),
        ):
            with pytest.raises(TimedOut) as definite:
                attempt()
            assert definite.value.definite
        connection.write(0, 0, b"the other one serves")
        cluster.start()
        assert connection.read(1, 0, 6) == b"before"


def test_what_a_silent_memory_node_may_have_executed_is_unknown(
    cluster_factory: ClusterFactory,
) -> None:
    cluster = cluster_factory(memory_nodes=2)
    with connect_blocking(cluster.endpoint) as connection:
        connection.write(1, 0, b"before")
        process = cluster.process("node1")
        assert process is not None
        process.signal(signal.SIGSTOP)
        try:
            with pytest.raises(OutcomeUnknown) as unknown:
                connection.write(1, 0, b"after!", timeout=0.2)
            assert not unknown.value.definite
            tid = unknown.value.tid
            assert isinstance(tid, Tid)
            with pytest.raises(OutcomeUnknown):
                connection.outcome(tid, timeout=0.1)
            connection.write(0, 0, b"the other one serves")
        finally:
            process.signal(signal.SIGCONT)
        happened = connection.outcome(tid)
        assert connection.read(1, 0, 6) == (b"after!" if happened else b"before")
        with pytest.raises(OutcomeUnknown):
            connection.outcome(Tid(0, 1, 1))


def test_an_endpoint_without_a_process_is_said_to_be_one() -> None:
    [port] = free_ports(1)
    with pytest.raises(Unreachable, match=f"127.0.0.1:{port} within 0.1 s; is the cluster up"):
        connect_blocking(f"127.0.0.1:{port}", timeout=0.1)


def test_a_closed_cluster_refuses_to_go_on(cluster: LocalCluster) -> None:
    connection = connect_blocking(cluster.endpoint)
    connection.write(0, 0, b"x")
    connection.close()
    connection.close()
    with pytest.raises(RuntimeError, match="closed"):
        connection.read(0, 0, 1)


def test_both_clients_have_the_same_names() -> None:
    asynchronous = {name for name in vars(Cluster) if not name.startswith("_")}
    blocking = {name for name in vars(BlockingCluster) if not name.startswith("_")}
    assert asynchronous - {"aclose"} == blocking - {"close"}


def test_what_one_thread_was_told_counts_as_a_cause_of_what_another_does(
    cluster_factory: ClusterFactory,
) -> None:
    """Stamps of the log, and so backups, keep causes before effects, also across threads."""
    told: list[int] = []
    with connect_blocking(cluster_factory().endpoint) as connection:

        def write() -> None:
            connection.write(0, 0, b"cause")
            told.append(connection._connection().wire.coordinator.clock)

        thread = threading.Thread(target=write)
        thread.start()
        thread.join(10)
        assert connection._connection().wire.coordinator.clock >= told[0] > 0
