"""The redo log keeps what was synced, through any crash, and refuses to guess."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec
import pytest

from sinfonia.errors import CorruptLog, DamagedData, StorageError
from sinfonia.minitransaction import WriteItem
from sinfonia.protocol.records import Batch, OnePhase, Record
from sinfonia.protocol.replication.messages import Life
from sinfonia.simulation.disk import VirtualDisk
from sinfonia.storage import log_blocks, redo_log
from sinfonia.storage.files import SECTOR_BYTES, Files, OsFiles
from sinfonia.storage.log_blocks import Lsn, encode_block, log_id_of, segment_name
from sinfonia.storage.redo_log import RedoLog

IDENTITY = "a-memory-node"
SEGMENT_BYTES = 8 * SECTOR_BYTES


@pytest.fixture(params=["real", "virtual"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return OsFiles(tmp_path) if request.param == "real" else VirtualDisk(Random(1))


def record(counter: int, data: bytes = b"data") -> Record:
    return OnePhase(client=7, epoch=0, counter=counter, floor=0, writes=[WriteItem(64, data)])


def open_log(
    files: Files,
    processed: int | None = 0,
    *,
    seq: int = 0,
    history: Sequence[Life] = (),
    identity: str = IDENTITY,
    segment: int = 0,
    keep: int = 0,
) -> RedoLog:
    return RedoLog.open(
        files,
        identity=identity,
        processed=None if processed is None else Lsn(processed),
        seq=seq,
        history=history,
        segment_bytes=segment or SEGMENT_BYTES,
        keep_bytes=keep,
    )


def new_log(files: Files) -> RedoLog:
    return open_log(files, None)


def replayed(log: RedoLog, after: int = 0) -> list[Record]:
    return [each for _, each in log.records_after(after)]


def append_blocks(log: RedoLog, counters: range, data: bytes = b"data") -> list[Lsn]:
    """One block a counter; returns where each ends."""
    ends = []
    for counter in counters:
        log.append(record(counter, data))
        log.sync()
        log.check_invariants()
        ends.append(log.stable_lsn)
    return ends


def read_file(files: Files, name: str) -> bytes:
    file = files.open(name)
    data = file.read_at(0, file.size())
    file.close()
    return data


def overwrite(files: Files, name: str, data: bytes) -> None:
    """Make ``data`` the content of file ``name``, for good."""
    file = files.open(name, create=True)
    file.truncate(0)
    file.write_at(0, data)
    file.sync()
    file.close()
    files.sync_directory()


def flip(files: Files, name: str, offset: int) -> None:
    data = bytearray(read_file(files, name))
    data[offset] ^= 1
    overwrite(files, name, bytes(data))


def test_what_is_synced_is_replayed_in_order(files: Files) -> None:
    log = new_log(files)
    for counter in range(5):
        log.append(record(counter))
    assert log.dirty
    log.sync()
    assert not log.dirty
    log.append(record(5))
    log.sync()
    assert replayed(log) == [record(counter) for counter in range(6)]
    log.close()


def test_a_log_goes_on_where_it_was_closed(files: Files) -> None:
    log = new_log(files)
    append_blocks(log, range(3))
    log.close()
    log = open_log(files)
    append_blocks(log, range(3, 6))
    assert replayed(log) == [record(counter) for counter in range(6)]
    log.close()


def test_what_was_only_appended_is_not_in_the_log(files: Files) -> None:
    log = new_log(files)
    append_blocks(log, range(2))
    log.append(record(2))
    log.close()
    log = open_log(files)
    assert replayed(log) == [record(0), record(1)]
    log.close()


def test_a_sync_of_many_records_is_one_write_and_one_sync() -> None:
    disk = VirtualDisk(Random(1))
    log = open_log(disk, None, segment=1024 * 1024)
    for counter in range(1000):
        log.append(record(counter))
    before = disk.operations
    log.sync()
    assert disk.operations - before == 2
    log.sync()
    assert disk.operations - before == 2, "nothing to sync costs nothing"


def test_records_are_numbered_from_one_and_read_after_any_of_them(files: Files) -> None:
    log = new_log(files)
    append_blocks(log, range(4))
    assert (log.first, log.stable, log.last) == (1, 4, 4)
    assert list(log.records_after(2)) == [(3, record(2)), (4, record(3))]
    assert list(log.records_after(4)) == []
    log.append(record(4))
    assert (log.stable, log.last) == (4, 5)
    log.close()


def test_a_restart_goes_on_from_what_the_checkpoint_says(files: Files) -> None:
    log = new_log(files)
    log.begin_life(3)
    append_blocks(log, range(40))
    processed = log.lsn_after(30)
    log.truncate_before(processed)
    log.close()
    log = open_log(files, processed, seq=30, history=[Life(3, 1), Life(4, 31)])
    assert log.history == [Life(3, 1)], "nothing was logged in the life after"
    assert replayed(log, 30) == [record(counter) for counter in range(30, 40)]
    assert log.first == 25, "segments are kept whole"
    log.close()


def test_a_block_is_found_by_the_records_in_it(files: Files) -> None:
    log = new_log(files)
    starts = [Lsn(0), *append_blocks(log, range(40))]
    for seq in range(41):
        assert log.lsn_after(seq) == starts[seq]
    log.append(record(40))
    assert log.lsn_after(40) == log.lsn_after(41) == log.stable_lsn
    log.close()


def test_segments_before_the_processed_pointer_are_deleted_and_no_others(files: Files) -> None:
    log = new_log(files)
    ends = append_blocks(log, range(40))
    names = [name for name in files.names() if name.startswith("log.")]
    assert len(names) == 5
    log.truncate_before(ends[19])
    assert [name for name in files.names() if name.startswith("log.")] == names[2:]
    assert replayed(log, 20) == [record(counter) for counter in range(20, 40)]
    log.close()
    log = open_log(files, ends[19], seq=20)
    assert replayed(log, 20) == [record(counter) for counter in range(20, 40)]
    log.close()


def test_truncation_up_to_the_very_end_keeps_the_last_segment(files: Files) -> None:
    log = new_log(files)
    end = append_blocks(log, range(20))[-1]
    log.truncate_before(end)
    log.close()
    log = open_log(files, end, seq=20)
    assert replayed(log, 20) == []
    append_blocks(log, range(20, 21))
    assert replayed(log, 20) == [record(20)]
    log.close()


def test_a_block_larger_than_a_segment_gets_a_segment_of_its_own(files: Files) -> None:
    log = new_log(files)
    append_blocks(log, range(3), bytes(3 * SEGMENT_BYTES))
    log.close()
    log = open_log(files)
    assert len(replayed(log)) == 3
    log.close()


def test_more_than_a_block_may_hold_is_split(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redo_log, "BODY_BYTES_MAX", 2 * SECTOR_BYTES)
    log = new_log(files)
    for counter in range(100):
        log.append(record(counter, bytes(100)))
    log.sync()
    assert replayed(log) == [record(counter, bytes(100)) for counter in range(100)]
    assert len({log.lsn_after(seq) for seq in range(100)}) > 10
    log.close()


# --- torn tails and corruption -------------------------------------------------------------------


def test_a_last_block_cut_at_any_byte_is_a_torn_tail(files: Files) -> None:
    log = new_log(files)
    start = append_blocks(log, range(2))[-1]
    log.append(record(2))
    log.sync()
    end = log.stable_lsn
    log.close()
    name = segment_name(Lsn(0))
    whole = read_file(files, name)
    used = start + len(whole[start:end].rstrip(b"\0"))
    for cut in range(start, end + 1):
        for tail in (b"", bytes(end - cut)):
            overwrite(files, name, whole[:cut] + tail)
            log = open_log(files)
            assert len(replayed(log)) == (3 if cut >= used else 2), f"cut at {cut}"
            log.close()


def test_a_last_block_with_any_byte_wrong_is_cut_and_the_log_goes_on(files: Files) -> None:
    log = new_log(files)
    start, end = append_blocks(log, range(3))[1:]
    log.close()
    name = segment_name(Lsn(0))
    whole = read_file(files, name)
    used = len(whole[start:end].rstrip(b"\0"))
    for offset in range(start, start + used):
        overwrite(files, name, whole)
        flip(files, name, offset)
        log = open_log(files)
        assert len(replayed(log)) == 2, f"byte {offset}"
        assert log.stable_lsn == start
        assert not any(read_file(files, name)[start:]), "garbage must not come back"
        log.append(record(9))
        log.sync()
        log.close()
        log = open_log(files)
        assert replayed(log) == [record(0), record(1), record(9)]
        log.close()


def test_a_damaged_block_before_an_intact_one_stops_the_node(files: Files) -> None:
    log = new_log(files)
    start, end = append_blocks(log, range(4))[:2]
    log.close()
    name = segment_name(Lsn(0))
    whole = read_file(files, name)
    used = len(whole[start:end].rstrip(b"\0"))
    for offset in range(start, start + used):
        overwrite(files, name, whole)
        flip(files, name, offset)
        damaged = read_file(files, name)
        with pytest.raises(CorruptLog, match=f"{name} is damaged at byte {start}, .*restore"):
            open_log(files)
        assert read_file(files, name) == damaged, "evidence is not touched"


def test_a_damaged_block_at_the_end_of_an_inner_segment_stops_the_node(files: Files) -> None:
    log = new_log(files)
    append_blocks(log, range(12))
    log.close()
    flip(files, segment_name(Lsn(0)), 7 * SECTOR_BYTES)
    with pytest.raises(CorruptLog, match=segment_name(Lsn(0))):
        open_log(files)


def test_a_missing_segment_stops_the_node(files: Files) -> None:
    log = new_log(files)
    end = append_blocks(log, range(20))[-1]
    log.close()
    files.remove(segment_name(Lsn(SEGMENT_BYTES)))
    with pytest.raises(CorruptLog, match=segment_name(Lsn(SEGMENT_BYTES))):
        open_log(files)
    files.remove(segment_name(Lsn(0)))
    with pytest.raises(CorruptLog, match="missing"):
        open_log(files)
    files.remove(segment_name(Lsn(2 * SEGMENT_BYTES)))
    with pytest.raises(CorruptLog, match="missing"):
        open_log(files, end)


def test_a_log_that_ends_before_the_processed_pointer_stops_the_node(files: Files) -> None:
    log = new_log(files)
    end = append_blocks(log, range(3))[-1]
    log.close()
    with pytest.raises(CorruptLog, match="acknowledged writes are lost"):
        open_log(files, end + SECTOR_BYTES)


def test_a_log_without_a_checkpoint_stops_the_node(files: Files) -> None:
    log = new_log(files)
    append_blocks(log, range(1))
    log.close()
    with pytest.raises(CorruptLog, match="no checkpoint"):
        open_log(files, None)


def test_the_log_of_another_memory_node_is_refused(files: Files) -> None:
    log = open_log(files, None, identity="another")
    append_blocks(log, range(2))
    log.close()
    with pytest.raises(StorageError, match="another memory node"):
        open_log(files)


def test_a_segment_under_another_segments_name_is_refused(files: Files) -> None:
    log = new_log(files)
    append_blocks(log, range(12))
    log.close()
    files.rename(segment_name(Lsn(SEGMENT_BYTES)), segment_name(Lsn(0)))
    with pytest.raises(StorageError, match="under another name"):
        open_log(files)


def test_another_format_version_is_refused(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(log_blocks, "LOG_FORMAT_VERSION", 3)
        log = new_log(files)
        append_blocks(log, range(1))
        log.close()
    with pytest.raises(StorageError, match="format version 3, this program reads 2"):
        open_log(files)


def test_records_of_an_unknown_kind_are_refused_not_skipped(files: Files) -> None:
    log = new_log(files)
    batch = Batch(1, 1, msgspec.msgpack.encode([99, "?"]))
    block = encode_block(batch, log_id=log_id_of(IDENTITY), lsn=Lsn(0), incarnation=0)
    log.close()
    overwrite(files, segment_name(Lsn(0)), block)
    log = open_log(files)
    with pytest.raises(StorageError, match="does not know") as refused:
        replayed(log)
    log.close()
    # Another version's log is not repaired, that is, not replaced: nothing of it is damaged.
    assert not isinstance(refused.value, DamagedData)


@pytest.mark.parametrize("identity", [IDENTITY, "another"])
def test_a_copy_of_a_log_stored_as_data_is_not_taken_for_the_log(
    files: Files, identity: str
) -> None:
    """A torn block whose data are blocks that are whole, but lie elsewhere."""
    donor = VirtualDisk(Random(1))
    log = open_log(donor, None, identity=identity)
    append_blocks(log, range(4))
    name = segment_name(Lsn(0))
    copy = read_file(donor, name)[: log.stable_lsn]

    new_log(files).close()
    padding = 0
    for _ in range(2):
        files.remove(name)
        log = new_log(files)
        start = append_blocks(log, range(1))[0]
        append_blocks(log, range(1, 2), bytes(padding) + copy)
        log.close()
        at = read_file(files, name).find(copy)
        assert at > start
        # The second time, the blocks of the copy begin where blocks do.
        padding = -at % SECTOR_BYTES
    assert padding == 0
    flip(files, name, start)
    log = open_log(files)
    assert replayed(log) == [record(0)]
    log.close()
