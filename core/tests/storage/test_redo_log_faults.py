"""No fault of the disk loses what the redo log has promised, or tears a block."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinfonia.errors import SyncFailed
from sinfonia.minitransaction import WriteItem
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.records import (
    Decided,
    EpochAdvanced,
    ForcedAbort,
    Forgotten,
    LockRange,
    OnePhase,
    Prepared,
    Record,
    Stamp,
)
from sinfonia.simulation.disk import PowerLost, VirtualDisk
from sinfonia.storage.files import SECTOR_BYTES
from sinfonia.storage.log_blocks import Lsn, log_id_of
from sinfonia.storage.log_segments import read_log
from sinfonia.storage.redo_log import RedoLog

IDENTITY = "a-memory-node"
SEGMENT_BYTES = 8 * SECTOR_BYTES
START = Lsn(0)


def record(counter: int, data: bytes = b"data") -> Record:
    return OnePhase(client=7, epoch=0, counter=counter, floor=0, writes=[WriteItem(64, data)])


def open_log(disk: VirtualDisk, processed: Lsn | None = START) -> RedoLog:
    return RedoLog.open(
        disk, identity=IDENTITY, processed=processed, segment_bytes=SEGMENT_BYTES, keep_bytes=0
    )


def new_log(disk: VirtualDisk) -> RedoLog:
    return open_log(disk, None)


def replayed(log: RedoLog) -> list[Record]:
    return [each for _, each in log.records_after(0)]


def append_blocks(log: RedoLog, counters: range) -> None:
    for counter in counters:
        log.append(record(counter))
        log.sync()
        log.check_invariants()


def test_after_a_failed_sync_the_log_refuses_everything() -> None:
    disk = VirtualDisk(Random(1))
    log = new_log(disk)
    append_blocks(log, range(1))
    log.append(record(1))
    disk.fail_sync = True
    with pytest.raises(SyncFailed, match="Input/output error"):
        log.sync()
    for act in (log.sync, lambda: log.truncate_before(Lsn(0))):
        with pytest.raises(SyncFailed, match="stopped serving"):
            act()
    assert log.dirty


def test_a_full_disk_is_a_failed_sync_and_harms_nothing_that_was_synced() -> None:
    disk = VirtualDisk(Random(1))
    log = new_log(disk)
    disk.full = True
    kept = SEGMENT_BYTES // SECTOR_BYTES
    append_blocks(log, range(kept))  # a segment has its space from its beginning
    log.append(record(kept))
    with pytest.raises(SyncFailed, match="No space left"):
        log.sync()
    disk.full = False
    log = open_log(disk)
    assert replayed(log) == [record(counter) for counter in range(kept)]


@pytest.mark.parametrize("seed", range(20))
def test_a_block_whose_sync_failed_is_made_stable_before_it_is_believed(seed: int) -> None:
    """The kernel goes on showing what it failed to write; the next power failure would not."""
    disk = VirtualDisk(Random(seed))
    log = new_log(disk)
    append_blocks(log, range(1))
    log.append(record(1, bytes(4 * SECTOR_BYTES)))
    disk.fail_sync = True
    with pytest.raises(SyncFailed):
        log.sync()
    log = open_log(disk)
    believed = replayed(log)
    append_blocks(log, range(2, 3))
    disk.crash()
    assert replayed(open_log(disk)) == [*believed, record(2)]


# --- properties ----------------------------------------------------------------------------------

tids = st.builds(Tid, st.integers(0, 9), st.integers(0, 2**64 - 1), st.integers(0, 2**62))
data = st.binary(max_size=2000)
writes = st.lists(st.builds(WriteItem, st.integers(0, 2**63 - 1), data), max_size=3)
addresses = st.integers(0, 2**63 - 1)
lock_ranges = st.builds(LockRange, addresses, addresses, st.booleans())
records = st.one_of(
    st.builds(
        OnePhase,
        client=st.integers(0, 2**64 - 1),
        epoch=st.integers(0, 9),
        counter=st.integers(0, 2**62),
        floor=st.integers(0, 2**62),
        writes=writes,
        reads=st.lists(data, max_size=2),
    ),
    st.builds(
        Prepared,
        tid=tids,
        floor=st.integers(0, 2**62),
        participants=st.lists(st.integers(0, 300), max_size=4),
        writes=writes,
        ranges=st.lists(lock_ranges),
        reads=st.lists(data, max_size=2),
    ),
    st.builds(Decided, tids, st.booleans()),
    st.builds(ForcedAbort, tids),
    st.builds(Forgotten, st.lists(tids, max_size=3)),
    st.builds(EpochAdvanced, st.integers(0, 9)),
    st.builds(Stamp, st.integers(0, 2**62)),
)


@given(batches=st.lists(st.lists(records, max_size=4), max_size=6))
@settings(max_examples=50, deadline=None)
def test_every_record_comes_back_as_it_was(batches: list[list[Record]]) -> None:
    disk = VirtualDisk(Random(1))
    log = new_log(disk)
    for batch in batches:
        for each in batch:
            log.append(each)
        log.sync()
    expected = [each for batch in batches for each in batch]
    assert replayed(log) == expected
    found = list(read_log(disk, log_id=log_id_of(IDENTITY)))
    assert [each.record for each in found] == expected
    assert [each.seq for each in found] == list(range(1, len(expected) + 1))


class LogUnderFaults:
    """A log on a disk that fails, and what it must hold."""

    def __init__(self, seed: int) -> None:
        self.disk = VirtualDisk(Random(seed))
        self.log = new_log(self.disk)
        self.promised: list[Record] = []
        self.counter = 0

    def sync(self, sizes: list[int]) -> None:
        batch = []
        for size in sizes:
            self.counter += 1
            batch.append(record(self.counter, bytes([self.counter % 256]) * size))
            self.log.append(batch[-1])
        self.during(self.log.sync, batch)

    def during(self, act: Callable[[], None], batch: list[Record]) -> None:
        """Do ``act``, which promises ``batch``, unless it fails."""
        try:
            act()
        except PowerLost:
            self.disk.crash()
            self.reopen(batch)
        except SyncFailed:
            self.reopen(batch)
        else:
            self.promised += batch

    def reopen(self, batch: list[Record]) -> None:
        while True:
            try:
                self.log = open_log(self.disk)
                break
            except PowerLost:
                self.disk.crash()
            except OSError:
                continue  # a sync failed, once: the process starts again
        found = replayed(self.log)
        assert found in (self.promised, self.promised + batch), "a block is all or nothing"
        self.promised = found


steps = st.one_of(
    st.tuples(st.just("sync"), st.lists(st.integers(0, 3000), min_size=1, max_size=4)),
    st.tuples(st.just("crash"), st.none()),
    st.tuples(st.just("lose power soon"), st.integers(0, 9)),
    st.tuples(st.just("fail sync"), st.none()),
    st.tuples(st.just("reopen"), st.none()),
)


@given(seed=st.integers(0, 2**32), script=st.lists(steps, max_size=30))
@settings(max_examples=300, deadline=None)
def test_no_fault_loses_a_promise_or_tears_a_block(
    seed: int, script: list[tuple[str, object]]
) -> None:
    run = LogUnderFaults(seed)
    for kind, argument in script:
        if kind == "sync":
            assert isinstance(argument, list)
            run.sync(argument)
        elif kind == "crash":
            run.disk.crash()
            run.reopen([])
        elif kind == "lose power soon":
            assert isinstance(argument, int)
            run.disk.lose_power_at = run.disk.operations + argument
        elif kind == "fail sync":
            run.disk.fail_sync = True
        else:
            run.disk.fail_sync = False
            run.disk.lose_power_at = None
            run.reopen([])
        run.disk.check_invariants()
    run.disk.crash()
    run.reopen([])
