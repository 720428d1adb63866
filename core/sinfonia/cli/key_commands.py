"""`sinfonia keygen`: the keys that it makes decide which peers may connect to a cluster."""

from pathlib import Path

import click

from sinfonia.transport.keygen import add_client, make_cluster_keys
from sinfonia.transport.keys import CLIENTS, CLUSTER, OPERATOR
from sinfonia.transport.permissions import Role


@click.command(short_help="Make the keys of a cluster, or one more key.")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--cluster", metavar="NAME", help="Name of the cluster.  [default: DIRECTORY's name]")
@click.option("--client", metavar="NAME", help="Add one more client to the keys in DIRECTORY.")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    help="With --client: what the client may ask for.  [default: client]",
)
@click.option(
    "--force", is_flag=True, help="Replace a key that exists; its holder can no longer connect."
)
def keygen(
    directory: Path,
    *,
    cluster: str | None,
    client: str | None,
    role: str | None,
    force: bool,
) -> None:
    """Make the keys of a cluster in DIRECTORY, or with --client those of one more client.

    \b
    client    minitransactions, watches and status
    operator  that, and changing primaries and replicas, and backups
    node      everything: for members and managers

    \b
        sinfonia keygen /etc/sinfonia/keys --cluster production
        sinfonia keygen /etc/sinfonia/keys --client alice

    Members and managers need cluster.key, clients/ and a key of their own (node.key, or NAME.key
    made with --role node).  A client needs its NAME.key only.  To revoke a key, delete
    clients/NAME.pub wherever there is a copy: that holds within a second or so.
    """
    if client is None:
        if role is not None:
            raise click.UsageError("--role is that of a --client NAME")
        name = cluster or directory.resolve().name
        make_cluster_keys(directory, cluster=name, force=force)
        click.echo(
            f"The keys of cluster {name!r} are in {directory}: {CLUSTER}.key for its processes, "
            f"{OPERATOR}.key for commands.\n"
            f"Add a client: sinfonia keygen {directory} --client NAME"
        )
        return
    if cluster is not None:
        raise click.UsageError("--cluster names new keys; --client adds to those in DIRECTORY")
    file = add_client(directory, client, role=Role(role or Role.CLIENT), force=force)
    click.echo(
        f"{client} may connect, as {role or Role.CLIENT.value}, with {file}.\n"
        f"Revoke it: rm {directory / CLIENTS / client}.pub"
    )
