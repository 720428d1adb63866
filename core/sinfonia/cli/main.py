"""A command does what it says and exits 0, or says in one line why not.

Exit codes: 0 done; 1 it could not be done, and the message says what to do; 2 wrong usage; 3 a
compare item did not match (`exec`); 4 the outcome is unknown (`exec`, `put`).
"""

import signal
import sys
from types import FrameType
from typing import Any

import click

from sinfonia.cli.sections import SectionedGroup, load
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
            explained = load("sinfonia.cli.unreachable:explained")
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


# Where each command is.  Only the one that is given is imported: a process of a cluster is started
# by a command, and the modules of all others would take most of its start.
SECTIONS: dict[str, dict[str, str]] = {
    "Data": {
        "get": "minitransaction_commands:get",
        "put": "minitransaction_commands:put",
        "exec": "minitransaction_commands:execute",
        "watch": "watch_commands:watch",
        "ring": "ring_commands:ring",
    },
    "Cluster": {
        "up": "cluster_commands:up",
        "down": "cluster_commands:down",
        "status": "cluster_commands:status",
        "top": "top:top",
        "load": "load_commands:load",
    },
    "Operate": {
        "add-memnode": "replica_commands:add_memnode",
        "replica": "replica_commands:replica",
        "drain": "replica_commands:drain",
        "recreate": "cluster_commands:recreate",
        "settle": "settle_command:settle",
        "rebuild-manager": "rebuild_commands:rebuild_manager",
        "backup": "backup_commands:backup",
        "restore": "backup_commands:restore",
        "log": "log_commands:log",
        "keygen": "key_commands:keygen",
    },
    "Daemons": {
        "memnode": "memnode_command:memnode",
        "manager": "manager_command:manager",
    },
    "Measure": {"bench": "bench_commands:bench"},
    "Shell": {"completion": "completion_command:completion"},
}

main.add_sections(
    {
        title: {name: f"sinfonia.cli.{place}" for name, place in places.items()}
        for title, places in SECTIONS.items()
    }
)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
