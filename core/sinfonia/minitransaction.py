"""A minitransaction is chosen whole before any of it runs.

Section 3.3: compare items, read items and write items are only collected here; nothing is sent
until ``execute``.  If every compare item matches, the read items are returned (as they were before
the write items) and the write items are applied, atomically over all memory nodes named; if one
does not match, nothing happens and the result says which.

Beyond the paper's three kinds there are those that it proposes and did not build (sections 3.3 and
7.1.4): conditions other than equality, and *updates*, whose effect a memory node computes from what
it holds.  Each is decided at one memory node, under its locks.

Limits are checked as items are added, so that a minitransaction that could never be executed is
refused where it was built.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated, Any, Generic, Protocol, TypeVar

import msgspec

from sinfonia.addresses import ADDRESS_MAX, MemoryNodeId
from sinfonia.errors import LimitExceeded, OutOfRange
from sinfonia.rings import HEADER_BYTES

# One minitransaction is executed in one step of a single-threaded memory node, so its size bounds
# how long everybody else waits: 16 MiB and 4096 items are some 10 ms.
ITEMS_MAX = 4096
BYTES_MAX = 16 * 1024 * 1024

# Updates see each other's effects, which costs each a look at those before it.
UPDATES_MAX = 64

# Integers that conditions compare and adds change.
WIDTHS = (1, 2, 4, 8)

# A caller may queue for busy locks for so long: long enough for the second round of whoever holds
# them, well below the time after which a client takes a request for lost.
LOCK_WAIT_MAX = 0.05

# Load is counted by tag; a tag is a word, not a text.
TAG_CHARACTERS_MAX = 32

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


class Relation(IntEnum):
    """What a condition asks of the bytes found, as a little-endian unsigned integer."""

    EQUAL = 0
    NOT_EQUAL = 1
    LESS = 2
    AT_MOST = 3
    GREATER = 4
    AT_LEAST = 5


class ConditionItem(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The bytes at ``address``, masked if there is a mask, must be in ``relation`` to ``operand``.

    ``operand`` is as long as the bytes that are looked at, and so is ``mask`` unless it is empty.
    """

    address: Offset
    relation: Relation
    operand: bytes
    mask: bytes = b""


class AddItem(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False):
    """Add ``delta`` to the little-endian integer of ``width`` bytes at ``address``; it wraps."""

    address: Offset
    width: int
    delta: int


class AppendItem(msgspec.Struct, array_like=True, tag=2, frozen=True, gc=False):
    """Append ``data`` to the ring at ``address`` (rings.py)."""

    address: Offset
    data: bytes


UpdateItem = AddItem | AppendItem


class NodeItems:
    """The projection of a minitransaction on one memory node (the paper's pi_q).

    ``end`` is the end of the item that reaches furthest.
    """

    __slots__ = ("compares", "conditions", "end", "node", "reads", "updates", "writes")

    def __init__(self, node: MemoryNodeId) -> None:
        self.node = node
        self.compares: list[CompareItem] = []
        self.reads: list[ReadItem] = []
        self.writes: list[WriteItem] = []
        self.conditions: list[ConditionItem] = []
        self.updates: list[UpdateItem] = []
        self.end = 0

    @property
    def read_only(self) -> bool:
        """Whether nothing changes here."""
        return not self.writes and not self.updates


class FailedCompare(msgspec.Struct, frozen=True, gc=False):
    """A compare item or condition that did not match.

    ``index`` is the position of the item among the compare items and conditions, in order of
    addition; ``found`` is what the memory node held instead.  Each memory node reports for itself:
    what was found at two of them need not have been there at one moment; and when one refuses, the
    others are not waited for, so that more may have failed than are named.
    """

    index: int
    node: MemoryNodeId
    address: int
    expected: bytes
    found: bytes


class Result(msgspec.Struct, frozen=True, gc=False):
    """What became of a minitransaction whose outcome is known.

    ``reads`` holds the bytes of the read items in order of addition, if it committed (or if
    ``reads_on_failure`` was asked for: then those of one memory node are of one moment, and those
    of several are not); ``attempts`` counts the tids it took, busy locks included.
    ``added`` holds what the integers of the add items were before, ``positions`` where the append
    items went, each in order of addition, if it committed; ``full_rings`` names, by index, the
    append items for which there was no room, so that nothing happened.
    """

    committed: bool
    reads: Sequence[bytes] = ()
    failed_compares: Sequence[FailedCompare] = ()
    attempts: int = 1
    added: Sequence[int] = ()
    positions: Sequence[int] = ()
    full_rings: Sequence[int] = ()


class Executor(Protocol[ResultT_co]):
    """What can execute a minitransaction: a ``Cluster`` gives an awaitable of ``Result``, a
    ``BlockingCluster`` the ``Result`` itself."""

    def execute(
        self, minitransaction: "Minitransaction[Any]", *, timeout: float | None = None
    ) -> ResultT_co: ...


class Minitransaction(Generic[ResultT_co]):
    """Compare, read and write items, to be executed atomically (Figure 2 of the paper).

    Addresses and lengths are in bytes.  Items that overlap are well defined: reads, compares and
    checks see memory before any write of this minitransaction; of two writes to the same byte the
    one added later wins; adds and appends come after all writes.  It may be executed again and
    again; each time is a minitransaction of its own.
    """

    __slots__ = (
        "add_places",
        "append_places",
        "byte_count",
        "compare_places",
        "executor",
        "item_count",
        "items",
        "lock_wait",
        "read_places",
        "reads_on_failure",
        "tag",
    )

    def __init__(
        self,
        executor: Executor[ResultT_co],
        reads_on_failure: bool = False,
        *,
        lock_wait: float = 0.0,
        tag: str = "",
    ) -> None:
        """``reads_on_failure``: return the read items even if a compare fails.

        If it names several memory nodes and does not commit, what each says, reads and
        found bytes alike, is of its own moment while the call lasts: all of it together need never
        have been true.

        ``lock_wait`` (seconds, at most LOCK_WAIT_MAX): if it names one memory node only, queue
        there for busy locks so long, first come first served, before backing off.  ``tag``: the
        class under which memory nodes count it (section 3.6).  Raises LimitExceeded.
        """
        if not 0 <= lock_wait <= LOCK_WAIT_MAX:
            raise LimitExceeded(f"lock_wait is {lock_wait} s; it may be up to {LOCK_WAIT_MAX} s")
        if len(tag) > TAG_CHARACTERS_MAX:
            raise LimitExceeded(f"a tag has at most {TAG_CHARACTERS_MAX} characters")
        self.executor = executor
        self.reads_on_failure = reads_on_failure
        self.lock_wait = lock_wait
        self.tag = tag
        self.items: dict[MemoryNodeId, NodeItems] = {}
        # For each item, in order of addition: (node, position among that node's of its kind).
        # A condition's position is negative: ~position among the node's conditions.
        self.read_places: list[tuple[MemoryNodeId, int]] = []
        self.compare_places: list[tuple[MemoryNodeId, int]] = []
        self.add_places: list[tuple[MemoryNodeId, int]] = []
        self.append_places: list[tuple[MemoryNodeId, int]] = []
        self.item_count = 0
        self.byte_count = 0

    def compare(self, node: int, address: int, expected: bytes) -> int:
        """Commit only if the bytes at ``address`` of ``node`` equal ``expected``.

        Returns the item's index, as in ``Result.failed_compares``.
        Raises LimitExceeded or OutOfRange; both are definite.
        """
        items = self._admit(node, address, len(expected))
        compares, places = items.compares, self.compare_places
        places.append((items.node, len(compares)))
        compares.append(CompareItem(address, bytes(expected)))
        return len(places) - 1

    def read(self, node: int, address: int, length: int) -> int:
        """Return ``length`` bytes at ``address`` of ``node`` if it commits.

        Returns the item's index in ``Result.reads``.
        Raises LimitExceeded or OutOfRange; both are definite.
        """
        items = self._admit(node, address, length)
        reads, places = items.reads, self.read_places
        places.append((items.node, len(reads)))
        reads.append(ReadItem(address, length))
        return len(places) - 1

    def write(self, node: int, address: int, data: bytes) -> None:
        """Put ``data`` at ``address`` of ``node`` if it commits.

        Raises LimitExceeded or OutOfRange; both are definite.
        """
        items = self._admit(node, address, len(data))
        items.writes.append(WriteItem(address, bytes(data)))

    def check(
        self,
        node: int,
        address: int,
        relation: Relation,
        operand: int,
        *,
        width: int = 8,
        mask: int | None = None,
    ) -> int:
        """Commit only if the integer at ``address`` of ``node`` is in ``relation`` to ``operand``.

        The integer is little-endian, unsigned and ``width`` bytes wide (1, 2, 4 or 8); with a
        ``mask``, only its bits are looked at, so that the integer is what is found ``& mask``.
        Returns the item's index, as in ``Result.failed_compares``.  Raises LimitExceeded or
        OutOfRange; both are definite.
        """
        _check_integer(operand, width)
        masked = b""
        if mask is not None:
            _check_integer(mask, width)
            masked = mask.to_bytes(width, "little")
        items = self._admit(node, address, width)
        self.compare_places.append((items.node, ~len(items.conditions)))
        expected = operand.to_bytes(width, "little")
        items.conditions.append(ConditionItem(address, relation, expected, masked))
        return len(self.compare_places) - 1

    def add(self, node: int, address: int, delta: int, *, width: int = 8) -> int:
        """Add ``delta`` to the integer at ``address`` of ``node`` if it commits.

        The integer is little-endian and ``width`` bytes wide (1, 2, 4 or 8); it wraps around.
        Updates take effect in order of addition, after the write items.  Returns the item's index
        in ``Result.added``.  Raises LimitExceeded or OutOfRange; both are definite.
        """
        if width not in WIDTHS:
            raise LimitExceeded(f"a width of {width}; it may be {', '.join(map(str, WIDTHS))}")
        items = self._admit_update(node, address, width)
        self.add_places.append((items.node, len(items.updates)))
        items.updates.append(AddItem(address, width, delta % 256**width))
        return len(self.add_places) - 1

    def append(self, node: int, ring: int, data: bytes) -> int:
        """Append ``data`` to the ring at address ``ring`` of ``node`` (rings.py) if it commits.

        The memory node chooses the position under its own locks, so that rivals need not retry.
        If the ring is full nothing happens, and ``Result.full_rings`` says so.  Returns the item's
        index in ``Result.positions``.  Raises LimitExceeded or OutOfRange; both are definite.
        """
        items = self._admit_update(node, ring, HEADER_BYTES + len(data))
        self.append_places.append((items.node, len(items.updates)))
        items.updates.append(AppendItem(ring, bytes(data)))
        return len(self.append_places) - 1

    def execute(self, timeout: float | None = None) -> ResultT_co:
        """Execute and commit, by the client that made it, as its ``execute`` does.

        ``timeout`` in seconds.  Of a Cluster the Result is awaited.  Raises NotExecuted (definite)
        or OutcomeUnknown.
        """
        return self.executor.execute(self, timeout=timeout)

    @property
    def read_only(self) -> bool:
        """Whether no item writes, at any memory node."""
        return all(items.read_only for items in self.items.values())

    def _admit_update(self, node: int, address: int, length: int) -> NodeItems:
        if len(self.add_places) + len(self.append_places) >= UPDATES_MAX:
            raise LimitExceeded(f"a minitransaction has at most {UPDATES_MAX} add and append items")
        return self._admit(node, address, length)

    def _admit(self, node: int, address: int, length: int) -> NodeItems:
        item_count = self.item_count + 1
        byte_count = self.byte_count + length
        end = address + length
        if item_count > ITEMS_MAX:
            raise LimitExceeded(f"a minitransaction has at most {ITEMS_MAX} items")
        if byte_count > BYTES_MAX:
            raise LimitExceeded(f"the items of a minitransaction have at most {BYTES_MAX} bytes")
        if address < 0 or length < 0 or end > ADDRESS_MAX:
            raise OutOfRange(f"[{address}, {end}) is not a range of addresses")
        self.item_count = item_count
        self.byte_count = byte_count
        # A MemoryNodeId is a number; to make it one would cost a call for each item.
        items: NodeItems | None = self.items.get(node)  # type: ignore[call-overload]
        if items is None:
            key = MemoryNodeId(node)
            items = self.items[key] = NodeItems(key)
        if end > items.end:
            items.end = end
        return items


def _check_integer(value: int, width: int) -> None:
    if width not in WIDTHS:
        raise LimitExceeded(f"a width of {width}; it may be {', '.join(map(str, WIDTHS))}")
    if not 0 <= value < 256**width:
        raise LimitExceeded(f"{value} is no unsigned integer of {width} bytes")
