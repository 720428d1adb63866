"""The memory node's loop: synchronous, single-threaded, and never waiting for a peer.

Each wake-up drains the sockets, executes, syncs the log once and only then answers (node.py).  One
thread needs no locks around memory, and one sync serves all that came together.

A member whose life is over, because another primary was made, begins another one in the same
process: it opens its data directory again, as after a restart.
"""

import gc
import logging
import secrets
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import zmq

from sinfonia import monotonic
from sinfonia.errors import ProtocolError
from sinfonia.figures import member
from sinfonia.figures.listening import listening_figures
from sinfonia.figures.tables import Given
from sinfonia.memnode.in_flight import (
    LARGE_BYTES_MIN,
    WAKE_UP_BYTES_MAX,
    WAKE_UP_REQUESTS_MAX,
    InFlight,
    bytes_asked,
)
from sinfonia.memnode.node import LIFE_BITS, MemoryNode
from sinfonia.memnode.settings import MemoryNodeSettings, State, syncs_log
from sinfonia.memnode.status import status_figures
from sinfonia.protocol.messages import PROTOCOL_VERSION, Replies, Request, Requests
from sinfonia.status_snapshot import Histogram, SnapshotPublisher, StatusSnapshot
from sinfonia.storage.data_directory import DirectoryLock
from sinfonia.storage.files import OsFiles
from sinfonia.transport.admission import Admission
from sinfonia.transport.codec import decode_replies, encode_requests
from sinfonia.transport.keys import Keys, Security
from sinfonia.transport.log_throttle import LogThrottle
from sinfonia.transport.zeromq import connect_dealer, drain, try_send

log = logging.getLogger(__name__)
_log_throttle = LogThrottle(log)

# How soon a signal is noticed.
IDLE_WAIT_MS = 200

# How often a member that is not serving looks at the time: it has questions to repeat.
RESTLESS_WAIT_MS = 25

# Allocations between two runs of the garbage collector.
COLLECT_AFTER = 100_000

# A checkpoint that waits for the disk is looked at so often.
BUSY_WAIT_MS = 2

Dealer = zmq.Socket[bytes]


class MemoryNodeServer:
    """A member of a memory node on real sockets and a real data directory."""

    def __init__(
        self,
        settings: MemoryNodeSettings,
        *,
        data_directory: Path,
        managers: Sequence[str],
        listen: str,
        log_directory: Path | None = None,
        security: Security | None = None,
        plain: bool = False,
        publisher: SnapshotPublisher | None = None,
    ) -> None:
        """Bind to ``listen``, lock the data directory and open it; ``serve`` does the rest.

        ``settings.endpoint`` is where others reach it, which may be another address; the redo log
        lives in ``log_directory`` if that is given.  ``security``: the cluster's keys; ``plain``:
        it may do without them off loopback.  ``publisher`` gets a snapshot of its status again and
        again.

        Raises ConfigError, DataDirectoryInUse or StorageError.
        """
        self._lock = DirectoryLock(data_directory)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._keys: Keys | None = None if security is None else security.keys
        self._admission = Admission(
            self._context, listen, security, plain=plain, now=monotonic.seconds()
        )
        self._managers = [
            connect_dealer(self._context, manager, self._keys) for manager in managers
        ]
        self._primary: tuple[str, Dealer] | None = None
        self._in_flight = InFlight()
        self._settings = settings
        self._publisher = publisher
        self._files = OsFiles(
            data_directory, log_directory=log_directory, sync_log=syncs_log(settings.mode)
        )
        self.node = self._begin_life()
        self._admission.ask_whether_remembered(self._remembers)
        self._poller = zmq.Poller()
        for socket in (*self._admission.sockets, *self._managers):
            self._poller.register(socket, zmq.POLLIN)
        self._stopping = False

    def serve(self) -> None:
        """Serve until ``stop`` or a signal.  Raises StorageError if the disk fails."""
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)
        # What is alive now stays; and what a minitransaction allocates forms no cycles, so that the
        # collector would search in vain every few hundred of them.
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER)
        node = self._settings.node
        log.info("start node=%d at=%s", node, self._settings.endpoint)
        log.info("state node=%d state=%s", node, self.node.state.value)
        try:
            while not self._stopping:
                ready = {socket for socket, _ in self._poller.poll(self._wait_ms())}
                self._wake_up(ready)
            self.node.end()
        finally:
            self.close()

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """End ``serve`` soon; may be called from a signal handler."""
        self._stopping = True

    def close(self) -> None:
        """Let go of sockets, files and the data directory."""
        self.node.close()
        self._hang_up()
        self._admission.close()
        for socket in self._managers:
            socket.close(0)
        self._context.term()
        self._lock.release()

    def _remembers(self, client: int) -> bool:
        return self.node.participant_state.sessions.remembers(client)

    def _begin_life(self) -> MemoryNode:
        node = MemoryNode(
            self._settings,
            self._files,
            new_identity=secrets.token_hex(16),
            send=self._send,
            wall=lambda: time.time_ns() // 1000,
            now=monotonic.seconds(),
            life=secrets.randbits(LIFE_BITS),
        )
        if node.member_state.damage:
            log.error(
                "damaged node=%d reason=%s; to be filled from an in-sync copy",
                self._settings.node,
                node.member_state.damage,
            )
        return node

    def _wait_ms(self) -> int:
        node = self.node
        longest = IDLE_WAIT_MS if node.state is State.SERVING else RESTLESS_WAIT_MS
        wakeup = node.next_wakeup()
        if wakeup is None:
            return longest
        # A wake-up may have been due for long, or be further away than a poll can wait.
        wait = min(max(wakeup - monotonic.seconds(), 0.0), longest / 1e3)
        return max(BUSY_WAIT_MS, round(wait * 1e3))

    def _wake_up(self, ready: set[Dealer]) -> None:
        """``ready``: the sockets on which something has come; a vain look costs like a message."""
        node, state, waiting = self.node, self.node.state, self.node.waiting
        self._receive()
        for manager in ready.intersection(self._managers):
            for replies in _replies_from(manager):
                for reply in replies.replies:
                    node.on_manager(reply, monotonic.seconds())
        if self._primary is not None and self._primary[1] in ready:
            for replies in _replies_from(self._primary[1]):
                node.on_primary(replies, monotonic.seconds())
        # Read again: what leaves now is judged by a lease that must have lasted until it was
        # computed, and this process may have been stopped meanwhile.
        now = monotonic.seconds()
        self._tell_primary(node.wake_up(now))
        said = node.to_managers(now)
        if said:
            frames = encode_requests(_of_no_client(said))
            for manager in self._managers:
                try_send(manager, frames)
        if self._publisher is not None and (node.state is not state or self._publisher.is_due(now)):
            self._publisher.publish(self._snapshot(now))
        if node.state is not state:
            log.info("state node=%d state=%s", self._settings.node, node.state.value)
        if node.waiting != waiting and node.waiting:
            log.warning("not let in yet node=%d reason=%s", self._settings.node, node.waiting)
        if node.over:
            log.warning("life over node=%d reason=%s", self._settings.node, node.over)
            node.close()
            self._hang_up()
            self._in_flight.forget()
            self.node = self._begin_life()

    def _receive(self) -> None:
        node, admission = self.node, self._admission
        room, requests = WAKE_UP_BYTES_MAX, WAKE_UP_REQUESTS_MAX
        for route, batch in admission.batches(monotonic.seconds()):
            # The clock is read after the message came: read locks last from then on.
            now = monotonic.seconds()
            asked = bytes_asked(batch.requests)
            if (asked >= LARGE_BYTES_MIN or node.defers_answers) and node.executes(batch):
                unread = admission.unread(route)
                admitted, votes = self._in_flight.admit(route, batch, now, unread=unread)
                node.receive(route, admitted, now)
                if votes:
                    admission.send(route, node.envelope(votes))
            else:
                node.receive(route, batch, now)
            room -= asked
            requests -= len(batch.requests)
            if room < 0 or requests < 0:
                return

    def _snapshot(self, now: float) -> StatusSnapshot:
        node, admission, syncs = self.node, self._admission, self._files.log_syncs
        listened = listening_figures(admission)
        served = Given(member.MEMBER)
        served[member.HUNG_UP] = admission.hung_up
        served[member.TURNED_AWAY] = self._in_flight.turned_away
        figures = {**status_figures(node), **listened, **served.values}
        histograms = {}
        if syncs_log(self._settings.mode):
            histograms["log_sync_seconds"] = Histogram(syncs.cumulative(), syncs.total)
        well = node.state in (State.SERVING, State.FOLLOWING)
        return StatusSnapshot(
            now,
            self._settings.node,
            node.state.value,
            well,
            figures,
            node.load_windows.counts(),
            histograms,
        )

    def _send(self, route: bytes, replies: Replies) -> None:
        self._in_flight.answered(route, replies)
        if not self._admission.send(route, replies):
            # A client that is gone would be sent hints without end, unless its watches end.
            leading = self.node.leading
            if leading is not None:
                leading.participant.watches.forget(route)

    def _tell_primary(self, requests: list[Request]) -> None:
        endpoint = self.node.primary
        if endpoint is None:
            self._hang_up()
            return
        if self._primary is None or self._primary[0] != endpoint:
            self._hang_up()
            self._primary = (endpoint, connect_dealer(self._context, endpoint, self._keys))
            self._poller.register(self._primary[1], zmq.POLLIN)
        if requests:
            try_send(self._primary[1], encode_requests(_of_no_client(requests)))

    def _hang_up(self) -> None:
        if self._primary is not None:
            self._poller.unregister(self._primary[1])
            self._primary[1].close(0)
            self._primary = None


def _of_no_client(requests: list[Request]) -> Requests:
    """A batch of a member: it executes nothing, and so needs no client, incarnation or floor."""
    return Requests(version=PROTOCOL_VERSION, client=0, incarnation=0, floor=0, requests=requests)


def _replies_from(socket: Dealer) -> list[Replies]:
    """What has come, as far as it makes sense."""
    batches = []
    for frames in drain(socket):
        try:
            batches.append(decode_replies(frames))
        except ProtocolError as error:
            _log_throttle.warn("malformed replies", error)
    return batches
