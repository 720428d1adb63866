"""Commands on a whole cluster.

What `up` and `down` say is what happened: `up` returns when every process serves, `down` when every
process has ended.
"""

import json
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sinfonia.addresses import MemoryNodeId
from sinfonia.cli.arguments import (
    cluster_argument,
    cluster_or_default,
    directory_argument,
    json_option,
    parse_size_option,
    table_console,
)
from sinfonia.cli.cluster_status import SERVING, ClusterStatus, look_at
from sinfonia.cli.local_cluster import LocalCluster
from sinfonia.client.seed import DEFAULT_PORT, ask
from sinfonia.config import CONFIG_FILE, format_size, resolve_endpoint
from sinfonia.errors import ConfigError
from sinfonia.memnode.node import MODES
from sinfonia.protocol.messages import Recreate, Recreated

MEMORY_NODES_DEFAULT = 3
MODE_DEFAULT = "LOG"
CAPACITY_DEFAULT = 1 << 30


@click.command()
@directory_argument
@click.option(
    "--memory-nodes",
    type=click.IntRange(1, 64),
    help=f"How many.  [default: {MEMORY_NODES_DEFAULT}]",
)
@click.option(
    "--mode",
    type=click.Choice(MODES),
    help=f"LOG keeps data over crashes, RAM does not.  [default: {MODE_DEFAULT}]",
)
@click.option(
    "--capacity",
    type=parse_size_option,
    metavar="SIZE",
    help="Addresses of each memory node.  [default: 1GiB]",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    help=f"The manager's; memory nodes take the following ones.  [default: {DEFAULT_PORT}]",
)
def up(
    directory: Path,
    memory_nodes: int | None,
    mode: str | None,
    capacity: int | None,
    port: int | None,
) -> None:
    """Start a cluster on this machine, with all it has in DIR.

    If there is one in DIR already, start what is not running of it: the whole cluster after
    `sinfonia down` or a reboot, or one memory node that was killed.
    """
    if (directory / CONFIG_FILE).exists():
        cluster = LocalCluster(directory)
        _refuse_changes(cluster, memory_nodes, mode, capacity, port)
    else:
        first = port or DEFAULT_PORT
        count = memory_nodes or MEMORY_NODES_DEFAULT
        cluster = LocalCluster.create(
            directory,
            memory_nodes=count,
            mode=mode or MODE_DEFAULT,
            capacity=capacity or CAPACITY_DEFAULT,
            ports=range(first, first + count + 1),
        )
    console = Console(stderr=True)
    started = _start(cluster, console)
    if not started:
        click.echo(f"Cluster {cluster.config.cluster!r} was up already.")
    _print_cluster(cluster, directory)


@click.command()
@directory_argument
def down(directory: Path) -> None:
    """Stop the cluster in DIR.

    Each process is asked to end, and killed only if it does not.  The data stays, for the next
    `sinfonia up`; but memory nodes in mode RAM lose theirs.
    """
    cluster = LocalCluster(directory)
    running = cluster.running
    if not running:
        click.echo(f"Cluster {cluster.config.cluster!r} was not running.")
        return
    killed = cluster.stop()
    for name in killed:
        click.echo(f"{name} did not end when asked, and was killed.", err=True)
    click.echo(f"Cluster {cluster.config.cluster!r} is down: {', '.join(running)} ended.")


@click.command()
@cluster_or_default
@json_option
def status(cluster: str, *, as_json: bool) -> None:
    """Show how each process of CLUSTER is.

    Exit code 1 if not all of them serve.
    """
    found = look_at(cluster)
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
    else:
        _print_status(found)
    if not found.healthy:
        click.get_current_context().exit(1)


@click.command()
@cluster_argument
@click.argument("node", type=click.IntRange(0))
@click.confirmation_option(prompt="What this memory node held will be given up for good. Go on?")
def recreate(cluster: str, node: int) -> None:
    """Let memory node NODE of CLUSTER begin anew, empty.

    For a memory node whose data is lost: one in mode RAM that has restarted, or one whose disk is
    gone.  Whoever registers next as this memory node is let in, with whatever data it has.
    """
    answer = ask(resolve_endpoint(cluster), Recreate(MemoryNodeId(node)), Recreated)
    assert isinstance(answer, Recreated)
    if answer.refusal:
        raise ConfigError(answer.refusal)
    click.echo(
        f"Memory node {node} may begin anew: start it, with `sinfonia up` if it is on this machine."
    )


def _refuse_changes(
    cluster: LocalCluster,
    memory_nodes: int | None,
    mode: str | None,
    capacity: int | None,
    port: int | None,
) -> None:
    """An option that says something else than the cluster is must not pass silently."""
    nodes = cluster.config.memory_node
    manager_port = int(cluster.endpoint.rpartition(":")[2])
    for option, wanted, actual in (
        ("--memory-nodes", memory_nodes, {len(nodes)}),
        ("--mode", mode, {node.mode for node in nodes}),
        ("--capacity", capacity, {int(node.capacity) for node in nodes}),
        ("--port", port, {manager_port}),
    ):
        if wanted is not None and {wanted} != actual:
            has = ", ".join(map(str, actual))
            raise ConfigError(
                f"{option} {wanted}: the cluster in {cluster.directory} was made with {has}; "
                "leave the option out, or make another cluster in another directory"
            )


def _start(cluster: LocalCluster, console: Console) -> list[str]:
    total = len(cluster.endpoints)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    silent = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=silent) as progress:
        task = progress.add_task("starting", total=total, completed=len(cluster.running))

        def on_serving(name: str) -> None:
            progress.update(task, advance=1, description=f"{name} serves")

        return cluster.start(on_serving=on_serving)


def _print_cluster(cluster: LocalCluster, directory: Path) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("PROCESS", "ENDPOINT", "PID", "LOG"):
        table.add_column(column, no_wrap=True)
    running = cluster.running
    for name, endpoint in cluster.endpoints.items():
        pid = str(running[name].pid) if name in running else "-"
        table.add_row(name, endpoint, pid, str(directory / "log" / f"{name}.log"))
    first = cluster.config.memory_node[0]
    click.echo(
        f"Cluster {cluster.config.cluster!r} serves at {cluster.endpoint}: "
        f"{len(cluster.config.memory_node)} memory nodes of {format_size(first.capacity)}, "
        f"mode {first.mode}.\n"
    )
    table_console().print(table)
    click.echo(
        f"""
Try:
  sinfonia put {directory} 0:100 text:hello     five bytes at address 100 of memory node 0
  sinfonia get {directory} 0:100+5
  sinfonia status {directory}
  sinfonia down {directory}"""
    )


def _print_status(status: ClusterStatus) -> None:
    table = Table(box=None, pad_edge=False)
    columns = ("PROCESS", "STATE", "ENDPOINT", "MODE", "CAPACITY", "IN DOUBT", "COMMITTED", "LOG")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for process in status.processes:
        figures = process.figures
        capacity, log = figures.get("capacity_bytes"), figures.get("log_bytes")
        table.add_row(
            process.name,
            process.state if process.state == SERVING else f"[bold red]{process.state}[/]",
            process.endpoint,
            str(figures.get("mode", "")),
            format_size(capacity) if isinstance(capacity, int) else "",
            str(figures.get("in_doubt", "")),
            str(figures.get("votes_ok", "")),
            f"{log / 2**20:.1f}MiB" if isinstance(log, int) else "",
        )
    click.echo(f"Cluster {status.cluster!r}")
    table_console().print(table)
