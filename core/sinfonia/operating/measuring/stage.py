"""What every benchmark stands on: private clusters and an echo that end with it, and its report.

Real processes on loopback and real files, so that the figures are those of a deployed cluster,
except for its network.
"""

import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from rich.table import Table

from sinfonia.memnode.settings import is_replicated
from sinfonia.operating.local_cluster import LOOPBACK, LocalCluster, free_ports
from sinfonia.operating.local_description import ports_needed
from sinfonia.operating.measuring.echo import EchoClient
from sinfonia.operating.processes import ProcessIdentity, end, spawn_detached, uninterrupted
from sinfonia.operating.tables import table_console

# Allocations between two runs of the garbage collector.
COLLECT_AFTER = 100_000

STOP_PATIENCE = 5.0


def spare_the_collector() -> None:
    """As the suite's own processes do: what is alive now stays, and minitransactions form no
    cycles."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


class Report:
    """JSON lines as they come, or a table of each kind of line at the end."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._tables: dict[type[msgspec.Struct], Table] = {}

    def __enter__(self) -> Self:
        return self

    def add(self, figures: msgspec.Struct) -> None:
        """One more line."""
        if self._as_json:
            sys.stdout.write(msgspec.json.encode(figures).decode() + "\n")
            sys.stdout.flush()
            return
        sys.stderr.write(".")
        sys.stderr.flush()
        table = self._tables.get(type(figures))
        if table is None:
            table = self._tables[type(figures)] = Table(box=None, pad_edge=False)
            for column in msgspec.structs.fields(figures):
                table.add_column(column.name, justify="right", no_wrap=True)
        table.add_row(*(f"{value}" for value in msgspec.structs.astuple(figures)))

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._as_json or exc is not None:
            return
        sys.stderr.write("\n")
        for number, table in enumerate(self._tables.values()):
            if number:
                sys.stdout.write("\n")
            table_console().print(table)


@contextmanager
def temporary_directory(parent: Path | None) -> Iterator[Path]:
    """A directory that is gone afterwards, in ``parent`` or the system's usual place."""
    with tempfile.TemporaryDirectory(prefix="sinfonia-bench-", dir=parent) as temporary:
        yield Path(temporary)


@contextmanager
def private_cluster(
    mode: str, memory_nodes: int, directory: Path | None, *, capacity: int
) -> Iterator[LocalCluster]:
    """A cluster that serves; modes that end with -REPL have one replica each."""
    with temporary_directory(directory) as temporary:
        replicas = 1 if is_replicated(mode) else 0
        cluster = LocalCluster.create(
            temporary / "cluster",
            memory_nodes=memory_nodes,
            mode=mode,
            capacity=capacity,
            replicas=replicas,
            ports=free_ports(ports_needed(memory_nodes, replicas)),
        )
        with cluster:
            cluster.start()
            yield cluster


@contextmanager
def running_echo(message_bytes: Callable[[], tuple[int, int]]) -> Iterator[EchoClient]:
    """An echo of messages as long as ``message_bytes`` says: (request, reply)."""
    request_bytes, reply_bytes = message_bytes()
    [port] = free_ports(1)
    endpoint = f"tcp://{LOOPBACK}:{port}"
    arguments = ["-m", "sinfonia.operating.measuring.echo", endpoint, str(reply_bytes)]
    processes: list[ProcessIdentity] = []
    try:
        with uninterrupted():
            processes.append(spawn_detached(arguments, log_file=Path(os.devnull)))
        with closing(EchoClient(endpoint, request_bytes)) as client:
            yield client
    finally:
        end(processes, patience=STOP_PATIENCE)
