"""`sinfonia settle`: what is in doubt, and how to end what waits for no memory node."""

import json
from dataclasses import asdict
from typing import Any

import click
from rich.table import Table

from sinfonia.cli.arguments import cluster_argument, json_option
from sinfonia.cli.reaching import reached
from sinfonia.operating.actions import SettleTid
from sinfonia.operating.tables import table_console
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.membership.messages import UnsettledTid, UnsettledTids


def parse_tid(text: str) -> Tid:
    """A tid as it is printed.  Raises click.BadParameter."""
    try:
        return Tid.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command(short_help="List what is in doubt, or settle it.")
@cluster_argument
@click.argument("tid", type=parse_tid, required=False)
@click.option(
    "--force",
    is_flag=True,
    help="Settle although the directory may be an older copy, which lacks the participant.",
)
@click.option("--yes", is_flag=True, help="Do not ask again.")
@json_option
def settle(cluster: str, tid: Tid | None, *, force: bool, yes: bool, as_json: bool) -> None:
    """List the minitransactions of CLUSTER that the manager is settling, or settle TID.

    A minitransaction whose client died is settled by the manager within seconds, and needs no
    command.  One that names a memory node that never existed, by mistake or by malice, stays in
    doubt and keeps its locks: settle it by its TID.  It is aborted, once all its participants that
    exist have been asked; nothing acknowledged can be lost by that.

    Refused if all participants exist: start those that are silent.  Refused without --force if the
    directory may be an older copy: a memory node that it lacks may have voted, and half of an
    acknowledged minitransaction would be undone.

    \b
        sinfonia settle demo
        sinfonia settle demo 0.00c0ffee00c0ffee.12
    """
    handle = reached(cluster)
    if tid is None:
        _print(handle.unsettled(), as_json=as_json)
        return
    if not yes:
        click.confirm(
            "Abort it? A participant that the directory does not name must never have existed; one "
            "that was lost together with the manager's store did.",
            abort=True,
            err=True,
        )
    done = handle.operate(SettleTid(tid, force))
    click.echo(json.dumps(asdict(done)) if as_json else done.message)


def _print(found: UnsettledTids, *, as_json: bool) -> None:
    if as_json:
        tids = [_as_dict(each) for each in found.tids]
        click.echo(json.dumps({"total": found.total, "tids": tids}, indent=2))
        return
    if not found.tids:
        click.echo("Nothing is in doubt, as far as the manager knows.")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("TID", "SECONDS", "MEMORY NODES", "SILENT", "NOT IN DIRECTORY"):
        table.add_column(column, no_wrap=True)
    for each in found.tids:
        table.add_row(
            str(each.tid),
            f"{each.seconds:.0f}",
            *(", ".join(map(str, nodes)) for nodes in (each.participants, each.silent)),
            f"[bold red]{', '.join(map(str, each.absent))}[/]" if each.absent else "",
        )
    table_console().print(table)
    if found.total > len(found.tids):
        click.echo(f"and {found.total - len(found.tids)} more")


def _as_dict(each: UnsettledTid) -> dict[str, Any]:
    return {
        "tid": str(each.tid),
        "seconds": each.seconds,
        "participants": each.participants,
        "silent": each.silent,
        "absent": each.absent,
    }
