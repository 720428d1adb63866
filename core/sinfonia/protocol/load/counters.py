"""What a memory node has done, by class of minitransaction (section 3.6).

A class is a tag that the application chose.  Counts only ever grow; a reader that wants rates or
windows takes differences.  A life of a memory node begins at zero.
"""

# Tags that one memory node tells apart; what comes after these is counted under OTHER.
TAGS_MAX = 64
OTHER = "other"


class TagCounts:
    """The counts of one class.

    executed: committed here; retried: met busy locks, or was put off by a limit or a stale epoch,
    so that its client tries again; aborted: voted otherwise, or aborted because of another
    participant.
    """

    __slots__ = ("aborted", "bytes_read", "bytes_written", "executed", "retried")

    def __init__(self) -> None:
        self.executed = 0
        self.aborted = 0
        self.retried = 0
        self.bytes_read = 0
        self.bytes_written = 0


class LoadCounters:
    """The counts of all classes; "" is that of minitransactions without a tag."""

    __slots__ = ("by_tag",)

    def __init__(self) -> None:
        self.by_tag: dict[str, TagCounts] = {"": TagCounts()}

    def of(self, tag: str) -> TagCounts:
        """The counts of ``tag``."""
        counts = self.by_tag.get(tag)
        if counts is not None:
            return counts
        if len(self.by_tag) >= TAGS_MAX:
            tag = OTHER
        return self.by_tag.setdefault(tag, TagCounts())
