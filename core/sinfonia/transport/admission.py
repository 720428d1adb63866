"""Admission: batches of permitted peers come in where a process listens, and replies go out.

No peer can make the process hold more than its share.  ZeroMQ takes the messages of all peers in
turn and lets few of one wait, so that TCP slows a peer that floods and no other; one wake-up takes
a bounded number of bytes; and replies to a peer that does not read them are counted, and beyond a
limit dropped, as replies may be at any time.

With keys, the authenticator decides which peers are heard.  Without keys every peer that reaches
the endpoint is heard, so it must be on loopback unless the operator says otherwise.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator

import zmq

from sinfonia.errors import ProtocolError
from sinfonia.protocol.messages import Replies, Requests
from sinfonia.transport.authentication import USER_ID, Authenticator
from sinfonia.transport.codec import decode_requests, encode_replies
from sinfonia.transport.descriptors import are_scarce, ask_for_descriptors
from sinfonia.transport.held_memory import HeldMemory
from sinfonia.transport.keys import Security
from sinfonia.transport.log_throttle import LogThrottle
from sinfonia.transport.zeromq import (
    DRAIN_MAX,
    SMALL_FRAMES,
    bind_router,
    try_send,
    try_send_tracked,
)

log = logging.getLogger(__name__)

# What one wake-up takes in before it answers: a batch of the largest minitransactions is more, but
# then it is one batch.  It bounds what all others wait for.
DRAIN_BYTES_MAX = 8 * 1024 * 1024

# From here on a reply is worth watching until it has left; below, the queue's length is limit
# enough.
WATCHED_BYTES_MIN = 64 * 1024

# Bytes of watched replies that may wait for one peer to read them: some of the largest.
UNREAD_BYTES_MAX = 64 * 1024 * 1024

# Routes with keys that are remembered, so that a peer whose key was revoked gets no more replies.
ROUTES_MAX = 64 * 1024

# How often it is asked whether descriptors are scarce, in seconds.
COUNT_EVERY = 0.05

# Routes with watched replies beyond which those are looked for whose replies have all left.
SWEEP_FROM = 1024


class Admission:
    """The ROUTER of one process, and its authenticator if there are keys."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        endpoint: str,
        security: Security | None,
        *,
        plain: bool,
        now: float,
    ) -> None:
        """Listen at ``endpoint``; ``plain``: without keys even if that is not on loopback.

        ``now`` is monotonic, in seconds, here and below.  Raises ConfigError.
        """
        self.undelivered = 0
        self.malformed = 0
        self._log_throttle = LogThrottle(log)
        # The authenticator first: ZeroMQ must find it when the first peer knocks.
        self._authenticator = None if security is None else Authenticator(context, security, now)
        try:
            self.router = bind_router(context, endpoint, security, plain=plain)
        except BaseException:
            if self._authenticator is not None:
                self._authenticator.close()
            raise
        ask_for_descriptors()
        self._listening_at = self.router.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self._listening = True
        self._count_at = now
        self._held = HeldMemory()
        self.hung_up = 0
        self._unread = Unread()
        self._holder_at: dict[bytes, str] = {}
        self._silenced: set[bytes] = set()
        self._changes_seen = 0

    @property
    def sockets(self) -> "list[zmq.Socket[bytes]]":
        """Those that ``batches`` reads from, to be polled."""
        return (
            [self.router]
            if self._authenticator is None
            else [self.router, self._authenticator.socket]
        )

    def ask_whether_remembered(self, remembers: Callable[[int], bool]) -> None:
        """Let the authenticator forget client incarnations of which ``remembers`` says no."""
        if self._authenticator is not None:
            self._authenticator.remembers = remembers

    @property
    def refused(self) -> int:
        """Handshakes and batches that the authenticator has refused."""
        return 0 if self._authenticator is None else self._authenticator.refused.total()

    def batches(self, now: float) -> Iterator[tuple[bytes, Requests]]:
        """What has come, with the routes to answer by; no more than a wake-up should take."""
        if now >= self._count_at:
            self._mind_resources(now)
        for route, public, frames in (
            self._take() if self._authenticator is None else self._admit(now)
        ):
            try:
                batch = decode_requests(frames)
            except ProtocolError as error:
                # The sender's mistake, and so the sender's loss: it gets no reply.
                self.malformed += 1
                self._log_throttle.warn("malformed", error)
                continue
            if self._authenticator is None or not self._authenticator.refusal(public, batch, now):
                yield route, batch

    def send(self, route: bytes, replies: Replies) -> bool:
        """Answer the peer at ``route``; False if there is none, which counts as ``undelivered``."""
        if route in self._silenced or not self._send(route, encode_replies(replies)):
            self.undelivered += 1
            return False
        return True

    def unread(self, route: bytes) -> int:
        """How many bytes of large replies wait for the peer at ``route`` to read them."""
        return self._unread.of(route)

    def close(self) -> None:
        """Listen no more."""
        self.router.close(0)
        if self._authenticator is not None:
            self._authenticator.close()

    def _mind_resources(self, now: float) -> None:
        """Close all connections if file descriptors or memory run short; then listen again.

        Memory runs short when too much is held of messages that are not whole.
        """
        self._count_at = now + COUNT_EVERY
        try:
            if not self._listening:
                self.router.bind(self._listening_at)
                self._listening = True
            elif are_scarce():
                self._hang_up(
                    "they took most file descriptors; look which peers connect, or allow the "
                    "process more"
                )
            elif self._held.is_too_much(now):
                self._hang_up(
                    "parts of messages, or messages that wait, took too much memory; look which "
                    "peer sends large messages slowly, or more of them than are read"
                )
        except zmq.ZMQError as error:
            self._log_throttle.warn(
                "cannot listen", error
            )  # not yet; the former socket must close first

    def _hang_up(self, why: str) -> None:
        self._log_throttle.warn("hung up on all connections", why)
        self.hung_up += 1
        self._listening = False
        # This ends the connections that came in there, too.
        self.router.unbind(self._listening_at)

    def _send(self, route: bytes, frames: list[bytes]) -> bool:
        size = len(frames[0]) if len(frames) == 1 else sum(map(len, frames))
        if size < WATCHED_BYTES_MIN:
            return try_send(self.router, [route, *frames])
        if self._unread.of(route) > UNREAD_BYTES_MAX:
            return False
        tracker = try_send_tracked(self.router, [route, *frames])
        if tracker is None:
            return False
        self._unread.add(route, tracker, size)
        return True

    def _take(self) -> Iterator[tuple[bytes, None, list[bytes]]]:
        receive = self.router.recv_multipart
        room = DRAIN_BYTES_MAX
        try:
            for _ in range(DRAIN_MAX):
                frames = receive(zmq.NOBLOCK)
                room -= len(frames[1]) if len(frames) == SMALL_FRAMES else sum(map(len, frames))
                yield frames[0], None, frames[1:]
                if room < 0:
                    return
        except zmq.Again:
            return

    def _admit(self, now: float) -> Iterator[tuple[bytes, str | None, list[bytes]]]:
        assert self._authenticator is not None
        self._authenticator.answer_handshakes(now)
        self._authenticator.refresh(now)
        if self._authenticator.changes != self._changes_seen:
            self._changes_seen = self._authenticator.changes
            knows = self._authenticator.knows
            self._silenced = {r for r, public in self._holder_at.items() if not knows(public)}
        room = DRAIN_BYTES_MAX
        try:
            for _ in range(DRAIN_MAX):
                # A route is no proof: a peer may choose its own, such as one that another has had.
                head = self.router.recv(zmq.NOBLOCK, copy=False)
                public = _holder(head)
                route = head.bytes
                frames = self.router.recv_multipart(zmq.NOBLOCK)
                if public is not None:
                    self._note(route, public)
                room -= sum(map(len, frames))
                yield route, public, frames
                if room < 0:
                    return
        except zmq.Again:
            return

    def _note(self, route: bytes, public: str) -> None:
        """The holder of ``public`` is at ``route`` now."""
        holders = self._holder_at
        if holders.get(route) == public:
            return
        if len(holders) >= ROUTES_MAX:
            holders.pop(next(iter(holders)))
        holders[route] = public
        self._silenced.discard(route)


class Unread:
    """Large replies that ZeroMQ has not yet got rid of, by route."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, deque[tuple[zmq.MessageTracker, int]]] = {}
        self._bytes: dict[bytes, int] = {}
        self._sweep_at = SWEEP_FROM

    def __len__(self) -> int:
        return len(self._waiting)

    def of(self, route: bytes) -> int:
        """How many bytes wait for the peer at ``route``."""
        waiting = self._waiting.get(route)
        if waiting is None:
            return 0
        while waiting and waiting[0][0].done:
            self._bytes[route] -= waiting.popleft()[1]
        if waiting:
            return self._bytes[route]
        del self._waiting[route], self._bytes[route]
        return 0

    def add(self, route: bytes, tracker: "zmq.MessageTracker", size: int) -> None:
        """A reply of ``size`` bytes is on its way; ``tracker`` tells when it has left."""
        if len(self._waiting) >= self._sweep_at:
            # Peers that are gone leave nothing behind; their replies went with the connection.
            for each in tuple(self._waiting):
                self.of(each)
            self._sweep_at = max(SWEEP_FROM, 2 * len(self._waiting))
        self._waiting.setdefault(route, deque()).append((tracker, size))
        self._bytes[route] = self._bytes.get(route, 0) + size


def _holder(head: "zmq.Frame") -> str | None:
    """The public key that the sender's connection has proved."""
    try:
        public = head.get(USER_ID)
    except zmq.ZMQError:
        return None
    return public if isinstance(public, str) else None
