"""A reply leaves only when everything it rests on is stable, here and at every in-sync replica.

A wake-up carries out the steps of many batches and then flushes once: all records share one block,
one sync and one message to each replica.  That message is sent before the sync, so that both go on
at the same time.  Records that may be logged lazily wait for such a sync, at most LAZY_SYNC_MAX.

With replicas, the replies of a wake-up become a *ticket*: the last record that they can rest on,
and when they were computed.  Tickets leave in order, when ``Shipping.may_leave`` says so.

While a replica catches up, answers to clients that wrote are *held back* for its sake when they
might leave, as long as pacing.py says.  To one client answers leave in order: the answer to a
request that it has repeated does not overtake them.  Clients that only read are answered meanwhile.
No other answer waits for those held back: all that these say is stable wherever it has to be.
"""

import math
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from sinfonia.memnode.hybrid_clock import HybridClock
from sinfonia.protocol.effects import Step
from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.messages import Reply
from sinfonia.protocol.records import Stamp
from sinfonia.protocol.replication.pacing import PACE_MAX
from sinfonia.protocol.replication.shipping import Shipping
from sinfonia.storage.journal import Journal

# Acknowledgements of COMMIT wait so long for a sync that is needed anyway.
LAZY_SYNC_MAX = 0.005

# Records that no reply waits for are made stable, and sent to replicas, after this time at the
# latest.
IDLE_SYNC_MAX = 0.1

# Wake-ups whose replies may wait for replicas.  Beyond that, while no replica acknowledges, replies
# are dropped, as if they had been lost; clients repeat their requests.
TICKETS_MAX = 10_000

SendReplies = Callable[[bytes, list[Reply]], None]


class Ticket(NamedTuple):
    """Replies that wait for replicas; to ``writers`` it answers what added ``size`` to the log."""

    seq: Seq
    executed_at: float
    replies: dict[bytes, list[Reply]]
    writers: set[bytes]
    size: int


class HeldBack(NamedTuple):
    """Answers to writers that are paced; they leave by ``until`` at the latest."""

    until: float
    replies: dict[bytes, list[Reply]]
    size: int


class GroupCommit:
    """What one primary has computed and not yet sent.  Times are monotonic seconds."""

    def __init__(
        self,
        journal: Journal | None,
        *,
        shipping: Shipping | None,
        clock: HybridClock,
        send: SendReplies,
    ) -> None:
        """``journal`` None: nothing is logged.  ``shipping`` None: there can be no replicas."""
        self.journal = journal
        self.shipping = shipping
        self.syncs = 0
        self.logged_bytes = 0
        self._clock = clock
        self._send = send
        self._ready: dict[bytes, list[Reply]] = {}
        self._held: list[tuple[bytes, list[Reply]]] = []
        self._held_since = 0.0
        self._lazy = False  # whether something was logged, or is held, that waits for any sync
        self._lazy_since = 0.0
        self._must_sync = False
        self._stamped = 0  # the last Stamp of this life
        self._tickets: deque[Ticket] = deque()
        self._released_at = -math.inf  # the newest ticket that left was computed then
        self._inherited = 0 if shipping is None else shipping.last
        self.paced_seconds = 0.0  # for how long writers were held up
        self._writers: set[bytes] = set()
        self._answered_bytes = 0  # of what was logged
        self._held_back: deque[HeldBack] = deque()
        self._held_routes: Counter[bytes] = Counter()  # how many of those answer it
        self._paced_at = 0.0  # when ``paced_seconds`` was counted last

    def carry_out(self, step: Step) -> None:
        """Do what a participant asks for; replies come out of ``flush``."""
        if step.records:
            journal = self.journal
            assert journal is not None
            for record in step.records:
                journal.append(record)
            if step.must_sync:
                self._must_sync = True
                self._writers.add(step.route)
            elif not self._lazy:
                self._lazy, self._lazy_since = True, step.now
        if step.replies:
            waiting = self._ready.setdefault(step.route, step.replies)
            if waiting is not step.replies:
                waiting += step.replies
        if step.once_stable:
            self._hold(step)
        for route, reply in step.elsewhere:
            self._ready.setdefault(route, []).append(reply)

    def _hold(self, step: Step) -> None:
        """Its replies ``once_stable`` wait for the next sync."""
        if self.journal is None:
            self._ready.setdefault(step.route, []).extend(step.once_stable)
            return
        if not self._held:
            self._lazy, self._held_since = True, step.now
        self._held.append((step.route, step.once_stable))

    def flush(self, now: float) -> None:
        """Sync what must be stable, and send what may leave.  Raises StorageError."""
        if self._must_sync or (self._lazy and now >= self._sync_by()):
            self.sync(now)
        ready = self._ready
        shipping = self.shipping
        if shipping is None:
            if ready:
                self._ready = {}
                self._writers.clear()
                for route, replies in ready.items():
                    self._send(route, replies)
            return
        if ready:
            self._ready = {}
            if len(self._tickets) + len(self._held_back) < TICKETS_MAX:
                size = self.logged_bytes - self._answered_bytes
                self._answered_bytes = self.logged_bytes
                ticket = Ticket(
                    seq=shipping.last,
                    executed_at=now,
                    replies=ready,
                    writers=self._writers,
                    size=size,
                )
                self._tickets.append(ticket)
            self._writers = set()
        if self._held_back:
            self._let_go(shipping, now)
        if self._tickets:
            self._release(shipping, now)

    def stamp_after(self, reading: int, now: float) -> None:
        """Log a Stamp later than ``reading``, unless there is one.

        None can be if this clock does not follow ``reading``.  Raises StorageError.
        """
        if self._stamped <= reading and self._clock.goes_beyond(reading):
            self.sync(now, stamp=True)

    def sync(self, now: float, *, stamp: bool = False) -> None:
        """Make everything logged stable; the replies that waited for that become ready.

        ``stamp``: there is to be a Stamp even if nothing was logged.
        """
        journal = self.journal
        assert journal is not None
        if journal.dirty or stamp:
            self._stamped = self._clock.stamp()
            journal.append(Stamp(self._stamped))
        batch = journal.gather()
        if batch is not None:
            self.logged_bytes += len(batch.body)
            if self.shipping is not None:
                for route, append in self.shipping.ship(batch, now):
                    self._send(route, [append])
        journal.sync()
        self.syncs += 1
        self._must_sync = False
        self._lazy = False
        if self.shipping is not None:
            self.shipping.on_stable(journal.stable)
        for route, replies in self._held:
            self._ready.setdefault(route, []).extend(replies)
        self._held.clear()

    def end_logging(self, now: float) -> None:
        """Log no more, once all that was logged is stable.  Raises StorageError."""
        if self._must_sync or self._lazy:
            self.sync(now)
        self.journal = None

    def next_wakeup(self) -> float | None:
        """When ``flush`` must be called next; None: not before a message comes."""
        sync_by = self._sync_by() if self._lazy else math.inf
        let_go_by = self._held_back[0].until if self._held_back else math.inf
        soonest = min(sync_by, let_go_by)
        return None if soonest == math.inf else soonest

    @property
    def stable_before(self) -> float:
        """After ``flush``: votes given before this moment are stable wherever they have to be."""
        shipping = self.shipping
        if shipping is None:
            return math.inf
        if shipping.committed < self._inherited:
            return -math.inf
        return self._released_at if self._tickets else math.inf

    @property
    def waiting(self) -> int:
        """Wake-ups whose replies wait for replicas."""
        return len(self._tickets)

    def _sync_by(self) -> float:
        """When what was logged lazily must be stable."""
        if self._held:
            return self._held_since + LAZY_SYNC_MAX
        return self._lazy_since + IDLE_SYNC_MAX

    def _release(self, shipping: Shipping, now: float) -> None:
        tickets = self._tickets
        while tickets and shipping.may_leave(tickets[0].seq, tickets[0].executed_at, now):
            ticket = tickets.popleft()
            self._released_at = ticket.executed_at
            if self._held_back or (shipping.pacing.copiers and ticket.writers):
                self._pace(shipping, ticket, now)
            for route, replies in ticket.replies.items():
                self._send(route, replies)
        if tickets:
            for route, append in shipping.ask_for_lease(tickets[-1].executed_at, now):
                self._send(route, [append])

    def _pace(self, shipping: Shipping, ticket: Ticket, now: float) -> None:
        """Take the replies that are held back out of ``ticket``."""
        pacing = shipping.pacing
        if not self._held_back:
            if pacing.may_go_on(now, shipping.is_paced_for):
                pacing.spend(ticket.size)
                return
            self._paced_at = now
        replies, waiting = ticket.replies, self._held_routes
        held = {
            route: replies.pop(route)
            for route in list(replies)
            if route in ticket.writers or route in waiting
        }
        if held:
            self._held_back.append(HeldBack(now + PACE_MAX, held, ticket.size))
            waiting.update(held.keys())

    def _let_go(self, shipping: Shipping, now: float) -> None:
        """Answer the writers that need not wait any longer, in order."""
        pacing, held_back = shipping.pacing, self._held_back
        self.paced_seconds += now - self._paced_at
        self._paced_at = now
        while held_back and (
            now >= held_back[0].until or pacing.may_go_on(now, shipping.is_paced_for)
        ):
            held = held_back.popleft()
            pacing.spend(held.size)
            for route, replies in held.replies.items():
                self._held_routes[route] -= 1
                if not self._held_routes[route]:
                    del self._held_routes[route]
                self._send(route, replies)

    def check_invariants(self) -> None:
        """What holds after ``flush``."""
        assert not self._must_sync, "flush was not called"
        if self.shipping is not None:
            self.shipping.check_invariants()
