"""How a client finds the cluster: it asks any manager or memory node for the directory.

A process that answers may be behind, so of several answers the newest counts, and a manager's is
waited for the longest.
"""

import time
from collections.abc import Sequence

import zmq

from sinfonia import monotonic
from sinfonia.endpoints import endpoints_of, normalise_endpoint
from sinfonia.errors import ConfigError, ProtocolError, Unreachable
from sinfonia.protocol.membership.messages import Directory
from sinfonia.protocol.messages import MANAGER, PROTOCOL_VERSION, GetDirectory, Requests
from sinfonia.transport.codec import decode_replies, encode_requests
from sinfonia.transport.keys import Keys
from sinfonia.transport.zeromq import connect_dealer, drain, try_send

# Asking costs nothing, and a connection takes a moment to come up.
ASK_EVERY = 0.01
ASK_AGAIN = 0.5

# Once one has answered, the others that were asked get so long: they may know better.
OTHERS_PATIENCE = 0.1

_QUESTION = encode_requests(
    Requests(version=PROTOCOL_VERSION, client=0, incarnation=0, floor=0, requests=[GetDirectory()])
)


class Inquiry:
    """One process that is asked for the directory, without waiting: call ``poll``."""

    def __init__(
        self, context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str, keys: Keys | None = None
    ) -> None:
        """Raises ConfigError."""
        self.is_manager = False  # known once it has answered
        self._endpoint = endpoint
        self._socket = connect_dealer(context, normalise_endpoint(endpoint), keys)
        self._ask_at = 0.0
        self._answered = False

    def poll(self, now: float) -> Directory | None:
        """The answer, if it has come; else ask, again if it is time to.

        Raises Unreachable if what answers there does not speak our protocol.
        """
        for frames in drain(self._socket):
            try:
                batch = decode_replies(frames)
            except ProtocolError as error:
                raise Unreachable(
                    f"{self._endpoint} answers, but is no process of this cluster: {error}"
                ) from error
            for reply in batch.replies:
                if isinstance(reply, Directory):
                    self.is_manager = batch.node == MANAGER
                    self._answered = True
                    return reply
        if not self._answered and now >= self._ask_at and try_send(self._socket, _QUESTION):
            self._ask_at = now + ASK_AGAIN
        return None

    def ask_again(self, *, at: float) -> None:
        """Another answer is wanted, and asked for no sooner than ``at``."""
        self._answered = False
        self._ask_at = at

    def close(self) -> None:
        """Close the connection."""
        self._socket.close(0)


class DirectorySearch:
    """The directory, from whichever of several processes knows best; none is waited for alone.

    Call ``poll`` until it gives one; ``failure`` says why there is none yet.
    """

    def __init__(self, endpoints: Sequence[str], *, usable: bool, keys: Keys | None = None) -> None:
        """``usable``: go on until some memory node has registered.  Raises ConfigError."""
        self._endpoints = endpoints
        self._keys = keys
        self._usable = usable
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._unanswered: list[Inquiry] = []
        self._best: Directory | None = None
        self._unusable: Directory | None = None
        self._refusal: Unreachable | None = None
        self._decide_at = 0.0
        try:
            for endpoint in endpoints:
                self._unanswered.append(Inquiry(self._context, endpoint, keys))
        except ConfigError:
            self.close()
            raise

    def poll(self, now: float) -> Directory | None:
        """The newest directory, once it is time to decide.  Raises Unreachable."""
        for inquiry in list(self._unanswered):
            try:
                directory = inquiry.poll(now)
            except Unreachable as refusal:
                self._refusal = refusal
                self._dismiss(inquiry)
            else:
                if directory is not None:
                    self._on_answer(inquiry, directory, now)
        if self._best is not None and (not self._unanswered or now >= self._decide_at):
            return self._best
        if self._refusal is not None and self._best is None and not self._unanswered:
            raise self._refusal
        return None

    def failure(self, timeout: float) -> Unreachable:
        """Why there was no directory within ``timeout``."""
        if self._unusable is not None:
            return Unreachable(
                f"no memory node of the cluster {self._unusable.cluster!r} has reported within "
                f"{timeout:g} s; `sinfonia status` shows which should have"
            )
        return Unreachable(
            f"no manager or memory node answers at {', '.join(self._endpoints)} within "
            f"{timeout:g} s; is the cluster up, and is this its address? {key_hint(self._keys)}"
        )

    def close(self) -> None:
        """Close all connections."""
        self._context.destroy(linger=0)

    def _on_answer(self, inquiry: Inquiry, directory: Directory, now: float) -> None:
        if self._usable and not any(entry.identity for entry in directory.nodes):
            self._unusable = directory
            inquiry.ask_again(at=now + ASK_AGAIN)
            return
        self._dismiss(inquiry)
        if self._best is None:
            self._decide_at = now + OTHERS_PATIENCE
        if inquiry.is_manager:
            self._decide_at = now
        if self._best is None or self._best.version < directory.version:
            self._best = directory

    def _dismiss(self, inquiry: Inquiry) -> None:
        self._unanswered.remove(inquiry)
        inquiry.close()


def key_hint(keys: Keys | None) -> str:
    """What to check if no process answers: one with keys says nothing to peers it refuses."""
    if keys is None:
        return "If it has keys, name yours with --keys or keys=."
    return (
        f"Is the key of {keys.name!r} ({keys.source}) on the cluster's allow-list, is it for this "
        "cluster, and does the cluster use keys at all?"
    )


def role_hint(keys: Keys | None) -> str:
    """What to check if the process asked says nothing: the key's role may not suffice."""
    return "" if keys is None else f" May {keys.name!r} do this? It takes the role operator."


def ask_for_directory(
    endpoint: str, *, timeout: float = 5.0, usable: bool = False, keys: Keys | None = None
) -> Directory:
    """The directory, from a manager or memory node; ``endpoint`` may be several, with commas.

    ``usable``: not before some memory node has registered.  Raises Unreachable or ConfigError.
    """
    return search_directory(endpoints_of(endpoint), timeout=timeout, usable=usable, keys=keys)


def search_directory(
    endpoints: Sequence[str], *, timeout: float, usable: bool, keys: Keys | None = None
) -> Directory:
    """As ``ask_for_directory``, from the processes at ``endpoints``."""
    search = DirectorySearch(endpoints, usable=usable, keys=keys)
    deadline = monotonic.seconds() + timeout
    try:
        while (now := monotonic.seconds()) < deadline:
            directory = search.poll(now)
            if directory is not None:
                return directory
            time.sleep(ASK_EVERY)
    finally:
        search.close()
    raise search.failure(timeout)
