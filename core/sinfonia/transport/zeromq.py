"""ZeroMQ hides lost peers and full queues; these sockets are set up so that it hides less.

Heartbeats find dead peers, queues are bounded, a ROUTER says when it cannot deliver, and a frame
that is too large costs its sender the connection.  A reply may still be lost with its connection
at any time, which is what sending a tid again is for.
"""

import errno
import re
from collections.abc import Iterator

import zmq

from sinfonia.errors import ConfigError
from sinfonia.transport.codec import FRAME_BYTES_MAX

# Batches that may wait at either end of a connection.  A client keeps count of what it has in
# flight, so that this is met only by peers that do not read.
QUEUE_MAX = 10_000

# A silent peer is asked after, and given up, so soon.  Below the resend interval there is no point.
HEARTBEAT_INTERVAL_MS = 1_000
HEARTBEAT_TIMEOUT_MS = 4_000

RECONNECT_MS = 20
RECONNECT_MAX_MS = 500

_CONNECTABLE = re.compile(r"tcp://[A-Za-z0-9][A-Za-z0-9._-]{0,254}:([0-9]{1,5})")
_PORT_MAX = 65_535

# A batch without detached payloads has at most an address and a header.
SMALL_FRAMES = 2

# What one wake-up takes from a socket before it answers: bounds the latency of the first.
DRAIN_MAX = 512


def bind_router(context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str) -> "zmq.Socket[bytes]":
    """A ROUTER bound to ``endpoint``.  Raises ConfigError if that is not possible."""
    socket = context.socket(zmq.ROUTER)
    _set_common(socket)
    socket.set(zmq.ROUTER_MANDATORY, 1)
    socket.set(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close(0)
        raise ConfigError(_cannot_bind(endpoint, error)) from error
    return socket


def connect_dealer(context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str) -> "zmq.Socket[bytes]":
    """A DEALER that connects, and reconnects, to ``endpoint``.  Raises ConfigError."""
    socket = context.socket(zmq.DEALER)
    _set_common(socket)
    # Without a connection nothing is queued: what is resent after a silence must not find ten
    # copies of itself waiting.
    socket.set(zmq.IMMEDIATE, 1)
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


def drain(socket: "zmq.Socket[bytes]") -> Iterator[list[bytes]]:
    """The messages that have come, at most DRAIN_MAX of them."""
    receive = socket.recv_multipart
    try:
        for _ in range(DRAIN_MAX):
            yield receive(zmq.NOBLOCK)
    except zmq.Again:
        return


def try_send(socket: "zmq.Socket[bytes]", frames: list[bytes]) -> bool:
    """Send without waiting; False if the peer is gone or does not read, so that it is lost."""
    try:
        # Small frames are copied all the same (pyzmq's copy_threshold); large ones are not.
        socket.send_multipart(frames, zmq.NOBLOCK, copy=len(frames) <= SMALL_FRAMES)
    except zmq.Again:
        return False
    except zmq.ZMQError as error:
        if error.errno in (errno.EHOSTUNREACH, zmq.ETERM):
            return False
        raise
    return True


def _set_common(socket: "zmq.Socket[bytes]") -> None:
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.SNDHWM, QUEUE_MAX)
    socket.set(zmq.RCVHWM, QUEUE_MAX)
    socket.set(zmq.HEARTBEAT_IVL, HEARTBEAT_INTERVAL_MS)
    socket.set(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)


def _cannot_bind(endpoint: str, error: zmq.ZMQError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{endpoint} is in use by another process; stop that one, or choose another port"
    return f"cannot listen on {endpoint!r}: {error.strerror}; it looks like tcp://address:port"
