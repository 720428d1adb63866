"""Peers that send parts of messages can take a bounded part of a process's memory, all together."""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

import pytest
import zmq

from sinfonia import monotonic
from sinfonia.transport import door as door_module
from sinfonia.transport import held_memory
from sinfonia.transport.door import COUNT_EVERY, Door
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
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    monkeypatch.setattr(door_module, "HeldMemory", lambda: HeldMemory(LIMIT))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    door = Door(context, "tcp://127.0.0.1:*", None, plain=False, now=monotonic.seconds())
    yield door
    door.close()
    context.term()


def endpoint_of(door: Door) -> str:
    return door.router.get_string(zmq.LAST_ENDPOINT).rstrip("\0")


def connection(door: Door) -> socket.socket:
    """As ZeroMQ begins one."""
    peer = socket.create_connection(("127.0.0.1", int(endpoint_of(door).rpartition(":")[2])))
    peer.settimeout(DEADLINE)
    peer.sendall(GREETING + READY)
    return peer


def send_parts(door: Door, peers: list[socket.socket], *, frames: int) -> int:
    """Each sends so many frames of one message, and no last one; how many it hung up on."""
    hung_up = 0
    body = os.urandom(MIB) * (FRAME // MIB)
    for peer in peers:
        with peer:
            try:
                for _ in range(frames):
                    peer.sendall(b"\x03" + struct.pack(">Q", FRAME) + body)
                    assert not list(door.batches(monotonic.seconds()))
            except OSError:
                hung_up += 1
    return hung_up


def test_one_peer_cannot_fill_the_memory_with_one_message(door: Door) -> None:
    assert send_parts(door, [connection(door)], frames=40) == 1
    assert door.hung_up == 1


def test_many_peers_cannot_fill_the_memory_with_a_frame_each(door: Door) -> None:
    before = heap_bytes()
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(connection(door)) for _ in range(20)]
        body = os.urandom(MIB) * (FRAME // MIB)
        most, deadline = 0, monotonic.seconds() + DEADLINE
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.sendall(b"\x01\x00" + b"\x02" + struct.pack(">Q", FRAME) + body[:-1])
        while not door.hung_up and monotonic.seconds() < deadline:
            assert not list(door.batches(monotonic.seconds()))
            most = max(most, heap_bytes() - before)
        assert door.hung_up == 1
        while heap_bytes() - before > LIMIT // 2 and monotonic.seconds() < deadline:
            list(door.batches(monotonic.seconds()))
        assert heap_bytes() - before <= LIMIT // 2
    # Who has business there is heard again.
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = connect_dealer(context, endpoint_of(door))
    malformed = door.malformed
    while door.malformed == malformed and monotonic.seconds() < deadline:
        try_send(dealer, [b"nonsense"])
        list(door.batches(monotonic.seconds()))
    assert door.malformed > malformed
    context.destroy(linger=0)


def test_memory_that_is_not_the_peers_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hanging up again and again would help nobody."""
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
