"""Many memory nodes come back at once (section 4.6): what they bring along is settled in bulk.

After a power cut every memory node finds minitransactions in doubt, and to ask every participant
about each would cost a question per vote.  Instead each memory node that reports its restart is
asked once for all that it has in doubt, and the reports are laid side by side: a tid that every
participant reports was voted OK by all, so it has committed, and no question is sent.

So a tid that is reported *waits* as long as a participant that may yet report it has not come back.
It goes to a recovery coordinator as soon as that is of no use any more: a participant is up that
never went down, or has reported without it, or the others are not back within REBOOT_WINDOW.

The votes are the same that a recovery coordinator would be told, so that this is as safe as one.
"""

from collections.abc import Callable, Collection

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.messages import Unsettled

# Seconds between the first reboot notice and the last that belongs to it.  Processes that stopped
# together and are started together are up within so long of each other, replay included; a tid
# whose participant takes longer is better settled by those that are there, which may hold a "no".
REBOOT_WINDOW = 5.0

# With at least this share of the memory nodes restarted it was not some that crashed, but all.
WHOLE_SYSTEM_SHARE = 0.5


class WholeSystemRecovery:
    """The reboot notices of the last REBOOT_WINDOW, and the votes that came with them."""

    def __init__(self) -> None:
        self.recoveries = 0  # of the whole system
        self.settled = 0  # tids for which no question was sent
        self._until = float("-inf")
        self._counted = False
        self._silent: set[MemoryNodeId] = set()  # restarted, and not yet reported
        self._reported: set[MemoryNodeId] = set()
        self._voted: dict[Tid, set[MemoryNodeId]] = {}
        self._waiting: dict[Tid, Unsettled] = {}

    @property
    def unheard(self) -> list[MemoryNodeId]:
        """Whom to ask for everything that is in doubt there."""
        return sorted(self._silent)

    def on_reboot(self, node: MemoryNodeId, known: Collection[MemoryNodeId], now: float) -> None:
        """A new life of ``node`` begins; ``known`` are all memory nodes."""
        if now >= self._until and not self._waiting:
            self._begin(now)
        self._silent.add(node)
        self._reported.discard(node)
        restarted = len(self._silent | self._reported)
        if (
            not self._counted
            and len(known) > 1
            and restarted >= max(2, WHOLE_SYSTEM_SHARE * len(known))
        ):
            self._counted = True
            self.recoveries += 1

    def on_report(self, node: MemoryNodeId, unsettled: Collection[Unsettled]) -> list[Unsettled]:
        """A memory node that restarted says what is in doubt there, or decided and not forgotten.

        Returns what every participant has voted OK on.
        """
        if node in self._silent:
            self._silent.discard(node)
            self._reported.add(node)
        complete = []
        for each in unsettled:
            voted = self._voted.setdefault(each.tid, set())
            voted.add(node)
            self._waiting[each.tid] = each
            if voted.issuperset(each.participants):
                complete.append(each)
                self._drop(each.tid)
        self.settled += len(complete)
        return complete

    def awaits_report(self, node: MemoryNodeId) -> bool:
        """Whether ``node`` has restarted and what it says counts as its report."""
        return node in self._silent

    def waits(self, tid: Tid) -> bool:
        """Whether ``tid`` waits for a report, and should not be asked about yet."""
        return tid in self._waiting

    def give_up(self, is_up: Callable[[MemoryNodeId], bool], now: float) -> list[Unsettled]:
        """What need not wait any longer, and must be asked about.

        ``is_up`` says whether a memory node answers, or is unknown: either way it will not report.
        """
        over = now >= self._until
        given_up = [
            each
            for each in self._waiting.values()
            if over or any(self._will_not_report(node, each, is_up) for node in each.participants)
        ]
        for each in given_up:
            self._drop(each.tid)
        if over:
            # A member that has not reported yet is probed like all others.
            self._silent.clear()
        return given_up

    def _begin(self, now: float) -> None:
        self._until = now + REBOOT_WINDOW
        self._counted = False
        self._silent.clear()
        self._reported.clear()

    def _will_not_report(
        self, node: MemoryNodeId, each: Unsettled, is_up: Callable[[MemoryNodeId], bool]
    ) -> bool:
        if node in self._voted[each.tid] or node in self._silent:
            return False
        return node in self._reported or is_up(node)

    def _drop(self, tid: Tid) -> None:
        self._waiting.pop(tid, None)
        self._voted.pop(tid, None)
