"""EXEC&PREPARE is at most once: a tid that was answered is answered the same again.

A client that lost a reply sends the same tid again, so a memory node remembers what it answered to
every minitransaction that writes (one that only reads may run twice: nobody can tell).  That memory
stays small because every batch carries the client's *floor*, the lowest counter whose outcome it
does not know yet: answers below the floor are forgotten, and requests below it refused.

What is remembered, and where it survives:

- OK votes are in the redo log, and so are promises to abort (forced-abort, Figure 5).
- Other negative votes are only here, in memory.  A restart forgets them, and a second copy of the
  request could then be voted OK after the client was told "no".  That is why a batch names the
  *incarnation* of the memory node it was meant for, why a restarted node refuses older ones, and
  why a client that has sent anything to a new incarnation ignores replies of the old one.

A session, forced-aborts and all, goes when its client's epoch is stale (section 4.7): tids that
old are voted BAD_EPOCH whether or not they are remembered.
"""

from collections.abc import Iterator

from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.messages import Vote, Voted
from sinfonia.protocol.records import SessionState

# A client has at most this many minitransactions in flight at one memory node; what is beyond it
# is voted BAD_LOAD.  It bounds what one client can make a node remember.
OUTCOMES_PER_SESSION_MAX = 64 * 1024

# And so many bytes of what its minitransactions have read, of answers that are worth counting: four
# of the largest, and some thousand times more of small ones.
OUTCOME_BYTES_PER_SESSION_MAX = 64 * 1024 * 1024
COUNTED_BYTES_MIN = 1024

# What one client may have in doubt at one memory node, so that others can prepare, too.
IN_DOUBT_PER_SESSION_MAX = 4096
IN_DOUBT_BYTES_PER_SESSION_MAX = 128 * 1024 * 1024

# Clients that one memory node remembers.  An empty session takes some 500 bytes.
SESSIONS_MAX = 64 * 1024

# Tids this many epochs behind are stale.
EPOCHS_STALE = 2

# Tids further ahead than this are refused like stale ones: a session lasts until its latest tid is
# stale, and none may last for ever.  A memory node lags behind its clients while no manager reaches
# it, and catches up within seconds.
EPOCHS_AHEAD_MAX = 64

# Promises to abort are remembered with the answers, and beyond that limit, since nothing is settled
# without them; but not without end.
PROMISES_PER_SESSION_MAX = 2 * OUTCOMES_PER_SESSION_MAX


class Session:
    """What one client may still ask about."""

    __slots__ = (
        "client",
        "epoch",
        "floor",
        "in_doubt",
        "in_doubt_bytes",
        "outcome_bytes",
        "outcomes",
        "sizes",
    )

    def __init__(self, client: int, epoch: int) -> None:
        self.client = client
        self.epoch = epoch
        self.floor = 0
        # By counter; OK answers to one-phase minitransactions and every negative vote.
        self.outcomes: dict[int, Voted] = {}
        # By counter: the bytes of those outcomes that are large.
        self.sizes: dict[int, int] = {}
        self.outcome_bytes = 0
        self.in_doubt = 0
        self.in_doubt_bytes = 0

    def count(self, counter: int, size: int) -> None:
        """The outcome of ``counter`` keeps ``size`` bytes of memory."""
        if size >= COUNTED_BYTES_MIN:
            self.outcome_bytes += size - self.sizes.get(counter, 0)
            self.sizes[counter] = size

    def raise_floor(self, floor: int) -> None:
        """The client knows every outcome below ``floor``."""
        if floor <= self.floor:
            return
        outcomes = self.outcomes
        if floor - self.floor <= len(outcomes):
            for counter in range(self.floor, floor):
                outcomes.pop(counter, None)
        elif outcomes:
            self.outcomes = {c: voted for c, voted in outcomes.items() if c >= floor}
        self.floor = floor
        if self.sizes:
            for counter in [each for each in self.sizes if each < floor]:
                self.outcome_bytes -= self.sizes.pop(counter)

    @property
    def full(self) -> bool:
        """Whether a further answer would not be remembered, so that none may be given."""
        return (
            len(self.outcomes) >= OUTCOMES_PER_SESSION_MAX
            or self.outcome_bytes >= OUTCOME_BYTES_PER_SESSION_MAX
        )

    @property
    def in_doubt_too_much(self) -> bool:
        """Whether it has so much in doubt that no more may be prepared."""
        return (
            self.in_doubt >= IN_DOUBT_PER_SESSION_MAX
            or self.in_doubt_bytes >= IN_DOUBT_BYTES_PER_SESSION_MAX
        )


class Sessions:
    """The sessions of all clients of one memory node."""

    def __init__(self) -> None:
        self._by_client: dict[int, Session] = {}

    def __iter__(self) -> Iterator[Session]:
        return iter(self._by_client.values())

    def __len__(self) -> int:
        return len(self._by_client)

    def on_in_doubt(self, tid: Tid, number: int, size: int) -> None:
        """``number`` more tids of ``size`` bytes are in doubt; -1: one is no more."""
        session = self._by_client.get(tid.client)
        if session is not None:
            session.in_doubt = max(0, session.in_doubt + number)
            session.in_doubt_bytes = max(0, session.in_doubt_bytes + size)

    def get(self, client: int) -> Session | None:
        """The session of ``client``, if it has one."""
        return self._by_client.get(client)

    def of(self, client: int, epoch: int) -> Session | None:
        """The session of ``client``, made if need be; None if there are too many already."""
        session = self._by_client.get(client)
        if session is None:
            if len(self._by_client) >= SESSIONS_MAX:
                return None
            session = self._by_client[client] = Session(client, epoch)
        return session

    def outcome(self, tid: Tid) -> Voted | None:
        """What was answered to ``tid``, if that is still remembered."""
        session = self._by_client.get(tid.client)
        return None if session is None else session.outcomes.get(tid.counter)

    def may_promise(self, tid: Tid, epoch: int) -> bool:
        """Whether a promise to abort ``tid`` can be remembered in ``epoch``."""
        session = self._by_client.get(tid.client)
        if tid.epoch > epoch + EPOCHS_AHEAD_MAX:
            return False
        return session is None or len(session.outcomes) < PROMISES_PER_SESSION_MAX

    def remember(self, tid: Tid, voted: Voted) -> None:
        """Answer ``voted`` to ``tid`` from now on, unless its client has finished with it.

        There is no limit here: a minitransaction that was voted on, or promised to abort, may not
        be executed afresh because its session was lost in a restart.
        """
        session = self._by_client.get(tid.client)
        if session is None:
            session = self._by_client[tid.client] = Session(tid.client, tid.epoch)
        # It must last until the tid is stale, however long ago the client was heard.
        session.epoch = max(session.epoch, tid.epoch)
        if tid.counter >= session.floor:
            session.outcomes[tid.counter] = voted
            session.count(tid.counter, size_of(voted))

    def force_abort(self, tid: Tid) -> None:
        """From now on ``tid`` is voted BAD_FORCED."""
        self.remember(tid, Voted(tid.counter, Vote.BAD_FORCED))

    def drop_stale(self, epoch: int) -> None:
        """Forget clients from which nothing was heard for EPOCHS_STALE epochs."""
        oldest = epoch - EPOCHS_STALE
        for client in [c for c, s in self._by_client.items() if s.epoch <= oldest]:
            del self._by_client[client]

    def state(self) -> list[SessionState]:
        """What a checkpoint keeps: answers that must outlive a restart."""
        kept = []
        for session in self:
            durable = [
                voted
                for voted in session.outcomes.values()
                if voted.vote is Vote.OK or voted.vote is Vote.BAD_FORCED
            ]
            if durable:
                kept.append(SessionState(session.client, session.epoch, session.floor, durable))
        return kept

    def restore(self, states: list[SessionState]) -> None:
        """Take over what a checkpoint kept."""
        for state in states:
            session = Session(state.client, state.epoch)
            session.floor = state.floor
            session.outcomes = {voted.counter: voted for voted in state.outcomes}
            for voted in state.outcomes:
                session.count(voted.counter, size_of(voted))
            self._by_client[state.client] = session


def size_of(voted: Voted) -> int:
    """The bytes that ``voted`` says were found."""
    return sum(map(len, voted.reads)) + sum(len(found) for _, found in voted.failed)
