"""Virtual time: everything that happens in a simulation happens in one order, and a seed fixes it.

Callbacks run one at a time, by time and then by the order in which they were asked for; nothing
else moves the clock.
"""

import heapq
from collections import deque
from collections.abc import Callable

# What the report of a failure shows: enough to see the last quarrel, few enough to be read.
TRACE_EVENTS_MAX = 400


class Scheduler:
    """A heap of what is still to happen, and a trace of what did."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._asked = 0
        self._trace: deque[tuple[float, tuple[object, ...]]] = deque(maxlen=TRACE_EVENTS_MAX)

    def after(self, delay: float, callback: Callable[..., None], *arguments: object) -> None:
        """Call ``callback(*arguments)`` in ``delay`` virtual seconds."""
        self._asked += 1
        heapq.heappush(self._heap, (self.now + delay, self._asked, callback, arguments))

    def run(self, *, until: float, stop: Callable[[], bool]) -> bool:
        """Let time pass until ``stop()`` holds, at the latest until ``until``; whether it holds."""
        heap, pop = self._heap, heapq.heappop
        while not stop():
            if not heap or heap[0][0] > until:
                self.now = until
                return stop()
            self.now, _, callback, arguments = pop(heap)
            self.steps += 1
            callback(*arguments)
        return True

    def note(self, *words: object) -> None:
        """Remember an event for the trace; the words are put into text only if it is shown."""
        self._trace.append((self.now, words))

    def trace(self, events: int) -> list[tuple[float, tuple[object, ...]]]:
        """The last events, oldest first: when, and the words that were noted."""
        return list(self._trace)[-events:]
