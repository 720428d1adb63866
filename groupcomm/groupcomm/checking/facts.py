"""What a history says, arranged so that each property is checked in one pass over it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from groupcomm.checking.history import (
    Acknowledged,
    AnyEvent,
    Delivered,
    Installed,
    MessageId,
    Position,
    Refused,
    Sent,
    Settled,
)

EventT = TypeVar("EventT")


@dataclass
class Life:
    """What happened to one member, in order; ``settled``: it received all there was."""

    member: str
    events: list[AnyEvent] = field(default_factory=list)
    received: list[Delivered | Installed] = field(default_factory=list)
    delivered: set[MessageId] = field(default_factory=set)
    settled: bool = False

    @property
    def deliveries(self) -> Iterator[Delivered]:
        """The messages that it received, in order."""
        return (event for event in self.received if isinstance(event, Delivered))


@dataclass
class Facts:
    """All members' events, and where each message is said to be.

    ``places``: of each message, all positions that any member was told.  ``occupants``: of each
    position, the messages (None: a view) that any member was told are there.
    """

    lives: dict[str, Life] = field(default_factory=dict)
    sent: dict[MessageId, Sent] = field(default_factory=dict)
    acknowledged: dict[MessageId, Acknowledged] = field(default_factory=dict)
    refused: dict[MessageId, Refused] = field(default_factory=dict)
    places: dict[MessageId, set[Position]] = field(default_factory=dict)
    occupants: dict[Position, set[MessageId | None]] = field(default_factory=dict)
    by_time: list[AnyEvent] = field(default_factory=list)
    received_order: list[Position] = field(default_factory=list)

    def place(self, message: MessageId) -> Position | None:
        """Where the message is, if any member was told."""
        return min(self.places.get(message, ()), default=None)

    def note_place(self, message: MessageId | None, position: Position) -> None:
        """A member was told that ``message``, or a view, is at ``position``."""
        self.occupants.setdefault(position, set()).add(message)
        if message is not None:
            self.places.setdefault(message, set()).add(position)

    def is_private(self, message: MessageId) -> bool:
        """Whether it is for some members only."""
        return message in self.sent and self.sent[message].to is not None

    def is_for(self, message: MessageId, member: str) -> bool:
        """Whether ``member``, if it is in the group then, is to receive ``message``."""
        sent = self.sent.get(message)
        return sent is None or sent.to is None or member in sent.to or member == message.sender

    def concerns(self, position: Position, member: str) -> bool:
        """Whether ``member``, if it is in the group then, is to receive what is at ``position``."""
        return any(each is None or self.is_for(each, member) for each in self.occupants[position])

    def reaches(self, message: MessageId, life: Life) -> bool:
        """Whether ``life`` received from before ``message`` on to after it, or to the end."""
        place = self.place(message)
        if place is None or not life.received:
            return False
        return life.received[0].position < place and (
            life.settled or place < life.received[-1].position
        )


def gather(events: Iterable[AnyEvent]) -> Facts:
    """The facts of a history.  Raises ValueError if a message is sent or answered twice."""
    facts = Facts()
    for event in events:
        life = facts.lives.setdefault(event.member, Life(event.member))
        life.events.append(event)
        match event:
            case Sent():
                _once(facts.sent, MessageId(event.member, event.number), event)
            case Acknowledged():
                message = MessageId(event.member, event.number)
                _once(facts.acknowledged, message, event)
                facts.note_place(message, event.position)
            case Refused():
                _once(facts.refused, MessageId(event.member, event.number), event)
            case Delivered():
                message = MessageId(event.sender, event.number)
                life.received.append(event)
                life.delivered.add(message)
                facts.note_place(message, event.position)
            case Installed():
                life.received.append(event)
                facts.note_place(None, event.position)
            case Settled():
                life.settled = True
        facts.by_time.append(event)
    # Stable: the events of one member stay in their order.
    facts.by_time.sort(key=lambda event: event.at)
    received = (event.position for life in facts.lives.values() for event in life.received)
    facts.received_order = sorted(set(received))
    return facts


def _once(known: dict[MessageId, EventT], key: MessageId, event: EventT) -> None:
    if key in known:
        raise ValueError(f"no history: {event} says again what {known[key]} said")
    known[key] = event
