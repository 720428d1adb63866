"""Data that no client reads is checked all the same: rot is found while there is still a remedy.

A running member's memory is right, whatever its disk holds.  So that is what the disk is repaired
from, in every mode, and no copy is needed:

- a page of the image that fails its checksum is marked as written, and a checkpoint begins;
- a damaged block of the log is left behind: a new segment begins, and checkpoints are made until
  one is processed up to there.  A restart then reads nothing before that segment, and the damaged
  one is deleted with all before it.  Replicas and backups that would need them copy the image.

Until the checkpoint rules a restart finds the damage, and refuses or is filled from a copy.

The scrubber goes round image and log for ever, at the configured rate, in steps short enough for
the member's loop.  It reads what the kernel shows: pages that are still in its cache come from
there.  Pages that are to be rewritten anyway are passed over.
"""

from collections.abc import Iterator

from sinfonia.memnode.checkpointer import Checkpointer
from sinfonia.storage.address_space import PAGE_BYTES
from sinfonia.storage.files import SECTOR_BYTES
from sinfonia.storage.log_blocks import Lsn
from sinfonia.storage.stable_storage import StableStorage

# Read and checked at a time: less than a millisecond, if the disk is idle.
STEP_BYTES = 64 * 1024

# A wake-up and a file that is opened cost as much as so many bytes, and a block of the log may have
# a few hundred: without this the scrubber of an idle member took a fifteenth of a core.
CHECK_BYTES = 64 * 1024

# An empty image and log are not gone round more often than this.
PASS_SECONDS_MIN = 1.0


class Scrubber:
    """Scrubs the disk of one life of a member.  Times are monotonic seconds."""

    def __init__(
        self, storage: StableStorage, checkpointer: Checkpointer, *, rate: float, now: float
    ) -> None:
        """``rate`` in bytes per second; 0: only damage that other reads have met is repaired."""
        self.bytes = 0
        self.findings = 0
        self.repairs = 0
        self.passes = 0
        self.pass_seconds = 0.0  # how long the last full pass took
        self._storage = storage
        self._checkpointer = checkpointer
        self._rate = rate
        self._read_at = now  # up to when the rate was used up
        self._pass_begun = now
        self._pass: Iterator[int] = iter(())
        self._bad_pages: set[int] = set()  # found, and not rewritten yet
        self._bad_blocks: set[Lsn] = set()  # found, and still in the log
        self._leave_behind: Lsn | None = None  # the log before it is damaged

    @property
    def repairing(self) -> bool:
        """Whether a finding waits for a checkpoint."""
        return bool(self._bad_pages) or self._leave_behind is not None

    def tick(self, now: float) -> None:
        """Time has passed: check a little.  Call while memory shows all that replay has confirmed.

        Raises StorageError.
        """
        if self._storage.log.suspects:
            for lsn in self._storage.log.take_suspects():
                self._on_bad_block(lsn)
        self._see_to_repairs()
        if not self._rate or now < self._read_at:
            return
        read = next(self._pass, 0)
        if not read:
            self._end_pass(now)
            read = SECTOR_BYTES
        self.bytes += read
        # After a pause the rate is not made up for.
        begun = max(self._read_at, now - STEP_BYTES / self._rate)
        self._read_at = begun + max(read, CHECK_BYTES) / self._rate

    def next_wakeup(self) -> float | None:
        """When ``tick`` should be called next."""
        return self._read_at if self._rate else None

    def _end_pass(self, now: float) -> None:
        if self.bytes:
            self.passes += 1
            self.pass_seconds = now - self._pass_begun
        self._pass_begun = now
        self._pass = self._go_round()
        self._read_at = now + PASS_SECONDS_MIN

    def _go_round(self) -> Iterator[int]:
        """Check everything once; each step yields how much it has read."""
        image, log = self._storage.image, self._storage.log
        for first, pages in image.used_pages(STEP_BYTES // PAGE_BYTES):
            for page in image.rotten_pages(first, pages):
                self._on_bad_page(page)
            yield pages * PAGE_BYTES
        for check in log.check_blocks(STEP_BYTES):
            if check.damaged is not None:
                self._on_bad_block(check.damaged)
            yield max(check.read, SECTOR_BYTES)

    def _on_bad_page(self, page: int) -> None:
        if page in self._bad_pages or page in self._storage.space.dirty:
            return
        if self._checkpointer.will_write(page):
            return
        self.findings += 1
        self._bad_pages.add(page)
        self._storage.space.touch(page)
        self._checkpointer.wanted = True

    def _on_bad_block(self, lsn: Lsn) -> None:
        if lsn in self._bad_blocks:
            return
        self.findings += 1
        self._bad_blocks.add(lsn)
        self._storage.log.begin_segment()
        self._leave_behind = self._storage.log.stable_lsn
        self._checkpointer.wanted = True

    def _see_to_repairs(self) -> None:
        """A checkpoint has been made, perhaps."""
        checkpointer = self._checkpointer
        if checkpointer.wanted or checkpointer.running:
            return
        if self._bad_pages:
            self.repairs += len(self._bad_pages)
            self._bad_pages.clear()
        if self._leave_behind is not None:
            if checkpointer.processed < self._leave_behind:
                checkpointer.wanted = True  # a replica had not applied everything
            else:
                self._storage.log.forget(max(self._bad_blocks))
                self.repairs += len(self._bad_blocks)
                self._bad_blocks.clear()
                self._leave_behind = None
