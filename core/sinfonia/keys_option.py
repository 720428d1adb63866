"""The option `--keys` that the commands of every room take: one key file for a whole command.

The command's click context remembers the option and the cluster that the command was given.  A
function that connects asks `keys_of`, so no function between the two hands the keys on.  Below the
commands no module knows click: there, keys and key files are arguments.
"""

from pathlib import Path

import click

from sinfonia.cluster_keys import KEYS_VARIABLE, resolve_keys
from sinfonia.transport.keys import Keys

_CHOSEN_KEYS = "sinfonia.keys"
_NAMED_CLUSTER = "sinfonia.cluster"


def keys_of(cluster: str) -> Keys | None:
    """The keys for the CLUSTER of a command; None: it has none.  Raises ConfigError."""
    return resolve_keys(cluster, chosen_keys(cluster))


def chosen_keys(cluster: str) -> Path | None:
    """The key file that the command was given for its CLUSTER; None: it was given none."""
    context = click.get_current_context(silent=True)
    if context is None:
        return None
    context.meta[_NAMED_CLUSTER] = cluster
    chosen: Path | None = context.meta.get(_CHOSEN_KEYS)
    return chosen


def named_cluster(context: click.Context) -> str | None:
    """To what CLUSTER the command that ran in ``context`` wanted to connect; None: to none."""
    name: str | None = context.meta.get(_NAMED_CLUSTER)
    return name


def _choose_keys(ctx: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    ctx.meta[_CHOSEN_KEYS] = value


keys_option = click.option(
    "--keys",
    type=click.Path(path_type=Path),
    expose_value=False,
    callback=_choose_keys,
    help=f"Key file of a cluster with keys.  [default: DIR's; ${KEYS_VARIABLE} for endpoints]",
)
