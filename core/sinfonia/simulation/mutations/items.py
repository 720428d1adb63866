# ruff: noqa: SLF001 - what is broken here is private to its owner, and otherwise nobody's business
"""Broken on purpose: conditions, adds, appends, and the line for locks."""

from collections.abc import Iterator, Sequence
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
from sinfonia.simulation.mutations.mutation import mutation

# --- updates ------------------------------------------------------------------------------------


@mutation(profile="adds")
def add_executed_again() -> Iterator[None]:
    """An add that was executed is not executed again: it changes something, like a write."""

    def broken(self: OnePhaseParticipant, session: Session, request: ExecCommit) -> Voted | None:
        return self._votes.already(session, request.counter) if request.writes else None

    with patch.object(OnePhaseParticipant, "_refused", broken):
        yield


@mutation(profile="adds")
def answer_of_an_add_computed_again() -> Iterator[None]:
    """Who sends the tid of an add again is told what the add met, not what is there now."""
    refused = OnePhaseParticipant._refused

    def broken(self: OnePhaseParticipant, session: Session, request: ExecCommit) -> Voted | None:
        known = refused(self, session, request)
        if known is not None and known.vote is Vote.OK and request.updates:
            return evaluate(self._bytes, self._capacity, request.counter, request)[0]
        return known

    with patch.object(OnePhaseParticipant, "_refused", broken):
        yield


@mutation(profile="adds")
def answer_of_an_add_not_logged() -> Iterator[None]:
    """What an add met is in the log, for whoever asks another life of the memory node."""
    replay = LiveParticipantState.replay

    def broken(self: LiveParticipantState, record: records.Record) -> None:
        replay(self, record)
        if isinstance(record, records.OnePhase) and record.reads:
            outcomes = self.sessions.of(record.client, self.epoch)
            left = {len(each.data): each.data for each in record.writes}
            reads = [left.get(len(read), read) for read in record.reads]
            outcomes.outcomes[record.counter] = Voted(record.counter, Vote.OK, reads)

    with patch.object(LiveParticipantState, "replay", broken):
        yield


@mutation(profile="adds")
def add_taken_for_a_read() -> Iterator[None]:
    """A minitransaction with updates is not read-only, though it has no write items."""
    requests = attempts._requests

    def broken(
        minitransaction: Minitransaction[Any], tid: Tid
    ) -> tuple[dict[MemoryNodeId, Request], bool]:
        asked, _ = requests(minitransaction, tid)
        return asked, not any(items.writes for items in minitransaction.items.values())

    with patch.object(attempts, "_requests", broken):
        yield


@mutation(profile="adds")
def updates_not_locked() -> Iterator[None]:
    """What an update looks at is locked from the vote to the outcome."""
    with voting_with_locks_of(
        lambda items, request: replace(items, writes=request.writes, updates=())
    ):
        yield


@mutation(profile="small-rings")
def slot_not_locked() -> Iterator[None]:
    """The slot that an append leads to is locked until the outcome is known, like the header."""
    with voting_with_locks_of(
        lambda items, request: replace(items, writes=request.writes, updates=request.updates)
    ):
        yield


@mutation(profile="small-rings")
def full_ring_overwritten() -> Iterator[None]:
    """What was not trimmed is not overwritten: nothing is appended to a full ring."""

    class Endless(RingHeader):
        valid = property(lambda self: self.slots > 0)
        full = property(lambda _self: False)

    with patch.object(updates, "RingHeader", Endless):
        yield


@mutation(profile="small-rings")
def full_ring_passed_over() -> Iterator[None]:
    """If one ring is full nothing happens, not even what else the minitransaction was to do."""
    compute = updates.compute

    def broken(
        memory: Sliceable, capacity: int, writes: Sequence[WriteItem], items: Sequence[UpdateItem]
    ) -> Computed | None:
        computed = compute(memory, capacity, writes, items)
        if computed is None or not computed.full or len(items) == len(computed.full):
            return computed
        answers = iter(computed.answers)
        full = {position for position, _ in computed.full}
        padded = [bytes(8) if i in full else next(answers) for i in range(len(items))]
        return Computed(computed.writes, padded, [])

    with patch.object(execution, "compute", broken):
        yield


@mutation(profile="adds")
def updates_blind_to_writes() -> Iterator[None]:
    """Updates take effect after the write items of their minitransaction, and see them."""

    def broken(memory: Sliceable, start: int, end: int, writes: Sequence[WriteItem]) -> bytes:
        del writes
        return memory[start:end]

    with patch.object(updates, "_look", broken):
        yield


@mutation(profile="small-rings")
def updates_blind_to_each_other() -> Iterator[None]:
    """Of two updates of one minitransaction the later one sees what the earlier one did."""
    compute = updates.compute

    def broken(
        memory: Sliceable, capacity: int, writes: Sequence[WriteItem], items: Sequence[UpdateItem]
    ) -> Computed | None:
        whole = Computed(list(writes), [], [])
        for position, item in enumerate(items):
            alone = compute(memory, capacity, writes, [item])
            if alone is None:
                return None
            whole.writes.extend(alone.writes[len(writes) :])
            whole.answers.extend(alone.answers)
            whole.full.extend((position, header) for _, header in alone.full)
        return whole

    with patch.object(execution, "compute", broken):
        yield


# --- conditions ---------------------------------------------------------------------------------


@mutation()
def condition_ignored() -> Iterator[None]:
    """A minitransaction commits only if its conditions hold."""
    with patch.object(execution, "holds", lambda _condition, _found: True):
        yield


@mutation()
def less_taken_for_at_most() -> Iterator[None]:
    """What must be less may not be equal."""
    holds = updates.holds

    def broken(condition: ConditionItem, found: bytes) -> bool:
        if condition.relation is Relation.LESS:
            condition = msgspec.structs.replace(condition, relation=Relation.AT_MOST)
        return holds(condition, found)

    with patch.object(execution, "holds", broken):
        yield


@mutation()
def mask_ignored() -> Iterator[None]:
    """Of what a condition looks at only the bits of its mask count."""
    holds = updates.holds

    def broken(condition: ConditionItem, found: bytes) -> bool:
        return holds(msgspec.structs.replace(condition, mask=b""), found)

    with patch.object(execution, "holds", broken):
        yield


@mutation(seed=90)
def conditions_not_locked() -> Iterator[None]:
    """What a condition looked at is locked, too, until the outcome is known."""
    with locking_only(lambda items: replace(items, conditions=())):
        yield


# --- the line for locks -------------------------------------------------------------------------


@mutation(profile="lines-for-locks")
def waiter_not_looked_at_again() -> Iterator[None]:
    """Who has waited is executed only if it still may be: its tid may be settled by now."""

    def broken(self: OnePhaseParticipant, waiter: Waiter, step: Step) -> Voted:
        sessions = self._state.sessions
        session = sessions.of(waiter.client, self._state.epoch)
        voted = self._execute(session, waiter.request, step)
        sessions.recount(session)
        return voted

    with patch.object(OnePhaseParticipant, "_serve", broken):
        yield


@mutation(profile="lines-for-locks")
def waiter_served_under_the_lock() -> Iterator[None]:
    """Who waits for a lock is executed when nobody holds it any more."""
    serve_waiters = OnePhaseParticipant.serve_waiters

    def broken(self: OnePhaseParticipant, step: Step) -> None:
        with patch.object(one_phase, "is_locked", lambda _locks, _request: False):
            serve_waiters(self, step)

    with patch.object(OnePhaseParticipant, "serve_waiters", broken):
        yield


@mutation(profile="lines-for-locks")
def last_come_first_served() -> Iterator[None]:
    """Who waits for a lock is served before those that came later."""
    with patch.object(FairLine, "__iter__", lambda self: iter(tuple(self._line.values())[::-1])):
        yield


@mutation(profile="lines-for-locks")
def waiters_left_standing() -> Iterator[None]:
    """Who waits for a lock is told BAD_LOCK when its time is over."""
    with patch.object(FairLine, "overdue", lambda _self, _now: []):
        yield


@mutation(profile="lines-for-locks")
def second_copy_stands_in_line() -> Iterator[None]:
    """A second copy of a request that waits is not let into the line."""
    with patch.object(FairLine, "holds", lambda _self, _client, _counter: False):
        yield


@mutation(profile="lines-for-locks")
def line_outlives_its_memory_node() -> Iterator[None]:
    """Who waits for a lock of a memory node that dies waits no longer."""
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
