"""What people and scripts see of a rebuild: what members reported, and what would be restored."""

from collections.abc import Iterator, Sequence
from typing import Any

import click
import msgspec
from rich.table import Table

from sinfonia.operating.tables import table_console
from sinfonia.protocol.membership.messages import MemoryNodeEntry
from sinfonia.protocol.membership.rebuilding import MemberReport, NodePlan, Plan

# Of an identity so much tells members apart for people; JSON has all of it.
IDENTITY_SHOWN = 8

_LONG_COLUMNS = ("MEMBER", "STATE")
_COLUMNS = ("NODE", "MEMBER", "ENDPOINT", "IDENTITY", "CONFIG", "ROLE IN IT", "LOG", "STATE")


def show_plan(reports: Sequence[MemberReport], plan: Plan) -> None:
    """Print all of it."""
    table = Table(box=None, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, no_wrap=column not in _LONG_COLUMNS, overflow="fold")
    for report in sorted(reports, key=lambda each: (each.node, each.place)):
        table.add_row(*_row(report))
    table_console().print(table)
    directory = plan.directory
    click.echo(
        f"\nCluster {directory.cluster!r}, to be restored as version {directory.version}, epoch "
        f"{directory.epoch}:"
    )
    for node in plan.nodes:
        for line in _lines(node):
            click.echo(line)


def as_dict(reports: Sequence[MemberReport], plan: Plan) -> dict[str, Any]:
    """For JSON."""
    return {
        "cluster": plan.directory.cluster,
        "version": plan.directory.version,
        "epoch": plan.directory.epoch,
        "reports": [_report_as_dict(report) for report in reports],
        "memory_nodes": [
            {
                "node": node.node,
                "found_config_epoch": node.found,
                "restored": None if node.entry is None else _entry_as_dict(node.entry),
                "objections": node.objections,
                "losses": node.losses,
            }
            for node in plan.nodes
        ],
    }


def _row(report: MemberReport) -> tuple[str, ...]:
    return (
        str(report.node),
        report.place,
        report.endpoint or "unknown",
        report.identity[:IDENTITY_SHOWN],
        "damaged" if report.configuration_damaged else str(report.config_epoch or "none"),
        report.role,
        f"{report.lived}:{report.last}" if report.last else "",
        _state(report),
    )


def _state(report: MemberReport) -> str:
    if report.damage:
        return f"damaged: {report.damage}"
    if report.running:
        return "running"
    return "holds nothing" if report.empty else "whole"


def _lines(node: NodePlan) -> Iterator[str]:
    if node.entry is not None:
        entry = node.entry
        primary = f"primary at {entry.endpoint}" if entry.identity else "given up, begins anew"
        replicas = [
            f"{'in sync' if each.in_sync else 'not in sync'} at {each.endpoint}"
            for each in entry.replicas
        ]
        yield (
            f"  memory node {node.node}: from config epoch {node.found}, as {entry.config_epoch}; "
            f"{primary}; replicas: {', '.join(replicas) or 'none'}"
        )
    else:
        yield f"  memory node {node.node}: nothing is known of it, and nothing is restored"
    for loss in node.losses:
        yield f"  ! {loss}"
    for objection in node.objections:
        yield f"  ! {objection}"
    if node.entry is not None and not node.losses and not node.objections:
        yield "    nothing is lost"


def _report_as_dict(report: MemberReport) -> dict[str, Any]:
    return {
        "node": report.node,
        "place": report.place,
        "endpoint": report.endpoint,
        "identity": report.identity,
        "starts": report.starts,
        "config_epoch": report.config_epoch,
        "configuration_damaged": report.configuration_damaged,
        "role": report.role,
        "incarnation": report.lived,
        "last_record": report.last,
        "running": report.running,
        "empty": report.empty,
        "damage": report.damage,
    }


def _entry_as_dict(entry: MemoryNodeEntry) -> dict[str, Any]:
    fields = msgspec.structs.asdict(entry)
    return {**fields, "replicas": [msgspec.structs.asdict(each) for each in entry.replicas]}
