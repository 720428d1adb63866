"""The load of a model cluster: all that it ever did, as if it had been done just now.

The model has no clock; so each window covers its whole length, and all hold the same counts.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.load import NodeLoad, node_load
from sinfonia.errors import OutOfRange
from sinfonia.minitransaction import Minitransaction, Result
from sinfonia.protocol.load.counters import LoadCounters
from sinfonia.protocol.load.windows import LOAD_WINDOWS
from sinfonia.protocol.messages import Load, LoadWindow

Written = tuple[MemoryNodeId, int, int]


class ModelLoad:
    """What each memory node of a model did."""

    def __init__(self, nodes: Iterable[MemoryNodeId]) -> None:
        self._counters = {node: LoadCounters() for node in nodes}

    def count(
        self, minitransaction: Minitransaction[Any], result: Result, written: Iterable[Written]
    ) -> None:
        """It was executed; ``written``: node, address and length of each range that was written."""
        for node, items in minitransaction.items.items():
            counts = self._counters[node].of(minitransaction.tag)
            if result.committed:
                counts.executed += 1
                counts.bytes_read += sum(read.length for read in items.reads)
            else:
                counts.aborted += 1
        for node, _, length in written:
            self._counters[node].of(minitransaction.tag).bytes_written += length

    def load(self, node: int | None) -> Mapping[MemoryNodeId, NodeLoad]:
        """Of ``node``, or of each.  Raises OutOfRange if there is no such memory node."""
        if node is not None and node not in self._counters:
            raise OutOfRange(f"there is no memory node {node}")
        nodes = self._counters if node is None else [MemoryNodeId(node)]
        return {each: node_load(each, self._told(each)) for each in nodes}

    def _told(self, node: MemoryNodeId) -> Load:
        classes = {
            tag: [
                LoadWindow(
                    seconds=length,
                    executed=counts.executed,
                    aborted=counts.aborted,
                    retried=counts.retried,
                    bytes_read=counts.bytes_read,
                    bytes_written=counts.bytes_written,
                )
                for length in LOAD_WINDOWS
            ]
            for tag, counts in self._counters[node].by_tag.items()
        }
        return Load(node, classes)
