"""ZeroMQ hides lost peers and full queues; these sockets are set up so that it hides less.

Heartbeats find dead peers, queues are bounded, a ROUTER says when it cannot deliver, and a frame
that is too large costs its sender the connection.  With keys, CURVE encrypts every connection and
proves which keys are at its ends.  A reply may still be lost with its connection
at any time, which is what sending a tid again is for.
"""

import errno
import ipaddress
import re
from collections.abc import Iterator

import zmq

from sinfonia.errors import ConfigError
from sinfonia.transport.codec import FRAME_BYTES_MAX
from sinfonia.transport.keys import Keys, Security

# Batches that may wait at the connecting end.  A client keeps count of what it has in flight, so
# that this is met only by peers that do not read.
QUEUE_MAX = 10_000

# Batches of one peer that may wait unread at the listening end; the rest waits in TCP and at the
# sender, so that a peer that floods a process costs itself time and the process little memory.
# More would not be faster, and each may have some megabytes.
UNREAD_QUEUE_MAX = 32

# Batches that may wait there for one peer to read them.  A peer whose process lives reads into its
# own queue at once, however busy it is; a reply to one that does not is lost, and asked for again.
REPLY_QUEUE_MAX = 1_000

# A handshake that is not done by then is given up: at the listening end, and at the other, which
# then tries again.  A peer whose key is not on the allow-list is not told so, and tries as often.
HANDSHAKE_TIMEOUT_MS = 5_000
HANDSHAKE_RETRY_MS = 2_000

# What the authenticator is asked about; any name will do, as there is one kind of socket.
_ZAP_DOMAIN = "sinfonia"

# A silent peer is asked after, and given up, so soon.  Below the resend interval there is no point.
HEARTBEAT_INTERVAL_MS = 1_000
HEARTBEAT_TIMEOUT_MS = 4_000

# A peer that never began to ask, and whose host is gone, is noticed so late (seconds).
KEEPALIVE_IDLE_S = 30

RECONNECT_MS = 20
RECONNECT_MAX_MS = 500

_CONNECTABLE = re.compile(r"tcp://[A-Za-z0-9][A-Za-z0-9._-]{0,254}:([0-9]{1,5})")
_PORT_MAX = 65_535

# A batch without detached payloads has at most an address and a header.
SMALL_FRAMES = 2

# Plain numbers: arithmetic with pyzmq's flags costs more than sending.
_AT_ONCE = int(zmq.NOBLOCK)
_AND_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_READABLE = int(zmq.POLLIN)

# What one wake-up takes from a socket before it answers: bounds the latency of the first.
DRAIN_MAX = 512


def bind_router(
    context: "zmq.Context[zmq.Socket[bytes]]",
    endpoint: str,
    security: Security | None = None,
    *,
    plain: bool = False,
) -> "zmq.Socket[bytes]":
    """A ROUTER bound to ``endpoint``, with the cluster's keys (``security``) or without.

    Without, ``endpoint`` must be on loopback unless ``plain``.  With, ``context`` must
    have an Authenticator by now.  Raises ConfigError if that is not so, or not possible.
    """
    if security is None and not plain and not is_loopback(endpoint):
        raise ConfigError(_unprotected(endpoint))
    socket = context.socket(zmq.ROUTER)
    _set_common(socket)
    socket.set(zmq.ROUTER_MANDATORY, 1)
    socket.set(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
    socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_TIMEOUT_MS)
    socket.set(zmq.RCVHWM, UNREAD_QUEUE_MAX)
    socket.set(zmq.SNDHWM, REPLY_QUEUE_MAX)
    # No heartbeats of its own: libzmq 4.3 aborts the process if it is to send one over a connection
    # that broke while its input was held back.  Peers ask, and say how long they may be silent.
    socket.set(zmq.TCP_KEEPALIVE, 1)
    socket.set(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_IDLE_S)
    if security is not None:
        socket.set(zmq.CURVE_SERVER, 1)
        socket.set(zmq.CURVE_SECRETKEY, security.secret.encode("ascii"))
        # Without an authenticator all peers are refused; ZeroMQ's default is to accept all.
        socket.set(zmq.ZAP_DOMAIN, _ZAP_DOMAIN.encode("ascii"))
        socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close(0)
        raise ConfigError(_cannot_bind(endpoint, error)) from error
    return socket


def connect_dealer(
    context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str, keys: Keys | None = None
) -> "zmq.Socket[bytes]":
    """A DEALER that connects, and reconnects, to ``endpoint``: encrypted if there are ``keys``.

    Raises ConfigError.
    """
    socket = context.socket(zmq.DEALER)
    _set_common(socket)
    socket.set(zmq.HEARTBEAT_IVL, HEARTBEAT_INTERVAL_MS)
    socket.set(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    socket.set(zmq.HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS)
    # It holds what was asked for, and is never held back: see the heartbeats in bind_router.
    socket.set(zmq.RCVHWM, 0)
    if keys is not None:
        socket.set(zmq.CURVE_SERVERKEY, keys.cluster.encode("ascii"))
        socket.set(zmq.CURVE_PUBLICKEY, keys.public.encode("ascii"))
        socket.set(zmq.CURVE_SECRETKEY, keys.secret.encode("ascii"))
    # Without a connection nothing is queued: what is resent after a silence must not find ten
    # copies of itself waiting.
    socket.set(zmq.IMMEDIATE, 1)
    socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_RETRY_MS)
    socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.set(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.close(0)
        raise ConfigError(
            f"cannot connect to {endpoint!r}: {error.strerror}; an endpoint looks like "
            "tcp://host:port"
        ) from error
    return socket


def is_connectable(endpoint: str) -> bool:
    """Whether ``connect_dealer`` takes ``endpoint``; what others say is not stored unless it is."""
    match = _CONNECTABLE.fullmatch(endpoint)
    return match is not None and 0 < int(match[1]) <= _PORT_MAX


def is_loopback(endpoint: str) -> bool:
    """Whether only this machine can reach what listens at ``endpoint``."""
    host = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    if host in ("localhost", "lo"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def drain(socket: "zmq.Socket[bytes]", at_most: int = DRAIN_MAX) -> Iterator[list[bytes]]:
    """The messages that have come, ``at_most`` so many of them."""
    receive = socket.recv_multipart
    try:
        yield receive(_AT_ONCE)
        # One message is what mostly comes, and to ask costs less than to be refused.
        if has_come(socket):
            for _ in range(at_most - 1):
                yield receive(_AT_ONCE)
    except zmq.Again:
        return


def has_come(socket: "zmq.Socket[bytes]") -> bool:
    """Whether a message waits; if not, the next one makes the socket's descriptor readable."""
    events = socket.get(zmq.EVENTS)
    return isinstance(events, int) and events & _READABLE != 0


def try_send(socket: "zmq.Socket[bytes]", frames: list[bytes]) -> bool:
    """Send without waiting; False if the peer is gone or does not read, so that it is lost."""
    try:
        if len(frames) <= SMALL_FRAMES:
            # They are copied all the same (pyzmq's copy_threshold); large ones are not.
            for frame in frames[:-1]:
                socket.send(frame, _AND_MORE)
            socket.send(frames[-1], _AT_ONCE)
        else:
            socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return False
    except zmq.ZMQError as error:
        if error.errno in (errno.EHOSTUNREACH, zmq.ETERM):
            return False
        raise
    return True


def try_send_tracked(
    socket: "zmq.Socket[bytes]", frames: list[bytes]
) -> "zmq.MessageTracker | None":
    """As ``try_send``; what is returned tells when the largest frame has left this process."""
    largest = max(range(len(frames)), key=lambda k: len(frames[k]))
    watched = zmq.Frame(frames[largest], track=True, copy=False, copy_threshold=0)
    parts: list[bytes | zmq.Frame] = [*frames]
    parts[largest] = watched
    try:
        socket.send_multipart(parts, zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return None
    except zmq.ZMQError as error:
        if error.errno in (errno.EHOSTUNREACH, zmq.ETERM):
            return None
        raise
    tracker: zmq.MessageTracker | None = watched.tracker
    assert tracker is not None, "it was asked for"
    return tracker


def _set_common(socket: "zmq.Socket[bytes]") -> None:
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.SNDHWM, QUEUE_MAX)
    socket.set(zmq.RCVHWM, QUEUE_MAX)


def _cannot_bind(endpoint: str, error: zmq.ZMQError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{endpoint} is in use by another process; stop that one, or choose another port"
    return f"cannot listen on {endpoint!r}: {error.strerror}; it looks like tcp://address:port"


def _unprotected(endpoint: str) -> str:
    return (
        f"{endpoint} is not on loopback, and there are no keys: any peer that can connect could "
        "read and change everything. Make keys with `sinfonia keygen DIRECTORY` and name them with "
        '--keys DIRECTORY, or in a cluster.toml with [security] keys = "DIRECTORY"; or accept it, '
        "with --plain, or [security] plain = true"
    )
