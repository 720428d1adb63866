"""Only a process with CAP_FSETID may change a file and leave its set-user-ID bits alone.

The kernel clears these bits itself before a cached write and with a truncation.  For
``open(O_TRUNC)`` and for writes that bypass the page cache it leaves that to the file system.  A
process whose capabilities cannot be read counts as having none.
"""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

CAP_FSETID: Final = 4
# The bit of SIGKILL, which is pending in each thread of a process that is to end.
_KILLED: Final = 1 << 8

# Whether the program that changes a file may leave its set-user-ID bits; asked if there are any.
Privileged = Callable[[], bool]


def always() -> bool:
    """The privilege of this library's own callers."""
    return True


def may_keep_set_id(pid: int) -> bool:
    """Whether the thread has CAP_FSETID, in the user namespace of this process."""
    if pid <= 0:
        return False
    process = Path("/proc", str(pid))
    try:
        same_users = (process / "ns/user").readlink() == Path("/proc/self/ns/user").readlink()
        return same_users and bool(_status(pid)["CapEff"] >> CAP_FSETID & 1)
    except (OSError, KeyError):
        return False


def without_set_id(permissions: int) -> int:
    """What is left of the mode of a file that an unprivileged process changes.

    Set-group-ID of a file that its group may not execute means mandatory locking, and stays.
    """
    kept = permissions & ~stat.S_ISUID
    return kept & ~stat.S_ISGID if kept & stat.S_IXGRP else kept


def is_being_killed(pid: int) -> bool:
    """Whether the thread is to end as soon as the kernel lets it, or is gone."""
    try:
        status = _status(pid)
        return bool((status["SigPnd"] | status["ShdPnd"]) & _KILLED)
    except FileNotFoundError:
        return True
    except (OSError, KeyError):
        return False


def _status(pid: int) -> dict[str, int]:
    """The masks in the thread's status."""
    lines = Path("/proc", str(pid), "status").read_text(encoding="utf-8").splitlines()
    fields = (line.split(":\t", 1) for line in lines)
    return {
        key: int(value, 16)
        for key, value in fields
        if key.startswith(("Cap", "Sig", "Shd")) and key != "SigQ"
    }
