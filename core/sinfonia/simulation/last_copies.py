"""*Beyond*: the last intact copy is damaged, so that a memory node must refuse to serve.

One memory node is struck, once in a run: all its members die, and each one that holds everything is
damaged so that it can be told from a torn write.  From then on no member of it may serve: that
would be a lie.  A while later the run ends, and what clients were told until then is judged.
"""

import random
from collections.abc import Sequence

from sinfonia.protocol.membership.messages import MemoryNodeEntry
from sinfonia.simulation.disk import Damage, Snapshot
from sinfonia.simulation.disk_damage import cut_end_of_log, rot, rot_last_blocks
from sinfonia.simulation.manager import SimulatedManager
from sinfonia.simulation.memory_node import SimulatedMemoryNode
from sinfonia.simulation.process import Surroundings
from sinfonia.simulation.stored_directory import stored_entry
from sinfonia.simulation.telling import is_tellable
from sinfonia.storage.log_blocks import log_id_of

# So long after the strike all members have come back and tried to serve, several times.
WATCHED_S = 6.0

# Of the copies that may be rolled back to a former life, so many are.
ROLL_BACK_SHARE = 0.7

# So often another damage is tried, if one could be a torn write.
TRIES_MAX = 20


class LastCopies:
    """Damages all copies of one memory node."""

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        nodes: Sequence[SimulatedMemoryNode],
        managers: Sequence[SimulatedManager],
    ) -> None:
        self._surroundings = surroundings
        self._nodes = nodes
        self._managers = managers
        self._done = False
        # Of former lives: identity, number of the life, and what its disk held.
        self._former: dict[str, tuple[int, Snapshot]] = {}

    def strike(self, rng: random.Random) -> None:
        """Damage all copies of some memory node, unless that was done."""
        if not self._former:  # the first time only something to come back to is taken
            self._former = {
                each.identity: (each.lived[1], each.disk.snapshot())
                for each in self._nodes
                if each.identity
            }
            return
        victim = rng.choice(self._nodes).node_id
        entry = stored_entry(self._managers, victim)
        members = [each for each in self._nodes if each.node_id == victim]
        if self._done or entry is None or not all(each.identity for each in members):
            return
        for member in members:
            member.kill()
            member.disk.write_back()
        holders = [each for each in members if each.identity in (entry.identity, *entry.in_sync)]
        if not all(self._damage(rng, member) for member in holders):
            for member in members:
                member.struck = True  # some of it is left, and some holder intact
            return  # too young for anything that is certain to show
        self._done = True
        for member in members:
            member.must_refuse = member.struck = True
        self._surroundings.events["last copies damaged"] += 1
        self._surroundings.scheduler.after(WATCHED_S, self._end, entry)

    def _damage(self, rng: random.Random, member: SimulatedMemoryNode) -> bool:
        """Do something that is certain to show; whether that was found."""
        disk = member.disk
        starts, snapshot = self._former.get(member.identity, (member.lived[1], {}))
        if starts < member.lived[1] and rng.random() < ROLL_BACK_SHARE:
            # The manager knows a later life, if only by its name.
            self._surroundings.scheduler.note(member.name, "is rolled back to life", starts)
            self._surroundings.events["last copies rolled back"] += 1
            disk.roll_back(snapshot)
            return True
        for _ in range(TRIES_MAX):
            damage = rng.choice((rot, cut_end_of_log, rot_last_blocks))
            planted = damage(disk, rng, log_id=log_id_of(member.identity))
            if planted and is_tellable(disk, planted, identity=member.identity):
                self._surroundings.scheduler.note(member.name, "is struck:", _words(planted))
                return True
            for each in reversed(planted):
                each.undo()
        return False

    def _end(self, entry: MemoryNodeEntry) -> None:
        # The manager may be the one that notices.
        noticed = self._surroundings.events["memory nodes stopped by their disk"]
        assert noticed or self._surroundings.events["damage noticed"], (
            f"no member of memory node {entry.node} has noticed its damage"
        )
        self._surroundings.ended = f"no copy of memory node {entry.node} was left"


def _words(planted: Sequence[Damage]) -> str:
    return ", ".join(f"{len(each.bad)} bytes at {each.offset}" for each in planted)
