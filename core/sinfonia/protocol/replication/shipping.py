"""The primary's half of replication: nothing is answered before every in-sync replica has it.

A reply may leave when, for each replica that is in sync or about to be,

- the replica has acknowledged every record that the reply rests on; and
- the replica did not agree to another primary before the reply was computed.  It proves that by
  answering something that was sent afterwards, or by its *lease*: a replica that acknowledges
  promises to serve no client for a while.  The while is counted here from the sending and there
  from the receipt, each on its own clock, with a margin for clocks that run unevenly.

So a primary that was replaced, and does not know, answers no client: not writes, which no replica
acknowledges any more, nor reads, once its leases have run out.

The configuration says which members are in sync, and only compare-and-swap changes it.  A replica
is asked for (``joining``) before it is counted: from then on replies wait for it, and only when it
has all that was ever acknowledged the configuration is asked to say so.  From the moment of asking
it may be made primary at any time, so it is waited for until a later configuration says otherwise.

An in-sync replica that restarted is *unproven*: its disk may have lost the end of its log.  Once it
has joined and holds all that this log held then, the configuration is asked to count it proven.
The other way round, a replica that holds what all in-sync members once had, and this log has not,
proves that this log is the damaged one: the primary must lead no further (``lacking``).

While a replica catches up, writers are slowed down as far as it takes (pacing.py); and a replica
that is waited for, answers, and is slow is given up like one that is silent (slowness.py).
"""

from collections.abc import Sequence

from msgspec.structs import replace

from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.membership.messages import MemoryNodeEntry, Reconfigure
from sinfonia.protocol.messages import Reply
from sinfonia.protocol.records import Batch
from sinfonia.protocol.replication.agreement import ReplicationTimes, common_prefix, lacks
from sinfonia.protocol.replication.limits import ReplicationLimits
from sinfonia.protocol.replication.messages import Append, Appended, Join, Joined, Life
from sinfonia.protocol.replication.pacing import Pacing
from sinfonia.protocol.replication.peer import Peer, PeerEvent, PeerPhase
from sinfonia.protocol.replication.window import Window

# What was not acknowledged by then is sent again.  Twice a slow fsync.
RESEND_AFTER = 0.1

# How often an unanswered wish for another configuration is repeated.
ASK_AGAIN = 0.1

# A replica that answers but gets nowhere is given this many times ``drop_after``.
STUCK_FACTOR = 3

ToReplica = tuple[bytes, Reply]


class Shipping:
    """All replicas of one life of a primary.  It does no I/O."""

    def __init__(
        self,
        entry: MemoryNodeEntry,
        *,
        times: ReplicationTimes,
        history: Sequence[Life],
        last: Seq,
        now: float,
        limits: ReplicationLimits,
        pacing: Pacing,
        alone: bool = True,
    ) -> None:
        """``entry`` makes this member the primary; its log, all stable, ends with ``last``.

        ``history``: the lives that wrote the log, this one included.  The log may forget early ones
        while it grows; here they are remembered, as long as what they wrote can still be sent.
        ``pacing`` learns how far replicas have come that catch up.  ``alone``: the primary's own
        copy is worth so much that its only replica may be given up for being slow.
        """
        self.entry = entry
        self.local_stable = last
        self.committed: Seq = 0
        self.lacking = ""  # what this log has lost, if a replica has shown that
        self.peers = {member.identity: Peer(member, now, times=times) for member in entry.replicas}
        self._times = times
        self._history = list(history)
        self._life_epoch = entry.config_epoch
        self._window = Window(last, limits.window)
        self._limits = limits
        self.pacing = pacing
        self.dropped_slow = 0  # how often a replica was given up for being slow
        self._alone = alone
        self._ask_from = now
        self._advance()

    # --- records -------------------------------------------------------------------------------

    @property
    def last(self) -> Seq:
        """The last record of all that was shipped."""
        return self._window.last

    def ship(self, batch: Batch, now: float) -> list[ToReplica]:
        """``batch`` was logged; send it on, beside the primary's own sync."""
        for peer in self.peers.values():
            if peer.acked == self.last:
                peer.progress_at = now
        self._window.add(batch)
        sends = self._push_all(now)
        for peer in self.peers.values():
            if peer.pushing:
                peer.slowness.shipped(self.last, now)
        return sends

    def on_stable(self, seq: Seq) -> None:
        """The primary's own log is stable up to ``seq``."""
        self.local_stable = seq
        self._advance()

    def records_behind(self, identity: str) -> int:
        """How many of the records that were shipped this replica has not acknowledged."""
        peer = self.peers.get(identity)
        return self.last if peer is None else self.last - peer.acked

    def ack_seconds(self, identity: str) -> float:
        """How long this replica took lately to acknowledge what it was sent, on average."""
        peer = self.peers.get(identity)
        return 0.0 if peer is None else peer.slowness.ack_seconds

    def may_leave(self, seq: Seq, executed_at: float, now: float) -> bool:
        """Whether a reply may leave that rests on records up to ``seq``."""
        if self.local_stable < seq:
            return False
        lease_from = now - self._times.counted_lease
        for peer in self.peers.values():
            if peer.phase is not PeerPhase.OUT:
                if peer.acked < seq:
                    return False
                if peer.echoed < executed_at and peer.echoed <= lease_from:
                    return False
        return True

    def ask_for_lease(self, executed_at: float, now: float) -> list[ToReplica]:
        """A reply waits though nothing was logged: have the replicas say that they still follow."""
        return [
            self._heartbeat(peer, now)
            for peer in self.peers.values()
            if peer.pushing and peer.sent_at < executed_at
        ]

    # --- what replicas say ---------------------------------------------------------------------

    def on_join(self, route: bytes, join: Join, now: float) -> list[ToReplica]:
        """A replica wants to be sent what it lacks."""
        peer = self.peers.get(join.identity)
        if peer is None or join.config_epoch > self.entry.config_epoch or join.starts < peer.starts:
            return []
        if join.config_epoch < self._life_epoch:
            return []  # it speaks of another primary's life
        lost = lacks(self._history, self.last, join.history, join.committed)
        if lost and lost >= self.entry.loss_accepted:
            self.lacking = (
                f"the replica {join.identity} holds record {join.committed} of incarnation {lost}, "
                f"which all in-sync members had, and this log ends with record {self.last} without "
                "it"
            )
            return []
        common = common_prefix(self._history, self.last, join.history, join.last)
        if peer.route != route:
            self.pacing.ends(peer.route)
            peer.route = route
        if join.starts != peer.starts:
            peer.starts, peer.acked = join.starts, 0
        peer.heard_at = peer.progress_at = now
        # Without a life in common no process can say how much of its log is right.
        diverged = common < join.applied or common == 0 < join.last
        if peer.counted and (diverged or common < self.committed):
            peer.on_event(PeerEvent.FOUND_LACKING)
        peer.begin_to_prove(join.starts, self.last)
        if diverged:
            peer.pushing = False
            return [(route, self._joined(peer, common, image=True))]
        # What it has in common with this log is stable there.
        peer.acked = max(peer.acked, common)
        peer.pushing = common + 1 >= self._window.first
        if not peer.pushing:
            return [(route, self._joined(peer, common, pull=True))]
        peer.sent = common
        if peer.required:
            self.pacing.ends(route)
        self._consider(peer, join.config_epoch, now)
        self._advance()
        joined: ToReplica = (route, self._joined(peer, common))
        return [joined, *self._push(peer, now), self._heartbeat(peer, now)]

    def on_appended(self, route: bytes, appended: Appended, now: float) -> list[ToReplica]:
        """A replica has acknowledged."""
        peer = self.peers.get(appended.identity)
        if peer is None or peer.starts != appended.starts or peer.route != route:
            return []
        if appended.config_epoch < self._life_epoch or appended.last > self.last:
            return []
        peer.heard_at = now
        peer.echoed = max(peer.echoed, appended.sent_at)
        if appended.last > peer.acked:
            peer.acked = appended.last
            peer.progress_at = now
            peer.slowness.acknowledged(appended.last, now)
        if peer.acked == self.last:
            peer.progress_at = now
        self._consider(peer, appended.config_epoch, now)
        self._advance()
        return self._push(peer, now) if peer.pushing else []

    def on_configuration(self, entry: MemoryNodeEntry, now: float) -> None:
        """A later configuration in which this member is still the primary, in the same life."""
        assert entry.incarnation == self.entry.incarnation
        if entry.config_epoch <= self.entry.config_epoch:
            return
        self.entry = entry
        self._ask_from = now
        members = {member.identity: member for member in entry.replicas}
        for identity in self.peers.keys() - members.keys():
            self.pacing.ends(self.peers.pop(identity).route)
        for identity, member in members.items():
            peer = self.peers.get(identity)
            if peer is None:
                peer = Peer(replace(member, in_sync=False), now, times=self._times)
                self.peers[identity] = peer
            if member.in_sync and not peer.counted:
                peer.heard_at = peer.progress_at = now
                peer.slowness.is_counted(now)
            if peer.counted and not member.in_sync:
                peer.pushing = False  # it joins again, if it can
                self._note_if_slow(peer, now)
            peer.on_member(member)
        self._advance()

    # --- time ----------------------------------------------------------------------------------

    def on_tick(self, now: float) -> list[ToReplica]:
        """Time has passed: heartbeats, resends."""
        sends: list[ToReplica] = []
        for peer in self.peers.values():
            if peer.phase is PeerPhase.JOINING and self._is_gone(peer, now):
                peer.on_event(PeerEvent.GONE)
                self._note_if_slow(peer, now)
            if not peer.pushing:
                peer.slowness.stop_timing()
                continue
            peer.slowness.look(self.local_stable, now)
            if not peer.required and peer.slowness.has_failed_again(now):
                peer.slowness.was_dropped(now)
            if not peer.required and now - peer.heard_at > self._times.drop_after:
                peer.pushing = False
                continue
            quiet_since = max(peer.progress_at, peer.resent_at)
            if peer.acked < peer.sent and now - quiet_since >= RESEND_AFTER:
                peer.sent = peer.acked
                peer.resent_at = now
                sends += self._push(peer, now)
            if now - peer.sent_at >= self._times.heartbeat:
                sends.append(self._heartbeat(peer, now))
        return sends

    def wish(self, now: float) -> Reconfigure | None:
        """The configuration that should be, if it is another one and it is time to ask."""
        in_sync = []
        changed = False
        for peer in self.peers.values():
            if peer.counted or peer.phase is PeerPhase.WISHED:
                if self._is_gone(peer, now):
                    changed = True
                else:
                    in_sync.append(peer.identity)
                    changed = changed or not peer.counted or peer.may_be_proven
            elif peer.may_be_counted:
                in_sync.append(peer.identity)
                changed = True
        if not changed or now < self._ask_from:
            return None
        self._ask_from = now + ASK_AGAIN
        for peer in self.peers.values():
            if peer.phase is PeerPhase.JOINING and peer.may_be_counted:
                peer.on_event(PeerEvent.WISHED_FOR)
        entry = self.entry
        return Reconfigure(
            node=entry.node,
            incarnation=entry.incarnation,
            config_epoch=entry.config_epoch,
            in_sync=in_sync,
            proven=[peer.identity for peer in self.peers.values() if peer.may_be_proven],
        )

    def next_wakeup(self) -> float | None:
        """When ``on_tick`` and ``wish`` must be called next."""
        wakeups = []
        for peer in self.peers.values():
            if peer.pushing:
                wakeups.append(peer.sent_at + self._times.heartbeat)
                if peer.acked < peer.sent:
                    wakeups.append(max(peer.progress_at, peer.resent_at) + RESEND_AFTER)
                late_at = peer.slowness.next_look()
                if late_at is not None:
                    wakeups.append(late_at)
            if peer.required:
                wishes = self._ask_from
                ready = peer.may_be_proven or peer.may_be_counted
                lost = peer.phase is PeerPhase.LOST
                if not (lost or ready or self._is_too_slow(peer)):
                    wishes = max(wishes, peer.heard_at + self._times.drop_after)
                wakeups.append(wishes)
        return min(wakeups, default=None)

    # --- parts ---------------------------------------------------------------------------------

    def _push_all(self, now: float) -> list[ToReplica]:
        return [
            send for peer in self.peers.values() if peer.pushing for send in self._push(peer, now)
        ]

    def _push(self, peer: Peer, now: float) -> list[ToReplica]:
        """Send what it lacks, as far as it may be ahead of its acknowledgements."""
        if peer.sent >= self.last:
            return []
        if peer.sent + 1 < self._window.first:
            peer.pushing = False
            return [(peer.route, self._joined(peer, peer.acked, pull=True))]
        sends: list[ToReplica] = []
        ahead = sum(
            len(batch.body) for batch in self._window.after(peer.acked) if batch.last <= peer.sent
        )
        for batch in self._window.after(peer.sent):
            if ahead > self._limits.ahead:
                break
            ahead += len(batch.body)
            sends.append((peer.route, self._append(batch.first, batch.count, batch.body, now)))
            peer.sent = batch.last
            peer.sent_at = now
        return sends

    def _joined(
        self, peer: Peer, common: Seq, *, pull: bool = False, image: bool = False
    ) -> Joined:
        entry = self.entry
        return Joined(
            config_epoch=entry.config_epoch,
            incarnation=entry.incarnation,
            starts=peer.starts,
            common=common,
            pull=pull,
            image=image,
        )

    def _heartbeat(self, peer: Peer, now: float) -> ToReplica:
        peer.sent_at = now
        return (peer.route, self._append(peer.sent + 1, 0, b"", now))

    def _append(self, first: Seq, count: int, body: bytes, now: float) -> Append:
        entry = self.entry
        return Append(
            config_epoch=entry.config_epoch,
            incarnation=entry.incarnation,
            first=first,
            count=count,
            body=body,
            committed=self.committed,
            sent_at=now,
        )

    def _consider(self, peer: Peer, config_epoch: int, now: float) -> None:
        """Begin to wait for a replica that has nearly caught up, as it says in ``config_epoch``."""
        if peer.required or not peer.pushing:
            return
        missing = self._window.bytes_after(peer.acked)
        position = self._window.shipped_bytes - missing
        self.pacing.acknowledges(peer.route, peer.identity, peer.acked, position, now)
        if not missing:
            self.pacing.has_all(peer.route)
        if config_epoch != self.entry.config_epoch or not peer.slowness.may_be_counted(now):
            return
        # Of the group commit that is under way no replica could have more.
        if missing <= self._limits.join_within or peer.acked + 1 >= self._window.newest:
            peer.on_event(PeerEvent.CAUGHT_UP)
            # Replies that left before now did not wait for it.
            peer.due = self.last
            self.pacing.ends(peer.route)

    def is_paced_for(self, identity: str, now: float) -> bool:
        """Whether it is a replica for whose sake writers may be slowed down."""
        peer = self.peers.get(identity)
        return peer is not None and not peer.required and not peer.slowness.has_time_out(now)

    def _is_gone(self, peer: Peer, now: float) -> bool:
        silent, stuck = now - peer.heard_at, now - peer.progress_at
        drop_after = self._times.drop_after
        if peer.phase is PeerPhase.LOST or silent > drop_after or stuck > STUCK_FACTOR * drop_after:
            return True
        return self._is_too_slow(peer)

    def _is_too_slow(self, peer: Peer) -> bool:
        """Whether it holds up writers, and what they write is safe without it."""
        return peer.slowness.is_slow and (
            self._alone
            or any(
                other.phase is PeerPhase.IN_SYNC and not other.slowness.is_slow
                for other in self.peers.values()
                if other is not peer
            )
        )

    def _note_if_slow(self, peer: Peer, now: float) -> None:
        """It is waited for no more."""
        if peer.slowness.is_slow:
            peer.slowness.was_dropped(now)
            self.dropped_slow += 1

    def _advance(self) -> None:
        """Note what every in-sync member has."""
        everywhere = self.local_stable
        for peer in self.peers.values():
            if peer.phase is not PeerPhase.OUT and peer.acked < everywhere:
                everywhere = peer.acked
        if everywhere > self.committed:
            self.committed = everywhere

    def check_invariants(self) -> None:
        assert self.committed <= self.local_stable <= self.last
        for peer in self.peers.values():
            peer.check_invariants(last=self.last, committed=self.committed)
