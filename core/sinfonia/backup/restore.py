"""Makes data directories of a backup, each as its memory node would be after a crash of everything.

The image is replayed up to the moment, what was in doubt is decided as the cut says, and all of it
is written as a checkpoint; the log begins after it.  An ordinary start does the rest.

Restored memory nodes are new: they have new identities, so that no process takes them for the old
members.  They remember what they answered to clients up to the moment.  A client that outlived the
disaster and sends an old tid again is told what the restored memory shows of it: it is not executed
twice, and what was lost is not taken for done.  Their lives go on LIVES_SKIPPED after the last one
in the backup: those between may have been lived by the original, so that no two logs give the same
name to different records, and nothing that was meant for the original is executed here.

The manager's store is made, too, if the backup has the original's: it names the restored members,
so that no empty one can be taken for them, and all its counts go on after the original's.
"""

import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from sinfonia.addresses import MemoryNodeId
from sinfonia.backup.archive import Backup, Origin
from sinfonia.backup.blocks import cannot_write
from sinfonia.backup.cut import LogCut, committed
from sinfonia.backup.moments import format_moment
from sinfonia.errors import BackupError
from sinfonia.protocol.execution import Memory
from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry
from sinfonia.protocol.participant_state import LiveParticipantState
from sinfonia.protocol.records import Batch, Decided, ParticipantState, decode_body
from sinfonia.protocol.replication.messages import Life
from sinfonia.storage.data_directory import DataDirectory, DirectoryLock
from sinfonia.storage.files import Files, OsFiles
from sinfonia.storage.stable_storage import StableStorage, refound

# More primaries than any memory node has in the time that a disaster takes.
LIVES_SKIPPED = 1000

# How much of an image is written at a time, and how often the disk is looked after.
STEP_BYTES = 4 * 1024 * 1024
DISK_WAIT = 0.01

PARTIAL_SUFFIX = ".partial"

OnRestored = Callable[[MemoryNodeId, int], None]


class RestoredMember(NamedTuple):
    """The first member of a memory node; ``lived``: the last incarnation that its log names.

    ``epoch``: the last that it has logged.
    """

    identity: str
    starts: int
    lived: int
    epoch: int


def restored_directory(
    original: Directory,
    entries: Sequence[MemoryNodeEntry],
    members: Mapping[MemoryNodeId, RestoredMember],
) -> Directory:
    """What the store of a restored cluster holds: ``entries``, which name its first members.

    Of these entries, node, endpoint, capacity, mode and wanted count.
    """
    nodes = []
    for entry in entries:
        member, before = members[entry.node], original.entry(entry.node)
        assert before is not None, "a backup has the entries of all its memory nodes"
        nodes.append(
            replace(
                entry,
                identity=member.identity,
                starts=member.starts,
                incarnation=max(member.lived, before.incarnation + LIVES_SKIPPED),
                config_epoch=before.config_epoch + LIVES_SKIPPED,
            )
        )
    epochs = [original.epoch, *(member.epoch for member in members.values())]
    return Directory(original.version + LIVES_SKIPPED, max(epochs), original.cluster, nodes)


class Restoration:
    """What a backup holds of one moment."""

    def __init__(self, backup: Backup, moment: int | None = None) -> None:
        """``moment``: in microseconds since 1970; the last one if it is None.

        Raises BackupError if the backup does not reach there, DamagedBackup if a log is damaged.
        """
        first, last = backup.moments
        self.moment = last if moment is None else moment
        if not first <= self.moment <= last:
            raise BackupError(
                f"the backup in {backup.root} reaches from {format_moment(first)} to "
                f"{format_moment(last)}; {format_moment(self.moment)} is outside"
            )
        self.backup = backup
        self.directory = backup.directory(self.moment)
        self._last: dict[MemoryNodeId, Seq] = {}  # the last record at or before the moment
        lists = {origin.node: self._lists(origin) for origin in backup.nodes}
        self.committed = committed(lists)
        self.undecided = {
            node: [prepared.tid for prepared in state.in_doubt] for node, state in lists.items()
        }

    def write_member(
        self,
        origin: Origin,
        directory: Path,
        *,
        mode: str,
        log_directory: Path | None = None,
        on_restored: OnRestored = lambda _node, _bytes: None,
    ) -> RestoredMember:
        """Make ``directory``, which must be new, the data directory of the first member.

        Raises BackupError, DamagedBackup or StorageError; then there is nothing at ``directory``.
        """
        with ExitStack() as made:
            data = made.enter_context(new_directory(directory))
            log = made.enter_context(new_directory(log_directory)) if log_directory else None
            lock = DirectoryLock(data)
            try:
                files = OsFiles(data, log_directory=log)
                return self._write(origin, files, mode, on_restored)
            finally:
                lock.release()

    def _write(
        self, origin: Origin, files: Files, mode: str, on_restored: OnRestored
    ) -> RestoredMember:
        owner = DataDirectory.create_or_open(
            files,
            node=origin.node,
            capacity=origin.capacity,
            mode=mode,
            new_identity=secrets.token_hex(16),
        )
        last = self._last[origin.node]
        # As if one record had been logged, and taken back, in a life of the restored copy.
        lives = [life for life in self.backup.lives(origin.node) if life.first <= last]
        lived = max((life.incarnation for life in lives), default=0) + LIVES_SKIPPED
        storage = refound(
            files,
            identity=owner.identity,
            capacity=origin.capacity,
            seq=last + 1,
            history=[*lives, Life(lived, last + 1)],
        )
        try:
            state = self.recovered(origin, storage.space, on_restored=on_restored)
            _save(storage, state, last + 1, [*lives, Life(lived, last + 1)])
        finally:
            storage.close()
        return RestoredMember(owner.identity, owner.starts, lived, state.epoch)

    def recovered(
        self,
        origin: Origin,
        memory: Memory,
        *,
        on_restored: OnRestored = lambda _node, _bytes: None,
    ) -> LiveParticipantState:
        """Fill empty ``memory`` as of the moment; the lists that go with it.

        Nothing is in doubt there.  Raises DamagedBackup.
        """
        header, images = self.backup.image(origin.node)
        state = LiveParticipantState(memory, logged=True)
        state.restore(header.state)
        for runs in images:
            for address, data in runs:
                memory.write(address, data)
            on_restored(origin.node, sum(len(data) for _, data in runs))
        for batch in self._batches(origin, header.seq):
            _replay(state, batch)
            on_restored(origin.node, len(batch.body))
        for tid in list(state.in_doubt):
            state.replay(Decided(tid, tid in self.committed))
        state.stamped = max(state.stamped, self.moment)
        return state

    def _lists(self, origin: Origin) -> ParticipantState:
        """What the participant knew at the moment."""
        header, _ = self.backup.image(origin.node)
        state = LiveParticipantState(_Nothing(origin.capacity), logged=True)
        state.restore(header.state)
        self._last[origin.node] = header.seq
        for batch in self._batches(origin, header.seq):
            _replay(state, batch)
            self._last[origin.node] = batch.last
        return state.checkpoint_state()

    def _batches(self, origin: Origin, after: Seq) -> Iterator[Batch]:
        cut = LogCut(self.moment, after)
        for batch in self.backup.log(origin.node, self.moment):
            yield from cut.take(batch)
            if cut.over:
                return


@contextmanager
def new_directory(directory: Path) -> Iterator[Path]:
    """Where to make ``directory``: it gets its name when the block ends well, else it is removed.

    Raises BackupError if there is something already.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise BackupError(
            f"{directory} is there already; name a directory that is not, or is empty"
        )
    partial = directory.with_name(directory.name + PARTIAL_SUFFIX)
    try:
        partial.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise BackupError(
            f"{partial} is in the way, perhaps of another restore; remove it if none is running"
        ) from None
    except OSError as error:
        raise cannot_write(partial, error) from error
    try:
        yield partial
        partial.replace(directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _replay(state: LiveParticipantState, batch: Batch) -> None:
    for record in decode_body(batch.body, batch.count):
        state.replay(record)


def _save(storage: StableStorage, state: LiveParticipantState, seq: Seq, lives: list[Life]) -> None:
    """Write everything as the checkpoint that rules."""
    running = storage.image.begin_checkpoint(
        storage.space.take_dirty(),
        state.checkpoint_state(),
        lsn=storage.log.stable_lsn,
        seq=seq,
        history=lives,
    )
    while not running.step(storage.space, STEP_BYTES):
        if running.waiting:
            time.sleep(DISK_WAIT)
    storage.complete()


class _Nothing:
    """Memory of which only the lists are wanted."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity

    @property
    def memory(self) -> "_Nothing":
        return self

    def __getitem__(self, key: slice, /) -> bytes:
        return b""

    def write(self, address: int, data: bytes) -> None:
        pass
