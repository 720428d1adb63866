"""The promises about views: all agree on them, and on what was received between them."""

from collections.abc import Iterator

from groupcomm.checking.facts import Facts
from groupcomm.checking.history import Installed, MessageId
from groupcomm.checking.violations import Property, Violation, all_named, named


def view_agreement(facts: Facts) -> Iterator[Violation]:
    """A view is the same to all that install it; it has its receiver, and numbers ascend by 1."""
    known: dict[int, Installed] = {}
    for life in facts.lives.values():
        last: int | None = None
        for event in life.received:
            if not isinstance(event, Installed):
                continue
            first = known.setdefault(event.view, event)
            if (first.members, first.position) != (event.members, event.position):
                yield Violation(
                    Property.VIEW_AGREEMENT,
                    f"view {event.view} is one thing to {first.member}, another to {life.member}",
                )
            if life.member not in event.members:
                yield Violation(
                    Property.VIEW_AGREEMENT, f"{life.member} is not in its view {event.view}"
                )
            if last is not None and event.view != last + 1:
                yield Violation(
                    Property.VIEW_AGREEMENT,
                    f"{life.member} installed view {event.view} after view {last}",
                )
            last = event.view


def virtual_synchrony(facts: Facts) -> Iterator[Violation]:
    """Members that go through the same two views received the same messages in between.

    And each message is delivered in one view, the one that its receiver has installed.
    """
    between: dict[tuple[int, int], tuple[str, frozenset[MessageId]]] = {}
    views: dict[MessageId, int] = {}
    for life in facts.lives.values():
        first = next((k for k, each in enumerate(life.received) if isinstance(each, Installed)), 0)
        view = 0
        messages: set[MessageId] = set()
        for event in life.received[first:]:
            if isinstance(event, Installed):
                if view:
                    mine = frozenset(messages)
                    other, theirs = between.setdefault((view, event.view), (life.member, mine))
                    if theirs != mine:
                        yield Violation(
                            Property.VIRTUAL_SYNCHRONY,
                            f"between views {view} and {event.view} {other} and {life.member}"
                            f" received different messages: {all_named(theirs ^ mine)}",
                        )
                view, messages = event.view, set()
                continue
            message = MessageId(event.sender, event.number)
            if not facts.is_private(message):
                messages.add(message)
            expected = views.setdefault(message, view)
            if event.view != view or expected != view:
                yield Violation(
                    Property.VIRTUAL_SYNCHRONY,
                    f"{life.member} received {named(message)} in view {view} and was told view"
                    f" {event.view}; the first to receive it did so in view {expected}",
                )


def condition(facts: Facts) -> Iterator[Violation]:
    """A message that is for one view only is delivered in that view."""
    for life in facts.lives.values():
        for event in life.deliveries:
            message = MessageId(event.sender, event.number)
            sent = facts.sent.get(message)
            if sent is not None and sent.if_view not in (None, event.view):
                yield Violation(
                    Property.CONDITION,
                    f"{life.member} received {named(message)}, which was for view {sent.if_view},"
                    f" in view {event.view}",
                )
