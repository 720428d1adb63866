"""The kernel's mount table says what is mounted; a record only says which process serves a mount.

A record is a small file in the run directory, written when a mount serves and removed when it
ends.  A killed mount leaves its record behind, so a record counts only while its process lives.  A
process is known by its pid *and* its start time, because pids are used again.
"""

import contextlib
import ctypes
import errno
import json
import os
import re
import select
import signal
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from sinfonia.operating.processes import ProcessIdentity

FILE_SYSTEM_TYPE = "fuse.sinfoniafs"

# How long `umount` waits for the process behind a mount to give back what it holds.
SERVER_EXIT_SECONDS_MAX = 30.0

# A message about a busy mount names this many of the processes that use it.
USERS_NAMED_MAX = 5

MNT_FORCE = 1
MNT_DETACH = 2


class MountError(Exception):
    """A mount or unmount that cannot be; the message says what to do about it."""


@dataclass(frozen=True, slots=True)
class KernelMount:
    """A line of the kernel's mount table; ``source`` is what was given to mount."""

    mountpoint: Path
    source: str
    device: str


@dataclass(frozen=True, slots=True)
class MountRecord:
    """Which process serves a mount."""

    mountpoint: str
    source: str
    volume: str
    process: ProcessIdentity


# The mount table.


def mounted() -> list[KernelMount]:
    """Every SinfoniaFS mount this process can see, in the order of mounting."""
    mounts = []
    for line in (
        Path("/proc/self/mountinfo")
        .read_text(encoding="utf-8", errors="surrogateescape")
        .splitlines()
    ):
        left, right = line.split(" - ", 1)
        kind, source, _ = right.split(" ", 2)
        if kind == FILE_SYSTEM_TYPE:
            fields = left.split(" ")
            mounts.append(KernelMount(Path(_unescape(fields[4])), _unescape(source), fields[2]))
    return mounts


def _unescape(field: str) -> str:
    """Mount tables write space, tab, newline and backslash as octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), field)


def mount_at(mountpoint: Path) -> KernelMount | None:
    """The mount whose root is ``mountpoint``, resolved (the topmost, if they are stacked).

    Only the mount table is read, so that a process may ask it of its own mount.
    """
    return next((each for each in reversed(mounted()) if each.mountpoint == mountpoint), None)


def mount_containing(path: Path) -> KernelMount | None:
    """The mount that ``path`` lies in."""
    real = Path(os.path.realpath(path))
    holders = [each for each in mounted() if real.is_relative_to(each.mountpoint)]
    return max(holders, key=lambda each: len(each.mountpoint.parts), default=None)


# What must be true before a mount.


def check_fuse_device(device: Path = Path("/dev/fuse")) -> None:
    """Raise MountError unless this process can open the kernel's side of FUSE."""
    if not device.exists():
        raise MountError(
            f"{device} does not exist: load the kernel module with `modprobe fuse`,"
            " or start the container with --device /dev/fuse --cap-add SYS_ADMIN"
        )
    if not os.access(device, os.R_OK | os.W_OK):
        raise MountError(f"no permission for {device}: mount as root")


def check_mountpoint(mountpoint: Path, *, nonempty: bool) -> None:
    """Raise MountError unless ``mountpoint`` is an empty directory, not mounted on yet."""
    try:
        existing = mount_at(Path(os.path.realpath(mountpoint)))
        if existing is not None and _is_dead(mountpoint):
            raise MountError(
                f"the process behind the mount at {mountpoint} is gone:"
                f" remove the mount with `sinfoniafs umount --force {mountpoint}` first"
            )
        if existing is not None:
            raise MountError(f"{existing.source} is mounted at {mountpoint} already")
        if not stat.S_ISDIR(mountpoint.stat().st_mode):
            raise MountError(f"{mountpoint} is not a directory")
        if not nonempty and any(mountpoint.iterdir()):
            raise MountError(
                f"{mountpoint} is not empty: its files would be hidden; choose another"
                " directory, or mount over them with -o nonempty"
            )
    except FileNotFoundError:
        raise MountError(
            f"{mountpoint} does not exist: make it with `mkdir -p {mountpoint}`"
        ) from None
    except OSError as error:
        raise MountError(f"{mountpoint} cannot be mounted on: {error.strerror}") from error


def _is_dead(mountpoint: Path) -> bool:
    try:
        mountpoint.stat()
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


# Which process serves a mount.


def run_directory() -> Path:
    """Where records are: gone after a reboot, like the mounts."""
    if os.geteuid() == 0:
        return Path("/run/sinfoniafs")
    return Path(os.environ.get("XDG_RUNTIME_DIR", f"/tmp/sinfoniafs-{os.geteuid()}")) / "sinfoniafs"  # noqa: S108 - made with mode 0700


@contextlib.contextmanager
def recorded(mountpoint: Path, source: str, volume: str) -> Iterator[None]:
    """Record that this process serves ``mountpoint``, for as long as the context lasts.

    Enter the context before mounting: a process that looks at its own mount before it answers the
    kernel waits for itself for good.  For the same reason ``mountpoint`` must be resolved already.
    """
    process = ProcessIdentity.of(os.getpid())
    assert process is not None
    record = MountRecord(str(mountpoint), source, volume, process)
    file = _record_file(mountpoint)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Written aside and renamed, so that a reader finds a whole record or none.
    partial = file.with_suffix(f".{process.pid}")
    partial.write_text(json.dumps(asdict(record)), encoding="utf-8")
    partial.replace(file)
    try:
        yield
    finally:
        if read_record(mountpoint) == record:
            file.unlink(missing_ok=True)


def read_record(mountpoint: Path) -> MountRecord | None:
    """The record of ``mountpoint`` (resolved), if the process it names still lives."""
    try:
        fields = json.loads(_record_file(mountpoint).read_text(encoding="utf-8"))
        record = MountRecord(**{**fields, "process": ProcessIdentity(**fields["process"])})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    return record if record.process.running else None


def _record_file(mountpoint: Path) -> Path:
    return run_directory() / f"{quote(str(mountpoint), safe='')}.json"


# Unmounting.


def unmount(mountpoint: Path, *, lazy: bool = False, force: bool = False) -> None:
    """Unmount, and wait until the process behind the mount has given back what it held.

    ``lazy`` detaches a mount that is in use; ``force`` also fails the requests that are waiting,
    and removes a mount whose process is dead.
    """
    mountpoint = Path(os.path.realpath(mountpoint))
    if mount_at(mountpoint) is None:
        raise MountError(
            f"{mountpoint} is not a mounted SinfoniaFS; `mount -t {FILE_SYSTEM_TYPE}` lists them"
        )
    record = read_record(mountpoint)
    flags = (MNT_DETACH if lazy or force else 0) | (MNT_FORCE if force else 0)
    if os.geteuid() == 0:
        _unmount_as_root(mountpoint, flags)
    else:
        _unmount_as_user(mountpoint, lazy=lazy or force)
    if record is None:
        _record_file(mountpoint).unlink(missing_ok=True)  # of a process that was killed
        return
    if force:
        record.process.signal(
            signal.SIGTERM
        )  # their callers got an error: do not wait for these requests
    if force or not lazy:
        _wait_for_exit(record)


def _unmount_as_root(mountpoint: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(mountpoint), flags) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EBUSY:
        users = ", ".join(_users_of(mountpoint)) or "another mount or a process not visible here"
        raise MountError(
            f"{mountpoint} is in use by {users}: end them, or detach the mount with --lazy"
        )
    raise MountError(f"{mountpoint} cannot be unmounted: {os.strerror(number)}")


def _unmount_as_user(mountpoint: Path, *, lazy: bool) -> None:
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(mountpoint)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MountError(f"{mountpoint} cannot be unmounted: {done.stderr.strip()}")


def _users_of(mountpoint: Path) -> list[str]:
    """Processes with a file or directory of the mount open, as "name (pid)"."""
    users: list[str] = []
    for process in Path("/proc").iterdir():
        if len(users) == USERS_NAMED_MAX:
            break
        if process.name.isdigit() and _uses(process, mountpoint):
            with contextlib.suppress(OSError):
                users.append(f"{(process / 'comm').read_text().strip()} ({process.name})")
    return users


def _uses(process: Path, mountpoint: Path) -> bool:
    try:
        links = [process / "cwd", process / "root", *(process / "fd").iterdir()]
    except OSError:  # the process has ended, or belongs to another user
        return False
    for link in links:
        with contextlib.suppress(OSError):
            if Path(os.readlink(link)).is_relative_to(mountpoint):  # noqa: PTH115 - a text, not a path to follow
                return True
    return False


def _wait_for_exit(record: MountRecord) -> None:
    try:
        descriptor = os.pidfd_open(record.process.pid)
    except ProcessLookupError:
        return
    try:
        ended = select.select([descriptor], [], [], SERVER_EXIT_SECONDS_MAX)[0]
    finally:
        os.close(descriptor)
    if not ended:
        raise MountError(
            f"{record.mountpoint} is unmounted, but its process {record.process.pid} has not ended"
            f" within {SERVER_EXIT_SECONDS_MAX:.0f} s: is the cluster reachable?"
        )
