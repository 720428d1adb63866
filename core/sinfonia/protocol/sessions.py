"""EXEC&PREPARE is at most once: a tid that was answered is answered the same again.

A client that lost a reply sends the same tid again, so a memory node remembers what it answered to
every minitransaction that writes (one that only reads may run twice: no client can tell).  That
memory stays small because every batch carries the client's *floor*, the lowest counter whose
outcome it does not know yet: answers below the floor are forgotten, and requests below it refused.

What is remembered, and where it survives:

- OK votes are in the redo log, and so are promises to abort (forced-abort, Figure 5).
- Other negative votes are only here, in memory.  A restart forgets them, and a second copy of the
  request could then be voted OK after the client was told "no".  That is why a batch names the
  *incarnation* of the memory node it was meant for, why a restarted node refuses older ones, and
  why a client that has sent anything to a new incarnation ignores replies of the old one.

A session, forced-aborts and all, goes when its client's epoch is stale (section 4.7): tids that
old are voted BAD_EPOCH whether or not they are remembered.

A session that remembers no answer still holds the floor, which refuses late copies.  It may go
sooner, because of *generations*: a memory node numbers the times at which it dropped such sessions,
and tells the number in its replies; batches say the highest that their client was told in this life
of the memory node.  A client without a session is admitted only with the current generation.  Both
floor and generation of a client only grow, so that a batch admitted after the drop was sent after
the one that had brought the dropped floor, and brings that floor or a higher one.  A client that is
not admitted is told the generation and asks again.

The log drops what the primary drops, so that replicas and restarts hold no more than it does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.messages import ExecCommit, ExecPrepare, Request, Requests, Vote, Voted
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

# Clients of which one memory node remembers something.  Each takes some 700 bytes, and lasts until
# its client speaks again or its epoch is stale: it is for clients that died with a minitransaction
# under way, or without closing their connection.
SESSIONS_MAX = 256 * 1024

# What one memory node remembers for all clients together, in number (some 300 bytes each) and in
# bytes of what was read.
OUTCOMES_MAX = 1024 * 1024
OUTCOME_BYTES_MAX = 256 * 1024 * 1024

# The last quarter of that is for clients that have no more remembered than this, so that a few that
# do not raise their floors do not keep all others from writing.
CROWDED_SHARE = 0.75
SMALL_OUTCOMES = 64
SMALL_OUTCOME_BYTES = 64 * 1024

# Tids this many epochs behind are stale.
EPOCHS_STALE = 2

# Tids further ahead than this are refused like stale ones: a session lasts until its latest tid is
# stale, and none may last without end.  A memory node lags behind its clients while no manager
# reaches it, and catches up within seconds.
EPOCHS_AHEAD_MAX = 64

# Promises to abort are remembered with the answers, and beyond that limit, since nothing is settled
# without them; but not without end.
PROMISES_PER_SESSION_MAX = 2 * OUTCOMES_PER_SESSION_MAX


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """idle_kept: of sessions that remember no answer, those heard last are kept when so many new
    clients have come since others were dropped.  As long as there were no more clients than this,
    none has to be told the generation before it is admitted.

    look_for_room_every: while there is no room, it is looked for once in so many batches: to look
    takes milliseconds.
    """

    idle_kept: int = 8 * 1024
    look_for_room_every: int = 4096


class Session:
    """What one client may still ask about."""

    __slots__ = (
        "admitted",
        "client",
        "counted",
        "counted_bytes",
        "epoch",
        "floor",
        "generation",
        "heard",
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
        # Whether its floor is that of a batch, and not only of a record or a promise.
        self.admitted = False
        self.generation = 0
        # Which of the batches of all clients was its last.
        self.heard = 0
        # What of it is in the totals of all sessions.
        self.counted = 0
        self.counted_bytes = 0

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
    def is_idle(self) -> bool:
        """Whether it remembers nothing but its floor."""
        return not self.outcomes and not self.in_doubt

    @property
    def is_small(self) -> bool:
        """Whether it remembers so little that the last quarter of the room is for it."""
        return len(self.outcomes) < SMALL_OUTCOMES and self.outcome_bytes < SMALL_OUTCOME_BYTES

    @property
    def in_doubt_too_much(self) -> bool:
        """Whether it has so much in doubt that no more may be prepared."""
        return (
            self.in_doubt >= IN_DOUBT_PER_SESSION_MAX
            or self.in_doubt_bytes >= IN_DOUBT_BYTES_PER_SESSION_MAX
        )


class Sessions:
    """The sessions of all clients of one memory node."""

    def __init__(self, limits: SessionLimits) -> None:
        self._limits = limits
        self._by_client: dict[int, Session] = {}
        # How often sessions were dropped that held a floor, as far as some client may not know it.
        self.generation = 0
        # What is remembered for all, as of the end of each batch.
        self.outcomes = 0
        self.outcome_bytes = 0
        self.crowded = False
        # Sessions that were dropped although no epoch was stale, and batches of clients that were
        # not admitted because there is no room.
        self.dropped = 0
        self.turned_away = 0
        self._batches = 0
        self._make_room_at = 2 * limits.idle_kept
        self._look_again_at = 0

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

    def of(self, client: int, epoch: int) -> Session:
        """The session of ``client``, made if need be: what the log says has a session."""
        session = self._by_client.get(client)
        if session is None:
            session = self._by_client[client] = Session(client, epoch)
        return session

    def hear(self, batch: Requests) -> Session | None:
        """The session of the client that sent ``batch``, its floor raised, if it was admitted."""
        session = self._by_client.get(batch.client)
        if session is None:
            return None
        self._batches = session.heard = self._batches + 1
        if batch.floor > session.floor:
            session.raise_floor(batch.floor)
        if batch.generation > session.generation:
            session.generation = min(batch.generation, self.generation)
        if not session.admitted or self.crowded:
            self.recount(session)
        return session if session.admitted else None

    def admit(self, batch: Requests, epoch: int) -> tuple[Session | None, list[int]]:
        """As ``hear``, but a client that was not admitted is; None if it must ask again.

        Also says which clients' sessions were dropped to make room.
        """
        dropped: list[int] = []
        if batch.generation < self.generation:
            return None, dropped  # it may have had a session, whose floor it does not bring
        session = self._by_client.get(batch.client)
        if session is None:
            if len(self._by_client) >= min(self._make_room_at, SESSIONS_MAX):
                dropped = self._make_room()
            if len(self._by_client) >= SESSIONS_MAX:
                self.turned_away += 1
                self._batches += 1
                return None, dropped
            session = self._by_client[batch.client] = Session(batch.client, epoch)
        session.admitted = True
        return self.hear(batch), dropped

    def _make_room(self) -> list[int]:
        """Drop idle sessions, but for some that were heard last; returns their clients."""
        full = len(self._by_client) >= SESSIONS_MAX
        if full and self._batches < self._look_again_at:
            return []
        self._look_again_at = self._batches + self._limits.look_for_room_every
        idle = [session for session in self if session.is_idle]
        idle.sort(key=lambda session: session.heard)
        goes = idle if full else idle[: max(0, len(idle) - self._limits.idle_kept)]
        for session in goes:
            self.generation = max(self.generation, session.generation + 1)
        self.drop([session.client for session in goes])
        self._make_room_at = len(self._by_client) + self._limits.idle_kept
        return [session.client for session in goes]

    def drop(self, clients: Sequence[int]) -> None:
        """Forget ``clients``: they have finished with all that this memory node has answered."""
        for client in clients:
            session = self._by_client.pop(client, None)
            if session is not None:
                self.dropped += 1
                self._discount(session)

    def recount(self, session: Session) -> None:
        """What ``session`` remembers may have changed."""
        outcomes, outcome_bytes = len(session.outcomes), session.outcome_bytes
        if outcomes != session.counted or outcome_bytes != session.counted_bytes:
            self.outcomes += outcomes - session.counted
            self.outcome_bytes += outcome_bytes - session.counted_bytes
            session.counted = outcomes
            session.counted_bytes = outcome_bytes
            self.crowded = (
                self.outcomes >= CROWDED_SHARE * OUTCOMES_MAX
                or self.outcome_bytes >= CROWDED_SHARE * OUTCOME_BYTES_MAX
            )

    def _discount(self, session: Session) -> None:
        session.outcomes = {}
        session.outcome_bytes = 0
        self.recount(session)

    def has_room_for(self, session: Session) -> bool:
        """Whether another answer to its client can be remembered, now that it is crowded here."""
        self.recount(session)
        full = self.outcomes >= OUTCOMES_MAX or self.outcome_bytes >= OUTCOME_BYTES_MAX
        return session.is_small and not full

    def remembers(self, client: int) -> bool:
        """Whether anything but a floor is known of ``client``."""
        session = self._by_client.get(client)
        return session is not None and not session.is_idle

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
            self.recount(session)

    def force_abort(self, tid: Tid) -> None:
        """From now on ``tid`` is voted BAD_FORCED."""
        self.remember(tid, Voted(tid.counter, Vote.BAD_FORCED))

    def drop_stale(self, epoch: int) -> None:
        """Forget clients from which nothing was heard for EPOCHS_STALE epochs."""
        oldest = epoch - EPOCHS_STALE
        for client in [c for c, s in self._by_client.items() if s.epoch <= oldest]:
            self._discount(self._by_client.pop(client))

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
                state = SessionState(
                    client=session.client,
                    epoch=session.epoch,
                    floor=session.floor,
                    outcomes=durable,
                )
                kept.append(state)
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
            self.recount(session)

    def check_invariants(self) -> None:
        """The totals are those of the sessions, and no client was told a generation yet to come."""
        assert self.outcomes == sum(len(session.outcomes) for session in self), "miscounted"
        assert self.outcome_bytes == sum(session.outcome_bytes for session in self), "miscounted"
        assert all(session.generation <= self.generation for session in self)


def is_remembered(request: Request) -> bool:
    """Whether the answer to ``request`` is: it writes, or may lock until its outcome is known."""
    if isinstance(request, ExecCommit):
        return bool(request.writes or request.updates)
    return isinstance(request, ExecPrepare) and not request.read_only


def size_of(voted: Voted) -> int:
    """The bytes that ``voted`` says were found."""
    return sum(map(len, voted.reads)) + sum(len(found) for _, found in voted.failed)
