"""The failure detector: a member that has not answered probes for a while is taken for dead.

It may be wrong, and nothing breaks if it is: a primary that was replaced although it lives finds
that its replicas acknowledge nothing any more.  It only has to be right in the end.

An answer shows that its sender was there when the question was sent, and no more: it may have
been under way for long, or have come before.

A member is *silent* when it had its chance, for ``fail_after`` seconds, and did not answer; *alive*
when it did.  A member that has just become known is neither.  A manager that stood still for a
while gave its members no chance, and begins to wait anew.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.membership.election import NOTHING, Position
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry

# A manager that stood still for this share of ``fail_after`` may have missed answers.
STOOD_STILL_SHARE = 0.5

# A member that answered nothing for this share of ``fail_after`` has missed probes, and may be
# deaf.
MISSED_SHARE = 0.5


class MemberLife(NamedTuple):
    """One member in one of its lives."""

    node: MemoryNodeId
    identity: str
    starts: int


@dataclass(slots=True)
class _Heard:
    watched_since: float
    answered_at: float = float("-inf")
    position: Position = NOTHING
    directory_version: int = 0
    ended: bool = False


class FailureDetector:
    """Keeps count of the answers of all members.  Times are monotonic seconds."""

    def __init__(self, *, fail_after: float, now: float) -> None:
        self.fail_after = fail_after
        self._heard: dict[MemberLife, _Heard] = {}
        self._looked_at = now

    def watch(self, directory: Directory, now: float) -> None:
        """From now on the members of ``directory`` are watched, in the lives that it names."""
        known = self._heard
        self._heard = {
            life: known.get(life) or _Heard(now)
            for entry in directory.nodes
            for life in lives(entry)
        }

    def look(self, now: float) -> None:
        """The manager is awake; called often."""
        if now - self._looked_at > self.fail_after * STOOD_STILL_SHARE:
            self.wait_anew(now)
        self._looked_at = now

    def wait_anew(self, now: float) -> None:
        """No member has had a chance to answer until now."""
        for heard in self._heard.values():
            heard.watched_since = now

    def on_answer(
        self, life: MemberLife, *, position: Position, directory_version: int, asked_at: float
    ) -> None:
        """A member has answered what was asked at ``asked_at``; a stranger's is not noted."""
        heard = self._heard.get(life)
        if heard is not None and not heard.ended and asked_at >= heard.answered_at:
            heard.answered_at = asked_at
            heard.position = position
            heard.directory_version = max(heard.directory_version, directory_version)

    def on_death(self, life: MemberLife) -> None:
        """It is known to have ended."""
        heard = self._heard.get(life)
        if heard is not None:
            heard.answered_at = float("-inf")
            heard.ended = True

    def position(self, life: MemberLife, *, since: float) -> Position | None:
        """Where its log ends, if it was asked at ``since`` or later and has answered."""
        heard = self._heard.get(life)
        return None if heard is None or heard.answered_at < since else heard.position

    def directory_version(self, life: MemberLife) -> int:
        """Which directory the member is known to have."""
        heard = self._heard.get(life)
        return 0 if heard is None else heard.directory_version

    def is_alive(self, life: MemberLife, now: float) -> bool:
        """Whether it answered just now."""
        heard = self._heard.get(life)
        return heard is not None and now - heard.answered_at < self.fail_after

    def is_deaf(self, life: MemberLife, now: float) -> bool:
        """Whether it did not answer the last probes."""
        return self._waited(life, now) >= self.fail_after * MISSED_SHARE

    def is_silent(self, life: MemberLife, now: float) -> bool:
        """Whether it did not answer though it had the time."""
        return self._waited(life, now) >= self.fail_after

    def alive(self, entry: MemoryNodeEntry, now: float) -> list[str]:
        """The identities of the replicas that are alive, the one with the longest log first."""
        replicas = [life for life in lives(entry)[1:] if self.is_alive(life, now)]
        replicas.sort(key=lambda life: (-self._heard[life].position.last, life.identity))
        return [life.identity for life in replicas]

    def _waited(self, life: MemberLife, now: float) -> float:
        """How long it has had a chance to answer, and did not."""
        heard = self._heard.get(life)
        return 0.0 if heard is None else now - max(heard.watched_since, heard.answered_at)


def primary_life(entry: MemoryNodeEntry) -> MemberLife:
    """The primary, as the configuration names it."""
    return MemberLife(entry.node, entry.identity, entry.starts)


def lives(entry: MemoryNodeEntry) -> list[MemberLife]:
    """All members, the primary first; a primary that was given up has no identity."""
    replicas: Iterable[MemberLife] = (
        MemberLife(entry.node, member.identity, member.starts) for member in entry.replicas
    )
    return [primary_life(entry), *replicas]
