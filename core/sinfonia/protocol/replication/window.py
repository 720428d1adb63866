"""Recent batches stay in memory to be sent again; a replica that needs older ones pulls them."""

from collections import deque
from collections.abc import Iterator

from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.records import Batch


class Window:
    """The end of the log that this primary ships, up to ``last``; at most ``bytes_max`` of it."""

    def __init__(self, last: Seq, bytes_max: int) -> None:
        self.last = last  # of all that was shipped
        self._bytes_max = bytes_max
        self.shipped_bytes = 0
        self._batches: deque[Batch] = deque()
        self._bytes = 0

    @property
    def first(self) -> Seq:
        """The first record that can still be sent from memory."""
        return self._batches[0].first if self._batches else self.last + 1

    @property
    def newest(self) -> Seq:
        """The first record of the newest batch: of the group commit that may be under way."""
        return self._batches[-1].first if self._batches else self.last + 1

    def add(self, batch: Batch) -> None:
        """``batch`` is shipped."""
        assert batch.first == self.last + 1
        self.last = batch.last
        self._batches.append(batch)
        self._bytes += len(batch.body)
        self.shipped_bytes += len(batch.body)
        while self._bytes > self._bytes_max and len(self._batches) > 1:
            self._bytes -= len(self._batches.popleft().body)

    def after(self, seq: Seq) -> Iterator[Batch]:
        """The batches that hold what follows ``seq``."""
        recent = []
        for batch in reversed(self._batches):
            if batch.last <= seq:
                break
            recent.append(batch)
        return reversed(recent)

    def bytes_after(self, seq: Seq) -> int:
        """How much of it follows ``seq``."""
        return sum(len(batch.body) for batch in self.after(seq))
