"""A caller waits no longer than the mount allows, however many minitransactions its request takes.

A request begins with so many seconds.  Every minitransaction and every wait for a lock gets what is
left of them.  Work that no request asked for has the same time for each minitransaction.

A request may be given up from outside: at once if the program is being killed; but if it was only
interrupted, not while something is being changed, for the program would take it for not done.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import anyio

# How long a request may take that meets a memory node that does not answer: a restart of one, or a
# fail-over, with room to spare.
TIMEOUT_S: Final = 30.0


class Patience:
    """That of one request."""

    def __init__(self, seconds: float) -> None:
        self.started = anyio.current_time()
        self.deadline = self.started + seconds
        self.scope = anyio.CancelScope()
        self._changing: set[anyio.CancelScope] = set()

    def interrupt(self) -> None:
        """Give the request up as soon as it changes nothing."""
        self.scope.cancel()

    def abandon(self) -> None:
        """Give the request up now; nobody will learn what became of it."""
        self.scope.cancel()
        for each in self._changing:
            each.cancel()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """While this lasts, the request is abandoned but not interrupted."""
        with anyio.CancelScope(shield=True) as scope:
            self._changing.add(scope)
            try:
                yield
            finally:
                self._changing.remove(scope)


_current: ContextVar[Patience | None] = ContextVar("patience", default=None)


@contextmanager
def limited(seconds: float) -> Iterator[Patience]:
    """A request with so many seconds; ``scope.cancelled_caught`` tells whether it was given up."""
    patience = Patience(seconds)
    token = _current.set(patience)
    try:
        with patience.scope:
            yield patience
    finally:
        _current.reset(token)


@contextmanager
def changing() -> Iterator[None]:
    """What is done meanwhile may change something: see ``Patience.changing``."""
    patience = _current.get()
    if patience is None:
        yield
        return
    with patience.changing():
        yield


def time_left(otherwise: float = math.inf) -> float:
    """Seconds that the request at work still has, and ``otherwise`` where there is none."""
    patience = _current.get()
    return otherwise if patience is None else max(0.0, patience.deadline - anyio.current_time())
