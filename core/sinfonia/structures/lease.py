"""A lease says which client may act, and the storage, not the clock, refuses a former holder.

Each change of hands moves the *fence* on.  What is done under a lease compares the fence in the
same minitransaction, so that a holder that was stopped in the middle of its work, and goes on when
the lease has passed to another, changes nothing any more.  That needs no clock at all.

Clocks serve only to take a lease from a holder that is gone.  A contender needs its own clock only,
and of it only that pauses are not shorter than asked: it has seen the lease held by the same
holder, with the same number of renewals, for longer than the lease's duration.  A lease that no
other client wants goes on, renewed or not.

The layout is in lease_layout.py.
"""

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Never

from sinfonia.client.steps import Steps, minitransaction, pause, wait_for_change
from sinfonia.errors import LimitExceeded, NotExecuted, OutcomeUnknown
from sinfonia.minitransaction import UPDATES_MAX, Minitransaction
from sinfonia.structures.errors import LeaseLost
from sinfonia.structures.guards import Guard
from sinfonia.structures.lease_layout import (
    DURATION_OFFSET,
    DURATION_S_MAX,
    DURATION_S_MIN,
    RENEWALS_OFFSET,
    STATE_BYTES,
    WAITING_OFFSET,
    Claim,
    LeaseState,
    Patience,
)
from sinfonia.structures.settling import execute_until_known

_FENCE = struct.Struct("<Q")

# How often a contender looks, on average, where it gets no hint that there is something to see.
POLL_S = 0.1

# The first hint only says that the watch is armed; after more that led to nothing it is a pause.
VAIN_HINTS_MAX = 2

# A contender announces itself with one add item for each lease.
LEASES_TOGETHER_MAX = UPDATES_MAX

# A holder that renews so many times in a duration may miss one renewal.
RENEWALS_PER_DURATION = 3


@dataclass(frozen=True, slots=True)
class Lease:
    """LEASE_BYTES bytes at ``address`` of ``node``."""

    node: int
    address: int

    def look(self) -> Steps[LeaseState]:
        """Its state: the holder, the fence, the duration."""
        [state] = yield from look_at([self], announced=[])
        return state

    def acquire(self, claim: Claim, duration: float) -> Steps["Held"]:
        """Wait until it is free, or its holder has been silent for too long, and take it.

        ``duration`` (seconds) is how long silence is too long then.  A client that has the lease
        already by the same claim gets it again.  Raises LimitExceeded; TimedOut (definite) at the
        deadline of the whole operation; OutcomeUnknown: acquire again with the same claim to know,
        or leave it: what is not renewed ends.
        """
        [held] = yield from acquire_all([self], claim, duration)
        return held

    def try_acquire(self, claim: Claim, duration: float) -> Steps["Held | None"]:
        """Take it if it is free now; None if it is held.  Raises as ``acquire``."""
        state = yield from self.look()
        while state.is_free:
            taken = yield from take_over([self], [state], claim, duration)
            if taken is not None:
                return taken[0]
            state = yield from self.look()
        return Held(self, claim, state.fence, state.duration) if state.belongs_to(claim) else None

    def check(self, t: Minitransaction[Any], fence: int) -> Guard:
        """Have ``t`` refused unless the lease is still held as when it had this ``fence``."""
        return Guard([t.compare(self.node, self.address, _FENCE.pack(fence))])


@dataclass(frozen=True, slots=True)
class Held:
    """A lease as its holder knows it: true until the storage says otherwise.

    A program whose effects are not in the storage may believe in it for ``duration`` seconds on its
    own clock, counted from just before it called ``acquire`` or ``renew``.
    """

    lease: Lease
    claim: Claim
    fence: int
    duration: float

    def check(self, t: Minitransaction[Any]) -> Guard:
        """Have ``t`` refused unless the lease is still held as it is now."""
        return self.lease.check(t, self.fence)

    def renew(self) -> Steps[None]:
        """Show that the holder is alive.  Raises LeaseLost, and what ``Cluster.execute`` raises."""
        t = minitransaction()
        self.check(t)
        t.add(self.lease.node, self.lease.address + RENEWALS_OFFSET, 1)
        # Twice is as good as once here: both are signs of life.
        result = yield from execute_until_known(t)
        if not result.committed:
            raise LeaseLost(
                f"the lease at {self.lease.address} of memory node {self.lease.node} "
                f"has passed on from fence {self.fence}"
            )

    def keep(self) -> Steps[Never]:
        """Renew it until it is lost, to be run beside the work.  Raises LeaseLost.

        A memory node that is away is waited for: as long as it is, no other client gets the lease.
        """
        while True:
            yield from pause(self.duration / RENEWALS_PER_DURATION)
            try:
                yield from self.renew()
            except (NotExecuted, OutcomeUnknown):
                continue

    def release(self) -> Steps[None]:
        """Give it up; nothing that was guarded by it takes effect after this.

        A lease that was lost is none to give up, and that is no error.  Raises what
        ``Cluster.execute`` raises; if it is OutcomeUnknown, release again.
        """
        t = minitransaction()
        self.check(t)
        place = self.lease.address
        t.write(self.lease.node, place, _FENCE.pack(self.fence + 1))
        t.write(self.lease.node, place + DURATION_OFFSET, bytes(4))
        yield from execute_until_known(t)


def acquire_all(leases: Sequence[Lease], claim: Claim, duration: float) -> Steps[tuple[Held, ...]]:
    """Take all of ``leases``, on any memory nodes, at one moment (section 3.3, example 5).

    None is held while others are waited for, so that there is no deadlock.  Arguments and errors as
    ``Lease.acquire``.
    """
    if not 0 < len(leases) <= LEASES_TOGETHER_MAX or len(set(leases)) < len(leases):
        raise LimitExceeded(f"from 1 to {LEASES_TOGETHER_MAX} different leases go together")
    contest = _Contest(leases, claim)
    while True:
        states = yield from look_at(leases, announced=contest.announced())
        if all(state.belongs_to(claim) for state in states):
            return _all_held(leases, states, claim)
        blocked = contest.blocked(states)
        if blocked is not None:
            yield from contest.wait(*blocked)
        elif contest.yields_to_others(states):
            yield from pause(2 * POLL_S)
        else:
            taken = yield from take_over(leases, states, claim, duration)
            if taken is not None:
                return taken


class _Contest:
    """One claim's waiting for leases that others hold."""

    def __init__(self, leases: Sequence[Lease], claim: Claim) -> None:
        self._claim = claim
        self._patience = {lease: Patience() for lease in leases}
        self._chance = random.Random(claim.holder + claim.attempt.to_bytes(8, "little"))
        self._polite = True
        self._vain_hints = 0

    def announced(self) -> list[Lease]:
        """Leases whose holders are to hear that a contender waits."""
        return [lease for lease, each in self._patience.items() if each.announce()]

    def blocked(self, states: Sequence[LeaseState]) -> tuple[Lease, float] | None:
        """The lease that must be left alone for longest, and how long; None: all can be had."""
        missing = [
            (0.0 if state.belongs_to(self._claim) else each.missing(state), lease)
            for (lease, each), state in zip(self._patience.items(), states, strict=True)
        ]
        seconds, lease = max(missing, key=lambda each: each[0])
        return (lease, seconds) if seconds > 0 else None

    def yields_to_others(self, states: Sequence[LeaseState]) -> bool:
        """Whether to let others look first, once: those that wait, if this one had it last."""
        polite, self._polite = self._polite, False
        return polite and any(
            state.is_free and state.waiting > 0 and state.holder == self._claim.holder
            for state in states
        )

    def wait(self, lease: Lease, seconds: float) -> Steps[None]:
        """Wait for a change, and not too long, for hints may be lost."""
        poll = min(seconds, POLL_S * self._chance.uniform(0.5, 1.5))
        if self._vain_hints < VAIN_HINTS_MAX:
            changed = yield from wait_for_change(lease.node, lease.address, _FENCE.size, poll)
        else:
            # A wait that is cut short proves nothing of how long a holder has been silent.
            changed = False
            yield from pause(poll)
        self._vain_hints = self._vain_hints + 1 if changed else 0
        if not changed:
            for each in self._patience.values():
                each.waited += poll


def look_at(leases: Sequence[Lease], announced: Sequence[Lease]) -> Steps[list[LeaseState]]:
    """All states at one moment; a contender's presence is noted in those ``announced``."""
    t = minitransaction()
    for lease in leases:
        t.read(lease.node, lease.address, STATE_BYTES)
    for lease in announced:
        t.add(lease.node, lease.address + WAITING_OFFSET, 1, width=4)
    result = yield from execute_until_known(t)
    return [LeaseState.decode(data) for data in result.reads]


def take_over(
    leases: Sequence[Lease], states: Sequence[LeaseState], claim: Claim, duration: float
) -> Steps[tuple[Held, ...] | None]:
    """Take over from ``states``; None if one of them has changed, perhaps to the claim's favour."""
    if not DURATION_S_MIN <= duration <= DURATION_S_MAX:
        raise LimitExceeded(
            f"a lease of {duration} s; it lasts from {DURATION_S_MIN} to {DURATION_S_MAX} s"
        )
    t = minitransaction()
    taken = []
    for lease, state in zip(leases, states, strict=True):
        new = LeaseState(state.fence + 1, state.renewals, claim.holder, claim.attempt, duration)
        t.compare(lease.node, lease.address, state.mark)
        t.write(lease.node, lease.address, new.encode())
        taken.append(new)
    result = yield from execute_until_known(t)
    return _all_held(leases, taken, claim) if result.committed else None


def _all_held(
    leases: Sequence[Lease], states: Sequence[LeaseState], claim: Claim
) -> tuple[Held, ...]:
    pairs = zip(leases, states, strict=True)
    return tuple(Held(lease, claim, state.fence, state.duration) for lease, state in pairs)
