"""One life of a member of a memory node, without sockets.

A wake-up is: ``receive`` every batch that has come, then ``flush`` once, then ``tick``.  Replies
leave through ``send``, which must not wait.

A life goes

    starting -> settling -> serving            as the primary
    starting -> catching up -> following       as a replica, which may become the primary

and ends as *over* when the configuration has no such place for it any more: a primary that was
replaced.  Its memory shows what may never have happened, so that the driver drops the object and
begins another life on the same data directory.  A member of a memory node with replicas also ends
its life when its data turns out to be damaged, or to be an older copy; the next one counts as empty
and is filled from an in-sync copy.

The role comes from the directory alone (``on_directory``), and only if that names this very life.
A primary *settles* before it serves.  It waits until a former primary can no longer answer reads
(its lease), and until the read-only locks that a former life gave have ended.  Then it waits until
what was left in doubt is settled, but no longer than ``settle_max``: an in-doubt minitransaction
that cannot be settled, because a participant is down, keeps its locks and does not keep the others
waiting.

After a StorageError the object must be dropped: memory may hold what the disk does not.
"""

from collections.abc import Callable

from sinfonia.errors import DamagedData, StorageError
from sinfonia.memnode.hybrid_clock import HybridClock
from sinfonia.memnode.leading import PEER_REQUESTS, Leading
from sinfonia.memnode.member_state import MemberState
from sinfonia.memnode.replica import Replica
from sinfonia.memnode.settings import MemoryNodeSettings, State, has_disk, is_replicated
from sinfonia.memnode.status import status_figures
from sinfonia.protocol.attempts import CLOCK_DRIFT_MARGIN
from sinfonia.protocol.effects import Question
from sinfonia.protocol.load.counters import LoadCounters
from sinfonia.protocol.load.windows import LoadWindows
from sinfonia.protocol.membership.messages import (
    Directory,
    Member,
    MemoryNodeEntry,
    Reconfigured,
    Register,
    Registered,
)
from sinfonia.protocol.messages import (
    ANY_NODE,
    PROTOCOL_VERSION,
    GetDirectory,
    GetLoad,
    GetStatus,
    Load,
    NotServing,
    Probe,
    ProbeReply,
    Replies,
    Reply,
    Request,
    Requests,
    Status,
    Unsettled,
    WrongConfig,
)
from sinfonia.protocol.participant import Participant
from sinfonia.protocol.participant_state import LiveParticipantState
from sinfonia.protocol.replication.following import LOST_AFTER, Follower
from sinfonia.storage.address_space import AddressSpace
from sinfonia.storage.damage import note_damage
from sinfonia.storage.data_directory import DataDirectory
from sinfonia.storage.files import Files
from sinfonia.storage.known_configuration import KnownConfiguration

# Names a life, with a number of starts: enough that no two are the same, and a ``Counter``.
LIFE_BITS = 60

# How often an unanswered registration is repeated.
REGISTER_EVERY = 0.2

Send = Callable[[bytes, Replies], None]


class MemoryNode:
    """A member of a memory node.  Times are monotonic seconds."""

    def __init__(
        self,
        settings: MemoryNodeSettings,
        files: Files,
        *,
        new_identity: str,
        send: Send,
        wall: Callable[[], int],
        now: float,
        life: int = 0,
    ) -> None:
        """Begin a new life on the data directory ``files``.

        ``new_identity`` names the data directory if it has no name yet; ``life`` are 60 random bits
        that name this life.  ``wall`` gives microseconds since 1970.  Raises StorageError if the
        directory cannot be used.
        """
        self.settings = settings
        self.directory: Directory | None = None
        self.entry: MemoryNodeEntry | None = None
        self.leading: Leading | None = None
        self.replica: Replica | None = None
        self.clock = HybridClock(wall)
        self.over = ""  # why this life has ended
        self.waiting = ""  # why the manager gives this member no part yet
        self.life = life
        self._files = files
        self._send = send
        self._started_at = now
        self._marked_at = now
        self._now = now
        self._owner = DataDirectory.create_or_open(
            files,
            node=settings.node,
            capacity=settings.capacity,
            mode=settings.mode,
            new_identity=new_identity,
        )
        self.member_state = MemberState(
            settings,
            files,
            identity=self._owner.identity,
            led=self._owner.led,
            now=now,
        )
        self._load = LoadCounters()
        self.load_windows = LoadWindows(self._load, now)
        self._known = KnownConfiguration.read(files)
        self._register_at = now
        self._resignations = 0
        self._probes: list[tuple[bytes, Probe]] = []  # that a primary answers in ``flush``

    @property
    def state(self) -> State:
        """Where in its life it is."""
        if self.over:
            return State.OVER
        if self.leading is not None:
            return State.SERVING if self.leading.participant.serving else State.SETTLING
        return State.STARTING if self.replica is None else self.replica.state

    @property
    def participant(self) -> Participant:
        """What votes; a member that does not lead has none."""
        assert self.leading is not None, "only a primary votes"
        return self.leading.participant

    @property
    def participant_state(self) -> LiveParticipantState:
        """Lists, locks and sessions, in every role."""
        return self.member_state.participant_state

    @property
    def incarnation(self) -> int:
        """Of the memory node, for which this member executes; 0 if it does not lead."""
        return 0 if self.leading is None else self.leading.incarnation

    @property
    def space(self) -> AddressSpace:
        """Memory."""
        return self.member_state.space

    @property
    def identity(self) -> str:
        """Of the data directory, and so of the member."""
        return self._owner.identity

    @property
    def starts(self) -> int:
        """Which life of the data directory this is."""
        return self._owner.starts

    @property
    def primary(self) -> str | None:
        """The endpoint to which ``to_primary`` goes; None if this is no replica."""
        return self.entry.endpoint if self.replica is not None and self.entry is not None else None

    # --- the manager ---------------------------------------------------------------------------

    def registration(self) -> Register:
        """What to send to the managers until one welcomes this member."""
        settings = self.settings
        resigning = self.replica is not None and self.replica.resigning
        return Register(
            node=settings.node,
            endpoint=settings.endpoint,
            capacity=settings.capacity,
            mode=settings.mode,
            identity=self.identity,
            starts=self.starts,
            empty=self.member_state.empty,
            replicas=settings.replicas,
            resigns=self._resignations if resigning else 0,
            lived=self._lived,
            epoch=self.participant_state.epoch,
            last=self.member_state.last,
            damaged=bool(self.member_state.damage),
            known_epoch=self._known.config_epoch,
            life=self.life,
            complete=self.state is State.STARTING and self.member_state.complete,
        )

    @property
    def _lived(self) -> int:
        """The incarnation that wrote the last record of the log; 0 if there is none."""
        member_state = self.member_state
        return max(
            (each.incarnation for each in member_state.history if each.first <= member_state.last),
            default=0,
        )

    def on_manager(self, reply: Reply, now: float) -> None:
        """A manager has answered.  Raises StorageError if this member may not take part."""
        self._now = now
        if isinstance(reply, Registered):
            self._on_registered(reply, now)
        elif isinstance(reply, Reconfigured):
            self.on_directory(reply.directory)

    def _on_registered(self, message: Registered, now: float) -> None:
        if message.starts != self.starts or message.life not in (0, self.life):
            return  # a late answer to a former life
        if message.refusal:
            if self.state is State.STARTING:
                self._on_refusal(message)
            return
        self.waiting = message.waiting
        if self._known.cluster not in ("", message.directory.cluster):
            raise StorageError(
                f"this data directory belongs to cluster {self._known.cluster!r}, and the manager "
                f"to {message.directory.cluster!r}; start it with the endpoints of its own managers"
            )
        state = self.participant_state
        state.epoch = max(state.epoch, message.epoch)
        self.on_directory(message.directory)
        replica, entry = self.replica, message.directory.entry(self.settings.node)
        if replica is None or not replica.resigning or message.resigned != self._resignations:
            return
        if entry is not None and self.identity not in (entry.identity, *entry.in_sync):
            replica.resigned(now)

    def _on_refusal(self, message: Registered) -> None:
        """The manager gives this member no part.  Raises StorageError unless that can be mended."""
        if message.rolled_back and is_replicated(self.settings.mode):
            # The manager knows later lives of this directory: it was put back from an older copy.
            self._owner.roll_forward(self._files, message.rolled_back)
            self._on_damage(DamagedData("the data directory is an older copy of itself"))
        elif message.rolled_back and has_disk(self.settings.mode):
            # Noted, for the next life would have a number that the manager does not know.
            note_damage(self._files, message.refusal)
            raise DamagedData(message.refusal)
        elif self.member_state.damage:
            raise DamagedData(f"{self.member_state.damage}; {message.refusal}")
        else:
            raise StorageError(message.refusal)

    def on_directory(self, directory: Directory) -> None:
        """The configurations are these now, unless later ones are known.  Raises StorageError."""
        if self.over or (self.directory and directory.version <= self.directory.version):
            return
        entry = directory.entry(self.settings.node)
        if entry is not None and entry.config_epoch < self._known.config_epoch:
            return  # the manager's store is older than what this member has seen
        self.directory = directory
        if entry is None or (self.entry and entry.config_epoch < self.entry.config_epoch):
            return
        leads = self._is_me(entry)
        follows = any(self._is_me(each) for each in entry.replicas)
        if leads or follows:
            # Kept before it is acted upon: a manager that loses it cannot decide against it.
            self._known = self._known.seen(self._files, directory, entry)
        if self.leading is not None:
            if leads and entry.incarnation == self.leading.incarnation:
                self.leading.on_configuration(entry, self._now)
            else:
                self._end(f"another primary was made in config epoch {entry.config_epoch}")
        elif leads:
            self._lead(entry)
        elif self.replica is not None and follows:
            self.replica.follower.follow(entry)
        elif self.replica is not None:
            self._end(f"no replica any more since config epoch {entry.config_epoch}")
        elif follows:
            self._follow(entry)
        else:
            return  # it does not speak of this life
        self.entry = entry

    def _is_me(self, named: MemoryNodeEntry | Member) -> bool:
        """Whether this life of this member is named, and not another that counts the same."""
        return (
            named.identity == self.identity
            and named.starts == self.starts
            and named.life in (0, self.life)
        )

    def to_managers(self, now: float) -> list[Request]:
        """What to send to the managers now."""
        if self.leading is not None:
            wish = self.leading.wish(now)
            return [] if wish is None else [wish]
        replica = self.replica
        resigning = replica is not None and replica.resigning
        if replica is not None and not resigning and not replica.follower.is_lost(now):
            return []
        if self.over or now < self._register_at:
            return []
        self._register_at = now + (REGISTER_EVERY if replica is None or resigning else LOST_AFTER)
        if resigning:
            self._resignations += 1
        return [self.registration()]

    def _lead(self, entry: MemoryNodeEntry) -> None:
        now, settings = self._now, self.settings
        serve_from = now
        if self._owner.restarted or self.replica is not None:
            # Locks of read-only minitransactions that a former life gave, or another primary, end.
            read_lease = settings.read_lease * (1 + CLOCK_DRIFT_MARGIN)
            serve_from = self._lease_end() + read_lease
        self.replica = None
        if self.member_state.damage:
            self.member_state.found_anew()
        if is_replicated(settings.mode):
            self._owner = self._owner.mark_led(self._files, led=True)
        self.leading = Leading(
            entry,
            self.member_state,
            clock=self.clock,
            load=self._load,
            send=self._say,
            serve_from=serve_from,
            now=now,
        )

    def _lease_end(self) -> float:
        """When a primary that this member followed, now or in a former life, must be silent."""
        if self.replica is not None:
            granted = self.replica.follower.granted_until
        else:
            granted = self._started_at
        if self._owner.restarted and is_replicated(self.settings.mode):
            granted = max(granted, self._started_at + self.settings.times.granted_lease)
        return granted

    def _follow(self, entry: MemoryNodeEntry) -> None:
        member_state = self.member_state
        follower = Follower(
            entry,
            identity=self.identity,
            starts=self.starts,
            times=self.settings.times,
            log=(member_state.last, member_state.shown, member_state.history),
            # What a primary's image shows may never have been acknowledged.
            committed=0 if self._owner.led else member_state.applied,
            expendable=member_state.empty,
            worthless=bool(member_state.damage),
            now=self._now,
        )
        follower.granted_until = self._lease_end()
        self.replica = Replica(member_state, follower)

    def _end(self, why: str) -> None:
        self.over = why

    def _on_damage(self, error: DamagedData) -> None:
        """What this member holds is not to be trusted, nor by any later life of it."""
        if not is_replicated(self.settings.mode):
            raise error
        if has_disk(self.settings.mode):
            note_damage(self._files, str(error))
        self._end(f"its data is damaged: {error}")

    # --- a wake-up -----------------------------------------------------------------------------

    def receive(self, route: bytes, batch: Requests, now: float) -> None:
        """Handle a batch of requests; a primary's replies come out of ``flush``."""
        self._now = now
        if batch.node not in (ANY_NODE, self.settings.node):
            return  # clients of another memory node that was at this endpoint before
        if batch.clock > self.clock.latest:
            self.clock.notice(batch.clock)
        leading = self.leading
        if leading is not None and (not leading.replaying or _is_of_peer(batch)):
            if leading.receive(route, batch, now):
                leading.answer(route, self._answers(route, batch.requests), now)
            return
        replies: list[Reply] = []
        for request in batch.requests:
            if isinstance(request, Question):
                replies += self._answer(route, request)
            else:
                replies.append(self._refusal())
        if replies:
            self._say(route, replies)

    def _answers(self, route: bytes, requests: list[Request]) -> list[Reply]:
        """The answers to the questions among ``requests``."""
        questions = [each for each in requests if isinstance(each, Question)]
        return [reply for each in questions for reply in self._answer(route, each)]

    def _answer(self, route: bytes, question: Question) -> list[Reply]:
        """What this member says of itself, in every role; empty if ``flush`` answers."""
        match question:
            case Probe():
                return self._on_probe(route, question)
            case GetStatus():
                return [self.status()]
            case GetLoad():
                return [self.load()]
            case GetDirectory():
                return [NotServing() if self.directory is None else self.directory]

    def _refusal(self) -> Reply:
        """The answer to what only a primary does, which this member is not, or not yet."""
        if self.entry is None or self.leading is not None:
            return NotServing()
        return WrongConfig(self.entry)

    def _on_probe(self, route: bytes, probe: Probe) -> list[Reply]:
        """A primary answers in ``flush``, for its votes are stable then.

        It answers there whether or not replicas have acknowledged what was logged: the manager
        takes a member that is silent for dead.
        """
        leading = self.leading
        votes = leading is not None and not leading.replaying
        if probe.directory is not None:
            self.on_directory(probe.directory)
        if not votes:
            return [self._probe_reply(probe, [])]
        if not self.over:
            self._probes.append((route, probe))
        return []

    def _probe_reply(self, probe: Probe, unsettled: list[Unsettled]) -> ProbeReply:
        return ProbeReply(
            node=self.settings.node,
            unsettled=unsettled,
            serving=self.state is State.SERVING,
            directory_version=0 if self.directory is None else self.directory.version,
            identity=self.identity,
            starts=self.starts,
            last=0 if self.member_state.journal is None else self.member_state.journal.stable,
            sent_at=probe.sent_at,
            lived=self._lived,
            known_epoch=self._known.config_epoch,
        )

    def on_primary(self, batch: Replies, now: float) -> None:
        """Handle what the primary says to this replica.  Raises StorageError."""
        self._now = now
        if self.replica is not None and not self.over:
            try:
                self.replica.receive(batch, now)
            except DamagedData as error:
                self._on_damage(error)

    def wake_up(self, now: float) -> list[Request]:
        """``flush`` and ``tick``, in the order of the role; returns what to send to the primary.

        A primary flushes first, so that no reply waits for a step of a checkpoint.  A replica ticks
        first, so that its acknowledgements leave at once.  Raises StorageError.
        """
        try:
            if self.leading is not None:
                self.flush(now)
                self.tick(now)
                return []
            self.tick(now)
            return self.flush(now)
        except DamagedData as error:
            self._on_damage(error)
            return []

    def flush(self, now: float) -> list[Request]:
        """Sync what must be stable, and send what rests on it; returns what to send to the primary.

        Raises StorageError.
        """
        self._now = now
        if self.over:
            return []
        if self.leading is not None:
            self.leading.flush(now)
            probes, self._probes = self._probes, []
            for route, probe in probes:
                unsettled = self.leading.on_probe(probe, now)
                self._say(route, [self._probe_reply(probe, unsettled)])
            return []
        return [] if self.replica is None else self.replica.flush()

    def tick(self, now: float) -> None:
        """Time has passed: begin to serve, carry the checkpoint on.  Raises StorageError."""
        self._now = now
        if self.over:
            return
        self.load_windows.on_tick(now)
        self._note_synced(now)
        self.member_state.scrub(now)
        if self.leading is not None:
            self.leading.tick(now)
        elif self.replica is not None:
            self.replica.tick(now)
            if self._owner.led and self.replica.follower.committed >= self.member_state.shown:
                self._owner = self._owner.mark_led(self._files, led=False)

    def next_wakeup(self) -> float | None:
        """When ``tick`` and ``flush`` must be called next; None: not before a batch comes."""
        role = self.leading or self.replica
        if role is None or self.over:
            return None
        scrubber = self.member_state.scrubber
        wakeups = (role.next_wakeup(), None if scrubber is None else scrubber.next_wakeup())
        return min((each for each in wakeups if each is not None), default=None)

    def _note_synced(self, now: float) -> None:
        if now - self._marked_at >= self.settings.mark_every:
            self._marked_at = now
            self.member_state.note_synced()

    # --- figures, and the end ------------------------------------------------------------------

    def status(self) -> Status:
        """Load and health."""
        return Status(self.settings.node, self.state.value, status_figures(self))

    def load(self) -> Load:
        """What was done lately, by class (section 3.6)."""
        self.load_windows.on_tick(self._now)
        return Load(self.settings.node, self.load_windows.windows(self._now))

    def end(self) -> None:
        """This life ends in order; ``close`` comes next.  Raises StorageError."""
        self.member_state.end()

    def close(self) -> None:
        """Let go of files and memory; what was not synced is lost, as in a crash."""
        self.member_state.close()

    def check_invariants(self) -> None:
        """What holds between two wake-ups."""
        self.member_state.check_invariants()
        self.load_windows.check_invariants()
        if self.leading is not None:
            self.leading.check_invariants()
        else:
            self.participant_state.check_invariants()
        if self.replica is not None:
            self.replica.follower.check_invariants()

    def envelope(self, replies: list[Reply]) -> Replies:
        """``replies``, as this life of the memory node says them."""
        state = self.participant_state
        return Replies(
            version=PROTOCOL_VERSION,
            node=self.settings.node,
            incarnation=self.incarnation,
            epoch=state.epoch,
            replies=replies,
            clock=self.clock.latest,
            generation=state.sessions.generation,
        )

    @property
    def defers_answers(self) -> bool:
        """Whether answers may have to wait for replicas."""
        return self.leading is not None and self.leading.shipping is not None

    def executes(self, batch: Requests) -> bool:
        """Whether this is the primary that ``batch`` is meant for, and serves."""
        return (
            self.leading is not None
            and self.leading.participant.serving
            and batch.incarnation == self.leading.incarnation
            and batch.node in (ANY_NODE, self.settings.node)
        )

    def _say(self, route: bytes, replies: list[Reply]) -> None:
        self._send(route, self.envelope(replies))


def _is_of_peer(batch: Requests) -> bool:
    return bool(batch.requests) and type(batch.requests[0]) in PEER_REQUESTS
