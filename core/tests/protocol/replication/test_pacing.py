"""Writers add half of what a replica takes that catches up, so that it does catch up."""

import pytest

from sinfonia.protocol.messages import PROTOCOL_VERSION, Replies, Reply, Requests
from sinfonia.protocol.records import Batch
from sinfonia.protocol.replication.limits import ReplicationLimits
from sinfonia.protocol.replication.pacing import (
    COPIER_SILENT_MAX,
    COPIERS_MAX,
    PACE_MAX,
    PACE_SILENT_MAX,
    WRITERS_SHARE,
    Asked,
    Pacing,
)
from sinfonia.simulation.member_group import MemberGroup
from sinfonia.simulation.participant_harness import one_phase
from sinfonia.storage.batches import head_of_batch, split_batch
from sinfonia.storage.journal import KEEP_FOR_COPIES_FACTOR, MemoryLog

MIB = 1 << 20
LIMITS = ReplicationLimits()
R = b"route"


def counts(identity: str, now: float) -> bool:
    """Every replica is to be paced for."""
    del now
    return bool(identity)


def copying(now: float = 0.0) -> Pacing:
    """A replica has begun to copy."""
    paced = Pacing(LIMITS)
    paced.begins(R, "b", 10, now)
    return paced


# --- the law -------------------------------------------------------------------------------------


def test_no_writer_waits_while_no_replica_catches_up() -> None:
    paced = Pacing(LIMITS)
    paced.spend(1 << 40)
    assert paced.may_go_on(0.0, counts)


def test_writers_may_go_on_until_the_credit_is_used_up() -> None:
    paced = copying()
    paced.spend(LIMITS.credit - 1)
    assert paced.may_go_on(0.0, counts)
    paced.spend(1)
    assert not paced.may_go_on(0.0, counts)


def test_what_a_replica_lacks_shrinks_however_much_writers_would_write() -> None:
    """It takes 1 MiB at a time; writers add what they may and no more."""
    paced = copying()
    lacks, place = 256.0, 10
    rounds = 0
    while lacks > 0:
        paced.asks(R, "b", Asked.LOG, place, 0.0)
        paced.answered(R, Asked.LOG, MIB)
        lacks -= 1
        place += 1
        rounds += 1
        while paced.may_go_on(0.0, counts):
            paced.spend(MIB)
            lacks += 1
    slack = LIMITS.credit / MIB + 2
    assert rounds <= WRITERS_SHARE * (256 + slack)


def test_a_question_that_is_repeated_shows_no_progress() -> None:
    paced = copying()
    paced.spend(2 * LIMITS.credit)
    for _ in range(100):
        paced.asks(R, "b", Asked.PAGES, 0, 0.0)
        paced.answered(R, Asked.PAGES, MIB)
    assert not paced.may_go_on(0.0, counts)


def test_pages_of_an_image_are_progress_as_the_log_is() -> None:
    paced = copying()
    paced.spend(2 * LIMITS.credit)
    for page in range(5 * LIMITS.credit // MIB):
        paced.asks(R, "b", Asked.PAGES, page, 0.0)
        paced.answered(R, Asked.PAGES, MIB)
    assert paced.may_go_on(0.0, counts)


def test_writers_that_a_replica_keeps_up_with_are_never_delayed() -> None:
    """It has everything again and again, whatever it had to take for that."""
    paced = copying()
    for place in range(10, 1000):
        paced.spend(LIMITS.credit // 2)
        assert paced.may_go_on(0.0, counts)
        paced.asks(R, "b", Asked.LOG, place, 0.0)
        paced.answered(R, Asked.LOG, 0)


def test_of_two_replicas_that_catch_up_the_slower_one_counts() -> None:
    paced = copying()
    paced.begins(b"other", "c", 10, 0.0)
    paced.spend(2 * LIMITS.credit)
    paced.has_all(R)
    assert not paced.may_go_on(0.0, counts)
    paced.ends(b"other")
    assert paced.may_go_on(0.0, counts)


def test_no_writer_is_slowed_down_for_a_backup_or_for_a_silent_replica() -> None:
    paced = Pacing(LIMITS)
    paced.begins(b"backup", "", 10, 0.0)
    paced.begins(R, "b", 10, 0.0)
    paced.spend(2 * LIMITS.credit)
    assert not paced.may_go_on(PACE_SILENT_MAX, counts)
    assert paced.may_go_on(PACE_SILENT_MAX + 0.01, counts)


# --- the log that is kept ------------------------------------------------------------------------


def test_the_log_is_kept_from_where_the_copier_is_that_is_furthest_behind() -> None:
    paced = copying()
    paced.begins(b"backup", "", 30, 0.0)
    assert paced.needed_after(0.0) == 10
    paced.asks(R, "b", Asked.LOG, 50, 1.0)
    assert paced.needed_after(1.0) == 30


def test_nothing_is_kept_for_a_copier_that_asks_no_more() -> None:
    paced = copying()
    assert paced.needed_after(COPIER_SILENT_MAX) == 10
    assert paced.needed_after(COPIER_SILENT_MAX + 0.01) is None
    assert not paced.copiers


def test_a_client_that_only_pretends_to_copy_takes_no_memory() -> None:
    paced = Pacing(LIMITS)
    for number in range(10 * COPIERS_MAX):
        paced.begins(b"%d" % number, "", 1, float(number))
    paced.check_invariants()


def log_of(keep_bytes: int) -> MemoryLog:
    log = MemoryLog(keep_bytes=keep_bytes)
    log.begin_life(1)
    return log


def append(log: MemoryLog, size: int) -> None:
    log.append_body(Batch(log.last + 1, 1, bytes(size)), [])


def test_a_journal_keeps_what_a_copier_needs_but_not_without_bound() -> None:
    log = log_of(10_000)
    append(log, 1000)
    log.needed_after = 0
    for _ in range(30):
        append(log, 1000)
    assert log.first == 1
    for _ in range(30):
        append(log, 1000)
    assert log.first > 1, "a copier that never ends fills nothing"
    assert log.last - log.first + 1 > 0.8 * 10 * KEEP_FOR_COPIES_FACTOR
    log.needed_after = None
    append(log, 1000)
    assert log.last - log.first <= 10


def test_a_large_batch_is_cut_into_the_pieces_that_would_be_taken_one_by_one() -> None:
    body = b"".join(b"\xc4" + bytes([size]) + bytes(size) for size in (3, 200, 1, 1, 1, 250, 9))
    batch = Batch(5, 7, body)
    pieces = split_batch(batch, 210)
    assert b"".join(piece.body for piece in pieces) == body
    assert [piece.first for piece in pieces] == [5, 8, 10, 11]
    assert pieces[0] == head_of_batch(batch, 210)
    assert sum(piece.count for piece in pieces) == 7


# --- members -------------------------------------------------------------------------------------


READER = b"reader"


class GroupWithReader(MemberGroup):
    """Another client than the one that writes."""

    def __init__(self, *names: str) -> None:
        self.heard: list[Reply] = []
        super().__init__(*names)

    def _deliver(self, source: str, destination: str, message: Requests | Replies) -> None:
        if destination == READER.decode():
            assert isinstance(message, Replies)
            self.heard += message.replies
        super()._deliver(source, destination, message)

    def read_elsewhere(self) -> None:
        """The other client reads."""
        node = self.nodes["a"]
        asked = one_phase(1, read=[(8, 8)])
        batch = Requests(PROTOCOL_VERSION, 99, node.incarnation, 0, [asked])
        node.receive(READER, batch, self.now)


def test_an_answer_to_a_writer_is_held_back_for_a_replica_and_at_most_for_so_long() -> None:
    group = GroupWithReader("a", "b")
    group.cut.add("b")
    group.settle(0.1)
    leading = group.nodes["a"].leading
    assert leading is not None
    leading.pacing.begins(b"b", "b", 0, group.now)
    leading.pacing.spend(2 * LIMITS.credit)
    counter = group.begin_write("a", 0, b"x")
    began = group.now
    while group.answer(counter) is None:
        # It is heard of, but gets nowhere.
        leading.pacing.asks(b"b", "b", Asked.LOG, 0, group.now)
        group.settle(0.01)
        if not group.heard:
            group.read_elsewhere()
            group.settle(0.01)
            assert group.heard, "who only reads does not wait"
            group.ask("a", one_phase(counter, write=[(0, b"x")]))  # its client hears nothing
    assert PACE_MAX <= group.now - began <= PACE_MAX + 0.05
    assert leading.group.paced_seconds == pytest.approx(PACE_MAX, abs=0.05)
    assert leading.group.waiting == 0


def test_the_log_is_kept_for_a_replica_that_copies_until_it_follows() -> None:
    group = MemberGroup("a", "b")
    group.settle(0.5)
    leading = group.nodes["a"].leading
    assert leading is not None
    assert not leading.pacing.copiers, "a replica in sync is no copier"
    leading.pacing.begins(b"b", "b", 3, group.now)
    group.cut.add("b")
    group.settle(0.05)
    assert leading.member_state.journal is not None
    assert leading.member_state.journal.needed_after == 3
    leading.pacing.ends(b"b")
    group.settle(0.05)
    assert leading.member_state.journal.needed_after is None
