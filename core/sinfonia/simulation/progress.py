"""Under load, work goes on within a bounded time after whatever disturbed it is over.

At rest everything settles by itself, because no client asks for anything.  Here clients never
stop: faults strike in bouts, and after each bout every word that clients write must be written anew
within the time that the protocol's own times add up to.  Locks that are never released keep one
word from that; a primary that is never replaced keeps all words of its memory node from it.
"""

from collections.abc import Sequence

from sinfonia.checking.history import Extent, HistoryRecorder, Operation, Outcome
from sinfonia.memnode.node import REGISTER_EVERY
from sinfonia.protocol.attempts import CLOCK_DRIFT_MARGIN
from sinfonia.protocol.conversation import RESEND_AFTER
from sinfonia.protocol.known_cluster import DIRECTORY_EVERY
from sinfonia.simulation import store as simulated_store
from sinfonia.simulation.profile import Profile

# How long a bout of faults lasts.
BOUT_S = 3.0

# Beside what the protocol waits for: messages, flushes, wake-ups, and the chance by which a client
# comes to choose a word, and gets its locks.
CHANCE_S = 2.0


def progress_within(profile: Profile) -> float:
    """The longest that a word may go unwritten after a bout, in true seconds.

    Each term is waited for at most once, one after another, by the slowest of all clocks:

    * a member or manager that is down comes back, and registers;
    * one manager of several takes the lead;
    * a primary that fell silent just before the end is replaced, its heir waits for the lease and
      for read locks, and for what is in doubt, and does without a replica that is not back;
    * what a dead client left in doubt is found out, asked about and settled;
    * clients find out where to go, and send again.
    """
    back = profile.down_s_max + 2 * REGISTER_EVERY
    led = simulated_store.LEASE_S if profile.managers > 1 else 0.0
    replaced = profile.fail_after_s + profile.settle_s_max
    if profile.replicas:
        replaced += profile.lease_s * (1 + CLOCK_DRIFT_MARGIN) + profile.drop_after_s
    replaced += profile.read_lease_s * (1 + CLOCK_DRIFT_MARGIN)
    settled = 2 * profile.in_doubt_timeout_s
    found = DIRECTORY_EVERY + 2 * RESEND_AFTER
    total = back + led + replaced + settled + found
    return total * (1 + CLOCK_DRIFT_MARGIN) + CHANCE_S


class Progress:
    """Looks at what was committed since ``begin``; ``words`` are all that clients write."""

    def __init__(self, recorder: HistoryRecorder, words: Sequence[Extent]) -> None:
        self._recorder = recorder
        self._words = words
        self.begin()

    def begin(self) -> None:
        """From now on."""
        self._asked = len(self._recorder.operations)
        self._looked_at = self._recorder.moment
        self._waiting = set(self._words)

    def everywhere(self) -> bool:
        """Whether each word was written by something that was asked for since."""
        if self._looked_at < self._recorder.moment:
            self._looked_at = self._recorder.moment
            for each in self._recorder.operations[self._asked :]:
                if each.outcome is Outcome.COMMITTED:
                    self._waiting -= _written(each)
        return not self._waiting

    @property
    def missing(self) -> str:
        """The words that were not written."""
        return ", ".join(f"{word.node}:{word.address}" for word in sorted(self._waiting))


def _written(operation: Operation) -> set[Extent]:
    return {Extent(node, address, len(data)) for node, address, data in operation.writes}
