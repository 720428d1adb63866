"""As much of HTTP/2 and gRPC as a load generator needs: unary calls on one connection.

Requests are prepared as bytes; only the number of the stream is put in when one is sent.  So the
client costs little, and no gRPC library is measured.  What a server says in header fields is
not looked at: a call that failed brings no message, and that is seen.
"""

import socket
import struct
from collections.abc import Iterator

from sinfonia.errors import ProtocolError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1

# The server may send so much before it hears from us.
WINDOW = 2**30

# More than this in one frame was not agreed on.
FRAME_BYTES_MAX = 16_384
_HEADER = 9

RECEIVE_BYTES = 256 * 1024
PATIENCE = 30.0


def call_frames(path: str, authority: str, message: bytes) -> bytes:
    """A call as two frames, with zeros where the stream's number belongs; see ``numbered``."""
    fields = (
        b"\x83\x86"  # :method POST, :scheme http
        + b"\x04" + _string(path)
        + b"\x01" + _string(authority)
        + b"\x0f\x10" + _string("application/grpc")
        + b"\x00" + _string("te") + _string("trailers")
    )  # fmt: skip
    body = b"\0" + struct.pack(">I", len(message)) + message
    return _frame(HEADERS, END_HEADERS, fields) + _frame(DATA, END_STREAM, body)


def numbered(call: bytes, stream: int) -> bytes:
    """``call``, on ``stream``."""
    number = struct.pack(">I", stream)
    body = _HEADER + int.from_bytes(call[:3], "big")
    return call[:5] + number + call[_HEADER : body + 5] + number + call[body + _HEADER :]


class Connection:
    """One connection to a server; ``answers`` gives what calls return, as they end."""

    def __init__(self, host: str, port: int) -> None:
        """Raises OSError."""
        self._socket = socket.create_connection((host, port), timeout=PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # SETTINGS_INITIAL_WINDOW_SIZE for streams, and the connection's own window.
        settings = _frame(SETTINGS, 0, struct.pack(">HI", 4, WINDOW))
        window = _frame(WINDOW_UPDATE, 0, struct.pack(">I", WINDOW))
        self._socket.sendall(PREFACE + settings + window)
        self._received = b""
        self._uncounted = 0  # bytes that the server does not know we have taken
        self._messages: dict[int, bytes] = {}
        self._stream = -1

    def send(self, calls: list[bytes]) -> list[int]:
        """Begin ``calls``; returns the number of each one's stream."""
        numbers = []
        frames = []
        for call in calls:
            self._stream += 2
            numbers.append(self._stream)
            frames.append(numbered(call, self._stream))
        self._socket.sendall(b"".join(frames))
        return numbers

    def answers(self) -> Iterator[tuple[int, bytes]]:
        """Wait for what comes next: (stream, message) of each call that has ended.

        Raises ProtocolError if one failed or the connection is over.
        """
        data = self._socket.recv(RECEIVE_BYTES)
        if not data:
            raise ProtocolError("the server hung up")
        data = self._received + data
        start = 0
        while start + _HEADER <= len(data):
            end = start + _HEADER + int.from_bytes(data[start : start + 3], "big")
            if end - start > _HEADER + FRAME_BYTES_MAX:
                raise ProtocolError("the server sent a frame that is too large")
            if end > len(data):
                break
            kind, flags = data[start + 3], data[start + 4]
            stream = int.from_bytes(data[start + 5 : start + 9], "big")
            ended = self._take(kind, flags, stream, data[start + _HEADER : end])
            if ended is not None:
                yield stream, ended
            start = end
        self._received = data[start:]

    def close(self) -> None:
        """What is under way is given up."""
        self._socket.close()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes | None:
        """One frame; returns the message if it ends a call."""
        if kind == DATA:
            self._messages[stream] = self._messages.get(stream, b"") + payload
            self._uncounted += len(payload)
            if self._uncounted > WINDOW // 2:
                more = struct.pack(">I", self._uncounted)
                self._socket.sendall(_frame(WINDOW_UPDATE, 0, more))
                self._uncounted = 0
        elif kind == PING and not flags & ACK:
            self._socket.sendall(_frame(PING, ACK, payload))
        elif kind == SETTINGS and not flags & ACK:
            self._socket.sendall(_frame(SETTINGS, ACK, b""))
        elif kind in (RST_STREAM, GOAWAY):
            raise ProtocolError("the server ended a call, or all of them")
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            message = self._messages.pop(stream, b"")
            if len(message) < 5:
                raise ProtocolError("a call failed: the server sent no message")
            return message[5:]
        return None


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + bytes(4) + payload


def _string(text: str) -> bytes:
    """A header field's string, as it is; none is longer than 126 bytes."""
    assert len(text) < 127
    return bytes([len(text)]) + text.encode("ascii")
