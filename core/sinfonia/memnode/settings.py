"""How a memory node is set up, and where in its life it is."""

from dataclasses import dataclass, field
from enum import Enum

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import ConfigError
from sinfonia.protocol.replication.agreement import ReplicationTimes
from sinfonia.storage.journal import KEEP_BYTES

# The paper's Figure 3.  NVRAM: a log that survives without being synced, on a device that the
# operator vouches for.
MODES = ("RAM", "RAM-REPL", "LOG", "LOG-REPL", "NVRAM", "NVRAM-REPL")


# A terabyte is gone round in a day and a half, at a hundredth of one core.
SCRUB_RATE = 8 * 1024 * 1024


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
class MemoryNodeSettings:
    """endpoint: where others reach it; capacity in bytes, times in seconds.

    read_lease: how long the locks of a read-only minitransaction last; a restart takes at least as
    long.  checkpoint_log_bytes: a checkpoint begins when the log has grown by so much.
    keep_log_bytes: so much of the log is kept for replicas and backups.
    replicas: how many the memory node should have, if nobody has said so before.
    scrub_rate: bytes of image and log that are checked each second; 0: none.
    """

    node: MemoryNodeId
    endpoint: str
    capacity: int
    mode: str = "LOG"
    read_lease: float = 0.25
    settle_max: float = 1.0
    checkpoint_log_bytes: int = 64 * 1024 * 1024
    log_segment_bytes: int = 64 * 1024 * 1024
    keep_log_bytes: int = KEEP_BYTES
    replicas: int = 0
    scrub_rate: int = SCRUB_RATE
    times: ReplicationTimes = field(default_factory=ReplicationTimes)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode {self.mode!r} is not one of {', '.join(MODES)}")
        if self.replicas and not is_replicated(self.mode):
            raise ConfigError(f"mode {self.mode} keeps no replicas; choose {self.mode}-REPL")
