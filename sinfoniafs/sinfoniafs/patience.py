"""A caller waits no longer than the mount allows, however many minitransactions its request takes.

A request begins with so many seconds.  Every minitransaction and every wait for a lock gets what is
left of them.  Background work has the same time for each minitransaction.

A request may be given up from outside.  If its program is being killed, it is given up at once.  If
its program was only interrupted, it is not given up while it changes something, because the program
would believe that nothing was changed.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import anyio

# How long a request may take if a memory node does not answer: longer than a memory node's restart
# or a fail-over.
TIMEOUT_S: Final = 30.0


class Patience:
    """The time of one request, and the ways to give the request up."""

    def __init__(self, seconds: float) -> None:
        self.started = anyio.current_time()
        self.deadline = self.started + seconds
        self.scope = anyio.CancelScope()
        self._changing: set[anyio.CancelScope] = set()

    def interrupt(self) -> None:
        """Give the request up as soon as it is not changing anything."""
        self.scope.cancel()

    def abandon(self) -> None:
        """Give the request up now; what became of its change stays unknown."""
        self.scope.cancel()
        for each in self._changing:
            each.cancel()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """While this lasts, the request can be abandoned but not interrupted."""
        with anyio.CancelScope(shield=True) as scope:
            self._changing.add(scope)
            try:
                yield
            finally:
                self._changing.remove(scope)


_current: ContextVar[Patience | None] = ContextVar("patience", default=None)


@contextmanager
def limited(seconds: float) -> Iterator[Patience]:
    """A request that has so many seconds; ``scope.cancelled_caught``: it was given up."""
    patience = Patience(seconds)
    token = _current.set(patience)
    try:
        with patience.scope:
            yield patience
    finally:
        _current.reset(token)


@contextmanager
def changing() -> Iterator[None]:
    """What is done in this context may change something: see ``Patience.changing``."""
    patience = _current.get()
    if patience is None:
        yield
        return
    with patience.changing():
        yield


def time_left(otherwise: float = math.inf) -> float:
    """Seconds that the current request still has; ``otherwise`` where there is no request."""
    patience = _current.get()
    return otherwise if patience is None else max(0.0, patience.deadline - anyio.current_time())
