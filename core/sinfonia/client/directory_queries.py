"""A client asks all processes that may know where the memory nodes are for the directory.

While a primary fails over, some managers and members are dead or do not know yet, and the client
cannot tell which.  So it asks all at once, on connections that are made for it and closed when
they have not been needed for a while.
"""

import math
from collections.abc import Iterable

import zmq

from sinfonia.client.seed import Inquiry
from sinfonia.errors import ConfigError, Unreachable
from sinfonia.protocol.membership.messages import Directory
from sinfonia.transport.keys import Keys
from sinfonia.transport.zeromq import is_connectable

# In a large cluster so many are asked, and others the next time.
QUERIES_MAX = 32

# Connections that were not needed for so long are closed.
LET_GO_AFTER = 10.0


class DirectoryQueries:
    """The connections over which one client asks for the directory.

    ``let_go_at`` is when ``poll`` closes them.
    """

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", keys: Keys | None = None) -> None:
        self.let_go_at = math.inf
        self._context = context
        self._keys = keys
        self._inquiries: dict[str, Inquiry] = {}

    def ask(self, endpoints: Iterable[str], now: float) -> None:
        """Ask the first QUERIES_MAX of ``endpoints``; what is no endpoint does not count."""
        asked: dict[str, Inquiry] = {}
        for endpoint in dict.fromkeys(filter(is_connectable, endpoints)):
            if len(asked) == QUERIES_MAX:
                break
            inquiry = self._inquiries.pop(endpoint, None)
            try:
                asked[endpoint] = inquiry or Inquiry(self._context, endpoint, self._keys)
            except ConfigError:
                continue
            asked[endpoint].ask_again(at=now)
        self.close()
        self._inquiries = asked
        self.let_go_at = now + LET_GO_AFTER

    def poll(self, now: float) -> list[Directory]:
        """The directories that have come."""
        if now >= self.let_go_at:
            self.close()
        found = []
        for endpoint, inquiry in list(self._inquiries.items()):
            try:
                directory = inquiry.poll(now)
            except Unreachable:
                self._inquiries.pop(endpoint).close()
                continue
            if directory is not None:
                found.append(directory)
        return found

    def close(self) -> None:
        """Close all connections; asking opens them again."""
        for inquiry in self._inquiries.values():
            inquiry.close()
        self._inquiries.clear()
        self.let_go_at = math.inf
