"""Every metric is named once, here; what is not in this table is not exposed.

The names follow Prometheus: base units (bytes, seconds) at the end, ``_total`` for what only grows
within one life of a process.  Memory nodes' begin with ``sinfonia_``, managers' with
``sinfonia_manager_``, clients' with ``sinfonia_client_``; the labels of a metric are part of its
name.  A metric says where its samples come from, so that a figure of the status is turned into
samples by one line of this table and no code.

``python -m sinfonia.metrics`` prints the table as METRICS.md.
"""

from collections.abc import Iterable
from typing import Protocol

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from sinfonia.metrics.sources import (
    Elsewhere,
    Figure,
    Figures,
    Kind,
    LoadCount,
    Metric,
    OneOf,
    Times,
    Words,
    families,
)
from sinfonia.status_snapshot import StatusSnapshot

COUNTER, GAUGE, HISTOGRAM = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

# Words that protocol and memory node use for themselves; a test compares them.
STATES = ("starting", "catching up", "following", "settling", "serving", "over")
ROLES = ("starting", "primary", "replica")
PHASES = ("joining", "pulling", "resigning", "copying", "saving", "following")

# --- memory nodes ------------------------------------------------------------------------------

# All of a memory node's metrics have this label first: which memory node the member is of.
NODE_LABEL = "node"

MEMORY_NODE: tuple[Metric, ...] = (
    Metric(
        "sinfonia_state",
        GAUGE,
        "1 for the state in which the member is, 0 for the others.",
        OneOf("state", STATES),
        ("state",),
    ),
    Metric(
        "sinfonia_role",
        GAUGE,
        "1 for what the member is to its memory node, 0 for the others.",
        OneOf("role", ROLES),
        ("role",),
    ),
    Metric(
        "sinfonia_replica_phase",
        GAUGE,
        "1 for what a replica is about, 0 for the others.",
        OneOf("phase", PHASES),
        ("phase",),
    ),
    Metric(
        "sinfonia_member_info",
        GAUGE,
        "Always 1: the mode of the memory node, and which member this is.",
        Words(("mode", "identity")),
        ("mode", "identity"),
    ),
    Metric("sinfonia_capacity_bytes", GAUGE, "The address space.", Figure("capacity_bytes")),
    Metric("sinfonia_starts", GAUGE, "Which life of its data directory it is.", Figure("starts")),
    Metric(
        "sinfonia_incarnation",
        GAUGE,
        "Which life of the memory node it serves; a fail-over or a restart begins another.",
        Figure("incarnation"),
    ),
    Metric(
        "sinfonia_config_epoch",
        GAUGE,
        "The number of the configuration that it knows.",
        Figure("config_epoch"),
    ),
    Metric("sinfonia_epoch", GAUGE, "The epoch of tids.", Figure("epoch")),
    # What clients ask for.
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
    Metric("sinfonia_votes_total", COUNTER, "Votes, by vote.", Figures("votes_"), ("vote",)),
    Metric(
        "sinfonia_duplicates_total",
        COUNTER,
        "Requests that had been answered before and were not executed again.",
        Figure("duplicates"),
    ),
    Metric(
        "sinfonia_in_doubt",
        GAUGE,
        "Minitransactions with an OK vote whose outcome is not known here; they hold locks.",
        Figure("in_doubt"),
    ),
    Metric(
        "sinfonia_decided",
        GAUGE,
        "Committed minitransactions that some participant may still ask about.",
        Figure("decided"),
    ),
    Metric("sinfonia_lock_segments", GAUGE, "Ranges that are locked.", Figure("lock_segments")),
    Metric(
        "sinfonia_lock_waiters",
        GAUGE,
        "Minitransactions that stand in line for locks.",
        Figure("lock_waiters"),
    ),
    Metric(
        "sinfonia_lock_waits_total",
        COUNTER,
        "Minitransactions that ever stood in line for locks.",
        Figure("lock_waits"),
    ),
    Metric(
        "sinfonia_lock_waits_expired_total",
        COUNTER,
        "Those of them that waited in vain.",
        Figure("lock_waits_expired"),
    ),
    Metric("sinfonia_clients", GAUGE, "Clients that are remembered.", Figure("clients")),
    Metric(
        "sinfonia_hung_up_total",
        COUNTER,
        "How often it hung up on all connections: they took too much memory, or descriptors.",
        Figure("hung_up"),
    ),
    Metric(
        "sinfonia_clients_dropped_total",
        COUNTER,
        "Clients that were forgotten because they had heard everything, and others came.",
        Figure("clients_dropped"),
    ),
    Metric(
        "sinfonia_clients_turned_away_total",
        COUNTER,
        "Batches of new clients that were put off because too many others are remembered.",
        Figure("clients_turned_away"),
    ),
    Metric(
        "sinfonia_remembered",
        GAUGE,
        "Answers that clients may ask for again.",
        Figure("remembered"),
    ),
    Metric(
        "sinfonia_remembered_bytes",
        GAUGE,
        "Bytes of what was read in those answers, of large ones.",
        Figure("remembered_bytes"),
    ),
    Metric("sinfonia_watches", GAUGE, "Ranges that clients watch.", Figure("watches")),
    Metric(
        "sinfonia_turned_away_total",
        COUNTER,
        "Requests that were put off because their client had too much under way.",
        Figure("turned_away"),
    ),
    # The log.
    Metric("sinfonia_redo_log_bytes", GAUGE, "The redo log on disk.", Figure("log_bytes")),
    Metric(
        "sinfonia_logged_bytes_total",
        COUNTER,
        "Bytes of log records that this primary wrote.",
        Figure("logged_bytes"),
    ),
    Metric(
        "sinfonia_group_commits_total",
        COUNTER,
        "Times that everything logged was made stable at once.",
        Figure("syncs"),
    ),
    Metric(
        "sinfonia_log_sync_seconds",
        HISTOGRAM,
        "How long the disk took to make the redo log stable.",
        Times("log_sync_seconds"),
    ),
    Metric("sinfonia_checkpoints_total", COUNTER, "Checkpoints made.", Figure("checkpoints")),
    Metric(
        "sinfonia_scrubbed_bytes_total",
        COUNTER,
        "Bytes of image and log that were read to see whether they have rotted.",
        Figure("scrubbed_bytes"),
    ),
    Metric(
        "sinfonia_scrub_findings_total",
        COUNTER,
        "Pages and blocks that had rotted: look at the disk.",
        Figure("scrub_findings"),
    ),
    Metric(
        "sinfonia_scrub_repairs_total",
        COUNTER,
        "Pages and blocks that had rotted and were replaced from memory.",
        Figure("scrub_repairs"),
    ),
    Metric(
        "sinfonia_scrub_passes_total",
        COUNTER,
        "How often all of image and log was read through.",
        Figure("scrub_passes"),
    ),
    Metric(
        "sinfonia_scrub_pass_seconds",
        GAUGE,
        "How long the last full pass of the scrubber took; 0 before there was one.",
        Figure("scrub_pass_seconds"),
    ),
    Metric(
        "sinfonia_replayed_records_total",
        COUNTER,
        "Log records applied when the member started.",
        Figure("replayed_records"),
    ),
    Metric("sinfonia_last_record", GAUGE, "The last record logged.", Figure("last_record")),
    Metric(
        "sinfonia_stable_record",
        GAUGE,
        "The last record that is stable at this member.",
        Figure("stable_record"),
    ),
    Metric(
        "sinfonia_committed_record",
        GAUGE,
        "The last record that is stable at every in-sync member, as far as this one knows.",
        Figure("committed_record"),
    ),
    Metric(
        "sinfonia_applied_record",
        GAUGE,
        "The last record that memory shows.",
        Figure("applied_record"),
    ),
    # Replication.
    Metric("sinfonia_replicas", GAUGE, "Replicas of this primary.", Figure("replicas_known")),
    Metric(
        "sinfonia_replicas_in_sync",
        GAUGE,
        "Replicas that could take over from this primary.",
        Figure("in_sync_replicas"),
    ),
    Metric(
        "sinfonia_replica_behind_records",
        GAUGE,
        "Records that a replica of this primary has not acknowledged.",
        Figures("records_behind_"),
        ("replica",),
    ),
    Metric(
        "sinfonia_damaged",
        GAUGE,
        "1 while a member's data is not to be trusted, so that it is to be filled from a copy.",
        Figure("damaged"),
    ),
    Metric(
        "sinfonia_repairs_total",
        COUNTER,
        "How often damaged data was replaced by a copy of an in-sync member's.",
        Figure("repairs"),
    ),
    Metric(
        "sinfonia_unproven_replicas",
        GAUGE,
        "In-sync replicas that restarted and may not take over before they have joined again.",
        Figure("unproven_replicas"),
    ),
    Metric(
        "sinfonia_catching_up",
        GAUGE,
        "1 for a replica that could not take over.",
        Figure("catching_up"),
    ),
    Metric(
        "sinfonia_replies_waiting",
        GAUGE,
        "Batches of replies of this primary that wait for its replicas.",
        Figure("replies_waiting"),
    ),
    Metric(
        "sinfonia_ack_seconds",
        GAUGE,
        "How long a replica of this primary took lately to acknowledge, on average.",
        Figures("ack_seconds_"),
        ("replica",),
    ),
    Metric(
        "sinfonia_replicas_dropped_slow_total",
        COUNTER,
        "Replicas that this primary gave up for being slow, each time.",
        Figure("replicas_dropped_slow"),
    ),
    Metric(
        "sinfonia_paced_seconds_total",
        COUNTER,
        "For how long this primary held back answers to writers, so that a replica catches up.",
        Figure("paced_seconds"),
    ),
    Metric(
        "sinfonia_copies_begun_total",
        COUNTER,
        "How often this replica began to copy the image of its primary.",
        Figure("copies_begun"),
    ),
    Metric(
        "sinfonia_copied_out_bytes_total",
        COUNTER,
        "Bytes sent to replicas and backups that copy.",
        Figure("copied_out_bytes"),
    ),
    Metric(
        "sinfonia_copied_in_bytes_total",
        COUNTER,
        "Bytes of its primary's image that this replica copied.",
        Figure("copied_bytes"),
    ),
)

# --- managers ----------------------------------------------------------------------------------

MANAGER: tuple[Metric, ...] = (
    Metric(
        "sinfonia_manager_info",
        GAUGE,
        "Always 1: the cluster's name, and where the manager keeps what it knows.",
        Words(("cluster", "store")),
        ("cluster", "store"),
    ),
    Metric("sinfonia_manager_leading", GAUGE, "1 if it leads.", Figure("leading")),
    Metric("sinfonia_manager_epoch", GAUGE, "The epoch of tids.", Figure("epoch")),
    Metric(
        "sinfonia_manager_directory_version",
        GAUGE,
        "The number of the directory that it knows; every change adds one.",
        Figure("directory_version"),
    ),
    Metric(
        "sinfonia_manager_memory_nodes",
        GAUGE,
        "Memory nodes in the directory.",
        Figure("memory_nodes"),
    ),
    Metric(
        "sinfonia_manager_memory_nodes_serving",
        GAUGE,
        "Memory nodes that serve, as far as it knows; of a manager that does not stand by.",
        Figure("memory_nodes_serving"),
    ),
    Metric(
        "sinfonia_manager_members",
        GAUGE,
        "Processes that are members of a memory node.",
        Figure("members"),
    ),
    Metric(
        "sinfonia_manager_members_alive",
        GAUGE,
        "Members that answered a probe lately.",
        Figure("members_alive"),
    ),
    Metric("sinfonia_manager_probes_total", COUNTER, "Probes sent to members.", Figure("probes")),
    Metric(
        "sinfonia_manager_unsettled",
        GAUGE,
        "Minitransactions whose outcome not all participants know, as far as memory nodes say.",
        Figure("unsettled"),
    ),
    Metric(
        "sinfonia_manager_recoveries",
        GAUGE,
        "Minitransactions that it is settling.",
        Figure("recoveries"),
    ),
    Metric(
        "sinfonia_manager_behind_members",
        GAUGE,
        "Memory nodes of which a member knows a later configuration: the store is an older copy.",
        Figure("behind_members"),
    ),
    Metric(
        "sinfonia_manager_recovered_total",
        COUNTER,
        "Minitransactions that it settled.",
        Figure("recovered"),
    ),
    Metric(
        "sinfonia_manager_fail_overs_total",
        COUNTER,
        "Dead primaries that it replaced.",
        Figure("fail_overs"),
    ),
    Metric(
        "sinfonia_manager_reboots_total",
        COUNTER,
        "Primaries that began another life.",
        Figure("reboots"),
    ),
    Metric(
        "sinfonia_manager_whole_system_recoveries_total",
        COUNTER,
        "Times that it settled everything after the whole system had crashed.",
        Figure("whole_system_recoveries"),
    ),
    Metric(
        "sinfonia_manager_settled_in_bulk_total",
        COUNTER,
        "Minitransactions that it settled after the whole system had crashed.",
        Figure("settled_in_bulk"),
    ),
    Metric(
        "sinfonia_manager_pinned",
        GAUGE,
        "Minitransactions that must be remembered because this memory node is silent.",
        Figures("pinned_by_node"),
        (NODE_LABEL,),
    ),
)

# --- every process -----------------------------------------------------------------------------

FIGURES_AGE = Metric(
    "sinfonia_figures_age_seconds",
    GAUGE,
    "How old all other figures are; if it grows beyond seconds, the process stands still.",
    Elsewhere(),
)

# What is told by memory nodes and managers alike.
ADMISSION: tuple[Metric, ...] = (
    Metric(
        "sinfonia_undelivered_replies_total",
        COUNTER,
        "Batches of replies whose reader was gone or did not read.",
        Figure("undelivered"),
    ),
    Metric(
        "sinfonia_malformed_messages_total",
        COUNTER,
        "Messages that made no sense and were dropped.",
        Figure("malformed"),
    ),
    Metric(
        "sinfonia_refused_total",
        COUNTER,
        "Handshakes and messages refused, their senders not being allowed them.",
        Figure("refused"),
    ),
)

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


CLIENT: tuple[Metric, ...] = (
    Metric(
        "sinfonia_client_executed_total",
        COUNTER,
        "Minitransactions whose outcome became known.",
        Figure("executed"),
    ),
    Metric(
        "sinfonia_client_retried_total",
        COUNTER,
        "Busy locks met, and tried again.",
        Figure("retried"),
    ),
    Metric(
        "sinfonia_client_resent_total",
        COUNTER,
        "Requests sent again because no reply came.",
        Figure("resent"),
    ),
    Metric(
        "sinfonia_client_unknown_total",
        COUNTER,
        "Minitransactions whose outcome was left unknown.",
        Figure("unknown"),
    ),
)


class _ClientCollector(Collector):
    def __init__(self, cluster: HasStatistics) -> None:
        self._cluster = cluster

    def collect(self) -> Iterable[Family]:
        counts = self._cluster.statistics
        figures = {
            "executed": counts.executed,
            "retried": counts.retried,
            "resent": counts.resent,
            "unknown": counts.unknown,
        }
        return families(CLIENT, StatusSnapshot(0.0, None, "", well=True, figures=figures))


def client_collector(cluster: HasStatistics) -> Collector:
    """The counts of a client, for the application's own registry::

        prometheus_client.REGISTRY.register(sinfonia.metrics.client_collector(cluster))

    It may be collected by another thread than the client's.
    """
    return _ClientCollector(cluster)


# --- the table in words ------------------------------------------------------------------------

TABLES: tuple[tuple[str, tuple[str, ...], tuple[Metric, ...]], ...] = (
    ("Members of memory nodes", (NODE_LABEL,), MEMORY_NODE),
    ("Managers", (), MANAGER),
    ("Every process", (), ADMISSION + PROCESS),
    ("Application programs, with `sinfonia.metrics.client_collector`", (), CLIENT),
)

_INTRODUCTION = """# Metrics

What the processes of a cluster tell Prometheus. `sinfonia/metrics/table.py` is the source; this
page is made from it with `python -m sinfonia.metrics`, and a test compares the two. Metrics that
make no sense for a process are left out by it: a replica has no replicas, mode RAM has no log.
Counters begin at zero with each life of a process, or of the member in it.
"""


def document() -> str:
    """The table as Markdown."""
    parts = [_INTRODUCTION]
    for title, common, metrics in TABLES:
        parts.append(f"\n## {title}\n\n| metric | type | labels | what |\n|---|---|---|---|\n")
        for metric in metrics:
            labels = ", ".join(f"`{label}`" for label in (*common, *metric.labels))
            parts.append(f"| `{metric.name}` | {metric.kind.value} | {labels} | {metric.help} |\n")
    return "".join(parts)
