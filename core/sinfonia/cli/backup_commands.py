"""Backup and restore: what they print is the moments that can be restored, and what to do next."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sinfonia.addresses import MemoryNodeId
from sinfonia.backup.archive import Backup, Manifest, Origin
from sinfonia.backup.copier import Progress as CopyProgress
from sinfonia.backup.copier import take_full, take_increment
from sinfonia.backup.moments import format_moment, parse_moment
from sinfonia.backup.restore import (
    Restoration,
    RestoredMember,
    new_directory,
    restored_directory,
)
from sinfonia.cli.arguments import default_cluster, json_option, names_cluster
from sinfonia.cli.reaching import reached
from sinfonia.config import (
    MODES,
    ByteCount,
    ClusterConfig,
    Mode,
    as_mode,
    count_of,
    format_size,
)
from sinfonia.endpoints import DEFAULT_PORT
from sinfonia.errors import BackupError, StorageError
from sinfonia.keys_option import keys_option
from sinfonia.management.store import write_directory
from sinfonia.operating.local_description import new_cluster, ports_needed, write_description
from sinfonia.protocol.membership.configuration import REPLICAS_MAX, keeps_replicas
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry
from sinfonia.storage.files import OsFiles

path_type = click.Path(path_type=Path)
MIB = 1 << 20


@click.command(short_help="Back up a running cluster into a directory.")
@click.argument("places", metavar="[CLUSTER] DEST", nargs=-1, required=True)
@click.option(
    "--incremental", is_flag=True, help="Extend the backup in DEST by the logs since its end."
)
@click.option(
    "--list", "listing", is_flag=True, help="Only show which moments the backup in DEST reaches."
)
@keys_option
@json_option
def backup(places: Sequence[str], *, incremental: bool, listing: bool, as_json: bool) -> None:
    """Back up all memory nodes of CLUSTER into the directory DEST, while clients go on.

    CLUSTER is a cluster that runs, by default $SINFONIA_CLUSTER, or else ./cluster.  DEST is the
    backup's own directory: a new one, or with --incremental that of the backup to extend.  A
    cluster is no DEST.

    No client waits and nothing is locked.  The backup shows one moment, at which every
    minitransaction had happened at all its memory nodes or at none.  With --incremental, the backup
    in DEST is extended by the logs since: any moment between its first and its last can then be
    restored.

    \b
        sinfonia backup demo /backups/monday
        sinfonia backup --incremental demo /backups/monday
        sinfonia backup --list /backups/monday
        sinfonia restore /backups/monday restored

    If DEST is not whole at the end, there is nothing at DEST, or what there was before.
    """
    if listing:
        if len(places) != 1 or incremental:
            raise click.UsageError("with --list, only DEST is given")
        _print_moments(Backup(Path(places[0])), as_json=as_json)
        return
    if len(places) > 2:
        raise click.UsageError("there are CLUSTER and DEST, and no more")
    _refuse_cluster(places[-1], "DEST is a directory for the backup: sinfonia backup CLUSTER DEST")
    cluster = places[0] if len(places) == 2 else default_cluster()
    source, destination = reached(cluster), Path(places[-1])
    take = take_increment if incremental else take_full
    with _showing("backing up") as show:
        manifest = take(
            source.contact,
            destination,
            source.keys,
            on_progress=lambda progress: show(*_copied(progress)),
        )
    if as_json:
        click.echo(json.dumps(_as_dict(manifest), indent=2))
        return
    step = manifest.steps[-1]
    click.echo(
        f"Cluster {manifest.cluster!r} is backed up to {destination} as of "
        f"{format_moment(step.moment)} ({_written(manifest, -1) / MIB:.1f} MiB)."
    )
    if not incremental:
        click.echo(f"Restore it: sinfonia restore {destination} DIR")


@click.command(short_help="Make a new cluster from a backup.")
@click.argument("source", metavar="SOURCE", type=path_type)
@click.argument("directory", metavar="[DIR]", type=path_type, required=False)
@click.option("--at", metavar="TIME", help="Moment to restore.  [default: the last in the backup]")
@click.option(
    "--mode", type=click.Choice(MODES), help="Mode of the new cluster.  [default: as the original]"
)
@click.option(
    "--replicas",
    type=click.IntRange(0, REPLICAS_MAX),
    help="Replicas of each memory node.  [default: as the original]",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    help=f"Port of the manager; other processes take the next ones.  [default: {DEFAULT_PORT}]",
)
@click.option(
    "--node", type=click.IntRange(0), help="Restore only the data directory of this memory node."
)
@click.option("--data-directory", type=path_type, help="With --node: the directory to make.")
@click.option("--log-directory", type=path_type, help="With --node: directory for its redo log.")
@json_option
def restore(
    source: Path,
    directory: Path | None,
    *,
    at: str | None,
    mode: str | None,
    replicas: int | None,
    port: int | None,
    node: int | None,
    data_directory: Path | None,
    log_directory: Path | None,
    as_json: bool,
) -> None:
    """Make a new cluster in DIR from the backup in SOURCE; start it with `sinfonia up DIR`.

    SOURCE is a directory made by `sinfonia backup`, and is only read.  DIR is a new directory on
    this machine; a cluster that exists is never restored over.

    For a cluster on many hosts, make the data directory of the first member of each memory node by
    itself, with the same --at for all; then start new managers, these, and new empty replicas.

    \b
        sinfonia restore /backups/monday restored
        sinfonia restore /backups/monday restored --at 2026-03-01T12:00:00 --port 7100
        sinfonia restore /backups/monday --node 0 --data-directory /var/lib/sinfonia/node0
    """
    _refuse_cluster(str(source), "SOURCE is a backup: sinfonia restore SOURCE DIR")
    if directory is not None:
        _refuse_cluster(
            str(directory), "DIR is a new directory, in which restore makes another cluster"
        )
    opened = Backup(source)
    moment = None if at is None else parse_moment(at)
    if node is not None:
        if data_directory is None or {directory, replicas, port} != {None}:
            raise click.UsageError(
                "with --node go --data-directory and perhaps --log-directory, --mode and --at"
            )
        restoration = _restore_member(
            opened,
            moment,
            node,
            data_directory=data_directory,
            log_directory=log_directory,
            mode=_mode(opened, mode),
        )
        _print_restored(restoration, data_directory, as_json=as_json, hint="")
        return
    if directory is None or data_directory is not None or log_directory is not None:
        raise click.UsageError("DIR must be given, or --node and --data-directory")
    config = _describe(opened, as_mode(_mode(opened, mode)), replicas, port)
    restoration = _restore_cluster(opened, moment, directory, config)
    hint = f"Start it: sinfonia up {directory}"
    _print_restored(restoration, directory, as_json=as_json, hint=hint)


def _refuse_cluster(place: str, what_it_is: str) -> None:
    if names_cluster(place):
        raise click.UsageError(f"{place} is a cluster; {what_it_is}")


def _restore_member(
    opened: Backup,
    moment: int | None,
    node: int,
    *,
    data_directory: Path,
    log_directory: Path | None,
    mode: str,
) -> Restoration:
    origin = _origin(opened, node)
    restoration = _restoration(opened, moment)
    with _showing("restoring") as show:
        restoration.write_member(
            origin,
            data_directory,
            mode=mode,
            log_directory=log_directory,
            on_restored=_counted(show, opened),
        )
    return restoration


def _restore_cluster(
    opened: Backup, moment: int | None, directory: Path, config: ClusterConfig
) -> Restoration:
    with new_directory(directory) as partial:
        restoration = _restoration(opened, moment)
        with _showing("restoring") as show:
            counted = _counted(show, opened)
            members = {
                origin.node: restoration.write_member(
                    origin,
                    partial / described.data_directory,
                    mode=described.mode,
                    on_restored=counted,
                )
                for described, origin in zip(config.memory_node, opened.nodes, strict=True)
            }
        if restoration.directory is not None:
            _write_store(partial, config, restoration.directory, members)
        write_description(config, partial)
    return restoration


def _write_store(
    partial: Path,
    config: ClusterConfig,
    original: Directory,
    members: Mapping[MemoryNodeId, RestoredMember],
) -> None:
    """Make the store of the restored cluster's manager.  Raises BackupError."""
    entries = [
        MemoryNodeEntry(
            node=node.node,
            endpoint=node.endpoint,
            capacity=int(node.capacity),
            mode=node.mode,
            identity="",
            incarnation=0,
            wanted=len(node.replica),
        )
        for node in config.memory_node
    ]
    store = partial / config.manager[0].data_directory
    try:
        store.mkdir(mode=0o700)
        write_directory(OsFiles(store), restored_directory(original, entries, members))
    except (OSError, StorageError) as error:
        raise BackupError(f"cannot write {store}: {error}; nothing was restored") from error


def _mode(opened: Backup, wanted: str | None) -> str:
    """In which mode to restore.  Raises BackupError."""
    mode = wanted or opened.nodes[0].mode
    if mode.startswith("RAM"):
        log_mode = mode.replace("RAM", "LOG")
        raise BackupError(
            f"mode {mode} keeps nothing on disk that a restored memory node could start from; "
            f"restore with --mode {log_mode}"
        )
    return mode


def _origin(opened: Backup, node: int) -> Origin:
    for origin in opened.nodes:
        if origin.node == node:
            return origin
    known = ", ".join(str(origin.node) for origin in opened.nodes)
    raise BackupError(f"there is no memory node {node} in {opened.root}; it has {known}")


def _describe(opened: Backup, mode: Mode, replicas: int | None, port: int | None) -> ClusterConfig:
    """The restored cluster, on this machine."""
    wanted = {
        origin.node: (max(origin.replicas, 1) if replicas is None else replicas)
        for origin in opened.nodes
    }
    most = max(wanted.values()) if keeps_replicas(mode) or replicas else 0
    first = port or DEFAULT_PORT
    config = new_cluster(
        opened.manifest.cluster,
        memory_nodes=len(opened.nodes),
        mode=mode,
        capacity=opened.nodes[0].capacity,
        ports=range(first, first + ports_needed(len(opened.nodes), most)),
        replicas=most,
    )
    nodes = [
        msgspec.structs.replace(
            described,
            node=origin.node,
            capacity=ByteCount(origin.capacity),
            data_directory=f"node{origin.node}",
            replica=[
                msgspec.structs.replace(replica, data_directory=f"node{origin.node}r{k}")
                for k, replica in enumerate(described.replica[: wanted[origin.node]], 1)
            ],
        )
        for described, origin in zip(config.memory_node, opened.nodes, strict=True)
    ]
    return msgspec.structs.replace(config, memory_node=nodes)


def _restoration(opened: Backup, moment: int | None) -> Restoration:
    with _showing("reading logs"):
        return Restoration(opened, moment)


# --- what is shown -------------------------------------------------------------------------------

Show = Callable[[float, float, str], None]


@contextmanager
def _showing(what: str) -> Iterator[Show]:
    """A progress bar on a terminal; it is given what is done, of how much, and words for it."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[words]}"),
        TimeElapsedColumn(),
    )
    silent = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=silent) as progress:
        task = progress.add_task(what, total=None, words="")

        def show(done: float, total: float, words: str) -> None:
            progress.update(task, completed=done, total=total or None, words=words)

        yield show


def _copied(progress: CopyProgress) -> tuple[float, float, str]:
    words = (
        f"{progress.pages} of about {progress.pages_expected} pages, "
        f"{progress.log_bytes / MIB:.1f} MiB of log"
    )
    return progress.pages, progress.pages_expected, words


def _counted(show: Show, opened: Backup) -> Callable[[int, int], None]:
    total = sum(_written(opened.manifest, k) for k in range(len(opened.manifest.steps)))
    done = 0

    def on_restored(node: int, count: int) -> None:
        nonlocal done
        done += count
        show(done, total, f"memory node {node}, {done / MIB:.1f} MiB")

    return on_restored


def _written(manifest: Manifest, step: int) -> int:
    """The bytes of a step's files."""
    files = [file for part in manifest.steps[step].parts for file in (part.image, part.log) if file]
    directory = manifest.steps[step].directory
    return sum(file.bytes for file in files) + (directory.bytes if directory is not None else 0)


def _print_moments(opened: Backup, *, as_json: bool) -> None:
    manifest = opened.manifest
    first, last = opened.moments
    directory = opened.directory(last)
    if as_json:
        store = None if directory is None else _directory_as_dict(directory)
        click.echo(json.dumps({**_as_dict(manifest), "manager_store": store}, indent=2))
        return
    click.echo(
        f"Backup of cluster {manifest.cluster!r}: "
        f"{count_of(len(manifest.nodes), 'memory node')} of "
        f"{format_size(manifest.nodes[0].capacity)}, mode {manifest.nodes[0].mode}.\n"
    )
    for number, step in enumerate(manifest.steps):
        size = f"{_written(manifest, number) / MIB:9.1f} MiB"
        click.echo(f"{step.name:16} {format_moment(step.moment)} {size}")
    if directory is not None:
        click.echo(
            f"\nThe manager's store is in it, as of version {directory.version}, epoch "
            f"{directory.epoch}."
        )
    click.echo(
        f"\nAny moment can be restored from {format_moment(first)}\n"
        f"                               to {format_moment(last)}."
        if first < last
        else "\nThis moment can be restored; --incremental adds later ones."
    )


def _print_restored(restoration: Restoration, directory: Path, *, as_json: bool, hint: str) -> None:
    committed = len(restoration.committed)
    undecided = len({tid for tids in restoration.undecided.values() for tid in tids})
    if as_json:
        found = {
            "directory": str(directory),
            "moment": format_moment(restoration.moment),
            "committed": committed,
            "aborted": undecided - committed,
        }
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"{directory} is restored as of {format_moment(restoration.moment)}.")
    if undecided:
        click.echo(
            f"Of {undecided} minitransactions that were under way then, {committed} had every "
            "vote and were committed; the others did not happen."
        )
    if hint:
        click.echo(hint)


def _directory_as_dict(directory: Directory) -> dict[str, Any]:
    return {
        "version": directory.version,
        "epoch": directory.epoch,
        "memory_nodes": [
            {
                "node": entry.node,
                "incarnation": entry.incarnation,
                "config_epoch": entry.config_epoch,
                "wanted": entry.wanted,
                "replicas": len(entry.replicas),
            }
            for entry in directory.nodes
        ],
    }


def _as_dict(manifest: Manifest) -> dict[str, Any]:
    return {
        "cluster": manifest.cluster,
        "memory_nodes": [msgspec.to_builtins(origin) for origin in manifest.nodes],
        "steps": [
            {
                "name": step.name,
                "moment": format_moment(step.moment),
                "bytes": _written(manifest, number),
                "last_records": {str(part.node): part.last for part in step.parts},
            }
            for number, step in enumerate(manifest.steps)
        ],
    }
