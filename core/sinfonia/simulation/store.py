"""What etcd is to several managers, in the simulator: one value, swapped atomically, and a lease.

It can be away for some managers or for all.  A swap whose answer is lost may have happened.
"""

import random

from sinfonia.management.shared_store import SharedDirectory, Snapshot
from sinfonia.management.store import StoreUnavailable
from sinfonia.protocol.membership.messages import Directory
from sinfonia.simulation.scheduler import Scheduler

# Short, so that another manager takes over within a short run.
LEASE_S = 1.0

# Of the swaps that a manager hears nothing of, so many have happened.
LOST_ANSWER_SHARE = 0.5


class SimulatedStore:
    """The one that all managers share."""

    def __init__(self, scheduler: Scheduler, rng: random.Random) -> None:
        self.away_from: set[str] = set()  # names of managers that cannot reach it
        self.answers_lost = 0.0  # the probability that the answer to a swap is lost
        self.swaps = 0
        self.leader = ""
        self._believers: set[str] = set()  # managers that take themselves for the leader
        self._leader_until = 0.0
        self._scheduler = scheduler
        self._rng = rng
        self._snapshot = Snapshot(0, b"")

    @property
    def value(self) -> bytes:
        """What is stored; nothing at first."""
        return self._snapshot.value

    def read(self, name: str) -> Snapshot:
        """What manager ``name`` is told; raises StoreUnavailable."""
        self._reach(name)
        return self._snapshot

    def swap(self, name: str, expected_revision: int, value: bytes) -> int | None:
        """Compare and swap; raises StoreUnavailable."""
        self._reach(name)
        lost = self._rng.random() < self.answers_lost
        if lost and self._rng.random() >= LOST_ANSWER_SHARE:
            raise StoreUnavailable("the request was lost")
        swapped = expected_revision == self._snapshot.revision
        if swapped:
            self.swaps += 1
            self._snapshot = Snapshot(expected_revision + 1, value)
        if lost:
            raise StoreUnavailable("the answer was lost")
        return self._snapshot.revision if swapped else None

    def campaign(self, name: str) -> str:
        """The name of the leader: ``name`` if there was none.  Raises StoreUnavailable."""
        self._reach(name)
        now = self._scheduler.now
        if self.leader == name or now >= self._leader_until:
            self.leader = name
            self._leader_until = now + LEASE_S
        return self.leader

    def note_belief(self, name: str, *, leads: bool) -> bool:
        """Manager ``name`` believes that it leads, or not; whether two believe that now."""
        if leads:
            self._believers.add(name)
        else:
            self._believers.discard(name)
        return leads and len(self._believers) > 1

    def _reach(self, name: str) -> None:
        if name in self.away_from:
            raise StoreUnavailable("the store does not answer")


class StoreClient:
    """One life of one manager at the store.

    It believes to lead for a while after it was told so, as a process does that stood still.
    """

    kind = "simulated"

    def __init__(self, store: SimulatedStore, name: str, *, cluster: str) -> None:
        self.leading = False
        self.leader = ""
        self._store = store
        self._name = name
        self._shared = SharedDirectory(self, cluster=cluster)
        self.refresh()

    @property
    def directory(self) -> Directory:
        return self._shared.directory

    def read(self) -> Snapshot:
        """Of SharedValue."""
        return self._store.read(self._name)

    def swap(self, expected_revision: int, value: bytes) -> int | None:
        """Of SharedValue."""
        return self._store.swap(self._name, expected_revision, value)

    def replace(self, directory: Directory) -> None:
        """Of Store."""
        self._shared.replace(directory)

    def refresh(self) -> None:
        """Of Store."""
        try:
            self._shared.accept(self.read())
            self.leader = self._store.campaign(self._name)
            self.leading = self.leader == self._name
        except StoreUnavailable:
            self.leader = ""
            self.leading = False

    def close(self) -> None:
        """Of Store."""
