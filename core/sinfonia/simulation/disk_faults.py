"""Strikes the disks of simulated members after a sync said yes, as far as the atlas allows.

*Within*: an intact copy of everything acknowledged remains at an in-sync member of the stored
configuration.  The run must then go on as ever.  If configurations change so that none would
remain, what was planted and not yet read is undone before the member reads it.

Never: what no program could tell from a torn write, as ``telling`` computes it.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence

from sinfonia.protocol.membership.messages import MemoryNodeEntry
from sinfonia.simulation.disk import Damage, Pending, Snapshot
from sinfonia.simulation.disk_damage import (
    cut_end_of_log,
    lose_write,
    misdirect_write,
    rot,
    rot_last_blocks,
)
from sinfonia.simulation.fault_atlas import FaultAtlas
from sinfonia.simulation.manager import SimulatedManager
from sinfonia.simulation.memory_node import SimulatedMemoryNode
from sinfonia.simulation.process import Surroundings
from sinfonia.simulation.stored_directory import stored_entry
from sinfonia.simulation.telling import may_be_torn
from sinfonia.storage.log_blocks import log_id_of

# A disk that lies is found out by the power, soon.
LIE_S_MAX = 1.0


Strike = Callable[[random.Random, SimulatedMemoryNode], None]


class DiskFaults:
    """Damages disks at the times that ``strike`` is called."""

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        nodes: Sequence[SimulatedMemoryNode],
        managers: Sequence[SimulatedManager],
    ) -> None:
        self.atlas = FaultAtlas()
        self._surroundings = surroundings
        self._nodes = nodes
        self._managers = managers
        self._planted: defaultdict[str, list[Damage]] = defaultdict(list)
        self._snapshots: dict[str, Snapshot] = {}
        # What whole directories held that were rolled back, until they are read.
        self._before: dict[str, Snapshot] = {}
        self._kinds: Sequence[Strike] = (
            self._rot_running,
            self._rot_at_rest,
            self._rot_at_rest,
            self._cut_end_of_log,
            self._lose_write,
            self._misdirect_write,
            self._lie,
            self._roll_back,
        )
        if surroundings.profile.only_ends_lost:
            self._kinds = (self._cut_end_of_log,)
        for node in nodes if surroundings.profile.disk_damage_rate else ():
            node.disk_watch = self

    def strike(self, rng: random.Random) -> None:
        """Damage one disk, if an intact copy remains."""
        remembered = rng.choice(self._nodes)
        if remembered.identity:
            self._snapshots[remembered.identity] = remembered.disk.snapshot()
        rng.choice(self._kinds)(rng, rng.choice(self._nodes))

    def stop(self) -> None:
        """Disks tell the truth from now on; what was planted stays."""
        for node in self._nodes:
            node.disk.spoil_sync = None
            if node.disk.lying is not None:
                node.disk.write_back()

    def before_boot(self, member: SimulatedMemoryNode) -> None:
        """``member`` is about to read its disk."""
        disk, planted = member.disk, self._planted[member.name]
        before = self._before.pop(member.name, None)
        alone = (bool(planted) or before is not None) and not self._may_strike(member)
        if alone and before is not None:
            self._count("damage undone")
            disk.roll_back(before)
        # The last first: one may cover another.
        for damage in reversed(planted):
            if disk.name_of(damage) and (
                alone or may_be_torn(disk, damage, identity=member.identity)
            ):
                self._count("damage undone")
                damage.undo()
        self._planted[member.name] = [each for each in planted if disk.name_of(each)]

    # --- kinds ---------------------------------------------------------------------------------

    def _rot_running(self, rng: random.Random, member: SimulatedMemoryNode) -> None:
        if member.node is not None:
            self._rot(rng, member)

    def _rot_at_rest(self, rng: random.Random, member: SimulatedMemoryNode) -> None:
        if self._may_strike(member):
            member.kill()
            self._rot(rng, member)

    def _rot(self, rng: random.Random, member: SimulatedMemoryNode) -> None:
        if self._may_strike(member):
            member.disk.write_back()
            log_id = log_id_of(member.identity)
            self._note(member, rot(member.disk, rng, log_id=log_id), "rotten")

    def _cut_end_of_log(self, rng: random.Random, member: SimulatedMemoryNode) -> None:
        if self._may_strike(member):
            member.kill()
            member.disk.write_back()
            damage = rng.choice((cut_end_of_log, rot_last_blocks))
            planted = damage(member.disk, rng, log_id=log_id_of(member.identity))
            self._note(member, planted, "ends of logs lost")

    def _lose_write(self, rng: random.Random, member: SimulatedMemoryNode) -> None:
        def spoil(name: str, pending: Sequence[Pending]) -> Callable[[], None] | None:
            return self._spoil(member, lose_write(member.disk, rng, pending, name), "writes lost")

        member.disk.spoil_sync = spoil

    def _misdirect_write(self, rng: random.Random, member: SimulatedMemoryNode) -> None:
        def spoil(name: str, pending: Sequence[Pending]) -> Callable[[], None] | None:
            land = misdirect_write(member.disk, rng, pending, name)
            return self._spoil(member, land, "writes misdirected")

        member.disk.spoil_sync = spoil

    def _spoil(
        self,
        member: SimulatedMemoryNode,
        plant: Callable[[], list[Damage]] | None,
        what: str,
    ) -> Callable[[], None] | None:
        if plant is None:
            return None
        member.disk.spoil_sync = None
        if not self._may_strike(member):
            return None
        return lambda: self._note(member, plant(), what)

    def _lie(self, rng: random.Random, member: SimulatedMemoryNode) -> None:
        """Syncs confirm what they do not do, until the power fails."""
        if member.node is None or member.disk.lying is not None:
            return

        def lost() -> bool:
            allowed = self._may_roll_back(member)
            if allowed:
                self._before[member.name] = member.disk.snapshot_written()
                self._struck(member, "flushes that lied")
            return allowed

        member.disk.lying = lost
        self._surroundings.scheduler.after(rng.uniform(0.0, LIE_S_MAX), self._find_out, member)

    def _find_out(self, member: SimulatedMemoryNode) -> None:
        if member.disk.lying is not None and member.alive:
            member.disk.lose_power_at = member.disk.operations
            member.kill()

    def _roll_back(self, rng: random.Random, member: SimulatedMemoryNode) -> None:
        del rng
        snapshot = self._snapshots.pop(member.identity, None)
        if snapshot is None or not self._may_roll_back(member):
            return
        member.kill()
        if member.name not in self._before:  # else the power has told of a lie
            self._before[member.name] = member.disk.snapshot_written()
            member.disk.roll_back(snapshot)
            self._struck(member, "directories rolled back")

    # --- the atlas -----------------------------------------------------------------------------

    def _may_roll_back(self, member: SimulatedMemoryNode) -> bool:
        return self._may_strike(member) and not self._planted[member.name]

    def _may_strike(self, member: SimulatedMemoryNode) -> bool:
        entry = self._entry(member)
        return (
            entry is not None
            and bool(member.identity)
            and member.name not in self._before
            and self.atlas.may_strike(entry, member.identity)
        )

    def _entry(self, member: SimulatedMemoryNode) -> MemoryNodeEntry | None:
        entry = stored_entry(self._managers, member.node_id)
        if entry is not None:
            self.atlas.look(entry, [each.lived for each in self._nodes if each.has_confirmed])
        return entry

    def _note(self, member: SimulatedMemoryNode, planted: list[Damage], what: str) -> None:
        if planted:
            self._planted[member.name] += planted
            self._struck(member, what)

    def _struck(self, member: SimulatedMemoryNode, what: str) -> None:
        self._surroundings.scheduler.note(member.name, "disk is struck:", what)
        self._count(what)
        booting = member.alive and member.node is None
        self.atlas.note(member.identity, member.lived[1] + booting)
        member.struck = True

    def _count(self, what: str) -> None:
        self._surroundings.events[what] += 1
