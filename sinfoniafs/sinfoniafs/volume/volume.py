"""A volume as one mount knows it: its session, its caches, and what the kernel holds of it."""

import logging
import random
from collections.abc import Callable

import anyio

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.api import ClusterApi
from sinfoniafs.allocator import Allocator
from sinfoniafs.attributes import InodeNumber
from sinfoniafs.errors import CorruptVolume, StaleHandle
from sinfoniafs.format.inode import Inode
from sinfoniafs.format.layout import (
    BLOCK_SIZE,
    INODE_SIZE,
    BlockNumber,
    Layout,
    block_address,
    memory_node_of,
)
from sinfoniafs.format.superblock import Superblock
from sinfoniafs.key_locks import KeyLocks
from sinfoniafs.session import Session
from sinfoniafs.volume.cache import Cache
from sinfoniafs.volume.open_inodes import OpenInodes

log = logging.getLogger(__name__)


class Volume:
    """One mount's view of a volume; ``mounting.open_volume`` makes one.

    The operations on it are the functions of this package's modules; each takes the volume first.
    """

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
        self.open_inodes = OpenInodes()
        self._memory_nodes = list(layout.nodes)
        # Where the next directory goes; see ``spread``.
        self._next_memory_node = rng.randrange(len(self._memory_nodes))
        # The generation of each inode whose number was given out, until ``forget``.
        self._known: dict[InodeNumber, int] = {}
        self._joining = anyio.Lock()
        # Set when a new session has begun, in which nothing is registered yet.
        self.rejoined = anyio.Event()

    @property
    def root(self) -> InodeNumber:
        """The inode number of the root directory."""
        return self.superblock.root

    async def rejoin(self, lost: Session) -> None:
        """Go on with a new session, unless that has happened since ``lost`` was found to be lost.

        Other mounts reclaim what the lost session held in reserve.  ``lifetime.register_open``
        registers again what programs have open.
        """
        async with self._joining:
            if self.session is not lost:
                return
            session = await lost.renew(rng=self.rng, started_ns=self.clock())
            # No await below: no operation may see half of the old session and half of the new one.
            log.warning("session lost slot=%d; new slot=%d", lost.slot, session.slot)
            self.session = session
            self.allocator = Allocator(self.cluster, self.layout, session, self.rng)
            self.open_inodes.lose_registrations()
            self.rejoined.set()

    async def load_inode(self, number: InodeNumber) -> Inode:
        """Read an inode's slot into the cache."""
        memory_node, address = self.layout.inode_slot(number)
        image = await self.cluster.read(memory_node, address, INODE_SIZE)
        loaded = Inode.decode(number, image)
        self.cache.inodes.put(number, loaded)
        return loaded

    async def load_block(self, block: BlockNumber) -> bytes:
        """Read a tree node or a pointer block.  Raises CorruptVolume for a wrong number."""
        if not self.layout.holds_block(block):
            raise CorruptVolume(f"{block:#x} is not the number of a data block")
        return await self.cluster.read(memory_node_of(block), block_address(block), BLOCK_SIZE)

    def give_out(self, inode: Inode) -> None:
        """Remember for which life of the inode its number was given to the caller."""
        self._known[inode.number] = inode.generation

    def forget(self, number: InodeNumber) -> None:
        """The caller has dropped the number and will look it up before it uses it again."""
        self._known.pop(number, None)

    def life_of(self, number: InodeNumber) -> int | None:
        """The generation for which the number was given to the caller; None if it was not."""
        return self._known.get(number)

    def check_alive(self, inode: Inode) -> None:
        """Raises StaleHandle if the inode that the caller means by this number is gone.

        The number may have been used again since it was given out.
        """
        known = self._known.get(inode.number, inode.generation)
        if not inode.kind or known != inode.generation:
            raise StaleHandle(f"inode {inode.number:#x} was removed")

    def new_version(self) -> int:
        """A version, iversion or generation that nothing cached can have by chance."""
        return self.rng.getrandbits(64)

    def spread(self) -> MemoryNodeId:
        """The memory node for a new directory: each in turn, so that all get their share."""
        self._next_memory_node = (self._next_memory_node + 1) % len(self._memory_nodes)
        return self._memory_nodes[self._next_memory_node]

    def check_invariants(self) -> None:
        """What is always true between operations."""
        self.open_inodes.check_invariants()
