"""How much was done lately is a difference between two cumulative counts, and never a sum of parts.

Section 3.6 of the paper: a memory node tells its load over windows of 5 seconds to 12 hours, for
each class of minitransactions.  From time to time the counts are noted, for a long window more
rarely than for a short one, so that each window has about STEPS notes and memory is bounded.  The
load of a window is what was counted since the newest note that is as old as the window is long; so
it covers up to one step more than the window, and if the node is younger than the window, less.
It always says how many seconds it covers, and for these it is exact.
"""

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from sinfonia.protocol.load.counters import LoadCounters
from sinfonia.protocol.messages import LoadWindow

# The paper's, in seconds, shortest first.
LOAD_WINDOWS = (5.0, 60.0, 600.0, 3600.0, 43200.0)

# Notes per window: it covers at most a twentieth more than it should.
STEPS = 20


class Counts(NamedTuple):
    """What minitransactions of one class did at a memory node since its life began.

    executed: committed; aborted: voted otherwise, busy locks aside; retried: met busy locks.
    """

    executed: int = 0
    aborted: int = 0
    retried: int = 0
    bytes_read: int = 0
    bytes_written: int = 0


Classes = Mapping[str, Counts]

NOTHING = Counts()


class _Note(NamedTuple):
    at: float
    classes: Classes


class LoadWindows:
    """The windows of what ``counters`` count, from ``now`` on; times are monotonic seconds."""

    def __init__(self, counters: LoadCounters, now: float) -> None:
        self._counters = counters
        self._latest = _Note(now, self.counts())
        self._notes = [deque([self._latest]) for _ in LOAD_WINDOWS]
        self._due = now + LOAD_WINDOWS[0] / STEPS

    def counts(self) -> Classes:
        """What was counted so far, by tag."""
        return {
            tag: Counts(
                counts.executed,
                counts.aborted,
                counts.retried,
                counts.bytes_read,
                counts.bytes_written,
            )
            for tag, counts in self._counters.by_tag.items()
        }

    def on_tick(self, now: float) -> None:
        """Note the counts, if it is time to.  To be called often; else windows cover more."""
        if now < self._due:
            return
        classes = self.counts()
        # What has not changed since is kept once.
        if classes == self._latest.classes:
            classes = self._latest.classes
        self._latest = note = _Note(now, classes)
        for length, notes in zip(LOAD_WINDOWS, self._notes, strict=True):
            if now - notes[-1].at >= length / STEPS:
                notes.append(note)
            # If the second is old enough to stand for the window, the first is of no use.
            while len(notes) > 1 and now - notes[1].at >= length:
                notes.popleft()
        self._due = now + LOAD_WINDOWS[0] / STEPS

    def windows(self, now: float) -> dict[str, list[LoadWindow]]:
        """The load up to ``now``, just after ``on_tick``: by tag, shortest window first."""
        return {
            tag: [_window(notes[0], tag, counts, now) for notes in self._notes]
            for tag, counts in self.counts().items()
        }

    def check_invariants(self) -> None:
        """Notes are in order and bounded."""
        for length, notes in zip(LOAD_WINDOWS, self._notes, strict=True):
            times = [note.at for note in notes]
            assert times == sorted(times)
            assert 1 <= len(notes) <= STEPS + 2, f"{len(notes)} notes for {length:g} s"


def _window(base: _Note, tag: str, counts: Counts, now: float) -> LoadWindow:
    before = base.classes.get(tag, NOTHING)
    return LoadWindow(
        seconds=max(0.0, now - base.at),
        executed=counts.executed - before.executed,
        aborted=counts.aborted - before.aborted,
        retried=counts.retried - before.retried,
        bytes_read=counts.bytes_read - before.bytes_read,
        bytes_written=counts.bytes_written - before.bytes_written,
    )
