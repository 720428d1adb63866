"""A process may be stopped between any two of its steps; no promise may outlast that unseen.

Found by reading: whoever reads the clock and then takes messages believes, after a stop in between,
that they came before it.
"""

from collections.abc import Iterator

import pytest
import zmq

from sinfonia import monotonic
from sinfonia.addresses import MemoryNodeId
from sinfonia.client import wire as wire_module
from sinfonia.client.wire import Wire
from sinfonia.minitransaction import Minitransaction
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry
from sinfonia.protocol.messages import PROTOCOL_VERSION, Replies, Vote, Voted
from sinfonia.transport.codec import encode_replies

GOOD_FOR = 0.25


class Clock:
    """Stands still unless the test moves it."""

    now = 1000.0

    def seconds(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(monotonic, "seconds", clock.seconds)
    return clock


def test_votes_that_waited_while_the_client_was_stopped_are_too_old(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The locks of a snapshot may be gone by the time its client goes on."""
    entries = [
        MemoryNodeEntry(
            node=MemoryNodeId(node),
            endpoint=f"tcp://127.0.0.1:{9 + node}",
            capacity=4096,
            mode="RAM",
            identity="x",
            incarnation=1,
        )
        for node in (0, 1)
    ]
    wire = Wire(Directory(1, 0, "test", entries), [])
    snapshot: Minitransaction[None] = Minitransaction(None)  # type: ignore[arg-type]
    snapshot.read(0, 0, 8)
    snapshot.read(1, 0, 8)
    call = wire.submit(snapshot, now=clock.now, deadline=clock.now + 60.0)

    def stopped_then_drained(_socket: zmq.Socket[bytes], _most: int) -> Iterator[list[bytes]]:
        if node == 1:
            clock.now += 10 * GOOD_FOR  # SIGSTOP, SIGCONT
        vote = Voted(1, Vote.OK, [bytes(8)], [], GOOD_FOR)
        yield encode_replies(Replies(PROTOCOL_VERSION, node, 1, 0, [vote]))

    try:
        with monkeypatch.context() as patched:
            patched.setattr(wire_module, "drain", stopped_then_drained)
            for node in (0, 1):
                wire.drain(MemoryNodeId(node))
        assert call.result is None, "believed votes whose locks had let go"
    finally:
        wire.close()
