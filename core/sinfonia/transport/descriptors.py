"""Connections take file descriptors, and a process that has none left cannot write its log.

Every peer that reaches an endpoint can open connections, with a key or without, and ZeroMQ takes as
many as the process may have.  So the process asks for more descriptors than it needs, and when few
are left it closes all connections (admission.py).  Clients with work to do reconnect within a
fraction of a second and ask again, so nothing is lost.
"""

import os
import resource

# What a process asks for, if it may have so many.  Each connection takes some kilobytes, too.
DESCRIPTORS_WANTED = 64 * 1024

# When less than this share of them is left, it is time to hang up.
RESERVED_SHARE = 0.25


def ask_for_descriptors() -> None:
    """Raise this process's soft limit, as far as that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(DESCRIPTORS_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def are_scarce() -> bool:
    """Whether so few are left that they must be kept for files."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        # The lowest number that is free: so many are in use, and if there are gaps there is room.
        free = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    os.close(free)
    return limit != resource.RLIM_INFINITY and free >= limit * (1 - RESERVED_SHARE)
