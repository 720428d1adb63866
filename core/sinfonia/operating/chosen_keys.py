"""The keys with which a command connects: those of `--keys`, or the cluster's own.

A command remembers the option and the cluster that it was given in its click context,
so that no function between it and the connection hands the keys on.
"""

from pathlib import Path

import click

from sinfonia.cluster_keys import KEYS_VARIABLE, resolve_keys
from sinfonia.transport.keys import Keys

_CHOSEN_KEYS = "sinfonia.keys"


_NAMED_CLUSTER = "sinfonia.cluster"


def keys_of(cluster: str) -> Keys | None:
    """The keys for the CLUSTER of a command; None: it has none.  Raises ConfigError."""
    context = click.get_current_context(silent=True)
    if context is None:
        return resolve_keys(cluster)
    context.meta[_NAMED_CLUSTER] = cluster
    return resolve_keys(cluster, context.meta.get(_CHOSEN_KEYS))


def named_cluster(context: click.Context) -> str | None:
    """To what CLUSTER the command that ran in ``context`` wanted to connect; None: to none."""
    name: str | None = context.meta.get(_NAMED_CLUSTER)
    return name


def _choose_keys(ctx: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    ctx.meta[_CHOSEN_KEYS] = value


# Whoever connects asks `keys_of`, so that no command must hand it on.
keys_option = click.option(
    "--keys",
    type=click.Path(path_type=Path),
    expose_value=False,
    callback=_choose_keys,
    help=f"Key file of a cluster with keys.  [default: DIR's; ${KEYS_VARIABLE} for endpoints]",
)
