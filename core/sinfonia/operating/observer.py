"""An observer asks all processes of a cluster at once, and waits for none of them too long.

Dead processes cost one time limit and not one each.  Every process that is up can tell the
directory, which names the processes of the cluster: one endpoint is enough to find the others.
"""

import time
from collections.abc import Collection, Iterable, Iterator, KeysView, Sequence
from types import TracebackType
from typing import Self

import zmq

from sinfonia.client.seed import ASK_AGAIN, ASK_EVERY, role_hint
from sinfonia.endpoints import normalise_endpoint
from sinfonia.errors import ProtocolError, Unreachable
from sinfonia.operating.refusals import OperationRefused
from sinfonia.operating.sights import ANSWER_WITHIN, Sight
from sinfonia.protocol.membership.messages import (
    Changed,
    Directory,
    NotLeading,
    Recreated,
    UnsettledTids,
)
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    GetDirectory,
    GetStatus,
    Reply,
    Request,
    Requests,
    Status,
)
from sinfonia.transport.codec import decode_replies, encode_requests
from sinfonia.transport.keys import Keys
from sinfonia.transport.zeromq import connect_dealer, drain, is_connectable, try_send

# Answers to the two questions of a look come together, or the second never comes; and a process
# that was silent at the last look is probably down.
GRACE = 0.1

# A manager answers an operator once it has stored the change; and leadership may pass meanwhile.
MANAGERS_ANSWER_WITHIN = 10.0


class Correspondence:
    """Connections to many processes; a question is asked again until it is answered."""

    def __init__(self, endpoints: Iterable[str], keys: Keys | None) -> None:
        """Connect.  Raises ConfigError."""
        self._keys = keys
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._poller = zmq.Poller()
        self._ask_at: dict[str, float] = {}
        try:
            for endpoint in endpoints:
                self.reach(endpoint)
        except BaseException:
            self.close()
            raise

    @property
    def endpoints(self) -> KeysView[str]:
        """Those that can be asked."""
        return self._sockets.keys()

    def reach(self, endpoint: str) -> None:
        """Connect to ``endpoint``, too."""
        if endpoint not in self._sockets:
            socket = connect_dealer(self._context, normalise_endpoint(endpoint), self._keys)
            self._sockets[endpoint] = socket
            self._poller.register(socket, zmq.POLLIN)

    def begin(self) -> None:
        """Begin a new question: late answers to the one before are dropped."""
        self._ask_at.clear()
        for socket in self._sockets.values():
            for _ in drain(socket):
                pass

    def ask(self, questions: Sequence[Request], endpoints: Iterable[str]) -> None:
        """Ask ``endpoints``, as far as that has not just been done."""
        now = time.monotonic()
        batch = encode_requests(Requests(PROTOCOL_VERSION, 0, 0, 0, list(questions)))
        for endpoint in endpoints:
            if now >= self._ask_at.get(endpoint, now) and try_send(self._sockets[endpoint], batch):
                self._ask_at[endpoint] = now + ASK_AGAIN

    def receive(self) -> Iterator[tuple[str, Reply]]:
        """What comes within a moment, and from where."""
        if not self._poller.poll(round(ASK_EVERY * 1e3)):
            return
        for endpoint, socket in list(self._sockets.items()):
            for frames in drain(socket):
                try:
                    replies = decode_replies(frames).replies
                except ProtocolError:
                    continue  # the sender is no process of this cluster
                for reply in replies:
                    yield endpoint, reply

    def close(self) -> None:
        """Close the connections."""
        for socket in self._sockets.values():
            socket.close(0)
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Observer(Correspondence):
    """Looks at a cluster, once or again and again.

    ``follow``: look at the processes, too, that the directory names.
    """

    def __init__(
        self, endpoints: Iterable[str], keys: Keys | None = None, *, follow: bool = True
    ) -> None:
        super().__init__(endpoints, keys)
        self._follow = follow
        self._directory: Directory | None = None
        self._silent: set[str] = set()

    def look(self, timeout: float = ANSWER_WITHIN, *, ended: Collection[str] = ()) -> Sight:
        """Ask all processes, for at most ``timeout`` seconds.

        ``ended``: endpoints of processes that are known not to run.  The look ends sooner if only
        these do not answer, or those that were silent the last time.
        """
        self.begin()
        self._silent.update(ended)
        statuses: dict[str, Status] = {}
        begun = time.monotonic()
        enough = begun + timeout
        while (now := time.monotonic()) < enough:
            self.ask((GetStatus(), GetDirectory()), self.endpoints - statuses.keys())
            for endpoint, reply in self.receive():
                if isinstance(reply, Status):
                    statuses[endpoint] = reply
                elif isinstance(reply, Directory):
                    self._learn(reply)
            missing = self.endpoints - statuses.keys()
            if not missing and self._directory is not None:
                break
            if missing <= self._silent:
                enough = min(enough, now + GRACE)
        self._silent = set(self.endpoints - statuses.keys())
        return Sight(begun, statuses, self._directory)

    def _learn(self, directory: Directory) -> None:
        if self._directory is not None and directory.version <= self._directory.version:
            return
        self._directory = directory
        if self._follow:
            for endpoint in members_of(directory):
                if is_connectable(endpoint):
                    self.reach(endpoint)


def members_of(directory: Directory) -> Iterator[str]:
    """The endpoints of all that the directory names."""
    yield from directory.managers
    for entry in directory.nodes:
        yield entry.endpoint
        for replica in entry.replicas:
            yield replica.endpoint


def ask_all(
    endpoints: Iterable[str], keys: Keys | None = None, *, timeout: float = ANSWER_WITHIN
) -> dict[str, Status]:
    """What the processes at ``endpoints`` say within ``timeout`` seconds, by endpoint."""
    with Observer(endpoints, keys, follow=False) as observer:
        return observer.look(timeout).statuses


def ask_managers(
    managers: Iterable[str],
    request: Request,
    keys: Keys | None = None,
    *,
    timeout: float = MANAGERS_ANSWER_WITHIN,
) -> Changed | Recreated | UnsettledTids:
    """Have the manager that leads carry out ``request``, which must be safe to repeat; its answer.

    Raises OperationRefused, or Unreachable if no manager that leads answers.
    """
    followers: set[str] = set()
    deadline = time.monotonic() + timeout
    with Correspondence(managers, keys) as correspondence:
        while time.monotonic() < deadline:
            # All of them, also those that did not lead: one may have begun to meanwhile.
            correspondence.ask([request], correspondence.endpoints)
            for endpoint, reply in correspondence.receive():
                if isinstance(reply, UnsettledTids):
                    return reply
                if isinstance(reply, Changed | Recreated):
                    if reply.refusal:
                        raise OperationRefused(reply.refusal)
                    return reply
                if isinstance(reply, NotLeading):
                    followers.add(endpoint)
                    if is_connectable(reply.leader):
                        correspondence.reach(reply.leader)
        asked = ", ".join(correspondence.endpoints)
    if followers:
        raise Unreachable(f"none of the managers leads ({asked}); is etcd up?")
    raise Unreachable(
        f"no manager answers at {asked} within {timeout:g} s; is it up?{role_hint(keys)}"
    )
