"""A history is judged by all checks, each in one pass; what it breaks is told by name."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from groupcomm.checking import delivery, ordering, views
from groupcomm.checking.facts import Facts, gather
from groupcomm.checking.history import AnyEvent
from groupcomm.checking.violations import Violation

# Of one check: where a promise is broken all over, more of the same helps no reader.
VIOLATIONS_MAX = 20

CHECKS: tuple[Callable[[Facts], Iterator[Violation]], ...] = (
    ordering.total_order,
    ordering.fifo,
    ordering.causality,
    ordering.real_time,
    delivery.no_gap,
    delivery.no_duplicate,
    delivery.no_creation,
    delivery.self_delivery,
    delivery.uniformity,
    delivery.durability,
    views.view_agreement,
    views.virtual_synchrony,
    views.condition,
)


def check(events: Iterable[AnyEvent]) -> list[Violation]:
    """What the history breaks, VIOLATIONS_MAX of each check at most; nothing if it is good.

    Raises ValueError if it is no history: a message that was sent or answered twice.
    """
    facts = gather(events)
    return [each for judge in CHECKS for each in islice(judge(facts), VIOLATIONS_MAX)]
