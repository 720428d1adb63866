"""Every vote is counted once, and a tid that was answered is answered the same again.

Both kinds of minitransactions, with one participant and with several, are counted here by vote and
by class tag; a class's load is read by windows (load/windows.py).
"""

from sinfonia.protocol.load.counters import LoadCounters
from sinfonia.protocol.messages import Vote, Voted
from sinfonia.protocol.sessions import Session, Sessions

OK = Vote.OK

# Votes after which a client's library tries again by itself.
RETRIED = frozenset({Vote.BAD_LOCK, Vote.BAD_EPOCH, Vote.BAD_LOAD})


class Votes:
    """The votes of one life of a memory node."""

    def __init__(self, sessions: Sessions, load: LoadCounters) -> None:
        self.counts = [0] * len(Vote)
        self.duplicates = 0
        self.load = load
        self._sessions = sessions

    def count(self, voted: Voted, tag: str = "") -> Voted:
        """Count a vote; an OK one in two phases is executed when its outcome is known."""
        self.counts[voted.vote] += 1
        if voted.vote in RETRIED:
            self.load.of(tag).retried += 1
        elif voted.vote is not OK:
            self.load.of(tag).aborted += 1
        return voted

    def again(self, voted: Voted) -> Voted:
        """Give the answer to an earlier copy of a request to this copy, too."""
        self.duplicates += 1
        return voted

    def already(self, session: Session, counter: int) -> Voted | None:
        """The answer to a tid that must not be executed (again), or None."""
        if counter < session.floor:
            return self.count(Voted(counter, Vote.BAD_FLOOR))
        known = session.outcomes.get(counter)
        if known is not None:
            return self.again(known)
        if session.full or (self._sessions.crowded and not self._sessions.has_room_for(session)):
            return self.count(Voted(counter, Vote.BAD_LOAD))
        return None
