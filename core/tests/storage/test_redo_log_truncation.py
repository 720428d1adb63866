"""Whenever the power fails while a log is cut at either end, nothing that was to stay is lost."""

import contextlib
from collections.abc import Sequence
from itertools import pairwise
from random import Random

import pytest

from sinfonia.minitransaction import WriteItem
from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.records import OnePhase, Record
from sinfonia.protocol.replication.messages import Life
from sinfonia.simulation.disk import PowerLost, VirtualDisk
from sinfonia.storage.files import SECTOR_BYTES
from sinfonia.storage.log_blocks import Lsn
from sinfonia.storage.redo_log import RedoLog

IDENTITY = "a-memory-node"
SEGMENT_BYTES = 8 * SECTOR_BYTES
PLENTY = 1 << 30


def record(counter: int, size: int = 4) -> Record:
    data = bytes([counter % 256]) * size
    return OnePhase(client=7, epoch=0, counter=counter, floor=0, writes=[WriteItem(64, data)])


def open_log(disk: VirtualDisk, *, founding: bool = False, keep: int = PLENTY) -> RedoLog:
    return RedoLog.open(
        disk,
        identity=IDENTITY,
        processed=None if founding else Lsn(0),
        segment_bytes=SEGMENT_BYTES,
        keep_bytes=keep,
    )


def contents(log: RedoLog) -> list[Record]:
    return [each for _, each in log.records_after(log.first - 1)]


def fill(log: RedoLog, counters: Sequence[int]) -> None:
    """A block for each counter."""
    for counter in counters:
        log.append(record(counter))
        log.sync()


def a_log_to_cut(disk: VirtualDisk) -> list[Record]:
    """Three records a block, several segments, two lives."""
    log = open_log(disk, founding=True)
    made = [record(counter, 150) for counter in range(90)]
    for first in range(0, 90, 3):
        if first in (0, 45):
            log.begin_life(1 + first)
        for each in made[first : first + 3]:
            log.append(each)
        log.sync()
    log.close()
    return made


def operations_to_cut(after: Seq) -> range:
    disk = VirtualDisk(Random(1))
    a_log_to_cut(disk)
    log = open_log(disk)
    before = disk.operations
    log.truncate_after(after)
    return range(before, disk.operations)


# In a block, at the end of one, in the first block of a segment, at the end of a segment, nothing.
CUTS = [0, 1, 22, 24, 25, 45, 46, 71, 72, 89]


@pytest.mark.parametrize("after", CUTS)
@pytest.mark.parametrize("seed", range(3))
def test_a_crash_while_the_end_is_cut_off_loses_nothing_before_it(after: Seq, seed: int) -> None:
    operations = operations_to_cut(after)
    assert len(operations) > 3
    for operation in operations:
        disk = VirtualDisk(Random(seed))
        made = a_log_to_cut(disk)
        log = open_log(disk)
        disk.lose_power_at = operation
        with pytest.raises(PowerLost):
            log.truncate_after(after)
        disk.crash()
        log = open_log(disk)
        assert "log.new" not in disk.names()
        found = contents(log)
        assert len(found) >= after, f"power lost at operation {operation}"
        assert found == made[: len(found)]
        log.check_invariants()
        log.truncate_after(after)
        fill(log, [777])
        disk.crash()
        log = open_log(disk)
        assert contents(log) == [*made[:after], record(777)]


@pytest.mark.parametrize("seed", range(10))
def test_a_crash_while_the_beginning_is_deleted_leaves_no_gap(seed: int) -> None:
    for operation in range(12):
        disk = VirtualDisk(Random(seed))
        made = a_log_to_cut(disk)
        log = open_log(disk, keep=0)
        processed = log.lsn_after(60)
        disk.lose_power_at = disk.operations + operation
        with contextlib.suppress(PowerLost):
            log.truncate_before(processed)
            fill(log, [777])
        disk.crash()
        log = RedoLog.open(
            disk,
            identity=IDENTITY,
            processed=processed,
            seq=60,
            history=[Life(1, 1), Life(46, 46)],
            segment_bytes=SEGMENT_BYTES,
        )
        assert log.first <= 61
        assert contents(log)[: len(made) - log.first + 1] == made[log.first - 1 :]
        log.check_invariants()


@pytest.mark.parametrize("seed", range(5))
def test_what_was_cut_off_never_comes_back(seed: int) -> None:
    rng = Random(seed)
    disk = VirtualDisk(rng)
    expected = a_log_to_cut(disk)
    for round_ in range(30):
        log = open_log(disk)
        assert contents(log) == expected
        del expected[rng.randrange(len(expected) + 1) :]
        log.truncate_after(len(expected))
        for counter in range(rng.randrange(8)):
            expected.append(record(1000 * round_ + counter, rng.choice([4, 200, 2000])))
            log.append(expected[-1])
            log.sync()
        disk.crash()
        disk.check_invariants()


def test_what_was_cut_off_is_not_on_the_disk_any_more() -> None:
    disk = VirtualDisk(Random(1))
    a_log_to_cut(disk)
    log = open_log(disk)
    log.truncate_after(46)
    for name in disk.names():
        file = disk.open(name)
        content = file.read_at(0, file.size())
        assert not any(bytes([counter]) * 150 in content for counter in range(46, 90))


def test_cuts_of_the_test_are_where_it_says() -> None:
    disk = VirtualDisk(Random(1))
    a_log_to_cut(disk)
    log = open_log(disk)
    starts = set(log._starts)
    blocks = sorted({log.lsn_after(seq) for seq in range(90)})
    assert len(starts) > 5
    assert all(b - a == 2 * SECTOR_BYTES for a, b in pairwise(blocks))
    assert {log.lsn_after(after) in starts for after in CUTS} == {True, False}
