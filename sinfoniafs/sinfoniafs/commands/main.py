"""Commands parse and print; other modules do the work, and an error is one line.

Exit codes: 0 done; 1 failed, and the message says what to do; 2 wrong usage; ``fsck`` adds 4 for a
volume with problems left in it, as fsck(8) has it.
"""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import trio

from sinfonia import Keys, connect
from sinfonia.cluster_keys import KEYS_VARIABLE
from sinfonia.errors import SinfoniaError
from sinfoniafs import mounts
from sinfoniafs.commands.arguments import (
    CLUSTER_VARIABLE,
    MountOptions,
    Source,
    parse_mount_options,
)
from sinfoniafs.commands.volume import JSON_OPTION, fsck, info, mkfs
from sinfoniafs.errors import FileSystemError, FormatError
from sinfoniafs.mount import LOG_FORMAT, MountRequest, in_background, serve
from sinfoniafs.mounts import MountError
from sinfoniafs.patience import TIMEOUT_S
from sinfoniafs.session import SESSION_TIMES, SessionTimes
from sinfoniafs.volume.mounting import DEFAULT_NAME

LOG_FILE_DEFAULT = Path("/var/log/sinfoniafs.log")

# Errors that a user can cause or mend: their message is enough.
USER_ERRORS = (MountError, FormatError, FileSystemError, SinfoniaError)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what a user can cause or mend into one line and exit code 1."""
    try:
        yield
    except (*USER_ERRORS, ExceptionGroup) as error:
        cause: BaseException = error
        # Task groups wrap what was raised in them.
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        if not isinstance(cause, USER_ERRORS):
            raise
        raise click.ClickException(str(cause)) from None


class PlainGroup(click.Group):
    """Commands whose errors are one line each."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as click has it
        with plain_errors():
            return super().invoke(ctx)


@click.group(cls=PlainGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sinfonia-cluster")
def main() -> None:
    """SinfoniaFS: a file system for many machines, on the memory nodes of a Sinfonia cluster.

    \b
    A first look, on one machine:
        sinfonia up /tmp/cluster
        sinfoniafs mkfs /tmp/cluster
        sinfoniafs mount /tmp/cluster /mnt/a
        sinfoniafs mount /tmp/cluster /mnt/b      # what is written in a is there in b
        sinfoniafs umount /mnt/a

    CLUSTER is tcp://HOST:PORT of the manager, or the directory made by `sinfonia up`;
    tcp://HOST:PORT/NAME names a volume other than "default".  Without CLUSTER it is that of
    $SINFONIA_CLUSTER.
    """


main.add_command(mkfs)
main.add_command(info)
main.add_command(fsck)


@main.command()
@click.argument("places", metavar="[CLUSTER] MOUNTPOINT", nargs=-1, required=True)
@click.option("-o", "options", default="", metavar="OPT,...", help="Mount options, as in fstab.")
@click.option("-f", "--foreground", is_flag=True, help="Do not go into the background.")
@click.option("--name", help=f"The volume to mount (default: {DEFAULT_NAME}).")
@click.option("--read-only", is_flag=True, help="The same as -o ro.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    help="How long a system call may wait for memory nodes that do not answer; the same as"
    f" -o timeout=SECONDS (default: {TIMEOUT_S:.0f}).",
)
@click.option(
    "--session",
    metavar="SECONDS",
    help="After how many seconds without a heartbeat another mount is taken for dead; use one value"
    f" on all mounts.  The same as -o session=SECONDS (default: {SESSION_TIMES.silence:.0f}).",
)
@click.option(
    "--log-file",
    type=click.Path(path_type=Path),
    help=f"Where the mount in the background logs (default: {LOG_FILE_DEFAULT}).",
)
@click.option(
    "--keys",
    type=click.Path(path_type=Path),
    help=f"Key file of a cluster with keys; the same as -o keys=FILE.  [default: DIR's; "
    f"${KEYS_VARIABLE} for endpoints]",
)
@JSON_OPTION
def mount(
    places: tuple[str, ...],
    options: str,
    name: str | None,
    log_file: Path | None,
    *,
    foreground: bool,
    read_only: bool,
    timeout: str | None,
    session: str | None,
    keys: Path | None,
    as_json: bool,
) -> None:
    """Mount a volume of CLUSTER, or else of $SINFONIA_CLUSTER, at the directory MOUNTPOINT.

    The command returns when the mount can be used; the mount's process stays in the background
    until the volume is unmounted.  Any number of machines, or directories of one machine, may mount
    the same volume.  What is written through one mount is seen through all others at once.

    A write returns when the memory nodes have the data: there is nothing to sync, and no data is
    lost with this machine.  Exceptions are files changed through a shared writable mmap, which the
    kernel writes back when msync or close asks for it.
    """
    cluster, mountpoint = _cluster_and_mountpoint(places)
    if as_json and foreground:
        raise click.UsageError("--json tells of a mount in the background; leave --foreground out")
    given = [f"timeout={timeout}"] if timeout else []
    given += [f"session={session}"] if session else []
    parsed = parse_mount_options(",".join([options, *given]))
    parsed.volume = name or parsed.volume
    parsed.log_file = log_file or parsed.log_file
    parsed.keys = keys or parsed.keys
    if read_only:
        parsed.kernel.add("ro")
    request = _mount(cluster, mountpoint, parsed, foreground=foreground)
    if as_json:
        facts = {
            "cluster": request.source,
            "volume": request.volume,
            "mountpoint": str(request.mountpoint),
        }
        click.echo(json.dumps(facts))


def _cluster_and_mountpoint(places: Sequence[str]) -> tuple[Source, Path]:
    """CLUSTER may be left out if $SINFONIA_CLUSTER names it.  Raises click.UsageError."""
    *clusters, mountpoint = places
    if not clusters:
        clusters = [cluster for cluster in [os.environ.get(CLUSTER_VARIABLE)] if cluster]
    if len(clusters) != 1:
        raise click.UsageError(
            f"write sinfoniafs mount CLUSTER MOUNTPOINT, or set ${CLUSTER_VARIABLE} and leave "
            "CLUSTER out"
        )
    return Source.parse(clusters[0]), Path(mountpoint)


def _mount(
    source: Source, mountpoint: Path, options: MountOptions, *, foreground: bool
) -> MountRequest:
    """Mount it; returns what was mounted once it serves, in the foreground once it has ended."""
    mounts.check_mountpoint(mountpoint, nonempty=options.nonempty)
    mounts.check_fuse_device()
    kernel = set(options.kernel)
    if os.geteuid() == 0 and "allow_root" not in kernel:
        kernel.add("allow_other")  # what root mounts is for everyone, as permissions allow
    request = MountRequest(
        source=source.text,
        volume=options.volume or source.volume or DEFAULT_NAME,
        mountpoint=mountpoint.resolve(),
        options=frozenset(kernel),
        timeout=options.timeout,
        times=SessionTimes(options.session),
    )

    # Read here: the background process has no terminal on which to say that it cannot be read.
    keys = source.keys(options.keys)

    def run(on_serving: Callable[[], None]) -> None:
        trio.run(_connect_and_serve, source, keys, request, on_serving)

    if not foreground:
        in_background(run, log_file=options.log_file or LOG_FILE_DEFAULT)
        return request
    logging.basicConfig(format=LOG_FORMAT, level=logging.INFO, stream=sys.stderr)
    run(lambda: click.echo(f"{request.source} is mounted at {mountpoint}; Ctrl-C unmounts it"))
    return request


async def _connect_and_serve(
    source: Source, keys: Keys | None, request: MountRequest, on_serving: Callable[[], None]
) -> None:
    async with await connect(source.endpoint(), keys=keys) as cluster:
        await serve(cluster, request, on_serving=on_serving)


@main.command(short_help="Unmount a volume, and wait until its process has ended.")
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option(
    "--lazy",
    is_flag=True,
    help="Detach the mount now, even in use; its process ends when it is no longer used.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Fail the requests that are waiting; also removes a mount whose process is dead.",
)
@JSON_OPTION
def umount(mountpoint: Path, *, lazy: bool, force: bool, as_json: bool) -> None:
    """Unmount the volume at MOUNTPOINT, and wait until the mount has given back what it held."""
    mounts.unmount(mountpoint, lazy=lazy, force=force)
    if as_json:
        click.echo(json.dumps({"unmounted": str(mountpoint.absolute())}))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", type=Source.parse)
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("-o", "options", multiple=True, metavar="OPT,...", help="Mount options.")
@click.option("-t", "kind", expose_value=False, help="Ignored: there is one type.")
@click.option("-s", "sloppy", is_flag=True, expose_value=False, help="Ignored.")
@click.option("-n", "no_mtab", is_flag=True, expose_value=False, help="Ignored.")
@click.option("-v", "verbose", is_flag=True, expose_value=False, help="Ignored.")
@click.option("-f", "fake", is_flag=True, help="Check the arguments, mount nothing.")
def mount_helper(source: Source, mountpoint: Path, options: tuple[str, ...], *, fake: bool) -> None:
    """What mount(8) calls for `mount -t sinfoniafs CLUSTER[/VOLUME] MOUNTPOINT`.

    \b
    In /etc/fstab:
        tcp://10.0.0.1:7000/default  /data  sinfoniafs  _netdev,nofail  0  0
    """
    with plain_errors():
        parsed = parse_mount_options(",".join(options))
        if not fake:
            _mount(source, mountpoint, parsed, foreground=False)
