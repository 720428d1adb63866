"""The definition itself: try every order of every subset that holds the definite operations.

Slow, and so plain that nothing can be wrong with it; the checker is compared with it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace

from sinfonia.checking.history import (
    Added,
    Appended,
    Conditioned,
    Found,
    Located,
    Operation,
    Outcome,
)
from sinfonia.minitransaction import Relation
from sinfonia.rings import HEADER_BYTES, RingHeader, encode_slot


def explained(history: Sequence[Operation]) -> bool:
    """Whether some order explains ``history``; memory nodes 0 and 1 have 256 bytes each."""
    definite = [each for each in history if each.outcome is not Outcome.UNKNOWN]
    possible = [each for each in history if each.outcome is Outcome.UNKNOWN]
    return any(
        _in_real_time(order) and _explains(order)
        for size in range(len(possible) + 1)
        for chosen in itertools.combinations(possible, size)
        for order in itertools.permutations([*definite, *chosen])
    )


def _in_real_time(order: Sequence[Operation]) -> bool:
    return not any(
        later.returned_at is not None
        and later.outcome is not Outcome.UNKNOWN
        and later.returned_at < earlier.invoked_at
        for earlier, later in itertools.combinations(order, 2)
    )


def _explains(order: Sequence[Operation]) -> bool:
    """Whether executing ``order`` one by one gives the replies that were given."""
    memory = {node: bytearray(256) for node in range(2)}
    for each in order:
        reply = execute(memory, each)
        if each.outcome is Outcome.FAILED:
            if reply.outcome is not Outcome.FAILED:
                return False
            if (reply.failed, reply.full) != (each.failed, each.full):
                return False
            continue
        if reply.outcome is not Outcome.COMMITTED:
            return False
        if each.outcome is Outcome.COMMITTED and reply.values != each.values:
            return False
        if each.answers is not None and reply.answers != each.answers:
            return False
    return True


def execute(memory: dict[int, bytearray], asked: Operation) -> Operation:
    """``asked`` with the reply that it gets if it is executed on ``memory`` now."""
    found = [
        Found(index, bytes(memory[item.node][item.address : item.address + len(item.data)]))
        for index, item in enumerate(asked.compares)
    ]
    failed = tuple(each for each in found if not _content(asked.compares[each.position], each.data))
    if failed:
        return replace(asked, outcome=Outcome.FAILED, failed=failed, answers=(), values=())
    values = tuple(bytes(memory[node][at : at + length]) for node, at, length in asked.reads)
    before = {node: bytes(content) for node, content in memory.items()}
    for node, at, data in asked.writes:
        memory[node][at : at + len(data)] = data
    answers = [_update(memory[update.node], update) for update in asked.updates]
    full = tuple(index for index, answer in enumerate(answers) if answer is None)
    if full or NO_RING in answers:
        memory |= {node: bytearray(content) for node, content in before.items()}
        outcome = Outcome.NOT_EXECUTED if NO_RING in answers else Outcome.FAILED
        return replace(asked, outcome=outcome, full=full, answers=(), values=())
    told = tuple(answer for answer in answers if answer is not None)
    return replace(asked, outcome=Outcome.COMMITTED, values=values, answers=told)


def _content(item: Located | Conditioned, found: bytes) -> bool:
    if isinstance(item, Located):
        return found == item.data
    value = int.from_bytes(found, "little")
    if item.mask:
        value &= int.from_bytes(item.mask, "little")
    operand = int.from_bytes(item.data, "little")
    order = (value > operand) - (value < operand)
    return order in RELATIONS[item.relation]


# What the sign of (value - operand) may be.
RELATIONS = {
    Relation.EQUAL: {0},
    Relation.NOT_EQUAL: {-1, 1},
    Relation.LESS: {-1},
    Relation.AT_MOST: {-1, 0},
    Relation.GREATER: {1},
    Relation.AT_LEAST: {0, 1},
}
NO_RING = -1


def _update(memory: bytearray, item: Added | Appended) -> int | None:
    """The answer; None: the ring is full."""
    start = item.address
    if isinstance(item, Added):
        old = int.from_bytes(memory[start : start + item.width], "little")
        new = (old + item.delta) % 256**item.width
        memory[start : start + item.width] = new.to_bytes(item.width, "little")
        return old
    header = RingHeader.decode(bytes(memory[start : start + HEADER_BYTES]))
    if not header.valid or (header.slot_bytes, header.slots) != (item.slot_bytes, item.slots):
        return NO_RING
    if header.full:
        return None
    place, slot = start + header.place(header.tail), encode_slot(header, header.tail, item.data)
    memory[place : place + len(slot)] = slot
    memory[start : start + HEADER_BYTES] = replace(header, tail=header.tail + 1).encode()
    return header.tail
