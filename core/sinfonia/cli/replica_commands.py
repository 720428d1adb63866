"""Commands that change a running cluster: they show what they wait for, and say what became of it.

Whoever is interrupted may say the same again; what has been done is not done a second time.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from sinfonia.cli.status_tables import progress_of
from sinfonia.keys_option import chosen_keys
from sinfonia.operating.cluster_status import replicas_of
from sinfonia.operating.observer import Sight
from sinfonia.operating.operations import (
    add_memory_node,
    add_replica,
    drain_host,
    move_member,
    promote,
    remove_replica,
)
from sinfonia.operating.operators import Done, Operator
from sinfonia.protocol.membership.configuration import REPLICAS_MAX

node_argument = click.argument("node", type=click.IntRange(0))
timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Wait no longer; what was begun goes on.  [default: until it is done]",
)
to_option = click.option(
    "--to",
    metavar="ENDPOINT",
    help="Where the new one will be; on this machine the next free port is taken.",
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
    with _operator(cluster, timeout, node) as operator:
        _say(add_replica(operator, node, to), as_json=as_json)


@replica.command("remove", short_help="Give up a replica.")
@cluster_argument
@node_argument
@click.argument("endpoint")
@click.option("--force", is_flag=True, help="Even if the primary alone holds the data then.")
@json_option
def remove(cluster: str, node: int, endpoint: str, *, force: bool, as_json: bool) -> None:
    """Give up the replica of memory node NODE at ENDPOINT.

    In a cluster on this machine ENDPOINT may be a name, as node0r1; its process ends, and its data
    directory stays until you delete it.
    """
    with _operator(cluster, None, node) as operator:
        _say(remove_replica(operator, node, endpoint, force=force), as_json=as_json)


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
    with _operator(cluster, timeout, node) as operator:
        _say(move_member(operator, node, endpoint, to), as_json=as_json)


@replica.command("promote", short_help="Make an in-sync replica the primary.")
@cluster_argument
@node_argument
@click.argument("endpoint")
@click.option(
    "--force",
    is_flag=True,
    help="Even if it is not in sync: acknowledged writes that it lacks are lost for good.",
)
@click.option("--yes", is_flag=True, help="With --force: do not ask again.")
@json_option
def promote_replica(
    cluster: str, node: int, endpoint: str, *, force: bool, yes: bool, as_json: bool
) -> None:
    """Make the in-sync replica of memory node NODE at ENDPOINT its primary.

    Clients notice a pause of about a lease (half a second).

    With --force, for a primary that is lost for good, the replica need not be in sync, or may have
    restarted since.  What was acknowledged and is not in its log is given up: members that held it
    are overwritten when they come back.  Refused while the primary is up.
    """
    if force and not yes:
        click.confirm(
            "What was acknowledged and this replica lacks will be lost for good. Go on?",
            abort=True,
            err=True,
        )
    with _operator(cluster, None, node) as operator:
        _say(promote(operator, node, endpoint, force=force), as_json=as_json)


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
    with _operator(cluster, None) as operator:
        _say(drain_host(operator, host), as_json=as_json)


@click.command("add-memnode", short_help="Add a memory node to a running cluster.")
@directory_argument
@click.option("--node", type=click.IntRange(0), help="Its id.  [default: the next one]")
@click.option(
    "--capacity",
    type=parse_size_option,
    metavar="SIZE",
    help="Address space.  [default: as the first memory node]",
)
@click.option(
    "--replicas",
    type=click.IntRange(0, REPLICAS_MAX),
    help="How many.  [default: as the first memory node]",
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
    with _operator(str(directory), None) as operator:
        _say(add_memory_node(operator, node, capacity=capacity, replicas=replicas), as_json=as_json)


def _say(done: Done, *, as_json: bool) -> None:
    click.echo(json.dumps(asdict(done)) if as_json else done.message)


def _refuse_place(cluster: str, to: str | None) -> None:
    if to is not None and Path(cluster).is_dir():
        raise click.UsageError("--to cannot be given for a cluster on this machine")


@contextmanager
def _operator(cluster: str, timeout: float | None, node: int | None = None) -> Iterator[Operator]:
    """An operator that shows on a terminal how far the replicas of ``node`` are."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    silent = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=silent) as progress:
        watch = _watcher(progress, node) if node is not None else lambda _: None

        def tell(line: str) -> None:
            progress.console.print(line, highlight=False, markup=False, soft_wrap=True)

        keys = chosen_keys(cluster)
        with Operator(cluster, keys, tell=tell, on_sight=watch, timeout=timeout) as operator:
            yield operator


def _watcher(progress: Progress, node: int) -> Callable[[Sight], None]:
    """Shows the replica of ``node`` that has the longest way to go."""
    task = progress.add_task(f"memory node {node}", total=100)

    def watch(sight: Sight) -> None:
        late = [replica for replica in replicas_of(node, sight) if not replica.in_sync]
        if late:
            last = min(late, key=lambda replica: replica.percent or 0.0)
            said = f"memory node {node}: {last.endpoint} {progress_of(last)}"
            progress.update(task, description=said, completed=last.percent or 0.0)

    return watch
