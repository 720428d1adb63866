"""A coordinator on real sockets, without waiting: what both clients, async and blocking, drive.

One DEALER per memory node.  Requests that are ready together leave in one message per memory node;
one ``drain`` handles every reply that has come.

ZeroMQ's readable descriptor is edge-triggered: it may stay silent although a message waits, if that
message came while we were sending.  So every ``flush`` ends with a ``drain``.
"""

import random
import secrets
from typing import Any

import zmq

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.api import ClientStatistics, MemoryNodeInfo
from sinfonia.errors import ConfigError, ProtocolError
from sinfonia.minitransaction import Minitransaction
from sinfonia.protocol.attempts import Call
from sinfonia.protocol.coordinator import Coordinator
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.messages import Directory, Request, Tid
from sinfonia.protocol.recovery import Outcome
from sinfonia.transport.codec import DETACH_BYTES_MIN, decode_replies, encode_requests
from sinfonia.transport.zeromq import connect_dealer, drain, try_send


class Wire:
    """The sockets, outboxes and coordinator of one client."""

    def __init__(self, directory: Directory) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.coordinator = Coordinator(
            client=secrets.randbits(64),
            rng=random.Random(),
            directory=directory,
        )
        self.statistics = ClientStatistics()
        self.nodes = {
            entry.node: MemoryNodeInfo(entry.node, entry.endpoint, entry.capacity, entry.mode)
            for entry in directory.nodes
        }
        self.sockets: dict[MemoryNodeId, zmq.Socket[bytes]] = {}
        try:
            for node, info in self.nodes.items():
                self.sockets[node] = connect_dealer(self._context, info.endpoint)
        except ConfigError:
            self.close()
            raise
        self._outbox: dict[MemoryNodeId, list[Request]] = {node: [] for node in self.nodes}
        # Nodes for which the outbox holds large payloads (what is sent again goes in one piece).
        self._large: set[MemoryNodeId] = set()
        self._to_flush: set[MemoryNodeId] = set()

    def submit(self, minitransaction: Minitransaction[Any], *, now: float, deadline: float) -> Call:
        """Put a minitransaction into the outboxes.  Raises InvalidMinitransaction (definite)."""
        call, sends = self.coordinator.begin(minitransaction, now=now, deadline=deadline)
        if minitransaction.byte_count >= DETACH_BYTES_MIN:
            self._large.update(minitransaction.items)
        self._put(sends)
        return call

    def flush(self, now: float) -> None:
        """Send what is in the outboxes, and handle what has come meanwhile."""
        while self._to_flush:
            node = self._to_flush.pop()
            requests, self._outbox[node] = self._outbox[node], []
            batch = self.coordinator.envelope(node, requests)
            frames = encode_requests(batch, large=node in self._large)
            self._large.discard(node)
            if not try_send(self.sockets[node], frames):
                self.coordinator.on_unsent(node, now)
            self.drain(node, now)

    def drain(self, node: MemoryNodeId, now: float) -> None:
        """Handle every reply of ``node`` that has come."""
        on_replies = self.coordinator.on_replies
        for frames in drain(self.sockets[node]):
            try:
                batch = decode_replies(frames)
            except ProtocolError:
                continue  # whatever it was, it answers nothing; what is asked will be asked again
            sends = on_replies(node, batch, now)
            if sends:
                self._put(sends)

    def tick(self, now: float) -> None:
        """Time has passed."""
        wakeup = self.coordinator.next_wakeup()
        if wakeup is not None and wakeup <= now:
            self._put(self.coordinator.on_tick(now))

    def take_finished(self) -> list[Call]:
        """The calls that are over since the last time."""
        coordinator = self.coordinator
        finished = coordinator.finished
        if finished:
            coordinator.finished = []
            statistics = self.statistics
            statistics.executed += len(finished)
            statistics.retried = coordinator.retried
            statistics.resent = coordinator.resent
            statistics.unknown += sum(not c.error.definite for c in finished if c.error is not None)
        return finished

    def outcome(self, tid: Tid) -> Outcome | None:
        """See Coordinator.outcome."""
        return self.coordinator.outcome(tid)

    def close(self) -> None:
        """Close the sockets."""
        for socket in self.sockets.values():
            socket.close(0)
        self._context.term()

    def _put(self, sends: list[SendTo]) -> None:
        for send in sends:
            self._outbox[send.node].append(send.request)
            self._to_flush.add(send.node)
