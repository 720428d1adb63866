"""What rots in a running member is repaired from its memory before a restart needs it.

The disk of a member that runs is damaged, in image or log; no other copy need be there.  The
scrubber is given the time that it is configured to take; then the member restarts, and must be as
sound as ever.
"""

import random
from collections.abc import Sequence

from sinfonia.memnode.settings import State
from sinfonia.simulation.disk import Damage
from sinfonia.simulation.disk_damage import rot
from sinfonia.simulation.memory_node import SimulatedMemoryNode
from sinfonia.simulation.process import Surroundings
from sinfonia.storage.disk_image import CHECKSUM_FILE, IMAGE_FILE
from sinfonia.storage.files import LOG_PREFIX
from sinfonia.storage.log_blocks import log_id_of

# A pass over a small image and log, the pause after the one before, and a checkpoint.
SCRUBBED_S = 3.0


class ScrubbedDisks:
    """Damages disks of members that run, one at a time each."""

    def __init__(self, surroundings: Surroundings, nodes: Sequence[SimulatedMemoryNode]) -> None:
        self._surroundings = surroundings
        self._nodes = nodes
        self._planted: dict[str, list[Damage]] = {}

    def strike(self, rng: random.Random) -> None:
        """Damage one of the disks."""
        member = rng.choice(self._nodes)
        if member.name in self._planted or not member.has_confirmed or member.node is None:
            return
        if member.node.state not in (State.SERVING, State.FOLLOWING):
            return
        member.disk.write_back()
        planted = rot(member.disk, rng, log_id=log_id_of(member.identity))
        names = [member.disk.name_of(damage) for damage in planted]
        if not all(_is_scrubbed(name) for name in names):
            _undo(member, planted)
            return
        self._surroundings.events["rotten under a scrubber"] += bool(planted)
        self._surroundings.scheduler.note(member.name, "has rot in", *names)
        self._planted[member.name] = planted
        self._surroundings.scheduler.after(SCRUBBED_S, self._restart, member)

    def stop(self) -> None:
        """What the scrubber had no time for is undone."""
        for member in self._nodes:
            _undo(member, self._planted.pop(member.name, []))

    def _restart(self, member: SimulatedMemoryNode) -> None:
        if self._planted.pop(member.name, []):
            self._surroundings.events["restarted when scrubbed"] += 1
            member.kill()


def _is_scrubbed(name: str) -> bool:
    return name in (IMAGE_FILE, CHECKSUM_FILE) or name.startswith(LOG_PREFIX)


def _undo(member: SimulatedMemoryNode, planted: Sequence[Damage]) -> None:
    for damage in reversed(planted):
        if member.disk.name_of(damage):
            damage.undo()
