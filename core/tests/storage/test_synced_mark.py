"""The mark beside the log is never ahead of it, and what it has seen is missed when it is gone."""

from pathlib import Path
from random import Random

import pytest

from sinfonia.errors import CorruptLog, SyncFailed
from sinfonia.minitransaction import WriteItem
from sinfonia.protocol.records import OnePhase
from sinfonia.simulation.disk import PowerLost, VirtualDisk
from sinfonia.storage.files import SECTOR_BYTES, Files, OsFiles
from sinfonia.storage.log_blocks import Lsn, log_id_of, segment_name
from sinfonia.storage.redo_log import RedoLog
from sinfonia.storage.synced_mark import MARK_FILE, SyncedMark

IDENTITY = "a-memory-node"
LOG_ID = log_id_of(IDENTITY)
SEGMENT_BYTES = 8 * SECTOR_BYTES


@pytest.fixture(params=["real", "virtual"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return OsFiles(tmp_path) if request.param == "real" else VirtualDisk(Random(1))


def open_log(files: Files, *, first: bool = False) -> RedoLog:
    return RedoLog.open(
        files,
        identity=IDENTITY,
        processed=None if first else Lsn(0),
        segment_bytes=SEGMENT_BYTES,
        keep_bytes=1 << 20,
    )


def append(log: RedoLog, counters: range) -> None:
    """One block of one sector a counter."""
    for counter in counters:
        log.append(OnePhase(7, 0, counter, 0, [WriteItem(64, b"data")]))
        log.sync()


def zero(files: Files, lsn: int, length: int, *, start: int = 0) -> None:
    file = files.open(segment_name(Lsn(start)))
    file.write_at(lsn - start, bytes(length))
    file.sync()
    file.close()


def mark_of(files: Files) -> SyncedMark:
    mark = SyncedMark(files, log_id=LOG_ID)
    mark.close()
    return mark


def test_a_mark_outlives_its_process(files: Files) -> None:
    mark = SyncedMark(files, log_id=LOG_ID)
    for lsn in (512, 4096, 8192):
        mark.raise_to(Lsn(lsn))
        assert mark_of(files).lsn == lsn
    mark.raise_to(Lsn(512))
    assert mark_of(files).lsn == 8192, "it is raised only"
    mark.lower_to(Lsn(1024))
    mark.close()
    assert mark_of(files).lsn == 1024
    assert SyncedMark(files, log_id=LOG_ID + 1).lsn == 0, "of another log"


@pytest.mark.parametrize("slot", [0, 1])
def test_a_torn_slot_leaves_the_other_one(files: Files, slot: int) -> None:
    mark = SyncedMark(files, log_id=LOG_ID)
    mark.raise_to(Lsn(512))
    mark.raise_to(Lsn(1024))
    mark.close()
    file = files.open(MARK_FILE)
    file.write_at(slot * SECTOR_BYTES + 24, b"\xff")
    file.close()
    assert mark_of(files).lsn in (512, 1024)


def test_a_torn_slot_does_not_bring_back_what_was_lowered(files: Files) -> None:
    for slot in (0, 1):
        mark = SyncedMark(files, log_id=LOG_ID)
        mark.raise_to(Lsn(8192))
        mark.lower_to(Lsn(512))
        mark.close()
        file = files.open(MARK_FILE)
        file.write_at(slot * SECTOR_BYTES + 24, b"\xff")
        file.close()
        assert mark_of(files).lsn <= 512


@pytest.mark.parametrize("lost", [1, 3, 5])
def test_a_log_that_lost_its_end_does_not_pass_for_one_with_a_torn_tail(
    files: Files, lost: int
) -> None:
    log = open_log(files, first=True)
    append(log, range(5))
    log.vouch(saving=False)
    end = log.stable_lsn
    log.close()
    zero(files, end - lost * SECTOR_BYTES, lost * SECTOR_BYTES)
    with pytest.raises(CorruptLog, match=f"was synced up to LSN {end}: .*restore"):
        open_log(files)
    with pytest.raises(CorruptLog, match="was synced"):
        open_log(files)  # to look changes nothing


def test_what_was_logged_since_the_mark_may_be_a_torn_tail(files: Files) -> None:
    log = open_log(files, first=True)
    append(log, range(3))
    log.vouch(saving=False)
    append(log, range(3, 5))
    log.close()
    zero(files, 3 * SECTOR_BYTES, 2 * SECTOR_BYTES)
    log = open_log(files)
    assert log.stable == 3
    log.close()


def test_a_later_header_alone_proves_that_a_block_was_synced(files: Files) -> None:
    """Damage to several blocks in a row is no torn tail, however few the last ones are."""
    log = open_log(files, first=True)
    append(log, range(5))
    log.close()
    file = files.open(segment_name(Lsn(0)))
    for block in (2, 3, 4):
        file.write_at(block * SECTOR_BYTES + 60, b"\xff\xff")  # in each a record, no header
    file.close()
    with pytest.raises(CorruptLog, match="before a later block at byte 1536"):
        open_log(files)


def test_the_mark_is_raised_beside_the_caller_and_comes_up_to_the_log(files: Files) -> None:
    log = open_log(files, first=True)
    append(log, range(4))
    while mark_of(files).lsn < log.stable_lsn:
        log.note_synced()
    log.check_invariants()
    log.close()


def test_cutting_the_log_off_on_purpose_lowers_the_mark_first(files: Files) -> None:
    log = open_log(files, first=True)
    append(log, range(6))
    log.vouch(saving=False)
    log.truncate_after(2)
    log.check_invariants()
    log.close()
    log = open_log(files)
    assert log.stable == 2
    append(log, range(2, 9))
    log.check_invariants()
    log.close()


@pytest.mark.parametrize("operation", range(24))
def test_a_crash_while_the_log_is_cut_off_is_no_damage(operation: int) -> None:
    """Power fails at each operation of the cut in turn; the log opens, at either end of it."""
    disk = VirtualDisk(Random(operation))
    log = open_log(disk, first=True)
    append(log, range(6))
    log.vouch(saving=False)
    disk.lose_power_at = disk.operations + operation
    cut = True
    try:
        log.truncate_after(2)
        log.vouch(saving=False)
    except PowerLost:
        cut = False
    disk.crash()
    log = open_log(disk)
    assert log.stable in ((2,) if cut else (2, 6))
    log.close()


def test_a_disk_that_refuses_the_mark_stops_the_log() -> None:
    disk = VirtualDisk(Random(1))
    log = open_log(disk, first=True)
    append(log, range(2))
    disk.fail_sync = True
    with pytest.raises(SyncFailed, match=f"cannot write {MARK_FILE}"):
        log.vouch(saving=True)
    with pytest.raises(SyncFailed):
        append(log, range(2, 3))
    log.close()


def test_a_log_that_was_ended_in_order_is_complete_until_it_is_opened_again(files: Files) -> None:
    log = open_log(files, first=True)
    append(log, range(3))
    assert not log.was_ended
    log.end()
    log.close()
    log = open_log(files)
    assert log.was_ended
    log.close()  # as in a crash
    log = open_log(files)
    assert not log.was_ended, "it may have grown since"
    log.close()


def test_a_log_that_lost_its_end_is_not_complete(files: Files) -> None:
    log = open_log(files, first=True)
    append(log, range(5))
    log.end()
    end = log.stable_lsn
    log.close()
    zero(files, end - SECTOR_BYTES, SECTOR_BYTES)
    with pytest.raises(CorruptLog, match="was synced up to"):
        open_log(files)


def test_whether_a_checkpoint_was_saving_pages_outlives_the_process(files: Files) -> None:
    log = open_log(files, first=True)
    append(log, range(2))
    for saving in (True, False, True):
        log.vouch(saving=saving)
        log.close()
        log = open_log(files)
        assert log.was_saving is saving
    log.close()
