"""What one mount knows of a volume: its session, its caches, and what the kernel holds of it."""

import logging
import random
from collections import Counter
from collections.abc import Callable

import anyio

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.api import ClusterApi
from sinfoniafs.allocator import Allocator
from sinfoniafs.attributes import InodeNumber
from sinfoniafs.format.inode import Inode
from sinfoniafs.format.layout import INODE_SIZE, Layout
from sinfoniafs.format.superblock import Superblock
from sinfoniafs.key_locks import KeyLocks
from sinfoniafs.session import Session
from sinfoniafs.volume.cache import Cache

log = logging.getLogger(__name__)


class VolumeState:
    """One mount's view of a volume: its session, its caches and what the kernel holds of it."""

    def __init__(
        self,
        cluster: ClusterApi,
        superblock: Superblock,
        layout: Layout,
        session: Session,
        *,
        clock: Callable[[], int],
        rng: random.Random,
    ) -> None:
        self.cluster = cluster
        self.superblock = superblock
        self.layout = layout
        self.session = session
        self.clock = clock
        self.rng = rng
        self.cache = Cache()
        self.allocator = Allocator(cluster, layout, session, rng)
        self.key_locks = KeyLocks()
        self.nodes = list(layout.nodes)
        # Where the next directory goes; see ``spread``.
        self._next_node = rng.randrange(len(self.nodes))
        # The generation of each inode whose number was given out, until ``forget``.
        self.known: dict[InodeNumber, int] = {}
        # How often each inode is open here; in which we are registered; and which of those are no
        # longer open.
        self.open_counts: Counter[InodeNumber] = Counter()
        self.registered: set[InodeNumber] = set()
        self.closing: dict[InodeNumber, None] = {}
        # Whether some outcome was never learnt, so that more may be registered than is known.
        self.in_doubt = False
        self._joining = anyio.Lock()
        # Set when a new session has begun, in which nothing is registered yet.
        self.rejoined = anyio.Event()

    async def rejoin(self, lost: Session) -> None:
        """Go on with a new session, unless that has happened since ``lost`` was found to be lost.

        What the lost one held in reserve is left to those who took it for dead.  What is open is
        to be registered again by ``volume_lifetime.register_open``.
        """
        async with self._joining:
            if self.session is not lost:
                return
            session = await lost.renew(rng=self.rng, started_ns=self.clock())
            # No await below: no operation may see half of the old session and half of the new one.
            log.warning("session lost slot=%d; new slot=%d", lost.slot, session.slot)
            self.session = session
            self.allocator = Allocator(self.cluster, self.layout, session, self.rng)
            self.registered.clear()
            self.closing.clear()
            self.in_doubt = False
            self.rejoined.set()

    async def load_inode(self, inode: InodeNumber) -> Inode:
        """Read an inode's slot into the cache."""
        node, address = self.layout.inode_slot(inode)
        loaded = Inode.decode(inode, await self.cluster.read(node, address, INODE_SIZE))
        self.cache.inodes.put(inode, loaded)
        return loaded

    def give_out(self, inode: Inode) -> None:
        """Remember which life of the inode its number stands for with the caller."""
        self.known[inode.number] = inode.generation

    def close_all(self) -> None:
        """Nothing is open any more."""
        # What was open when a session was lost may have been orphaned before it was registered.
        self.in_doubt |= not self.open_counts.keys() <= self.registered
        self.open_counts.clear()
        self.closing = dict.fromkeys(self.registered)

    def spread(self) -> MemoryNodeId:
        """The memory node for a new directory: each in turn, so that all get their share."""
        self._next_node = (self._next_node + 1) % len(self.nodes)
        return self.nodes[self._next_node]

    def check_invariants(self) -> None:
        """What is always true between operations."""
        assert all(count > 0 for count in self.open_counts.values()), "a count of nothing"
        assert self.closing.keys() == self.registered - self.open_counts.keys()
