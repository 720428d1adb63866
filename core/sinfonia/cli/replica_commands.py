"""Commands that change a running cluster: they show what they wait for, and say what became of it.

After an interruption the operator may say the same again; what is done is not done a second time.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sinfonia.cli.arguments import (
    cluster_argument,
    directory_argument,
    json_option,
    parse_size_option,
)
from sinfonia.cli.reaching import reached
from sinfonia.cli.status_tables import progress_of
from sinfonia.operating.actions import (
    Action,
    AddMemoryNode,
    AddReplica,
    DrainHost,
    MoveMember,
    Promote,
    RemoveReplica,
)
from sinfonia.operating.cluster_status import ClusterStatus
from sinfonia.protocol.membership.configuration import REPLICAS_MAX

node_argument = click.argument("node", type=click.IntRange(0))
timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Wait no longer than this; what was begun goes on.  [default: until it is done]",
)
to_option = click.option(
    "--to",
    metavar="ENDPOINT",
    help="Address of the new member; on this machine the next free port is taken.",
)


@click.group(short_help="Add, remove, move or promote replicas.")
def replica() -> None:
    """Add, remove, move or promote replicas of a memory node."""


@replica.command("add", short_help="Give a memory node one more replica.")
@cluster_argument
@node_argument
@to_option
@timeout_option
@json_option
def add(cluster: str, node: int, *, to: str | None, timeout: float | None, as_json: bool) -> None:
    """Give memory node NODE of CLUSTER one more replica.

    Returns when it is in sync, which takes as long as copying all that the memory node holds;
    clients go on meanwhile.  If a replica of it is not in sync, that one is brought back instead.

    \b
        sinfonia replica add demo 0                     # started here, by this
        sinfonia replica add tcp://a:7000 0 --to tcp://b:7001   # says what to start on host b
    """
    _refuse_place(cluster, to)
    _carry_out(cluster, AddReplica(node, to), timeout=timeout, shown=node, as_json=as_json)


@replica.command("remove", short_help="Give up a replica.")
@cluster_argument
@node_argument
@click.argument("endpoint")
@click.option(
    "--force", is_flag=True, help="Remove it even if the primary alone holds the data then."
)
@json_option
def remove(cluster: str, node: int, endpoint: str, *, force: bool, as_json: bool) -> None:
    """Give up the replica of memory node NODE at ENDPOINT.

    In a cluster on this machine ENDPOINT may be a name, as node0r1; its process ends, and its data
    directory stays until you delete it.
    """
    _carry_out(cluster, RemoveReplica(node, endpoint, force), as_json=as_json)


@replica.command("move", short_help="Move a member to another place.")
@cluster_argument
@node_argument
@click.argument("endpoint")
@to_option
@timeout_option
@json_option
def move(
    cluster: str,
    node: int,
    endpoint: str,
    *,
    to: str | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Move the member of memory node NODE at ENDPOINT to another place.

    A new replica is added; when it is in sync, it takes over if ENDPOINT is the primary; then
    ENDPOINT is removed.  So there are never fewer copies than before.

    \b
        sinfonia replica move demo 0 node0
        sinfonia replica move tcp://a:7000 0 tcp://b:7001 --to tcp://c:7001
    """
    _refuse_place(cluster, to)
    action = MoveMember(node, endpoint, to)
    _carry_out(cluster, action, timeout=timeout, shown=node, as_json=as_json)


@replica.command("promote", short_help="Make an in-sync replica the primary.")
@cluster_argument
@node_argument
@click.argument("endpoint")
@click.option(
    "--force",
    is_flag=True,
    help="Promote it even if it is not in sync: acknowledged writes that it lacks are lost.",
)
@click.option("--yes", is_flag=True, help="With --force: do not ask again.")
@json_option
def promote_replica(
    cluster: str, node: int, endpoint: str, *, force: bool, yes: bool, as_json: bool
) -> None:
    """Make the in-sync replica of memory node NODE at ENDPOINT its primary.

    Clients notice a pause of about a lease (half a second).

    With --force, for a primary that will never come back, the replica need not be in sync, or may
    have restarted since.  What was acknowledged and is not in its log is given up: members that
    held it are overwritten when they come back.  Refused while the primary is up.
    """
    if force and not yes:
        click.confirm(
            "Acknowledged writes that this replica lacks will be lost. Go on?",
            abort=True,
            err=True,
        )
    _carry_out(cluster, Promote(node, endpoint, force), as_json=as_json)


@click.command(short_help="Hand over all primaries that are on a host.")
@cluster_argument
@click.argument("host", metavar="HOST[:PORT]")
@json_option
def drain(cluster: str, host: str, *, as_json: bool) -> None:
    """Hand over every primary of CLUSTER that is on HOST, so that HOST may go down.

    HOST is written as in the endpoints that `sinfonia status` shows.  Refused, before anything is
    done, if a memory node there has no in-sync replica elsewhere.  In the modes RAM, LOG and NVRAM
    there are no replicas: there, `backup` and `restore` move the data, while clients are stopped.
    """
    _carry_out(cluster, DrainHost(host), as_json=as_json)


@click.command("add-memnode", short_help="Add a memory node to a running cluster.")
@directory_argument
@click.option(
    "--node", type=click.IntRange(0), help="Id of the memory node.  [default: the next one]"
)
@click.option(
    "--capacity",
    type=parse_size_option,
    metavar="SIZE",
    help="Size of the address space.  [default: as the first memory node]",
)
@click.option(
    "--replicas",
    type=click.IntRange(0, REPLICAS_MAX),
    help="Number of replicas.  [default: as the first memory node]",
)
@json_option
def add_memnode(
    directory: Path,
    *,
    node: int | None,
    capacity: int | None,
    replicas: int | None,
    as_json: bool,
) -> None:
    """Start another memory node of the cluster in DIR.

    `sinfonia memnode` runs one member of a memory node; this adds the memory node to the cluster,
    and starts its members.  Data stays where it is: volumes that exist do not use the new memory
    node yet.  Clients that run see it when they look for it again (`refresh`).  With --node the
    command may be repeated: what is there already is only started.
    """
    action = AddMemoryNode(node, capacity, replicas)
    _carry_out(str(directory), action, as_json=as_json)


def _refuse_place(cluster: str, to: str | None) -> None:
    if to is not None and Path(cluster).is_dir():
        raise click.UsageError("--to cannot be given for a cluster on this machine")


def _carry_out(
    cluster: str,
    action: Action,
    *,
    as_json: bool,
    timeout: float | None = None,
    shown: int | None = None,
) -> None:
    """Carry out ``action``; a terminal shows how far the replicas of node ``shown`` are."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    silent = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=silent) as progress:

        def tell(line: str) -> None:
            progress.console.print(line, highlight=False, markup=False, soft_wrap=True)

        done = reached(cluster).operate(
            action,
            timeout=timeout,
            tell=tell,
            on_status=_watcher(progress, shown) if shown is not None else lambda _: None,
        )
    click.echo(json.dumps(asdict(done)) if as_json else done.message)


def _watcher(progress: Progress, node: int) -> Callable[[ClusterStatus], None]:
    """Shows the replica of ``node`` that has the longest way to go."""
    task = progress.add_task(f"memory node {node}", total=100)

    def watch(status: ClusterStatus) -> None:
        nodes = [each for each in status.memory_nodes if each.node == node]
        late = [replica for each in nodes for replica in each.replicas if not replica.in_sync]
        if late:
            last = min(late, key=lambda replica: replica.percent or 0.0)
            said = f"memory node {node}: {last.endpoint} {progress_of(last)}"
            progress.update(task, description=said, completed=last.percent or 0.0)

    return watch
