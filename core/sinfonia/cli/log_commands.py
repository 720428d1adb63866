"""A redo log is looked at without changing it, so that a damaged one can be understood.

The memory node need not run, and must not: what it writes meanwhile would look like damage.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from sinfonia.cli.arguments import json_option, printable
from sinfonia.errors import StorageError
from sinfonia.minitransaction import WriteItem
from sinfonia.protocol.messages import Tid
from sinfonia.protocol.records import (
    Decided,
    EpochAdvanced,
    ForcedAbort,
    Forgotten,
    OnePhase,
    Prepared,
    Record,
)
from sinfonia.storage.data_directory import DataDirectory, DirectoryLock
from sinfonia.storage.files import OsFiles
from sinfonia.storage.log_blocks import Lsn, log_id_of
from sinfonia.storage.redo_log import oldest_lsn, read_records

# Of each write item so much is shown; JSON has all of it.
SHOWN_BYTES = 16


@click.command()
@click.argument("data_directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--summary", is_flag=True, help="Print totals only.")
@json_option
def log(data_directory: Path, *, summary: bool, as_json: bool) -> None:
    """Print the redo log of a memory node that is not running, a record a line.

    \b
    DATA_DIRECTORY is the memory node's own, as DIR/node0 of `sinfonia up DIR`.
    Each record is shown with the LSN (position in the log) at which its block
    ends.  Exit code 1 if the log is damaged; what comes before is printed.
    """
    files = OsFiles(data_directory)
    owner = DataDirectory.read(files)
    if owner is None:
        raise StorageError(f"{data_directory} is not the data directory of a memory node")
    if owner.mode != "LOG":
        raise StorageError(f"memory node {owner.node} is in mode {owner.mode}: it has no redo log")
    lock = DirectoryLock(data_directory)
    try:
        records = read_records(files, log_id=log_id_of(owner.identity), processed=oldest_lsn(files))
        if summary:
            _print_summary(owner, records, as_json=as_json)
            return
        for lsn, record in records:
            click.echo(json.dumps(_as_dict(lsn, record)) if as_json else _line(lsn, record))
    finally:
        lock.release()


def _print_summary(
    owner: DataDirectory, records: Iterator[tuple[Lsn, Record]], *, as_json: bool
) -> None:
    kinds: Counter[str] = Counter()
    written = 0
    first = last = None
    for lsn, record in records:
        kinds[type(record).__name__] += 1
        if isinstance(record, OnePhase | Prepared):
            written += sum(len(item.data) for item in record.writes)
        first = lsn if first is None else first
        last = lsn
    figures: dict[str, Any] = {
        "node": owner.node,
        "identity": owner.identity,
        "incarnation": owner.incarnation,
        "first_lsn": first,
        "last_lsn": last,
        "records": dict(sorted(kinds.items())),
        "bytes_written": written,
    }
    if as_json:
        click.echo(json.dumps(figures))
        return
    figures["records"] = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
    for name, value in figures.items():
        label = name.replace("_", " ") + ":"
        click.echo(f"{label:15} {'none' if value in (None, '') else value}")


def _line(lsn: Lsn, record: Record) -> str:
    head = f"{lsn:>12}  {type(record).__name__:13} "
    match record:
        case OnePhase(client=client, epoch=epoch, counter=counter, writes=writes):
            return f"{head}{epoch}.{client:016x}.{counter} {_writes(writes)}"
        case Prepared(tid=tid, participants=participants, writes=writes):
            return f"{head}{tid} participants {participants} {_writes(writes)}"
        case Decided(tid=tid, action=action):
            return f"{head}{tid} {'commit' if action else 'abort'}"
        case ForcedAbort(tid=tid):
            return f"{head}{tid}"
        case Forgotten(tids=tids):
            return f"{head}{' '.join(map(str, tids))}"
        case EpochAdvanced(epoch=epoch):
            return f"{head}{epoch}"


def _writes(items: list[WriteItem]) -> str:
    return " ".join(
        f"{item.address}={printable(item.data[:SHOWN_BYTES])}"
        + (f"...({len(item.data)} bytes)" if len(item.data) > SHOWN_BYTES else "")
        for item in items
    )


def _as_dict(lsn: Lsn, record: Record) -> dict[str, Any]:
    fields = msgspec.structs.asdict(record)
    return {"lsn": lsn, "kind": type(record).__name__, **{k: _plain(v) for k, v in fields.items()}}


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
