"""What was posted is appended in its order, many parts to an entry, and kept until that is sure.

The parts that go into one entry are a *draft*.  It is made once: if its turn has to be taken again,
or its body goes into the area in several turns, it is the same bytes at the same place.
"""

import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from groupcomm.log.area import Area
from groupcomm.log.entries import (
    BODY_BYTES_MAX,
    HEAD_BYTES,
    IN_AREA,
    KIND_MAX,
    LENGTH_BYTES,
    Head,
    encode_body,
    encode_head,
)
from groupcomm.log.layout import Log, WriterRecord
from groupcomm.log.limits import LogLimits
from groupcomm.log.writers import Claim
from sinfonia import LimitExceeded, Minitransaction
from sinfonia.rings import SLOT_HEADER_BYTES

# Adds items of the caller's, on any memory nodes, to the minitransaction that appends a part, so
# that both happen or neither.  It may be called for several, of which one at most is committed.
Rider = Callable[[Minitransaction[Any]], None]


@dataclass(frozen=True, slots=True)
class _Part:
    kind: int
    payload: bytes
    rider: Rider | None


@dataclass(frozen=True, slots=True)
class Draft:
    """An entry that is to be appended: the first ``head.count`` parts that were posted.

    A part with a rider makes an entry of its own.
    """

    head: Head
    body: bytes
    rider: Rider | None


@dataclass(frozen=True, slots=True)
class Portion:
    """What one turn does for a draft: bytes up to ``end`` of its body; with the last, the entry.

    ``append`` is the index of the append item; None if the turn does not append yet.
    """

    draft: Draft
    end: int
    append: int | None

    @property
    def appends(self) -> bool:
        """Whether the turn appends the entry."""
        return self.append is not None


class Posting:
    """What one claimant has posted.

    ``settled`` parts are known to be in the log, or never to be.  ``stamp``: the wall clock in
    microseconds since 1970.
    """

    def __init__(self, log: Log, claim: Claim, stamp: Callable[[], int], limits: LogLimits) -> None:
        self._log = log
        self._limits = limits
        self._writer = claim.writer
        self._stamp = stamp
        self._inline_bytes_max = log.shape.slot_bytes - SLOT_HEADER_BYTES - HEAD_BYTES
        self._parts: deque[_Part] = deque()
        self.settled = 0
        self._draft: Draft | None = None
        self._uploaded = 0
        self.area = Area(log.shape.area_bytes, claim)

    def __len__(self) -> int:
        """How many parts are not settled as yet."""
        return len(self._parts)

    @property
    def part_bytes_max(self) -> int:
        """Of one part."""
        return min(BODY_BYTES_MAX, max(self._inline_bytes_max, self._log.shape.area_bytes)) - (
            LENGTH_BYTES
        )

    def post(self, payload: bytes, kind: int, rider: Rider | None) -> int:
        """Have a part appended; returns its ticket.  Raises LimitExceeded."""
        if len(payload) > self.part_bytes_max:
            raise LimitExceeded(
                f"a part of {len(payload)} bytes; one of this log has at most {self.part_bytes_max}"
            )
        if not 0 <= kind <= KIND_MAX:
            raise LimitExceeded(f"a kind is 0 to {KIND_MAX}, not {kind}")
        self._parts.append(_Part(kind, payload, rider))
        return self.settled + len(self._parts) - 1

    def trim_needed(self) -> int:
        """Up to where the log must be trimmed before the next entry has room in the area, or 0."""
        if self._draft is not None or not self._parts:
            return 0
        size = self._body_bytes(self._next_count())
        return 0 if size <= self._inline_bytes_max else self.area.trim_needed(size)

    def add_next(self, t: Minitransaction[Any], record: WriterRecord) -> Portion | None:
        """Have ``t`` do what comes next of what was posted; None if nothing was.

        ``record`` is the claimant's.  There must be room in the area.
        """
        if self._draft is None and self._parts:
            self._draft = self._make_draft(record)
        draft = self._draft
        if draft is None:
            return None
        body, start, end = draft.body, self._uploaded, len(draft.body)
        if draft.head.in_area:
            end = min(end, start + self._limits.upload_bytes)
            at = start
            for address, length in self._log.area_pieces(
                self._writer, draft.head.start + start, end - start
            ):
                t.write(self._log.node, address, body[at : at + length])
                at += length
        append = None
        if end == len(body):
            append = self._log.ring.add_append(t, encode_head(draft.head))
            if draft.rider is not None:
                draft.rider(t)
        return Portion(draft, end, append)

    def on_uploaded(self, portion: Portion) -> None:
        """The turn of ``portion``, which did not append yet, has happened."""
        assert portion.draft is self._draft
        assert not portion.appends
        self._uploaded = portion.end

    def on_appended(self, portion: Portion, position: int) -> range:
        """The entry of ``portion`` is at ``position`` or before; returns its parts' tickets."""
        assert portion.draft is self._draft
        assert portion.appends
        head = portion.draft.head
        if head.in_area:
            self.area.use(head.length, position)
        return self._settle(head.count)

    @property
    def next_has_rider(self) -> bool:
        """Whether the next entry is a part with a rider."""
        return bool(self._parts) and self._parts[0].rider is not None

    def refuse_next(self) -> int:
        """The next entry, a part with a rider, is never appended; returns the part's ticket."""
        assert self.next_has_rider
        return self._settle(1).start

    def check_invariants(self) -> None:
        """What is true between any two calls."""
        draft = self._draft
        assert draft is not None or self._uploaded == 0
        if draft is not None:
            assert draft.head.count <= len(self._parts)
            assert self._uploaded < len(draft.body)
            assert not draft.head.in_area or draft.head.start == self.area.head
        self.area.check_invariants()

    def _settle(self, count: int) -> range:
        for _ in range(count):
            self._parts.popleft()
        self._draft, self._uploaded = None, 0
        self.settled += count
        return range(self.settled - count, self.settled)

    def _next_count(self) -> int:
        """How many parts go into the next entry: of one kind, and not too large together."""
        area = self._log.shape.area_bytes
        limit = min(self._limits.batch_bytes, max(self._inline_bytes_max, area // 4))
        first = self._parts[0]
        count = size = 0
        for part in islice(self._parts, self._limits.batch_parts):
            size += LENGTH_BYTES + len(part.payload)
            alone = part.rider or first.rider
            if count and (alone or size > limit or part.kind != first.kind):
                break
            count += 1
        return count

    def _body_bytes(self, count: int) -> int:
        """An upper bound; exact if there is one part, or if parts differ in length."""
        return sum(LENGTH_BYTES + len(part.payload) for part in islice(self._parts, count))

    def _make_draft(self, record: WriterRecord) -> Draft:
        parts = [part.payload for part in islice(self._parts, self._next_count())]
        flags, body = encode_body(parts)
        in_area = len(body) > self._inline_bytes_max
        head = Head(
            kind=self._parts[0].kind,
            flags=flags | (IN_AREA if in_area else 0),
            writer=self._writer,
            generation=record.generation,
            sequence=record.sequence,
            stamp=self._stamp(),
            count=len(parts),
            checksum=zlib.crc32(body) if in_area else 0,
            length=len(body),
            start=self.area.head if in_area else 0,
            body=b"" if in_area else body,
        )
        return Draft(head, body, self._parts[0].rider)
