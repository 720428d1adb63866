"""A member counts for what it has shown since it may have lost something, and for nothing before.

This is what the manager has heard of the members: whether they live (``failure_detector``), which
config epochs they have seen, and since when a primary that died is back.  A directory that is older
than what a member has seen decides nothing.  A replica that has been silent since the primary came
back may have died with it, and then come back with less: what it told before says nothing.
"""

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.membership import configuration
from sinfonia.protocol.membership.election import Positions
from sinfonia.protocol.membership.failure_detector import FailureDetector, MemberLife
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry, Register


class Members:
    """All members, as one manager has heard of them; times are monotonic seconds."""

    def __init__(self, directory: Directory, *, fail_after: float, now: float) -> None:
        self.detector = FailureDetector(fail_after=fail_after, now=now)
        self.detector.watch(directory, now)
        # The newest config epochs that members have seen.
        self._seen: dict[MemoryNodeId, int] = {}
        # Primaries that came back and do not lead yet, and since when.
        self._returned: dict[MemoryNodeId, tuple[MemberLife, float]] = {}

    # --- what the store knows ------------------------------------------------------------------

    def on_known_epoch(self, entry: MemoryNodeEntry, identity: str, config_epoch: int) -> None:
        """A process says which config epoch it has seen; that counts if it is a member."""
        identities = {entry.identity, *(member.identity for member in entry.replicas)} - {""}
        if identity in identities and config_epoch <= configuration.COUNT_MAX:
            self._seen[entry.node] = max(self.seen(entry.node), config_epoch)

    def seen(self, node: MemoryNodeId) -> int:
        """The newest config epoch that a member of ``node`` has seen; 0 if none has said."""
        return self._seen.get(node, 0)

    def is_behind(self, entry: MemoryNodeEntry) -> bool:
        """Whether a member has seen a later configuration: the store is an older copy."""
        return self.seen(entry.node) > entry.config_epoch

    # --- primaries that come back --------------------------------------------------------------

    def positions(self, entry: MemoryNodeEntry, request: Register, now: float) -> Positions:
        """What in-sync replicas have told since the primary is known to be back, or replaced."""
        life = MemberLife(entry.node, request.identity, request.starts)
        back = request.identity == entry.identity and life.starts > entry.starts
        known = configuration.replica(entry, identity=request.identity) is not None
        if not back and (known or request.endpoint != entry.endpoint):
            return {}
        returned = self._returned.get(entry.node)
        if returned is None or returned[0] != life:
            returned = self._returned[entry.node] = (life, now)
        found = {
            member.identity: self.detector.position(
                MemberLife(entry.node, member.identity, member.starts), since=returned[1]
            )
            for member in entry.replicas
            if member.in_sync
        }
        return {identity: position for identity, position in found.items() if position is not None}

    def on_registered(self, node: MemoryNodeId) -> None:
        """A member that came back has its part again."""
        self._returned.pop(node, None)

    def alive_since_return(self, entry: MemoryNodeEntry, now: float) -> list[str]:
        """The replicas that may be counted on to take over.

        A primary that is back holds its data, and waits to be compared.  A replica that has said
        nothing since may have died with it, and then come back with less.
        """
        alive = self.detector.alive(entry, now)
        if entry.node not in self._returned:
            return alive
        since = self._returned[entry.node][1]
        starts = {each.identity: each.starts for each in entry.replicas}
        lives = {each: MemberLife(entry.node, each, starts[each]) for each in alive}
        told = self.detector.position
        return [each for each in alive if told(lives[each], since=since) is not None]
