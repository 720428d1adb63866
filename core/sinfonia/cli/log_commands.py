"""A redo log is looked at without changing it, so that a damaged one can be understood.

The memory node need not run, and must not: what it writes meanwhile would look like damage.
"""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from sinfonia.cli.arguments import json_option, printable
from sinfonia.errors import StorageError
from sinfonia.memnode.settings import has_disk
from sinfonia.minitransaction import WriteItem
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.records import (
    Decided,
    EpochAdvanced,
    ForcedAbort,
    Forgotten,
    OnePhase,
    Prepared,
    Record,
    Stamp,
)
from sinfonia.storage.data_directory import DataDirectory, DirectoryLock
from sinfonia.storage.files import OsFiles
from sinfonia.storage.log_blocks import log_id_of
from sinfonia.storage.log_segments import LoggedRecord, read_log

# Of each write item so much is shown; JSON has all of it.
SHOWN_BYTES = 16


@click.command(short_help="Print a stopped memory node's redo log.")
@click.argument("data_directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--log-directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of the redo log.  [default: DATA_DIRECTORY]",
)
@click.option("--summary", is_flag=True, help="Print totals only.")
@json_option
def log(data_directory: Path, *, log_directory: Path | None, summary: bool, as_json: bool) -> None:
    """Print the redo log of a memory node that is not running, a record a line.

    \b
    DATA_DIRECTORY is the memory node's own, as DIR/node0 of `sinfonia up DIR`.
    Each record is shown with its number, and with the life (incarnation of the
    memory node) in which it was written where one begins.  Stamps say when what
    is before them had been logged.  Exit code 1 if the log is damaged; what
    comes before is printed.
    """
    files = OsFiles(data_directory, log_directory=log_directory)
    owner = DataDirectory.read(files)
    if owner is None:
        raise StorageError(f"{data_directory} is not the data directory of a memory node")
    if not has_disk(owner.mode):
        raise StorageError(f"memory node {owner.node} is in mode {owner.mode}: it has no redo log")
    lock = DirectoryLock(data_directory)
    try:
        found = read_log(files, log_id=log_id_of(owner.identity))
        if summary:
            _print_summary(owner, found, as_json=as_json)
        elif as_json:
            for each in found:
                click.echo(json.dumps(_as_dict(each)))
        else:
            _print_lines(found)
    finally:
        lock.release()


class _Totals:
    """What a summary says of a log."""

    def __init__(self) -> None:
        self.first: LoggedRecord | None = None
        self.last: LoggedRecord | None = None
        self.kinds: Counter[str] = Counter()
        self.lives: dict[int, int] = {}
        self.written = 0
        self.stamps: list[int] = []

    def add(self, found: LoggedRecord) -> None:
        record = found.record
        self.first = self.first or found
        self.last = found
        self.kinds[type(record).__name__] += 1
        self.lives.setdefault(found.incarnation, found.seq)
        if isinstance(record, OnePhase | Prepared):
            self.written += sum(len(item.data) for item in record.writes)
        elif isinstance(record, Stamp):
            self.stamps = [*self.stamps[:1], record.clock]


def _print_summary(owner: DataDirectory, records: Iterator[LoggedRecord], *, as_json: bool) -> None:
    totals = _Totals()
    for found in records:
        totals.add(found)
    first, last = totals.first, totals.last
    figures: dict[str, Any] = {
        "node": owner.node,
        "identity": owner.identity,
        "starts": owner.starts,
        "first_seq": first and first.seq,
        "last_seq": last and last.seq,
        "first_lsn": first and first.lsn,
        "last_lsn": last and last.lsn,
        "lives": [{"incarnation": life, "first": seq} for life, seq in totals.lives.items()],
        "first_stamp": totals.stamps[0] if totals.stamps else None,
        "last_stamp": totals.stamps[-1] if totals.stamps else None,
        "records": dict(sorted(totals.kinds.items())),
        "bytes_written": totals.written,
    }
    if as_json:
        click.echo(json.dumps(figures))
        return
    figures["lives"] = ", ".join(f"{life} from {seq} on" for life, seq in totals.lives.items())
    figures["records"] = ", ".join(
        f"{number} {kind}" for kind, number in sorted(totals.kinds.items())
    )
    for name in ("first_stamp", "last_stamp"):
        figures[name] = figures[name] and _time(figures[name])
    for name, value in figures.items():
        label = name.replace("_", " ") + ":"
        click.echo(f"{label:15} {'none' if value in (None, '') else value}")


def _print_lines(records: Iterator[LoggedRecord]) -> None:
    incarnation: int | None = None
    for found in records:
        if found.incarnation != incarnation:
            incarnation = found.incarnation
            click.echo(f"--- life {incarnation}, from record {found.seq} on")
        kind = type(found.record).__name__
        click.echo(f"{found.seq:>12}  {kind:13} {_text(found.record)}")


def _text(record: Record) -> str:
    match record:
        case OnePhase(client=client, epoch=epoch, counter=counter, writes=writes):
            return f"{Tid(epoch, client, counter)} {_writes(writes)}"
        case Prepared(tid=tid, participants=participants, writes=writes):
            return f"{tid} participants {participants} {_writes(writes)}"
        case Decided(tid=tid, action=action):
            return f"{tid} {'commit' if action else 'abort'}"
        case ForcedAbort(tid=tid):
            return str(tid)
        case Forgotten(tids=tids):
            return " ".join(map(str, tids))
        case EpochAdvanced(epoch=epoch):
            return str(epoch)
        case Stamp(clock=clock):
            return _time(clock)


def _time(clock: int) -> str:
    """A stamp, as people write moments; as a number if it is none."""
    try:
        return datetime.fromtimestamp(clock / 1_000_000, UTC).isoformat(timespec="microseconds")
    except (OverflowError, ValueError):
        return str(clock)


def _writes(items: list[WriteItem]) -> str:
    return " ".join(
        f"{item.address}={printable(item.data[:SHOWN_BYTES])}"
        + (f"...({len(item.data)} bytes)" if len(item.data) > SHOWN_BYTES else "")
        for item in items
    )


def _as_dict(found: LoggedRecord) -> dict[str, Any]:
    fields = msgspec.structs.asdict(found.record)
    return {
        "lsn": found.lsn,
        "seq": found.seq,
        "incarnation": found.incarnation,
        "kind": type(found.record).__name__,
        **{name: _plain(value) for name, value in fields.items()},
    }


def _plain(value: Any) -> Any:  # noqa: ANN401 - any value of any record
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, msgspec.Struct):
        if isinstance(value, Tid):
            return str(value)
        return {name: _plain(each) for name, each in msgspec.structs.asdict(value).items()}
    return value
