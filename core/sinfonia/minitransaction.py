"""A minitransaction is chosen whole before any of it runs.

Section 3.3: compare items, read items and write items are only collected here; nothing is sent
until ``execute``.  If every compare item matches, the read items are returned (as they were before
the write items) and the write items are applied, atomically over all memory nodes named; if one
does not match, nothing happens and the result says which.

Limits are checked as items are added, so that a minitransaction that could never be executed is
refused where it was built.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Generic, Protocol, TypeVar

import msgspec

from sinfonia.addresses import ADDRESS_MAX, MemoryNodeId
from sinfonia.errors import LimitExceeded, OutOfRange

# One minitransaction is executed in one step of a single-threaded memory node, so its size bounds
# how long everybody else waits: 16 MiB and 4096 items are some 10 ms.
ITEMS_MAX = 4096
BYTES_MAX = 16 * 1024 * 1024

# Checked while decoding what came from the network, at no cost to the code that uses it.
Offset = Annotated[int, msgspec.Meta(ge=0, le=ADDRESS_MAX)]
Length = Annotated[int, msgspec.Meta(ge=0, le=BYTES_MAX)]

ResultT_co = TypeVar("ResultT_co", covariant=True)


class CompareItem(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The bytes at ``address`` must equal ``expected``."""

    address: Offset
    expected: bytes


class ReadItem(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Return the ``length`` bytes at ``address``."""

    address: Offset
    length: Length


class WriteItem(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Put ``data`` at ``address``."""

    address: Offset
    data: bytes


class NodeItems:
    """The projection of a minitransaction on one memory node (the paper's pi_q).

    ``end`` is the end of the item that reaches furthest.
    """

    __slots__ = ("compares", "end", "node", "reads", "writes")

    def __init__(self, node: MemoryNodeId) -> None:
        self.node = node
        self.compares: list[CompareItem] = []
        self.reads: list[ReadItem] = []
        self.writes: list[WriteItem] = []
        self.end = 0


class FailedCompare(msgspec.Struct, frozen=True, gc=False):
    """A compare item that did not match.

    ``index`` is the position of the item among the compare items, in order of addition;
    ``found`` is what the memory node held instead.  Each memory node reports for itself: what was
    found at two of them need not have been there at one moment.
    """

    index: int
    node: MemoryNodeId
    address: int
    expected: bytes
    found: bytes


class Result(msgspec.Struct, frozen=True, gc=False):
    """What became of a minitransaction whose outcome is known.

    ``reads`` holds the bytes of the read items in order of addition, if it committed (or if
    ``reads_on_failure`` was asked for); ``attempts`` counts the tids it took, busy locks included.
    """

    committed: bool
    reads: Sequence[bytes] = ()
    failed_compares: Sequence[FailedCompare] = ()
    attempts: int = 1


class Executor(Protocol[ResultT_co]):
    """What can execute a minitransaction: a ``Cluster`` gives an awaitable of ``Result``, a
    ``BlockingCluster`` the ``Result`` itself."""

    def execute(
        self, minitransaction: "Minitransaction[Any]", *, timeout: float | None = None
    ) -> ResultT_co: ...


class Minitransaction(Generic[ResultT_co]):
    """Compare, read and write items, to be executed atomically (Figure 2 of the paper).

    Items that overlap are well defined: reads and compares see memory before any write of this
    minitransaction, and of two writes to the same byte the one added later wins.  It may be
    executed again and again; each time is a minitransaction of its own.
    """

    __slots__ = (
        "byte_count",
        "compare_places",
        "executor",
        "item_count",
        "items",
        "read_places",
        "reads_on_failure",
    )

    def __init__(self, executor: Executor[ResultT_co], reads_on_failure: bool = False) -> None:
        self.executor = executor
        self.reads_on_failure = reads_on_failure
        self.items: dict[MemoryNodeId, NodeItems] = {}
        # For each read and compare item, in order of addition: (node, position among that node's).
        self.read_places: list[tuple[MemoryNodeId, int]] = []
        self.compare_places: list[tuple[MemoryNodeId, int]] = []
        self.item_count = 0
        self.byte_count = 0

    def compare(self, node: int, address: int, expected: bytes) -> int:
        """Commit only if the bytes at ``address`` of ``node`` equal ``expected``.

        Returns the item's index, as in ``Result.failed_compares``.
        Raises LimitExceeded or OutOfRange; both are definite.
        """
        items = self._admit(node, address, len(expected))
        self.compare_places.append((items.node, len(items.compares)))
        items.compares.append(CompareItem(address, bytes(expected)))
        return len(self.compare_places) - 1

    def read(self, node: int, address: int, length: int) -> int:
        """Return ``length`` bytes at ``address`` of ``node`` if it commits.

        Returns the item's index in ``Result.reads``.
        Raises LimitExceeded or OutOfRange; both are definite.
        """
        items = self._admit(node, address, length)
        self.read_places.append((items.node, len(items.reads)))
        items.reads.append(ReadItem(address, length))
        return len(self.read_places) - 1

    def write(self, node: int, address: int, data: bytes) -> None:
        """Put ``data`` at ``address`` of ``node`` if it commits.

        Raises LimitExceeded or OutOfRange; both are definite.
        """
        items = self._admit(node, address, len(data))
        items.writes.append(WriteItem(address, bytes(data)))

    def execute(self, timeout: float | None = None) -> ResultT_co:
        """Execute and commit; see ``Cluster.execute``."""
        return self.executor.execute(self, timeout=timeout)

    @property
    def read_only(self) -> bool:
        """Whether no item writes, at any memory node."""
        return not any(items.writes for items in self.items.values())

    def _admit(self, node: int, address: int, length: int) -> NodeItems:
        if self.item_count >= ITEMS_MAX:
            raise LimitExceeded(f"a minitransaction has at most {ITEMS_MAX} items")
        if self.byte_count + length > BYTES_MAX:
            raise LimitExceeded(f"the items of a minitransaction have at most {BYTES_MAX} bytes")
        end = address + length
        if address < 0 or length < 0 or end > ADDRESS_MAX:
            raise OutOfRange(f"[{address}, {end}) is not a range of addresses")
        self.item_count += 1
        self.byte_count += length
        key = MemoryNodeId(node)
        items = self.items.get(key)
        if items is None:
            items = self.items[key] = NodeItems(key)
        if end > items.end:
            items.end = end
        return items
