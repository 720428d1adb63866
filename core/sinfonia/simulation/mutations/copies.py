# ruff: noqa: SLF001 - what is broken here is private to its owner, and otherwise nobody's business
"""Broken on purpose: a copy of a memory node that changes, and what a restart may believe of it."""

from collections.abc import Iterator
from unittest.mock import patch

from sinfonia.memnode.replica import Replica
from sinfonia.protocol.replication.following import ApplyUpTo, Follower, FollowerEffect, Phase
from sinfonia.simulation.mutations.mutation import mutation
from sinfonia.storage.stable_storage import StableStorage, refound


@mutation(profile="replicas-copies-in-pieces", seed=14)
def copied_without_the_log_meanwhile() -> Iterator[None]:
    """Pages show any moment of the copy: what was logged since it began is applied to them."""
    carry_out = Replica._carry_out

    def broken(self: Replica, effects: list[FollowerEffect]) -> None:
        for effect in effects:
            if isinstance(effect, ApplyUpTo) and self.follower.phase is Phase.SAVING:
                with patch.object(self.member_state.participant_state, "apply", lambda _writes: 0):
                    carry_out(self, [effect])
            else:
                carry_out(self, [effect])

    with patch.object(Replica, "_carry_out", broken):
        yield


@mutation(profile="replicas-copies-in-pieces", seed=43)
def copied_without_resigning() -> Iterator[None]:
    """A replica gives up what it holds only when nobody counts on that any more."""
    copy = Follower._copy

    def broken(self: Follower, now: float) -> list[FollowerEffect]:
        self._expendable = True
        return copy(self, now)

    with patch.object(Follower, "_copy", broken):
        yield


@mutation(profile="replicas-copies-in-pieces")
def half_a_copy_taken_for_whole() -> Iterator[None]:
    """What a restart finds of a copy that was not completed is nothing."""

    def broken(*arguments: object, **named: object) -> StableStorage:
        storage = refound(*arguments, **named)  # type: ignore[arg-type]
        storage.complete()
        return storage

    with patch("sinfonia.memnode.member_state.refound", broken):
        yield
