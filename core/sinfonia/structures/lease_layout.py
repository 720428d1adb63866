"""The layout of a lease, and what its bytes mean to its holder and to its contenders.

::

    0   fence u64          how often the lease changed hands
    8   renewals u64       signs of life of its holders
    16  holder 16 bytes    its holder, or its last one
    32  attempt u64        number of the holder's claim
    40  duration_ms u32    how long the holder must be silent to lose it; 0: free
    44  waiting u32        contenders that found it held since it changed hands
    48  16 bytes           reserved, zeros

Little-endian throughout.  Of a lease that was never held all bytes are zero, so that fresh memory
needs no formatting.
"""

import secrets
import struct
from dataclasses import dataclass
from typing import Self

from sinfonia.errors import LimitExceeded

_STATE = struct.Struct("<QQ16sQII")
_MARK = struct.Struct("<QQ")

LEASE_BYTES = 64
STATE_BYTES = _STATE.size
HOLDER_BYTES = 16

RENEWALS_OFFSET = 8
DURATION_OFFSET = 40
WAITING_OFFSET = 44

# A contender waits for so much more than the duration: clocks may differ so much in rate.
DRIFT_MARGIN = 0.1

# Below, renewals would fill the network; above, one that is forgotten stays for a day.
DURATION_S_MIN = 0.01
DURATION_S_MAX = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Claim:
    """``holder`` wants a lease; ``attempt`` numbers what it does, and is used for one holding.

    To acquire once more under the same claim is to ask whether the first time succeeded.
    """

    holder: bytes
    attempt: int

    def __post_init__(self) -> None:
        if len(self.holder) != HOLDER_BYTES or not any(self.holder):
            raise LimitExceeded(f"a holder is {HOLDER_BYTES} bytes, not all of them zero")
        if not 0 <= self.attempt < 2**64:
            raise LimitExceeded("the number of an attempt has 64 bits")

    @classmethod
    def fresh(cls, holder: bytes) -> Self:
        """A claim of ``holder`` that was never made before."""
        return cls(holder, secrets.randbits(64))


@dataclass(frozen=True, slots=True)
class LeaseState:
    """What the bytes of a lease say; ``duration`` (seconds) is 0 if the lease is free.

    ``holder`` is the last one then.  ``waiting`` counts contenders that found it held.
    """

    fence: int
    renewals: int
    holder: bytes
    attempt: int
    duration: float
    waiting: int = 0

    @property
    def is_free(self) -> bool:
        """Whether it was released, or never held."""
        return self.duration == 0

    def belongs_to(self, claim: Claim) -> bool:
        """Whether ``claim`` was successful, and no other has taken over."""
        return not self.is_free and (self.holder, self.attempt) == (claim.holder, claim.attempt)

    @property
    def mark(self) -> bytes:
        """What stays the same as long as the holder gives no sign of life."""
        return _MARK.pack(self.fence, self.renewals)

    def encode(self) -> bytes:
        """The bytes of it."""
        duration_ms = round(self.duration * 1e3)
        return _STATE.pack(
            self.fence, self.renewals, self.holder, self.attempt, duration_ms, self.waiting
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``; any bytes are a lease."""
        fence, renewals, holder, attempt, duration_ms, waiting = _STATE.unpack_from(data)
        return cls(
            fence, renewals, holder, attempt, min(duration_ms / 1e3, DURATION_S_MAX), waiting
        )


class Patience:
    """How long a contender has seen no sign of life of a holder.

    ``waited`` is to grow by every pause (seconds) of the contender.
    """

    def __init__(self) -> None:
        """Nothing was seen as yet."""
        self.waited = 0.0
        self._mark = b""
        self._blocked_by = -1
        self._announced_to = -1

    def announce(self) -> bool:
        """Whether the holder is to hear, and has not heard, that a contender waits."""
        if self._blocked_by == self._announced_to:
            return False
        self._announced_to = self._blocked_by
        return True

    def missing(self, state: LeaseState) -> float:
        """For how many seconds the lease must be left alone; ``state`` was just seen."""
        if state.is_free:
            return 0.0
        if state.mark != self._mark:
            # Counted from now, when it was seen; it has been so for longer.
            self._mark, self.waited, self._blocked_by = state.mark, 0.0, state.fence
        return state.duration * (1 + DRIFT_MARGIN) - self.waited
