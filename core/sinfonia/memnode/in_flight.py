"""No connection has more under way at a memory node than its share; the rest is turned away.

What is asked in few bytes may be answered in many, and waits in memory until it may leave: until
the end of the wake-up, until replicas have acknowledged, until its reader reads it.  So what is
executed and not yet answered is counted by route.  What goes beyond the limits is voted BAD_LOAD
unexecuted: its client asks again, and what others ask is executed as ever.

A resent tid may be turned away, too: a client that was answered BAD_LOAD to one copy does not take
it for the answer to the others.
"""

from collections.abc import Sequence

import msgspec

from sinfonia.protocol.messages import (
    ExecCommit,
    ExecPrepare,
    GetDirectory,
    GetLoad,
    GetStatus,
    Replies,
    Reply,
    Request,
    Requests,
    Vote,
    Voted,
)
from sinfonia.protocol.replication.messages import GetImage, GetLog, GetPages

# A client that waits for its answers has some thousands under way at the most.
IN_FLIGHT_MAX = 16 * 1024

# Some answers of the largest size.
IN_FLIGHT_BYTES_MAX = 64 * 1024 * 1024

# What one wake-up answers, to all together; the next goes on where it has stopped.  To share a sync
# among more than some thousands saves nothing, and makes the first of them wait for the last.
WAKE_UP_BYTES_MAX = 32 * 1024 * 1024
WAKE_UP_REQUESTS_MAX = 8 * 1024

# A batch that asks for less is not counted, where answers need not wait for replicas.
LARGE_BYTES_MIN = 64 * 1024

# The size counted for an answer whose length the question does not tell.
QUESTION_BYTES = 64 * 1024
COPY_BYTES = 4 * 1024 * 1024

# After so many seconds without a reply to a route, what was asked over it counts as lost: with a
# wake-up whose replies were dropped, because no replica acknowledged it.
GIVEN_UP_AFTER = 10.0

# Routes beyond which those are looked for.
ROUTES_MAX = 4096

_SIZES: dict[type[Request], int] = {
    GetDirectory: QUESTION_BYTES,
    GetStatus: QUESTION_BYTES,
    GetLoad: QUESTION_BYTES,
    GetImage: COPY_BYTES,
    GetPages: COPY_BYTES,
    GetLog: COPY_BYTES,
}


def bytes_asked(requests: Sequence[Request]) -> int:
    """How many bytes the answers to ``requests`` may have, but for what each has anyway."""
    total = 0
    for request in requests:
        # `type() is`: this runs for every minitransaction.
        if type(request) is ExecCommit or type(request) is ExecPrepare:
            for read in request.reads:
                total += read.length
        else:
            total += _SIZES.get(type(request), 0)
    return total


class _Share(msgspec.Struct):
    """What one route has under way."""

    requests: int
    size: int
    waits_since: float


class InFlight:
    """What a memory node has executed and not yet answered, by route; times in seconds."""

    def __init__(self) -> None:
        self.turned_away = 0
        self._shares: dict[bytes, _Share] = {}
        self._now = 0.0

    def admit(
        self, route: bytes, batch: Requests, now: float, *, unread: int = 0
    ) -> tuple[Requests, list[Reply]]:
        """What of ``batch`` may be executed, and the votes on the rest.

        ``unread``: bytes of former answers that wait to be read.  Questions beyond the limits get
        no answer at all; they are asked again.
        """
        self._now = now
        share = self._share(route, now)
        votes: list[Reply] = []
        admitted: list[Request] = []
        asked = unread  # but for what the share knows
        for request in batch.requests:
            size = bytes_asked((request,))
            voted = isinstance(request, ExecCommit | ExecPrepare)
            full = share.requests >= IN_FLIGHT_MAX and voted
            if full or (size and asked + share.size + size > IN_FLIGHT_BYTES_MAX):
                self.turned_away += 1
                if isinstance(request, ExecCommit):
                    votes.append(Voted(request.counter, Vote.BAD_LOAD))
                elif isinstance(request, ExecPrepare):
                    votes.append(Voted(request.tid.counter, Vote.BAD_LOAD))
                continue
            admitted.append(request)
            if voted:
                share.requests += 1
                share.size += size
            else:
                asked += size
        if not share.requests:
            del self._shares[route]
        if len(admitted) == len(batch.requests):
            return batch, votes
        return msgspec.structs.replace(batch, requests=admitted), votes

    def answered(self, route: bytes, replies: Replies) -> None:
        """``replies`` leave for ``route``."""
        share = self._shares.get(route)
        if share is None:
            return
        votes = sum(type(reply) is Voted for reply in replies.replies)
        if votes >= share.requests:
            del self._shares[route]
        elif votes:
            # Which answers they were is not known; in the long run this comes to the same.
            share.size -= share.size * votes // share.requests
            share.requests -= votes
            share.waits_since = self._now

    def forget(self) -> None:
        """Nothing is under way any more: another life begins."""
        self._shares.clear()

    def _share(self, route: bytes, now: float) -> _Share:
        share = self._shares.get(route)
        if share is None:
            if len(self._shares) >= ROUTES_MAX:
                known = self._shares.items()
                self._shares = {r: s for r, s in known if now - s.waits_since <= GIVEN_UP_AFTER}
            share = self._shares[route] = _Share(0, 0, now)
        elif now - share.waits_since > GIVEN_UP_AFTER:
            share.requests = share.size = 0
            share.waits_since = now
        return share

    def check_invariants(self) -> None:
        """Every route that is counted has something under way, and no more than allowed."""
        for share in self._shares.values():
            assert 0 < share.requests <= IN_FLIGHT_MAX
            assert 0 <= share.size <= IN_FLIGHT_BYTES_MAX
