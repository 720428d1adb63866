"""`sinfonia manager`: a manager, in the foreground, for a service manager."""

from collections.abc import Sequence
from pathlib import Path

import click

from sinfonia.cli.process_options import (
    advertise_option,
    config_option,
    data_directory_option,
    is_wildcard,
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
from sinfonia.config import ClusterConfig, Times, normalise_metrics
from sinfonia.endpoints import normalise_endpoint
from sinfonia.errors import ConfigError
from sinfonia.management.etcd_store import EtcdStore
from sinfonia.management.server import ManagerServer
from sinfonia.management.store import Store, open_embedded_store
from sinfonia.protocol.membership.manager import ManagerSettings
from sinfonia.transport.keys import Security


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
        refuse_both(ctx, allowed={"config", "number"})
        server = _configured_manager(ClusterConfig.load(config), number)
    else:
        for name in ("listen", "cluster", *(() if etcd else ("data_directory",))):
            require(ctx, name)
        if etcd and data_directory is not None:
            raise click.UsageError("--data-directory: with --etcd there is no file")
        here = normalise_endpoint(advertise or listen or "")
        if etcd:
            refuse_wildcard("a manager", here)
        server = _manager(
            endpoint=here,
            listen=normalise_endpoint(listen or ""),
            cluster=cluster or "",
            managers=[normalise_endpoint(each) for each in managers or (here,)],
            etcd=etcd,
            data_directory=data_directory or Path(),
            times=Times(),
            metrics=normalise_metrics(metrics) if metrics else "",
            security=security_of(keys, plain=plain),
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
    log_to_stderr()
    publisher = served_publisher(metrics)
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
        managers=[place for place in managers if not is_wildcard(place)],
        security=security,
        plain=plain,
        publisher=publisher,
    )
