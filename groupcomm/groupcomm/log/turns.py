"""What a program asks of its turns, and what a turn tells it.

A *ticket* is the number of a part among all that one comb was given, from 0; each part is settled
once, as ordered or as refused, or is among those that ``Expelled`` tells of.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from groupcomm.log.arrivals import Look
from groupcomm.log.entries import Entry
from groupcomm.log.layout import WriterRecord
from groupcomm.log.posting import Portion
from sinfonia import InvalidMinitransaction, Minitransaction, Result


@dataclass(frozen=True, slots=True)
class Ordered:
    """The parts with these ``tickets`` are in the log, in entry ``position``.

    ``position`` is None, for not known, only for a writer that reads nothing, if the answer to its
    append was lost.  ``result`` is that of the minitransaction, for a part with a rider, unless the
    answer was lost.
    """

    tickets: range
    position: int | None
    result: Result | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The part with this ``ticket`` is not in the log and never will be, because of its rider.

    ``reason`` is the result, which says what compare items failed, or what rings of the rider's are
    full; or the error, if the rider's items are not possible.
    """

    ticket: int
    reason: Result | InvalidMinitransaction


@dataclass(frozen=True, slots=True)
class Turn:
    """What came of a turn.

    entries: the next entries of the log, those of this writer included.  ordered, refused: parts
    that are settled.  holding_up: if the log is too full for what was posted, the writers that have
    not received enough; () otherwise.
    """

    entries: Sequence[Entry]
    ordered: Sequence[Ordered]
    refused: Sequence[Refused]
    holding_up: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A turn that may be on its way.

    compare: the index of the compare item for the own record, which is ``after`` if the turn
    happens.  area_bytes: were received when it reported its cursor.  instead_of: the turn that may
    be on its way as well, and never happens if this one does; ``refusal`` of it says why.
    """

    t: Minitransaction[Any]
    compare: int
    look: Look
    after: WriterRecord
    portion: Portion | None
    area_bytes: int
    instead_of: "Prepared | None" = None
    refusal: Result | None = None
