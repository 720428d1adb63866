"""A replica that is alive but slow holds writers up for some seconds, then no more."""

from itertools import pairwise

import pytest

from sinfonia.protocol.replication.agreement import ReplicationTimes
from sinfonia.protocol.replication.slowness import PARDON, TIME_OUT_MAX, Slowness
from sinfonia.simulation.member_group import TIMES, MemberGroup

SYNC = 0.002
STEP = 0.005


class Trial:
    """One replica under writers that write one record after another."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slowness = Slowness(TIMES, 0.0)
        self.seq = 0

    def write(self, takes: float) -> None:
        """A record is shipped, stable at the primary soon, and acknowledged after ``takes``."""
        self.seq += 1
        self.slowness.shipped(self.seq, self.now)
        began, self.now = self.now, self.now + SYNC
        while self.now < began + takes:
            self.slowness.look(self.seq, self.now)
            self.now += STEP
        self.slowness.acknowledged(self.seq, self.now)
        self.slowness.look(self.seq, self.now)

    def write_for(self, seconds: float, takes: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.write(takes)

    def rest(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += 0.1
            self.slowness.look(self.seq, self.now)


def test_a_replica_that_takes_twice_as_long_as_it_may_is_slow_after_some_seconds() -> None:
    trial = Trial()
    trial.write_for(3.0, takes=0.05)
    assert not trial.slowness.is_slow
    trial.write_for(9.0, takes=0.05)
    assert trial.slowness.is_slow
    assert trial.slowness.ack_seconds == pytest.approx(0.05, abs=0.02)


def test_one_that_hardly_answers_is_slow_after_little_more_than_it_may_be_late() -> None:
    trial = Trial()
    trial.write_for(TIMES.slow_for * 1.2, takes=0.9)
    assert trial.slowness.is_slow


def test_one_long_sync_is_forgotten_and_so_is_one_now_and_then() -> None:
    trial = Trial()
    for _ in range(20):
        trial.write(takes=0.3)
        trial.write_for(0.3 / PARDON, takes=0.003)
        assert not trial.slowness.is_slow


def test_a_replica_that_keeps_within_the_bound_is_never_slow() -> None:
    trial = Trial()
    trial.write_for(20.0, takes=TIMES.ack_within * 0.8)
    assert trial.slowness.score == 0


def test_the_slowness_of_the_primary_itself_is_not_held_against_a_replica() -> None:
    """It is stopped, or its own disk takes long, and finds the acknowledgement when it looks."""
    slowness = Slowness(TIMES, 0.0)
    now = 0.0
    for seq in range(1, 100):
        slowness.shipped(seq, now)
        now += 0.4
        slowness.acknowledged(seq, now)
        slowness.look(seq, now)
    assert slowness.score == 0


def test_a_replica_that_was_dropped_must_keep_up_for_a_while_and_ever_longer() -> None:
    trial = Trial()
    waits = []
    for _ in range(9):
        while not trial.slowness.is_slow:
            trial.write(takes=0.3)
        trial.slowness.was_dropped(trial.now)
        began = trial.now
        assert not trial.slowness.may_be_counted(trial.now)
        while not trial.slowness.may_be_counted(trial.now):
            trial.write(takes=0.003)
        waits.append(trial.now - began)
        trial.slowness.is_counted(trial.now)
        assert not trial.slowness.is_slow
    assert waits[0] >= TIMES.slow_for / PARDON
    assert all(later > 0.99 * earlier for earlier, later in pairwise(waits))
    assert waits[-1] == pytest.approx(TIME_OUT_MAX, rel=0.1)


def test_one_that_goes_on_to_be_slow_is_not_counted() -> None:
    trial = Trial()
    trial.write_for(10.0, takes=0.3)
    trial.slowness.was_dropped(trial.now)
    for _ in range(60):
        trial.write_for(1.0, takes=0.3)
        assert not trial.slowness.may_be_counted(trial.now)
    assert trial.slowness.has_failed_again(trial.now)


def test_what_was_long_ago_is_forgotten() -> None:
    trial = Trial()
    for expected in (1, 2, 3):
        trial.write_for(10.0, takes=0.3)
        trial.slowness.was_dropped(trial.now)
        assert trial.slowness.dropped == expected
        trial.rest(100.0)
        trial.slowness.is_counted(trial.now)
    trial.rest(TIME_OUT_MAX + 1.0)
    trial.write_for(10.0, takes=0.3)
    trial.slowness.was_dropped(trial.now)
    assert trial.slowness.dropped == 1


# --- members -------------------------------------------------------------------------------------


class SlowGroup(MemberGroup):
    """The disks of ``slow`` take ``delay`` seconds longer: what they say arrives so much later."""

    def __init__(self, *names: str, mode: str = "LOG-REPL") -> None:
        self.slow: set[str] = set()
        self.delay = 0.05
        self._busy_until: dict[str, float] = {}
        super().__init__(*names, mode=mode)

    def wake(self, name: str) -> None:
        """A member that waits for its disk does nothing else."""
        if self._busy_until.get(name, 0.0) > self.now:
            return
        journal = self.nodes[name].member_state.journal
        dirty = journal is not None and journal.dirty
        if name in self.slow and dirty:
            if name not in self._busy_until:
                self._busy_until[name] = self.now + self.delay
                return
            del self._busy_until[name]
        super().wake(name)

    def write_for(self, seconds: float) -> int:
        """Write one after another; how many were acknowledged."""
        until, done = self.now + seconds, 0
        while self.now < until:
            counter = self.begin_write(self.entry.identity, 0, b"x")
            while self.answer(counter) is None and self.now < until:
                self.settle(0.005, step=0.005)
            done += self.answer(counter) is not None
            self.answers.clear()
        return done


def test_a_slow_replica_is_dropped_and_counted_again_when_it_keeps_up() -> None:
    group = SlowGroup("a", "b")
    group.settle(1.0)
    assert list(group.entry.in_sync) == ["b"]
    fast = group.write_for(1.0)
    group.slow.add("b")
    slow = group.write_for(1.0)
    assert slow < fast / 4
    group.write_for(15.0)
    assert not group.entry.in_sync
    assert group.write_for(1.0) > fast / 2, "writers are as fast as without it"
    leading = group.nodes["a"].leading
    assert leading is not None
    assert leading.shipping is not None
    assert leading.shipping.dropped_slow == 1
    group.slow.clear()
    group.write_for(2.0)
    assert not group.entry.in_sync, "it has not shown yet that it keeps up"
    group.write_for(15.0)
    assert list(group.entry.in_sync) == ["b"]


def test_a_slow_replica_is_waited_for_until_the_configuration_without_it_is_stored() -> None:
    group = SlowGroup("a", "b")
    group.settle(1.0)
    group.slow.add("b")
    group.manager_grants = False
    group.write_for(15.0)
    assert group.wishes[-1].in_sync == []
    assert list(group.entry.in_sync) == ["b"]
    group.cut.add("b")
    counter = group.begin_write("a", 0, b"x")
    group.settle(1.0)
    assert group.answer(counter) is None


def test_the_only_other_copy_of_what_is_in_memory_alone_is_not_given_up_for_speed() -> None:
    group = SlowGroup("a", "b", mode="RAM-REPL")
    group.settle(1.0)
    shipping = group.nodes["a"].leading.shipping  # type: ignore[union-attr]
    assert shipping is not None
    shipping.peers["b"].slowness.score = TIMES.slow_for
    group.settle(0.05)
    assert list(group.entry.in_sync) == ["b"]


def test_of_three_copies_in_memory_a_slow_one_is_given_up() -> None:
    group = SlowGroup("a", "b", "c", mode="RAM-REPL")
    group.settle(1.0)
    shipping = group.nodes["a"].leading.shipping  # type: ignore[union-attr]
    assert shipping is not None
    shipping.peers["b"].slowness.score = TIMES.slow_for
    group.settle(0.05)
    assert list(group.entry.in_sync) == ["c"]


def test_the_bound_is_set_in_seconds() -> None:
    times = ReplicationTimes(drop_after=3.0, ack_within=0.2)
    assert (times.slow_for, times.ack_within) == (6.0, 0.2)
