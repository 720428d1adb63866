"""The memory node's loop: synchronous, single-threaded, and never waiting for anyone.

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
from sinfonia.memnode.node import MemoryNode
from sinfonia.memnode.settings import MemoryNodeSettings, State, syncs_log
from sinfonia.protocol.messages import PROTOCOL_VERSION, Replies, Request, Requests
from sinfonia.storage.data_directory import DirectoryLock
from sinfonia.storage.files import OsFiles
from sinfonia.transport.codec import (
    decode_replies,
    decode_requests,
    encode_replies,
    encode_requests,
)
from sinfonia.transport.zeromq import bind_router, connect_dealer, drain, try_send

log = logging.getLogger(__name__)

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
    ) -> None:
        """Bind to ``listen``, lock the data directory and open it; ``serve`` does the rest.

        ``settings.endpoint`` is where others reach it, which may be another address; the redo log
        lives in ``log_directory`` if that is given.

        Raises ConfigError, DataDirectoryInUse or StorageError.
        """
        self._lock = DirectoryLock(data_directory)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = bind_router(self._context, listen)
        self._managers = [connect_dealer(self._context, manager) for manager in managers]
        self._primary: tuple[str, Dealer] | None = None
        self._settings = settings
        self._files = OsFiles(
            data_directory, log_directory=log_directory, sync_log=syncs_log(settings.mode)
        )
        self.node = self._begin_life()
        self._poller = zmq.Poller()
        for socket in (self._router, *self._managers):
            self._poller.register(socket, zmq.POLLIN)
        self._stopping = False
        self._undelivered = 0

    def serve(self) -> None:
        """Serve until ``stop`` or a signal.  Raises StorageError if the disk fails."""
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)
        # What is alive now stays; and what a minitransaction allocates forms no cycles, so that the
        # collector would search in vain every few hundred of them.
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER)
        try:
            while not self._stopping:
                self._poller.poll(self._wait_ms())
                self._wake_up()
        finally:
            self.close()

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """End ``serve`` soon; may be called from a signal handler."""
        self._stopping = True

    def close(self) -> None:
        """Let go of sockets, files and the data directory."""
        self.node.close()
        self._hang_up()
        for socket in (self._router, *self._managers):
            socket.close(0)
        self._context.term()
        self._lock.release()

    def _begin_life(self) -> MemoryNode:
        return MemoryNode(
            self._settings,
            self._files,
            new_identity=secrets.token_hex(16),
            send=self._send,
            wall=lambda: time.time_ns() // 1000,
            now=monotonic.seconds(),
        )

    def _wait_ms(self) -> int:
        node = self.node
        longest = IDLE_WAIT_MS if node.state is State.SERVING else RESTLESS_WAIT_MS
        wakeup = node.next_wakeup()
        if wakeup is None:
            return longest
        return min(longest, max(BUSY_WAIT_MS, round((wakeup - monotonic.seconds()) * 1e3)))

    def _wake_up(self) -> None:
        node, state = self.node, self.node.state
        for frames in drain(self._router):
            self._receive(frames)
        for manager in self._managers:
            for replies in _replies_from(manager):
                for reply in replies.replies:
                    node.on_manager(reply, monotonic.seconds())
        if self._primary is not None:
            for replies in _replies_from(self._primary[1]):
                node.on_primary(replies, monotonic.seconds())
        # Read again: what leaves now is judged by a lease that must have lasted until it was
        # computed, and this process may have been stopped meanwhile.
        now = monotonic.seconds()
        self._tell_primary(node.wake_up(now))
        said = node.to_managers(now)
        if said:
            frames = encode_requests(Requests(PROTOCOL_VERSION, 0, 0, 0, said))
            for manager in self._managers:
                try_send(manager, frames)
        if node.state is not state:
            log.info("state node=%d state=%s", self._settings.node, node.state.value)
        if node.over:
            log.warning("life over node=%d reason=%s", self._settings.node, node.over)
            node.close()
            self._hang_up()
            self.node = self._begin_life()

    def _receive(self, frames: list[bytes]) -> None:
        try:
            batch = decode_requests(frames[1:])
        except ProtocolError as error:
            # The sender's mistake, and so the sender's loss: it gets no reply.
            log.warning("malformed frames=%d error=%s", len(frames), error)
            return
        # The clock is read after the message came: read locks last from then on.
        self.node.receive(frames[0], batch, monotonic.seconds())

    def _send(self, route: bytes, replies: Replies) -> None:
        if not try_send(self._router, [route, *encode_replies(replies)]):
            self._undelivered += 1

    def _tell_primary(self, requests: list[Request]) -> None:
        endpoint = self.node.primary
        if endpoint is None:
            self._hang_up()
            return
        if self._primary is None or self._primary[0] != endpoint:
            self._hang_up()
            self._primary = (endpoint, connect_dealer(self._context, endpoint))
            self._poller.register(self._primary[1], zmq.POLLIN)
        if requests:
            batch = Requests(PROTOCOL_VERSION, 0, 0, 0, requests)
            try_send(self._primary[1], encode_requests(batch))

    def _hang_up(self) -> None:
        if self._primary is not None:
            self._poller.unregister(self._primary[1])
            self._primary[1].close(0)
            self._primary = None


def _replies_from(socket: Dealer) -> list[Replies]:
    """What has come, as far as it makes sense."""
    batches = []
    for frames in drain(socket):
        try:
            batches.append(decode_replies(frames))
        except ProtocolError as error:
            log.warning("malformed replies frames=%d error=%s", len(frames), error)
    return batches
