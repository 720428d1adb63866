"""One life of a memory node on a virtual disk: what leaves it, and when."""

import random

import pytest

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import ConfigError, StorageError, SyncFailed
from sinfonia.memnode.checkpointer import LOOK_EVERY
from sinfonia.memnode.group_commit import LAZY_SYNC_MAX
from sinfonia.memnode.leading import COPY_IDLE
from sinfonia.memnode.node import MemoryNode
from sinfonia.memnode.settings import CheckpointLimits, MemoryNodeSettings, State
from sinfonia.protocol.attempts import CLOCK_DRIFT_MARGIN
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry, Registered
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    Commit,
    CommitAck,
    NotServing,
    Reply,
    Request,
    Requests,
    Vote,
    Voted,
)
from sinfonia.protocol.replication.messages import GetImage
from sinfonia.simulation.disk import VirtualDisk
from sinfonia.simulation.participant_harness import CLIENT, one_phase, prepare, tid
from sinfonia.storage.redo_log import RedoLog

ROUTE = b"client"
CHECKPOINT_AFTER = 64 * 1024


def settings(mode: str = "LOG") -> MemoryNodeSettings:
    return MemoryNodeSettings(
        node=MemoryNodeId(0),
        endpoint="",
        capacity=1024 * 1024,
        mode=mode,
        checkpoints=CheckpointLimits(log_bytes=CHECKPOINT_AFTER),
        log_segment_bytes=CHECKPOINT_AFTER,
        keep_log_bytes=0,
    )


def directory(starts: int) -> Directory:
    """This member is the primary in its life ``starts``."""
    entry = MemoryNodeEntry(
        node=MemoryNodeId(0),
        endpoint="",
        capacity=1,
        mode="LOG",
        identity="me",
        incarnation=starts,
        starts=starts,
        config_epoch=starts,
    )
    return Directory(starts, 0, "test", [entry])


class Host:
    """A machine with a disk, on which a memory node lives again and again."""

    def __init__(self, mode: str = "LOG") -> None:
        self.disk = VirtualDisk(random.Random(1))
        self.mode = mode
        self.now = 0.0
        self.counter = 0
        self.sent: list[Reply] = []
        self.node = self.start()
        self.welcome()

    def start(self) -> MemoryNode:
        return MemoryNode(
            settings(self.mode),
            self.disk,
            new_identity="me",
            send=lambda _route, replies: self.sent.extend(replies.replies),
            wall=lambda: round(self.now * 1e6),
            now=self.now,
        )

    def welcome(self, refusal: str = "") -> None:
        starts = self.node.starts
        self.node.on_manager(Registered(starts, 0, directory(starts), refusal), self.now)
        self.node.tick(self.now)

    def crash(self) -> None:
        self.node.close()
        self.disk.crash()
        self.now += 1.0
        self.node = self.start()

    def send(self, *requests: Request) -> list[Reply]:
        """Deliver a batch and flush; the replies that left."""
        incarnation = self.node.incarnation
        batch = Requests(PROTOCOL_VERSION, CLIENT, incarnation, 0, list(requests))
        self.node.receive(ROUTE, batch, self.now)
        return self.flush()

    def flush(self) -> list[Reply]:
        self.node.flush(self.now)
        sent, self.sent = self.sent, []
        return sent

    @property
    def syncs(self) -> int:
        assert self.node.leading is not None
        return self.node.leading.group.syncs

    def begin_checkpoint(self) -> None:
        assert self.node.leading is not None
        self.node.leading.begin_checkpoint(self.now)

    def write(self, address: int, data: bytes) -> Vote:
        self.counter += 1
        [reply] = self.send(one_phase(self.counter, write=[(address, data)]))
        assert isinstance(reply, Voted)
        return reply.vote

    def read(self, address: int, length: int) -> bytes:
        self.counter += 1
        [reply] = self.send(one_phase(self.counter, read=[(address, length)]))
        assert isinstance(reply, Voted)
        return reply.reads[0]


def test_what_was_answered_survives_a_crash() -> None:
    host = Host()
    assert host.write(0, b"kept") is Vote.OK
    host.crash()
    host.welcome()
    host.now += 1.0
    host.node.tick(host.now)
    assert host.read(0, 4) == b"kept"


def test_one_sync_serves_a_whole_wake_up() -> None:
    host = Host()
    syncs = host.syncs
    for counter in range(1, 11):
        request = one_phase(counter, write=[(counter, b"x")])
        batch = Requests(PROTOCOL_VERSION, CLIENT, 1, 0, [request])
        host.node.receive(ROUTE, batch, host.now)
    assert len(host.flush()) == 10
    assert host.syncs == syncs + 1


def test_what_only_reads_is_not_synced() -> None:
    host = Host()
    syncs = host.syncs
    assert host.read(0, 4) == bytes(4)
    assert host.syncs == syncs


def test_nothing_leaves_after_a_sync_that_failed() -> None:
    host = Host()
    host.disk.fail_sync = True
    with pytest.raises(SyncFailed):
        host.write(0, b"lost")
    with pytest.raises(SyncFailed):
        host.write(0, b"lost")


def test_the_acknowledgement_of_commit_waits_for_a_sync_but_not_for_long() -> None:
    host = Host()
    host.send(prepare(1, write=[(0, b"x")]))
    assert host.send(Commit(tid(1), True)) == []
    wakeup = host.node.next_wakeup()
    assert wakeup is not None
    assert wakeup - host.now == pytest.approx(LAZY_SYNC_MAX)
    host.now += LAZY_SYNC_MAX
    assert host.flush() == [CommitAck(tid(1))]


def test_the_acknowledgement_of_commit_leaves_with_the_next_sync() -> None:
    host = Host()
    host.send(prepare(1, write=[(0, b"x")]))
    host.send(Commit(tid(1), True))
    assert CommitAck(tid(1)) in host.send(one_phase(2, write=[(8, b"y")]))


def test_a_restarted_node_serves_after_the_read_lease_and_a_new_one_at_once() -> None:
    host = Host()
    assert host.node.state.value == "serving"
    host.crash()
    host.welcome()
    assert host.node.state is State.SETTLING
    refused = [NotServing()]
    assert host.send(one_phase(1, write=[(0, b"x")])) == refused
    host.now += settings().read_lease * (1 + CLOCK_DRIFT_MARGIN)
    host.node.tick(host.now)
    assert host.node.state.value == "serving"


def test_what_is_in_doubt_is_settled_before_the_node_serves() -> None:
    host = Host()
    host.send(prepare(1, write=[(0, b"x")]))
    host.crash()
    host.welcome()
    host.now += 0.5
    host.node.tick(host.now)
    assert host.node.state is State.SETTLING
    host.send(Commit(tid(1), True))
    host.node.tick(host.now)
    assert host.node.state.value == "serving"
    assert host.read(0, 1) == b"x"


def test_what_cannot_be_settled_delays_the_others_for_a_bounded_time() -> None:
    host = Host()
    host.send(prepare(1, write=[(0, b"x")]))
    host.crash()
    host.welcome()
    host.now += settings().settle_max
    host.node.tick(host.now)
    assert host.node.state.value == "serving"
    assert host.write(8, b"y") is Vote.OK
    assert host.write(0, b"y") is Vote.BAD_LOCK


def test_a_late_answer_to_a_former_life_is_not_believed() -> None:
    """Found by simulation (seeds 19 and 258)."""
    host = Host()
    host.crash()
    host.node.on_manager(Registered(1, 0, directory(1)), host.now)
    assert host.node.state is State.STARTING


def test_a_refused_node_does_not_serve() -> None:
    host = Host()
    host.crash()
    with pytest.raises(StorageError, match="go away"):
        host.welcome(refusal="go away")


def test_a_node_that_lost_its_files_says_that_it_is_empty() -> None:
    host = Host()
    assert host.node.registration().empty
    host.crash()
    assert not host.node.registration().empty
    host.node.close()
    for name in host.disk.names():
        if name != "identity":
            host.disk.remove(name)
    host.node = host.start()
    assert host.node.registration().empty


def test_a_node_in_mode_ram_is_always_empty_when_it_starts() -> None:
    host = Host("RAM")
    host.write(0, b"x")
    host.crash()
    assert host.node.registration().empty


def test_checkpoints_bound_the_log_and_what_a_restart_replays() -> None:
    host = Host()
    for i in range(600):
        assert host.write(i * 1024, bytes([i % 256]) * 512) is Vote.OK
        host.now += 0.001
        host.node.tick(host.now)
    log_bytes = host.node.status().figures["log_bytes"]
    assert isinstance(log_bytes, int)
    assert log_bytes <= 4 * CHECKPOINT_AFTER
    host.crash()
    assert host.node.member_state.replayed < 300
    host.welcome()
    host.now += 1.0
    host.node.tick(host.now)
    for i in range(0, 600, 7):
        assert host.read(i * 1024, 512) == bytes([i % 256]) * 512


def test_an_answer_outlives_the_log_record_that_it_was_in() -> None:
    """The checkpoint keeps the sessions: at-most-once does not end where the log is cut."""
    host = Host()
    swap = one_phase(1000, read=[(0, 3)], write=[(0, b"new")])
    [first] = host.send(swap)
    host.begin_checkpoint()
    for _ in range(20):
        host.node.tick(host.now)
    host.crash()
    assert host.node.member_state.replayed == 0
    host.welcome()
    host.now += 1.0
    host.node.tick(host.now)
    assert host.send(swap) == [first]


def test_an_unknown_mode_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="mode 'FAST' is not one of RAM, RAM-REPL, LOG"):
        settings("FAST")


def test_a_checkpoint_that_waits_for_the_disk_is_looked_after_though_nothing_else_happens() -> None:
    """Found by simulation (seed 301431): an idle node left it unfinished, and the log uncut."""
    host = Host()
    host.write(0, b"x")
    host.begin_checkpoint()
    host.node.tick(host.now)
    wakeup = host.node.next_wakeup()
    assert wakeup is not None
    assert wakeup - host.now <= LOOK_EVERY


def test_a_crash_between_a_checkpoint_and_the_cut_of_the_log_leaves_no_old_segments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found by simulation: they stayed until the next checkpoint ended."""
    host = Host()
    with monkeypatch.context() as patched:
        patched.setattr(RedoLog, "truncate_before", lambda _log, _processed: None)
        for i in range(400):
            host.write(i * 1024, bytes(512))
            host.now += 0.001
            host.node.tick(host.now)
        kept = host.node.status().figures["log_bytes"]
        host.node.close()
        host.disk.crash()
    host.node = host.start()
    left = host.node.status().figures["log_bytes"]
    assert isinstance(kept, int)
    assert isinstance(left, int)
    assert left < kept


def test_a_copier_that_has_gone_leaves_nothing_that_waits_for_a_log() -> None:
    host = Host("RAM")
    host.send(GetImage())
    [voted] = host.send(prepare(1, write=[(0, b"x")]))
    assert isinstance(voted, Voted)
    host.now += COPY_IDLE - LAZY_SYNC_MAX / 2
    assert host.send(Commit(tid(1), True)) == []
    host.now += LAZY_SYNC_MAX / 2
    host.node.wake_up(host.now)
    host.now += LAZY_SYNC_MAX
    host.node.wake_up(host.now)
    assert [reply for reply in host.sent if isinstance(reply, CommitAck)]
