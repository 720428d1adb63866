"""The figures of a manager."""

from sinfonia.figures.figure import (
    ACTIVE_MANAGERS,
    MANAGERS,
    FigureFamily,
    Kind,
    counter,
    gauge,
    word,
)
from sinfonia.figures.tables import FigureTable, register

CLUSTER = word("cluster", MANAGERS, "The name of the cluster.")

STORE = word("store", MANAGERS, "What keeps the configuration: a file or etcd.")

LEADER = word(
    "leader",
    MANAGERS,
    "The address of the manager that leads, as far as this one knows.",
)

LEADING = gauge("leading", "sinfonia_manager_leading", MANAGERS, "1 if it leads.")

EPOCH = gauge("epoch", "sinfonia_manager_epoch", MANAGERS, "The epoch of tids.")

DIRECTORY_VERSION = gauge(
    "directory_version",
    "sinfonia_manager_directory_version",
    MANAGERS,
    "The number of the directory that it knows; every change adds one.",
)

MEMORY_NODES = gauge(
    "memory_nodes",
    "sinfonia_manager_memory_nodes",
    MANAGERS,
    "Memory nodes in the directory.",
)

MEMORY_NODES_SERVING = gauge(
    "memory_nodes_serving",
    "sinfonia_manager_memory_nodes_serving",
    ACTIVE_MANAGERS,
    "Memory nodes that serve, as far as it knows; of a manager that does not stand by.",
)

MEMBERS = gauge(
    "members",
    "sinfonia_manager_members",
    ACTIVE_MANAGERS,
    "Processes that are members of a memory node.",
)

MEMBERS_ALIVE = gauge(
    "members_alive",
    "sinfonia_manager_members_alive",
    ACTIVE_MANAGERS,
    "Members that answered a probe lately.",
)

PROBES = counter("probes", "sinfonia_manager_probes_total", MANAGERS, "Probes sent to members.")

UNSETTLED = gauge(
    "unsettled",
    "sinfonia_manager_unsettled",
    ACTIVE_MANAGERS,
    "Minitransactions whose outcome not all participants know, as far as memory nodes say.",
)

RECOVERIES = gauge(
    "recoveries",
    "sinfonia_manager_recoveries",
    MANAGERS,
    "Minitransactions that it is settling.",
)

BEHIND_MEMBERS = gauge(
    "behind_members",
    "sinfonia_manager_behind_members",
    MANAGERS,
    "Memory nodes of which a member knows a later configuration: the store is an older copy.",
)

RECOVERED = counter(
    "recovered",
    "sinfonia_manager_recovered_total",
    MANAGERS,
    "Minitransactions that it settled.",
)

FAIL_OVERS = counter(
    "fail_overs",
    "sinfonia_manager_fail_overs_total",
    MANAGERS,
    "Dead primaries that it replaced.",
)

REBOOTS = counter(
    "reboots",
    "sinfonia_manager_reboots_total",
    MANAGERS,
    "Primaries that began another life.",
)

WHOLE_SYSTEM_RECOVERIES = counter(
    "whole_system_recoveries",
    "sinfonia_manager_whole_system_recoveries_total",
    MANAGERS,
    "Times that it settled everything after the whole system had crashed.",
)

SETTLED_IN_BULK = counter(
    "settled_in_bulk",
    "sinfonia_manager_settled_in_bulk_total",
    MANAGERS,
    "Minitransactions that it settled after the whole system had crashed.",
)

PINNED = FigureFamily(
    prefix="pinned_by_node",
    label="node",
    type=int,
    kind=Kind.GAUGE,
    help="Minitransactions that must be remembered because this memory node is silent.",
    roles=MANAGERS,
    metric="sinfonia_manager_pinned",
    column="PINNED",
)

MANAGER = register(
    FigureTable(
        "core",
        "Managers",
        CLUSTER,
        STORE,
        LEADER,
        LEADING,
        EPOCH,
        DIRECTORY_VERSION,
        MEMORY_NODES,
        MEMORY_NODES_SERVING,
        MEMBERS,
        MEMBERS_ALIVE,
        PROBES,
        UNSETTLED,
        RECOVERIES,
        BEHIND_MEMBERS,
        RECOVERED,
        FAIL_OVERS,
        REBOOTS,
        WHOLE_SYSTEM_RECOVERIES,
        SETTLED_IN_BULK,
        PINNED,
    )
)
