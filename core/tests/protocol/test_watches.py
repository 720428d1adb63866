"""Both halves of the watch protocol without a network: who is told of what, and for how long."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import LimitExceeded, Refused
from sinfonia.protocol import watches as node_side
from sinfonia.protocol import watching as client_side
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.messages import Hints, Unwatch, Watch, WatchRange
from sinfonia.protocol.watches import WATCH_LEASE, Watches
from sinfonia.protocol.watching import ASK_AGAIN, ASK_SOON, WATCH_RENEW, Watched, Watching

CAPACITY = 1 << 20
NODE = MemoryNodeId(0)

# Short ranges, long ranges, and all of it; near each other, and near the ends of buckets.
places = st.one_of(st.integers(0, 600), st.integers(0, CAPACITY - 1))
lengths = st.one_of(st.integers(1, 9), st.integers(1, 5000), st.just(CAPACITY))


def watch(*ranges: tuple[int, int, int]) -> Watch:
    return Watch([WatchRange(*each) for each in ranges])


def told(watches: Watches) -> list[tuple[bytes, list[int]]]:
    return [
        (route, [number for number, _ in hints.touched]) for route, hints in watches.take_hints()
    ]


@dataclass
class Expected:
    """What one watch is, without an index."""

    start: int
    end: int
    expires: float
    route: bytes
    moment: int
    untold: bool = False


@dataclass
class BruteForce:
    """Watches, looked through one by one."""

    of: dict[tuple[int, int], Expected] = field(default_factory=dict)

    def touch(self, start: int, end: int) -> None:
        for each in self.of.values():
            each.untold |= each.start < end and start < each.end


class WatchesAgainstBruteForce(RuleBasedStateMachine):
    """Whatever is armed, renewed, ended and touched, exactly those are told who have to be."""

    def __init__(self) -> None:
        super().__init__()
        self.watches = Watches(CAPACITY)
        self.expected = BruteForce()
        self.now = 0.0

    @rule(client=st.integers(0, 3), number=st.integers(0, 7), start=places, length=lengths)
    def arm(self, client: int, number: int, start: int, length: int) -> None:
        route = b"route %d" % (client % 2)
        hints = self.watches.on_watch(route, client, watch((number, start, length)), self.now)
        if start + length > CAPACITY:
            assert hints.refused == [number]
            self._end_if_other_range(client, number)
            return
        [(_, moment)] = hints.touched
        known = self.expected.of.get((client, number))
        renewed = known is not None and (known.start, known.end) == (start, start + length)
        if renewed and known is not None:
            assert moment >= known.moment
            known.expires, known.moment = self.now + WATCH_LEASE, moment
            return
        latest = max((each.moment for each in self.expected.of.values()), default=-1)
        assert moment > latest, "the moment of an arming was there before"
        self.expected.of[client, number] = Expected(
            start, start + length, self.now + WATCH_LEASE, route, moment
        )

    def _end_if_other_range(self, client: int, number: int) -> None:
        # What it asked for instead cannot be, and what it had it wants no more.
        self.expected.of.pop((client, number), None)

    @rule(client=st.integers(0, 3), number=st.integers(0, 7))
    def end(self, client: int, number: int) -> None:
        self.watches.on_unwatch(b"", client, Unwatch([number]))
        self.expected.of.pop((client, number), None)

    @rule(start=places, length=st.one_of(st.just(0), lengths))
    def write(self, start: int, length: int) -> None:
        self.watches.touch(start, length)
        if length:
            self.expected.touch(start, start + length)

    @rule()
    def tell(self) -> None:
        hinted: dict[tuple[bytes, int], int] = {}
        for route, hints in self.watches.take_hints():
            for number, moment in hints.touched:
                hinted[route, number] = max(moment, hinted.get((route, number), 0))
        due = {key: each for key, each in self.expected.of.items() if each.untold}
        assert hinted.keys() == {(each.route, number) for (_, number), each in due.items()}
        for (_, number), each in due.items():
            # The same moment, if a renewal was answered since.
            assert hinted[each.route, number] >= each.moment
            each.untold = False

    @rule(seconds=st.floats(0, 1.1 * WATCH_LEASE))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds
        self.watches.on_tick(self.now)
        kept = {key: each for key, each in self.expected.of.items() if each.expires > self.now}
        self.expected.of = kept

    @rule(route=st.sampled_from([b"route 0", b"route 1", b"nowhere"]))
    def hang_up(self, route: bytes) -> None:
        self.watches.forget(route)
        self.expected.of = {k: each for k, each in self.expected.of.items() if each.route != route}

    @invariant()
    def agree(self) -> None:
        self.watches.check_invariants()
        assert len(self.watches) == len(self.expected.of)
        assert self.watches.armed == bool(self.expected.of)


WatchesAgainstBruteForce.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None
)
TestWatchesAgainstBruteForce = WatchesAgainstBruteForce.TestCase


@given(st.lists(st.tuples(places, lengths), max_size=20), places, lengths)
@settings(max_examples=150, deadline=None)
def test_a_touch_meets_the_ranges_that_it_overlaps(
    ranges: list[tuple[int, int]], start: int, length: int
) -> None:
    watches = Watches(2 * CAPACITY)
    asked = [(number, at, size) for number, (at, size) in enumerate(ranges)]
    watches.on_watch(b"r", 1, watch(*asked), 0.0)
    watches.touch(start, length)
    met = [number for _, numbers in told(watches) for number in numbers]
    assert sorted(met) == [n for n, at, size in asked if at < start + length and start < at + size]


def test_nothing_is_armed_while_nobody_watches() -> None:
    watches = Watches(CAPACITY)
    assert not watches.armed
    assert watches.next_wakeup() is None
    watches.on_watch(b"r", 1, watch((1, 0, 8)), 0.0)
    assert watches.armed
    watches.on_unwatch(b"r", 1, Unwatch([1]))
    assert not watches.armed
    assert watches.next_wakeup() is None


def test_a_watch_that_is_touched_often_is_told_once() -> None:
    watches = Watches(CAPACITY)
    watches.on_watch(b"r", 1, watch((1, 0, 8), (2, 4, 8), (3, 64, 8)), 0.0)
    for _ in range(10):
        watches.touch(6, 1)
    assert watches.next_wakeup() == 0.0
    assert told(watches) == [(b"r", [1, 2])]
    assert told(watches) == []


def test_hints_go_where_the_watch_was_renewed_from() -> None:
    watches = Watches(CAPACITY)
    watches.on_watch(b"old", 1, watch((1, 0, 8)), 0.0)
    watches.on_watch(b"new", 1, watch((1, 0, 8)), 1.0)
    watches.touch(0, 1)
    assert told(watches) == [(b"new", [1])]
    watches.forget(b"old")
    assert len(watches) == 1
    watches.forget(b"new")
    assert len(watches) == 0


def test_many_watchers_of_one_range_are_told_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_side, "HINTS_AT_ONCE_MAX", 10)
    watches = Watches(CAPACITY)
    for client in range(25):
        watches.on_watch(b"%d" % client, client, watch((1, 0, 8)), 0.0)
    watches.touch(0, 8)
    watches.forget(b"24")  # it hangs up while the others are told
    rounds = []
    while watches.next_wakeup() == 0.0:
        rounds.append(len(told(watches)))
    assert rounds == [10, 10, 4]


def test_watches_of_clients_that_died_end_with_their_lease() -> None:
    watches = Watches(CAPACITY)
    watches.on_watch(b"dead", 1, watch((1, 0, 8), (2, 8, 8)), 0.0)
    watches.on_watch(b"alive", 2, watch((1, 0, 8)), 0.0)
    watches.on_watch(b"alive", 2, watch((1, 0, 8)), WATCH_LEASE - 1)
    assert watches.next_wakeup() == WATCH_LEASE
    watches.on_tick(WATCH_LEASE)
    assert len(watches) == 1
    watches.touch(0, 16)
    assert told(watches) == [(b"alive", [1])]


def test_limits_are_refused_and_cost_nobody_else_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_side, "WATCHES_PER_CLIENT_MAX", 3)
    monkeypatch.setattr(node_side, "WATCHES_MAX", 5)
    watches = Watches(CAPACITY)
    asked = [(number, number, 8) for number in range(4)]
    assert watches.on_watch(b"a", 1, watch(*asked), 0.0).refused == [3]
    assert watches.on_watch(b"b", 2, watch(*asked), 0.0).refused == [2, 3]
    assert watches.on_watch(b"c", 3, watch(*asked), 0.0).refused == [0, 1, 2, 3]
    assert watches.on_watch(b"a", 1, watch(*asked[:3]), 0.0).refused == []  # renewals are admitted
    watches.on_unwatch(b"a", 1, Unwatch([0]))
    assert watches.on_watch(b"c", 3, watch(asked[0]), 0.0).refused == []
    outside = watch((8, CAPACITY - 7, 8), (9, 0, 0), (10, CAPACITY, 1))
    assert watches.on_watch(b"b", 2, outside, 0.0).refused == [8, 9, 10]
    assert len(watches) == 5
    watches.check_invariants()


def test_a_request_longer_than_a_client_sends_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_side, "WATCHES_PER_REQUEST_MAX", 2)
    watches = Watches(CAPACITY)
    answer = watches.on_watch(b"a", 1, watch((1, 0, 8), (2, 0, 8), (3, 0, 8)), 0.0)
    assert [number for number, _ in answer.touched] == [1, 2]
    assert answer.refused == []


# --- the client's half -------------------------------------------------------------------------


class Pair:
    """One client and one memory node; what is lost is up to the test."""

    def __init__(self) -> None:
        self.watching = Watching()
        self.watches = Watches(CAPACITY)
        self.life = 7
        self.now = 100.0

    def watch(self, address: int = 0, length: int = 8) -> Watched:
        watched, sends = self.watching.watch(NODE, address, length, self.now)
        self.deliver(sends)
        return watched

    def deliver(self, sends: list[SendTo]) -> None:
        for send in sends:
            if isinstance(send.request, Watch):
                answer = self.watches.on_watch(b"r", 1, send.request, self.now)
                self.watching.on_hints(NODE, self.life, answer, self.now)
            else:
                assert isinstance(send.request, Unwatch)
                self.watches.on_unwatch(b"r", 1, send.request)
        self.watching.check_invariants()

    def pass_time(self, seconds: float, *, lost: bool = False) -> None:
        """The client minds the time, and the memory node too."""
        end = self.now + seconds
        while True:
            wakeup = self.watching.next_wakeup()
            if wakeup is None or wakeup > end:
                break
            self.now = max(self.now, wakeup)
            self.watches.on_tick(self.now)
            sends, _ = self.watching.on_tick(self.now)
            if not lost:
                self.deliver(sends)
        self.now = end
        self.watches.on_tick(self.now)

    def hint(self) -> None:
        for _, hints in self.watches.take_hints():
            self.watching.on_hints(NODE, self.life, hints, self.now)

    def lose_hint(self) -> None:
        assert self.watches.take_hints()

    def restart(self) -> None:
        self.watches = Watches(CAPACITY)
        self.life += 1
        self.deliver(self.watching.on_new_life(NODE, self.now))

    def news(self) -> list[Watched]:
        news = list(self.watching.news.values())
        self.watching.news.clear()
        return news


def test_the_first_answer_is_the_first_hint() -> None:
    pair = Pair()
    watched = pair.watch()
    assert pair.news() == [watched]
    assert watched.version == 1
    pair.watches.touch(0, 1)
    pair.hint()
    assert pair.news() == [watched]
    assert watched.version == 2


def test_a_hint_that_comes_twice_or_late_is_no_news() -> None:
    pair = Pair()
    watched = pair.watch()
    pair.watches.touch(0, 1)
    [(_, early)] = pair.watches.take_hints()
    pair.watches.touch(0, 1)
    pair.hint()
    pair.hint()
    pair.watching.on_hints(NODE, pair.life, early, pair.now)
    assert watched.version == 2


def test_a_lost_hint_is_found_by_the_renewal() -> None:
    pair = Pair()
    watched = pair.watch()
    pair.watches.touch(0, 1)
    pair.lose_hint()
    pair.pass_time(WATCH_RENEW)
    assert watched.version == 2
    pair.pass_time(10 * WATCH_RENEW)
    assert watched.version == 2
    assert len(pair.watches) == 1


def test_a_watch_whose_lease_was_lost_is_armed_again_with_a_hint() -> None:
    pair = Pair()
    watched = pair.watch()
    pair.pass_time(WATCH_LEASE + ASK_AGAIN, lost=True)
    assert len(pair.watches) == 0
    pair.watches.touch(0, 1)
    pair.pass_time(2 * ASK_AGAIN)
    assert len(pair.watches) == 1
    assert watched.version == 2


def test_an_arming_whose_answer_is_lost_is_noticed_all_the_same() -> None:
    """Its moment is in the answer to whatever is asked next."""
    pair = Pair()
    watched = pair.watch()
    pair.watches.forget(b"r")
    pair.watches.touch(0, 1)  # unseen
    pair.now += WATCH_RENEW
    sends, _ = pair.watching.on_tick(pair.now)
    for send in sends:
        assert isinstance(send.request, Watch)
        pair.watches.on_watch(b"r", 1, send.request, pair.now)
    assert watched.version == 1
    pair.pass_time(ASK_AGAIN)
    assert watched.version == 2


def test_a_new_life_is_armed_at_once_and_gives_one_hint() -> None:
    pair = Pair()
    watched, other = pair.watch(0), pair.watch(64)
    pair.restart()
    assert (watched.version, other.version) == (2, 2)
    pair.watches.touch(0, 1)
    pair.hint()
    assert (watched.version, other.version) == (3, 2)


def test_an_answer_of_the_former_life_that_comes_late_is_no_news() -> None:
    pair = Pair()
    watched = pair.watch()
    old = Hints([(watched.at.number, 1_000)])
    life = pair.life
    pair.restart()
    pair.watching.on_hints(NODE, life, old, pair.now)
    assert watched.version == 2


def test_what_could_not_be_sent_is_asked_again_soon_and_what_is_not_answered_later() -> None:
    pair = Pair()
    _, sends = pair.watching.watch(NODE, 0, 8, pair.now)
    assert pair.watching.next_wakeup() == pair.now + ASK_AGAIN
    pair.watching.on_unavailable(NODE, pair.now)
    assert pair.watching.next_wakeup() == pair.now + ASK_SOON
    again, silent = pair.watching.on_tick(pair.now + ASK_SOON)
    assert (again, silent) == (sends, False)
    again, silent = pair.watching.on_tick(pair.now + ASK_SOON + ASK_AGAIN)
    assert (again, silent) == (sends, True)


def test_a_refused_watch_says_why_and_heals() -> None:
    pair = Pair()
    pair.watches = Watches(4)
    watched = pair.watch(0, 8)
    assert pair.news() == [watched]
    assert watched.refused
    with pytest.raises(Refused, match="takes no watch of 8 bytes at 0"):
        raise watched.refusal()
    pair.watches = Watches(CAPACITY)
    pair.pass_time(WATCH_RENEW)
    assert not watched.refused
    assert watched.version == 1


def test_a_client_that_watches_too_much_is_told_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_side, "WATCHES_PER_CLIENT_MAX", 2)
    pair = Pair()
    first = pair.watch()
    pair.watch()
    with pytest.raises(LimitExceeded, match="at most 2 watches"):
        pair.watch()
    pair.deliver(pair.watching.unwatch(first))
    pair.watch()
    assert len(pair.watches) == len(pair.watching) == 2


def test_renewals_of_many_watches_leave_in_requests_of_bounded_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_side, "WATCHES_PER_REQUEST_MAX", 100)
    pair = Pair()
    for address in range(250):
        pair.watch(address)
    sends, _ = pair.watching.on_tick(pair.now + WATCH_RENEW)
    assert [len(s.request.watches) for s in sends if isinstance(s.request, Watch)] == [100, 100, 50]


def test_an_ended_watch_is_no_news_and_takes_no_more_time() -> None:
    pair = Pair()
    watched = pair.watch()
    pair.deliver(pair.watching.unwatch(watched))
    assert pair.news() == []
    assert pair.watching.unwatch(watched) == []
    assert pair.watching.next_wakeup() is None
    assert len(pair.watches) == 0
