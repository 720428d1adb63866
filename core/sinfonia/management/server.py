"""The manager on real sockets: a ROUTER for those that ask, a DEALER to every member.

See ``driver`` for the order in which things happen.
"""

import logging
import secrets
import signal
import time
from collections.abc import Sequence
from types import FrameType

import zmq

from sinfonia import monotonic
from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import ProtocolError
from sinfonia.figures import manager as rows
from sinfonia.figures.listening import listening_figures
from sinfonia.figures.tables import Given
from sinfonia.management.driver import ManagerDriver
from sinfonia.management.store import Store
from sinfonia.protocol.effects import ReplyTo
from sinfonia.protocol.membership.manager import (
    ManagementRequest,
    Manager,
    ManagerEffect,
    ManagerSettings,
)
from sinfonia.protocol.membership.messages import GetUnsettled, Reconfigure, Register, Settle
from sinfonia.protocol.messages import (
    MANAGER,
    PROTOCOL_VERSION,
    GetDirectory,
    GetStatus,
    Replies,
    Reply,
    Request,
    Status,
)
from sinfonia.status_snapshot import SnapshotPublisher, StatusSnapshot
from sinfonia.transport.admission import Admission
from sinfonia.transport.codec import decode_replies, encode_requests
from sinfonia.transport.keys import Keys, Security
from sinfonia.transport.log_throttle import LogThrottle
from sinfonia.transport.zeromq import connect_dealer, drain, is_connectable, try_send

log = logging.getLogger(__name__)

# How soon a signal is noticed.
IDLE_WAIT_MS = 200

# Seconds for which a connection that nothing was sent over is kept: a member that was removed must
# have the time to hear of it.
IDLE_CONNECTION = 5.0

Place = tuple[MemoryNodeId, str]


class ManagerServer:
    """One manager."""

    def __init__(
        self,
        *,
        endpoint: str,
        store: Store,
        settings: ManagerSettings,
        managers: Sequence[str] = (),
        security: Security | None = None,
        plain: bool = False,
        publisher: SnapshotPublisher | None = None,
    ) -> None:
        """Bind ``endpoint``; ``serve`` does the rest, and closes the store at its end.

        ``store``: see ``open_embedded_store`` and ``EtcdStore``.  ``managers``: where others reach
        each of the cluster's managers, this one included; empty if that is not known.
        ``security``: the cluster's keys; ``plain``: it may do without them off loopback.
        ``publisher``: where to say how it is, again and again.
        Raises ConfigError.
        """
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._admission = Admission(
                self._context, endpoint, security, plain=plain, now=time.monotonic()
            )
        except BaseException:
            self._context.term()
            store.close()
            raise
        self._log_throttle = LogThrottle(log)
        self._keys: Keys | None = None if security is None else security.keys
        self._store = store
        self._publisher = publisher
        self.manager = Manager(
            client=secrets.randbits(64),
            settings=settings,
            directory=store.directory,
            now=time.monotonic(),
            managers=managers,
            leading=store.leading,
        )
        self._driver = ManagerDriver(self.manager, store, reply=self._reply)
        self._poller = zmq.Poller()
        for socket in self._admission.sockets:
            self._poller.register(socket, zmq.POLLIN)
        self._members: dict[Place, zmq.Socket[bytes]] = {}
        self._used_at: dict[Place, float] = {}
        self._stopping = False

    def serve(self) -> None:
        """Serve until ``stop`` or a signal.  Raises StorageError if the store is of no use."""
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)
        try:
            while not self._stopping:
                wait = round((self.manager.next_wakeup() - time.monotonic()) * 1e3)
                self._poller.poll(max(1, min(IDLE_WAIT_MS, wait)))
                self.wake_up()
        finally:
            self.close()

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """End ``serve`` soon; may be called from a signal handler."""
        self._stopping = True

    def close(self) -> None:
        """Let go of sockets and the store."""
        for socket in self._members.values():
            socket.close(0)
        self._admission.close()
        self._context.term()
        self._store.close()

    def wake_up(self) -> None:
        """Handle whatever has come, and what the clock says."""
        now = time.monotonic()
        driver, manager = self._driver, self.manager
        driver.refresh(now)
        for route, batch in self._admission.batches(now):
            for request in batch.requests:
                try:
                    driver.carry_out(self._answer(route, request, now), now)
                except ProtocolError as error:
                    self._log_throttle.warn("malformed", error)
        for (node, endpoint), socket in self._members.items():
            for frames in drain(socket):
                try:
                    driver.carry_out(manager.on_replies(node, decode_replies(frames), now), now)
                except ProtocolError as error:
                    self._log_throttle.warn(f"malformed endpoint={endpoint}", error)
        driver.carry_out(manager.on_tick(now), now)
        for node, endpoint, batch in driver.take_batches():
            self._used_at[node, endpoint] = now
            try_send(self._socket((node, endpoint)), encode_requests(batch))
        self._close_idle(now)
        if self._publisher is not None and self._publisher.is_due(monotonic.seconds()):
            self._publisher.publish(self._snapshot(now))

    def _answer(self, route: bytes, request: Request, now: float) -> list[ManagerEffect]:
        if isinstance(request, GetDirectory):
            return [ReplyTo(route, self.manager.directory)]
        if isinstance(request, GetStatus):
            return [ReplyTo(route, self._status(now))]
        if isinstance(request, ManagementRequest):
            # An impossible place in the directory would stop each process that reads it, for good.
            if isinstance(request, Register) and not is_connectable(request.endpoint):
                raise ProtocolError(f"no process can connect to {request.endpoint!r}")
            if isinstance(request, Register | Reconfigure):
                # Members repeat these until they are answered; operators are few, and remembered.
                self._log_throttle.note(
                    f"request kind={type(request).__name__}", f"node={request.node}"
                )
            elif isinstance(request, Settle):
                log.info("request kind=Settle tid=%s force=%d", request.tid, request.force)
            elif not isinstance(request, GetUnsettled):
                log.info("request kind=%s node=%d", type(request).__name__, request.node)
            return self.manager.on_request(route, request, now)
        raise ProtocolError(f"{type(request).__name__} is not for a manager")

    def _reply(self, route: bytes, reply: Reply) -> None:
        epoch = self.manager.directory.epoch
        self._admission.send(
            route,
            Replies(
                version=PROTOCOL_VERSION, node=MANAGER, incarnation=0, epoch=epoch, replies=[reply]
            ),
        )

    def _socket(self, place: Place) -> "zmq.Socket[bytes]":
        socket = self._members.get(place)
        if socket is None:
            socket = self._members[place] = connect_dealer(self._context, place[1], self._keys)
            self._poller.register(socket, zmq.POLLIN)
        return socket

    def _close_idle(self, now: float) -> None:
        """Members are probed often; what is idle leads to where none is any more."""
        idle = [place for place, used in self._used_at.items() if now - used > IDLE_CONNECTION]
        for place in idle:
            del self._used_at[place]
            socket = self._members.pop(place)
            self._poller.unregister(socket)
            socket.close(0)

    def _snapshot(self, now: float) -> StatusSnapshot:
        admission, status = self._admission, self._status(now)
        figures = {**status.figures, **listening_figures(admission)}
        return StatusSnapshot(monotonic.seconds(), None, status.state, well=True, figures=figures)

    def _status(self, now: float) -> Status:
        kept = Given(rows.MANAGER)
        kept[rows.STORE] = self._store.kind
        return Status(MANAGER, "serving", {**kept.values, **self.manager.figures(now)})
