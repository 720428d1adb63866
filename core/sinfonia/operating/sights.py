"""What the processes of a cluster answered at one look, and what follows from their answers.

Only answers count: a process that said nothing is in no state, and the directory alone says which
replica is in sync.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sinfonia.figures import member
from sinfonia.protocol.membership.messages import Directory
from sinfonia.protocol.messages import Status

# A process that serves answers within a wake-up; one that syncs a lot may take a moment.
ANSWER_WITHIN = 1.0

SERVING = "serving"
FOLLOWING = "following"
CATCHING_UP = "catching up"


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen at one look, begun at ``taken_at``; a silent process is not in ``statuses``.

    A process that is well answers at once, so that figures are as of the beginning.
    """

    taken_at: float
    statuses: dict[str, Status]
    directory: Directory | None


OnSight = Callable[[Sight], None]


def is_ready(sight: Sight, endpoint: str) -> bool:
    """Whether the process at ``endpoint`` serves, or follows in sync."""
    state = _state(sight, endpoint)
    return state == SERVING or (state == FOLLOWING and is_in_sync(sight.directory, endpoint))


def is_in_sync(directory: Directory | None, endpoint: str) -> bool:
    """Whether the replica at ``endpoint`` may become primary."""
    return directory is not None and any(
        member.in_sync
        for entry in directory.nodes
        for member in entry.replicas
        if member.endpoint == endpoint
    )


def copy_progress(sight: Sight, endpoint: str) -> tuple[object, ...]:
    """What grows while the process at ``endpoint`` catches up; the same in any other state."""
    status = sight.statuses.get(endpoint)
    if status is None or status.state != CATCHING_UP:
        return ()
    return member.COPIED_BYTES.read(status.figures), member.LAST_RECORD.read(status.figures)


def _state(sight: Sight, endpoint: str) -> str:
    status = sight.statuses.get(endpoint)
    return "" if status is None else status.state
