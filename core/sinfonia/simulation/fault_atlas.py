"""Where intact copies are: a disk may be damaged only as long as one of everything remains.

The atlas knows of each damaged member which life was the last that could have been struck.  A
member is *intact* if it was not struck since, or if a later life of it counts again: the stored
configuration names that life as the primary, or as in sync and proven, and replay has confirmed
its image.  Every in-sync member holds all that was acknowledged.  So as long as one of them is
intact, nothing acknowledged may be lost; if none is, no member may serve.
"""

from collections.abc import Collection, Mapping

from sinfonia.protocol.membership.messages import MemoryNodeEntry

# Lives of members, as (identity, starts).
Lives = Collection[tuple[str, int]]


class FaultAtlas:
    """The damaged members of all memory nodes."""

    def __init__(self) -> None:
        self._struck: dict[str, int] = {}  # identity -> the last life that may be damaged

    @property
    def struck(self) -> Mapping[str, int]:
        """The damaged members, each with the last life that may be damaged."""
        return self._struck

    def note(self, identity: str, starts: int) -> None:
        """The disk of ``identity`` is damaged, which was started ``starts`` times."""
        self._struck[identity] = max(starts, self._struck.get(identity, 0))

    def look(self, entry: MemoryNodeEntry, confirmed: Lives) -> None:
        """Forget the damage of members that count again.

        ``entry`` is stored; ``confirmed`` are the lives whose replay has found the image sound.
        """
        for identity, starts in counted(entry):
            struck = self._struck.get(identity)
            if struck is not None and starts > struck and (identity, starts) in confirmed:
                del self._struck[identity]

    def intact(self, entry: MemoryNodeEntry) -> list[str]:
        """The in-sync members with a sound disk, the primary first."""
        return [each for each in (entry.identity, *entry.in_sync) if each and self.is_intact(each)]

    def is_intact(self, identity: str) -> bool:
        """Whether nothing is known to be wrong with its disk."""
        return identity not in self._struck

    def may_strike(self, entry: MemoryNodeEntry, identity: str) -> bool:
        """Whether an intact copy of everything remains without that of ``identity``."""
        return any(each != identity for each in self.intact(entry))


def counted(entry: MemoryNodeEntry) -> list[tuple[str, int]]:
    """The lives that may lead at once: the primary's, and those in sync and proven."""
    replicas = [each for each in entry.replicas if each.in_sync and not each.unproven]
    return [
        (entry.identity, entry.starts),
        *((each.identity, each.starts) for each in replicas),
    ]
