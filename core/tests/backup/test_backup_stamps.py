"""What memory nodes do for backups: stamps that only grow, and copies that are whole."""

import random
from collections.abc import Iterator

import pytest

from sinfonia.addresses import MemoryNodeId
from sinfonia.memnode.node import MemoryNode
from sinfonia.memnode.settings import MemoryNodeSettings
from sinfonia.minitransaction import WriteItem
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry, Register, Registered
from sinfonia.protocol.membership.registering import on_register
from sinfonia.protocol.messages import PROTOCOL_VERSION, Replies, Reply, Request, Requests
from sinfonia.protocol.records import OnePhase, Record, Stamp
from sinfonia.protocol.replication.messages import (
    GetImage,
    GetLog,
    GetPages,
    ImageBegun,
    LogPart,
    Pages,
)
from sinfonia.simulation.disk import VirtualDisk
from sinfonia.simulation.participant_harness import CLIENT, one_phase

NODE = MemoryNodeId(0)
CAPACITY = 1 << 20
DAY_US = 24 * 3600 * 1_000_000
START_US = 1_700_000_000_000_000


class Lone:
    """One memory node and its wall clock."""

    def __init__(self, mode: str = "LOG") -> None:
        self.mode = mode
        self.disk = VirtualDisk(random.Random(1))
        self.wall = START_US
        self.now = 100.0
        self.counter = 0
        self.lives = 0
        self.said: list[Replies] = []
        self.start()

    def start(self) -> None:
        self.lives += 1
        self.node = MemoryNode(
            MemoryNodeSettings(node=NODE, endpoint="here", capacity=CAPACITY, mode=self.mode),
            self.disk,
            new_identity="me",
            send=lambda _route, replies: self.said.append(replies),
            wall=lambda: self.wall,
            now=self.now,
        )
        entry = MemoryNodeEntry(
            node=NODE,
            endpoint="here",
            capacity=CAPACITY,
            mode=self.mode,
            identity="me",
            incarnation=self.lives,
            starts=self.node.starts,
            config_epoch=self.lives,
        )
        directory = Directory(self.lives, 0, "test", [entry])
        self.node.on_manager(Registered(self.node.starts, 0, directory), self.now)
        self.pass_time(5.0)

    def restart(self) -> None:
        self.node.close()
        self.disk.crash()
        self.start()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.node.wake_up(self.now)

    def ask(self, request: Request, *, clock: int = 0) -> list[Reply]:
        self.said.clear()
        batch = Requests(PROTOCOL_VERSION, CLIENT, self.lives, 0, [request], clock=clock)
        self.node.receive(b"a peer", batch, self.now)
        self.node.wake_up(self.now)
        return [reply for replies in self.said for reply in replies.replies]

    def write(self) -> None:
        self.counter += 1
        assert self.ask(one_phase(self.counter, write=[(8 * self.counter, b"8 bytes!")]))

    def log(self) -> list[Record]:
        journal = self.node.member_state.journal
        assert journal is not None
        return [record for _, record in journal.records_after(0)]

    def stamps(self) -> list[int]:
        return [record.clock for record in self.log() if isinstance(record, Stamp)]


@pytest.fixture
def lone() -> Iterator[Lone]:
    lone = Lone()
    yield lone
    lone.node.check_invariants()
    lone.node.close()


def test_stamps_go_on_from_the_last_in_the_log_whatever_the_wall_clock_says(lone: Lone) -> None:
    lone.write()
    lone.wall -= 2 * DAY_US
    lone.restart()
    lone.write()
    stamps = lone.stamps()
    assert len(stamps) == 2
    assert stamps == sorted(stamps)


def test_stamps_go_on_from_a_checkpoint_after_which_nothing_was_logged(lone: Lone) -> None:
    lone.write()
    assert lone.node.leading is not None
    lone.node.leading.begin_checkpoint(lone.now)
    while (
        lone.node.member_state.checkpointer is not None
        and lone.node.member_state.checkpointer.running
    ):
        lone.pass_time(0.01)
    lone.wall -= 2 * DAY_US
    lone.restart()
    lone.write()
    assert lone.stamps() == sorted(lone.stamps())


def test_what_a_crash_left_without_a_stamp_has_one_before_anything_is_answered(
    lone: Lone,
) -> None:
    """A large batch is several blocks, of which a crash may leave the first."""
    journal = lone.node.member_state.journal
    assert journal is not None
    journal.append(OnePhase(CLIENT, 0, 1, 0, [WriteItem(0, b"x")]))
    journal.sync()
    lone.restart()
    assert isinstance(lone.log()[-1], Stamp)


def test_a_stamp_is_logged_for_any_that_asks_and_only_once(lone: Lone) -> None:
    [part] = lone.ask(GetLog(0, START_US + 10), clock=START_US + 10)
    assert isinstance(part, LogPart)
    assert lone.stamps() == [START_US + 11]
    lone.ask(GetLog(0, START_US + 10), clock=START_US + 10)
    assert len(lone.stamps()) == 1


def test_a_clock_that_is_days_ahead_is_not_followed_and_nothing_logged_for_it(lone: Lone) -> None:
    lone.ask(GetLog(0, START_US + 2 * DAY_US), clock=START_US + 2 * DAY_US)
    assert lone.stamps() == []


def test_pages_are_given_only_after_an_image_was_begun_in_the_same_life(lone: Lone) -> None:
    lone.write()
    assert isinstance(lone.ask(GetImage())[0], ImageBegun)
    assert isinstance(lone.ask(GetPages(0))[0], Pages)
    lone.restart()
    assert lone.ask(GetPages(0)) == [], "an empty answer would pass for an empty memory"


def test_a_log_that_is_kept_for_copiers_only_does_not_use_a_number_twice() -> None:
    lone = Lone("RAM")
    lone.ask(GetImage())
    lone.write()
    [first] = lone.ask(GetLog(0))
    assert isinstance(first, LogPart)
    lone.pass_time(60.0)
    assert lone.node.member_state.journal is None
    [none] = lone.ask(GetLog(first.last))
    assert isinstance(none, LogPart)
    assert none.gone
    lone.write()
    lone.ask(GetImage())
    [late] = lone.ask(GetLog(first.last))
    assert isinstance(late, LogPart)
    assert late.gone, "what was written between the two copies is in no log"
    lone.node.close()


def test_a_memory_node_that_was_restored_begins_after_the_lives_in_its_log() -> None:
    request = Register(
        node=NODE,
        endpoint="here",
        capacity=CAPACITY,
        mode="LOG",
        identity="me",
        starts=1,
        empty=False,
        lived=1007,
    )
    entry = on_register(None, request, [])
    assert isinstance(entry, MemoryNodeEntry)
    assert entry.incarnation == 1008
