"""The scrubber: it finds what has rotted, and repairs it from memory before a restart needs it."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from sinfonia.errors import DamagedData
from sinfonia.memnode.checkpointer import Checkpointer
from sinfonia.memnode.scrubber import CHECK_BYTES, STEP_BYTES, Scrubber
from sinfonia.memnode.settings import CheckpointLimits
from sinfonia.minitransaction import WriteItem
from sinfonia.protocol.records import OnePhase, ParticipantState
from sinfonia.simulation.disk import VirtualDisk
from sinfonia.storage.address_space import PAGE_BYTES
from sinfonia.storage.disk_image import CHECKSUM_FILE, IMAGE_FILE
from sinfonia.storage.files import SECTOR_BYTES, Files, OsFiles
from sinfonia.storage.log_blocks import Lsn, segment_name
from sinfonia.storage.stable_storage import StableStorage, open_stable_storage

CAPACITY = 64 * PAGE_BYTES
RATE = 64 * 1024 * 1024


class Member:
    """One life of a member that writes and makes checkpoints when it is asked to."""

    def __init__(self, files: Files, *, rate: float = RATE) -> None:
        self.files = files
        self.now = 0.0
        self.storage: StableStorage = open_stable_storage(
            files, identity="m", capacity=CAPACITY, segment_bytes=8 * 1024
        )
        for _, record in self.storage.log.records_after(self.storage.checkpoint.seq):
            assert isinstance(record, OnePhase)
            for item in record.writes:
                self.storage.space.write(item.address, item.data)
        self.storage.image.confirm(self.storage.space.dirty, was_saving=self.storage.log.was_saving)
        self.checkpointer = Checkpointer(self.storage, CheckpointLimits(log_bytes=1 << 30))
        self.scrubber = Scrubber(self.storage, self.checkpointer, rate=rate, now=0.0)
        if not self.storage.log.incarnation:
            self.storage.log.begin_life(1)

    def write(self, page: int, byte: int) -> None:
        address = page * PAGE_BYTES
        self.storage.space.write(address, bytes([byte] * 700))
        number = self.storage.log.last + 1
        item = WriteItem(address, bytes([byte] * 700))
        self.storage.log.append(OnePhase(1, 0, number, number, [item]))
        self.storage.log.sync()

    def checkpoint(self) -> None:
        self.checkpointer.begin(self.storage.log.last, ParticipantState())
        while not self.checkpointer.carry_on(self.now, sync=self.storage.log.sync):
            pass

    def live(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += 0.01
            self.scrubber.tick(self.now)
            if self.checkpointer.due and not self.checkpointer.running:
                self.checkpoint()

    def restart(self) -> "Member":
        contents = self.storage.space.memory[:]
        self.storage.close()
        again = Member(self.files)
        assert again.storage.space.memory[:] == contents
        return again


@pytest.fixture(params=["real", "virtual"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return OsFiles(tmp_path) if request.param == "real" else VirtualDisk(random.Random(1))


@pytest.fixture
def member(files: Files) -> Member:
    member = Member(files)
    for number in range(20):
        member.write(number % 8, number + 1)
    member.checkpoint()
    for number in range(10):
        member.write(number % 3, number + 100)
    return member


def flip(files: Files, name: str, offset: int) -> None:
    file = files.open(name)
    file.write_at(offset, bytes([file.read_at(offset, 1)[0] ^ 4]))
    file.sync()
    file.close()


def rot_image(member: Member) -> None:
    flip(member.files, IMAGE_FILE, 5 * PAGE_BYTES + 3)


def rot_checksum(member: Member) -> None:
    flip(member.files, CHECKSUM_FILE, 4 * 6)


def rot_needed_log(member: Member) -> None:
    lsn = member.storage.log.lsn_after(member.storage.log.last - 2)
    start = max(each for each in member.storage.log.segment_starts if each <= lsn)
    flip(member.files, segment_name(start), lsn - start + 60)


def rot_end_of_log(member: Member) -> None:
    start = member.storage.log.segment_starts[-1]
    end = member.storage.log.stable_lsn - start
    flip(member.files, segment_name(start), end - 2 * SECTOR_BYTES)


DAMAGE = [rot_image, rot_checksum, rot_needed_log, rot_end_of_log]


@pytest.mark.parametrize("rot", DAMAGE)
def test_what_rots_in_a_running_member_is_repaired_from_its_memory(
    member: Member, rot: Callable[[Member], None]
) -> None:
    rot(member)
    member.live(3.0)
    assert (member.scrubber.findings, member.scrubber.repairs) == (1, 1)
    assert not member.scrubber.repairing
    member.write(9, 9)
    again = member.restart()
    again.live(3.0)
    assert again.scrubber.findings == 0


@pytest.mark.parametrize("rot", [rot_image, rot_checksum, rot_needed_log])
def test_without_a_scrubber_the_next_start_finds_it(
    member: Member, rot: Callable[[Member], None]
) -> None:
    rot(member)
    member.storage.log.vouch(saving=False)
    with pytest.raises(DamagedData):
        member.restart()


def test_a_sound_disk_is_gone_round_at_the_configured_rate(member: Member) -> None:
    slow = 1024 * 1024
    member.scrubber = Scrubber(member.storage, member.checkpointer, rate=slow, now=0.0)
    member.live(60.0)
    assert member.scrubber.findings == 0
    assert member.scrubber.passes >= 2
    assert member.scrubber.bytes <= 60.0 * slow + STEP_BYTES


def test_small_blocks_of_a_log_do_not_keep_an_idle_member_awake(member: Member) -> None:
    """Each was counted by its few hundred bytes, so that the scrubber woke the loop up at once."""
    rate = 1024 * 1024
    scrubber = Scrubber(member.storage, member.checkpointer, rate=rate, now=0.0)
    now, wakeups = 0.0, 0
    while now < 10.0:
        scrubber.tick(now)
        wakeup = scrubber.next_wakeup()
        assert wakeup is not None
        now, wakeups = max(wakeup, now + 0.002), wakeups + 1
    assert scrubber.passes >= 1
    assert wakeups <= 10.0 * rate / CHECK_BYTES + 1


def test_a_page_that_is_to_be_saved_anyway_is_no_finding(member: Member) -> None:
    flip(member.files, IMAGE_FILE, 2 * PAGE_BYTES + 3)  # written since the checkpoint
    member.live(3.0)
    assert member.scrubber.findings == 0
    member.checkpoint()
    member.restart()


def test_what_changes_while_it_is_checked_is_no_finding(member: Member) -> None:
    for number in range(300):
        member.write(number % 60, number % 250)
        member.live(0.02)
        if number % 50 == 25:
            member.checkpoint()
        if number % 50 == 0:
            member.storage.log.truncate_after(member.storage.log.last - 1)
            member.checkpoint()
    assert member.scrubber.findings == 0


def test_a_block_that_a_replica_needs_and_cannot_be_read_is_repaired_without_scrubbing(
    member: Member,
) -> None:
    member.scrubber = Scrubber(member.storage, member.checkpointer, rate=0, now=0.0)
    rot_needed_log(member)
    needed = member.storage.log.last - 3
    assert member.storage.log.read_after(needed, 1 << 20) is None, "it copies the image"
    member.live(1.0)
    assert member.scrubber.repairs == 1
    member.restart()


def test_a_block_larger_than_a_step_is_checked_in_steps(files: Files) -> None:
    member = Member(files)
    data = bytes(3 * STEP_BYTES)
    member.storage.log.append(OnePhase(1, 0, 1, 1, [WriteItem(0, data)]))
    member.storage.log.sync()
    steps = list(member.storage.log.check_blocks(STEP_BYTES))
    assert max(step.read for step in steps) <= STEP_BYTES
    assert len(steps) == 4
    assert all(step.damaged is None for step in steps)
    flip(files, segment_name(Lsn(0)), 2 * STEP_BYTES)
    assert [step.damaged for step in member.storage.log.check_blocks(STEP_BYTES)][-1] == 0


def test_a_checkpoint_of_a_replica_that_cannot_find_its_place_is_made_from_further_back(
    files: Files,
) -> None:
    """The damage is repaired all the same, once everything is applied."""
    member = Member(files, rate=0)
    for number in range(6):
        member.write(number, number + 1)
    flip(files, segment_name(Lsn(0)), member.storage.log.lsn_after(2))
    assert member.storage.log.lsn_after(4) == 0
    member.live(1.0)
    assert (member.scrubber.findings, member.scrubber.repairs) == (1, 1)
    member.restart()


@pytest.mark.parametrize("offset", [32, 37, 51])
def test_a_rotten_record_number_in_a_segment_that_is_kept_for_others_misleads_none(
    files: Files, offset: int
) -> None:
    """Headers are read without their checksums."""
    member = Member(files)
    for number in range(40):
        member.write(number % 8, number + 1)
    member.checkpoint()
    member.write(1, 1)
    first, second = member.storage.log.segment_starts[:2]
    end = member.storage.log.stable
    flip(files, segment_name(first), offset)
    flip(files, segment_name(second), 3 * SECTOR_BYTES + offset)
    again = member.restart()
    again.storage.log.check_invariants()
    for seq in range(max(again.storage.log.first - 1, 0), end):
        batch = again.storage.log.read_after(seq, 1)
        assert batch is None or batch.first == seq + 1
    again.storage.log.check_invariants()
