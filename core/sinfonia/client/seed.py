"""How a client finds the cluster: it asks any manager or memory node for the directory."""

import time

import zmq

from sinfonia.errors import ConfigError, ProtocolError, Unreachable
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    Directory,
    GetDirectory,
    Reply,
    Request,
    Requests,
)
from sinfonia.transport.codec import decode_replies, encode_requests
from sinfonia.transport.zeromq import connect_dealer, drain, try_send

DEFAULT_PORT = 7000

# Asking costs nothing, and a connection takes a moment to come up.
ASK_EVERY = 0.01
ASK_AGAIN = 0.5


def normalise_endpoint(endpoint: str) -> str:
    """``host``, ``host:port`` or ``tcp://host:port`` as the latter.  Raises ConfigError."""
    rest = endpoint.removeprefix("tcp://")
    host, colon, port = rest.rpartition(":")
    if not colon:
        host, port = rest, str(DEFAULT_PORT)
    if not host or "/" in host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"{endpoint!r} is not an endpoint; it looks like tcp://host:port")
    return f"tcp://{host}:{port}"


class Inquiry:
    """One question to one process, without waiting: call ``poll`` until it gives the answer."""

    def __init__(self, endpoint: str, question: Request, answer: type[Reply]) -> None:
        address = normalise_endpoint(endpoint)
        self._endpoint = endpoint
        self._answer = answer
        self._batch = encode_requests(Requests(PROTOCOL_VERSION, 0, 0, 0, [question]))
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = connect_dealer(self._context, address)
        self._ask_at = 0.0

    def poll(self, now: float) -> Reply | None:
        """The answer, if it has come; ask (again) if it is time to."""
        for frames in drain(self._socket):
            try:
                batch = decode_replies(frames)
            except ProtocolError as error:
                raise Unreachable(
                    f"{self._endpoint} answers, but is no process of this cluster: {error}"
                ) from error
            for reply in batch.replies:
                if isinstance(reply, self._answer):
                    return reply
        if now >= self._ask_at and try_send(self._socket, self._batch):
            self._ask_at = now + ASK_AGAIN
        return None

    def close(self) -> None:
        """Close the connection."""
        self._socket.close(0)
        self._context.term()


def ask(endpoint: str, question: Request, answer: type[Reply], *, timeout: float = 5.0) -> Reply:
    """Ask, and wait for the answer.  Raises Unreachable or ConfigError; both are definite."""
    inquiry = Inquiry(endpoint, question, answer)
    deadline = time.monotonic() + timeout
    try:
        while (now := time.monotonic()) < deadline:
            reply = inquiry.poll(now)
            if reply is not None:
                return reply
            time.sleep(ASK_EVERY)
    finally:
        inquiry.close()
    raise unreachable(endpoint, timeout)


def ask_for_directory(endpoint: str, *, timeout: float = 5.0) -> Directory:
    """The directory, from any manager or memory node.  Raises Unreachable or ConfigError."""
    reply = ask(endpoint, GetDirectory(), Directory, timeout=timeout)
    assert isinstance(reply, Directory)
    return reply


def unreachable(endpoint: str, timeout: float) -> Unreachable:
    """Nobody answered."""
    return Unreachable(
        f"no manager or memory node answers at {endpoint} within {timeout:g} s; is the cluster up, "
        "and is this its address?"
    )
