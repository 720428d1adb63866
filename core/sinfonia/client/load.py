"""The load of memory nodes, as their users ask for it (section 3.6).

A library that moves data to where there is less to do decides by this; Sinfonia itself moves
nothing.  Counts are those of the primary, in its present life: after a fail-over or a restart they
begin at nothing, and a window says how many seconds it covers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import Unreachable
from sinfonia.protocol.load.inquiry import LoadInquiry
from sinfonia.protocol.load.windows import LOAD_WINDOWS
from sinfonia.protocol.messages import Load, LoadWindow


@dataclass(frozen=True, slots=True)
class WindowLoad:
    """What was done in the last ``seconds``, which is about ``window`` if the node is old enough.

    executed: minitransactions that committed; aborted: compares that failed and whatever else was
    refused; retried: met busy locks, so that their clients try again.  A minitransaction over
    several memory nodes counts at each.
    """

    window: float
    seconds: float
    executed: int = 0
    aborted: int = 0
    retried: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    @property
    def executed_rate(self) -> float:
        """Minitransactions that committed, per second."""
        return self._per_second(self.executed)

    @property
    def aborted_rate(self) -> float:
        """Minitransactions that were refused, per second."""
        return self._per_second(self.aborted)

    @property
    def retried_rate(self) -> float:
        """Busy locks met, per second."""
        return self._per_second(self.retried)

    @property
    def bytes_read_rate(self) -> float:
        """Bytes read, per second."""
        return self._per_second(self.bytes_read)

    @property
    def bytes_written_rate(self) -> float:
        """Bytes written, per second."""
        return self._per_second(self.bytes_written)

    def _per_second(self, count: int) -> float:
        return count / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """The load of one memory node: the paper's windows, shortest first.

    ``total`` is that of all minitransactions, ``by_tag`` of those with each tag; "" stands for
    those without one, and the memory node counts tags beyond a limit as "other".
    """

    node: MemoryNodeId
    total: tuple[WindowLoad, ...]
    by_tag: Mapping[str, tuple[WindowLoad, ...]]

    def window(self, seconds: float, tag: str | None = None) -> WindowLoad:
        """The window of ``seconds``, one of LOAD_WINDOWS: of all, or of those with ``tag``.

        A tag that was not seen did nothing.  Raises ValueError if there is no such window.
        """
        windows = self.total if tag is None else self.by_tag.get(tag, _nothing(self.total))
        for each in windows:
            if each.window == seconds:
                return each
        known = ", ".join(f"{length:g}" for length in LOAD_WINDOWS)
        raise ValueError(f"there is no window of {seconds} seconds; they are {known}")


def loads_of(inquiry: LoadInquiry) -> dict[MemoryNodeId, NodeLoad]:
    """What all memory nodes answered.  Raises Unreachable (definite) if one did not."""
    silent = inquiry.unanswered
    if silent:
        listed = ", ".join(map(str, silent))
        raise Unreachable(f"memory node {listed} did not say its load in time; is it up?")
    return {node: node_load(node, load) for node, load in sorted(inquiry.answers.items())}


def node_load(node: MemoryNodeId, load: Load) -> NodeLoad:
    """What a memory node said, as its users see it."""
    by_tag = {
        tag: tuple(
            _window(length, told) for length, told in zip(LOAD_WINDOWS, windows, strict=False)
        )
        for tag, windows in load.classes.items()
    }
    total = _sum(by_tag.values()) or tuple(WindowLoad(length, 0.0) for length in LOAD_WINDOWS)
    return NodeLoad(node, total, MappingProxyType(by_tag))


def _window(length: float, told: LoadWindow) -> WindowLoad:
    return WindowLoad(
        length,
        told.seconds,
        told.executed,
        told.aborted,
        told.retried,
        told.bytes_read,
        told.bytes_written,
    )


def _sum(classes: Iterable[Sequence[WindowLoad]]) -> tuple[WindowLoad, ...]:
    """All classes together; they were counted over the same seconds."""
    return tuple(
        WindowLoad(
            windows[0].window,
            windows[0].seconds,
            sum(each.executed for each in windows),
            sum(each.aborted for each in windows),
            sum(each.retried for each in windows),
            sum(each.bytes_read for each in windows),
            sum(each.bytes_written for each in windows),
        )
        for windows in zip(*classes, strict=False)
    )


def _nothing(windows: Sequence[WindowLoad]) -> tuple[WindowLoad, ...]:
    return tuple(WindowLoad(each.window, each.seconds) for each in windows)
