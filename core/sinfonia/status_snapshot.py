"""A process's loop publishes snapshots, readers take the latest; neither waits for the other.

A snapshot is immutable and replaced whole, which is one assignment: there is no lock, so a slow
reader cannot stop the loop.  Writing costs the loop some microseconds about once a second.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Seconds between two snapshots: scrapers come more rarely than that.
PUBLISH_EVERY = 1.0

Figures = Mapping[str, int | float | str]


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many durations were no longer than each bound, the last infinite, and their sum."""

    cumulative: tuple[tuple[float, int], ...]
    total: float


@dataclass(frozen=True, slots=True)
class StatusSnapshot:
    """What a process reports of itself to monitoring.

    well: whether it does what it is there for.  ``load``: what was counted, by class tag, in the
    order (executed, aborted, retried, bytes read, bytes written).  ``node``: the memory node of
    which it is a member; None for a manager.
    """

    taken_at: float
    node: int | None
    state: str
    well: bool
    figures: Figures
    load: Mapping[str, tuple[int, int, int, int, int]] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=dict)


class SnapshotPublisher:
    """Holds the latest snapshot of one process; ``taken_at`` and ``now`` are monotonic seconds."""

    def __init__(self) -> None:
        self.latest: StatusSnapshot | None = None
        self._due = 0.0

    def is_due(self, now: float) -> bool:
        """Whether it is time for another snapshot."""
        return now >= self._due

    def publish(self, snapshot: StatusSnapshot) -> None:
        """Publish ``snapshot`` in place of the one before."""
        self.latest = snapshot
        self._due = snapshot.taken_at + PUBLISH_EVERY
