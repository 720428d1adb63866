"""The processes of a cluster, in the foreground: what a service manager, or `sinfonia up`, runs.

Each is described by options, or by its entry in a cluster.toml; never by both, so that there is no
question which holds.  Logs go to standard error, a line per event, as key=value.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from click.core import ParameterSource

from sinfonia.addresses import MemoryNodeId
from sinfonia.cli.arguments import parse_size_option
from sinfonia.cluster_keys import process_security
from sinfonia.config import MODES, ClusterConfig, Times, format_size, normalise_metrics
from sinfonia.endpoints import normalise_endpoint
from sinfonia.errors import ConfigError
from sinfonia.management.etcd_store import EtcdStore
from sinfonia.management.server import ManagerServer
from sinfonia.management.store import Store, open_embedded_store
from sinfonia.memnode.server import MemoryNodeServer
from sinfonia.memnode.settings import SCRUB_RATE, CheckpointLimits, MemoryNodeSettings
from sinfonia.metrics.exposition import MetricsServer
from sinfonia.protocol.membership.configuration import REPLICAS_MAX
from sinfonia.protocol.membership.manager import ManagerSettings
from sinfonia.protocol.replication.agreement import ReplicationTimes
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


@click.command(short_help="Run one member of a memory node.")
@config_option
@click.option("--node", type=click.IntRange(0), required=True, help="Id of the memory node.")
@click.option(
    "--replica",
    type=click.IntRange(0),
    default=0,
    help="With --config: which member of the memory node: 0 its own entry, 1 its first replica.",
)
@listen_option
@advertise_option
@click.option(
    "--manager", "managers", multiple=True, metavar="ENDPOINT", help="Address of each manager."
)
@data_directory_option
@click.option(
    "--log-directory",
    type=click.Path(path_type=Path),
    help="Directory for the redo log, on its own disk or NVRAM.  [default: the data directory]",
)
@click.option(
    "--capacity",
    type=parse_size_option,
    metavar="SIZE",
    default="1GiB",
    show_default=True,
    help="Size of the address space.",
)
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="LOG",
    show_default=True,
    help="What keeps the data; see above.",
)
@click.option(
    "--replicas",
    type=click.IntRange(0, REPLICAS_MAX),
    default=0,
    show_default=True,
    help="Replicas that the memory node shall have; used when it registers for the first time.",
)
@click.option(
    "--lease",
    type=click.FloatRange(0, min_open=True),
    default=Times().lease,
    show_default=True,
    metavar="SECONDS",
    help="How long a replica promises not to take over: the same for all members, and less than "
    "the managers' fail_after.",
)
@click.option(
    "--ack-within",
    type=click.FloatRange(0, min_open=True),
    default=Times().ack_within,
    show_default=True,
    metavar="SECONDS",
    help="The primary drops a replica whose acknowledgements take longer for some seconds.",
)
@click.option(
    "--scrub-rate",
    type=parse_size_option,
    metavar="SIZE",
    default=format_size(SCRUB_RATE),
    show_default=True,
    help="Bytes of image and log that are checked for damage each second; 0: none.",
)
@metrics_option
@keys_option
@plain_option
@click.pass_context
def memnode(
    ctx: click.Context,
    *,
    config: Path | None,
    node: int,
    replica: int,
    listen: str | None,
    advertise: str | None,
    managers: tuple[str, ...],
    data_directory: Path | None,
    log_directory: Path | None,
    capacity: int,
    mode: str,
    replicas: int,
    lease: float,
    ack_within: float,
    scrub_rate: int,
    metrics: str | None,
    keys: Path | None,
    plain: bool,
) -> None:
    """Run one member of a memory node, in the foreground.

    \b
    LOG    every acknowledged write survives a crash: the redo log is synced.
    NVRAM  the same, on a device that keeps what is written without a sync; with
           --log-directory you vouch that it does.
    RAM    the data is gone with the process, and the memory node is not let in
           again until `sinfonia recreate` says that this is understood.
    With -REPL, replicas hold it, too, and one takes over when the primary dies.

    \b
        sinfonia memnode --config cluster.toml --node 0
        sinfonia memnode --config cluster.toml --node 0 --replica 1
        sinfonia memnode --node 0 --listen tcp://0.0.0.0:7001 --advertise tcp://10.0.0.5:7001 \\
            --manager tcp://10.0.0.4:7000 --data-directory /var/lib/sinfonia/node0 \\
            --keys /etc/sinfonia/keys
    """
    if config is not None:
        _refuse_both(ctx, allowed={"config", "node", "replica", "scrub_rate"})
        server = _configured_member(ClusterConfig.load(config), node, replica, scrub_rate)
    else:
        for name in ("listen", "managers", "data_directory"):
            _require(ctx, name)
        if replica:
            raise click.UsageError("--replica says which entry of --config FILE is meant")
        if log_directory is not None and mode.startswith("RAM"):
            raise click.UsageError(f"--log-directory: mode {mode} writes no log")
        server = _member(
            MemoryNodeSettings(
                node=MemoryNodeId(node),
                endpoint=normalise_endpoint(advertise or listen or ""),
                capacity=capacity,
                mode=mode,
                replicas=replicas,
                scrub_rate=scrub_rate,
                times=ReplicationTimes(lease=lease, ack_within=ack_within),
            ),
            data_directory=data_directory or Path(),
            managers=[normalise_endpoint(manager) for manager in managers],
            listen=normalise_endpoint(listen or ""),
            log_directory=log_directory,
            metrics=normalise_metrics(metrics) if metrics else "",
            security=_security(keys, plain=plain),
            plain=plain,
        )
    server.serve()


@click.command(short_help="Run a manager.")
@config_option
@click.option(
    "--number", type=click.IntRange(0), default=0, help="With --config: which [[manager]] entry."
)
@listen_option
@advertise_option
@data_directory_option
@click.option(
    "--etcd",
    multiple=True,
    metavar="URL",
    help="Address of each etcd, in place of a data directory.",
)
@click.option(
    "--manager",
    "managers",
    multiple=True,
    metavar="ENDPOINT",
    help="With --etcd: address of each manager of the cluster, with this one.",
)
@click.option("--cluster", metavar="NAME", help="Name of the cluster; it cannot be changed later.")
@metrics_option
@keys_option
@plain_option
@click.pass_context
def manager(
    ctx: click.Context,
    *,
    config: Path | None,
    number: int,
    listen: str | None,
    advertise: str | None,
    data_directory: Path | None,
    etcd: tuple[str, ...],
    managers: tuple[str, ...],
    cluster: str | None,
    metrics: str | None,
    keys: Path | None,
    plain: bool,
) -> None:
    """Run a manager, in the foreground.

    \b
    It knows where the memory nodes are, replaces a primary that died, and settles
    what crashed clients left undecided.  Minitransactions go on without it.
    A single manager keeps what it knows in a file; several share etcd, and one of
    them leads.

    \b
        sinfonia manager --config cluster.toml
        sinfonia manager --listen tcp://0.0.0.0:7000 --advertise tcp://10.0.0.4:7000 \\
            --data-directory /var/lib/sinfonia/manager --cluster production \\
            --keys /etc/sinfonia/keys
    """
    if config is not None:
        _refuse_both(ctx, allowed={"config", "number"})
        server = _configured_manager(ClusterConfig.load(config), number)
    else:
        for name in ("listen", "cluster", *(() if etcd else ("data_directory",))):
            _require(ctx, name)
        if etcd and data_directory is not None:
            raise click.UsageError("--data-directory: with --etcd there is no file")
        here = normalise_endpoint(advertise or listen or "")
        if etcd:
            _refuse_wildcard("a manager", here)
        server = _manager(
            endpoint=here,
            listen=normalise_endpoint(listen or ""),
            cluster=cluster or "",
            managers=[normalise_endpoint(each) for each in managers or (here,)],
            etcd=etcd,
            data_directory=data_directory or Path(),
            times=Times(),
            metrics=normalise_metrics(metrics) if metrics else "",
            security=_security(keys, plain=plain),
            plain=plain,
        )
    server.serve()


def _configured_manager(config: ClusterConfig, number: int) -> ManagerServer:
    if number >= len(config.manager):
        raise ConfigError(
            f"cluster {config.cluster!r} has {len(config.manager)} managers, counted from 0; "
            f"--number {number} is none of them"
        )
    entry = config.manager[number]
    return _manager(
        endpoint=entry.endpoint,
        listen=entry.listen,
        cluster=config.cluster,
        managers=[manager.endpoint for manager in config.manager],
        etcd=config.etcd.endpoints if config.etcd is not None else (),
        data_directory=Path(entry.data_directory),
        times=config.times,
        metrics=entry.metrics,
        security=process_security(config, entry.name),
        plain=config.security.plain,
    )


def _manager(
    *,
    endpoint: str,
    listen: str,
    cluster: str,
    managers: list[str],
    etcd: Sequence[str],
    data_directory: Path,
    times: Times,
    metrics: str,
    security: Security | None,
    plain: bool,
) -> ManagerServer:
    _log_to_stderr()
    publisher = _served_publisher(metrics)
    store: Store
    if etcd:
        store = EtcdStore(etcd, cluster=cluster, candidate=endpoint)
    else:
        store = open_embedded_store(data_directory, cluster=cluster)
    return ManagerServer(
        endpoint=listen,
        store=store,
        settings=ManagerSettings(
            in_doubt_timeout=times.in_doubt_timeout,
            epoch_length=times.epoch_length,
            decided_age=times.decided_age,
            fail_after=times.fail_after,
        ),
        # Clients that have no better address than a wildcard go on using the one they came by.
        managers=[place for place in managers if not _is_wildcard(place)],
        security=security,
        plain=plain,
        publisher=publisher,
    )


def _configured_member(
    config: ClusterConfig, node: int, replica: int, scrub_rate: int
) -> MemoryNodeServer:
    entry = config.describe(node)
    if replica >= len(entry.members):
        raise ConfigError(
            f"memory node {node} has {len(entry.replica)} replicas; --replica {replica} is none of "
            "them"
        )
    member = entry.members[replica]
    times = config.times
    settings = MemoryNodeSettings(
        node=entry.node,
        endpoint=member.endpoint,
        capacity=int(entry.capacity),
        mode=entry.mode,
        read_lease=times.read_lease,
        settle_max=times.settle_max,
        checkpoints=CheckpointLimits(log_bytes=int(entry.checkpoint_log)),
        keep_log_bytes=int(entry.keep_log),
        replicas=len(entry.replica),
        scrub_rate=scrub_rate,
        times=ReplicationTimes(
            lease=times.lease, drop_after=times.drop_after, ack_within=times.ack_within
        ),
    )
    return _member(
        settings,
        data_directory=Path(member.data_directory),
        managers=[manager.endpoint for manager in config.manager],
        listen=member.listen,
        log_directory=Path(member.log_directory) if member.log_directory else None,
        metrics=member.metrics,
        security=process_security(config, member.name),
        plain=config.security.plain,
    )


def _member(
    settings: MemoryNodeSettings,
    *,
    data_directory: Path,
    managers: list[str],
    listen: str,
    log_directory: Path | None,
    metrics: str,
    security: Security | None,
    plain: bool,
) -> MemoryNodeServer:
    _refuse_wildcard("a memory node", settings.endpoint)
    _log_to_stderr()
    return MemoryNodeServer(
        settings,
        data_directory=data_directory,
        managers=managers,
        listen=listen,
        log_directory=log_directory,
        security=security,
        plain=plain,
        publisher=_served_publisher(metrics),
    )


def _served_publisher(metrics: str) -> SnapshotPublisher | None:
    """A publisher that Prometheus can read at ``metrics`` until the process ends; None if nowhere.

    Raises ConfigError if it is not possible to listen there.
    """
    if not metrics:
        return None
    host, _, port = metrics.rpartition(":")
    publisher = SnapshotPublisher()
    MetricsServer(host.strip("[]"), int(port), publisher)
    return publisher


def _security(keys: Path | None, *, plain: bool) -> Security | None:
    if keys is not None and plain:
        raise click.UsageError("--plain is for processes without keys; leave it or --keys out")
    return None if keys is None else load_security(keys)


def _is_wildcard(endpoint: str) -> bool:
    return endpoint.removeprefix("tcp://").rpartition(":")[0] in WILDCARDS


def _refuse_wildcard(what: str, endpoint: str) -> None:
    if _is_wildcard(endpoint):
        raise ConfigError(
            f"no peer can reach {what} at {endpoint}; --advertise must say where it is"
        )


def _log_to_stderr() -> None:
    logging.basicConfig(format=LOG_FORMAT, level=logging.INFO, stream=sys.stderr)


def _refuse_both(ctx: click.Context, *, allowed: set[str]) -> None:
    """With --config, every other option would say the same thing, or contradict it."""
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if parameter.name not in allowed and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]} cannot be given with --config")


def _require(ctx: click.Context, name: str) -> None:
    if not ctx.params[name]:
        option = next(parameter for parameter in ctx.command.params if parameter.name == name)
        raise click.UsageError(f"{option.opts[0]} is missing; give it, or --config FILE")
