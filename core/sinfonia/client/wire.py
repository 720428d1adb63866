"""A coordinator on real sockets, without waiting: what both clients, async and blocking, drive.

One DEALER per memory node, connected to its primary.  Requests that are ready together leave in one
message per memory node; one ``drain`` handles every reply that has come.

ZeroMQ's readable descriptor is edge-triggered: it may stay silent although a message waits, if that
message came while we were sending.  So every ``flush`` ends by asking whether one has come.

When a memory node is served elsewhere, its socket is replaced.  The old one stays open until the
driver, which may be waiting for its descriptor, has let go of it and closes it: a descriptor that
is closed under a waiter may come back as another socket's.
"""

import math
import random
import secrets
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import zmq

from sinfonia import monotonic
from sinfonia.addresses import MemoryNodeId
from sinfonia.client.api import ClientStatistics, MemoryNodeInfo
from sinfonia.client.directory_queries import DirectoryQueries
from sinfonia.errors import ConfigError, OutOfRange, ProtocolError
from sinfonia.minitransaction import Minitransaction
from sinfonia.protocol.attempts import Call
from sinfonia.protocol.coordinator import Coordinator
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.load.inquiry import LoadInquiry
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry
from sinfonia.protocol.messages import Request
from sinfonia.protocol.recovery import Outcome
from sinfonia.protocol.watching import Watched
from sinfonia.transport.codec import DETACH_BYTES_MIN, decode_replies, encode_requests
from sinfonia.transport.keys import Keys
from sinfonia.transport.zeromq import (
    QUEUE_MAX,
    connect_dealer,
    drain,
    has_come,
    is_connectable,
    try_send,
)

# Without a goodbye a memory node remembers the last answers for an hour or two; it costs no more
# than the time that the kernel takes to take it, unless the peer does not read.
GOODBYE_LINGER_MS = 100

Opened = tuple[MemoryNodeId, "zmq.Socket[bytes]"]


def node_info(entry: MemoryNodeEntry) -> MemoryNodeInfo:
    """What a caller is told of a memory node."""
    return MemoryNodeInfo(entry.node, entry.endpoint, entry.capacity, entry.mode)


class Wire:
    """The sockets, outboxes and coordinator of one client."""

    def __init__(
        self, directory: Directory, seeds: Sequence[str], keys: Keys | None = None
    ) -> None:
        """``seeds``: where the directory was found, with the same ``keys``."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._rng = random.Random()
        self.coordinator = Coordinator(
            client=secrets.randbits(64), rng=self._rng, directory=directory
        )
        self.statistics = ClientStatistics()
        self.nodes: dict[MemoryNodeId, MemoryNodeInfo] = {}
        self._seeds = seeds
        self._keys = keys
        self._directory_queries = DirectoryQueries(self._context, keys)
        self._sockets: dict[MemoryNodeId, zmq.Socket[bytes]] = {}
        self._connected: dict[MemoryNodeId, str] = {}
        self._replaced: list[zmq.Socket[bytes]] = []
        # New sockets, for the driver to take out and listen to, some in place of others; see above.
        self.opened: list[Opened] = []
        self._outbox: defaultdict[MemoryNodeId, list[Request]] = defaultdict(list)
        # Nodes for which the outbox holds large payloads (what is sent again goes in one piece).
        self._large: set[MemoryNodeId] = set()
        self._to_flush: set[MemoryNodeId] = set()
        self.gathered = 0  # calls that were submitted since the last flush
        self._follow()

    def submit(self, minitransaction: Minitransaction[Any], *, now: float, deadline: float) -> Call:
        """Put a minitransaction into the outboxes.  Raises InvalidMinitransaction (definite)."""
        call, sends = self.coordinator.begin(minitransaction, now=now, deadline=deadline)
        if minitransaction.byte_count >= DETACH_BYTES_MIN:
            self._large.update(minitransaction.items)
        for send in sends:
            self._outbox[send.node].append(send.request)
            self._to_flush.add(send.node)
        self.gathered += 1
        return call

    def abandon(self, calls: Iterable[Call], now: float) -> None:
        """The callers wait for ``calls`` no longer: they are settled soon, and not tried again."""
        for call in calls:
            call.deadline = min(call.deadline, now)

    def flush(self, now: float) -> None:
        """Send what is in the outboxes, and handle what has come meanwhile."""
        self.gathered = 0
        while self._to_flush:
            node = self._to_flush.pop()
            requests, self._outbox[node] = self._outbox[node], []
            batch = self.coordinator.envelope(node, requests)
            frames = encode_requests(batch, large=node in self._large)
            self._large.discard(node)
            socket = self._sockets.get(node)
            if socket is None:
                self.coordinator.on_unsent(node, requests, now)
                continue
            if not try_send(socket, frames):
                self.coordinator.on_unsent(node, requests, now)
            if has_come(socket):
                self.drain(node)

    def drain(self, node: MemoryNodeId) -> None:
        """Handle every reply of ``node`` that has come."""
        coordinator = self.coordinator
        on_replies = coordinator.on_replies
        # All of them, or the descriptor would not tell of the rest.
        for frames in drain(self._sockets[node], QUEUE_MAX):
            try:
                batch = decode_replies(frames)
            except ProtocolError:
                continue  # whatever it was, it answers nothing; what is asked will be asked again
            # The clock is read after the vote came: this process may have been stopped meanwhile,
            # and what a vote promised may be over.
            sends = on_replies(node, batch, monotonic.seconds())
            if sends:
                self._put(sends)
        if coordinator.known.changed:
            self._follow()

    def tick(self, now: float) -> None:
        """Time has passed."""
        wakeup = self.next_wakeup()
        if wakeup is None or now < wakeup:
            return
        coordinator = self.coordinator
        self._put(coordinator.on_tick(now))
        for directory in self._directory_queries.poll(now):
            self.learn(directory, now)
        if coordinator.wants_directory(now):
            self._directory_queries.ask(self.places(), now)

    def next_wakeup(self) -> float | None:
        """When ``tick`` must be called next; None: not before the next event."""
        wakeup = self.coordinator.next_wakeup()
        let_go_at = self._directory_queries.let_go_at
        if wakeup is None:
            return let_go_at if let_go_at < math.inf else None
        return wakeup

    def learn(self, directory: Directory, now: float) -> None:
        """Take what is newer in ``directory``."""
        self._put(self.coordinator.on_directory(directory, now))
        self._follow()

    def places(self) -> list[str]:
        """Where the directory may be found: the managers, and then the others in any order."""
        known = self.coordinator.known
        members = list(dict.fromkeys(filter(is_connectable, known.members())))
        self._rng.shuffle(members)
        return [*filter(is_connectable, known.managers), *self._seeds, *members]

    def take_finished(self) -> list[Call]:
        """The calls that are over since the last time."""
        finished = self.coordinator.take_finished()
        if finished:
            calls = self.coordinator.calls
            statistics = self.statistics
            statistics.executed += len(finished)
            statistics.retried = calls.retried
            statistics.resent = calls.resent
            statistics.unknown += sum(not c.error.definite for c in finished if c.error is not None)
        return finished

    def outcome(self, tid: Tid) -> Outcome | None:
        """See Coordinator.outcome."""
        return self.coordinator.outcome(tid)

    def begin_watch(self, node: int, address: int, length: int, now: float) -> Watched:
        """See Coordinator.watch; ``flush`` sends it."""
        watched, sends = self.coordinator.watch(MemoryNodeId(node), address, length, now=now)
        self._put(sends)
        return watched

    def end_watch(self, watched: Watched) -> None:
        """Its caller waits for it no longer."""
        self._put(self.coordinator.watching.unwatch(watched))

    def end_all_watches(self) -> None:
        """The tasks that had begun them are gone."""
        self._put(self.coordinator.watching.unwatch_all())

    def take_news(self) -> list[Watched]:
        """The watches of which there is something new since the last time."""
        watching = self.coordinator.watching
        if not watching.news:
            return []
        news = list(watching.news.values())
        watching.news.clear()
        return news

    def begin_inquiry(self, node: int | None, now: float) -> LoadInquiry:
        """Ask ``node``, or all, for its load, until ``end_inquiry``; ``flush`` sends it.

        Raises OutOfRange if there is no such memory node.
        """
        if node is not None and node not in self.nodes:
            known = ", ".join(map(str, sorted(self.nodes)))
            raise OutOfRange(f"there is no memory node {node}; there are {known}")
        inquiry = LoadInquiry(self.nodes if node is None else [MemoryNodeId(node)])
        self._put(self.coordinator.ask_for_load(inquiry, now))
        return inquiry

    def end_inquiry(self, inquiry: LoadInquiry) -> None:
        """The caller waits for the answers no longer."""
        self.coordinator.end_inquiry(inquiry)

    def close(self) -> None:
        """Close all sockets, those in the driver's hands too; every call is over then.

        What was sent last may take GOODBYE_LINGER_MS to leave, of a peer that does not read.
        """
        for node, batch in self.coordinator.goodbyes().items():
            socket = self._sockets.get(node)
            if socket is not None and not socket.closed:
                try_send(socket, encode_requests(batch))
        self._context.destroy(linger=GOODBYE_LINGER_MS)
        self.coordinator.on_close()

    def _put(self, sends: list[SendTo]) -> None:
        for send in sends:
            self._outbox[send.node].append(send.request)
            self._to_flush.add(send.node)

    def _follow(self) -> None:
        """Connect to where the memory nodes are now."""
        known = self.coordinator.known
        while known.changed:
            node = known.changed.pop()
            entry = known.entries[node]
            self.nodes[node] = node_info(entry)
            if entry.endpoint == self._connected.get(node) or not is_connectable(entry.endpoint):
                continue
            try:
                socket = connect_dealer(self._context, entry.endpoint, self._keys)
            except ConfigError:
                continue  # no memory node can be there; the next directory may know better
            if node in self._sockets:
                open_still = [each for each in self._replaced if not each.closed]
                self._replaced = [*open_still, self._sockets[node]]
            self._sockets[node] = socket
            self._connected[node] = entry.endpoint
            self.opened.append((node, socket))
