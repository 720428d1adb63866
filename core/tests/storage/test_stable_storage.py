"""Image, log and checkpoint are opened together, and half a copy of another's counts as nothing."""

import contextlib
import os
import time
from pathlib import Path
from random import Random

import pytest

from sinfonia.errors import CorruptLog
from sinfonia.minitransaction import WriteItem
from sinfonia.protocol.records import OnePhase, ParticipantState
from sinfonia.protocol.replication.messages import Life
from sinfonia.simulation.disk import PowerLost, VirtualDisk
from sinfonia.storage.address_space import PAGE_BYTES
from sinfonia.storage.data_directory import IDENTITY_FILE
from sinfonia.storage.files import SECTOR_BYTES, Files, OsFiles
from sinfonia.storage.stable_storage import (
    INCOMPLETE_FILE,
    StableStorage,
    open_stable_storage,
    refound,
)

IDENTITY = "a-memory-node"
CAPACITY = 8 * PAGE_BYTES
SEGMENT_BYTES = 8 * SECTOR_BYTES
SEQ = 100
HISTORY = [Life(2, 1), Life(6, 50)]


@pytest.fixture(params=["real", "virtual"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return OsFiles(tmp_path) if request.param == "real" else VirtualDisk(Random(1))


def reopen(files: Files) -> StableStorage:
    return open_stable_storage(
        files, identity=IDENTITY, capacity=CAPACITY, segment_bytes=SEGMENT_BYTES
    )


def begin_copy(files: Files) -> StableStorage:
    return refound(
        files,
        identity=IDENTITY,
        capacity=CAPACITY,
        seq=SEQ,
        history=HISTORY,
        segment_bytes=SEGMENT_BYTES,
    )


def write(storage: StableStorage, page: int, data: bytes) -> None:
    item = WriteItem(page * PAGE_BYTES, data)
    storage.log.append(OnePhase(1, 0, storage.log.last, 0, [item]))
    storage.log.sync()
    storage.space.write(item.address, item.data)


def checkpoint(storage: StableStorage) -> None:
    log = storage.log
    running = storage.image.begin_checkpoint(
        storage.space.take_dirty(),
        ParticipantState(epoch=log.stable),
        lsn=log.stable_lsn,
        seq=log.stable,
        history=log.history,
    )
    deadline = time.monotonic() + 30
    while not running.step(storage.space, PAGE_BYTES):
        assert time.monotonic() < deadline


def old_contents(files: Files) -> None:
    """What a member had before: an image, and a log of several segments."""
    storage = reopen(files)
    storage.log.begin_life(1)
    for page in range(8):
        write(storage, page, b"old")
    checkpoint(storage)
    for page in range(8):
        write(storage, page, b"old")
    storage.close()


def copy(files: Files) -> None:
    """The pages of another, the log that goes with them, and a checkpoint of both."""
    storage = begin_copy(files)
    for page in range(4):
        storage.space.write(page * PAGE_BYTES, b"copied")
        write(storage, 7 - page, b"logged")
    checkpoint(storage)
    storage.complete()
    storage.close()


def found(storage: StableStorage) -> set[bytes]:
    """What is at the beginning of the pages, after replay."""
    for _, record in storage.log.records_after(storage.checkpoint.seq):
        assert isinstance(record, OnePhase)
        for item in record.writes:
            storage.space.write(item.address, item.data)
    storage.image.confirm(storage.space.dirty)
    return {storage.space.read(page * PAGE_BYTES, 6).rstrip(b"\0") for page in range(8)}


def test_what_is_refounded_begins_empty_after_the_record_it_is_told(files: Files) -> None:
    old_contents(files)
    storage = begin_copy(files)
    assert storage.founded
    assert storage.space.read(0, CAPACITY) == bytes(CAPACITY)
    assert (storage.log.first, storage.log.last) == (SEQ + 1, SEQ)
    assert storage.log.history == storage.checkpoint.history == HISTORY
    storage.close()


def test_a_copy_that_was_completed_is_there_after_a_restart(files: Files) -> None:
    old_contents(files)
    copy(files)
    storage = reopen(files)
    assert not storage.founded
    assert (storage.checkpoint.seq, storage.log.stable) == (SEQ + 4, SEQ + 4)
    assert storage.log.history == HISTORY
    assert found(storage) == {b"copied", b"logged"}
    storage.close()


def test_a_copy_that_was_not_completed_counts_as_nothing(files: Files) -> None:
    old_contents(files)
    storage = begin_copy(files)
    write(storage, 0, b"logged")
    checkpoint(storage)
    storage.close()
    storage = reopen(files)
    assert storage.founded
    assert found(storage) == {b""}
    assert (storage.log.first, storage.log.last, storage.log.history) == (1, 0, [])
    write(storage, 1, b"anew")
    storage.close()
    storage = reopen(files)
    assert not storage.founded
    assert found(storage) == {b"", b"anew"}
    storage.close()


def test_whose_directory_it_is_outlives_a_copy(files: Files) -> None:
    file = files.open(IDENTITY_FILE, create=True)
    file.write_at(0, b"me")
    old_contents(files)
    copy(files)
    assert file.read_at(0, 2) == b"me"
    assert files.exists(IDENTITY_FILE)
    file.close()


@pytest.mark.parametrize("seed", range(10))
def test_a_crash_at_any_operation_of_a_copy_leaves_the_old_the_new_or_nothing(seed: int) -> None:
    disk = VirtualDisk(Random(seed))
    old_contents(disk)
    begin = disk.operations
    copy(disk)
    seen = set()
    for operation in range(begin, disk.operations):
        disk = VirtualDisk(Random(seed))
        old_contents(disk)
        disk.lose_power_at = operation
        with pytest.raises(PowerLost):
            copy(disk)
        disk.crash()
        # The restart is cut off as well, at an operation that differs from run to run.
        disk.lose_power_at = disk.operations + operation % 17
        with contextlib.suppress(PowerLost):
            reopen(disk)
        disk.crash()
        storage = reopen(disk)
        contents = frozenset(found(storage))
        seen.add(contents)
        assert contents in ({b"old"}, {b""}, {b"copied", b"logged"})
        assert storage.log.stable == {b"o": 16, b"": 0, b"c": SEQ + 4}[min(contents)[:1]]
        assert disk.exists(INCOMPLETE_FILE) is False
        copy(disk)
        disk.crash()
        assert found(reopen(disk)) == {b"copied", b"logged"}
    assert len(seen) >= 2


# --- a log elsewhere -----------------------------------------------------------------------------


def test_the_log_may_lie_in_a_directory_of_its_own(tmp_path: Path) -> None:
    data, log = tmp_path / "data", tmp_path / "log"
    data.mkdir()
    log.mkdir()
    (log / "lost+found").mkdir()
    files = OsFiles(data, log_directory=log)
    old_contents(files)
    copy(files)
    logged = [path.name for path in log.iterdir() if path.name.startswith("log.")]
    assert logged
    assert not [path.name for path in data.iterdir() if path.name.startswith("log.")]
    assert set(files.names()) == {path.name for path in data.iterdir()} | set(logged)
    storage = reopen(files)
    for page in range(3):
        write(storage, page, b"more")
    storage.log.truncate_after(SEQ + 5)
    storage.close()
    storage = reopen(files)
    assert storage.log.stable == SEQ + 5
    storage.close()
    with pytest.raises(CorruptLog, match="missing"):
        reopen(OsFiles(data))


@pytest.mark.parametrize("sync_log", [True, False])
def test_only_a_volatile_log_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync_log: bool
) -> None:
    files = OsFiles(tmp_path, sync_log=sync_log)
    storage = reopen(files)
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    write(storage, 0, b"x")
    assert len(synced) == (1 if sync_log else 0)
    checkpoint(storage)
    assert len(synced) >= 3, "the image is on a disk as any other"
    storage.close()
