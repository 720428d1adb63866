"""The promises about order: one for all, and in it what was sent before, or known before.

Positions make each check one pass: where the order is told, there is nothing to search for.
"""

from collections.abc import Iterator
from itertools import groupby

from groupcomm.checking.facts import Facts
from groupcomm.checking.history import Delivered, Installed, MessageId, Position, Sent
from groupcomm.checking.violations import Property, Violation, all_named, named, place_of, what


def total_order(facts: Facts) -> Iterator[Violation]:
    """One thing at a position, one position for a message, and each member goes forward."""
    for position, occupants in facts.occupants.items():
        if len(occupants) > 1:
            yield Violation(
                Property.TOTAL_ORDER, f"at {place_of(position)} are {all_named(occupants)}"
            )
    for message, places in facts.places.items():
        if len(places) > 1:
            told = ", ".join(map(place_of, sorted(places)))
            yield Violation(Property.TOTAL_ORDER, f"{named(message)} is at {told}")
    for life in facts.lives.values():
        last: Delivered | Installed | None = None
        for event in life.received:
            if last is not None and event.position <= last.position:
                yield Violation(
                    Property.TOTAL_ORDER,
                    f"{life.member} received {what(event)} after {what(last)}",
                )
            last = event


def fifo(facts: Facts) -> Iterator[Violation]:
    """The messages of one sender are ordered as it sent them."""
    for life in facts.lives.values():
        last: tuple[Position, MessageId] | None = None
        for event in life.events:
            if not isinstance(event, Sent):
                continue
            message = MessageId(life.member, event.number)
            place = facts.place(message)
            if place is None:
                continue
            if last is not None and place <= last[0]:
                yield Violation(
                    Property.FIFO,
                    f"{named(message)} is at {place_of(place)}, and {named(last[1])}, which was"
                    f" sent before, at {place_of(last[0])}",
                )
            last = (place, message)


def causality(facts: Facts) -> Iterator[Violation]:
    """What a member received before it sent is before what it sent."""
    for life in facts.lives.values():
        latest: Position | None = None
        for event in life.events:
            if isinstance(event, Delivered | Installed):
                latest = event.position if latest is None else max(latest, event.position)
            elif isinstance(event, Sent):
                message = MessageId(life.member, event.number)
                place = facts.place(message)
                if place is not None and latest is not None and place <= latest:
                    yield Violation(
                        Property.CAUSALITY,
                        f"{named(message)} is at {place_of(place)}, and {life.member} had received"
                        f" what is at {place_of(latest)} before it sent that",
                    )


def real_time(facts: Facts) -> Iterator[Violation]:
    """What is sent is behind everything that any member knew the place of before."""
    latest: Position | None = None
    for _, group in groupby(facts.by_time, key=lambda event: event.at):
        events = list(group)
        for event in events:
            if not isinstance(event, Sent):
                continue
            message = MessageId(event.member, event.number)
            place = facts.place(message)
            if place is not None and latest is not None and place <= latest:
                yield Violation(
                    Property.REAL_TIME,
                    f"{named(message)} is at {place_of(place)}, and what is at"
                    f" {place_of(latest)} was known before it was sent",
                )
        # Of events at one moment none is before another.
        known = [event.position for event in events if hasattr(event, "position")]
        latest = max([*known, latest] if latest is not None else known, default=None)
