"""A client that knows one process and never learns: what it is told must be right all the same."""

import time

import zmq

from sinfonia.addresses import MemoryNodeId
from sinfonia.minitransaction import ReadItem
from sinfonia.protocol.membership.messages import Directory
from sinfonia.protocol.messages import PROTOCOL_VERSION, ExecCommit, Reply, Requests
from sinfonia.transport.codec import decode_replies, encode_requests
from sinfonia.transport.zeromq import connect_dealer, drain, try_send

# Any number that no client of the test draws.
CLIENT = 77

PATIENCE = 30.0
ASK_EVERY_MS = 20


class FixedEndpointClient:
    """It reads from one member that was the primary once, even after another took over."""

    def __init__(self, directory: Directory, node: int) -> None:
        entry = directory.entry(MemoryNodeId(node))
        assert entry is not None
        self._entry = entry
        self._epoch = directory.epoch
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = connect_dealer(self._context, entry.endpoint)
        self._counter = 0

    def ask(self) -> None:
        """Send a read, if there is a connection."""
        self._counter += 1
        read = ExecCommit(counter=self._counter, epoch=self._epoch, reads=[ReadItem(0, 8)])
        batch = Requests(PROTOCOL_VERSION, CLIENT, self._entry.incarnation, self._counter, [read])
        try_send(self._socket, encode_requests(batch))

    def forget_answers(self) -> None:
        """What has come so far was said before."""
        for _ in drain(self._socket):
            pass

    def replies_until(self, last: type[Reply]) -> list[Reply]:
        """Ask again and again; what comes until there is a reply of the kind ``last``."""
        replies: list[Reply] = []
        deadline = time.monotonic() + PATIENCE
        while not any(isinstance(reply, last) for reply in replies):
            assert time.monotonic() < deadline, f"nothing but {replies} came"
            replies += self._ask_and_listen()
        return replies

    def replies_within(self, seconds: float) -> list[Reply]:
        """Ask again and again; what comes meanwhile."""
        replies: list[Reply] = []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            replies += self._ask_and_listen()
        return replies

    def close(self) -> None:
        """Hang up."""
        self._context.destroy(linger=0)

    def _ask_and_listen(self) -> list[Reply]:
        self.ask()
        self._socket.poll(ASK_EVERY_MS)
        return [reply for frames in drain(self._socket) for reply in decode_replies(frames).replies]
