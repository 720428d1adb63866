"""What one mount knows of a volume, and the loop in which every operation runs.

Figure 8 of the paper: an operation works on what is cached, then executes one minitransaction
whose compare items say what it relied on; if they fail, what was stale is dropped and the
operation starts again.  An error that was concluded from cached bytes is believed only after the
same comparisons have been made.
"""

import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.api import ClusterApi
from sinfoniafs.allocator import Allocator
from sinfoniafs.attributes import InodeNumber
from sinfoniafs.cache import Cache
from sinfoniafs.errors import Busy, FileSystemError, SessionLost
from sinfoniafs.inode import Inode
from sinfoniafs.layout import INODE_SIZE, Layout
from sinfoniafs.patience import TIMEOUT_S, time_left
from sinfoniafs.session import Session
from sinfoniafs.superblock import Superblock
from sinfoniafs.turns import Turns
from sinfoniafs.volume_attempt import Attempt, Conflict

log = logging.getLogger(__name__)

T = TypeVar("T")

# The first retries come at once, for a stale cache is cured by reading; then rivals are likely.
RETRIES_AT_ONCE: Final = 2
BACKOFF_FIRST_S: Final = 0.001
BACKOFF_MAX_S: Final = 0.1


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
        self.turns = Turns()
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

    async def run(self, body: Callable[[Attempt], Awaitable[T]], *turns: InodeNumber) -> T:
        """Run ``body`` until its minitransaction commits, holding the local turns named.

        Raises Busy when rivals kept changing what it relied on until the deadline.
        """
        if not turns:
            return await self._run(body)
        async with self.turns.hold(*sorted(set(turns))):
            return await self._run(body)

    async def _run(self, body: Callable[[Attempt], Awaitable[T]]) -> T:
        deadline = anyio.current_time() + time_left(otherwise=TIMEOUT_S)
        retries = 0
        while True:
            attempt = Attempt(self)
            lost = None
            try:
                return await body(attempt)
            except Conflict:
                pass
            except SessionLost:
                lost = attempt.session
            except FileSystemError:
                try:
                    confirmed = await attempt.confirm()
                except SessionLost:
                    lost = attempt.session
                else:
                    if confirmed:
                        raise
            finally:
                attempt.finish()
            if lost is not None:
                await self.rejoin(lost)
            if anyio.current_time() > deadline:
                raise Busy("other mounts kept changing the same files")
            await self._back_off(retries)
            retries += 1

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

    async def _back_off(self, retries: int) -> None:
        if retries >= RETRIES_AT_ONCE:
            ceiling = min(BACKOFF_FIRST_S * 2 ** min(retries, 16), BACKOFF_MAX_S)
            await anyio.sleep(self.rng.uniform(0, ceiling))
