"""The processes of a cluster, in the foreground: what a service manager, or `sinfonia up`, runs.

Each is described by options, or by its entry in a cluster.toml; never by both, so that there is no
question which holds.  Logs go to standard error, a line per event, as key=value.
"""

import logging
import sys
from pathlib import Path

import click
from click.core import ParameterSource

from sinfonia.addresses import MemoryNodeId
from sinfonia.cli.arguments import parse_size_option
from sinfonia.client.seed import normalise_endpoint
from sinfonia.config import ClusterConfig, Times
from sinfonia.errors import ConfigError
from sinfonia.management.server import ManagerServer
from sinfonia.memnode.node import MODES, MemoryNodeSettings
from sinfonia.memnode.server import MemoryNodeServer
from sinfonia.protocol.management import ManagerSettings

LOG_FORMAT = "time=%(asctime)s level=%(levelname)s logger=%(name)s %(message)s"

# Good for binding, but no place that anyone can connect to.
WILDCARDS = {"0.0.0.0", "*", "[::]", "::"}  # noqa: S104 - refused, not bound

config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="A cluster.toml, instead of all else."
)
listen_option = click.option("--listen", metavar="ENDPOINT", help="Bind this: tcp://HOST:PORT.")


@click.command()
@config_option
@click.option("--node", type=click.IntRange(0), required=True, help="Its id in the cluster.")
@listen_option
@click.option("--advertise", metavar="ENDPOINT", help="Where others reach it, if not there.")
@click.option("--manager", metavar="ENDPOINT", help="Where the manager is.")
@click.option("--data-directory", type=click.Path(path_type=Path), help="Its own, for ever.")
@click.option(
    "--capacity",
    type=parse_size_option,
    metavar="SIZE",
    default="1GiB",
    show_default=True,
    help="Address space.",
)
@click.option("--mode", type=click.Choice(MODES), default="LOG", show_default=True)
@click.pass_context
def memnode(
    ctx: click.Context,
    *,
    config: Path | None,
    node: int,
    listen: str | None,
    advertise: str | None,
    manager: str | None,
    data_directory: Path | None,
    capacity: int,
    mode: str,
) -> None:
    """Run one memory node, in the foreground.

    \b
    In mode LOG every acknowledged write survives a crash; in mode RAM the data
    is gone with the process, and the memory node is not let in again until
    `sinfonia recreate` says that this is understood.

    \b
        sinfonia memnode --config cluster.toml --node 0
        sinfonia memnode --node 0 --listen tcp://0.0.0.0:7001 --advertise tcp://10.0.0.5:7001 \\
            --manager tcp://10.0.0.4:7000 --data-directory /var/lib/sinfonia/node0
    """
    if config is not None:
        _refuse_both(ctx, allowed={"config", "node"})
        server = _configured_memory_node(ClusterConfig.load(config), node)
    else:
        for name in ("listen", "manager", "data_directory"):
            _require(ctx, name)
        server = _memory_node(
            MemoryNodeSettings(
                node=MemoryNodeId(node),
                endpoint=normalise_endpoint(advertise or listen or ""),
                capacity=capacity,
                mode=mode,
            ),
            data_directory=data_directory or Path(),
            manager=normalise_endpoint(manager or ""),
            listen=normalise_endpoint(listen or ""),
        )
    server.serve()


@click.command()
@config_option
@listen_option
@click.option("--data-directory", type=click.Path(path_type=Path), help="Its own, for ever.")
@click.option("--cluster", metavar="NAME", help="The cluster's name; the same for ever.")
@click.pass_context
def manager(
    ctx: click.Context,
    *,
    config: Path | None,
    listen: str | None,
    data_directory: Path | None,
    cluster: str | None,
) -> None:
    """Run the manager, in the foreground.

    \b
    It knows where the memory nodes are, and settles what crashed clients left
    undecided.  Minitransactions go on without it.

    \b
        sinfonia manager --config cluster.toml
        sinfonia manager --listen tcp://0.0.0.0:7000 --data-directory /var/lib/sinfonia/manager \\
            --cluster production
    """
    if config is not None:
        _refuse_both(ctx, allowed={"config"})
        description = ClusterConfig.load(config)
        times = description.times
        listen = description.manager.listen
        data_directory = Path(description.manager.data_directory)
        cluster = description.cluster
    else:
        for name in ("listen", "data_directory", "cluster"):
            _require(ctx, name)
        times = Times()
    _log_to_stderr()
    ManagerServer(
        endpoint=normalise_endpoint(listen or ""),
        data_directory=data_directory or Path(),
        cluster=cluster or "",
        settings=ManagerSettings(
            in_doubt_timeout=times.in_doubt_timeout,
            epoch_length=times.epoch_length,
            decided_age=times.decided_age,
        ),
    ).serve()


def _configured_memory_node(config: ClusterConfig, node: int) -> MemoryNodeServer:
    entry = config.describe(node)
    settings = MemoryNodeSettings(
        node=entry.node,
        endpoint=entry.endpoint,
        capacity=int(entry.capacity),
        mode=entry.mode,
        read_lease=config.times.read_lease,
        settle_max=config.times.settle_max,
        checkpoint_log_bytes=int(entry.checkpoint_log),
    )
    return _memory_node(
        settings,
        data_directory=Path(entry.data_directory),
        manager=config.manager.endpoint,
        listen=entry.listen,
    )


def _memory_node(
    settings: MemoryNodeSettings, *, data_directory: Path, manager: str, listen: str
) -> MemoryNodeServer:
    host = settings.endpoint.removeprefix("tcp://").rpartition(":")[0]
    if host in WILDCARDS:
        raise ConfigError(
            f"nobody can reach a memory node at {settings.endpoint}; --advertise must say where it "
            "is"
        )
    _log_to_stderr()
    return MemoryNodeServer(settings, data_directory=data_directory, manager=manager, listen=listen)


def _log_to_stderr() -> None:
    logging.basicConfig(format=LOG_FORMAT, level=logging.INFO, stream=sys.stderr)


def _refuse_both(ctx: click.Context, *, allowed: set[str]) -> None:
    """With --config, every other option would say the same thing, or contradict it."""
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if parameter.name not in allowed and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]} cannot be given with --config")


def _require(ctx: click.Context, name: str) -> None:
    if ctx.params[name] is None:
        option = next(parameter for parameter in ctx.command.params if parameter.name == name)
        raise click.UsageError(f"{option.opts[0]} is missing; give it, or --config FILE")
