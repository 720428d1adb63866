"""How much a primary has under way to its replicas, and how far writers may get ahead of them."""

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class ReplicationLimits:
    """In bytes of the log, as it is shipped.

    window: recent batches kept in memory to be sent again; a replica that needs older ones pulls
    them.  So a replica that stops for a second under full load need not pull when it goes on.

    ahead: what may be under way to one replica without being acknowledged.

    join_within: a replica is waited for only once so little is missing that writers do not notice.

    credit: what writers may add at once without a delay for a replica that catches up: some of the
    largest writes, and little beside what is sent to a replica without being acknowledged.

    debt: what writers have added beyond their share is made up for, up to this: some large group
    commits.

    piece: what one answer to a replica or a backup that pulls carries: read and sent in less than a
    millisecond.
    """

    window: int = 32 * MIB
    ahead: int = 8 * MIB
    join_within: int = 256 * KIB
    credit: int = 4 * MIB
    debt: int = 64 * MIB
    piece: int = 512 * KIB

    def __post_init__(self) -> None:
        assert min(self.window, self.ahead, self.join_within, self.credit, self.debt) > 0
        assert self.piece > 0
