"""What an add or append item writes is computed once, at the vote, and logged as plain writes.

So the redo log, recovery, replicas and backups know nothing of them: replaying a record puts bytes
where they were put before, and computes nothing.  What is answered (the old integer, the position)
is kept with the vote, for the client, which may send the same tid again.

Updates take effect after the write items, in order of addition, each seeing those before it.  All
that they look at is locked exclusively, from the vote to the outcome: the integer; the ring's
header, and the slot that it leads to.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from sinfonia.minitransaction import (
    UPDATES_MAX,
    WIDTHS,
    AddItem,
    AppendItem,
    ConditionItem,
    Relation,
    UpdateItem,
    WriteItem,
)
from sinfonia.rings import HEADER_BYTES, SLOT_HEADER_BYTES, RingHeader, encode_slot

POSITION_BYTES = 8


class Sliceable(Protocol):
    """Gives a copy of the bytes [start, end) for ``[start:end]``."""

    def __getitem__(self, key: slice, /) -> bytes: ...


class Computed(NamedTuple):
    """``writes`` are all that the minitransaction writes here; ``answers`` one for each update.

    ``full`` are the append items that met a full ring, by position, with the ring's header.
    """

    writes: list[WriteItem]
    answers: list[bytes]
    full: list[tuple[int, bytes]]


def compute(
    memory: Sliceable, capacity: int, writes: Sequence[WriteItem], updates: Sequence[UpdateItem]
) -> Computed | None:
    """What ``updates`` amount to after ``writes``; None if one of them makes no sense here: bytes
    beyond ``capacity``, or an append where there is no ring for so much data."""
    if len(updates) > UPDATES_MAX:
        return None
    computed = Computed(list(writes), [], [])
    for position, update in enumerate(updates):
        if isinstance(update, AddItem):
            sensible = _add(memory, capacity, update, computed)
        else:
            sensible = _append(memory, capacity, position, update, computed)
        if not sensible:
            return None
    return computed


def locked_extent(update: UpdateItem) -> tuple[int, int]:
    """The bytes [start, end) that an update must have for itself, wherever it leads."""
    if isinstance(update, AddItem):
        return update.address, update.address + update.width
    return update.address, update.address + HEADER_BYTES


def leads_elsewhere(updates: Sequence[UpdateItem]) -> bool:
    """Whether something is written beyond ``locked_extent``: the slot of an append."""
    for update in updates:  # noqa: SIM110 - for every prepare with updates, in a third of the time
        if type(update) is AppendItem:
            return True
    return False


def holds(condition: ConditionItem, found: bytes) -> bool:
    """Whether the bytes ``found`` are what ``condition`` asks for."""
    value = int.from_bytes(found, "little")
    operand = int.from_bytes(condition.operand, "little")
    if condition.mask:
        value &= int.from_bytes(condition.mask, "little")
    match condition.relation:
        case Relation.EQUAL:
            return value == operand
        case Relation.NOT_EQUAL:
            return value != operand
        case Relation.LESS:
            return value < operand
        case Relation.AT_MOST:
            return value <= operand
        case Relation.GREATER:
            return value > operand
    return value >= operand


def is_sensible(condition: ConditionItem) -> bool:
    """Whether ``condition`` compares integers of one width."""
    width = len(condition.operand)
    return width in WIDTHS and len(condition.mask) in (0, width)


def _add(memory: Sliceable, capacity: int, item: AddItem, computed: Computed) -> bool:
    address, width = item.address, item.width
    if width not in WIDTHS or address + width > capacity:
        return False
    old = _look(memory, address, address + width, computed.writes)
    new = (int.from_bytes(old, "little") + item.delta) & ((1 << 8 * width) - 1)
    computed.writes.append(WriteItem(address, new.to_bytes(width, "little")))
    computed.answers.append(old)
    return True


def _append(
    memory: Sliceable, capacity: int, position: int, item: AppendItem, computed: Computed
) -> bool:
    start = item.address
    if start + HEADER_BYTES > capacity:
        return False
    header = _look(memory, start, start + HEADER_BYTES, computed.writes)
    ring = RingHeader.decode(header)
    fits = SLOT_HEADER_BYTES + len(item.data) <= ring.slot_bytes
    if not ring.valid or not fits or start + ring.byte_count > capacity:
        return False
    if ring.full:
        computed.full.append((position, header))
        return True
    slot = encode_slot(ring, ring.tail, item.data)
    computed.writes.append(WriteItem(start + ring.place(ring.tail), slot))
    computed.writes.append(WriteItem(start, ring.appended().encode()))
    computed.answers.append(ring.tail.to_bytes(POSITION_BYTES, "little"))
    return True


def _look(memory: Sliceable, start: int, end: int, writes: Sequence[WriteItem]) -> bytes:
    """The bytes [start, end) as they are after ``writes``."""
    found = memory[start:end]
    for item in writes:
        address = item.address
        if address < end and start < (item_end := address + len(item.data)):
            low, high = max(start, address), min(end, item_end)
            patch = item.data[low - address : high - address]
            found = found[: low - start] + patch + found[high - start :]
    return found
