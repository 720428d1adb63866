"""What a structure adds to a minitransaction of the caller's can be found again in its result.

A structure does not own the minitransaction that it guards: it adds its compare items among others.
A ``Guard`` remembers which were its own, so that a failure can be told from that of other items.

A result need not name every item that failed: where one memory node has refused, the others are not
waited for.  So a failure of the guard is certain, and its absence only if all items are at one
memory node.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sinfonia.minitransaction import FailedCompare, Result


@dataclass(frozen=True, slots=True)
class Guard:
    """The compare items and conditions with the given indices, in order of addition."""

    indices: Sequence[int]

    def failures(self, result: Result) -> list[FailedCompare]:
        """Those of the guard that did not match."""
        return [failed for failed in result.failed_compares if failed.index in self.indices]

    def holds(self, result: Result) -> bool:
        """Whether none of them failed, as far as ``result`` says; it may be silent on some."""
        return not self.failures(result)
