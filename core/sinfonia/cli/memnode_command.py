"""`sinfonia memnode`: one member of a memory node, in the foreground, for a service manager."""

from pathlib import Path

import click

from sinfonia.addresses import MemoryNodeId
from sinfonia.cli.arguments import parse_size_option
from sinfonia.cli.process_options import (
    advertise_option,
    config_option,
    data_directory_option,
    keys_option,
    listen_option,
    log_to_stderr,
    metrics_option,
    plain_option,
    refuse_both,
    refuse_wildcard,
    require,
    security_of,
    served_publisher,
)
from sinfonia.cluster_keys import process_security
from sinfonia.config import MODES, ClusterConfig, Times, format_size, normalise_metrics
from sinfonia.endpoints import normalise_endpoint
from sinfonia.errors import ConfigError
from sinfonia.memnode.server import MemoryNodeServer
from sinfonia.memnode.settings import SCRUB_RATE, CheckpointLimits, MemoryNodeSettings
from sinfonia.protocol.membership.configuration import REPLICAS_MAX
from sinfonia.protocol.replication.agreement import ReplicationTimes
from sinfonia.transport.keys import Security


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
        refuse_both(ctx, allowed={"config", "node", "replica", "scrub_rate"})
        server = _configured_member(ClusterConfig.load(config), node, replica, scrub_rate)
    else:
        for name in ("listen", "managers", "data_directory"):
            require(ctx, name)
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
            security=security_of(keys, plain=plain),
            plain=plain,
        )
    server.serve()


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
    refuse_wildcard("a memory node", settings.endpoint)
    log_to_stderr()
    return MemoryNodeServer(
        settings,
        data_directory=data_directory,
        managers=managers,
        listen=listen,
        log_directory=log_directory,
        security=security,
        plain=plain,
        publisher=served_publisher(metrics),
    )
