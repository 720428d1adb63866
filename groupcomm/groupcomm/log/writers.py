"""A writer appends under a claim, and a claim that has ended appends nothing more.

A writer record is claimed by a program that appends, reads with a cursor that is kept from being
trimmed, or both.  Whatever the claimant does compares the record's generation and turn in the same
minitransaction and moves the turn on.  So each of its minitransactions takes effect once, however
many copies of it are on their way, and none after another program ended the claim: a program that
was only paused learns this from the compare that fails.

The log knows nothing of the programs.  To notice that a claimant is dead, and to ``release`` its
record, is the task of what stands on it; until then its cursor keeps entries from being trimmed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from groupcomm.errors import WritersTaken
from groupcomm.log.layout import (
    CURSOR_NONE,
    OWNER_BYTES,
    RECORD_BYTES,
    WORD_BYTES,
    Log,
    WriterRecord,
    decode_records,
)
from sinfonia import FailedCompare, LimitExceeded, Minitransaction, Relation
from sinfonia.client.steps import Steps, execute, minitransaction
from sinfonia.rings import HEADER_BYTES as RING_HEADER_BYTES
from sinfonia.rings import TRIMMED_OFFSET
from sinfonia.structures import Guard, Trimmed, WrongPosition, execute_until_known


@dataclass(frozen=True, slots=True)
class Claim:
    """Writer record ``writer`` as this claimant has it, and as it was ``before``.

    ``tail``: of the log, just before.
    """

    writer: int
    record: WriterRecord
    before: WriterRecord
    tail: int


@dataclass(frozen=True, slots=True)
class LogState:
    """The ring's ends, the counter of claims and all writer records, as of one moment."""

    trimmed: int
    tail: int
    claims: int
    records: tuple[WriterRecord, ...]

    @property
    def cursor_min(self) -> int:
        """The first entry that a claimant has not received; the tail if there is none."""
        cursors = [record.cursor for record in self.records if record.claimed]
        return min([self.tail, *cursors])

    def holding_up(self, position: int) -> tuple[int, ...]:
        """The writers because of which ``position`` cannot be trimmed."""
        return tuple(
            writer
            for writer, record in enumerate(self.records)
            if record.claimed and record.cursor <= position
        )


def add_look(log: Log, t: Minitransaction[Any]) -> int:
    """Have ``t`` read the state; ``take_look`` finds it by the index that is returned."""
    index = t.read(log.node, log.ring.address, RING_HEADER_BYTES)
    t.read(log.node, log.claims_address, WORD_BYTES)
    t.read(log.node, log.records_address, log.shape.writers * RECORD_BYTES)
    return index


def take_look(log: Log, reads: Sequence[bytes], index: int) -> LogState:
    """The state in ``reads``.  Raises NotFormatted."""
    header = log.ring.decode_header(reads[index])
    claims = int.from_bytes(reads[index + 1], "little")
    return LogState(header.trimmed, header.tail, claims, tuple(decode_records(reads[index + 2])))


def look(log: Log) -> Steps[LogState]:
    """The state of ``log``.  One minitransaction.  Raises NotFormatted."""
    t = minitransaction()
    index = add_look(log, t)
    return take_look(log, (yield from execute(t)).reads, index)


def add_claim(
    log: Log, t: Minitransaction[Any], writer: int, before: WriterRecord, after: WriterRecord
) -> Guard:
    """Have ``t`` make ``after`` of record ``writer``, if it is ``before`` and its cursor is good.

    A cursor is good if the entry there was not trimmed yet.  The guard's first index is that of the
    record.  Only after this is ``claims`` another, so that a trim that has not seen this fails.
    """
    address = log.record_address(writer)
    same = t.compare(log.node, address, before.encode())
    cursor = t.check(log.node, log.ring.address + TRIMMED_OFFSET, Relation.AT_MOST, after.cursor)
    t.write(log.node, address, after.encode())
    t.add(log.node, log.claims_address, 1)
    return Guard((same, cursor))


def claim(log: Log, owner: bytes, *, cursor: int | None = None) -> Steps[Claim | Trimmed]:
    """Claim a writer record for ``owner``, OWNER_BYTES bytes that no other program uses.

    The claimant will read from ``cursor`` on: None is the tail, CURSOR_NONE means that it reads
    nothing.  If ``owner`` has a claim, that ends, and the new one has its cursor: so a program
    takes up after a crash what it had, and of two programs with one name the later has it.

    One minitransaction to look and one to claim, more if rivals interfere.  Trimmed: the entry at
    ``cursor`` is given up.  Raises WritersTaken, WrongPosition
    beyond the tail, LimitExceeded; OutcomeUnknown: claim again.
    """
    if len(owner) != OWNER_BYTES or not any(owner):
        raise LimitExceeded(f"an owner is {OWNER_BYTES} bytes that are not all zero")
    while True:
        state = yield from look(log)
        writer, before = _choose(log, state, owner)
        start = state.tail if cursor is None else cursor
        if before.claimed:
            start = before.cursor
        if state.tail < start != CURSOR_NONE:
            raise WrongPosition(f"no entry at {start} of a log that ends at {state.tail}")
        if start < state.trimmed:
            return Trimmed(state.trimmed, state.tail)
        after = WriterRecord(
            before.generation + (2 if before.claimed else 1),
            before.turn + 1,
            0,
            before.head,
            start,
            owner,
        )
        t = minitransaction()
        guard = add_claim(log, t, writer, before, after)
        result = yield from execute_until_known(t)
        if result.committed or _is_ours(result.failed_compares, guard, after):
            return Claim(writer, after, before, state.tail)


def _choose(log: Log, state: LogState, owner: bytes) -> tuple[int, WriterRecord]:
    free = []
    for writer, record in enumerate(state.records):
        if record.claimed and record.owner == owner:
            return writer, record
        if not record.claimed:
            free.append(writer)
    if not free:
        raise WritersTaken(f"all {log.shape.writers} writer records of the log are claimed")
    # Programs that come at the same time should not all want the same one.
    writer = free[int.from_bytes(owner, "little") % len(free)]
    return writer, state.records[writer]


def _is_ours(failed: Sequence[FailedCompare], guard: Guard, after: WriterRecord) -> bool:
    """Whether an earlier copy of the claim was it."""
    return any(
        each.index == guard.indices[0] and WriterRecord.decode(each.found) == after
        for each in failed
    )


def add_release(log: Log, t: Minitransaction[Any], writer: int, generation: int) -> Guard:
    """Have ``t`` end the claim with ``generation``, if it has not ended."""
    address = log.record_address(writer)
    index = t.compare(log.node, address, generation.to_bytes(WORD_BYTES, "little"))
    t.write(log.node, address, (generation + 1).to_bytes(WORD_BYTES, "little"))
    return Guard((index,))


def release(log: Log, writer: int, generation: int) -> Steps[None]:
    """End the claim of ``writer`` with ``generation``; if it has ended already, do nothing.

    One minitransaction.  Raises OutcomeUnknown: release it again.
    """
    t = minitransaction()
    add_release(log, t, writer, generation)
    yield from execute_until_known(t)


@dataclass(frozen=True, slots=True)
class TrimOutcome:
    """How far a log is trimmed, and which writers kept it from being trimmed as far as asked."""

    trimmed: int
    holding_up: tuple[int, ...]


# A claim that comes between a trim's look and the trim makes it look again, so often at most.
TRIM_TRIES_MAX = 4


def trim(log: Log, up_to: int) -> Steps[TrimOutcome]:
    """Give up the entries below ``up_to``, as far as every claimant has received them.

    One minitransaction to look and one to trim.  Between the two a cursor only moves forward, and a
    new claim changes ``claims``, which the second compares: so no claimant is overtaken.
    """
    for _ in range(TRIM_TRIES_MAX):
        state = yield from look(log)
        target = min(up_to, state.cursor_min)
        holding_up = state.holding_up(target) if target < min(up_to, state.tail) else ()
        if target <= state.trimmed:
            return TrimOutcome(state.trimmed, holding_up)
        t = minitransaction()
        t.compare(log.node, log.claims_address, state.claims.to_bytes(WORD_BYTES, "little"))
        log.ring.add_trim(t, target)
        if (yield from execute_until_known(t)).committed:
            return TrimOutcome(target, holding_up)
    return TrimOutcome(state.trimmed, ())
