"""What people see of a cluster: its processes, its memory nodes, and what is wrong, in words."""

from collections.abc import Iterator

from rich.table import Table

from sinfonia.config import format_size
from sinfonia.figures import manager, member
from sinfonia.operating.cluster_status import (
    MANAGES,
    ClusterStatus,
    MemoryNodeStatus,
    ProcessStatus,
    ReplicaStatus,
    leads,
)

# `status --help` explains each column.
PROCESS_COLUMNS = ("PROCESS", "STATE", "ROLE", "ENDPOINT", "SYNC", member.LOG_BYTES.column)
MEMORY_NODE_COLUMNS = (
    "NODE",
    "PRIMARY",
    "REPLICAS",
    "CONFIG",
    "MODE",
    "CAPACITY",
    member.IN_DOUBT.column,
    manager.PINNED.column,
    member.CLIENTS.column,
    member.VOTES_OK.column,
)


def process_table(status: ClusterStatus) -> Table:
    """A row for each process; how often members were repaired is shown if any was."""
    repaired = any(process.repairs for process in status.processes)
    table = _table((*PROCESS_COLUMNS, member.REPAIRS.column) if repaired else PROCESS_COLUMNS)
    for process in status.processes:
        table.add_row(
            process.name,
            process.state if process.well else f"[bold red]{process.state}[/]",
            role(process),
            process.endpoint,
            _sync(process, status.memory_nodes),
            bytes_of(member.LOG_BYTES.read(process.figures)),
            *([str(process.repairs)] if repaired else []),
        )
    return table


def memory_node_table(status: ClusterStatus) -> Table:
    """A row for each memory node."""
    table = _table(MEMORY_NODE_COLUMNS)
    names = {process.endpoint: process.name for process in status.processes}
    for node in status.memory_nodes:
        in_sync = sum(replica.in_sync for replica in node.replicas)
        table.add_row(
            str(node.node),
            names.get(node.primary, node.primary) or "[bold red]none[/]",
            f"{in_sync} of {node.replicas_wanted} in sync" if node.replicas_wanted else "",
            str(node.config_epoch),
            node.mode,
            format_size(node.capacity_bytes),
            "" if node.in_doubt is None else str(node.in_doubt),
            str(node.pinned),
            "" if node.clients is None else str(node.clients),
            "" if node.executed is None else str(node.executed),
        )
    return table


def role(process: ProcessStatus) -> str:
    """What a process is to the others."""
    if process.role == MANAGES:
        return "leader" if leads(process) else ""
    return process.role


def progress_of(replica: ReplicaStatus) -> str:
    """How far a replica is."""
    if replica.in_sync:
        return "in sync"
    if replica.records_behind is None or replica.percent is None:
        return "not in sync"
    copied = f", {bytes_of(replica.copied_bytes)} copied" if replica.copied_bytes else ""
    # Never 100: it is not in sync.
    percent = int(min(replica.percent, 99))
    return f"{replica.records_behind} records behind ({percent} %{copied})"


def bytes_of(size: int | None) -> str:
    """A size as people read it."""
    return "" if size is None else f"{size / 2**20:.1f}MiB"


def problem_lines(status: ClusterStatus) -> Iterator[str]:
    """What is wrong, if anything is."""
    if not status.healthy:
        yield ""
    for problem in status.problems:
        yield f"! {problem}"


def _sync(process: ProcessStatus, nodes: list[MemoryNodeStatus]) -> str:
    replicas = [replica for node in nodes for replica in node.replicas]
    return next(
        (progress_of(replica) for replica in replicas if replica.endpoint == process.endpoint), ""
    )


def _table(columns: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table
