"""Peers that send parts of messages can take a bounded part of a process's memory, all together."""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

import pytest
import zmq

from sinfonia import monotonic
from sinfonia.transport import admission as admission_module
from sinfonia.transport import held_memory
from sinfonia.transport.admission import COUNT_EVERY, Admission
from sinfonia.transport.held_memory import FORBEARANCE, HeldMemory, heap_bytes
from sinfonia.transport.zeromq import connect_dealer, try_send

MIB = 1 << 20
FRAME = 16 * MIB
LIMIT = 128 * MIB
DEADLINE = 20.0

pytestmark = pytest.mark.skipif(not heap_bytes(), reason="no glibc that says what its heap holds")

# The greeting of ZMTP 3.0 without security, and the command of a DEALER.
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
_READY = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
READY = b"\x04" + bytes([len(_READY)]) + _READY


@pytest.fixture
def admission(monkeypatch: pytest.MonkeyPatch) -> Iterator[Admission]:
    monkeypatch.setattr(admission_module, "HeldMemory", lambda: HeldMemory(LIMIT))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    admission = Admission(context, "tcp://127.0.0.1:*", None, plain=False, now=monotonic.seconds())
    yield admission
    admission.close()
    context.term()


def endpoint_of(admission: Admission) -> str:
    return admission.router.get_string(zmq.LAST_ENDPOINT).rstrip("\0")


def connection(admission: Admission) -> socket.socket:
    """As ZeroMQ begins one."""
    peer = socket.create_connection(("127.0.0.1", int(endpoint_of(admission).rpartition(":")[2])))
    peer.settimeout(DEADLINE)
    peer.sendall(GREETING + READY)
    return peer


def send_parts(admission: Admission, peers: list[socket.socket], *, frames: int) -> int:
    """Each sends so many frames of one message, and no last one; how many it hung up on."""
    hung_up = 0
    body = os.urandom(MIB) * (FRAME // MIB)
    for peer in peers:
        with peer:
            try:
                for _ in range(frames):
                    peer.sendall(b"\x03" + struct.pack(">Q", FRAME) + body)
                    assert not list(admission.batches(monotonic.seconds()))
            except OSError:
                hung_up += 1
    return hung_up


@pytest.mark.slow
def test_one_peer_cannot_fill_the_memory_with_one_message(admission: Admission) -> None:
    assert send_parts(admission, [connection(admission)], frames=40) == 1
    assert admission.hung_up == 1


def test_many_peers_cannot_fill_the_memory_with_a_frame_each(admission: Admission) -> None:
    before = heap_bytes()
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(connection(admission)) for _ in range(20)]
        body = os.urandom(MIB) * (FRAME // MIB)
        most, deadline = 0, monotonic.seconds() + DEADLINE
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.sendall(b"\x01\x00" + b"\x02" + struct.pack(">Q", FRAME) + body[:-1])
        while not admission.hung_up and monotonic.seconds() < deadline:
            assert not list(admission.batches(monotonic.seconds()))
            most = max(most, heap_bytes() - before)
        assert admission.hung_up == 1
        while heap_bytes() - before > LIMIT // 2 and monotonic.seconds() < deadline:
            list(admission.batches(monotonic.seconds()))
        assert heap_bytes() - before <= LIMIT // 2
    # A client with work to do is heard again.
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = connect_dealer(context, endpoint_of(admission))
    malformed = admission.malformed
    while admission.malformed == malformed and monotonic.seconds() < deadline:
        try_send(dealer, [b"nonsense"])
        list(admission.batches(monotonic.seconds()))
    assert admission.malformed > malformed
    context.destroy(linger=0)


def test_memory_that_is_not_the_peers_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing all connections again and again would help no client."""
    heap = resident = 0
    monkeypatch.setattr(held_memory, "heap_bytes", lambda: heap)
    monkeypatch.setattr(held_memory, "resident_bytes", lambda: resident)
    held = HeldMemory(100)

    def times_too_much(since: float, seconds: float) -> int:
        moments = int(seconds / COUNT_EVERY)
        return sum(held.is_too_much(since + each * COUNT_EVERY) for each in range(moments))

    assert not held.is_too_much(0.0)
    resident = 500
    assert times_too_much(1.0, 10.0) == 0, "the address space was touched"
    heap, resident = 100, 600
    assert times_too_much(20.0, 10 * FORBEARANCE) == 1
    heap, resident = 199, 800
    assert times_too_much(200.0, 10 * FORBEARANCE) == 0
    heap, resident = 200, 900
    assert times_too_much(400.0, 10 * FORBEARANCE) == 1
