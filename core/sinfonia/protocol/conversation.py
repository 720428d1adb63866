"""An unanswered request is sent to a memory node again when it is lost, and not while it may wait.

This is what a coordinator knows of one memory node.  Why a request has no answer decides when it is
sent again:

- it was lost with its connection: the memory node has answered what was sent later, or nothing at
  all for RESEND_AFTER;
- the memory node refused the batch, or there was no connection to it: everything is sent again a
  little later;
- the memory node is full and turned this one request away: only such requests are sent again.
"""

import math
from typing import NamedTuple

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.attempts import Attempt

# A reply that has not come by now was probably lost with its connection.  Sending again early costs
# a duplicate that the memory node answers from its session.
RESEND_AFTER = 0.25

# A memory node that refused a request, or could not be reached, is asked again so soon.
NOT_SERVING_RETRY = 0.05

# While a connection comes up, which takes a round trip or two, it is tried so soon, and then after
# twice as long, and so on.
CONNECT_RETRY = 0.002


class Overdue(NamedTuple):
    """An attempt that is to be looked at: its deadline has passed, or it was sent by ``lost_by``.

    ``silent``: the memory node did not even refuse it.
    """

    attempt: Attempt
    lost_by: float
    silent: bool


class Conversation:
    """One memory node, as one coordinator knows it; times are monotonic seconds.

    ``waiting`` holds what the memory node has not answered, by counter and so in order: the first
    is the floor there, and an answer in hand is never asked for again.
    """

    __slots__ = (
        "_answered_at",
        "_answered_sent_at",
        "_ask_again_at",
        "_connect_retry",
        "_full_until",
        "_told",
        "node",
        "waiting",
    )

    def __init__(self, node: MemoryNodeId) -> None:
        self.node = node
        self.waiting: dict[int, Attempt] = {}
        # When the memory node answered last, and the latest sending of what it has answered.
        self._answered_at = self._answered_sent_at = -math.inf
        # When to send everything again; infinity: the memory node has refused nothing.
        self._ask_again_at = math.inf
        # When to send again what was turned away; infinity: nothing was.
        self._full_until = math.inf
        # After how long to look again for a connection; see ``connecting``.
        self._connect_retry = CONNECT_RETRY
        # A life of the memory node, and the highest generation that it has told (sessions.py).
        self._told = (0, 0)

    # --- what the coordinator asks -------------------------------------------------------------

    def floor(self, next_counter: int) -> int:
        """The lowest counter that the memory node may still be asked to execute."""
        return next(iter(self.waiting), next_counter)

    def generation(self, incarnation: int) -> int:
        """The highest generation that this life of the memory node has told."""
        life, told = self._told
        return told if life == incarnation else 0

    @property
    def has_answered(self) -> bool:
        """Whether the memory node has ever answered a request, and so may remember this client."""
        return self._answered_at > -math.inf

    @property
    def connecting(self) -> bool:
        """Whether a connection may just be coming up, so that its absence means nothing."""
        return self._connect_retry < NOT_SERVING_RETRY

    def overdue(self, now: float) -> list[Overdue]:
        """What to ask again or to give up now."""
        lost_by, silent = self._lost_by(now), True
        earlier = math.nextafter(now, -math.inf)
        has_room = self._full_until <= now
        if has_room:
            self._full_until = math.inf
        if self._ask_again_at <= now:
            self._ask_again_at = math.inf
            # A connection has had its time to come up: look half as often, down to the usual rate.
            self._connect_retry = min(2 * self._connect_retry, NOT_SERVING_RETRY)
            lost_by, silent = earlier, False
        overdue = []
        # There may be tens of thousands, most of which are neither late nor lost.
        for attempt in self.waiting.values():
            if attempt.sent_at <= lost_by or attempt.deadline <= now:
                overdue.append(Overdue(attempt, lost_by, silent))
            elif has_room and attempt.is_untouched(self.node):
                overdue.append(Overdue(attempt, earlier, silent=False))
        return overdue

    def _lost_by(self, now: float) -> float:
        """Requests that were sent until then, and are not answered, are probably lost.

        A memory node that has much to do answers late, but in order: while it answers, only what
        was overtaken is lost.  To send more again would keep it from the rest.
        """
        late = now - RESEND_AFTER
        if self._answered_at <= late:
            return late
        return min(late, math.nextafter(self._answered_sent_at, -math.inf))

    # --- what happens --------------------------------------------------------------------------

    def on_answer(self, attempt: Attempt, now: float) -> None:
        """The memory node has answered ``attempt``."""
        self._answered_at = now
        if attempt.sent_at > self._answered_sent_at:
            self._answered_sent_at = attempt.sent_at

    def on_generation(self, incarnation: int, generation: int) -> bool:
        """The memory node tells a generation.

        Whether a batch that is sent now may be admitted where the last one was not.
        """
        told = (incarnation, generation)
        if told <= self._told:
            return False
        self._told = told
        return True

    def on_refused(self, now: float) -> None:
        """The memory node refused a batch."""
        if self._ask_again_at == math.inf:
            self._ask_again_at = now + NOT_SERVING_RETRY

    def on_turned_away(self, now: float) -> None:
        """The memory node is full and turned a request away."""
        if self._full_until == math.inf:
            self._full_until = now + NOT_SERVING_RETRY

    def on_no_connection(self, now: float) -> float:
        """A batch could not leave; when to try again, or infinity if that was planned before."""
        if self._ask_again_at < math.inf:
            return math.inf
        self._ask_again_at = now + self._connect_retry
        return self._ask_again_at

    def on_new_life(self) -> None:
        """The memory node begins another life, perhaps at a place that is not connected yet."""
        self._connect_retry = CONNECT_RETRY
        self._ask_again_at = self._full_until = math.inf

    def check_invariants(self) -> None:
        """Everything that waits was asked here, is not answered, and stands in order."""
        assert list(self.waiting) == sorted(self.waiting)
        for counter, attempt in self.waiting.items():
            assert attempt.tid.counter == counter
            assert self.node in attempt.requests, "it was asked elsewhere"
            assert self.node not in attempt.votes, "an answer in hand is waited for"
        assert CONNECT_RETRY <= self._connect_retry <= NOT_SERVING_RETRY
        assert self._answered_sent_at <= self._answered_at
