"""What the benchmarks of this folder that are commands share: options, and how they end."""

import signal
import sys
from pathlib import Path
from types import FrameType

import click

from sinfonia.errors import SinfoniaError

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
directory_option = click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory for the redo logs, on the disk to measure.  [default: a temporary one]",
)


def run(command: click.Command) -> None:
    """Run ``command`` as the program; SIGTERM ends it as SIGINT does, and an error is one line."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        command()
    except SinfoniaError as error:
        sys.exit(f"Error: {error}")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
