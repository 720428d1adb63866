"""The law of a Step: a reply leaves only when the records before it are stable."""

from sinfonia.memnode.group_commit import IDLE_SYNC_MAX, LAZY_SYNC_MAX, GroupCommit
from sinfonia.memnode.hybrid_clock import HybridClock
from sinfonia.protocol.effects import Step
from sinfonia.protocol.messages import CommitAck, Reply, Vote, Voted
from sinfonia.protocol.records import Decided, ForcedAbort, Record, Stamp
from sinfonia.simulation.participant_harness import tid
from sinfonia.storage.journal import Journal, MemoryLog

ROUTE, OTHER = b"client", b"another client"
ABORT, DECIDED = ForcedAbort(tid(1)), Decided(tid(2), True)
VOTED, ACKNOWLEDGED = Voted(1, Vote.OK), CommitAck(tid(2))


class WatchedLog(MemoryLog):
    """A log that notes when something is appended, and when it is made stable."""

    def __init__(self, happened: list[object]) -> None:
        super().__init__()
        self._happened = happened
        append = self.append  # which is not a method, for speed

        def noted(record: Record) -> None:
            if not isinstance(record, Stamp):
                happened.append(record)
            append(record)

        self.append = noted

    def sync(self) -> None:
        self._happened.append("sync")
        super().sync()


class Primary:
    """Commits as a group without replicas; ``happened`` is all that it did, in order."""

    def __init__(self, *, logged: bool = True) -> None:
        self.happened: list[object] = []
        journal: Journal | None = WatchedLog(self.happened) if logged else None
        if journal is not None:
            journal.begin_life(1)
        self.group = GroupCommit(
            journal, shipping=None, clock=HybridClock(lambda: 1), send=self._send
        )

    def _send(self, route: bytes, replies: list[Reply]) -> None:
        self.happened.append((route, replies))

    def flush(self, now: float) -> list[object]:
        """What has happened, after a flush."""
        self.group.flush(now)
        happened, self.happened[:] = self.happened.copy(), []
        return happened


def step(now: float = 0.0) -> Step:
    return Step(ROUTE, now)


def test_a_reply_leaves_after_the_sync_of_its_record() -> None:
    primary, asked = Primary(), step()
    asked.log(ABORT)
    asked.replies.append(VOTED)
    primary.group.carry_out(asked)
    assert primary.flush(0.0) == [ABORT, "sync", (ROUTE, [VOTED])]


def test_a_reply_leaves_after_the_records_of_earlier_steps() -> None:
    """It may be the answer to a second copy, or have read what the first step wrote."""
    primary, first, second = Primary(), step(), Step(OTHER, 0.0)
    first.log(ABORT)
    second.replies.append(VOTED)
    primary.group.carry_out(first)
    primary.group.carry_out(second)
    assert primary.flush(0.0) == [ABORT, "sync", (OTHER, [VOTED])]


def test_records_are_appended_in_their_order_whether_or_not_a_reply_rests_on_them() -> None:
    primary, asked = Primary(), step()
    asked.log_lazily(DECIDED)
    asked.log(ABORT)
    asked.log_lazily(DECIDED)
    primary.group.carry_out(asked)
    assert primary.flush(0.0) == [DECIDED, ABORT, DECIDED, "sync"]


def test_a_reply_once_stable_waits_for_a_sync_and_others_do_not() -> None:
    primary, asked = Primary(), step()
    asked.log_lazily(DECIDED)
    asked.once_stable.append(ACKNOWLEDGED)
    asked.replies.append(VOTED)
    primary.group.carry_out(asked)
    assert primary.flush(0.0) == [DECIDED, (ROUTE, [VOTED])]
    assert primary.group.next_wakeup() == LAZY_SYNC_MAX
    assert primary.flush(LAZY_SYNC_MAX) == ["sync", (ROUTE, [ACKNOWLEDGED])]


def test_a_record_that_no_reply_waits_for_is_stable_in_the_end() -> None:
    primary, asked = Primary(), step()
    asked.log_lazily(DECIDED)
    primary.group.carry_out(asked)
    assert primary.flush(0.0) == [DECIDED]
    assert primary.group.next_wakeup() == IDLE_SYNC_MAX
    assert primary.flush(IDLE_SYNC_MAX) == ["sync"]


def test_a_client_that_waited_gets_its_reply_after_the_same_sync() -> None:
    primary, asked = Primary(), step()
    asked.log(ABORT)
    asked.elsewhere += ((OTHER, VOTED),)
    primary.group.carry_out(asked)
    assert primary.flush(0.0) == [ABORT, "sync", (OTHER, [VOTED])]


def test_without_a_log_nothing_waits() -> None:
    primary, asked = Primary(logged=False), step()
    asked.replies.append(VOTED)
    asked.once_stable.append(ACKNOWLEDGED)
    primary.group.carry_out(asked)
    assert primary.flush(0.0) == [(ROUTE, [VOTED, ACKNOWLEDGED])]


def test_replies_to_one_client_in_one_wake_up_leave_together() -> None:
    primary, first, second = Primary(), step(), step()
    first.replies.append(VOTED)
    second.replies.append(ACKNOWLEDGED)
    primary.group.carry_out(first)
    primary.group.carry_out(second)
    assert primary.flush(0.0) == [(ROUTE, [VOTED, ACKNOWLEDGED])]
