"""What a client knows of the cluster only ever becomes newer.

It learns where the memory nodes are from directories, from members that are not primary
(WrongConfig), and from the incarnation that stands on every reply.  Any of these may be late, so
each memory node's entry is compared by itself: a higher config epoch wins, and nothing is believed
that is older than an incarnation that was heard.

What it cannot explain, a silence or a member that will not serve, makes it *doubtful*: then it is
time to ask for the directory (section 4.11), though not more often than DIRECTORY_EVERY.
"""

import math
from collections.abc import Iterator

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import OutOfRange
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry

# Between two times that all are asked for the directory.  A fail-over takes a second or more, and
# the answer is a few hundred bytes per memory node.
DIRECTORY_EVERY = 0.2


class KnownCluster:
    """The newest entry of each memory node, and whether there may be a newer one.

    ``changed`` names the memory nodes whose entry was replaced, or is the first; the driver takes
    them out of it.
    """

    def __init__(self, directory: Directory) -> None:
        self.cluster = directory.cluster
        self.version = directory.version
        self.epoch = directory.epoch
        self.managers = list(directory.managers)
        self.entries: dict[MemoryNodeId, MemoryNodeEntry] = {}
        self.capacities: dict[MemoryNodeId, int] = {}
        # The latest life of each that was heard of; a reply may be ahead of the entry.
        self.incarnations: dict[MemoryNodeId, int] = {}
        self.changed: set[MemoryNodeId] = set()
        self.doubtful = False
        self._ask_at = -math.inf
        for entry in directory.nodes:
            self._take(entry)

    def directory(self) -> Directory:
        """All of it, for another client."""
        entries = list(self.entries.values())
        return Directory(
            version=self.version,
            epoch=self.epoch,
            cluster=self.cluster,
            nodes=entries,
            managers=list(self.managers),
        )

    def members(self) -> Iterator[str]:
        """Where the members of all memory nodes are said to be."""
        for entry in self.entries.values():
            yield entry.endpoint
            for replica in entry.replicas:
                yield replica.endpoint

    def learn(self, directory: Directory) -> list[MemoryNodeId]:
        """Take what is newer; which memory nodes began another life, or are somewhere else now.

        A directory of another cluster, which may have taken over an address, says nothing.
        """
        if directory.cluster != self.cluster:
            return []
        self.epoch = max(self.epoch, directory.epoch)
        newer = directory.version > self.version
        if newer:
            self.version = directory.version
            self.managers = list(directory.managers)
        return [each.node for each in directory.nodes if self.learn_entry(each, placed=newer)]

    def learn_entry(self, entry: MemoryNodeEntry, *, placed: bool = False) -> bool:
        """Take ``entry`` if it is newer; whether that is another life, or another place.

        ``placed``: it stands in a newer directory, and so its endpoint is newer, too.
        """
        known = self.entries.get(entry.node)
        if known is None:
            self._take(entry)
            return True
        incarnation = self.incarnations[entry.node]
        if entry.incarnation < incarnation or entry == known:
            return False
        age = entry.config_epoch, entry.incarnation
        known_age = known.config_epoch, known.incarnation
        if age < known_age or (age == known_age and not placed):
            return False
        self._take(entry)
        return entry.incarnation > incarnation or entry.endpoint != known.endpoint

    def out_of_range(self, node: MemoryNodeId, end: int) -> OutOfRange:
        """The error of a minitransaction with an item that ends at ``end`` of ``node``."""
        capacity = self.capacities.get(node)
        if capacity is None:
            known = ", ".join(map(str, sorted(self.capacities)))
            return OutOfRange(f"there is no memory node {node}; the cluster has {known}")
        return OutOfRange(f"memory node {node} has {capacity} bytes; an item ends at {end}")

    def wants_directory(self, now: float) -> bool:
        """Whether to ask for the directory now; if so it counts as asked."""
        if not self.doubtful or now < self._ask_at:
            return False
        self.doubtful = False
        self._ask_at = now + DIRECTORY_EVERY
        return True

    def _take(self, entry: MemoryNodeEntry) -> None:
        node = entry.node
        self.entries[node] = entry
        self.capacities[node] = entry.capacity
        self.incarnations[node] = entry.incarnation
        self.changed.add(node)
