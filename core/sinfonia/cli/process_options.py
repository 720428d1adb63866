"""What the commands that run a process share: options, and what is refused.

A process is described by options, or by its entry in a cluster.toml; never by both, so that there
is no question which holds.  Logs go to standard error, a line per event, as key=value.
"""

import logging
import sys
from pathlib import Path

import click
from click.core import ParameterSource

from sinfonia.errors import ConfigError
from sinfonia.metrics.exposition import MetricsServer
from sinfonia.status_snapshot import SnapshotPublisher
from sinfonia.transport.keys import Security, load_security

LOG_FORMAT = "time=%(asctime)s level=%(levelname)s logger=%(name)s %(message)s"

# Good for binding, but no address that a peer can connect to.
WILDCARDS = {"0.0.0.0", "*", "[::]", "::"}  # noqa: S104 - refused, not bound

config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="Take everything from this cluster.toml."
)
metrics_option = click.option(
    "--metrics",
    metavar="[HOST:]PORT",
    help="Answer Prometheus at this address.  [default host: loopback]",
)
advertise_option = click.option(
    "--advertise",
    metavar="ENDPOINT",
    help="Address at which peers reach this process.  [default: that of --listen]",
)
listen_option = click.option(
    "--listen", metavar="ENDPOINT", help="Address to listen at: tcp://HOST:PORT."
)


data_directory_option = click.option(
    "--data-directory",
    type=click.Path(path_type=Path),
    metavar="DIRECTORY",
    help="Directory for this process's data; never share or reuse it.",
)
keys_option = click.option(
    "--keys",
    type=click.Path(path_type=Path),
    metavar="DIRECTORY",
    help="Key directory of the cluster, made by `sinfonia keygen`: connections are encrypted, and "
    "only keys on its allow-list may connect.",
)
plain_option = click.option(
    "--plain",
    is_flag=True,
    help="Listen without keys even off loopback: any peer that can connect may do anything.",
)


def served_publisher(metrics: str) -> SnapshotPublisher | None:
    """A publisher that Prometheus can read at ``metrics`` until the process ends; None if nowhere.

    Raises ConfigError if it is not possible to listen there.
    """
    if not metrics:
        return None
    host, _, port = metrics.rpartition(":")
    publisher = SnapshotPublisher()
    MetricsServer(host.strip("[]"), int(port), publisher)
    return publisher


def security_of(keys: Path | None, *, plain: bool) -> Security | None:
    if keys is not None and plain:
        raise click.UsageError("--plain is for processes without keys; leave it or --keys out")
    return None if keys is None else load_security(keys)


def is_wildcard(endpoint: str) -> bool:
    return endpoint.removeprefix("tcp://").rpartition(":")[0] in WILDCARDS


def refuse_wildcard(what: str, endpoint: str) -> None:
    if is_wildcard(endpoint):
        raise ConfigError(
            f"no peer can reach {what} at {endpoint}; --advertise must say where it is"
        )


def log_to_stderr() -> None:
    logging.basicConfig(format=LOG_FORMAT, level=logging.INFO, stream=sys.stderr)


def refuse_both(ctx: click.Context, *, allowed: set[str]) -> None:
    """With --config, every other option would say the same thing, or contradict it."""
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if parameter.name not in allowed and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]} cannot be given with --config")


def require(ctx: click.Context, name: str) -> None:
    if not ctx.params[name]:
        option = next(parameter for parameter in ctx.command.params if parameter.name == name)
        raise click.UsageError(f"{option.opts[0]} is missing; give it, or --config FILE")
