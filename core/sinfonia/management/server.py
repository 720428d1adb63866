"""The manager on real sockets: a ROUTER for whoever asks, a DEALER to every memory node.

Stored before told: a StoreDirectory is on stable storage before any effect after it is carried out.
"""

import logging
import secrets
import signal
import time
from pathlib import Path
from types import FrameType

import zmq

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import ProtocolError
from sinfonia.management.store import EmbeddedStore
from sinfonia.protocol.effects import ReplyTo, SendTo, StoreDirectory
from sinfonia.protocol.management import Manager, ManagerEffect, ManagerSettings
from sinfonia.protocol.messages import (
    MANAGER,
    PROTOCOL_VERSION,
    GetDirectory,
    GetStatus,
    Recreate,
    Register,
    Replies,
    Request,
    Status,
)
from sinfonia.storage.data_directory import DirectoryLock
from sinfonia.storage.files import OsFiles
from sinfonia.transport.codec import (
    decode_replies,
    decode_requests,
    encode_replies,
    encode_requests,
)
from sinfonia.transport.zeromq import bind_router, connect_dealer, drain, is_connectable, try_send

log = logging.getLogger(__name__)

# How soon a signal is noticed.
IDLE_WAIT_MS = 200


class ManagerServer:
    """The manager with an embedded store."""

    def __init__(
        self, *, endpoint: str, data_directory: Path, cluster: str, settings: ManagerSettings
    ) -> None:
        """Bind, lock the data directory and read the store; ``serve`` does the rest.

        Raises ConfigError, DataDirectoryInUse or StorageError.
        """
        self._lock = DirectoryLock(data_directory)
        self._store = EmbeddedStore(OsFiles(data_directory), cluster=cluster)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = bind_router(self._context, endpoint)
        self.manager = Manager(
            client=secrets.randbits(64),
            settings=settings,
            directory=self._store.directory,
            now=time.monotonic(),
        )
        self._poller = zmq.Poller()
        self._poller.register(self._router, zmq.POLLIN)
        self._nodes: dict[MemoryNodeId, tuple[str, zmq.Socket[bytes]]] = {}
        self._outbox: dict[MemoryNodeId, list[Request]] = {}
        self._stopping = False

    def serve(self) -> None:
        """Serve until ``stop`` or a signal.  Raises StorageError if the disk fails."""
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)
        try:
            while not self._stopping:
                wait = round((self.manager.next_wakeup() - time.monotonic()) * 1e3)
                self._poller.poll(max(1, min(IDLE_WAIT_MS, wait)))
                self._wake_up(time.monotonic())
        finally:
            self.close()

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """End ``serve`` soon; may be called from a signal handler."""
        self._stopping = True

    def close(self) -> None:
        """Let go of sockets and the data directory."""
        for _, socket in self._nodes.values():
            socket.close(0)
        self._router.close(0)
        self._context.term()
        self._lock.release()

    def _wake_up(self, now: float) -> None:
        for frames in drain(self._router):
            try:
                for request in decode_requests(frames[1:]).requests:
                    self._carry_out(self._answer(frames[0], request))
            except ProtocolError as error:
                log.warning("malformed frames=%d error=%s", len(frames), error)
        for node, (_, socket) in self._nodes.items():
            for frames in drain(socket):
                try:
                    self._carry_out(self.manager.on_replies(node, decode_replies(frames), now))
                except ProtocolError as error:
                    log.warning("malformed node=%d error=%s", node, error)
        self._carry_out(self.manager.on_tick(now))
        outbox, self._outbox = self._outbox, {}
        for node, requests in outbox.items():
            try_send(self._socket(node), encode_requests(self.manager.envelope(node, requests)))

    def _answer(self, route: bytes, request: Request) -> list[ManagerEffect]:
        if isinstance(request, Register):
            # The directory would stop whoever reads an impossible place there, and for good.
            if not is_connectable(request.endpoint):
                raise ProtocolError(f"nobody can connect to {request.endpoint!r}")
            log.info("register node=%d endpoint=%s", request.node, request.endpoint)
            return self.manager.on_register(route, request)
        if isinstance(request, Recreate):
            log.info("recreate node=%d", request.node)
            return self.manager.on_recreate(route, request)
        if isinstance(request, GetDirectory):
            return [ReplyTo(route, self.manager.directory)]
        if isinstance(request, GetStatus):
            return [ReplyTo(route, self._status())]
        raise ProtocolError(f"{type(request).__name__} is not for a manager")

    def _carry_out(self, effects: list[ManagerEffect]) -> None:
        for effect in effects:
            if isinstance(effect, StoreDirectory):
                self._store.replace(effect.directory)
            elif isinstance(effect, ReplyTo):
                epoch = self.manager.directory.epoch
                replies = Replies(PROTOCOL_VERSION, MANAGER, 0, epoch, [effect.reply])
                try_send(self._router, [effect.route, *encode_replies(replies)])
            else:
                assert isinstance(effect, SendTo)
                self._outbox.setdefault(effect.node, []).append(effect.request)

    def _socket(self, node: MemoryNodeId) -> "zmq.Socket[bytes]":
        entry = self.manager.entry(node)
        assert entry is not None, "effects name registered memory nodes only"
        endpoint, socket = self._nodes.get(node, ("", None))
        if socket is None or endpoint != entry.endpoint:
            if socket is not None:
                self._poller.unregister(socket)
                socket.close(0)
            socket = connect_dealer(self._context, entry.endpoint)
            self._poller.register(socket, zmq.POLLIN)
            self._nodes[node] = (entry.endpoint, socket)
        return socket

    def _status(self) -> Status:
        manager = self.manager
        figures: dict[str, int | float | str] = {
            "cluster": manager.directory.cluster,
            "epoch": manager.directory.epoch,
            "directory_version": manager.directory.version,
            "memory_nodes": len(manager.directory.nodes),
            "memory_nodes_serving": sum(manager.serving.values()),
            "recoveries": len(manager.recoveries),
            "recovered": manager.recovered,
        }
        return Status(MANAGER, "serving", figures)
