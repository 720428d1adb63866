"""The checker names each promise that a history breaks, and finds nothing in a good one."""

import random
import sys
from collections.abc import Callable
from itertools import pairwise

import msgspec
import pytest

from groupcomm.checking.check import check
from groupcomm.checking.history import (
    Acknowledged,
    AnyEvent,
    Delivered,
    Ended,
    Installed,
    MessageId,
    Position,
    Refused,
    Sent,
    Settled,
    decode_events,
    encode_event,
)
from groupcomm.checking.violations import Property

Logged = Sent | Installed


class GoodGroup:
    """A group as it should be: one list that all members read, each at its own pace."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.events: list[AnyEvent] = []
        self.log: list[Logged] = []
        self.members: dict[str, int] = {}
        self.views: dict[str, int] = {}
        self.count: dict[str, int] = {}
        self.lives = 0
        self.now = 0.0

    def tell(self, event: AnyEvent) -> None:
        self.events.append(event)

    def tick(self) -> float:
        self.now += self.rng.choice((0.0, 0.5))
        return self.now

    @staticmethod
    def position(index: int) -> Position:
        return Position(index // 3, index % 3)

    def change_view(self, member: str, *, joins: bool) -> None:
        if joins:
            self.members[member] = len(self.log)
            self.views[member] = 0
            self.count[member] = 0
        else:
            self.receive(member, 1000)
            del self.members[member]
            self.tell(Ended(at=self.tick(), member=member))
        view = 1 + sum(isinstance(each, Installed) for each in self.log)
        position = self.position(len(self.log))
        members = frozenset(self.members)
        self.log.append(Installed(at=0.0, member="", view=view, position=position, members=members))

    def send(self, member: str) -> None:
        number = self.count[member]
        self.count[member] += 1
        others = sorted(set(self.members) - {member})
        to = frozenset(others[:1]) if others and self.rng.random() < 0.2 else None
        # Delivered in the view that is the last in the log, if any at all is asked for.
        view = sum(isinstance(each, Installed) for each in self.log)
        if_view = view if self.rng.random() < 0.2 else None
        sent = Sent(
            at=self.tick(),
            member=member,
            number=number,
            checksum=number * 7,
            to=to,
            if_view=if_view,
        )
        self.tell(sent)
        fate = self.rng.random()
        if fate < 0.1:
            self.tell(Refused(at=self.tick(), member=member, number=number))
            return
        position = self.position(len(self.log))
        self.log.append(sent)
        if fate < 0.9:
            told = Acknowledged(at=self.tick(), member=member, number=number, position=position)
            self.tell(told)

    def receive(self, member: str, count: int) -> None:
        for index in range(self.members[member], len(self.log))[:count]:
            self.members[member] = index + 1
            each, at = self.log[index], self.tick()
            if isinstance(each, Installed):
                self.views[member] = each.view
                self.tell(msgspec.structs.replace(each, at=at, member=member))
            elif each.to is None or member in each.to or member == each.member:
                self.tell(
                    Delivered(
                        at=at,
                        member=member,
                        sender=each.member,
                        number=each.number,
                        position=self.position(index),
                        checksum=each.checksum,
                        view=self.views[member],
                    )
                )

    def run(self, steps: int) -> list[AnyEvent]:
        for _ in range(steps):
            choice = self.rng.random()
            names = sorted(self.members)
            if len(names) < 3 or choice < 0.03:
                self.lives += 1
                self.change_view(f"member {self.lives}", joins=True)
            elif choice < 0.06 and len(names) > 3:
                self.change_view(self.rng.choice(names), joins=False)
            elif choice < 0.5:
                self.send(self.rng.choice(names))
            else:
                self.receive(self.rng.choice(names), self.rng.randrange(6))
        for name in sorted(self.members):
            self.receive(name, 10_000)
        self.now += 1
        for name in sorted(self.members):
            self.tell(Settled(at=self.now, member=name))
        return self.events


def good(seed: int = 1, steps: int = 400) -> list[AnyEvent]:
    return GoodGroup(seed).run(steps)


@pytest.mark.parametrize("seed", range(20))
def test_a_good_history_breaks_nothing(seed: int) -> None:
    assert check(good(seed)) == []


def test_a_history_survives_being_written_and_read() -> None:
    events = good()
    assert list(decode_events(encode_event(event) for event in events)) == events


def test_a_line_that_is_no_event_is_named() -> None:
    with pytest.raises(ValueError, match="line 2"):
        list(decode_events([encode_event(good()[0]), b'{"type":"sent"}']))


def test_a_message_that_was_sent_twice_is_no_history() -> None:
    events = good()
    sent = next(event for event in events if isinstance(event, Sent))
    with pytest.raises(ValueError, match="says again"):
        check([*events, sent])


# --- planted faults -------------------------------------------------------------------------------


def staying(events: list[AnyEvent]) -> str:
    """A member that is there to the end, and was there early."""
    return next(event.member for event in events if isinstance(event, Settled))


def deliveries(events: list[AnyEvent], member: str) -> list[int]:
    """Where in ``events`` the member received messages that all receive."""
    private = {
        MessageId(event.member, event.number)
        for event in events
        if isinstance(event, Sent) and event.to is not None
    }
    return [
        k
        for k, event in enumerate(events)
        if isinstance(event, Delivered)
        and event.member == member
        and MessageId(event.sender, event.number) not in private
    ]


def delivered(events: list[AnyEvent], index: int) -> Delivered:
    event = events[index]
    assert isinstance(event, Delivered)
    return event


def swap(events: list[AnyEvent]) -> None:
    """Two messages change places at one member, positions and all."""
    a, b, *_ = deliveries(events, staying(events))[5:]
    first, second = delivered(events, a), delivered(events, b)
    events[a] = msgspec.structs.replace(second, at=first.at)
    events[b] = msgspec.structs.replace(first, at=second.at)


def swap_and_lie(events: list[AnyEvent]) -> None:
    """Two messages change places at one member, which tells ascending positions."""
    a, b, *_ = deliveries(events, staying(events))[5:]
    first, second = delivered(events, a), delivered(events, b)
    events[a] = msgspec.structs.replace(second, at=first.at, position=first.position)
    events[b] = msgspec.structs.replace(first, at=second.at, position=second.position)


def leave_out(events: list[AnyEvent]) -> None:
    member = staying(events)
    del events[deliveries(events, member)[5]]


def leave_out_a_view(events: list[AnyEvent]) -> None:
    member = staying(events)
    views = [k for k, e in enumerate(events) if isinstance(e, Installed) and e.member == member]
    del events[views[1]]


def deliver_twice(events: list[AnyEvent]) -> None:
    index = deliveries(events, staying(events))[5]
    events.insert(index + 1, events[index])


def invent(events: list[AnyEvent]) -> None:
    index = deliveries(events, staying(events))[5]
    events[index] = msgspec.structs.replace(delivered(events, index), sender="a stranger")


def corrupt(events: list[AnyEvent]) -> None:
    index = deliveries(events, staying(events))[5]
    events[index] = msgspec.structs.replace(delivered(events, index), checksum=1)


def refuse_afterwards(events: list[AnyEvent]) -> None:
    known = {(e.member, e.number) for e in events if isinstance(e, Acknowledged | Refused)}
    event = next(
        e for e in events if isinstance(e, Delivered) and (e.sender, e.number) not in known
    )
    events.append(Refused(at=event.at, member=event.sender, number=event.number))


def reverse_a_sender(events: list[AnyEvent]) -> None:
    """A sender claims to have sent two messages the other way round."""
    member = staying(events)
    places = {(e.sender, e.number) for e in events if isinstance(e, Delivered)}
    sends = [
        k
        for k, e in enumerate(events)
        if isinstance(e, Sent) and e.member == member and (e.member, e.number) in places
    ]
    a, b = sends[:2]
    events[a], events[b] = events[b], events[a]


def miss_own(events: list[AnyEvent]) -> None:
    """A sender does not receive its own, which it was told is ordered; the others do."""
    member = staying(events)
    told = {e.number for e in events if isinstance(e, Acknowledged) and e.member == member}
    del events[
        next(
            k
            for k in deliveries(events, member)
            if delivered(events, k).sender == member and delivered(events, k).number in told
        )
    ]


def differ_on_a_view(events: list[AnyEvent]) -> None:
    index = next(
        k
        for k, e in enumerate(events)
        if isinstance(e, Installed) and e.view > 3 and len(e.members) > 3
    )
    event = events[index]
    assert isinstance(event, Installed)
    gone = max(event.members - {event.member})
    events[index] = msgspec.structs.replace(event, members=event.members - {gone})


def install_without_oneself(events: list[AnyEvent]) -> None:
    last = max(e.view for e in events if isinstance(e, Installed))
    for k, event in enumerate(events):
        if isinstance(event, Installed) and event.view == last:
            one = min(event.members)
            events[k] = msgspec.structs.replace(event, members=event.members - {one})


def move_over_a_view(events: list[AnyEvent]) -> None:
    """One member receives the last message before a view just after it."""
    member = staying(events)
    mine = [
        k
        for k, e in enumerate(events)
        if isinstance(e, Delivered | Installed) and e.member == member
    ]
    public = set(deliveries(events, member))
    a, b = next(
        (a, b) for a, b in pairwise(mine) if a in public and isinstance(events[b], Installed)
    )
    view, message = events[b], delivered(events, a)
    assert isinstance(view, Installed)
    events[a] = view
    events[b] = msgspec.structs.replace(message, view=view.view)


def tell_a_wrong_view(events: list[AnyEvent]) -> None:
    index = deliveries(events, staying(events))[5]
    message = delivered(events, index)
    events[index] = msgspec.structs.replace(message, view=message.view + 1)


def miss_a_condition(events: list[AnyEvent]) -> None:
    index = next(k for k, e in enumerate(events) if isinstance(e, Sent) and e.if_view is not None)
    sent = events[index]
    assert isinstance(sent, Sent)
    known = {(e.sender, e.number) for e in events if isinstance(e, Delivered)}
    assert (sent.member, sent.number) in known
    events[index] = msgspec.structs.replace(sent, if_view=(sent.if_view or 0) + 1)


def leak(events: list[AnyEvent]) -> None:
    """A private message reaches a member for which it is not."""
    index = next(
        k
        for k, e in enumerate(events)
        if isinstance(e, Delivered) and e.member != e.sender and e.number > 2
    )
    event = delivered(events, index)
    for k, sent in enumerate(events):
        if isinstance(sent, Sent) and (sent.member, sent.number) == (event.sender, event.number):
            events[k] = msgspec.structs.replace(sent, to=frozenset({"another"}))


def send_after_receiving(events: list[AnyEvent]) -> None:
    """A sender claims to have sent what it sent only after it had received it."""
    member = staying(events)
    index = next(k for k in deliveries(events, member) if delivered(events, k).sender != member)
    own = next(
        k
        for k in deliveries(events, member)
        if delivered(events, k).sender == member and k > index + 1
    )
    number = delivered(events, own).number
    k = next(
        k
        for k, e in enumerate(events)
        if isinstance(e, Sent) and (e.member, e.number) == (member, number)
    )
    sent = events.pop(k)
    events.insert(own, msgspec.structs.replace(sent, at=delivered(events, own - 1).at))


def order_before_the_past(events: list[AnyEvent]) -> None:
    """A message that was sent when all was over is where it is."""
    index = next(
        k
        for k, e in enumerate(events)
        if isinstance(e, Sent)
        and any(
            isinstance(d, Delivered) and (d.sender, d.number) == (e.member, e.number)
            for d in events
        )
    )
    events[index] = msgspec.structs.replace(events[index], at=events[-1].at)


def stop_early(events: list[AnyEvent]) -> None:
    """A member that stays does not receive the last that others did."""
    member = staying(events)
    others = {
        (e.sender, e.number)
        for e in events
        if isinstance(e, Delivered) and e.member not in (member, e.sender)
    }
    last = deliveries(events, member)[-1]
    event = delivered(events, last)
    assert (event.sender, event.number) in others
    del events[last:][:1]
    for k in reversed(range(len(events))):
        later = events[k]
        if (
            isinstance(later, Delivered)
            and later.member == member
            and later.position >= event.position
        ):
            del events[k]


def lose(events: list[AnyEvent]) -> None:
    """What was acknowledged reaches no member."""
    told = next(e for e in events[60:] if isinstance(e, Acknowledged))
    events[:] = [
        e
        for e in events
        if not (isinstance(e, Delivered) and (e.sender, e.number) == (told.member, told.number))
    ]


FAULTS: list[tuple[Callable[[list[AnyEvent]], None], Property]] = [
    (swap, Property.TOTAL_ORDER),
    (swap_and_lie, Property.TOTAL_ORDER),
    (leave_out, Property.NO_GAP),
    (leave_out_a_view, Property.NO_GAP),
    (leave_out_a_view, Property.VIEW_AGREEMENT),
    (deliver_twice, Property.NO_DUPLICATE),
    (invent, Property.NO_CREATION),
    (corrupt, Property.NO_CREATION),
    (refuse_afterwards, Property.NO_RESURRECTION),
    (reverse_a_sender, Property.FIFO),
    (miss_own, Property.SELF_DELIVERY),
    (differ_on_a_view, Property.VIEW_AGREEMENT),
    (install_without_oneself, Property.VIEW_AGREEMENT),
    (leave_out, Property.VIRTUAL_SYNCHRONY),
    (move_over_a_view, Property.VIRTUAL_SYNCHRONY),
    (tell_a_wrong_view, Property.VIRTUAL_SYNCHRONY),
    (miss_a_condition, Property.CONDITION),
    (leak, Property.PRIVACY),
    (send_after_receiving, Property.CAUSALITY),
    (order_before_the_past, Property.REAL_TIME),
    (stop_early, Property.UNIFORMITY),
    (lose, Property.DURABILITY),
]


@pytest.mark.parametrize(
    ("plant", "broken"), FAULTS, ids=[f"{plant.__name__}-{broken}" for plant, broken in FAULTS]
)
def test_a_planted_fault_is_named(
    plant: Callable[[list[AnyEvent]], None], broken: Property
) -> None:
    events = good()
    assert check(events) == []
    plant(events)
    assert broken in {violation.property for violation in check(events)}


def test_each_promise_has_a_planted_fault() -> None:
    assert {broken for _, broken in FAULTS} == set(Property)


def test_the_time_that_a_check_takes_grows_with_the_history_only() -> None:
    """Counted in steps of the interpreter's loops, for a clock would make this test uncertain."""
    costs = [_lines_executed(good(steps=steps)) / steps for steps in (300, 1200)]
    assert costs[1] < 2 * costs[0]


def _lines_executed(events: list[AnyEvent]) -> int:
    count = 0

    def trace(*_: object) -> object:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        assert check(events) == []
    finally:
        sys.settrace(before)
    return count
