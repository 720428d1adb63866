"""Commands on a whole cluster.

What `up` and `down` say is what happened: `up` succeeds when every process serves or follows in
sync, and else names those that do not; `down` returns when every process has ended.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sinfonia.cli.arguments import (
    cluster_argument,
    cluster_or_default,
    directory_argument,
    json_option,
    parse_size_option,
)
from sinfonia.cli.reaching import reached
from sinfonia.cli.status_tables import memory_node_table, problem_lines, process_table
from sinfonia.config import CONFIG_FILE, MODES, count_of, format_size
from sinfonia.endpoints import DEFAULT_PORT
from sinfonia.errors import ConfigError
from sinfonia.operating.actions import RecreateMemoryNode
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.operating.local_description import port_of, ports_needed
from sinfonia.operating.tables import table_console
from sinfonia.protocol.membership.configuration import REPLICAS_MAX, keeps_replicas

MEMORY_NODES_DEFAULT = 3
MODE_DEFAULT = "LOG"
CAPACITY_DEFAULT = 1 << 30


@click.command(short_help="Start a cluster here, or its processes that are down.")
@directory_argument
@click.option(
    "--memory-nodes",
    type=click.IntRange(1, 64),
    help=f"Number of memory nodes.  [default: {MEMORY_NODES_DEFAULT}]",
)
@click.option(
    "--mode",
    type=click.Choice(MODES),
    help=f"What keeps the data: RAM loses it in a crash, LOG and NVRAM do not.  "
    f"[default: {MODE_DEFAULT}]",
)
@click.option(
    "--replicas",
    type=click.IntRange(0, REPLICAS_MAX),
    help="Replicas of each memory node, in the modes with -REPL.  [default: 1 in these]",
)
@click.option(
    "--capacity",
    type=parse_size_option,
    metavar="SIZE",
    help="Size of the address space of each memory node.  [default: 1GiB]",
)
@click.option("--managers", type=click.IntRange(1, 9), help="Number of managers.  [default: 1]")
@click.option(
    "--etcd",
    multiple=True,
    metavar="URL",
    help="Address of each etcd that keeps the managers' store.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    help=f"Port of the manager; other processes take the next ones.  [default: {DEFAULT_PORT}]",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65_535),
    metavar="PORT",
    help="Port at which the manager answers Prometheus; other processes take the next ones.  "
    "[default: no metrics]",
)
@click.option("--secure", is_flag=True, help="Make keys; no peer connects without one.")
@json_option
def up(
    *,
    directory: Path,
    memory_nodes: int | None,
    mode: str | None,
    replicas: int | None,
    capacity: int | None,
    managers: int | None,
    etcd: tuple[str, ...],
    port: int | None,
    metrics_port: int | None,
    secure: bool,
    as_json: bool,
) -> None:
    """Start a cluster on this machine, with all it has in DIR.

    If there is one in DIR already, start what is not running of it: the whole cluster after
    `sinfonia down` or a reboot, or one process that was killed.  Nothing is started if another
    process, as of another cluster, holds one of the ports.

    If a process refuses to start, as when its data is damaged, the others are started all the same
    and left running; the exit code is 1, and the error says which it is and what to do.

    \b
        sinfonia up demo
        sinfonia up demo --mode LOG-REPL --replicas 1
        sinfonia up demo --managers 3 --etcd http://127.0.0.1:2379
        sinfonia up demo --secure
        sinfonia up demo --metrics-port 7100
    """
    if (directory / CONFIG_FILE).exists():
        cluster = LocalCluster(directory)
        _refuse_changes(
            cluster,
            {
                "--memory-nodes": memory_nodes,
                "--mode": mode,
                "--replicas": replicas,
                "--capacity": capacity,
                "--managers": managers,
                "--etcd": ",".join(etcd) or None,
                "--port": port,
                "--metrics-port": metrics_port,
                "--secure": secure or None,
            },
        )
    else:
        mode = mode or MODE_DEFAULT
        cluster = _create(
            directory,
            memory_nodes=memory_nodes or MEMORY_NODES_DEFAULT,
            mode=mode,
            replicas=int(keeps_replicas(mode)) if replicas is None else replicas,
            capacity=capacity or CAPACITY_DEFAULT,
            managers=managers or 1,
            etcd=etcd,
            port=port or DEFAULT_PORT,
            metrics_port=metrics_port,
            secure=secure,
        )
    started = start_showing_progress(cluster)
    _print_started(cluster, directory, started, as_json=as_json)


@click.command(short_help="Stop a cluster on this machine.")
@directory_argument
@json_option
def down(directory: Path, *, as_json: bool) -> None:
    """Stop the cluster in DIR.

    Each process is asked to end, and killed only if it does not.  The data stays, for the next
    `sinfonia up`; but memory nodes in the modes RAM and RAM-REPL lose theirs.
    """
    cluster = LocalCluster(directory)
    running = list(cluster.running)
    killed = cluster.stop() if running else []
    if as_json:
        click.echo(json.dumps({"ended": running, "killed": killed}, indent=2))
        return
    if not running:
        click.echo(f"Cluster {cluster.config.cluster!r} was not running.")
        return
    for name in killed:
        click.echo(f"{name} did not end when asked, and was killed.", err=True)
    click.echo(f"Cluster {cluster.config.cluster!r} is down: {', '.join(running)} ended.")


@click.command(short_help="Show how each process and memory node is.")
@cluster_or_default
@json_option
def status(cluster: str, *, as_json: bool) -> None:
    """Show how each process and each memory node of CLUSTER is.

    Exit code 1 if not all of them serve, or a replica is not in sync.

    \b
    Of each process:
      PROCESS    its name
      STATE      serving, following, catching up, ...; silent: runs and does not answer
      ROLE       leader (of several managers), primary or replica
      ENDPOINT   where it answers
      SYNC       of a replica: in sync, or how far it is behind its primary
      LOG        size of its redo log
      REPAIRS    how often a copy replaced damaged data; only shown if that happened

    \b
    Of each memory node:
      NODE       its number, as in NODE:OFFSET
      PRIMARY    the process that serves it
      REPLICAS   how many replicas are in sync, of how many there shall be
      CONFIG     counts changes of its primary and replicas (configuration epoch)
      MODE       what keeps its data: RAM, LOG, NVRAM, and -REPL with replicas
      CAPACITY   how many bytes can be addressed
      IN DOUBT   minitransactions that it voted for and whose outcome it does not know
      PINNED     minitransactions that others must remember because it is silent
      CLIENTS    clients that it remembers answers for
      COMMITTED  minitransactions that it voted for since its primary started
    """
    found = reached(cluster).status()
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
    else:
        click.echo(f"Cluster {found.cluster!r}")
        table_console().print(process_table(found), "", memory_node_table(found), sep="\n")
        for line in problem_lines(found):
            click.echo(line)
    if not found.healthy:
        click.get_current_context().exit(1)


@click.command(short_help="Let a memory node begin anew, empty.")
@cluster_argument
@click.argument("node", type=click.IntRange(0))
@click.confirmation_option(prompt="What this memory node held will be lost. Go on?")
def recreate(cluster: str, node: int) -> None:
    """Let memory node NODE of CLUSTER begin anew, empty.

    For a memory node whose data is lost: one in mode RAM that has restarted, or one whose disk is
    gone.  The next process that registers as this memory node is let in, whatever data it has.
    """
    click.echo(reached(cluster).operate(RecreateMemoryNode(node)).message)


def _create(
    directory: Path,
    *,
    memory_nodes: int,
    mode: str,
    replicas: int,
    capacity: int,
    managers: int,
    etcd: Sequence[str],
    port: int,
    metrics_port: int | None,
    secure: bool,
) -> LocalCluster:
    processes = ports_needed(memory_nodes, replicas, managers)
    metrics_ports = () if metrics_port is None else range(metrics_port, metrics_port + processes)
    return LocalCluster.create(
        directory,
        memory_nodes=memory_nodes,
        mode=mode,
        replicas=replicas,
        capacity=capacity,
        managers=managers,
        etcd=etcd,
        ports=range(port, port + processes),
        metrics_ports=metrics_ports,
        secure=secure,
    )


def _refuse_changes(cluster: LocalCluster, options: Mapping[str, object]) -> None:
    """An option that says something else than the cluster is must not pass silently."""
    config = cluster.config
    nodes = config.memory_node
    metrics = config.manager[0].metrics
    actual: dict[str, set[object]] = {
        "--memory-nodes": {len(nodes)},
        "--mode": {node.mode for node in nodes},
        "--replicas": {len(node.replica) for node in nodes},
        "--capacity": {int(node.capacity) for node in nodes},
        "--managers": {len(config.manager)},
        "--etcd": {",".join(config.etcd.endpoints) if config.etcd is not None else "no etcd"},
        "--port": {port_of(config.manager[0].endpoint)},
        "--metrics-port": {port_of(metrics) if metrics else "no metrics"},
        "--secure": {bool(config.security.keys)},
    }
    for option, wanted in options.items():
        if wanted is not None and {wanted} != actual[option]:
            has = ", ".join(map(str, actual[option]))
            raise ConfigError(
                f"{option} {wanted}: the cluster in {cluster.directory} was made with {has}; "
                "leave the option out, or make another cluster in another directory"
            )


def start_showing_progress(cluster: LocalCluster, names: Sequence[str] = ()) -> list[str]:
    """Start ``names`` (default: all) as far as they do not run; returns what was started."""
    console = Console(stderr=True)
    total = len(names or cluster.endpoints)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    silent = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=silent) as progress:
        run = sum(name in cluster.running for name in names or cluster.endpoints)
        task = progress.add_task("starting", total=total, completed=run)

        def on_serving(name: str) -> None:
            progress.update(task, advance=1, description=f"{name} serves")

        return cluster.start(names, on_serving=on_serving, go_on=True)


def _print_started(
    cluster: LocalCluster, directory: Path, started: Sequence[str], *, as_json: bool
) -> None:
    ran = [name for name in cluster.running if name not in started]
    if as_json:
        pids = {name: process.pid for name, process in cluster.running.items()}
        found = {"cluster": cluster.config.cluster, "endpoint": cluster.endpoint}
        click.echo(
            json.dumps(
                {**found, "started": started, "ran_already": ran, "processes": pids}, indent=2
            )
        )
        return
    if not started:
        click.echo(f"Cluster {cluster.config.cluster!r} was up already.")
    else:
        click.echo(f"Started: {', '.join(started)}.")
        if ran:
            click.echo(f"Ran already: {', '.join(ran)}.")
    _print_cluster(cluster, directory)


def _print_cluster(cluster: LocalCluster, directory: Path) -> None:
    table = Table(box=None, pad_edge=False)
    processes = cluster.config.processes
    metrics = ("METRICS",) if any(process.metrics for process in processes) else ()
    for column in ("PROCESS", "ENDPOINT", "PID", "LOG", *metrics):
        table.add_column(column, no_wrap=True)
    running = cluster.running
    for process in processes:
        name = process.name
        pid = str(running[name].pid) if name in running else "-"
        page = (f"http://{process.metrics}/metrics" if process.metrics else "-",) if metrics else ()
        table.add_row(name, process.endpoint, pid, str(directory / "log" / f"{name}.log"), *page)
    first = cluster.config.memory_node[0]
    replicas = f", replicas of each: {len(first.replica)}" if first.replica else ""
    click.echo(
        f"Cluster {cluster.config.cluster!r} serves at {cluster.endpoint}: "
        f"{count_of(len(cluster.config.memory_node), 'memory node')} of "
        f"{format_size(first.capacity)}"
        f"{replicas}, mode {first.mode}.\n"
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
