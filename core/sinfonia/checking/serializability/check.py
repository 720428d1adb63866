"""A history is strictly serializable if one order of its minitransactions explains every reply.

The order must be one in which each minitransaction takes effect at a single moment between its
invocation and its return.  A minitransaction whose outcome is unknown may have its moment at any
time after its invocation, or none.

A failed one changed nothing, and what its compare items found must have been there.  It promises
that for each memory node by itself and no more: a memory node that votes BAD_CMP keeps no locks,
so what two of them found may never have been there together.

A memory node that refuses names all of its items that did not hold.  Appends that met a full ring
are a refusal like failed compares.

``check`` decides this by search (search.py) over what the replies say
(steps.py); memory is zeros at the start.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from sinfonia.checking.history import Added, Located, Operation, Outcome
from sinfonia.checking.serializability.steps import Encoder, extents, may_change
from sinfonia.checking.serializability.trials import holds

# A history of 150 operations takes some hundred choices when values are unique, and some thousand
# when many outcomes are unknown; a search of so many steps takes a second or two.
STEPS_MAX = 300_000

# An explanation asks a hundred times; what cannot be decided so quickly is left in it.
EXPLANATION_STEPS_MAX = 1000


class Serializability(Enum):
    """What a check found; UNKNOWN: the search was given up."""

    OK = "strictly serializable"
    ILLEGAL = "not strictly serializable"
    UNKNOWN = "undecided"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a check: ``order`` is a witness (operation numbers), or ``explanation`` says
    which few operations contradict each other."""

    result: Serializability
    order: tuple[int, ...] = ()
    explanation: str = ""


def check(history: Sequence[Operation], *, steps_max: int = STEPS_MAX) -> Verdict:
    """Whether ``history`` is strictly serializable."""
    claim = _false_claim(history)
    if claim:
        return Verdict(Serializability.ILLEGAL, explanation=claim)
    search = Encoder(history).search(steps_max)
    found = search.run()
    if found is None:
        return Verdict(Serializability.UNKNOWN, explanation=f"undecided after {steps_max} steps")
    if found:
        order = tuple(dict.fromkeys(search.steps[placed.step].number for placed in search.trail))
        return Verdict(Serializability.OK, order)
    return Verdict(Serializability.ILLEGAL, explanation=_explain(history))


def _false_claim(history: Sequence[Operation]) -> str:
    """A reply that no state of memory could explain."""
    for operation in history:
        if operation.outcome is Outcome.FAILED:
            claim = _false_refusal(operation)
            if claim:
                return f"{claim}: {operation}"
        if operation.values or operation.outcome is Outcome.COMMITTED:
            lengths = [len(value) for value in operation.values]
            if lengths != [extent.length for extent in operation.reads]:
                return f"read too few or too many bytes: {operation}"
        if operation.outcome is Outcome.COMMITTED and operation.answers is not None:
            if len(operation.answers) != len(operation.updates):
                return f"answered too few or too many updates: {operation}"
            for update, answer in zip(operation.updates, operation.answers, strict=True):
                limit = 256**update.width if isinstance(update, Added) else 2**64 - 1
                if not 0 <= answer < limit:
                    return f"{answer} is no answer to an update: {operation}"
    return ""


def _false_refusal(operation: Operation) -> str:
    if not operation.failed and not operation.full:
        return "failed, but names no compare item, condition or full ring"
    for index, data in operation.failed:
        item = operation.compares[index]
        if len(data) != len(item.data):
            return "found too few or too many bytes"
        if item.data == data if isinstance(item, Located) else holds(item, data):
            return "failed, but found what it expected"
    if any(isinstance(operation.updates[index], Added) for index in operation.full):
        return "failed, because an add item met a full ring"
    return ""


def _explain(history: Sequence[Operation]) -> str:
    """The few replies that contradict each other.

    To forget a reply only ever allows more orders.  So when no further reply can be forgotten
    without making the history legal, those that are left contradict each other by themselves.
    """
    core = list(history)
    for index in sorted(range(len(core)), key=lambda each: core[each].invoked_at):
        if core[index].outcome not in {Outcome.COMMITTED, Outcome.FAILED}:
            continue
        attempt = core.copy()
        attempt[index] = core[index].weakened()
        if Encoder(attempt).search(EXPLANATION_STEPS_MAX).run() is False:
            core = attempt
    kept = [each for each in core if each.outcome in {Outcome.COMMITTED, Outcome.FAILED}]
    numbers = {each.number for each in kept}
    writers = [each for each in history if each.number not in numbers and _visible(each, kept)]
    lines = ["no order explains these replies:"]
    lines += [f"  {each}" for each in kept]
    if writers:
        lines.append("with what else may have written the bytes they saw:")
        lines += [f"  {each}" for each in writers]
    return "\n".join(lines)


def _visible(writer: Operation, observers: Iterable[Operation]) -> bool:
    """Whether one of ``observers`` looks at a place that ``writer`` may change."""
    places = {extent for each in observers for extent in extents(each)}
    return any(
        node == other and address < start + length and start < address + changed
        for node, address, changed in may_change(writer)
        for other, start, length in places
    )
