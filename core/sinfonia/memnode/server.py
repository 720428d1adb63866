"""The memory node's loop: synchronous, single-threaded, and never waiting for anyone.

Each wake-up drains the socket, executes, syncs the log once and only then answers (node.py).  One
thread needs no locks around memory, and one sync serves all that came together.
"""

import gc
import logging
import secrets
import signal
import time
from pathlib import Path
from types import FrameType

import zmq

from sinfonia.errors import ProtocolError
from sinfonia.memnode.node import MemoryNode, MemoryNodeSettings, State
from sinfonia.protocol.messages import PROTOCOL_VERSION, Registered, Requests
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

# How often an unanswered registration is repeated, and how soon a signal is noticed.
REGISTER_EVERY = 0.2
IDLE_WAIT_MS = 200

# Allocations between two runs of the garbage collector.
COLLECT_AFTER = 100_000

# A checkpoint that waits for the disk is looked at so often.
BUSY_WAIT_MS = 2


class MemoryNodeServer:
    """A memory node on real sockets and a real data directory."""

    def __init__(
        self, settings: MemoryNodeSettings, *, data_directory: Path, manager: str, listen: str
    ) -> None:
        """Bind to ``listen``, lock the data directory and replay the log; ``serve`` does the rest.

        ``settings.endpoint`` is where others reach it, which may be another address.

        Raises ConfigError, DataDirectoryInUse or StorageError.
        """
        self._lock = DirectoryLock(data_directory)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = bind_router(self._context, listen)
        self._manager = connect_dealer(self._context, manager)
        self.node = MemoryNode(
            settings,
            OsFiles(data_directory),
            new_identity=secrets.token_hex(16),
            now=time.monotonic(),
        )
        self._poller = zmq.Poller()
        self._poller.register(self._router, zmq.POLLIN)
        self._poller.register(self._manager, zmq.POLLIN)
        self._stopping = False
        self._register_at = 0.0
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
                self._wait()
                self._wake_up(time.monotonic())
        finally:
            self.close()

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """End ``serve`` soon; may be called from a signal handler."""
        self._stopping = True

    def close(self) -> None:
        """Let go of sockets, files and the data directory."""
        self.node.close()
        self._router.close(0)
        self._manager.close(0)
        self._context.term()
        self._lock.release()

    def _wait(self) -> None:
        wakeup = self.node.next_wakeup()
        timeout = IDLE_WAIT_MS
        if wakeup is not None:
            timeout = min(IDLE_WAIT_MS, max(BUSY_WAIT_MS, round((wakeup - time.monotonic()) * 1e3)))
        if self.node.state is State.STARTING:
            timeout = min(timeout, round(REGISTER_EVERY * 1e3))
        self._poller.poll(timeout)

    def _wake_up(self, now: float) -> None:
        node = self.node
        for frames in drain(self._router):
            self._receive(frames, now)
        for route, replies in node.flush(now):
            if not try_send(self._router, [route, *encode_replies(replies)]):
                self._undelivered += 1
        state = node.state
        if state is State.STARTING:
            self._register(now)
        node.tick(now)
        if node.state is not state:
            log.info("state node=%d state=%s", node.settings.node, node.state.value)

    def _receive(self, frames: list[bytes], now: float) -> None:
        try:
            self.node.receive(frames[0], decode_requests(frames[1:]), now)
        except ProtocolError as error:
            # The sender's mistake, and so the sender's loss: it gets no reply.
            log.warning("malformed frames=%d error=%s", len(frames), error)

    def _register(self, now: float) -> None:
        for frames in drain(self._manager):
            try:
                replies = decode_replies(frames).replies
            except ProtocolError as error:
                log.warning("malformed manager frames=%d error=%s", len(frames), error)
                continue
            for reply in replies:
                if isinstance(reply, Registered):
                    self.node.on_registered(reply, now)
        if self.node.state is State.STARTING and now >= self._register_at:
            self._register_at = now + REGISTER_EVERY
            batch = Requests(PROTOCOL_VERSION, 0, 0, 0, [self.node.registration()])
            try_send(self._manager, encode_requests(batch))
