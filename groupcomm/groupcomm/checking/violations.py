"""What a group promises, each promise by its name, and how a history says that one was broken.

The names are those of research and of the manuals of the field.  A history that breaks one promise
may break others with it; the one that is meant is always among those that are named.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from groupcomm.checking.facts import Facts
from groupcomm.checking.history import Delivered, Installed, MessageId, Position

NAMES_SHOWN_MAX = 8


class Property(StrEnum):
    """The promises."""

    TOTAL_ORDER = "total order"  # all members receive in one order
    NO_GAP = "no gap"  # between two things that it received a member missed nothing
    NO_DUPLICATE = "no duplicate"
    NO_CREATION = "no creation"  # what is delivered was sent, byte for byte
    NO_RESURRECTION = "no resurrection"  # what was refused is not delivered
    FIFO = "fifo"  # messages of one sender in the order in which it sent them
    SELF_DELIVERY = "self-delivery"  # a sender receives its own
    VIEW_AGREEMENT = "view agreement"  # one view of a number, the receiver in it, numbers ascend
    VIRTUAL_SYNCHRONY = "virtual synchrony"  # between two views all receive the same messages
    CONDITION = "condition"  # a message for one view is delivered in no other
    PRIVACY = "privacy"  # a private message reaches only those that it is for, and its sender
    CAUSALITY = "causality"  # what a member received comes before what it sends then
    REAL_TIME = "real time"  # what any member knew of comes before what is sent then
    UNIFORMITY = "uniformity"  # what any member received, all that stay receive
    DURABILITY = "durability"  # what was acknowledged is delivered


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken, and how."""

    property: Property
    text: str

    def __str__(self) -> str:
        return f"{self.property}: {self.text}"


def named(message: MessageId | None) -> str:
    """A message, or None for a view, in words."""
    return "a view" if message is None else f"message {message.number} of {message.sender}"


def all_named(messages: Iterable[MessageId | None]) -> str:
    """Some of them in words; most if there are few."""
    names = sorted(map(named, messages))
    more = f" and {len(names) - NAMES_SHOWN_MAX} more" if len(names) > NAMES_SHOWN_MAX else ""
    return ", ".join(names[:NAMES_SHOWN_MAX]) + more


def place_of(position: Position) -> str:
    """A position in words."""
    return f"{position.entry}.{position.part}"


def what(event: Delivered | Installed) -> str:
    """What was received, and where it is."""
    if isinstance(event, Installed):
        return f"view {event.view} at {place_of(event.position)}"
    return f"{named(MessageId(event.sender, event.number))} at {place_of(event.position)}"


def content(facts: Facts, position: Position) -> str:
    """What is at a position, as far as members were told."""
    return f"{all_named(facts.occupants[position])} at {place_of(position)}"
