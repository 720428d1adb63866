"""Whatever keeps a journal, it behaves as a list of records in lives."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinfonia.minitransaction import WriteItem
from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.records import Batch, OnePhase, Record, decode_body, encode_body
from sinfonia.protocol.replication.messages import Life
from sinfonia.simulation.disk import VirtualDisk
from sinfonia.storage import redo_log
from sinfonia.storage.files import SECTOR_BYTES
from sinfonia.storage.journal import Journal, MemoryLog
from sinfonia.storage.log_blocks import Lsn, segment_name
from sinfonia.storage.redo_log import RedoLog

IDENTITY = "a-memory-node"
SEGMENT_BYTES = 8 * SECTOR_BYTES
PLENTY = 1 << 30


def record(counter: int, size: int = 4) -> Record:
    data = bytes([counter % 256]) * size
    return OnePhase(client=7, epoch=0, counter=counter, floor=0, writes=[WriteItem(64, data)])


def open_log(
    disk: VirtualDisk, *, founding: bool = False, keep: int = PLENTY, after: Seq = 0
) -> RedoLog:
    return RedoLog.open(
        disk,
        identity=IDENTITY,
        processed=None if founding else Lsn(0),
        seq=after,
        segment_bytes=SEGMENT_BYTES,
        keep_bytes=keep,
    )


def new_log(keep: int = PLENTY) -> RedoLog:
    return open_log(VirtualDisk(Random(1)), founding=True, keep=keep)


def records_of(batch: Batch) -> list[Record]:
    return decode_body(batch.body, batch.count)


def contents(log: Journal) -> list[Record]:
    return [each for _, each in log.records_after(log.first - 1)]


def fill(log: Journal, counters: Sequence[int], size: int = 4) -> None:
    """A block, or a batch, for each counter."""
    for counter in counters:
        log.append(record(counter, size))
        log.sync()


@pytest.fixture(params=["memory", "disk"])
def log(request: pytest.FixtureRequest) -> Journal:
    return MemoryLog() if request.param == "memory" else new_log()


def test_what_is_gathered_is_what_a_replica_appends(log: Journal) -> None:
    log.begin_life(5)
    fill(log, [1, 2])
    before = log.read_after(0, PLENTY)
    assert before is not None
    log.append(record(3))
    log.append(record(4))
    batch = log.gather()
    assert batch is not None
    assert (batch.first, batch.count, batch.last) == (3, 2, 4)
    assert log.gather() is None
    replica = new_log()
    for each in (before, batch):
        replica.append_body(each, log.history)
    replica.sync()
    assert contents(replica) == [record(counter) for counter in (1, 2, 3, 4)]
    assert replica.history == [Life(5, 1)]


def test_what_was_gathered_and_what_came_after_share_a_block() -> None:
    log = new_log()
    log.append(record(1))
    log.gather()
    log.append(record(2))
    log.gather()
    log.append(record(3))
    assert (log.stable, log.last, log.dirty) == (0, 3, True)
    log.sync()
    assert (log.stable, log.last, log.dirty) == (3, 3, False)
    assert [log.lsn_after(seq) for seq in range(3)] == [0, 0, 0]


def test_records_of_different_lives_never_share_a_block() -> None:
    log = new_log()
    body = encode_body([record(counter) for counter in range(1, 6)])
    log.append_body(Batch(1, 5, body), [Life(2, 1), Life(4, 3), Life(9, 7)])
    log.sync()
    assert log.history == [Life(2, 1), Life(4, 3)]
    assert log.lsn_after(0) == log.lsn_after(1) < log.lsn_after(2) == log.lsn_after(4)
    assert contents(log) == [record(counter) for counter in range(1, 6)]


def test_a_restart_knows_the_lives() -> None:
    disk = VirtualDisk(Random(1))
    log = open_log(disk, founding=True)
    for incarnation in (1, 4):
        log.begin_life(incarnation)
        fill(log, [1, 2, 3])
    log.begin_life(7)
    assert log.history == [Life(1, 1), Life(4, 4), Life(7, 7)]
    log = open_log(disk)
    assert log.history == [Life(1, 1), Life(4, 4)], "nothing was logged in the last one"
    assert (log.first, log.stable) == (1, 6)
    log = RedoLog.open(
        disk, identity=IDENTITY, processed=log.lsn_after(5), seq=5, history=log.history
    )
    assert log.history == [Life(1, 1), Life(4, 4)], "also from a checkpoint of the second"


def test_a_life_in_which_nothing_was_logged_leaves_no_trace(log: Journal) -> None:
    log.begin_life(1)
    log.begin_life(2)
    fill(log, [1])
    log.begin_life(3)
    log.begin_life(4)
    assert log.history == [Life(2, 1), Life(4, 2)]


def test_reading_gives_at_least_a_record_and_no_more_than_asked(log: Journal) -> None:
    for first in range(0, 30, 3):
        for counter in range(first, first + 3):
            log.append(record(counter, 100))
        log.sync()
    size = len(encode_body([record(0, 100)]))
    for seq in range(30):
        for wanted in (1, 2, 5):
            batch = log.read_after(seq, wanted * size + 1)
            assert batch is not None
            assert 0 < batch.count <= wanted
            assert batch.first == seq + 1
            assert records_of(batch) == [record(counter, 100) for counter in range(seq, batch.last)]
        least = log.read_after(seq, 1)
        assert least is not None
        assert least.count == 1
    assert log.read_after(30, PLENTY) == Batch(31, 0, b"")


def test_what_was_truncated_is_gone_and_the_log_goes_on(log: Journal) -> None:
    log.begin_life(1)
    fill(log, range(3))
    log.begin_life(2)
    for counter in range(3, 9):
        log.append(record(counter))
    log.sync()
    log.truncate_after(5)
    assert (log.stable, log.last, log.history) == (5, 5, [Life(1, 1), Life(2, 4)])
    log.truncate_after(3)
    assert (log.stable, log.last, log.history) == (3, 3, [Life(1, 1)])
    log.truncate_after(3)
    log.begin_life(7)
    fill(log, [20])
    assert contents(log) == [record(counter) for counter in (0, 1, 2, 20)]
    assert log.history == [Life(1, 1), Life(7, 4)]


def test_a_log_may_be_truncated_to_nothing(log: Journal) -> None:
    fill(log, range(20))
    log.truncate_after(0)
    assert (log.first, log.stable, log.history) == (1, 0, [])
    fill(log, [9])
    assert contents(log) == [record(9)]


def test_a_journal_may_begin_after_any_record() -> None:
    disk = VirtualDisk(Random(1))
    history = [Life(1, 1), Life(3, 50)]
    log = RedoLog.open(disk, identity=IDENTITY, processed=None, seq=77, history=history)
    for each in (log, MemoryLog(after=77, history=history)):
        assert (each.first, each.stable, each.last, each.history) == (78, 77, 77, history)
        assert each.read_after(77, PLENTY) == Batch(78, 0, b"")
        assert each.read_after(76, PLENTY) is None
        fill(each, [1])
        assert list(each.records_after(77)) == [(78, record(1))]


# --- what is kept --------------------------------------------------------------------------------


def test_a_memory_log_drops_the_oldest_and_says_so() -> None:
    log = MemoryLog(keep_bytes=20_000)
    for incarnation in range(1, 11):
        log.begin_life(incarnation)
        fill(log, range(10), size=1000)
        log.check_invariants()
    assert 80 < log.first < 90
    assert log.read_after(log.first - 2, PLENTY) is None
    rest = log.read_after(log.first - 1, PLENTY)
    assert rest is not None
    assert (rest.first, rest.last) == (log.first, 100)
    assert log.history[0].first < log.first <= log.history[1].first + 1


def test_a_redo_log_keeps_what_it_is_asked_to_and_no_segment_more() -> None:
    disk = VirtualDisk(Random(1))
    log = open_log(disk, founding=True, keep=3 * SEGMENT_BYTES)
    for incarnation in range(1, 11):
        log.begin_life(incarnation)
        fill(log, range(10))
        log.truncate_before(log.stable_lsn)
        kept = log.stable_lsn - log.start_lsn
        assert min(log.stable_lsn, 3 * SEGMENT_BYTES) <= kept <= 4 * SEGMENT_BYTES
        lives = [life for life in log.history if life.first < log.first]
        assert len(lives) <= 1, "those before are forgotten"
        assert lives or log.first == 1, "but not the life that wrote the record before the first"
    first, history = log.first, log.history
    assert log.read_after(first - 2, PLENTY) is None
    assert history[0].first < first
    expected = contents(log)
    assert len(expected) == 101 - first
    log = RedoLog.open(
        disk,
        identity=IDENTITY,
        processed=log.stable_lsn,
        seq=100,
        history=history,
        segment_bytes=SEGMENT_BYTES,
        keep_bytes=3 * SEGMENT_BYTES,
    )
    assert (log.first, log.history) == (first, history)
    assert contents(log) == expected


def test_damage_to_what_is_kept_for_others_makes_them_copy_the_image() -> None:
    disk = VirtualDisk(Random(1))
    log = open_log(disk, founding=True)
    fill(log, range(40))
    log.truncate_before(log.lsn_after(30))
    disk.corrupt(segment_name(Lsn(0)), 3 * SECTOR_BYTES + 60)
    assert log.read_after(0, 1) is not None
    assert log.read_after(3, 1) is None
    assert log.read_after(30, 1) is not None


def test_a_segment_that_cannot_be_read_ends_what_is_kept() -> None:
    disk = VirtualDisk(Random(1))
    log = open_log(disk, founding=True)
    fill(log, range(40))
    disk.corrupt(segment_name(Lsn(SEGMENT_BYTES)), 0)
    log = RedoLog.open(
        disk,
        identity=IDENTITY,
        processed=log.lsn_after(30),
        seq=30,
        segment_bytes=SEGMENT_BYTES,
        keep_bytes=PLENTY,
    )
    assert log.first == 17
    assert log.read_after(15, PLENTY) is None
    assert len(contents(log)) == 24


def test_sequential_reading_looks_at_each_block_about_once() -> None:
    log = RedoLog.open(VirtualDisk(Random(1)), identity=IDENTITY, processed=None)
    fill(log, range(2000))
    reads = 0
    read_at = type(log._file).read_at

    def counting(file: object, offset: int, length: int) -> bytes:
        nonlocal reads
        reads += 1
        return read_at(file, offset, length)  # type: ignore[arg-type]  # the class's own method

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(log._file), "read_at", counting)
        seq, parts = 0, 0
        while seq < 2000:
            batch = log.read_after(seq, 1000)
            assert batch is not None
            seq, parts = batch.last, parts + 1
    assert parts > 30
    # A block is two reads; besides, the way from the index to the first, and one block too many.
    assert reads < 2 * 2000 + parts * 40


# --- properties ----------------------------------------------------------------------------------


@dataclass
class Reference:
    """A journal as a list."""

    records: list[Record] = field(default_factory=list)
    stable: int = 0
    history: list[Life] = field(default_factory=list)

    def enter(self, incarnation: int, first: Seq) -> None:
        self.history = [life for life in self.history if life.first < first]
        self.history.append(Life(incarnation, first))

    def truncate(self, seq: Seq) -> None:
        if seq < len(self.records):
            del self.records[seq:]
            self.history = [life for life in self.history if life.first <= seq]
        self.stable = len(self.records)


steps = st.one_of(
    st.tuples(st.just("append"), st.lists(st.integers(0, 1500), min_size=1, max_size=5)),
    st.tuples(st.just("gather"), st.none()),
    st.tuples(st.just("append body"), st.lists(st.integers(0, 300), min_size=1, max_size=5)),
    st.tuples(st.just("new life"), st.none()),
    st.tuples(st.just("sync"), st.none()),
    st.tuples(st.just("truncate"), st.integers(0, 60)),
    st.tuples(st.just("read"), st.tuples(st.integers(0, 60), st.integers(1, 3000))),
    st.tuples(st.just("reopen"), st.none()),
    st.tuples(st.just("crash"), st.none()),
)


class BesideAList:
    """Journals of both kinds and a reference, of which the same is asked."""

    def __init__(self, seed: int) -> None:
        self.disk = VirtualDisk(Random(seed))
        self.log = open_log(self.disk, founding=True)
        self.memory = MemoryLog()
        self.reference = Reference()
        self.incarnation = 0
        self.counter = 0

    @property
    def journals(self) -> tuple[Journal, Journal]:
        return self.log, self.memory

    def make(self, sizes: Sequence[int]) -> list[Record]:
        made = []
        for size in sizes:
            self.counter += 1
            made.append(record(self.counter, size))
        return made

    def append(self, sizes: Sequence[int]) -> None:
        for each in self.make(sizes):
            self.reference.records.append(each)
            for journal in self.journals:
                journal.append(each)

    def append_body(self, sizes: Sequence[int]) -> None:
        """As from another member; its second record, if there is one, begins a life."""
        first = len(self.reference.records) + 1
        made = self.make(sizes)
        batch = Batch(first, len(made), encode_body(made))
        lives = list(self.reference.history)
        if len(made) > 1:
            self.incarnation += 1
            self.reference.enter(self.incarnation, first + 1)
            lives = list(self.reference.history)
        self.reference.records += made
        for journal in self.journals:
            journal.append_body(batch, lives)

    def gather(self) -> None:
        batches = [journal.gather() for journal in self.journals]
        assert batches[0] == batches[1]
        if batches[0] is not None:
            expected = self.reference.records[batches[0].first - 1 :]
            assert records_of(batches[0]) == expected

    def sync(self) -> None:
        for journal in self.journals:
            journal.sync()
        self.reference.stable = len(self.reference.records)

    def new_life(self) -> None:
        self.sync()
        self.incarnation += 1
        self.reference.enter(self.incarnation, len(self.reference.records) + 1)
        for journal in self.journals:
            journal.begin_life(self.incarnation)

    def truncate(self, seq: Seq) -> None:
        for journal in self.journals:
            journal.truncate_after(seq)
        self.reference.truncate(seq)

    def read(self, seq: Seq, bytes_max: int) -> None:
        stable = self.reference.records[: self.reference.stable]
        batch = self.log.read_after(seq, bytes_max)
        assert batch is not None
        assert batch.first == seq + 1
        assert records_of(batch) == stable[seq : seq + batch.count]
        assert batch.count > 0 or seq >= len(stable)
        assert batch.count <= 1 or len(batch.body) <= bytes_max
        everything = self.memory.read_after(seq, PLENTY)
        assert everything is not None
        assert records_of(everything)[: batch.count] == records_of(batch)

    def reopen(self, *, crash: bool) -> None:
        """What was not synced is lost in the log, and forgotten elsewhere."""
        self.log.close()
        if crash:
            self.disk.crash()
        self.log = open_log(self.disk)
        stable = self.reference.stable
        assert self.log.stable == stable
        self.reference.truncate(stable)
        self.memory.truncate_after(stable)
        # A life in which nothing was logged is not in the log.
        history = [life for life in self.reference.history if life.first <= stable]
        self.reference.history = self.memory.history = history

    def check(self) -> None:
        records = self.reference.records
        for journal in self.journals:
            assert journal.last == len(records)
            assert journal.history == self.reference.history
            assert contents(journal) == records[: journal.stable]
        assert self.log.stable == self.reference.stable
        assert self.log.dirty == (self.log.stable < self.log.last)
        self.log.check_invariants()
        self.memory.check_invariants()

    def do(self, kind: str, argument: object) -> None:
        if kind in ("append", "append body"):
            assert isinstance(argument, list)
            (self.append if kind == "append" else self.append_body)(argument)
        elif kind == "truncate":
            assert isinstance(argument, int)
            self.truncate(argument)
        elif kind == "read":
            assert isinstance(argument, tuple)
            self.read(*argument)
        elif kind in ("reopen", "crash"):
            self.reopen(crash=kind == "crash")
        else:
            {"gather": self.gather, "sync": self.sync, "new life": self.new_life}[kind]()


@given(seed=st.integers(0, 2**32), script=st.lists(steps, max_size=40))
@settings(max_examples=300, deadline=None)
def test_journals_behave_as_a_list(seed: int, script: list[tuple[str, object]]) -> None:
    run = BesideAList(seed)
    for kind, argument in script:
        run.do(kind, argument)
        run.check()


@given(sizes=st.lists(st.integers(0, 900), min_size=1, max_size=30), room=st.integers(1000, 3000))
@settings(max_examples=100, deadline=None)
def test_what_does_not_fit_into_a_block_is_split_between_records(
    sizes: list[int], room: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redo_log, "BODY_BYTES_MAX", room)
        log = new_log()
        made = [record(counter, size) for counter, size in enumerate(sizes)]
        log.append_body(Batch(1, len(made), encode_body(made)), [])
        log.sync()
        assert contents(log) == made
        assert (len(encode_body(made)) > room) == (log.lsn_after(0) != log.lsn_after(len(made) - 1))
