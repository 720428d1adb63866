# ruff: noqa: SLF001 - what is broken here is private to its owner
"""Locks with some left out, for the mutations whose rule is that those are held."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import msgspec

from sinfonia.minitransaction import CompareItem, ConditionItem, ReadItem, UpdateItem, WriteItem
from sinfonia.protocol import two_phase
from sinfonia.protocol.effects import Step
from sinfonia.protocol.locks import lock_ranges
from sinfonia.protocol.messages import ExecPrepare, Voted
from sinfonia.protocol.participant_state import LiveParticipantState
from sinfonia.protocol.records import LockRange, Prepared
from sinfonia.protocol.sessions import Session
from sinfonia.protocol.two_phase import TwoPhaseParticipant


@dataclass(frozen=True, slots=True)
class Items:
    """What a participant makes the locks of one minitransaction from; see ``lock_ranges``."""

    compares: Iterable[CompareItem]
    reads: Iterable[ReadItem]
    writes: Iterable[WriteItem]
    conditions: Iterable[ConditionItem] = ()
    updates: Iterable[UpdateItem] = ()

    def ranges(self) -> list[LockRange]:
        """The locks that these items need."""
        return lock_ranges(self.compares, self.reads, self.writes, self.conditions, self.updates)


@contextmanager
def locking_only(choose: Callable[[Items], Items]) -> Iterator[None]:
    """Participants lock what ``choose`` makes of the items, in place of all of them."""

    def broken(
        compares: Iterable[CompareItem],
        reads: Iterable[ReadItem],
        writes: Iterable[WriteItem],
        conditions: Iterable[ConditionItem] = (),
        updates: Iterable[UpdateItem] = (),
    ) -> list[LockRange]:
        return choose(Items(compares, reads, writes, conditions, updates)).ranges()

    with patch.object(two_phase, "lock_ranges", broken):
        yield


@contextmanager
def voting_with_locks_of(choose: Callable[[Items, ExecPrepare], Items]) -> Iterator[None]:
    """As ``locking_only``, for votes alone; ``choose`` is given the request, too."""
    vote = TwoPhaseParticipant._vote

    def broken(
        self: TwoPhaseParticipant, session: Session, request: ExecPrepare, step: Step
    ) -> Voted:
        with locking_only(lambda items: choose(items, request)):
            return vote(self, session, request, step)

    with patch.object(TwoPhaseParticipant, "_vote", broken):
        yield


@contextmanager
def replaying_only(is_kept: Callable[[LockRange], bool]) -> Iterator[None]:
    """A log that is replayed restores, of what is in doubt, only locks that are kept."""
    replay_prepared = LiveParticipantState._replay_prepared

    def broken(self: LiveParticipantState, prepared: Prepared) -> None:
        kept = [each for each in prepared.ranges if is_kept(each)]
        replay_prepared(self, msgspec.structs.replace(prepared, ranges=kept))

    with patch.object(LiveParticipantState, "_replay_prepared", broken):
        yield
