"""A manager's store that was lost is rebuilt from what members kept, or the command says why not.

What each member reported is shown first, then what would be restored and what would be lost with
it.  Nothing is stored while a member is missing that may know better, unless the operator takes the
risk; rules and reasons are in `sinfonia.protocol.membership.rebuilding`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.cli.arguments import CommandT, directory_argument, json_option
from sinfonia.cli.rebuild_tables import as_dict, show_plan
from sinfonia.config import ClusterConfig, MemberDescription, count_of
from sinfonia.errors import ConfigError
from sinfonia.management.rebuilt_store import RebuiltFile, RebuiltStore, RebuiltValue
from sinfonia.protocol.membership.rebuilding import (
    REPORT_FORMAT_VERSION,
    MemberReport,
    Plan,
    plan_rebuild,
)
from sinfonia.storage.data_directory import IDENTITY_FILE, looked_at
from sinfonia.storage.files import OsFiles
from sinfonia.storage.survey import survey

path_type = click.Path(path_type=Path)
log_directory_option = click.option(
    "--log-directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of the redo log.  [default: DATA_DIRECTORY]",
)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What an operator has said on the command line."""

    force: bool
    replace: bool
    dry_run: bool
    yes: bool
    as_json: bool


def rebuild_options(command: CommandT) -> CommandT:
    """What both commands that rebuild take."""
    for option in (
        json_option,
        click.option("--yes", is_flag=True, help="With --force: do not ask again."),
        click.option("--dry-run", is_flag=True, help="Only show what would be restored."),
        click.option(
            "--replace",
            is_flag=True,
            help="Replace a store that names memory nodes, as an older copy of it does.",
        ),
        click.option(
            "--force",
            is_flag=True,
            help="Rebuild although a member is missing: acknowledged writes that only it holds are "
            "lost.",
        ),
    ):
        command = option(command)
    return command


@click.group("rebuild-manager", short_help="Rebuild a manager's store that was lost.")
def rebuild_manager() -> None:
    """Rebuild the manager's store after it was lost or put back from an older copy.

    \b
    Each member keeps the newest configuration that it has seen.  Stop the managers
    first.  Members may run: those that wait are let in when the manager is back.
        sinfonia rebuild-manager local demo
    For a cluster on many hosts, on each of them and then where the manager is:
        sinfonia rebuild-manager report /var/lib/sinfonia/node0 > node0.json
        sinfonia rebuild-manager restore --store /var/lib/sinfonia/manager *.json
    """


@rebuild_manager.command("local", short_help="Rebuild the store of a cluster on this machine.")
@directory_argument
@rebuild_options
def rebuild_local(directory: Path, **wishes: bool) -> None:
    """Rebuild the store of the cluster that `sinfonia up` made in DIR.

    All its members are in reach, so none need be named.  Start the manager afterwards with
    `sinfonia up DIR`.  Exit code 1 if nothing was stored.
    """
    config = ClusterConfig.load(directory)
    members = [member for node in config.memory_node for member in node.members]
    # One that never served is let in by the manager, as ever.
    reports = [_read_member(each) for each in members if _has_lived(each)]
    manager = config.manager[0].data_directory
    etcd = [] if config.etcd is None else config.etcd.endpoints
    plan = _Rebuild(
        Path(manager) if manager else None, etcd, config.cluster, reports, Wishes(**wishes)
    )
    plan.run(expected=[node.node for node in config.memory_node])


@rebuild_manager.command("report", short_help="Print what members keep of the configuration.")
@click.argument("data_directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@log_directory_option
def report_member(data_directory: Path, *, log_directory: Path | None) -> None:
    """Print what the member in DATA_DIRECTORY has kept, as JSON for `restore`.

    Changes nothing.  A member that runs reports its configuration, but not the end of its log.
    """
    report = read_report(data_directory, log_directory)
    click.echo(msgspec.json.format(msgspec.json.encode(report), indent=1))


@rebuild_manager.command("restore", short_help="Rebuild a store from reports.")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=path_type)
@click.option("--store", type=path_type, help="Data directory of the manager.")
@click.option(
    "--etcd", multiple=True, metavar="URL", help="Address of each etcd, in place of --store."
)
@click.option("--cluster", metavar="NAME", help="With --etcd: name of the cluster.")
@rebuild_options
def restore_store(
    sources: Sequence[Path],
    *,
    store: Path | None,
    etcd: tuple[str, ...],
    cluster: str | None,
    **wishes: bool,
) -> None:
    """Rebuild a store from SOURCES: files that `report` has printed, or data directories.

    Name all members of all memory nodes.  Start the managers afterwards.  Exit code 1 if nothing
    was stored.

    \b
        sinfonia rebuild-manager restore --store /var/lib/sinfonia/manager *.json
        sinfonia rebuild-manager restore --etcd http://e:2379 --cluster prod *.json --dry-run
    """
    if (store is None) == (not etcd) or bool(etcd) != (cluster is not None):
        raise click.UsageError("give --store, or --etcd and --cluster")
    reports = [_read_source(source) for source in sources]
    _Rebuild(store, etcd, cluster or "", reports, Wishes(**wishes)).run()


def read_report(data_directory: Path, log_directory: Path | None = None) -> MemberReport:
    """What the data directory says.  Raises StorageError."""
    place = str(data_directory.resolve())
    with looked_at(data_directory) as running:
        files = OsFiles(data_directory, log_directory=log_directory)
        return survey(files, place=place, running=running)


def _read_member(member: MemberDescription) -> MemberReport:
    logs = Path(member.log_directory) if member.log_directory else None
    return read_report(Path(member.data_directory), logs)


def _has_lived(member: MemberDescription) -> bool:
    return (Path(member.data_directory) / IDENTITY_FILE).exists()


def _read_source(source: Path) -> MemberReport:
    """A data directory, or what was printed of one.  Raises ConfigError or StorageError."""
    if source.is_dir():
        return read_report(source)
    try:
        report = msgspec.json.decode(source.read_bytes(), type=MemberReport)
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"{source} is not what `sinfonia rebuild-manager report` prints: {error}"
        ) from error
    if report.format != REPORT_FORMAT_VERSION:
        raise ConfigError(
            f"{source} has format version {report.format}, this program reads "
            f"{REPORT_FORMAT_VERSION}; print it with the same version of the program"
        )
    return report


class _Rebuild:
    """One rebuild: of the store in ``path``, or in etcd."""

    def __init__(
        self,
        path: Path | None,
        etcd: Sequence[str],
        cluster: str,
        reports: Sequence[MemberReport],
        wishes: Wishes,
    ) -> None:
        self._path = path
        self._etcd = etcd
        self._cluster = cluster
        self._reports = reports
        self._wishes = wishes

    def run(self, expected: Sequence[MemoryNodeId] = ()) -> None:
        """Show the plan and store it, or say why not."""
        store: RebuiltStore
        if self._path is not None:
            store = RebuiltFile(self._path)
        else:
            store = RebuiltValue(self._etcd, cluster=self._cluster)
        try:
            self._run(store, expected)
        finally:
            store.close()

    def _run(self, store: RebuiltStore, expected: Sequence[MemoryNodeId]) -> None:
        wishes = self._wishes
        plan = plan_rebuild(self._reports, known=store.known, expected=expected, force=wishes.force)
        why_not = self._why_not(store, plan)
        if not wishes.as_json:
            show_plan(self._reports, plan)
        if not why_not and not wishes.dry_run:
            if plan.objections and not wishes.yes:
                click.confirm(
                    "What the lines above with ! name may be lost. Go on?", abort=True, err=True
                )
            store.put(plan.directory)
        stored = not why_not and not wishes.dry_run
        if wishes.as_json:
            found = as_dict(self._reports, plan)
            click.echo(json.dumps({**found, "stored": stored, "refusal": why_not}, indent=2))
        elif stored:
            click.echo(
                f"The store of cluster {plan.directory.cluster!r} is rebuilt in {self._where}. "
                "Start the manager; members that wait are let in then."
            )
        if why_not:
            if not wishes.as_json:
                raise click.ClickException(why_not)
            click.get_current_context().exit(1)

    @property
    def _where(self) -> str:
        return str(self._path) if self._path is not None else ", ".join(self._etcd)

    def _why_not(self, store: RebuiltStore, plan: Plan) -> str:
        """Why nothing may be stored; empty if it may."""
        if plan.objections and not self._wishes.force:
            return (
                "nothing was stored: members are missing that may know better (see above); bring "
                "their reports, or accept with --force that what only they know is lost"
            )
        if self._cluster and plan.directory.cluster != self._cluster:
            return (
                f"nothing was stored: these are members of cluster {plan.directory.cluster!r}, not "
                f"{self._cluster!r}"
            )
        if self._wishes.replace:
            return ""
        if store.unreadable:
            return (
                f"nothing was stored: there is a store in {self._where}, which cannot be read "
                f"({store.unreadable}); replace it with --replace"
            )
        if store.known is not None and store.known.nodes:
            return (
                f"nothing was stored: the store in {self._where} knows "
                f"{count_of(len(store.known.nodes), 'memory node')} (version "
                f"{store.known.version}); if it is an older copy, or members wait although it is "
                "there, replace it with --replace"
            )
        return ""
