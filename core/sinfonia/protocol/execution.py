"""What a minitransaction finds at one memory node, and what it would write there.

Nothing here changes anything: ``evaluate`` looks, and the participant applies, logs and answers.
Whatever a request says is checked, since nothing from the network is trusted.
"""

from typing import Protocol

from sinfonia.minitransaction import BYTES_MAX, ITEMS_MAX, WriteItem
from sinfonia.protocol.locks import RangeLocks
from sinfonia.protocol.messages import ExecCommit, ExecPrepare, Vote, Voted
from sinfonia.protocol.updates import Sliceable, compute, holds, is_sensible, locked_extent

OK = Vote.OK
NONE: list[bytes] = []
NO_WRITES: list[WriteItem] = []


class Memory(Protocol):
    """The address space; a slice of ``memory`` is a copy of the bytes."""

    @property
    def capacity(self) -> int: ...
    @property
    def memory(self) -> Sliceable: ...
    def write(self, address: int, data: bytes) -> None: ...


# A vote, all that is to be written if it is OK, and how many bytes were read.
Evaluated = tuple[Voted, list[WriteItem], int]


def evaluate(  # noqa: C901 - in one piece, because it runs for every minitransaction
    memory: Sliceable, capacity: int, counter: int, request: ExecCommit | ExecPrepare
) -> Evaluated:
    """The vote of a participant that has, or needs, the locks."""
    if len(request.compares) + len(request.reads) + len(request.writes) > ITEMS_MAX:
        return _out_of_range(counter)
    failed: list[tuple[int, bytes]] = []
    for position, item in enumerate(request.compares):
        start = item.address
        end = start + len(item.expected)
        if end > capacity:
            return _out_of_range(counter)
        found = memory[start:end]
        if found != item.expected:
            failed.append((position, found))
    if request.conditions and not _check_conditions(memory, capacity, request, failed):
        return _out_of_range(counter)
    reads = NONE
    bytes_read = 0
    if request.reads and (not failed or request.reads_on_failure):
        reads = []
        for read in request.reads:
            start = read.address
            end = start + read.length
            bytes_read += read.length
            if end > capacity or bytes_read > BYTES_MAX:
                return _out_of_range(counter)
            reads.append(memory[start:end])
    for write in request.writes:
        if write.address + len(write.data) > capacity:
            return _out_of_range(counter)
    if failed:
        return Voted(counter, Vote.BAD_CMP, reads, failed), NO_WRITES, bytes_read
    if request.updates:
        return _update(memory, capacity, Voted(counter, OK, reads), request, bytes_read)
    return Voted(counter, OK, reads), request.writes, bytes_read


def is_locked(locks: RangeLocks, request: ExecCommit) -> bool:
    """Whether an item meets a lock.  One phase takes and drops its locks in one step, so that
    asking is as good as locking.  The slots that appends lead to are not known yet."""
    conflicts = locks.conflicts
    return (
        any(conflicts(w.address, w.address + len(w.data), exclusive=True) for w in request.writes)
        or any(
            conflicts(c.address, c.address + len(c.expected), exclusive=False)
            for c in request.compares
        )
        or any(conflicts(r.address, r.address + r.length, exclusive=False) for r in request.reads)
        or any(conflicts(*locked_extent(u), exclusive=True) for u in request.updates)
        or any(
            conflicts(c.address, c.address + len(c.operand), exclusive=False)
            for c in request.conditions
        )
    )


def _check_conditions(
    memory: Sliceable,
    capacity: int,
    request: ExecCommit | ExecPrepare,
    failed: list[tuple[int, bytes]],
) -> bool:
    """Add those that do not hold to ``failed``; False if one makes no sense here."""
    if len(request.conditions) > ITEMS_MAX:
        return False
    position = len(request.compares)
    for condition in request.conditions:
        end = condition.address + len(condition.operand)
        if not is_sensible(condition) or end > capacity:
            return False
        found = memory[condition.address : end]
        if not holds(condition, found):
            failed.append((position, found))
        position += 1
    return True


def _update(
    memory: Sliceable,
    capacity: int,
    voted: Voted,
    request: ExecCommit | ExecPrepare,
    bytes_read: int,
) -> Evaluated:
    """The vote and the writes of a minitransaction with updates, whose compares all hold."""
    computed = compute(memory, capacity, request.writes, request.updates)
    if computed is None:
        return _out_of_range(voted.counter)
    if computed.full:
        before = len(request.compares) + len(request.conditions)
        failed = [(before + position, header) for position, header in computed.full]
        reads = voted.reads if request.reads_on_failure else NONE
        refused = Voted(voted.counter, Vote.BAD_CMP, reads, failed)
        return refused, NO_WRITES, bytes_read
    answered = Voted(voted.counter, OK, [*voted.reads, *computed.answers])
    return answered, computed.writes, bytes_read


def _out_of_range(counter: int) -> Evaluated:
    return Voted(counter, Vote.BAD_RANGE), NO_WRITES, 0
