"""A command does what it says and exits 0, or says in one line why not.

Exit codes: 0 done; 1 it could not be done, and the message says what to do; 2 wrong usage; 3 a
compare item did not match (`exec`); 4 the outcome is unknown (`exec`, `put`).
"""

import signal
import sys
from types import FrameType
from typing import Any

import click

from sinfonia.cli.backup_commands import backup, restore
from sinfonia.cli.bench_commands import bench
from sinfonia.cli.cluster_commands import down, recreate, status, up
from sinfonia.cli.completion_command import completion
from sinfonia.cli.key_commands import keygen
from sinfonia.cli.load_commands import load
from sinfonia.cli.log_commands import log
from sinfonia.cli.minitransaction_commands import execute, get, put
from sinfonia.cli.process_commands import manager, memnode
from sinfonia.cli.rebuild_commands import rebuild_manager
from sinfonia.cli.replica_commands import add_memnode, drain, replica
from sinfonia.cli.ring_commands import ring
from sinfonia.cli.sections import SectionedGroup
from sinfonia.cli.top import top
from sinfonia.cli.unreachable import explained
from sinfonia.cli.watch_commands import watch
from sinfonia.errors import OutcomeUnknown, SinfoniaError, Unreachable
from sinfonia.keys_option import named_cluster


class OutcomeUnknownFailure(click.ClickException):
    """Neither done nor not done."""

    exit_code = 4


class PlainGroup(SectionedGroup):
    """Commands whose errors are one line each."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as click has it
        try:
            return super().invoke(ctx)
        except OutcomeUnknown as error:
            raise OutcomeUnknownFailure(f"{error} (tid {error.tid})") from None
        except Unreachable as error:
            raise click.ClickException(explained(error, named_cluster(ctx))) from None
        except SinfoniaError as error:
            raise click.ClickException(str(error)) from None
        except BrokenPipeError:
            raise  # `... | head` has seen enough; click ends quietly then
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{where}{error.strerror or error}") from None


@click.group(cls=PlainGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sinfonia-cluster")
def main() -> None:
    """Sinfonia: memory that many machines share, changed by minitransactions.

    \b
    A first look, on one machine:
        sinfonia up demo                          # a manager and three memory nodes
        sinfonia put demo 0:100 text:hello        # five bytes at address 100 of node 0
        sinfonia exec demo --compare 0:100=text:hello --write 1:0=text:world
        sinfonia get demo 1:0+5
        sinfonia status demo
        sinfonia down demo

    \b
    With a replica of each memory node, so that one may die:
        sinfonia up demo --mode LOG-REPL --replicas 1
        sinfonia top demo

    CLUSTER is tcp://HOST:PORT of any manager or memory node (or several, with commas), a directory
    made by `sinfonia up`, or a cluster.toml.  DIR and an optional CLUSTER default to
    $SINFONIA_CLUSTER, or else to ./cluster.
    """
    # `down` and service managers end a command with SIGTERM; let it clean up as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)


SECTIONS: dict[str, tuple[click.Command, ...]] = {
    "Data": (get, put, execute, watch, ring),
    "Cluster": (up, down, status, top, load),
    "Operate": (
        add_memnode,
        replica,
        drain,
        recreate,
        rebuild_manager,
        backup,
        restore,
        log,
        keygen,
    ),
    "Daemons": (memnode, manager),
    "Measure": (bench,),
    "Shell": (completion,),
}

main.add_sections(SECTIONS)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
