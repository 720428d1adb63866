"""A reader that reads after each hint, and after its watch was armed, misses nothing.

This is the client's half of watches.py.  A watch is asked for until the memory node has answered,
then renewed well within the lease, and armed again where the memory node begins a new life.  Every
answer and every hint names a moment of that life; a pair (life, moment) later than the one known
means that the range may have changed, and raises the watch's ``version``:

- the first answer, for what was written before it went unwatched;
- so the first answer of every new life, and of every arming after the lease was lost;
- a hint, or the answer to a renewal if the hint was lost.

So a reader that notes the version, reads, and waits for another version sees every value that
stays, at the latest when the watch is renewed.  That the version grew does not mean that the bytes
changed.

All is asked in Watch requests that may be lost; nothing of it is in the coordinator's floor, and
no client is kept from closing by it.
"""

import math
from typing import Any

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import LimitExceeded, Refused
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.messages import Hints, Unwatch, Watch, WatchRange
from sinfonia.protocol.watches import (
    WATCHES_PER_CLIENT_MAX,
    WATCHES_PER_REQUEST_MAX,
)

# A watch is renewed so often (seconds): a few renewals may be lost before the lease is, and what a
# lost hint would have told is known so late.
WATCH_RENEW = 5.0

# A Watch that was not answered is sent again so late; and so soon if it could not be sent, or the
# memory node did not serve yet.
ASK_AGAIN = 0.5
ASK_SOON = 0.05


class Watched:
    """One watch of this client.

    ``version`` grows whenever the range may have changed; it is 0 until the watch is armed.
    ``waiter`` is the driver's: the task to be woken then.
    """

    __slots__ = ("_moment", "at", "due", "node", "refused", "version", "waiter")

    def __init__(self, node: MemoryNodeId, at: WatchRange) -> None:
        self.node = node
        self.at = at
        self.version = 0
        self.refused = False
        self.due = math.inf
        self.waiter: Any = None
        self._moment = (-1, -1)

    def note(self, moment: tuple[int, int]) -> bool:
        """Something was said of it at ``moment``: (life, moment of that life); whether it is news.

        What is old came late, or twice.
        """
        if moment <= self._moment:
            return False
        self._moment = moment
        self.version += 1
        return True

    def refusal(self) -> Refused:
        """The error for a caller that waits for a watch that the memory node would not take."""
        return Refused(
            f"memory node {self.node} takes no watch of {self.at.length} bytes at "
            f"{self.at.address}: it has as many watches as it can bear, or fewer bytes than that; "
            "end watches that are not needed, or read from time to time instead"
        )


class Watching:
    """The watches of one application node; times are monotonic seconds.

    Those that may have changed, or were refused, turn up in ``news``, by number; the driver empties
    it.
    """

    def __init__(self) -> None:
        self.news: dict[int, Watched] = {}
        self._next_number = 1
        self._at: dict[MemoryNodeId, dict[int, Watched]] = {}
        # Each in the order of ``due``: unanswered ones to be asked again, the others to be renewed.
        self._asked: dict[int, Watched] = {}
        self._armed: dict[int, Watched] = {}
        # Memory nodes that could not be asked, and when they should be.
        self._soon: dict[MemoryNodeId, float] = {}

    def __len__(self) -> int:
        return len(self._asked) + len(self._armed)

    # --- what the driver asks ------------------------------------------------------------------

    def watch(
        self, node: MemoryNodeId, address: int, length: int, now: float
    ) -> tuple[Watched, list[SendTo]]:
        """Begin to watch a range that ``node`` has.  Raises LimitExceeded (definite)."""
        here = self._at.setdefault(node, {})
        if len(here) >= WATCHES_PER_CLIENT_MAX:
            raise LimitExceeded(
                f"a client has at most {WATCHES_PER_CLIENT_MAX} watches at a memory node; "
                "end some, or watch larger ranges"
            )
        at = WatchRange(self._next_number, address, length)
        self._next_number += 1
        here[at.number] = watched = Watched(node, at)
        return watched, self._ask([watched], now)

    def unwatch(self, watched: Watched) -> list[SendTo]:
        """End a watch; it is no news any more."""
        number = watched.at.number
        here = self._at.get(watched.node, {})
        if here.pop(number, None) is None:
            return []
        self._asked.pop(number, None)
        self._armed.pop(number, None)
        self.news.pop(number, None)
        watched.waiter = None
        if not here:
            del self._at[watched.node]
        return [SendTo(watched.node, Unwatch([number]))]

    def unwatch_all(self) -> list[SendTo]:
        """End every watch."""
        watches = [each for here in self._at.values() for each in here.values()]
        return [send for watched in watches for send in self.unwatch(watched)]

    def next_wakeup(self) -> float | None:
        """When ``on_tick`` must be called next; None: not before the next event."""
        due = min(self._soon.values(), default=math.inf)
        for waiting in (self._asked, self._armed):
            if waiting:
                due = min(due, next(iter(waiting.values())).due)
        return None if due == math.inf else due

    # --- events --------------------------------------------------------------------------------

    def on_hints(self, node: MemoryNodeId, incarnation: int, hints: Hints, now: float) -> None:
        """``node`` says, in the life ``incarnation``, when its ranges were touched or armed."""
        here = self._at.get(node, {})
        for number, moment in hints.touched:
            watched = here.get(number)
            if watched is None:
                continue
            # A hint answers a Watch as well: it says as much, and that the watch is armed.
            self._answered(watched, now)
            watched.refused = False
            if watched.note((incarnation, moment)):
                self.news[number] = watched
        for number in hints.refused:
            watched = here.get(number)
            if watched is not None:
                self._answered(watched, now)
                watched.refused = True
                self.news[number] = watched

    def on_new_life(self, node: MemoryNodeId, now: float) -> list[SendTo]:
        """``node`` serves in another life or at another place, where nothing is armed."""
        self._soon.pop(node, None)
        return self._ask(list(self._at.get(node, {}).values()), now)

    def on_unavailable(self, node: MemoryNodeId, now: float) -> None:
        """``node`` could not be reached, or did not take what it was asked."""
        if node in self._at:
            self._soon.setdefault(node, now + ASK_SOON)

    def on_tick(self, now: float) -> tuple[list[SendTo], bool]:
        """Time has passed: what to ask, and whether a memory node has been silent for too long."""
        due: dict[int, Watched] = {}
        for node in [node for node, at in self._soon.items() if at <= now]:
            del self._soon[node]
            due |= {n: w for n, w in self._at.get(node, {}).items() if n in self._asked}
        silent = _take_due(self._asked, now)
        due |= silent
        due |= _take_due(self._armed, now)
        return self._ask(list(due.values()), now), bool(silent)

    def _answered(self, watched: Watched, now: float) -> None:
        number = watched.at.number
        if self._asked.pop(number, None) is not None:
            watched.due = now + WATCH_RENEW
            self._armed[number] = watched

    def _ask(self, watches: list[Watched], now: float) -> list[SendTo]:
        """Arm or renew these, of any memory nodes, and expect an answer."""
        by_node: dict[MemoryNodeId, list[WatchRange]] = {}
        for watched in watches:
            number = watched.at.number
            self._armed.pop(number, None)
            self._asked.pop(number, None)
            watched.due = now + ASK_AGAIN
            self._asked[number] = watched
            by_node.setdefault(watched.node, []).append(watched.at)
        return [
            SendTo(node, Watch(ranges[i : i + WATCHES_PER_REQUEST_MAX]))
            for node, ranges in by_node.items()
            for i in range(0, len(ranges), WATCHES_PER_REQUEST_MAX)
        ]

    def check_invariants(self) -> None:
        """Every watch is either asked for or armed, and will be asked again in time."""
        numbers = [number for here in self._at.values() for number in here]
        assert sorted(numbers) == sorted([*self._asked, *self._armed])
        for waiting in (self._asked, self._armed):
            due = [watched.due for watched in waiting.values()]
            assert due == sorted(due)


def _take_due(waiting: dict[int, Watched], now: float) -> dict[int, Watched]:
    """The first of ``waiting``, which are in order, up to ``now``, taken out."""
    due: dict[int, Watched] = {}
    while waiting:
        number, watched = next(iter(waiting.items()))
        if watched.due > now:
            break
        due[number] = waiting.pop(number)
    return due
