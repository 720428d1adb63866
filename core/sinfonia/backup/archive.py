"""A backup on disk: one full step, and increments that follow it; what is not whole is not there.

::

    DEST/manifest.json          what the backup is of, its steps, and the digest of every file
    DEST/full/nodeN.image       memory of memory node N, copied while it changed
    DEST/full/nodeN.log         its log, from the begin of that copy up to the cut
    DEST/full/directory         what the manager's store held then: members, modes, epochs
    DEST/increment-0001/nodeN.log    its log from there up to the next cut
    DEST/increment-0001/directory    what the manager's store held by then

A step is written under another name (``*.partial``), synced, renamed, and then named by the
manifest, which is replaced whole: a reader finds the steps before, or this one too.
The moments that can be restored reach from the cut of the full step to that of the last one.

An image's first block is an ``ImageHeader``, and each further one a list of (address, bytes).  A
block of a log is a ``LogBlock``.  The only block of a directory is a ``Directory``, as in the
store; backups of older versions have none.  Steps follow one another without gaps: records are
numbered.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.backup.blocks import BlockWriter, WrittenFile, cannot_write, read_blocks
from sinfonia.backup.moments import format_moment
from sinfonia.errors import BackupError, DamagedBackup, DataDirectoryInUse, StorageError
from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.membership.messages import Directory
from sinfonia.protocol.records import Batch, ParticipantState
from sinfonia.protocol.replication.messages import Life
from sinfonia.storage.data_directory import LOCK_FILE, DirectoryLock

MANIFEST_FILE = "manifest.json"
FULL_STEP = "full"
PARTIAL_SUFFIX = ".partial"

FORMAT_VERSION = 1

_IMAGE_MAGIC = b"SNBI"
_LOG_MAGIC = b"SNBL"
_DIRECTORY_MAGIC = b"SNBD"

Runs = Sequence[tuple[int, bytes]]


class ImageHeader(msgspec.Struct, array_like=True, frozen=True):
    """The lists as of the record ``seq``; the pages show that or anything later up to the cut."""

    seq: Seq
    state: ParticipantState


class LogBlock(msgspec.Struct, array_like=True, frozen=True):
    """``count`` records, ``first`` and following, as they are in a block of the redo log."""

    first: Seq
    count: int
    body: bytes


class Origin(msgspec.Struct, frozen=True):
    """A memory node that was backed up; ``replicas`` is how many it was to have."""

    node: MemoryNodeId
    capacity: int
    mode: str
    replicas: int


class Part(msgspec.Struct, frozen=True):
    """What a step holds of one memory node: everything up to the record ``last``.

    ``lives`` are the primaries that wrote its log, as far as they were told, up to there.
    """

    node: MemoryNodeId
    last: Seq
    lives: list[Life]
    log: WrittenFile
    image: WrittenFile | None = None


class Step(msgspec.Struct, frozen=True):
    """One run of `sinfonia backup`; ``moment`` is its cut, in microseconds since 1970.

    ``directory``: what the manager's store held; an older version wrote none.
    """

    name: str
    moment: int
    parts: list[Part]
    directory: WrittenFile | None = None


class Manifest(msgspec.Struct, frozen=True):
    """What a backup is of, and its steps in order."""

    cluster: str
    nodes: list[Origin]
    steps: list[Step]
    format: int = FORMAT_VERSION


class Backup:
    """A backup in the directory ``root``, opened to be read."""

    def __init__(self, root: Path) -> None:
        """Raises BackupError: there is none, or its manifest is damaged."""
        self.root = root
        self.manifest = _read_manifest(root)

    @property
    def moments(self) -> tuple[int, int]:
        """The first moment that can be restored, and the last."""
        steps = self.manifest.steps
        return steps[0].moment, steps[-1].moment

    @property
    def nodes(self) -> list[Origin]:
        """The memory nodes that it is of."""
        return self.manifest.nodes

    def image(self, node: MemoryNodeId) -> tuple[ImageHeader, Iterator[Runs]]:
        """The image of ``node``.  Raises DamagedBackup, also while it is read."""
        file = _part(self.manifest.steps[0], node).image
        assert file is not None, "the full step has images"
        remedy = "restore from another backup, or from another copy of this one"
        blocks = read_blocks(self.root, file, _IMAGE_MAGIC, remedy=remedy)
        header = msgspec.msgpack.decode(next(blocks), type=ImageHeader)
        runs = (msgspec.msgpack.decode(block, type=list[tuple[int, bytes]]) for block in blocks)
        return header, runs

    def log(self, node: MemoryNodeId, until: int) -> Iterator[Batch]:
        """The log of ``node`` from the begin of its image, as far as the moment ``until`` needs it.

        Raises DamagedBackup while it is read.
        """
        before: Step | None = None
        for step in self.manifest.steps:
            if before is not None and before.moment >= until:
                return
            remedy = _remedy(before)
            blocks = read_blocks(self.root, _part(step, node).log, _LOG_MAGIC, remedy=remedy)
            for block in blocks:
                found = msgspec.msgpack.decode(block, type=LogBlock)
                yield Batch(found.first, found.count, found.body)
            before = step

    def lives(self, node: MemoryNodeId) -> list[Life]:
        """The lives that wrote the log of ``node``, as far as the backup reaches."""
        lives: dict[int, Life] = {}
        for step in self.manifest.steps:
            lives |= {life.incarnation: life for life in _part(step, node).lives}
        return [lives[incarnation] for incarnation in sorted(lives)]

    def directory(self, until: int) -> Directory | None:
        """What the manager's store held at the moment ``until`` or a little later, if that is here.

        Raises DamagedBackup.
        """
        before: Step | None = None
        directory: Directory | None = None
        for step in self.manifest.steps:
            if before is not None and before.moment >= until:
                break
            # Those of earlier steps are read, too: all that is restored from must be undamaged.
            directory = self._directory(step, before)
            before = step
        return directory

    def _directory(self, step: Step, before: Step | None) -> Directory | None:
        if step.directory is None:
            return None
        blocks = read_blocks(self.root, step.directory, _DIRECTORY_MAGIC, remedy=_remedy(before))
        [payload] = list(blocks)
        return msgspec.msgpack.decode(payload, type=Directory)


def write_directory(root: Path, step: str, directory: Directory) -> WrittenFile:
    """Add to a step what the manager's store holds, stably.  Raises BackupError."""
    with BlockWriter(root, f"{step}/directory", _DIRECTORY_MAGIC) as writer:
        writer.write(msgspec.msgpack.encode(directory))
        return writer.finish()


class PartWriter:
    """Writes what a step holds of one memory node."""

    def __init__(self, root: Path, step: str, node: MemoryNodeId, *, with_image: bool) -> None:
        """Raises BackupError."""
        self._root = root
        self._log_name = f"{step}/node{node}.log"
        self._image_name = f"{step}/node{node}.image"
        self._node = node
        self._image: BlockWriter | None = None
        self._with_image = with_image
        self._log = BlockWriter(root, self._log_name, _LOG_MAGIC)

    def begin_image(self, header: ImageHeader) -> None:
        """What was written so far does not count: the copy begins."""
        assert self._with_image
        self.close()
        self._log = BlockWriter(self._root, self._log_name, _LOG_MAGIC)
        self._image = BlockWriter(self._root, self._image_name, _IMAGE_MAGIC)
        self._image.write(msgspec.msgpack.encode(header))

    def write_runs(self, runs: Runs) -> None:
        """Append to the image."""
        assert self._image is not None
        if runs:
            self._image.write(msgspec.msgpack.encode(runs))

    def write_log(self, batch: Batch) -> None:
        """Append to the log."""
        self._log.write(msgspec.msgpack.encode(LogBlock(batch.first, batch.count, batch.body)))

    def finish(self, last: Seq, lives: Sequence[Life]) -> Part:
        """Everything is written; return when it is on stable storage.  Raises BackupError."""
        assert not self._with_image or self._image is not None
        image = None if self._image is None else self._image.finish()
        lives = [life for life in lives if life.first <= last]
        return Part(self._node, last, lives, self._log.finish(), image)

    def close(self) -> None:
        """Close the files."""
        with self._log:
            if self._image is not None:
                with self._image:
                    pass


# --- writing a step ------------------------------------------------------------------------------


@contextmanager
def writing_full(root: Path) -> Iterator[Path]:
    """Where to write a full backup that will be ``root``; ``publish_full`` makes it so.

    Raises BackupError if there is something at ``root`` already.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise BackupError(
            f"{root} is there already; name a directory that is empty or not there, or add to the "
            "backup in it with --incremental"
        )
    with _partial(root) as partial:
        _make(partial / FULL_STEP)
        yield partial


def publish_full(partial: Path, root: Path, manifest: Manifest) -> None:
    """What was written in ``partial`` is whole: it is ``root`` from now on.  Raises BackupError."""
    try:
        _sync_directory(partial / FULL_STEP)
        _write_manifest(partial, manifest)
        (partial / LOCK_FILE).unlink()
        partial.replace(root)
        _sync_directory(root.parent)
    except OSError as error:
        raise cannot_write(root, error) from error


@contextmanager
def writing_increment(backup: Backup) -> Iterator[tuple[Path, str]]:
    """Where to write the next increment of ``backup``, and what it is called.

    ``publish_increment`` adds it.  Raises BackupError.
    """
    name = f"increment-{len(backup.manifest.steps):04}"
    with _partial(backup.root / name) as partial:
        if _read_manifest(backup.root) != backup.manifest:
            raise BackupError(f"{backup.root} was added to just now; try again")
        _make(partial / name)
        yield partial, name


def publish_increment(partial: Path, backup: Backup, step: Step) -> None:
    """What was written in ``partial`` is whole: ``step`` belongs to the backup from now on.

    Raises BackupError.
    """
    root = backup.root
    place = root / step.name
    steps = [*backup.manifest.steps, step]
    try:
        if place.exists():
            shutil.rmtree(place)  # a crash came before the manifest named it
        (partial / step.name).replace(place)
        _sync_directory(place)
        _sync_directory(root)
        _write_manifest(root, msgspec.structs.replace(backup.manifest, steps=steps))
    except OSError as error:
        raise cannot_write(root, error) from error


@contextmanager
def _partial(place: Path) -> Iterator[Path]:
    """A directory of one's own beside ``place``; what is left in it at the end is removed.

    One that an interrupted backup left is used again.
    """
    partial = place.with_name(place.name + PARTIAL_SUFFIX)
    if partial.exists() and not (partial / LOCK_FILE).exists() and any(partial.iterdir()):
        raise BackupError(f"{partial} is in the way, and is not of a backup; move it elsewhere")
    try:
        lock = DirectoryLock(partial)
    except DataDirectoryInUse as error:
        raise BackupError(
            f"another backup is being written to {place}; wait for its end"
        ) from error
    except StorageError as error:
        raise BackupError(f"{error}; choose another place for the backup") from error
    try:
        _empty(partial)
        yield partial
    finally:
        if (partial / LOCK_FILE).exists():
            shutil.rmtree(partial, ignore_errors=True)
        lock.release()


def _empty(partial: Path) -> None:
    for each in partial.iterdir():
        if each.is_dir():
            shutil.rmtree(each)
        elif each.name != LOCK_FILE:
            each.unlink()


def _make(directory: Path) -> None:
    try:
        directory.mkdir()
    except OSError as error:
        raise cannot_write(directory, error) from error


# --- the manifest --------------------------------------------------------------------------------

# Around the manifest proper, so that the digest is of bytes and not of what they mean.
_BEFORE_DIGEST = b'{"sha256": "'
_BEFORE_MANIFEST = b'",\n"manifest":\n'
_AFTER_MANIFEST = b"\n}\n"


def _write_manifest(root: Path, manifest: Manifest) -> None:
    body = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    digest = hashlib.sha256(body).hexdigest().encode()
    new = root / f"{MANIFEST_FILE}.new"
    with new.open("wb") as stream:
        stream.write(_BEFORE_DIGEST + digest + _BEFORE_MANIFEST + body + _AFTER_MANIFEST)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(root / MANIFEST_FILE)
    _sync_directory(root)


def _read_manifest(root: Path) -> Manifest:
    path = root / MANIFEST_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BackupError(f"there is no backup in {root}: no file {MANIFEST_FILE}") from None
    except OSError as error:
        raise BackupError(f"cannot read {path}: {error.strerror}") from error
    digest, _, rest = data.removeprefix(_BEFORE_DIGEST).partition(_BEFORE_MANIFEST)
    body = rest.removesuffix(_AFTER_MANIFEST)
    whole = _BEFORE_DIGEST + digest + _BEFORE_MANIFEST + body + _AFTER_MANIFEST
    if data != whole or hashlib.sha256(body).hexdigest().encode() != digest:
        raise DamagedBackup(
            f"{path} is damaged: it fails its checksum; restore from another backup, or from "
            "another copy of this one"
        )
    version = msgspec.json.decode(body, type=_AnyManifest).format
    if version != FORMAT_VERSION:
        raise BackupError(
            f"{path} has format version {version}, this program reads {FORMAT_VERSION}; use the "
            "version of the program that wrote it"
        )
    return msgspec.json.decode(body, type=Manifest)


class _AnyManifest(msgspec.Struct):
    """What every version has."""

    format: int


def _part(step: Step, node: MemoryNodeId) -> Part:
    return next(part for part in step.parts if part.node == node)


def _remedy(before: Step | None) -> str:
    if before is None:
        return "restore from another backup, or from another copy of this one"
    return (
        "restore from another copy of this backup, or, with --at, a moment up to "
        f"{format_moment(before.moment)}"
    )


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
