"""How much one minitransaction on a log does: the memory node executes it in one step."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogLimits:
    """Bounds on a turn; what is beyond them takes more turns.

    batch_parts, batch_bytes: of one entry, for all others wait while it is appended.
    upload_bytes: put into an area at a time; a longer body takes several turns.
    fetch_bytes: of bodies in areas, read at a time.
    slot_bytes: of slots, read at a time.
    reach_min, reach_max: slots read at a time, twice as many as came the last time.
    held: entries that wait behind a body; beyond them no more slots are read.
    read_only_turns: turns in a row that a reader that has not caught up takes without appending.
    """

    batch_parts: int = 1024
    batch_bytes: int = 256 << 10
    upload_bytes: int = 4 << 20
    fetch_bytes: int = 4 << 20
    slot_bytes: int = 256 << 10
    reach_min: int = 4
    reach_max: int = 256
    held: int = 4096
    read_only_turns: int = 8


DEFAULT_LIMITS = LogLimits()
