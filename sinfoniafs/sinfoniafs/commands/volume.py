"""Commands that need no mount: each does one thing to a volume, and prints the result."""

import json
import os
import stat
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
import trio
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from sinfonia import connect
from sinfonia.client.api import ClusterApi
from sinfonia.config import parse_size
from sinfonia.errors import ConfigError
from sinfonia.keys_option import keys_of, keys_option
from sinfoniafs import mounts
from sinfoniafs.allocator import Kind
from sinfoniafs.commands.arguments import CLUSTER_VARIABLE, Source, cluster_argument
from sinfoniafs.commands.words import path_words, volume_words
from sinfoniafs.format.layout import index_of, memory_node_of
from sinfoniafs.fsck.check import Report, check_volume
from sinfoniafs.mkfs import make_volume
from sinfoniafs.session import read_sessions
from sinfoniafs.statistics import count_free
from sinfoniafs.volume.mounting import DEFAULT_NAME
from sinfoniafs.volume.opening import read_superblocks

EXIT_PROBLEMS_LEFT = 4

T = TypeVar("T")

NAME_OPTION = click.option("--name", help=f"Name of the volume (default: {DEFAULT_NAME}).")
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def on_cluster(source: Source, work: Callable[[ClusterApi], Awaitable[T]]) -> T:
    """Connect, do ``work``, disconnect."""

    async def run() -> T:
        async with await connect(source.endpoint(), keys=keys_of(source.cluster)) as cluster:
            return await work(cluster)

    return trio.run(run)


def show(
    facts: dict[str, Any], words: Callable[[dict[str, Any]], Iterator[str]], *, as_json: bool
) -> None:
    """Print facts in ``words``, or as JSON."""
    click.echo(json.dumps(facts) if as_json else "\n".join(words(facts)))


def size(text: str) -> int:
    """A number of bytes.  Raises click.BadParameter."""
    try:
        return parse_size(text)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


# mkfs


@click.command()
@cluster_argument
@NAME_OPTION
@click.option(
    "--size-per-node",
    type=size,
    metavar="SIZE",
    help="How much of each memory node to use, such as 2GiB (default: all of it).",
)
@click.option("--force", is_flag=True, help="Destroy what the memory nodes hold now.")
@JSON_OPTION
def mkfs(
    cluster: Source, name: str | None, size_per_node: int | None, *, force: bool, as_json: bool
) -> None:
    """Make an empty volume over all memory nodes of CLUSTER.

    A cluster holds one volume.  Unmount an older volume everywhere before you overwrite it.
    """
    volume = name or cluster.volume or DEFAULT_NAME

    async def work(connection: ClusterApi) -> dict[str, Any]:
        superblock = await make_volume(
            connection,
            name=volume,
            size_per_node=size_per_node,
            overwrite=force,
            owner=(os.getuid(), os.getgid()),
        )
        return await volume_facts(connection, superblock.name)

    show(on_cluster(cluster, work), volume_words, as_json=as_json)


# info


async def volume_facts(cluster: ClusterApi, name: str) -> dict[str, Any]:
    """What a volume is and how full, read without registering a session."""
    superblock, layout = await read_superblocks(cluster, name)
    nodes = layout.nodes.values()
    created = datetime.fromtimestamp(superblock.created_ns / 1e9, UTC)
    return {
        "volume": superblock.name,
        "uuid": superblock.uuid.hex(),
        "created": created.isoformat(timespec="seconds"),
        "memory_nodes": len(superblock.nodes),
        "block_size": superblock.block_size,
        "blocks": sum(each.blocks - each.first_data_block for each in nodes),
        "blocks_free": await count_free(cluster, layout, Kind.BLOCK),
        "inodes": sum(each.inodes - 1 for each in nodes),
        "inodes_free": await count_free(cluster, layout, Kind.INODE),
        "sessions": [
            f"{each.host}:{each.mountpoint or '-'} (process {each.pid})"
            for each in await read_sessions(cluster, superblock)
        ],
    }


def path_facts(path: Path, mount: mounts.KernelMount) -> dict[str, Any]:
    """What a path of a mount is, and at which memory node its inode lives."""
    status = path.lstat()
    return {
        "path": str(path.absolute()),
        "mountpoint": str(mount.mountpoint),
        "cluster": mount.source,
        "type": stat.filemode(status.st_mode),
        "inode": status.st_ino,
        "memory_node": memory_node_of(status.st_ino),
        "inode_index": index_of(status.st_ino),
        "links": status.st_nlink,
        "size": status.st_size,
        "allocated": status.st_blocks * 512,
    }


@click.command(short_help="Show what a path or a volume is.")
@click.argument("what", metavar="PATH|CLUSTER", envvar=CLUSTER_VARIABLE)
@keys_option
@NAME_OPTION
@JSON_OPTION
def info(what: str, name: str | None, *, as_json: bool) -> None:
    """Show what a path in a mount is, or what the volume of a cluster is and which hosts mount it.

    \b
        sinfoniafs info /mnt/a/file
        sinfoniafs info tcp://10.0.0.1:7000 --json
    """
    path = Path(what)
    mount = mounts.mount_containing(path) if "://" not in what else None
    if mount is not None:
        try:
            facts = path_facts(path, mount)
        except OSError as error:
            raise click.ClickException(f"{path}: {error.strerror}") from error
        show(facts, path_words, as_json=as_json)
        return
    source = Source.parse(what)
    volume = name or source.volume or DEFAULT_NAME
    facts = on_cluster(source, lambda cluster: volume_facts(cluster, volume))
    show(facts, volume_words, as_json=as_json)


# fsck


class ProgressBars:
    """Shows what ``check_volume`` tells, a bar for each thing it counts."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what)
        self._progress.update(self._tasks[what], completed=done, total=total)


def report_facts(report: Report) -> dict[str, Any]:
    """A report as a script wants it."""
    return {
        "clean": report.clean,
        "problems": report.problems,
        "files": report.files,
        "directories": report.directories,
        "bytes": report.bytes,
        "blocks_used": report.blocks_used,
        "blocks_reserved": report.blocks_reserved,
        "inodes_reserved": report.inodes_reserved,
        "orphans": report.orphans,
        "sessions": len(report.sessions),
        "reclaimed": asdict(report.reclaimed),
    }


def show_report(report: Report) -> None:
    """A report as a person wants it."""
    for problem in report.problems:
        click.echo(problem)
    click.echo(
        f"{report.files} files, {report.directories} directories, {report.bytes} bytes"
        f" in {report.blocks_used} blocks"
    )
    if report.reclaimed.sessions or report.reclaimed.orphans:
        click.echo(
            f"reclaimed from {report.reclaimed.sessions} dead mounts:"
            f" {report.reclaimed.blocks} blocks, {report.reclaimed.inodes} inodes in reserve,"
            f" {report.reclaimed.orphans} orphans"
        )
    if report.sessions or report.orphans:
        click.echo(
            f"{len(report.sessions)} mounts, dead or alive, hold {report.blocks_reserved} blocks"
            f" and {report.inodes_reserved} inodes in reserve, and {report.orphans} orphans"
        )
    click.echo("the volume is sound" if report.clean else f"{len(report.problems)} problems")


@click.command()
@cluster_argument
@NAME_OPTION
@click.option("--reclaim", is_flag=True, help="Give back what dead mounts left behind.")
@JSON_OPTION
@click.pass_context
def fsck(
    context: click.Context, cluster: Source, name: str | None, *, reclaim: bool, as_json: bool
) -> None:
    """Read the whole volume and prove that it is sound.

    In a sound volume every block and inode is used once and reachable, and link counts and sizes
    are right.  Unmount the volume first, or write nothing to it meanwhile: a change during the
    check may look like damage.

    Mounts that were killed leave orphans and reserved space behind, which is no damage; other
    mounts reclaim them after a while, and --reclaim does it now.

    \b
    Exit codes: 0 sound, 4 problems found, 1 the check could not be made.
    """
    volume = name or cluster.volume or DEFAULT_NAME
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=as_json or not console.is_terminal,
    ) as progress:
        report = on_cluster(
            cluster,
            lambda connection: check_volume(
                connection, name=volume, progress=ProgressBars(progress), reclaim=reclaim
            ),
        )
    if as_json:
        click.echo(json.dumps(report_facts(report)))
    else:
        show_report(report)
    if not report.clean:
        context.exit(EXIT_PROBLEMS_LEFT)
