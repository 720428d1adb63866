"""The promises about what a member receives: all that is for it, once, as sent, nothing else."""

from collections.abc import Iterator
from itertools import pairwise

from groupcomm.checking.facts import Facts
from groupcomm.checking.history import MessageId
from groupcomm.checking.violations import Property, Violation, content, named


def no_gap(facts: Facts) -> Iterator[Violation]:
    """Nothing that others received is missing between the first and last that a member received."""
    order = facts.received_order
    rank = {position: index for index, position in enumerate(order)}
    for life in facts.lives.values():
        ranks = [rank[event.position] for event in life.received]
        for before, after in pairwise(ranks):
            for index in range(before + 1, after):
                if facts.concerns(order[index], life.member):
                    yield Violation(
                        Property.NO_GAP,
                        f"{life.member} did not receive {content(facts, order[index])}, but what"
                        " is before and after it",
                    )


def no_duplicate(facts: Facts) -> Iterator[Violation]:
    """No member receives a message twice."""
    for life in facts.lives.values():
        seen: set[MessageId] = set()
        for event in life.deliveries:
            message = MessageId(event.sender, event.number)
            if message in seen:
                yield Violation(
                    Property.NO_DUPLICATE, f"{life.member} received {named(message)} twice"
                )
            seen.add(message)


def no_creation(facts: Facts) -> Iterator[Violation]:
    """What is delivered was sent, with the same content, and had not been refused."""
    for life in facts.lives.values():
        for event in life.deliveries:
            message = MessageId(event.sender, event.number)
            sent = facts.sent.get(message)
            received = f"{life.member} received {named(message)}"
            if sent is None:
                yield Violation(Property.NO_CREATION, f"{received}, which was not sent")
            elif sent.checksum != event.checksum:
                yield Violation(Property.NO_CREATION, f"{received} with other content")
            if message in facts.refused:
                yield Violation(Property.NO_RESURRECTION, f"{received}, which was refused")
            if not facts.is_for(message, life.member):
                yield Violation(Property.PRIVACY, f"{received}, which is for others")


def self_delivery(facts: Facts) -> Iterator[Violation]:
    """A member receives what it was told is ordered, as far as it received anything."""
    for message in facts.acknowledged:
        life = facts.lives[message.sender]
        if message not in life.delivered and facts.reaches(message, life):
            yield Violation(
                Property.SELF_DELIVERY, f"{life.member} did not receive its own {named(message)}"
            )


def uniformity(facts: Facts) -> Iterator[Violation]:
    """What any member received, also one that is gone, those receive that stay to the end."""
    order = facts.received_order
    for life in facts.lives.values():
        received = life.received
        if not life.settled or not received:
            continue
        last = max(event.position for event in received)
        for position in reversed(order):
            if position <= last:
                break
            if facts.concerns(position, life.member):
                yield Violation(
                    Property.UNIFORMITY,
                    f"{life.member} never received {content(facts, position)}; others did",
                )


def durability(facts: Facts) -> Iterator[Violation]:
    """What was acknowledged is delivered to those that receive what is around it."""
    delivered = set().union(*(life.delivered for life in facts.lives.values()))
    for message in facts.acknowledged:
        if message in delivered:
            continue
        for life in facts.lives.values():
            if facts.is_for(message, life.member) and facts.reaches(message, life):
                yield Violation(
                    Property.DURABILITY,
                    f"{named(message)} was acknowledged, and {life.member} never received it, nor"
                    " did any other member",
                )
                break
