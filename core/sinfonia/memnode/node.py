"""One life of a memory node, without sockets: the participant's effects carried out in order.

A wake-up is: ``receive`` every batch that has come, then ``flush`` once.  Replies leave ``flush``,
and only after everything logged before them is on stable storage; all that the wake-up logged
shares one sync (group commit).  What may be logged lazily waits for such a sync, at most
LAZY_SYNC_MAX.

A life goes ``starting`` (the log is replayed, the manager not yet heard) -> ``settling`` (welcome;
what was left in doubt is being settled) -> ``serving``.  An in-doubt minitransaction that cannot be
settled, because a participant is down, does not keep the others waiting: after ``settle_max`` the
node serves, with the locks of what is in doubt held.

After a StorageError the object must be dropped: memory may hold what the disk does not.
"""

from dataclasses import dataclass
from enum import Enum

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import ConfigError, StorageError
from sinfonia.protocol.attempts import CLOCK_DRIFT_MARGIN
from sinfonia.protocol.effects import Log, LogLazily, Send, SendOnceStable
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    Register,
    Registered,
    Replies,
    Reply,
    Requests,
    Status,
    Vote,
    starts_of,
)
from sinfonia.protocol.participant import Participant
from sinfonia.storage.address_space import AddressSpace
from sinfonia.storage.data_directory import DataDirectory
from sinfonia.storage.disk_image import RunningCheckpoint
from sinfonia.storage.files import Files
from sinfonia.storage.stable_storage import StableStorage, open_stable_storage

MODES = ("RAM", "LOG")

# Acknowledgements of COMMIT wait so long for a sync that is needed anyway.
LAZY_SYNC_MAX = 0.005

# A checkpoint copies this much per wake-up: half a millisecond in which nobody is served.
CHECKPOINT_STEP_BYTES = 512 * 1024

# A checkpoint that waits for the disk is looked after so often.
CHECKPOINT_LOOK = 0.005


class State(Enum):
    """Where in its life a memory node is."""

    STARTING = "starting"
    SETTLING = "settling"
    SERVING = "serving"


@dataclass(frozen=True, slots=True)
class MemoryNodeSettings:
    """endpoint: where others reach it; capacity in bytes, times in seconds.

    read_lease: how long the locks of a read-only minitransaction last; a restart takes at least as
    long.  checkpoint_log_bytes: a checkpoint begins when the log has grown by so much.
    """

    node: MemoryNodeId
    endpoint: str
    capacity: int
    mode: str = "LOG"
    read_lease: float = 0.25
    settle_max: float = 1.0
    checkpoint_log_bytes: int = 64 * 1024 * 1024
    log_segment_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode {self.mode!r} is not one of {', '.join(MODES)}")


class MemoryNode:
    """Participant and storage of one memory node.  Times are monotonic seconds."""

    def __init__(
        self, settings: MemoryNodeSettings, files: Files, *, new_identity: str, now: float
    ) -> None:
        """Begin a new life on the data directory ``files``, replaying its log.

        ``new_identity`` names the data directory if it has no name yet.  Raises StorageError if it
        cannot be used.
        """
        self.settings = settings
        self.state = State.STARTING
        self._owner = DataDirectory.create_or_open(
            files,
            node=settings.node,
            capacity=settings.capacity,
            mode=settings.mode,
            new_identity=new_identity,
        )
        # Locks of read-only minitransactions that a former life gave, and lost, have ended by then.
        self._serve_from = now
        if self._owner.restarted:
            self._serve_from += settings.read_lease * (1 + CLOCK_DRIFT_MARGIN)
        self._settled_by = now
        self._storage: StableStorage | None = None
        if settings.mode == "LOG":
            self._storage = _open_storage(files, settings, self._owner.identity)
            self.space = self._storage.space
        else:
            self.space = AddressSpace(settings.capacity)
        self.participant = Participant(
            node=settings.node,
            incarnation=self._owner.incarnation,
            memory=self.space,
            logged=self._storage is not None,
            read_lease=settings.read_lease,
            status=self.status,
        )
        self.replayed = 0
        if self._storage is not None:
            self._replay(self._storage)
        self._checkpoint: RunningCheckpoint | None = None
        self._ready: dict[bytes, list[Reply]] = {}
        self._held: list[tuple[bytes, list[Reply]]] = []
        self._must_sync = False
        self._held_since = now
        self._ticked_at = now
        self.syncs = 0

    def _replay(self, storage: StableStorage) -> None:
        self.participant.restore(storage.checkpoint.state)
        for _, record in storage.log.replay(storage.checkpoint.processed):
            self.participant.replay(record)
            self.replayed += 1
        storage.image.confirm(self.space.dirty)
        # A crash may have come between the checkpoint and this.
        storage.log.truncate_before(storage.checkpoint.processed)
        self._processed = storage.checkpoint.processed

    # --- the manager ---------------------------------------------------------------------------

    def registration(self) -> Register:
        """What to send to the manager until it welcomes this memory node."""
        settings, owner = self.settings, self._owner
        return Register(
            settings.node,
            settings.endpoint,
            settings.capacity,
            settings.mode,
            owner.identity,
            owner.incarnation,
            self._storage is None or self._storage.founded,
        )

    def on_registered(self, message: Registered, now: float) -> None:
        """The manager has answered.  Raises StorageError if this memory node may not serve."""
        if self.state is not State.STARTING:
            return
        if starts_of(message.incarnation) != self._owner.incarnation:
            return  # a late answer to a former life
        if message.refusal:
            raise StorageError(message.refusal)
        self.participant.incarnation = message.incarnation
        self.participant.directory = message.directory
        self.participant.epoch = max(self.participant.epoch, message.epoch)
        self.state = State.SETTLING
        self._settled_by = now + self.settings.settle_max

    # --- a wake-up -----------------------------------------------------------------------------

    def receive(self, route: bytes, batch: Requests, now: float) -> None:
        """Execute a batch; its replies come out of ``flush``."""
        for effect in self.participant.on_requests(batch, now):
            if type(effect) is Log:
                assert self._storage is not None
                self._storage.log.append(effect.record)
                self._must_sync = True
            elif type(effect) is Send:
                waiting = self._ready.setdefault(route, effect.replies)
                if waiting is not effect.replies:
                    waiting += effect.replies
            elif type(effect) is LogLazily:
                assert self._storage is not None
                self._storage.log.append(effect.record)
            elif isinstance(effect, SendOnceStable):
                if self._storage is None:
                    self._ready.setdefault(route, []).extend(effect.replies)
                    continue
                if not self._held:
                    self._held_since = now
                self._held.append((route, effect.replies))

    def flush(self, now: float) -> list[tuple[bytes, Replies]]:
        """Sync what must be stable; the replies that may leave then.  Raises StorageError."""
        if self._must_sync or (self._held and now - self._held_since >= LAZY_SYNC_MAX):
            self.sync()
        ready, self._ready = self._ready, {}
        participant = self.participant
        return [
            (
                route,
                Replies(
                    PROTOCOL_VERSION,
                    self.settings.node,
                    participant.incarnation,
                    participant.epoch,
                    replies,
                ),
            )
            for route, replies in ready.items()
        ]

    def sync(self) -> None:
        """Make everything logged stable; what was held back for that becomes ready."""
        assert self._storage is not None
        self._storage.log.sync()
        self.syncs += 1
        self._must_sync = False
        for route, replies in self._held:
            self._ready.setdefault(route, []).extend(replies)
        self._held.clear()

    def tick(self, now: float) -> None:
        """Time has passed: begin to serve, carry the checkpoint on.  Raises StorageError."""
        self._ticked_at = now
        if self.state is State.SETTLING and now >= self._serve_from:
            settled = not self.participant.in_doubt
            if settled or now >= self._settled_by:
                self.state = State.SERVING
                self.participant.serving = True
        if self._storage is not None:
            self._carry_checkpoint(self._storage)

    def next_wakeup(self) -> float | None:
        """When ``tick`` and ``flush`` must be called next; None: not before a batch comes."""
        if self.state is State.SETTLING:
            return 0.0
        if self._checkpoint is not None:
            return self._ticked_at + CHECKPOINT_LOOK if self._checkpoint.waiting else 0.0
        return self._held_since + LAZY_SYNC_MAX if self._held else None

    def _carry_checkpoint(self, storage: StableStorage) -> None:
        if self._checkpoint is None:
            if storage.log.stable - self._processed < self.settings.checkpoint_log_bytes:
                return
            self.begin_checkpoint()
            assert self._checkpoint is not None
        # The image must not get ahead of the log.
        if storage.log.dirty:
            self.sync()
        if self._checkpoint.step(self.space, CHECKPOINT_STEP_BYTES):
            self._processed = self._checkpoint.processed
            storage.log.truncate_before(self._processed)
            self._checkpoint = None

    def begin_checkpoint(self) -> None:
        """Note the state and the pages to be saved; ``tick`` does the rest."""
        storage = self._storage
        assert storage is not None
        if storage.log.dirty:
            self.sync()
        self._checkpoint = storage.image.begin_checkpoint(
            self.space.take_dirty(), self.participant.state(), storage.log.stable
        )

    # --- for people ----------------------------------------------------------------------------

    def status(self) -> Status:
        """Load and health."""
        participant = self.participant
        figures: dict[str, int | float | str] = {
            "mode": self.settings.mode,
            "capacity_bytes": self.settings.capacity,
            "incarnation": participant.incarnation,
            "epoch": participant.epoch,
            "in_doubt": len(participant.in_doubt),
            "decided": len(participant.decided),
            "lock_segments": len(participant.locks),
            "clients": len(participant.sessions),
            "duplicates": participant.duplicates,
            "replayed_records": self.replayed,
            "log_syncs": self.syncs,
        }
        for vote in Vote:
            figures[f"votes_{vote.name.lower()}"] = participant.votes[vote]
        if self._storage is not None:
            figures["log_bytes"] = self._storage.log.stable - self._storage.log.start
        return Status(self.settings.node, self.state.value, figures)

    def close(self) -> None:
        """Let go of files and memory; what was not synced is lost, as in a crash."""
        if self._storage is not None:
            self._storage.close()
        else:
            self.space.close()

    def check_invariants(self) -> None:
        """What holds between two wake-ups."""
        self.participant.check_invariants()
        assert not self._must_sync, "flush was not called"
        if self._storage is not None:
            self._storage.log.check_invariants()


def _open_storage(files: Files, settings: MemoryNodeSettings, identity: str) -> StableStorage:
    try:
        return open_stable_storage(
            files,
            identity=identity,
            capacity=settings.capacity,
            segment_bytes=settings.log_segment_bytes,
        )
    except OSError as error:
        raise StorageError(f"cannot open the data directory: {error.strerror}") from error
