"""Broken on purpose: a copy of a memory node that changes, and what a restart may believe of it."""

from collections.abc import Callable, Iterator
from unittest.mock import patch

from sinfonia.memnode.replica import Replica
from sinfonia.protocol.replication.following import ApplyUpTo, Follower, FollowerEffect, Phase
from sinfonia.simulation.mutations.mutation import instead_of, mutation
from sinfonia.storage.stable_storage import StableStorage, refound


@instead_of(Replica, "_carry_out", profile="replicas-copies-in-pieces", seeds=(19, 20))
def copied_without_the_log_meanwhile(
    carry_out: Callable[..., None], self: Replica, effects: list[FollowerEffect]
) -> None:
    """Pages show any moment of the copy: what was logged since it began is applied to them."""
    for effect in effects:
        if isinstance(effect, ApplyUpTo) and self.follower.phase is Phase.SAVING:
            with patch.object(self.member_state.participant_state, "apply", lambda _writes: 0):
                carry_out(self, [effect])
        else:
            carry_out(self, [effect])


@instead_of(Follower, "_copy", profile="replicas-copies-in-pieces", seeds=(122,))
def copied_without_resigning(
    copy: Callable[..., list[FollowerEffect]], self: Follower, now: float
) -> list[FollowerEffect]:
    """A replica gives up what it holds only when no configuration counts on that any more."""
    self._expendable = True
    return copy(self, now)


@mutation(profile="replicas-copies-in-pieces", seeds=(3, 2, 1))
def half_a_copy_taken_for_whole() -> Iterator[None]:
    """What a restart finds of a copy that was not completed is nothing."""

    def broken(*arguments: object, **named: object) -> StableStorage:
        storage = refound(*arguments, **named)  # type: ignore[arg-type]
        storage.complete()
        return storage

    with patch("sinfonia.memnode.member_state.refound", broken):
        yield
