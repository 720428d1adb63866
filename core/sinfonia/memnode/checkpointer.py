"""Checkpoints, a step at a time, so that no request waits for one.

The image must not get ahead of the log: a step is made only when the log is stable.
"""

from collections.abc import Callable

from sinfonia.memnode.settings import CheckpointLimits
from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.records import ParticipantState
from sinfonia.storage.disk_image import RunningCheckpoint
from sinfonia.storage.log_blocks import Lsn
from sinfonia.storage.stable_storage import StableStorage

# How often a checkpoint that waits for the disk is carried on.
LOOK_EVERY = 0.005


class Checkpointer:
    """Begins a checkpoint when the log has grown enough, and carries it on."""

    def __init__(self, storage: StableStorage, limits: CheckpointLimits) -> None:
        self.made = 0
        self.wanted = False  # whether one is to begin however little was logged
        self._storage = storage
        self._limits = limits
        self._processed = storage.checkpoint.processed
        self._running: RunningCheckpoint | None = None
        self._ticked_at = 0.0

    @property
    def running(self) -> bool:
        """Whether a checkpoint is under way."""
        return self._running is not None

    @property
    def due(self) -> bool:
        """Whether the log has grown enough, or something else asks for one."""
        return (
            self.wanted or self._storage.log.stable_lsn - self._processed >= self._limits.log_bytes
        )

    @property
    def processed(self) -> Lsn:
        """Where a restart begins to replay."""
        return self._processed

    def will_write(self, page: int) -> bool:
        """Whether the checkpoint that runs has still to save ``page``."""
        return self._running is not None and self._running.will_write(page)

    def begin(self, applied: Seq, state: ParticipantState) -> None:
        """Note what is to be saved: lists and memory as of the record ``applied``.

        The log must be stable.
        """
        storage = self._storage
        assert not storage.log.dirty
        self.wanted = False
        self._running = storage.image.begin_checkpoint(
            storage.space.take_dirty(),
            state,
            lsn=storage.log.lsn_after(applied),
            seq=applied,
            history=[life for life in storage.log.history if life.first <= applied],
        )

    def carry_on(self, now: float, *, sync: Callable[[], None]) -> bool:
        """Do a step of the checkpoint that runs; True once a restart begins with it.

        ``sync`` makes the log stable.

        Raises StorageError.
        """
        self._ticked_at = now
        if self._running is None:
            return False
        storage = self._storage
        if storage.log.dirty:
            sync()
        # What a page may show is vouched for before the page is written.
        storage.log.vouch(saving=True)
        if not self._running.step(storage.space, self._limits.step_bytes):
            return False
        storage.log.vouch(saving=False)
        self._processed = self._running.processed
        storage.log.truncate_before(self._processed)
        self._running = None
        self.made += 1
        return True

    def next_wakeup(self) -> float | None:
        """When ``carry_on`` must be called next; None: there is nothing to do."""
        if self._running is None:
            return None
        return self._ticked_at + LOOK_EVERY if self._running.waiting else 0.0
