"""What peers have sent only a part of is held in memory, and libzmq has no bound for that.

It limits the size of a frame, and how many whole messages wait, but not how many frames a message
has, nor how many connections have a part of one.  It does not say how much it holds either.  So the
process looks at its own heap: when that has grown by more than HELD_BYTES_MAX, it is time to hang
up on all peers (admission.py), which frees all parts.  Clients with work to do reconnect and ask
again, so nothing is lost.

The heap is what `malloc` gave away: frames, and large objects of Python's.  Memory that holds the
address space, and small objects, are not in it.  If the heap is as large after hanging up, it was
not the peers, and what it holds then is counted no more.
"""

import ctypes
import os
from pathlib import Path
from typing import ClassVar

# What the heap may gain before all connections are closed.  Clients that write as much as they can
# may have some hundreds of megabytes waiting here for a moment.
HELD_BYTES_MAX = 1024 * 1024 * 1024

# To look at the heap may take tens of milliseconds, so that it is looked at when the process has
# grown by this share of it; to ask how large the process is takes ten microseconds.
STEP_SHARE = 0.25

# After closing all connections, none is closed for so long (seconds): peers that reconnect must get
# something done.  And after so long what is still there was not the peers'.
FORBEARANCE = 10.0
SETTLED_AFTER = 1.0

_STATM = Path("/proc/self/statm")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class _Mallinfo2(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_: ClassVar[list[tuple[str, type[ctypes.c_size_t]]]] = [
        ("arena", ctypes.c_size_t),
        ("ordblks", ctypes.c_size_t),
        ("smblks", ctypes.c_size_t),
        ("hblks", ctypes.c_size_t),
        ("hblkhd", ctypes.c_size_t),
        ("usmblks", ctypes.c_size_t),
        ("fsmblks", ctypes.c_size_t),
        ("uordblks", ctypes.c_size_t),
        ("fordblks", ctypes.c_size_t),
        ("keepcost", ctypes.c_size_t),
    ]


def heap_bytes() -> int:
    """What `malloc` has given away; 0 where there is no glibc that says it."""
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        return 0
    mallinfo2.restype = _Mallinfo2
    found = mallinfo2()
    return int(found.uordblks + found.hblkhd)


def resident_bytes() -> int:
    """How large the process is."""
    try:
        return int(_STATM.read_bytes().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


class HeldMemory:
    """Whether too much of this process's heap was taken since it began; times in seconds."""

    def __init__(self, held_bytes_max: int = HELD_BYTES_MAX) -> None:
        self._max = held_bytes_max
        self._usual = heap_bytes()
        self._seen = resident_bytes()
        self._not_before = 0.0
        self._settled_at: float | None = None

    def is_too_much(self, now: float) -> bool:
        """Whether to close all connections now; the answer is yes once in FORBEARANCE at most."""
        if self._settled_at is not None and now >= self._settled_at:
            self._settled_at = None
            self._usual = max(self._usual, heap_bytes())
            self._seen = resident_bytes()
        resident = resident_bytes()
        self._seen = min(self._seen, resident)
        if resident < self._seen + self._max * STEP_SHARE or now < self._not_before:
            return False
        if heap_bytes() < self._usual + self._max:
            # It was something else, or is not enough; the next step is looked at again.
            self._seen = resident
            return False
        self._not_before = now + FORBEARANCE
        self._settled_at = now + SETTLED_AFTER
        return True
