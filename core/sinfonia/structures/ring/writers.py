"""A writer's record is appended once, however often the writer asks.

The append travels with a guard of a client table (client_table.py), which costs no round trip if
the table is on the ring's memory node.  Each record begins with a stamp of the lane and the number
of the operation, so that a writer that lost the answer finds the position again, and readers can
tell the writer of each::

    slot u64 | generation u64 | sequence u64 | body
"""

import struct
from dataclasses import dataclass
from typing import NamedTuple

from sinfonia.client.steps import Steps
from sinfonia.structures.client_table import ClientTable, Lane
from sinfonia.structures.errors import NotFormatted, OutOfSequence
from sinfonia.structures.ring.ring import Full, Ring, Trimmed

_STAMP = struct.Struct("<QQQ")
_POSITION_BYTES = 8

STAMP_BYTES = _STAMP.size

# A search for a lost position reads so many records at a time.
SEARCH_RECORDS = 256


class Stamped(NamedTuple):
    """A record of a writer: operation ``sequence`` of ``lane``."""

    lane: Lane
    sequence: int
    body: bytes

    def encode(self) -> bytes:
        """The payload of it."""
        return _STAMP.pack(self.lane.slot, self.lane.generation, self.sequence) + self.body

    @classmethod
    def decode(cls, payload: bytes) -> "Stamped":
        """The inverse of ``encode``.  Raises NotFormatted if the payload is too short for it."""
        if len(payload) < STAMP_BYTES:
            raise NotFormatted("a record without the stamp of a writer")
        slot, generation, sequence = _STAMP.unpack_from(payload)
        return cls(Lane(slot, generation), sequence, payload[STAMP_BYTES:])


@dataclass(frozen=True, slots=True)
class Writer:
    """One lane of ``table``, used for appending to ``ring``."""

    ring: Ring
    table: ClientTable
    lane: Lane

    def append(self, sequence: int, body: bytes, *, after: int = 0) -> Steps[int | Full | Trimmed]:
        """Append ``body`` as operation ``sequence`` of the lane (1, 2, ...); returns its position.

        One round trip if the first try is answered.  ``after``: a position that is known to be
        before it, as that of the writer's last record; a search for an answer that was lost begins
        there.  Trimmed: it was appended, and given up since.  Full: it is not appended; the
        operation stays open, to be asked for again with the same ``body``, or forgone.  Raises
        LimitExceeded (definite), OutcomeUnknown (ask again), and what ``ClientTable.once`` raises.
        """
        record = Stamped(self.lane, sequence, body).encode()
        hint = after.to_bytes(_POSITION_BYTES, "little")
        carried = yield from self.table.once(
            self.lane, sequence, lambda t: self.ring.add_append(t, record), hint
        )
        if carried.result is not None:
            return carried.result.positions[0] if carried.committed else Full()
        if not carried.committed:
            raise OutOfSequence(f"operation {sequence} of lane {self.lane.slot} was forgone")
        start = int.from_bytes(carried.answer[:_POSITION_BYTES], "little")
        return (yield from self._find(sequence, start))

    def _find(self, sequence: int, position: int) -> Steps[int | Trimmed]:
        stamp = Stamped(self.lane, sequence, b"").encode()
        end: int | None = None
        while True:
            found = yield from self.ring.read(position, SEARCH_RECORDS)
            if isinstance(found, Trimmed):
                # What is left may still hold it.
                position = found.first
                continue
            for k, payload in enumerate(found.payloads, found.first):
                if payload.startswith(stamp):
                    return k
            end = end or found.tail
            if found.next >= end:
                return Trimmed(found.trimmed, found.tail)
            position = found.next
