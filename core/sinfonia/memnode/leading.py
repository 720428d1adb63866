"""A primary's wake-ups: execute, commit as a group, look after replicas and copiers.

It settles before it serves; see node.py.
"""

from sinfonia.errors import DamagedData
from sinfonia.memnode.copies import CopySource
from sinfonia.memnode.group_commit import GroupCommit, SendReplies
from sinfonia.memnode.hybrid_clock import HybridClock
from sinfonia.memnode.member_state import MemberState
from sinfonia.memnode.settings import has_disk, is_replicated
from sinfonia.protocol.effects import Step
from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.load.counters import LoadCounters
from sinfonia.protocol.membership.messages import MemoryNodeEntry, Reconfigure
from sinfonia.protocol.messages import Probe, Reply, Request, Requests, Unsettled
from sinfonia.protocol.participant import Participant
from sinfonia.protocol.records import Stamp
from sinfonia.protocol.replication.messages import Appended, GetImage, GetLog, GetPages, Join
from sinfonia.protocol.replication.pacing import Asked, Pacing
from sinfonia.protocol.replication.shipping import Shipping, ToReplica
from sinfonia.storage.journal import Journal

# What replicas and copiers ask; it comes in batches of its own.
PEER_REQUESTS = frozenset({Join, Appended, GetImage, GetPages, GetLog})

# A memory node that keeps no log stops to keep one for a copier that has been silent for so long.
COPY_IDLE = 30.0


class Leading:
    """One life of a memory node, as its primary; times are monotonic seconds."""

    def __init__(
        self,
        entry: MemoryNodeEntry,
        member_state: MemberState,
        *,
        clock: HybridClock,
        load: LoadCounters,
        send: SendReplies,
        serve_from: float,
        now: float,
    ) -> None:
        """Take all that was logged for true; ``tick`` applies what was not applied yet.

        What is done is counted in ``load``.  Raises StorageError.
        """
        self.incarnation = entry.incarnation
        self.member_state = member_state
        journal = member_state.journal
        if journal is not None:
            if journal.dirty:
                journal.sync()
            journal.begin_life(entry.incarnation)
            self._go_on_stamping(journal, clock)
        settings = member_state.settings
        self.participant = Participant(
            member_state.participant_state,
            node=entry.node,
            incarnation=entry.incarnation,
            read_lease=settings.read_lease,
            load=load,
            lock_waits=settings.lock_line(settings.locks),
        )
        limits = settings.replication
        self.pacing = Pacing(limits)
        self.shipping: Shipping | None = None
        if is_replicated(member_state.settings.mode):
            self.shipping = Shipping(
                entry,
                times=member_state.settings.times,
                history=member_state.history,
                last=member_state.last,
                now=now,
                limits=limits,
                pacing=self.pacing,
                # In memory alone is no copy to do with for the sake of speed.
                alone=has_disk(member_state.settings.mode),
            )
        self.group = GroupCommit(journal, shipping=self.shipping, clock=clock, send=send)
        self.copies = CopySource(member_state, entry.incarnation)
        self._clock = clock
        self._send = send
        self._serve_from = serve_from
        self._settled_by: float | None = None
        # Until all of the log was applied, nothing is executed or saved, nor named to probes.
        self.replaying = journal is not None
        self._replay_to = member_state.last
        self._logging_until: float | None = None

    # --- a wake-up -----------------------------------------------------------------------------

    def receive(self, route: bytes, batch: Requests, now: float) -> bool:
        """Execute a batch; its replies come out of ``flush``.

        Returns whether there are questions to the member in it; ``answer`` takes the replies.
        """
        requests = batch.requests
        if requests and type(requests[0]) in PEER_REQUESTS:
            for request in requests:
                self._on_peer(route, request, now)
            return False
        step = self.participant.on_requests(batch, now, route)
        self.group.carry_out(step)
        return step.has_questions

    def answer(self, route: bytes, replies: list[Reply], now: float) -> None:
        """These replies leave with those of the same wake-up."""
        self.group.carry_out(Step(route, now, replies=replies))

    def on_probe(self, probe: Probe, now: float) -> list[Unsettled]:
        """What the manager may have to settle.  Called after ``flush``: votes are stable then."""
        step = Step(b"", now)
        unsettled = self.participant.recovery.on_probe(
            probe, step, stable_before=self.group.stable_before
        )
        self.group.carry_out(step)
        return unsettled

    def flush(self, now: float) -> None:
        """Sync what must be stable, and send what may leave.  Raises StorageError."""
        wakeup = self.participant.next_wakeup()
        if wakeup is not None and wakeup <= now:
            self.group.carry_out(self.participant.on_tick(now))
        self.group.flush(now)

    def tick(self, now: float) -> None:
        """Time has passed.  Raises StorageError."""
        if not self.participant.serving:
            self._settle(now)
        if self.shipping is not None:
            if self.shipping.lacking:
                raise DamagedData(self.shipping.lacking)
            self._say(self.shipping.on_tick(now))
        journal = self.member_state.journal
        if journal is not None:
            copied = self.pacing.copiers
            journal.needed_after = self.pacing.needed_after(now) if copied else None
        if not self.replaying:
            self._carry_checkpoint(now)
        if self._logging_until is not None and now >= self._logging_until:
            self._logging_until = None
            self.group.end_logging(now)
            self.member_state.end_logging()

    def next_wakeup(self) -> float | None:
        """When ``tick`` and ``flush`` must be called next; None: not before a batch comes."""
        if not self.participant.serving:
            return 0.0
        checkpointer = self.member_state.checkpointer
        wakeups = (
            self.group.next_wakeup(),
            self.participant.next_wakeup(),
            None if self.shipping is None else self.shipping.next_wakeup(),
            None if checkpointer is None else checkpointer.next_wakeup(),
        )
        return min((each for each in wakeups if each is not None), default=None)

    def _settle(self, now: float) -> None:
        """Come nearer to serving: replay, let promises of others end, settle what is in doubt."""
        member_state = self.member_state
        if self.replaying:
            member_state.apply_up_to(self._replay_to, member_state.settings.applying)
            self.replaying = member_state.applied < self._replay_to
            if self.replaying:
                return
        if self._settled_by is None:
            self._settled_by = now + member_state.settings.settle_max
        if now >= self._serve_from:
            settled = not member_state.participant_state.in_doubt
            self.participant.serving = settled or now >= self._settled_by

    # --- the configuration ---------------------------------------------------------------------

    def on_configuration(self, entry: MemoryNodeEntry, now: float) -> None:
        """A later configuration of the same life."""
        if self.shipping is not None:
            self.shipping.on_configuration(entry, now)

    def wish(self, now: float) -> Reconfigure | None:
        """Another configuration, if one should be asked for."""
        return None if self.shipping is None else self.shipping.wish(now)

    @property
    def committed(self) -> Seq:
        """The last record that is never taken back."""
        if self.shipping is not None:
            return self.shipping.committed
        return 0 if self.member_state.journal is None else self.member_state.journal.stable

    # --- replicas and copiers ------------------------------------------------------------------

    def _on_peer(self, route: bytes, request: Request, now: float) -> None:
        shipping = self.shipping
        match request:
            case Join() if shipping is not None:
                if request.node == self.member_state.settings.node:
                    self._say(shipping.on_join(route, request, now))
            case Appended() if shipping is not None:
                self._say(shipping.on_appended(route, request, now))
            case GetImage() if not self.replaying:
                self._begin_copy(now)
                self.pacing.begins(route, request.identity, self.member_state.last, now)
                self._send(route, [self.copies.image()])
            case GetPages() if self.copies.begun:
                self.pacing.asks(route, request.identity, Asked.PAGES, request.start, now)
                pages = self.copies.pages(request)
                size = sum(len(data) for _, data in pages.runs)
                self.pacing.answered(route, Asked.PAGES, size)
                self._send(route, [pages])
            case GetLog():
                self._on_get_log(route, request, now)

    def _on_get_log(self, route: bytes, request: GetLog, now: float) -> None:
        if self.member_state.journal is not None:
            self._keep_logging(now)
            if request.stamp:
                self.group.stamp_after(request.stamp, now)
        self.pacing.asks(route, request.identity, Asked.LOG, request.after, now)
        part = self.copies.log(request, self.committed)
        if part.gone:
            self.pacing.ends(route)
        else:
            self.pacing.answered(route, Asked.LOG, len(part.body))
        self._send(route, [part])

    def _begin_copy(self, now: float) -> None:
        """Have a log, all of it stable."""
        if self.member_state.journal is None:
            self.member_state.begin_logging(self.incarnation)
            self.group.journal = self.member_state.journal
            self._logging_until = now + COPY_IDLE
        self._keep_logging(now)
        assert self.member_state.journal is not None
        if self.member_state.journal.dirty:
            self.group.sync(now)
        self.member_state.participant_state.stamped = self._clock.latest

    def _keep_logging(self, now: float) -> None:
        if self._logging_until is not None:
            self._logging_until = now + COPY_IDLE

    def _say(self, sends: list[ToReplica]) -> None:
        for route, reply in sends:
            self._send(route, [reply])

    def _carry_checkpoint(self, now: float) -> None:
        checkpointer = self.member_state.checkpointer
        if checkpointer is None:
            return
        if checkpointer.due and not checkpointer.running:
            self.begin_checkpoint(now)
        if checkpointer.running:
            checkpointer.carry_on(now, sync=lambda: self.group.sync(now))

    def begin_checkpoint(self, now: float) -> None:
        """Note the state and the pages to be saved; ``tick`` does the rest."""
        member_state = self.member_state
        assert member_state.checkpointer is not None
        assert member_state.journal is not None
        if member_state.journal.dirty:
            self.group.sync(now)
        state = member_state.participant_state
        state.stamped = self._clock.latest
        member_state.checkpointer.begin(member_state.journal.last, state.checkpoint_state())

    def _go_on_stamping(self, journal: Journal, clock: HybridClock) -> None:
        """Whatever the wall clock says, stamps are later than those of former lives; and what a
        crash left without one was there before anything that this life answers."""
        state = self.member_state.participant_state
        clock.resume(state.stamped)
        if state.unstamped:
            journal.append(Stamp(clock.stamp()))
            journal.sync()

    def check_invariants(self) -> None:
        """What holds between two wake-ups."""
        self.participant.check_invariants()
        self.group.check_invariants()
        self.pacing.check_invariants()
