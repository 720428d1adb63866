"""What users write for a volume and for mount options, read in one place.

A volume is named by its cluster, ``tcp://HOST:PORT`` or the directory that ``sinfonia up`` made,
and by a name of its own, ``default`` unless said otherwise::

    tcp://127.0.0.1:7000            the volume "default"
    tcp://127.0.0.1:7000/photos     the volume "photos"
    /var/lib/sinfonia               the volume "default" of the cluster described there
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import click

from sinfonia.cluster_keys import resolve_keys
from sinfonia.config import resolve_endpoint
from sinfonia.keys_option import keys_option
from sinfonia.transport.keys import Keys
from sinfoniafs.patience import TIMEOUT_S
from sinfoniafs.session import SESSION_TIMES

# The cluster of commands that name none, as for `sinfonia`.
CLUSTER_VARIABLE = "SINFONIA_CLUSTER"

CommandT = TypeVar("CommandT", bound=Callable[..., object])

# Passed on to the kernel as they are.
KERNEL_OPTION = re.compile(r"r[ow]|(no)?(suid|dev|exec)|(dir)?sync|allow_(other|root)|max_read=\d+")
# Of concern to mount(8), systemd and boot scripts only; or what is so anyway: every write is
# synchronous, and reading never changes a time.
OPTION_WITHOUT_EFFECT = re.compile(
    r"defaults|(no)?auto|(no)?user|users|owner|group|_netdev|nofail|async"
    r"|(no)?(dir|rel)?atime|x-.*|comment=.*|uhelper=.*"
)


# Shorter than this, a busy memory node would be taken for one that is down.
TIMEOUT_MIN_S = 0.5
# Shorter than this, a mount on a loaded host would be taken for dead all the time.
SESSION_MIN_S = 1.0


def seconds(text: str, *, at_least: float) -> float:
    """A number of seconds.  Raises click.BadParameter."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not at_least <= value < math.inf:
        raise click.BadParameter(f"{text!r} is no number of seconds of at least {at_least}")
    return value


@dataclass(frozen=True, slots=True)
class Source:
    """A volume as the user named it."""

    text: str
    cluster: str
    volume: str | None

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Raises click.BadParameter if ``text`` names no cluster."""
        if "://" not in text:
            # Made absolute: the process that mounts works in the root directory.
            path = Path(text)
            place = str(path.absolute()) if path.exists() or "/" in text else text
            return cls(place, place, None)
        scheme, _, rest = text.partition("://")
        host, _, volume = rest.partition("/")
        if scheme != "tcp" or not host or "/" in volume:
            raise click.BadParameter(
                f"{text!r} is neither tcp://HOST:PORT[/VOLUME] nor a cluster directory"
            )
        return cls(text, f"tcp://{host}", volume or None)

    def endpoint(self) -> str:
        """Where the cluster answers.  Raises ConfigError if its description is no good."""
        return resolve_endpoint(self.cluster)

    def keys(self, chosen: Path | None = None) -> Keys | None:
        """With what to connect: ``chosen``, or what the cluster's description or $SINFONIA_KEYS
        says.  Raises ConfigError."""
        return resolve_keys(self.cluster, chosen)


def cluster_argument(command: CommandT) -> CommandT:
    """CLUSTER, or the cluster of $SINFONIA_CLUSTER, and the keys with which to connect."""
    return click.argument("cluster", type=Source.parse, envvar=CLUSTER_VARIABLE)(
        keys_option(command)
    )


@dataclass(slots=True)
class MountOptions:
    """A mount option string, taken apart."""

    kernel: set[str] = field(default_factory=set)
    volume: str | None = None
    log_file: Path | None = None
    keys: Path | None = None
    nonempty: bool = False
    timeout: float = TIMEOUT_S
    session: float = SESSION_TIMES.silence


def parse_mount_options(text: str) -> MountOptions:
    """Read ``-o`` options; raises click.BadParameter for one that is not known."""
    options = MountOptions()
    for option in filter(None, text.split(",")):
        key, _, value = option.partition("=")
        if KERNEL_OPTION.fullmatch(option):
            options.kernel.add(option)
        elif key == "volume" and value:
            options.volume = value
        elif key == "log_file" and value:
            options.log_file = Path(value)
        elif key == "keys" and value:
            options.keys = Path(value)
        elif key == "timeout":
            options.timeout = seconds(value, at_least=TIMEOUT_MIN_S)
        elif key == "session":
            options.session = seconds(value, at_least=SESSION_MIN_S)
        elif option == "nonempty":
            options.nonempty = True
        elif not OPTION_WITHOUT_EFFECT.fullmatch(option):
            raise click.BadParameter(
                f"unknown mount option {option!r}; there are volume=NAME, log_file=FILE, keys=FILE,"
                " timeout=SECONDS, session=SECONDS, nonempty, ro, suid, dev,"
                " noexec, sync, allow_other, allow_root and max_read=BYTES"
            )
    return options
