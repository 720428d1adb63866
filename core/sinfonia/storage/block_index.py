"""Any record is found without reading the log from its beginning.

Noting every block would cost as much memory as small blocks have bytes.  So what lies between two
noted blocks is looked through, header by header; it is little.
"""

from bisect import bisect_left, bisect_right

from sinfonia.protocol.identifiers import Seq
from sinfonia.storage.log_blocks import Lsn

# Blocks are noted so far apart: at most 32 headers are read to find one, and a gibibyte of log
# costs about five megabytes of memory.
_DISTANCE_BYTES = 16 * 1024


class BlockIndex:
    """Where some of the blocks begin, and with which record."""

    def __init__(self) -> None:
        self._firsts: list[Seq] = []
        self._lsns: list[Lsn] = []

    @property
    def first(self) -> Seq | None:
        """The oldest record of which the block is noted."""
        return self._firsts[0] if self._firsts else None

    def note(self, first: Seq, lsn: Lsn, *, begins_segment: bool = False) -> None:
        """The block with the records from ``first`` on begins at ``lsn``."""
        at = bisect_left(self._lsns, lsn)
        if at < len(self._lsns) and self._lsns[at] == lsn:
            return
        if begins_segment or at == 0 or lsn - self._lsns[at - 1] >= _DISTANCE_BYTES:
            self._firsts.insert(at, first)
            self._lsns.insert(at, lsn)

    def at_or_before(self, seq: Seq) -> Lsn:
        """A block from which on to look for ``seq``, which must not be before ``first``."""
        return self._lsns[bisect_right(self._firsts, seq) - 1]

    def forget_before(self, lsn: Lsn) -> None:
        """Blocks before ``lsn``, where a segment begins, are gone."""
        at = bisect_left(self._lsns, lsn)
        del self._firsts[:at]
        del self._lsns[:at]

    def forget_from(self, lsn: Lsn) -> None:
        """The block at ``lsn`` and those after it are gone."""
        at = bisect_left(self._lsns, lsn)
        del self._firsts[at:]
        del self._lsns[at:]

    def check_invariants(self) -> None:
        assert len(self._firsts) == len(self._lsns)
        assert self._firsts == sorted(set(self._firsts))
        assert self._lsns == sorted(set(self._lsns))
