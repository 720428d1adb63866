"""Broken on purpose: conditions, adds, appends, and the line for locks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.minitransaction import (
    ConditionItem,
    Minitransaction,
    Relation,
    UpdateItem,
    WriteItem,
)
from sinfonia.protocol import attempts, execution, one_phase, records, updates
from sinfonia.protocol.effects import Step
from sinfonia.protocol.execution import evaluate
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.lock_waits import Waiter
from sinfonia.protocol.messages import ExecCommit, Request, Vote, Voted
from sinfonia.protocol.one_phase import OnePhaseParticipant
from sinfonia.protocol.participant import Participant
from sinfonia.protocol.participant_state import LiveParticipantState
from sinfonia.protocol.sessions import Session
from sinfonia.protocol.updates import Computed, Sliceable
from sinfonia.rings import RingHeader
from sinfonia.simulation.fair_line import FairLine
from sinfonia.simulation.mutations.locking import locking_only, voting_with_locks_of
from sinfonia.simulation.mutations.mutation import instead_of, mutation

# --- updates ------------------------------------------------------------------------------------


@instead_of(OnePhaseParticipant, "_refused", profile="adds", seeds=(3, 2, 1))
def add_executed_again(
    _original: object, self: OnePhaseParticipant, session: Session, request: ExecCommit
) -> Voted | None:
    """An add that was executed is not executed again: it changes something, like a write."""
    return self._votes.already(session, request.counter) if request.writes else None


@instead_of(OnePhaseParticipant, "_refused", profile="adds", seeds=(3, 2, 1))
def answer_of_an_add_computed_again(
    refused: Callable[..., Voted | None],
    self: OnePhaseParticipant,
    session: Session,
    request: ExecCommit,
) -> Voted | None:
    """An add that is sent again is answered with what it met, not with what is there now."""
    known = refused(self, session, request)
    if known is not None and known.vote is Vote.OK and request.updates:
        return evaluate(self._bytes, self._capacity, request.counter, request)[0]
    return known


@instead_of(LiveParticipantState, "replay", profile="adds", seeds=(14,))
def answer_of_an_add_not_logged(
    replay: Callable[..., None], self: LiveParticipantState, record: records.Record
) -> None:
    """What an add met is in the log, for clients that ask the next life of the memory node."""
    replay(self, record)
    if isinstance(record, records.OnePhase) and record.reads:
        outcomes = self.sessions.of(record.client, self.epoch)
        left = {len(each.data): each.data for each in record.writes}
        reads = [left.get(len(read), read) for read in record.reads]
        outcomes.outcomes[record.counter] = Voted(record.counter, Vote.OK, reads)


@instead_of(attempts, "_requests", profile="adds", seeds=(3, 2, 1))
def add_taken_for_a_read(
    requests: Callable[..., tuple[dict[MemoryNodeId, Request], bool]],
    minitransaction: Minitransaction[Any],
    tid: Tid,
) -> tuple[dict[MemoryNodeId, Request], bool]:
    """A minitransaction with updates is not read-only, though it has no write items."""
    asked, _ = requests(minitransaction, tid)
    return asked, not any(items.writes for items in minitransaction.items.values())


@mutation(profile="adds", seeds=(3, 1, 2))
def updates_not_locked() -> Iterator[None]:
    """What an update looks at is locked from the vote to the outcome."""
    with voting_with_locks_of(
        lambda items, request: replace(items, writes=request.writes, updates=())
    ):
        yield


@mutation(profile="small-rings", seeds=(6, 29, 2))
def slot_not_locked() -> Iterator[None]:
    """The slot that an append leads to is locked until the outcome is known, like the header."""
    with voting_with_locks_of(
        lambda items, request: replace(items, writes=request.writes, updates=request.updates)
    ):
        yield


@mutation(profile="small-rings", seeds=(2, 3, 1))
def full_ring_overwritten() -> Iterator[None]:
    """What was not trimmed is not overwritten: nothing is appended to a full ring."""

    class Endless(RingHeader):
        valid = property(lambda self: self.slots > 0)
        full = property(lambda _self: False)

    with patch.object(updates, "RingHeader", Endless):
        yield


@instead_of(execution, "compute", profile="small-rings", seeds=(2, 3, 1))
def full_ring_passed_over(
    compute: Callable[..., Computed | None],
    memory: Sliceable,
    capacity: int,
    writes: Sequence[WriteItem],
    items: Sequence[UpdateItem],
) -> Computed | None:
    """If one ring is full nothing happens, not even what else the minitransaction was to do."""
    computed = compute(memory, capacity, writes, items)
    if computed is None or not computed.full or len(items) == len(computed.full):
        return computed
    answers = iter(computed.answers)
    full = {position for position, _ in computed.full}
    padded = [bytes(8) if i in full else next(answers) for i in range(len(items))]
    return Computed(computed.writes, padded, [])


@instead_of(updates, "_look", profile="adds", seeds=(1, 3, 2))
def updates_blind_to_writes(
    _original: object, memory: Sliceable, start: int, end: int, writes: Sequence[WriteItem]
) -> bytes:
    """Updates take effect after the write items of their minitransaction, and see them."""
    del writes
    return memory[start:end]


@instead_of(execution, "compute", profile="small-rings", seeds=(1, 2, 3))
def updates_blind_to_each_other(
    compute: Callable[..., Computed | None],
    memory: Sliceable,
    capacity: int,
    writes: Sequence[WriteItem],
    items: Sequence[UpdateItem],
) -> Computed | None:
    """Of two updates of one minitransaction the later one sees what the earlier one did."""
    whole = Computed(list(writes), [], [])
    for position, item in enumerate(items):
        alone = compute(memory, capacity, writes, [item])
        if alone is None:
            return None
        whole.writes.extend(alone.writes[len(writes) :])
        whole.answers.extend(alone.answers)
        whole.full.extend((position, header) for _, header in alone.full)
    return whole


# --- conditions ---------------------------------------------------------------------------------


@mutation(seeds=(3, 1, 2))
def condition_ignored() -> Iterator[None]:
    """A minitransaction commits only if its conditions hold."""
    with patch.object(execution, "holds", lambda _condition, _found: True):
        yield


@instead_of(execution, "holds", seeds=(3, 11))
def less_taken_for_at_most(
    holds: Callable[..., bool], condition: ConditionItem, found: bytes
) -> bool:
    """What must be less may not be equal."""
    if condition.relation is Relation.LESS:
        condition = msgspec.structs.replace(condition, relation=Relation.AT_MOST)
    return holds(condition, found)


@instead_of(execution, "holds", seeds=(1, 8, 3))
def mask_ignored(holds: Callable[..., bool], condition: ConditionItem, found: bytes) -> bool:
    """Of what a condition looks at only the bits of its mask count."""
    return holds(msgspec.structs.replace(condition, mask=b""), found)


@mutation(seeds=(90,))
def conditions_not_locked() -> Iterator[None]:
    """What a condition looked at is locked, too, until the outcome is known."""
    with locking_only(lambda items: replace(items, conditions=())):
        yield


# --- the line for locks -------------------------------------------------------------------------


@instead_of(OnePhaseParticipant, "_serve", profile="lines-for-locks", seeds=(56,))
def waiter_not_looked_at_again(
    _original: object, self: OnePhaseParticipant, waiter: Waiter, step: Step
) -> Voted:
    """A waiter is executed only if it still may be: its tid may be settled by now."""
    sessions = self._state.sessions
    session = sessions.of(waiter.client, self._state.epoch)
    voted = self._execute(session, waiter.request, step)
    sessions.recount(session)
    return voted


@instead_of(OnePhaseParticipant, "serve_waiters", profile="lines-for-locks", seeds=(4, 1))
def waiter_served_under_the_lock(
    serve_waiters: Callable[..., None], self: OnePhaseParticipant, step: Step
) -> None:
    """A waiter is executed when no other minitransaction holds its locks any more."""
    with patch.object(one_phase, "is_locked", lambda _locks, _request: False):
        serve_waiters(self, step)


@mutation(profile="lines-for-locks", seeds=(3, 2, 1))
def last_come_first_served() -> Iterator[None]:
    """A waiter is served before those that came later and want the same bytes."""
    with patch.object(FairLine, "__iter__", lambda self: iter(tuple(self._line.values())[::-1])):
        yield


@mutation(profile="lines-for-locks", seeds=(1, 3, 2))
def waiters_left_standing() -> Iterator[None]:
    """A waiter is told BAD_LOCK when its time is over."""
    with patch.object(FairLine, "overdue", lambda _self, _now: []):
        yield


@mutation(profile="lines-for-locks", seeds=(1, 3, 2))
def second_copy_stands_in_line() -> Iterator[None]:
    """A second copy of a request that waits is not let into the line."""
    with patch.object(FairLine, "holds", lambda _self, _client, _counter: False):
        yield


@mutation(profile="lines-for-locks", seeds=(6,))
def line_outlives_its_memory_node() -> Iterator[None]:
    """A waiter does not outlive its memory node."""
    lines: dict[int, FairLine] = {}
    begin = Participant.__init__

    def broken(self: Participant, state: LiveParticipantState, **settings: object) -> None:
        begin(self, state, **settings)  # type: ignore[arg-type]  # whatever it takes
        line = lines.get(self.node)
        if line is not None:
            self.one_phase.lock_waits = line
        lines[self.node] = self.one_phase.lock_waits  # type: ignore[assignment]  # node_settings.py

    with patch.object(Participant, "__init__", broken):
        yield
