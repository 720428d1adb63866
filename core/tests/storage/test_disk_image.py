"""Image and redo log together never lag behind what was acknowledged."""

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import CorruptLog, StorageError, SyncFailed
from sinfonia.minitransaction import WriteItem
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.messages import Vote, Voted
from sinfonia.protocol.records import (
    DecidedState,
    LockRange,
    OnePhase,
    ParticipantState,
    Prepared,
    SessionState,
)
from sinfonia.simulation.disk import PowerLost, VirtualDisk
from sinfonia.storage.address_space import PAGE_BYTES, AddressSpace
from sinfonia.storage.disk_image import (
    CHECKPOINT_FILE,
    CHECKSUM_FILE,
    IMAGE_FILE,
    RunningCheckpoint,
)
from sinfonia.storage.files import SECTOR_BYTES, Files, OsFiles
from sinfonia.storage.stable_storage import StableStorage, open_stable_storage

IDENTITY = "a-memory-node"
PAGES = 8
CAPACITY = PAGES * PAGE_BYTES
SEGMENT_BYTES = 8 * SECTOR_BYTES


def open_storage(
    files: Files, *, identity: str = IDENTITY, capacity: int = CAPACITY
) -> StableStorage:
    return open_stable_storage(
        files, identity=identity, capacity=capacity, segment_bytes=SEGMENT_BYTES, keep_bytes=0
    )


def begin_checkpoint(storage: StableStorage, state: ParticipantState) -> RunningCheckpoint:
    log = storage.log
    return storage.image.begin_checkpoint(
        storage.space.take_dirty(), state, lsn=log.stable_lsn, seq=log.stable, history=log.history
    )


class Node:
    """The least that a memory node does with its storage: log, sync, apply, checkpoint, replay.

    What a participant knows is here one number, the count of writes, kept as the epoch.
    """

    def __init__(self, files: Files) -> None:
        self.storage = open_storage(files)
        self.space = self.storage.space
        self.count = self.storage.checkpoint.state.epoch
        self.running: RunningCheckpoint | None = None
        for _, record in self.storage.log.records_after(self.storage.checkpoint.seq):
            assert isinstance(record, OnePhase)
            assert record.counter == self.count, "a record is replayed once, in its turn"
            self.apply(record)
        self.storage.image.confirm(self.space.dirty)

    def apply(self, record: OnePhase) -> None:
        self.count += 1
        for item in record.writes:
            self.space.write(item.address, item.data)

    def write(self, address: int, data: bytes) -> None:
        """Log and apply; not acknowledged before ``sync``."""
        record = OnePhase(1, 0, self.count, 0, [WriteItem(address, data)])
        self.storage.log.append(record)
        self.apply(record)

    def sync(self) -> None:
        self.storage.log.sync()

    def begin(self) -> None:
        self.running = begin_checkpoint(self.storage, ParticipantState(epoch=self.count))

    def step(self, bytes_max: int = PAGE_BYTES) -> bool:
        """Carry the running checkpoint on; True when it is finished, or there is none."""
        if self.running is None:
            return True
        if not self.running.step(self.space, bytes_max):
            return False
        self.storage.log.truncate_before(self.running.processed)
        self.running = None
        return True

    def checkpoint(self) -> None:
        self.begin()
        self.finish()

    def finish(self) -> None:
        deadline = time.monotonic() + 30
        while not self.step():
            assert time.monotonic() < deadline

    def memory(self) -> bytes:
        return self.space.read(0, self.space.capacity)


@dataclass
class Model:
    """What must be found after a crash: all that was synced, and perhaps what was being synced."""

    memory: bytearray = field(default_factory=lambda: bytearray(CAPACITY))
    unsynced: list[tuple[int, bytes]] = field(default_factory=list)

    def with_unsynced(self) -> bytearray:
        memory = bytearray(self.memory)
        for address, data in self.unsynced:
            memory[address : address + len(data)] = data
        return memory

    def synced(self) -> None:
        self.memory = self.with_unsynced()
        self.unsynced.clear()

    def settle(self, found: bytes) -> None:
        """After a restart that found ``found``: this is now the truth."""
        assert found in (self.memory, self.with_unsynced())
        self.memory = bytearray(found)
        self.unsynced.clear()


@pytest.fixture(params=["real", "virtual"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return OsFiles(tmp_path) if request.param == "real" else VirtualDisk(Random(1))


def restarted(node: Node, files: Files) -> Node:
    node.storage.close()
    return Node(files)


def test_a_first_start_finds_zeros_and_nothing_known(files: Files) -> None:
    storage = open_storage(files)
    assert storage.space.read(0, CAPACITY) == bytes(CAPACITY)
    assert storage.checkpoint.state == ParticipantState()
    assert storage.checkpoint.processed == 0
    storage.close()


def test_a_restart_finds_what_was_synced_with_and_without_a_checkpoint(files: Files) -> None:
    node = Node(files)
    node.write(10, b"first")
    node.sync()
    node = restarted(node, files)
    assert node.space.read(10, 5) == b"first"
    node.checkpoint()
    node.write(PAGE_BYTES - 2, b"across")
    node.sync()
    node = restarted(node, files)
    assert node.space.read(10, 5) == b"first"
    assert node.space.read(PAGE_BYTES - 2, 6) == b"across"
    assert node.count == 2
    node.storage.close()


def test_a_checkpoint_shortens_replay_and_the_log(files: Files) -> None:
    node = Node(files)
    for index in range(40):
        node.write(index, b"x")
        node.sync()
    node.checkpoint()
    assert node.storage.log.start_lsn > 0
    node.write(100, b"y")
    node.sync()
    node.storage.close()
    storage = open_storage(files)
    assert storage.checkpoint.state.epoch == 40
    assert len(list(storage.log.records_after(storage.checkpoint.seq))) == 1
    storage.close()


def test_a_checkpoint_writes_only_what_changed_since_the_last(files: Files) -> None:
    node = Node(files)
    for page in range(PAGES):
        node.write(page * PAGE_BYTES, b"x")
    node.sync()
    node.checkpoint()
    node.write(3 * PAGE_BYTES, b"y")
    node.sync()
    assert node.space.dirty == {3}
    node.checkpoint()
    assert node.space.dirty == set()
    node.storage.close()


def test_a_step_writes_no_more_than_it_may() -> None:
    disk = VirtualDisk(Random(1))
    node = Node(disk)
    node.write(0, bytes(PAGE_BYTES * 7) + b"x")
    node.sync()
    node.begin()
    steps = 0
    while not node.step(3 * PAGE_BYTES):
        steps += 1
    assert steps == 3, "8 pages, 3 at a time; the job that ends it is then waited for"


def test_what_is_written_during_a_checkpoint_is_kept(files: Files) -> None:
    node = Node(files)
    for page in range(PAGES):
        node.write(page * PAGE_BYTES, b"before")
    node.sync()
    node.begin()
    deadline = time.monotonic() + 30
    page = 0
    while not node.step():
        node.write(page % PAGES * PAGE_BYTES, b"%06d" % page)
        node.sync()
        page += 1
        assert time.monotonic() < deadline
    memory = node.memory()
    node = restarted(node, files)
    assert node.memory() == memory
    node.checkpoint()
    node = restarted(node, files)
    assert node.memory() == memory
    node.storage.close()


def test_what_the_participant_knew_comes_back_as_it_was(files: Files) -> None:
    tid = Tid(3, 2**64 - 1, 5)
    voted = Voted(5, Vote.OK, [b"read"])
    state = ParticipantState(
        epoch=3,
        sessions=[SessionState(2**64 - 1, 3, 4, [voted])],
        in_doubt=[
            Prepared(
                tid,
                4,
                [MemoryNodeId(0), MemoryNodeId(1)],
                [WriteItem(0, b"new")],
                [LockRange(0, 3, True)],
                [b"old"],
            )
        ],
        decided=[DecidedState(Tid(3, 1, 1), [MemoryNodeId(0), MemoryNodeId(1)], voted)],
    )
    storage = open_storage(files)
    running = begin_checkpoint(storage, state)
    deadline = time.monotonic() + 30
    while not running.step(storage.space, PAGE_BYTES):
        assert time.monotonic() < deadline
    storage.close()
    storage = open_storage(files)
    assert storage.checkpoint.state == state
    storage.close()


def test_a_huge_address_space_costs_what_was_written(tmp_path: Path) -> None:
    files = OsFiles(tmp_path)
    capacity = 1 << 40
    storage = open_storage(files, capacity=capacity)
    far = capacity - 5
    storage.space.write(far, b"far")
    running = begin_checkpoint(storage, ParticipantState())
    deadline = time.monotonic() + 30
    while not running.step(storage.space, PAGE_BYTES):
        assert time.monotonic() < deadline
    storage.close()
    blocks = sum(path.stat().st_blocks for path in tmp_path.iterdir())
    assert blocks * 512 < 256 * 1024
    storage = open_storage(files, capacity=capacity)
    assert storage.space.read(far, 3) == b"far"
    storage.close()


def test_a_node_may_be_closed_in_the_middle_of_a_checkpoint(files: Files) -> None:
    node = Node(files)
    node.write(0, b"x" * CAPACITY)
    node.sync()
    node.begin()
    assert not node.step(CAPACITY)
    assert node.running is not None
    assert node.running.waiting
    node = restarted(node, files)
    assert node.memory() == b"x" * CAPACITY
    node.storage.close()


# --- crashes -------------------------------------------------------------------------------------


def run_to_the_end(disk: VirtualDisk, model: Model, rng: Random) -> None:
    """Three checkpoints with writes before, between and during them."""
    node = Node(disk)
    model.settle(node.memory())
    for round_ in range(3):
        for _ in range(3):
            _write_some(node, model, rng)
        node.begin()
        while not node.step():
            if rng.random() < 0.5:
                _write_some(node, model, rng)
        assert node.count > round_
    _write_some(node, model, rng)


def _write_some(node: Node, model: Model, rng: Random) -> None:
    for _ in range(rng.randint(1, 3)):
        data = rng.randbytes(rng.choice([1, 8, 600, PAGE_BYTES]))
        address = rng.randrange(CAPACITY - len(data))
        node.write(address, data)
        model.unsynced.append((address, data))
    node.sync()
    model.synced()


def operations_of_a_run() -> int:
    disk = VirtualDisk(Random(1))
    run_to_the_end(disk, Model(), Random(2))
    return disk.operations


@pytest.mark.parametrize("seed", range(10))
def test_a_crash_at_any_operation_loses_nothing_acknowledged(seed: int) -> None:
    for operation in range(operations_of_a_run()):
        disk = VirtualDisk(Random(seed))
        model = Model()
        disk.lose_power_at = operation
        with pytest.raises(PowerLost):
            run_to_the_end(disk, model, Random(2))
        disk.crash()
        # The restart is cut off as well, at an operation that differs from run to run.
        disk.lose_power_at = disk.operations + operation % 7
        try:
            run_to_the_end(disk, model, Random(3))
        except PowerLost:
            disk.crash()
        node = Node(disk)
        model.settle(node.memory())
        node.checkpoint()
        disk.crash()
        assert Node(disk).memory() == model.memory, f"power lost at operation {operation}"


@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(0, 120), max_size=6))
@settings(max_examples=60, deadline=None)
def test_crash_after_crash_loses_nothing_acknowledged(seed: int, cuts: list[int]) -> None:
    rng = Random(seed)
    disk, model = VirtualDisk(rng), Model()
    for cut in cuts:
        disk.lose_power_at = disk.operations + cut
        with contextlib.suppress(PowerLost):
            run_to_the_end(disk, model, rng)
        disk.crash()
        disk.check_invariants()
    model.settle(Node(disk).memory())


@pytest.mark.parametrize("seed", range(20))
def test_a_sync_that_fails_in_a_checkpoint_stops_the_node_and_loses_nothing(seed: int) -> None:
    rng = Random(seed)
    disk, model = VirtualDisk(rng), Model()
    node = Node(disk)
    _write_some(node, model, rng)
    node.checkpoint()
    _write_some(node, model, rng)
    node.begin()
    disk.fail_sync = True
    with pytest.raises(SyncFailed, match="checkpoint"):
        node.finish()
    node = Node(disk)
    assert node.memory() == model.memory
    node.checkpoint()
    disk.crash()
    assert Node(disk).memory() == model.memory


# --- damage --------------------------------------------------------------------------------------


def a_node_with_a_checkpoint() -> VirtualDisk:
    disk = VirtualDisk(Random(1))
    node = Node(disk)
    node.write(2 * PAGE_BYTES, b"x" * PAGE_BYTES)
    node.sync()
    node.checkpoint()
    return disk


def test_a_rotten_page_of_the_image_stops_the_node() -> None:
    disk = a_node_with_a_checkpoint()
    disk.corrupt(IMAGE_FILE, 2 * PAGE_BYTES + 99)
    with pytest.raises(StorageError, match=f"1 pages of file image .* at byte {2 * PAGE_BYTES}"):
        Node(disk)


def test_bytes_that_appear_in_a_hole_of_the_image_stop_the_node() -> None:
    disk = a_node_with_a_checkpoint()
    disk.corrupt(IMAGE_FILE, 5)
    with pytest.raises(StorageError, match="fail their checksum"):
        Node(disk)


def test_a_page_that_vanished_from_the_image_stops_the_node() -> None:
    disk = a_node_with_a_checkpoint()
    image = disk.open(IMAGE_FILE)
    image.truncate(0)
    image.truncate(CAPACITY)
    with pytest.raises(StorageError, match="fail their checksum"):
        Node(disk)


def test_a_page_that_replay_rewrites_may_be_torn() -> None:
    disk = a_node_with_a_checkpoint()
    node = Node(disk)
    node.write(2 * PAGE_BYTES, b"y" * PAGE_BYTES)
    node.sync()
    disk.corrupt(IMAGE_FILE, 2 * PAGE_BYTES + 99)
    assert Node(disk).space.read(2 * PAGE_BYTES, PAGE_BYTES) == b"y" * PAGE_BYTES


@pytest.mark.parametrize("name", [IMAGE_FILE, CHECKSUM_FILE, CHECKPOINT_FILE])
def test_a_missing_file_stops_the_node(name: str) -> None:
    disk = a_node_with_a_checkpoint()
    disk.remove(name)
    with pytest.raises(StorageError, match="missing from the data directory"):
        Node(disk)


def test_a_missing_log_stops_the_node() -> None:
    disk = a_node_with_a_checkpoint()
    for name in disk.names():
        if name.startswith("log."):
            disk.remove(name)
    with pytest.raises(CorruptLog, match="missing"):
        Node(disk)


def test_a_damaged_checkpoint_stops_the_node_at_any_byte() -> None:
    disk = a_node_with_a_checkpoint()
    for offset in range(disk.open(CHECKPOINT_FILE).size()):
        disk.corrupt(CHECKPOINT_FILE, offset)
        with pytest.raises(StorageError, match=r"checkpoint (fails its checksum|is damaged)"):
            Node(disk)
        disk.corrupt(CHECKPOINT_FILE, offset)
    assert Node(disk).count == 1


def test_the_checkpoint_of_another_memory_node_is_refused() -> None:
    disk = a_node_with_a_checkpoint()
    with pytest.raises(StorageError, match="another memory node"):
        open_storage(disk, identity="another")


def test_an_image_is_loaded_into_a_space_of_its_own() -> None:
    disk = a_node_with_a_checkpoint()
    storage = open_storage(disk)
    space = AddressSpace(CAPACITY)
    storage.image.load_into(space)
    assert space.read(2 * PAGE_BYTES, 3) == b"xxx"
    assert space.dirty == set(), "what is in the image need not be saved"
    assert space.written_chunks() == [0], "but it was written"
    storage.close()
    space.close()
