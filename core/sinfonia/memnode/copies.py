"""A copier (a replica, or a backup) pulls a copy of a memory node, a piece at a time.

Nothing is frozen and no request waits: the primary reads pages as they are, and each reply is a
piece small enough for one wake-up.  The copier pulls the log as well, which makes up for what
changed meanwhile.
"""

from bisect import bisect_left
from itertools import islice

import msgspec

from sinfonia.memnode.member_state import MemberState
from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.replication.messages import GetLog, GetPages, ImageBegun, LogPart, Pages
from sinfonia.storage.address_space import CHUNK_BYTES, PAGE_BYTES

_ZERO_PAGE = bytes(PAGE_BYTES)
_ZERO_CHUNK = bytes(CHUNK_BYTES)


class CopySource:
    """Answers GetImage, GetPages and GetLog for one life of a primary."""

    def __init__(self, member_state: MemberState, incarnation: int) -> None:
        self._member_state = member_state
        self._incarnation = incarnation
        self._piece_bytes = member_state.settings.replication.piece
        self.begun = False  # whether there was a GetImage; before it there are no pages to give
        self._chunks: list[int] = []  # as of the last GetImage
        self.bytes_sent = 0

    def image(self) -> ImageBegun:
        """Begin a copy.  Everything logged must be stable."""
        member_state = self._member_state
        journal = member_state.journal
        assert journal is not None
        assert not journal.dirty
        self.begun = True
        self._chunks = member_state.space.written_chunks()
        return ImageBegun(
            incarnation=self._incarnation,
            seq=journal.last,
            history=journal.history,
            state=msgspec.msgpack.encode(member_state.participant_state.checkpoint_state()),
            pages=len(self._chunks) * (CHUNK_BYTES // PAGE_BYTES),
            capacity=member_state.space.capacity,
            page_bytes=PAGE_BYTES,
        )

    def pages(self, request: GetPages) -> Pages:
        """The next piece of memory; what was first written since ``image`` is in the log."""
        assert self.begun
        memory = self._member_state.space.memory
        runs: list[tuple[int, bytes]] = []
        room = self._piece_bytes
        following = 0
        for chunk in islice(self._chunks, bisect_left(self._chunks, request.start), None):
            if room <= 0:
                following = chunk
                break
            for address, data in _runs(chunk, memory[chunk : chunk + CHUNK_BYTES]):
                runs.append((address, data))
                room -= len(data)
        self.bytes_sent += self._piece_bytes - room
        journal = self._member_state.journal
        upto = 0 if journal is None else journal.last
        return Pages(
            incarnation=self._incarnation,
            start=request.start,
            following=following,
            upto=upto,
            runs=runs,
        )

    def log(self, request: GetLog, committed: Seq) -> LogPart:
        """The next piece of the log."""
        journal = self._member_state.journal
        first = request.after + 1
        batch = None if journal is None else journal.read_after(request.after, self._piece_bytes)
        if batch is not None:
            self.bytes_sent += len(batch.body)
        return LogPart(
            incarnation=self._incarnation,
            first=first if batch is None else batch.first,
            count=0 if batch is None else batch.count,
            body=b"" if batch is None else batch.body,
            last=0 if journal is None else journal.stable,
            committed=0 if journal is None else committed,
            history=[] if journal is None else journal.history,
            gone=batch is None,
        )


def _runs(start: int, data: bytes) -> list[tuple[int, bytes]]:
    """The parts of ``data`` that are not pages of zeros, each with its address."""
    if data == _ZERO_CHUNK[: len(data)]:
        return []
    runs: list[tuple[int, bytes]] = []
    begin: int | None = None
    for offset in range(0, len(data), PAGE_BYTES):
        empty = data[offset : offset + PAGE_BYTES] == _ZERO_PAGE
        if empty and begin is not None:
            runs.append((start + begin, data[begin:offset]))
            begin = None
        elif not empty and begin is None:
            begin = offset
    if begin is not None:
        runs.append((start + begin, data[begin:]))
    return runs
