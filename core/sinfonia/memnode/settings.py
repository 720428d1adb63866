"""How a memory node is set up, and where in its life it is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import ConfigError
from sinfonia.protocol.lock_waits import LockLimits, LockWaits
from sinfonia.protocol.replication.agreement import ReplicationTimes
from sinfonia.protocol.replication.limits import ReplicationLimits
from sinfonia.protocol.sessions import SessionLimits
from sinfonia.storage.journal import KEEP_BYTES

# The paper's Figure 3.  NVRAM: a log that survives without being synced, on a device that the
# operator vouches for.
MODES = ("RAM", "RAM-REPL", "LOG", "LOG-REPL", "NVRAM", "NVRAM-REPL")

# Bytes per second: a hundredth of one core, for each block of the log is checked in Python.  So a
# gigabyte is gone round in a quarter of an hour, and a terabyte in twelve days.
SCRUB_RATE = 1024 * 1024


def has_disk(mode: str) -> bool:
    """Whether data survives the process."""
    return not mode.startswith("RAM")


def is_replicated(mode: str) -> bool:
    """Whether the memory node may have replicas."""
    return mode.endswith("-REPL")


def syncs_log(mode: str) -> bool:
    """Whether the log is forced to the disk."""
    return mode.startswith("LOG")


class State(Enum):
    """Where in its life a member is."""

    STARTING = "starting"
    CATCHING_UP = "catching up"
    FOLLOWING = "following"
    SETTLING = "settling"
    SERVING = "serving"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class CheckpointLimits:
    """log_bytes: a checkpoint begins when the log has grown by so much.

    step_bytes: it copies so much in a wake-up, half a millisecond in which no client is served.
    """

    log_bytes: int = 64 * 1024 * 1024
    step_bytes: int = 512 * 1024


@dataclass(frozen=True, slots=True)
class ApplyLimits:
    """What a member applies in one wake-up: records, and bytes that they write.

    That takes a few milliseconds, in which no client is answered.  A member that comes back may
    have a whole log to apply: meanwhile a manager would take it for dead if it were silent, and a
    primary would wait for its acknowledgements.
    """

    records: int = 1024
    written_bytes: int = 1024 * 1024


@dataclass(frozen=True, slots=True)
class MemoryNodeSettings:
    """endpoint: where others reach it; capacity in bytes, times in seconds.

    read_lease: how long the locks of a read-only minitransaction last; a restart takes at least as
    long.  keep_log_bytes: so much of the log is kept for replicas and backups.
    replicas: how many the memory node should have; counts when the manager first hears of it.
    scrub_rate: bytes of image and log that are checked each second; 0: none.
    mark_every: the mark that shows a loss of the log's end lags behind by so much; each raise is
    one more sync of a small file, beside the loop.
    lock_line: makes the line for locks; the simulator's checks which waiter leaves it when.
    """

    node: MemoryNodeId
    endpoint: str
    capacity: int
    mode: str = "LOG"
    read_lease: float = 0.25
    settle_max: float = 1.0
    log_segment_bytes: int = 64 * 1024 * 1024
    keep_log_bytes: int = KEEP_BYTES
    replicas: int = 0
    scrub_rate: int = SCRUB_RATE
    mark_every: float = 0.25
    times: ReplicationTimes = field(default_factory=ReplicationTimes)
    replication: ReplicationLimits = field(default_factory=ReplicationLimits)
    checkpoints: CheckpointLimits = field(default_factory=CheckpointLimits)
    applying: ApplyLimits = field(default_factory=ApplyLimits)
    sessions: SessionLimits = field(default_factory=SessionLimits)
    locks: LockLimits = field(default_factory=LockLimits)
    lock_line: Callable[[LockLimits], LockWaits] = LockWaits

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode {self.mode!r} is not one of {', '.join(MODES)}")
        if self.replicas and not is_replicated(self.mode):
            raise ConfigError(f"mode {self.mode} keeps no replicas; choose {self.mode}-REPL")
