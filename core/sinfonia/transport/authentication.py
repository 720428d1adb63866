"""Authentication: only peers with a key on the allow-list are heard, each under its own name.

ZeroMQ asks the *authenticator* about every handshake, over a socket inside the process (its ZAP
protocol, rfc.zeromq.org/spec/27), which the process's loop serves like any other.  The
authenticator answers with the public key, and ZeroMQ attaches it to each message that comes over
that connection.  So a message is judged by the key that its own connection has proved, whatever
routing id its peer chose, and a key that was taken off the list is refused at the next message as
at the next handshake.

A client incarnation belongs to the key that used it first: tids name their client, and a peer that
could speak as another's client could abort what that one has begun.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import zmq
from zmq.utils import z85

from sinfonia.protocol.messages import Requests
from sinfonia.transport.allow_list import AllowList
from sinfonia.transport.keys import Security
from sinfonia.transport.permissions import forbidden

log = logging.getLogger(__name__)

# What ZeroMQ attaches to messages.
USER_ID: Final = "User-Id"

_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_ZAP_VERSION = b"1.0"
_ZAP_FIELDS = 7
_KEY_BYTES = 32
_YES = b"200"
# "Not now": the peer tries again after a while, and gets in once its key is on the list.  After a
# plain no it would stay away until its process is restarted.
_NO = b"300"

# Handshakes that are answered in one wake-up: each costs some ten microseconds.
HANDSHAKES_PER_WAKE_UP = 64

# Client incarnations of one key: each may have a session at the memory node, which has room for a
# number of them (sessions.py), so that no key can take them all.  One that was silent for so long,
# in seconds, does not count any more; beyond the limit, nor does one that has nothing remembered.
CLIENTS_PER_KEY_MAX = 16 * 1024
CLIENT_SILENT_MAX = 3600.0

# Beyond the limit those are looked for so often (seconds) for all keys together.
MAKE_ROOM_EVERY = 0.25

# Every so often, in seconds, those are looked for.
FORGET_EVERY = 60.0

# A line in the log for the first refusal of a kind, and then for every so many.
LOG_EVERY = 1000


class Authenticator:
    """Which peers may connect to one process, and what they may ask."""

    def __init__(
        self, context: "zmq.Context[zmq.Socket[bytes]]", security: Security, now: float
    ) -> None:
        """Begin to answer for the sockets of ``context``: before any of them listens.

        ``now`` is monotonic, in seconds, here and below.  Raises ConfigError.
        """
        self.refused: Counter[str] = Counter()
        self._list = AllowList(security.clients, now)
        self._owner_of: dict[int, str] = {}
        self._heard_at: dict[int, float] = {}
        self._clients_of: Counter[str] = Counter()
        self._forget_at = now + FORGET_EVERY
        self._make_room_at = now
        # Whether the process remembers anything of a client incarnation.
        self.remembers: Callable[[int], bool] = lambda _client: False
        self.socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.bind(_ZAP_ENDPOINT)

    @property
    def changes(self) -> int:
        """How often the allow-list has been seen to change."""
        return self._list.changes

    def answer_handshakes(self, now: float) -> None:
        """Tell ZeroMQ which of the peers that are connecting may do so."""
        for _ in range(HANDSHAKES_PER_WAKE_UP):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            # The asker is our own ZeroMQ, so that this has its form; its route comes first.
            empty = frames.index(b"")
            route, question = frames[: empty + 1], frames[empty + 1 :]
            verdict, user = self._judge(question, now)
            answer = [_ZAP_VERSION, question[1], verdict, b"", user, b""]
            self.socket.send_multipart([*route, *answer], zmq.NOBLOCK)

    def refresh(self, now: float) -> None:
        """Time has passed."""
        if now >= self._forget_at:
            self._forget_at = now + FORGET_EVERY
            self._forget_silent(now)
        self._list.refresh(now)

    def knows(self, public: str) -> bool:
        """Whether the key ``public`` is on the allow-list now."""
        return public in self._list.allowed

    def refusal(self, public: str | None, batch: Requests, now: float) -> str:
        """Why a batch from the holder of ``public`` is not to be heard; empty: it is."""
        allowed = None if public is None else self._list.allowed.get(public)
        if public is None or allowed is None:
            return self._refuse("revoked", public or "unknown")
        kind = forbidden(allowed.role, batch)
        if kind:
            return self._refuse(f"role {allowed.role.value} may not send {kind}", allowed.name)
        if batch.client and not self._may_speak_as(batch.client, public, now):
            if batch.client in self._owner_of:
                return self._refuse("client incarnation of another key", allowed.name)
            return self._refuse("too many client incarnations", allowed.name)
        return ""

    def _judge(self, question: list[bytes], now: float) -> tuple[bytes, bytes]:
        """The verdict on a handshake, and what to call the peer."""
        if len(question) != _ZAP_FIELDS or len(question[6]) != _KEY_BYTES:
            self._refuse("no key", "unknown")
            return _NO, b""
        public = z85.encode(question[6])
        if not self._list.admits(public.decode("ascii"), now):
            self._refuse("key not on the allow-list", public.decode("ascii"))
            return _NO, b""
        return _YES, public

    def _may_speak_as(self, client: int, public: str, now: float) -> bool:
        owner = self._owner_of.get(client)
        if owner is None:
            if self._clients_of[public] >= CLIENTS_PER_KEY_MAX:
                self._make_room(public, now)
            if self._clients_of[public] >= CLIENTS_PER_KEY_MAX:
                return False
            self._owner_of[client] = owner = public
            self._clients_of[public] += 1
        if owner != public:
            return False
        self._heard_at[client] = now
        return True

    def _make_room(self, public: str, now: float) -> None:
        """Forget half of the incarnations of a key of which nothing is remembered."""
        if now < self._make_room_at:
            return
        self._make_room_at = now + MAKE_ROOM_EVERY
        idle = [c for c, owner in self._owner_of.items() if owner == public]
        idle = [client for client in idle if not self.remembers(client)]
        idle.sort(key=lambda client: self._heard_at[client])
        self._forget(idle[: (len(idle) + 1) // 2])

    def _forget_silent(self, now: float) -> None:
        self._forget([c for c, at in self._heard_at.items() if now - at > CLIENT_SILENT_MAX])

    def _forget(self, clients: Sequence[int]) -> None:
        for client in clients:
            del self._heard_at[client]
            public = self._owner_of.pop(client)
            self._clients_of[public] -= 1
            if not self._clients_of[public]:
                del self._clients_of[public]

    def _refuse(self, why: str, name: str) -> str:
        times = self.refused[why] = self.refused[why] + 1
        if times % LOG_EVERY == 1:
            log.warning("refused client=%s reason=%r times=%d", name, why, times)
        return why

    def close(self) -> None:
        """Answer no more."""
        self.socket.close(0)

    def check_invariants(self) -> None:
        """Each client incarnation has one owner, and each owner's are counted."""
        assert self._owner_of.keys() == self._heard_at.keys()
        assert self._clients_of == Counter(self._owner_of.values())
        assert all(0 < count <= CLIENTS_PER_KEY_MAX for count in self._clients_of.values())
