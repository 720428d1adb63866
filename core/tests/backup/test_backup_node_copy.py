"""One memory node's part of a backup, question by question; the primary may say anything."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from sinfonia.addresses import MemoryNodeId
from sinfonia.backup.archive import FULL_STEP, Part, PartWriter
from sinfonia.backup.node_copy import ASK_AGAIN, BEGUN_MAX, NodeCopy
from sinfonia.client.seed import role_hint
from sinfonia.errors import BackupError
from sinfonia.minitransaction import WriteItem
from sinfonia.protocol.messages import PROTOCOL_VERSION, NotServing, Replies, Reply, Request
from sinfonia.protocol.records import OnePhase, ParticipantState, Record, Stamp, encode_body
from sinfonia.protocol.replication.messages import (
    GetImage,
    GetLog,
    GetPages,
    ImageBegun,
    Life,
    LogPart,
    Pages,
)
from sinfonia.storage.address_space import PAGE_BYTES
from sinfonia.transport.keys import Keys

NODE = MemoryNodeId(0)
LIVES = [Life(1, 1)]
LONG_LIVES = [Life(1, 1), Life(2, 6)]


class Copied:
    """A copy and what it asks."""

    def __init__(self, root: Path, *, previous: Part | None = None) -> None:
        (root / FULL_STEP).mkdir(exist_ok=True)
        self.writer = PartWriter(root, FULL_STEP, NODE, with_image=previous is None)
        self.copy = NodeCopy(NODE, self.writer, previous=previous)
        self.now = 100.0
        self.clock = 0

    def asked(self) -> list[Request]:
        return [request for batch in self.copy.ask(self.now) for request in batch.requests]

    def hears(self, *replies: Reply, clock: int = 0, node: int = NODE) -> bool:
        """Each answer shows a later time, unless ``clock`` says which."""
        self.now += 0.5
        self.clock = clock or self.clock + 1
        batch = Replies(PROTOCOL_VERSION, node, 1, 0, list(replies), clock=self.clock)
        return self.copy.on_replies(batch, self.now)


def image(seq: int = 3, *, incarnation: int = 1) -> ImageBegun:
    state = msgspec.msgpack.encode(ParticipantState())
    return ImageBegun(
        incarnation=incarnation,
        seq=seq,
        history=LIVES,
        state=state,
        pages=2,
        capacity=1 << 20,
        page_bytes=PAGE_BYTES,
    )


def pages(start: int = 0, *, following: int = 0, upto: int = 3, incarnation: int = 1) -> Pages:
    return Pages(
        incarnation=incarnation,
        start=start,
        following=following,
        upto=upto,
        runs=[(start, b"x" * PAGE_BYTES)],
    )


def part(
    after: int,
    *stamps: int,
    committed: int | None = None,
    incarnation: int = 1,
    lives: list[Life] = LIVES,
    gone: bool = False,
) -> LogPart:
    """For each stamp a record and the stamp."""
    records: list[Record] = []
    for stamp in stamps:
        records += [OnePhase(7, 0, stamp, 0, [WriteItem(0, b"x")]), Stamp(stamp)]
    last = after + len(records)
    return LogPart(
        incarnation=incarnation,
        first=after + 1,
        count=len(records),
        body=encode_body(records),
        last=last,
        committed=last if committed is None else committed,
        history=lives,
        gone=gone,
    )


@pytest.fixture
def copied(tmp_path: Path) -> Iterator[Copied]:
    copied = Copied(tmp_path)
    yield copied
    copied.writer.close()


def test_a_copy_asks_for_the_image_and_then_for_pages_and_log_side_by_side(copied: Copied) -> None:
    assert copied.asked() == [GetImage()]
    assert copied.hears(image())
    assert copied.asked() == [GetPages(0), GetLog(3, 1)]
    assert copied.hears(pages(following=4096))
    assert copied.asked() == [GetPages(4096)]


def test_what_is_not_answered_is_asked_again(copied: Copied) -> None:
    assert copied.asked() == [GetImage()]
    assert copied.asked() == []
    copied.now += ASK_AGAIN
    assert copied.asked() == [GetImage()]


def test_a_copy_waits_for_the_records_that_its_pages_may_show(copied: Copied) -> None:
    copied.hears(image())
    copied.hears(pages(upto=7))
    copied.hears(part(3, 11))
    assert not copied.copy.caught_up
    copied.hears(part(5, 12))
    assert copied.copy.caught_up


def test_records_that_a_fail_over_could_take_back_are_not_kept(copied: Copied) -> None:
    copied.hears(image())
    copied.hears(pages(upto=5))
    copied.hears(part(3, 11, committed=4))
    assert not copied.copy.caught_up
    assert copied.asked()[-1] == GetLog(4, 1)


def test_pages_that_come_late_do_not_belong_to_a_copy_that_began_after_them(copied: Copied) -> None:
    copied.hears(image(seq=9))
    assert not copied.hears(pages(upto=8))
    assert copied.hears(pages(upto=9))


def test_another_primary_means_to_begin_anew_while_pages_are_not_in_the_log(copied: Copied) -> None:
    copied.hears(image())
    copied.hears(pages(upto=7))
    copied.hears(part(3, 11, incarnation=2, lives=LONG_LIVES))
    assert copied.asked() == [GetImage()]


def test_another_primary_is_no_matter_once_all_is_in_the_log(copied: Copied) -> None:
    copied.hears(image())
    copied.hears(pages(upto=5))
    copied.hears(part(3, 11))
    assert copied.copy.caught_up
    assert copied.hears(part(5, 12, incarnation=2, lives=LONG_LIVES))
    assert copied.copy.caught_up


def test_the_word_of_a_former_primary_comes_to_nothing(copied: Copied) -> None:
    copied.hears(image(incarnation=2))
    assert not copied.hears(pages(incarnation=1))
    assert not copied.hears(part(3, 11, incarnation=1))
    assert GetImage() not in copied.asked()


def test_a_copy_that_is_begun_anew_for_ever_ends_with_an_error(copied: Copied) -> None:
    for incarnation in range(1, BEGUN_MAX + 1):
        copied.hears(image(incarnation=incarnation))
        copied.hears(pages(incarnation=incarnation + 1))
    with pytest.raises(BackupError, match="another primary again and again"):
        copied.hears(image(incarnation=BEGUN_MAX + 1))


def test_an_idle_clock_is_made_to_look_at_the_time(copied: Copied) -> None:
    copied.hears(image(), clock=5)
    copied.hears(pages(), clock=5)
    copied.hears(part(3), clock=5)
    assert not copied.copy.caught_up
    copied.now += ASK_AGAIN
    assert copied.asked() == [GetLog(3, 5)]
    copied.hears(part(3, 900), clock=900)
    assert copied.copy.caught_up
    assert copied.copy.clock == 900


def test_after_the_moment_is_chosen_a_later_stamp_is_asked_for(copied: Copied) -> None:
    copied.hears(image())
    copied.hears(pages())
    copied.hears(part(3))
    copied.copy.cut_at(20)
    assert copied.asked() == [GetLog(3, 20)]
    copied.hears(part(3, 15, 20), clock=20)
    assert not copied.copy.done
    copied.hears(part(7, 21), clock=21)
    assert copied.copy.done
    written = copied.copy.finish()
    assert (written.last, written.lives) == (7, LIVES)


def test_a_primary_that_gives_no_answer_is_named_and_so_is_a_role_that_may_be_too_small(
    copied: Copied,
) -> None:
    keys = Keys(name="alice", public="", secret="", cluster="")
    complaint = str(copied.copy.stuck("tcp://x:1", role_hint(keys)))
    assert "at tcp://x:1, gives no answer" in complaint
    assert complaint.endswith("May 'alice' do this? It takes the role operator.")
    assert str(copied.copy.stuck("tcp://x:1", role_hint(None))).endswith("Is it?")


def test_answers_from_before_the_moment_do_not_count_after_it(copied: Copied) -> None:
    copied.hears(image())
    copied.hears(pages())
    copied.hears(part(3))
    copied.copy.cut_at(20)
    assert not copied.hears(part(3, 15), clock=16)
    assert "differs from another's by more than a day" in str(copied.copy.stuck("tcp://x:1"))


def test_a_log_that_lacks_records_ends_a_full_backup(copied: Copied) -> None:
    copied.hears(image())
    with pytest.raises(BackupError, match="logs faster than it is copied"):
        copied.hears(part(3, gone=True))


def test_a_member_that_does_not_serve_is_asked_no_more_for_now(copied: Copied) -> None:
    assert not copied.hears(NotServing())
    assert copied.copy.misdirected
    copied.copy.ask_anew()
    assert not copied.copy.misdirected


def test_another_memory_node_at_that_address_is_not_believed(copied: Copied) -> None:
    assert not copied.hears(image(), node=5)


# --- increments ----------------------------------------------------------------------------------


@pytest.fixture
def previous(tmp_path: Path) -> Part:
    full = Copied(tmp_path)
    full.hears(image())
    full.hears(pages())
    full.hears(part(3))
    full.copy.cut_at(10)
    full.hears(part(3, 10, 11), clock=11)
    part_written = full.copy.finish()
    full.writer.close()
    return part_written


@pytest.fixture
def increment(tmp_path: Path, previous: Part) -> Iterator[Copied]:
    increment = Copied(tmp_path, previous=previous)
    yield increment
    increment.writer.close()


def test_an_increment_goes_on_after_the_last_record_of_the_step_before(
    increment: Copied,
) -> None:
    assert increment.asked() == [GetLog(5)]
    increment.hears(part(5, 11, 12), clock=12)
    assert increment.asked() == [GetLog(9, 12)]
    increment.hears(part(9, 30), clock=30)
    assert increment.copy.caught_up
    increment.copy.cut_at(30)
    increment.hears(part(11, 31), clock=31)
    assert increment.copy.finish().last == 11


@pytest.mark.parametrize(
    "answer",
    [
        part(5, gone=True),
        part(5, 12, lives=[Life(1, 1), Life(2, 4)]),
        part(5, 12, lives=[Life(2, 1)]),
    ],
    ids=["records are gone", "record 5 was written by another", "all was written by another"],
)
def test_an_increment_refuses_a_log_that_is_not_the_rest_of_the_one_before(
    increment: Copied, answer: LogPart
) -> None:
    with pytest.raises(BackupError, match="take a full backup"):
        increment.hears(answer)
