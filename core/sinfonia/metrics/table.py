"""Every metric is in a table; what is in none is not exposed.

Most metrics are figures of the status, and named with them (``sinfonia.figures``).  Declared here
is what is more than one figure: words as labels, counts by class tag, histograms.

The names follow Prometheus: base units (bytes, seconds) at the end, ``_total`` for what only grows
within one life of a process.  Memory nodes' begin with ``sinfonia_``, managers' with
``sinfonia_manager_``, clients' with ``sinfonia_client_``; the labels of a metric are part of its
name.

``python -m sinfonia.metrics`` prints the tables as METRICS.md.  A later room makes tables of its
own figures, and its page with the same ``document``.
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from sinfonia.figures import client, listening, manager, member
from sinfonia.figures.figure import Kind
from sinfonia.figures.tables import Given
from sinfonia.metrics.sources import (
    Elsewhere,
    LoadCount,
    Metric,
    State,
    Times,
    Words,
    families,
    metrics_of,
)
from sinfonia.status_snapshot import StatusSnapshot

COUNTER, GAUGE, HISTOGRAM = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

# Words that memory nodes use for their states; a test compares them.
STATES = ("starting", "catching up", "following", "settling", "serving", "over")

# --- memory nodes ------------------------------------------------------------------------------

# All of a memory node's metrics have this label first: which memory node the member is of.
NODE_LABEL = "node"

MEMORY_NODE: tuple[Metric, ...] = (
    Metric(
        "sinfonia_state",
        GAUGE,
        "1 for the state in which the member is, 0 for the others.",
        State(STATES),
        ("state",),
    ),
    Metric(
        "sinfonia_member_info",
        GAUGE,
        "Always 1: the mode of the memory node, and which member this is.",
        Words((member.MODE, member.IDENTITY)),
        ("mode", "identity"),
    ),
    Metric(
        "sinfonia_executed_total",
        COUNTER,
        "Minitransactions that committed here, by class tag.",
        LoadCount(0),
        ("tag",),
    ),
    Metric(
        "sinfonia_aborted_total",
        COUNTER,
        "Minitransactions that did not match or were refused here, by class tag.",
        LoadCount(1),
        ("tag",),
    ),
    Metric(
        "sinfonia_retried_total",
        COUNTER,
        "Minitransactions that were put off, so that their clients try again, by class tag.",
        LoadCount(2),
        ("tag",),
    ),
    Metric(
        "sinfonia_read_bytes_total",
        COUNTER,
        "Bytes that minitransactions read, by class tag.",
        LoadCount(3),
        ("tag",),
    ),
    Metric(
        "sinfonia_written_bytes_total",
        COUNTER,
        "Bytes that minitransactions wrote, by class tag.",
        LoadCount(4),
        ("tag",),
    ),
    Metric(
        "sinfonia_log_sync_seconds",
        HISTOGRAM,
        "How long the disk took to make the redo log stable.",
        Times("log_sync_seconds"),
    ),
    *metrics_of(member.MEMBER),
)

# --- managers ----------------------------------------------------------------------------------

MANAGER: tuple[Metric, ...] = (
    Metric(
        "sinfonia_manager_info",
        GAUGE,
        "Always 1: the name of the cluster, and what keeps its configuration.",
        Words((manager.CLUSTER, manager.STORE)),
        ("cluster", "store"),
    ),
    *metrics_of(manager.MANAGER),
)

# --- every process -----------------------------------------------------------------------------

FIGURES_AGE = Metric(
    "sinfonia_figures_age_seconds",
    GAUGE,
    "How old all other figures are; if it grows beyond seconds, the process stands still.",
    Elsewhere(),
)

# What memory nodes and managers both tell.
ADMISSION: tuple[Metric, ...] = metrics_of(listening.ADMISSION)

# What is known only as a scraper asks; but for the first, what prometheus-client tells of any
# process of Linux.
PROCESS: tuple[Metric, ...] = (
    FIGURES_AGE,
    Metric("process_cpu_seconds_total", COUNTER, "Processor time.", Elsewhere()),
    Metric("process_resident_memory_bytes", GAUGE, "Memory in use.", Elsewhere()),
    Metric(
        "process_virtual_memory_bytes",
        GAUGE,
        "Addresses reserved; of a memory node its capacity and more.",
        Elsewhere(),
    ),
    Metric("process_start_time_seconds", GAUGE, "When it started, since 1970.", Elsewhere()),
    Metric("process_open_fds", GAUGE, "File descriptors open.", Elsewhere()),
    Metric("process_max_fds", GAUGE, "How many it may have open.", Elsewhere()),
)

# --- clients -----------------------------------------------------------------------------------


class CountsMinitransactions(Protocol):
    """The counts of a client; see ClientStatistics."""

    @property
    def executed(self) -> int: ...
    @property
    def retried(self) -> int: ...
    @property
    def resent(self) -> int: ...
    @property
    def unknown(self) -> int: ...


class HasStatistics(Protocol):
    """A client: ``sinfonia.Cluster`` and ``sinfonia.BlockingCluster`` are."""

    @property
    def statistics(self) -> CountsMinitransactions: ...


CLIENT: tuple[Metric, ...] = metrics_of(client.CLIENT)


class _ClientCollector(Collector):
    def __init__(self, cluster: HasStatistics) -> None:
        self._cluster = cluster

    def collect(self) -> Iterable[Family]:
        counts = self._cluster.statistics
        given = Given(client.CLIENT)
        given[client.EXECUTED] = counts.executed
        given[client.RETRIED] = counts.retried
        given[client.RESENT] = counts.resent
        given[client.UNKNOWN] = counts.unknown
        return families(CLIENT, StatusSnapshot(0.0, None, "", well=True, figures=given.values))


def client_collector(cluster: HasStatistics) -> Collector:
    """The counts of a client, for the application's own registry::

        prometheus_client.REGISTRY.register(sinfonia.metrics.client_collector(cluster))

    It may be collected by another thread than the client's.
    """
    return _ClientCollector(cluster)


# --- the tables in words -----------------------------------------------------------------------


class MetricTable(NamedTuple):
    """The metrics of one kind of process; ``labels`` are those that all of them have."""

    process: str
    labels: tuple[str, ...]
    metrics: tuple[Metric, ...]


TABLES: tuple[MetricTable, ...] = (
    MetricTable(member.MEMBER.process, (NODE_LABEL,), MEMORY_NODE),
    MetricTable(manager.MANAGER.process, (), MANAGER),
    MetricTable(listening.ADMISSION.process, (), ADMISSION + PROCESS),
    MetricTable(client.CLIENT.process, (), CLIENT),
)

INTRODUCTION = """# Metrics

What the processes of a cluster tell Prometheus. This page is made from `sinfonia/figures/` and
`sinfonia/metrics/table.py` with `python -m sinfonia.metrics`, and a test compares the two. A
process leaves out the metrics that make no sense for it: a replica has no replicas, mode RAM has
no log. Counters begin at zero with each life of a process, or of the member in it.
"""


def document(introduction: str = INTRODUCTION, tables: Iterable[MetricTable] = TABLES) -> str:
    """``tables`` as a page of Markdown."""
    parts = [introduction]
    for process, common, metrics in tables:
        parts.append(f"\n## {process}\n\n| metric | type | labels | what |\n|---|---|---|---|\n")
        for metric in metrics:
            labels = ", ".join(f"`{label}`" for label in (*common, *metric.labels))
            parts.append(f"| `{metric.name}` | {metric.kind.value} | {labels} | {metric.help} |\n")
    return "".join(parts)
