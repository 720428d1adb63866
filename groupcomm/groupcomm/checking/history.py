"""A history is what the members of a group did and saw, and nothing else.

A checker that looked into the log would share its mistakes.  Each event is told by one member: the
events of one member are in the order in which they happened to it, and ``at`` is a clock that all
members share, in seconds.  ``member`` names one life of a member: one that comes back, after a
crash or a kick, has another name ("ann", "ann again").  A message is named by its sender and the
sender's count.

As text a history is one JSON object to a line, in any order of members.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

# A line of a history; one that is longer is not one.
LINE_BYTES_MAX = 1 << 20


class Position(NamedTuple):
    """Where something is in the order of the group: entry of the log, part of the entry."""

    entry: int
    part: int


class MessageId(NamedTuple):
    """The ``number``-th message of ``sender``."""

    sender: str
    number: int


class Event(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Something that happened to ``member`` at ``at``."""

    at: float
    member: str


class Sent(Event, frozen=True, tag="sent", kw_only=True):
    """The member began to send; ``checksum`` is that of the payload.

    ``to``: whom a private message is for.  ``if_view``: the view in which alone it may be ordered.
    """

    number: int
    checksum: int
    to: frozenset[str] | None = None
    if_view: int | None = None


class Acknowledged(Event, frozen=True, tag="acknowledged", kw_only=True):
    """The member was told that its message is ordered, and where."""

    number: int
    position: Position


class Refused(Event, frozen=True, tag="refused", kw_only=True):
    """The member was told that its message is not ordered and never will be."""

    number: int


class Delivered(Event, frozen=True, tag="delivered", kw_only=True):
    """The member received a message, in ``view``; 0 where there are no views."""

    sender: str
    number: int
    position: Position
    checksum: int
    view: int = 0


class Installed(Event, frozen=True, tag="installed", kw_only=True):
    """The member received a view."""

    view: int
    position: Position
    members: frozenset[str]


class Ended(Event, frozen=True, tag="ended", kw_only=True):
    """The member left, or was told that it was kicked; nothing that is later is of it."""


class Settled(Event, frozen=True, tag="settled", kw_only=True):
    """After all sends were over and all faults healed, the member has received all there was."""


AnyEvent = Sent | Acknowledged | Refused | Delivered | Installed | Ended | Settled

_DECODER: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)
_ENCODER = msgspec.json.Encoder(order="deterministic")


def encode_event(event: AnyEvent) -> bytes:
    """One line, without its end."""
    return _ENCODER.encode(event)


def decode_events(lines: Iterable[bytes]) -> Iterator[AnyEvent]:
    """The events of a text.  Raises ValueError, which names the line."""
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_BYTES_MAX:
            raise ValueError(f"line {number} has over {LINE_BYTES_MAX} bytes")
        try:
            yield _DECODER.decode(line)
        except msgspec.DecodeError as error:
            raise ValueError(f"line {number} is no event of a history: {error}") from error
