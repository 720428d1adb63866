"""What rots in a running member is repaired from its memory before a restart needs it.

The disk of a member that runs is damaged, in image or log; no other copy need be there.  The
scrubber is given the time to go round once and to repair what it finds; then the member restarts,
and must be as sound as ever.  A member whose life ends before that, or whose disk is so slow that
the scrubber does not come round, proves nothing: the damage is undone before it reads its disk.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

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

# A slow disk makes all that take longer; after so many looks the damage is undone.
LOOKS_MAX = 4

# The pass that was under way when the disk was damaged may have been past the place.
PASSES_MIN = 2

# One that was under way when the disk was damaged may have written the page before.
CHECKPOINTS_MIN = 2


class _Planted(NamedTuple):
    """What was damaged, and what had been done before: passes, repairs and checkpoints."""

    damages: list[Damage]
    passes: int
    repairs: int
    checkpoints: int


class ScrubbedDisks:
    """Damages disks of members that run, one at a time each."""

    def __init__(self, surroundings: Surroundings, nodes: Sequence[SimulatedMemoryNode]) -> None:
        self._surroundings = surroundings
        self._nodes = nodes
        self._planted: dict[str, _Planted] = {}

    def strike(self, rng: random.Random) -> None:
        """Damage one of the disks."""
        member = rng.choice(self._nodes)
        if member.name in self._planted or not member.has_confirmed or member.node is None:
            return
        if member.node.state not in (State.SERVING, State.FOLLOWING):
            return
        scrubber = member.node.member_state.scrubber
        checkpointer = member.node.member_state.checkpointer
        assert scrubber is not None, "the profile has disks and a scrubber"
        assert checkpointer is not None
        member.disk_watch = self
        member.disk.write_back()
        damages = rot(member.disk, rng, log_id=log_id_of(member.identity))
        names = [member.disk.name_of(damage) for damage in damages]
        if not all(_is_scrubbed(name) for name in names):
            _undo(member, damages)
            return
        self._surroundings.events["rotten under a scrubber"] += bool(damages)
        self._surroundings.scheduler.note(member.name, "has rot in", *names)
        planted = self._planted[member.name] = _Planted(
            damages, scrubber.passes, scrubber.repairs, checkpointer.made
        )
        self._look_later(member, planted, LOOKS_MAX)

    def before_boot(self, member: SimulatedMemoryNode) -> None:
        """A life of ``member`` has ended before its disk was scrubbed."""
        self._give_up(member)

    def stop(self) -> None:
        """What the scrubber had no time for is undone."""
        for member in self._nodes:
            self._give_up(member)

    def _look_later(self, member: SimulatedMemoryNode, planted: _Planted, looks: int) -> None:
        self._surroundings.scheduler.after(SCRUBBED_S, self._look, member, planted, looks)

    def _look(self, member: SimulatedMemoryNode, planted: _Planted, looks: int) -> None:
        """Restart ``member`` as soon as its disk was scrubbed."""
        if self._planted.get(member.name) is not planted:
            return
        if _was_scrubbed(member, planted):
            del self._planted[member.name]
            if planted.damages:
                self._surroundings.events["restarted when scrubbed"] += 1
                member.kill()
        elif looks > 1:
            self._look_later(member, planted, looks - 1)
        else:
            self._give_up(member)

    def _give_up(self, member: SimulatedMemoryNode) -> None:
        planted = self._planted.pop(member.name, None)
        if planted is not None:
            _undo(member, planted.damages)


def _was_scrubbed(member: SimulatedMemoryNode, planted: _Planted) -> bool:
    if member.node is None:
        return False
    scrubber = member.node.member_state.scrubber
    checkpointer = member.node.member_state.checkpointer
    if scrubber is None or checkpointer is None or scrubber.repairing:
        return False
    # A page that is to be rewritten anyway is passed over: the next checkpoint repairs that.
    rewritten = checkpointer.made >= planted.checkpoints + CHECKPOINTS_MIN
    if scrubber.repairs == planted.repairs and not rewritten:
        return False
    return scrubber.passes >= planted.passes + PASSES_MIN


def _is_scrubbed(name: str) -> bool:
    return name in (IMAGE_FILE, CHECKSUM_FILE) or name.startswith(LOG_PREFIX)


def _undo(member: SimulatedMemoryNode, planted: Sequence[Damage]) -> None:
    for damage in reversed(planted):
        if member.disk.name_of(damage):
            damage.undo()
