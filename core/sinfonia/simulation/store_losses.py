"""The manager's store is lost, or put back from an older copy; later an operator rebuilds it.

In between the cluster goes on as well as it can: members that restart must wait, and a stale one
must not lead.  The rebuild is the real one: members are surveyed on their disks, and ``rebuilding``
decides.  Nothing may be missing there, since all members report.
"""

import random
from collections.abc import Sequence

from sinfonia.errors import ConfigError
from sinfonia.management.store import read_directory, write_directory
from sinfonia.memnode.settings import State
from sinfonia.protocol.membership.messages import Directory
from sinfonia.protocol.membership.rebuilding import plan_rebuild
from sinfonia.simulation.disk import VirtualDisk
from sinfonia.simulation.manager import SimulatedManager
from sinfonia.simulation.memory_node import SimulatedMemoryNode
from sinfonia.simulation.process import Surroundings
from sinfonia.storage.survey import survey

# An operator comes when nothing of the former manager's is on its way any more, but not at once.
REBUILT_AFTER_S_MIN = 1.0
REBUILT_AFTER_S_MAX = 3.0

# How often the store is copied, to be put back some time.
COPIED_EVERY_S = 1.0


class StoreLosses:
    """Strikes the only manager at the rate of the profile, until it is told to stop."""

    def __init__(
        self,
        surroundings: Surroundings,
        rng: random.Random,
        *,
        manager: SimulatedManager,
        nodes: Sequence[SimulatedMemoryNode],
    ) -> None:
        self._surroundings = surroundings
        self._rng = rng
        self._manager = manager
        self._nodes = nodes
        self._active = False
        self.lost = False  # and not rebuilt yet
        self._copy: Directory | None = None

    def begin(self) -> None:
        """Strike from now on."""
        self._active = True
        self._plan()
        self._surroundings.scheduler.after(COPIED_EVERY_S, self._copy_store)

    def stop(self) -> None:
        """Strike no more; what is lost will be rebuilt."""
        self._active = False

    def _plan(self) -> None:
        rate = self._surroundings.profile.store_loss_rate
        self._surroundings.scheduler.after(self._rng.expovariate(rate), self._strike)

    def _copy_store(self) -> None:
        if not self._active:
            return
        if self._copy is None or self._rng.random() < 0.3:
            stored = read_directory(self._manager.disk)
            self._copy = stored if stored is not None and self._is_whole(stored) else self._copy
        self._surroundings.scheduler.after(COPIED_EVERY_S, self._copy_store)

    def _is_whole(self, directory: Directory) -> bool:
        """Whether every member is in it: what comes later has served before."""
        profile = self._surroundings.profile
        entries = directory.nodes
        return len(entries) == profile.memory_nodes and all(
            len(entry.replicas) == profile.replicas for entry in entries
        )

    def _strike(self) -> None:
        if not self._active:
            return
        stored = read_directory(self._manager.disk)
        if stored is not None and self._is_whole(stored) and not self.lost:
            self._lose(stored)
        self._plan()

    def _lose(self, stored: Directory) -> None:
        events = self._surroundings.events
        put_back = self._rng.random() < self._surroundings.profile.store_put_back_share
        copy = self._copy if put_back and self._copy != stored else None
        events["stores put back" if copy is not None else "stores lost"] += 1
        self._surroundings.scheduler.note("the manager's store is lost")
        self.lost = True
        self._manager.kill()
        self._manager.disk = VirtualDisk(self._rng)
        if copy is not None:
            write_directory(self._manager.disk, copy)
        # An older copy may name as proven what has restarted since.  It is put back after an
        # accident to everything, in which all restart.
        all_die = copy is not None or self._rng.random() < 0.5
        if all_die and self._surroundings.profile.logged:
            for node in self._nodes:
                node.kill()
        delay = self._rng.uniform(REBUILT_AFTER_S_MIN, REBUILT_AFTER_S_MAX)
        self._surroundings.scheduler.after(delay, self._rebuild)

    def _rebuild(self) -> None:
        """What `sinfonia rebuild-manager` does, with all members in reach."""
        self._manager.kill()
        self.lost = False
        events = self._surroundings.events
        events["members that waited"] += sum(
            each.node is not None and each.node.state is State.STARTING and bool(each.node.waiting)
            for each in self._nodes
        )
        reports = [
            survey(each.disk, place=each.name, running=each.node is not None)
            for each in self._nodes
        ]
        try:
            plan = plan_rebuild(reports, known=read_directory(self._manager.disk))
        except ConfigError:
            return  # no member has kept anything
        assert not plan.objections, plan.objections
        assert not any(node.losses for node in plan.nodes), plan.nodes
        self._surroundings.scheduler.note("the manager's store is rebuilt")
        events["stores rebuilt"] += 1
        write_directory(self._manager.disk, plan.directory)
