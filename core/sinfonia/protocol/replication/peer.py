"""Replies wait for a replica from before it may be made primary until a configuration drops it.

That is the law of ``PeerPhase``, and ``TRANSITIONS`` is the whole of it.  The primary itself begins
to wait for a replica, and may change its mind only until it has asked the configuration to count
that replica.  Everything else is for a new configuration to say, which may say either in any phase:
what was asked for in the epoch before is not granted any more.

Whether the replica is *sent* the log as that is shipped (``pushing``) is another matter: a replica
in sync that has fallen behind pulls what it lacks, and is waited for all the same.
"""

from enum import Enum

from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.membership.messages import Member
from sinfonia.protocol.replication.agreement import ReplicationTimes
from sinfonia.protocol.replication.slowness import Slowness


class PeerPhase(Enum):
    """Whether replies wait for a replica, and why."""

    OUT = "out of sync"  # they do not
    JOINING = "joining"  # they do, because it has nearly caught up
    WISHED = "wished for"  # and the configuration was asked to count it
    IN_SYNC = "in sync"  # the configuration counts it
    LOST = "lost"  # the configuration counts it, and it lacks something that it must have


class PeerEvent(Enum):
    """What moves a replica from phase to phase."""

    CAUGHT_UP = "caught up"  # nearly
    GONE = "gone"  # or slow
    WISHED_FOR = "wished for"  # in a request to the manager
    FOUND_LACKING = "found lacking"
    COUNTED = "counted"  # by a new configuration
    NOT_COUNTED = "not counted"  # by a new configuration


TRANSITIONS: dict[tuple[PeerPhase, PeerEvent], PeerPhase] = {
    (PeerPhase.OUT, PeerEvent.CAUGHT_UP): PeerPhase.JOINING,
    (PeerPhase.JOINING, PeerEvent.GONE): PeerPhase.OUT,
    (PeerPhase.JOINING, PeerEvent.WISHED_FOR): PeerPhase.WISHED,
    (PeerPhase.IN_SYNC, PeerEvent.FOUND_LACKING): PeerPhase.LOST,
    (PeerPhase.LOST, PeerEvent.FOUND_LACKING): PeerPhase.LOST,
    **{(phase, PeerEvent.COUNTED): PeerPhase.IN_SYNC for phase in PeerPhase},
    **{(phase, PeerEvent.NOT_COUNTED): PeerPhase.OUT for phase in PeerPhase},
}


class Proof(Enum):
    """Whether a replica that restarted has shown that its disk lost nothing."""

    PROVEN = "proven"  # or never in doubt
    UNPROVEN = "unproven"
    PROVING = "proving"  # the life in doubt has joined, and is to reach ``due``


class Peer:
    """What the primary knows of one replica; times are the primary's monotonic seconds."""

    __slots__ = (
        "acked",
        "due",
        "echoed",
        "heard_at",
        "identity",
        "named",
        "phase",
        "progress_at",
        "proof",
        "pushing",
        "resent_at",
        "route",
        "sent",
        "sent_at",
        "slowness",
        "starts",
    )

    def __init__(self, member: Member, now: float, *, times: ReplicationTimes) -> None:
        self.identity = member.identity
        self.phase = PeerPhase.IN_SYNC if member.in_sync else PeerPhase.OUT
        self.proof = Proof.UNPROVEN if member.unproven else Proof.PROVEN
        self.named = member.starts  # the life of which the configuration speaks
        self.due: Seq = 0  # what it must have before it is wished for, or counted proven
        self.route = b""
        self.starts = 0
        self.acked: Seq = 0
        self.echoed = float("-inf")
        self.pushing = False
        self.sent: Seq = 0
        self.sent_at = now
        self.heard_at = now
        self.progress_at = now  # when it last had all, or more than before
        self.resent_at = now
        self.slowness = Slowness(times, now)

    @property
    def required(self) -> bool:
        """Whether replies wait for it."""
        return self.phase is not PeerPhase.OUT

    @property
    def counted(self) -> bool:
        """Whether the configuration counts it in sync."""
        return self.phase is PeerPhase.IN_SYNC or self.phase is PeerPhase.LOST

    @property
    def may_be_counted(self) -> bool:
        """Whether it is to be counted: it has all that was answered before it was waited for."""
        joins = self.phase is PeerPhase.JOINING or self.phase is PeerPhase.WISHED
        return joins and self.acked >= self.due

    @property
    def may_be_proven(self) -> bool:
        """Whether it holds all that this log held when its present life joined."""
        return self.proof is Proof.PROVING and self.acked >= self.due

    def on_event(self, event: PeerEvent) -> None:
        """Move to the next phase."""
        transition = (self.phase, event)
        assert transition in TRANSITIONS, f"{self.identity} is {self.phase.value}: {event.value}"
        self.phase = TRANSITIONS[transition]

    def begin_to_prove(self, starts: int, due: Seq) -> None:
        """It joins in the life ``starts``; if that is the life in doubt, it must reach ``due``."""
        if self.proof is Proof.UNPROVEN and starts == self.named:
            self.proof, self.due = Proof.PROVING, due

    def on_member(self, member: Member) -> None:
        """The configuration speaks of it so now."""
        if not member.unproven:
            self.proof = Proof.PROVEN
        elif self.proof is Proof.PROVEN or member.starts != self.named:
            self.proof = Proof.UNPROVEN
        self.named = member.starts
        # Perhaps the replica has resigned since the epoch before: that it follows, it must say in
        # this one.
        self.on_event(PeerEvent.COUNTED if member.in_sync else PeerEvent.NOT_COUNTED)

    def check_invariants(self, *, last: Seq, committed: Seq) -> None:
        """The log ends with ``last``; up to ``committed`` it is at all in-sync members."""
        assert self.acked <= last
        if self.phase is PeerPhase.IN_SYNC:
            assert self.acked >= committed or not self.pushing
