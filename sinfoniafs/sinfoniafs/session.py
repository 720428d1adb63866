"""A session is one mount's life on the volume, and a fence against the dead.

Every memory node has a session table.  A slot's first eight bytes are the session's identity, equal
on all memory nodes; the slot on the home node also has the host and process of the mount, and
counts heartbeats.  Everything that a session holds (inodes and blocks in reserve, open inodes) is
marked with its slot number where the thing itself is, so that another mount can find it and give it
back when the session dies.

A session is taken for dead when its heartbeat stands still, never by a clock on another host.  A
mount that was only paused is taken for dead by mistake.  So reclaiming begins by setting the
*fenced* bit in the identity on every memory node, and every minitransaction that uses a
reservation, or relies on a mark of the session or removes it, compares the identity.  The first
such minitransaction of the paused mount fails; it has changed nothing, and the mount goes on with a
new session.
"""

import random
import struct
from dataclasses import dataclass, replace
from typing import Final

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.api import ClusterApi
from sinfonia.minitransaction import Minitransaction
from sinfoniafs.errors import FormatError, SessionLost
from sinfoniafs.format.layout import RESERVED_FIRST, SESSION_SIZE, SESSIONS_MAX, session_address
from sinfoniafs.format.superblock import Superblock

FENCED: Final = 1 << 63
IDENTITY: Final = struct.Struct("<Q")
_RECORD: Final = struct.Struct("<QQqII64s128s")
_HEARTBEAT_OFFSET: Final = 8
_NO_SESSION: Final = IDENTITY.pack(0)
# How often to try another slot when other mounts register at the same time.
_REGISTER_ATTEMPTS: Final = 64


# How many heartbeats fit into the silence after which a session is taken for dead: a loaded host
# may miss several of them.
_HEARTBEATS: Final = 15


@dataclass(frozen=True, slots=True)
class SessionTimes:
    """After how many seconds of silence a session is taken for dead, and how often it must beat.

    All mounts of a volume should agree: a mount with a shorter silence than the heartbeat interval
    of another mount takes that mount for dead.
    """

    silence: float = 30.0

    @property
    def heartbeat(self) -> float:
        return self.silence / _HEARTBEATS


SESSION_TIMES: Final = SessionTimes()


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A slot of the home node's session table; times are of the session's own clock."""

    slot: int
    identity: int
    heartbeat: int
    started_ns: int
    pid: int
    host: str
    mountpoint: str

    @property
    def fenced(self) -> bool:
        return bool(self.identity & FENCED)

    def encode(self) -> bytes:
        return _RECORD.pack(
            self.identity,
            self.heartbeat,
            self.started_ns,
            self.pid,
            0,
            self.host.encode()[:64],
            self.mountpoint.encode()[:128],
        ).ljust(SESSION_SIZE, b"\0")

    @classmethod
    def decode(cls, slot: int, image: bytes) -> "SessionRecord":
        identity, heartbeat, started, pid, _, host, mountpoint = _RECORD.unpack_from(image)
        return cls(
            slot=slot,
            identity=identity,
            heartbeat=heartbeat,
            started_ns=started,
            pid=pid,
            host=host.rstrip(b"\0").decode(errors="replace"),
            mountpoint=mountpoint.rstrip(b"\0").decode(errors="replace"),
        )


class Session:
    """This mount's own session.  Made by ``register``; ends by ``leave``."""

    def __init__(self, cluster: ClusterApi, superblock: Superblock, record: SessionRecord) -> None:
        self._cluster = cluster
        self._superblock = superblock
        self.record = record
        self._identity = IDENTITY.pack(record.identity)
        self._heartbeat = record.heartbeat
        self.reserved = bytes([RESERVED_FIRST + record.slot])

    @classmethod
    async def register(
        cls,
        cluster: ClusterApi,
        superblock: Superblock,
        *,
        rng: random.Random,
        started_ns: int,
        pid: int,
        host: str,
        mountpoint: str,
    ) -> "Session":
        """Take a free slot on all memory nodes.  Raises FormatError when there is none."""
        for _ in range(_REGISTER_ATTEMPTS):
            taken = {record.slot for record in await read_sessions(cluster, superblock)}
            free = [slot for slot in range(SESSIONS_MAX) if slot not in taken]
            if not free:
                raise FormatError(
                    f"all {SESSIONS_MAX} sessions of the volume are taken: unmount one, or run"
                    " `sinfoniafs fsck --reclaim` if some of them died"
                )
            identity = rng.getrandbits(63) | 1
            record = SessionRecord(
                slot=rng.choice(free),
                identity=identity,
                heartbeat=1,
                started_ns=started_ns,
                pid=pid,
                host=host,
                mountpoint=mountpoint,
            )
            attempt = cluster.minitransaction()
            for memory_node in superblock.nodes:
                attempt.compare(memory_node, session_address(record.slot), _NO_SESSION)
                full = memory_node == superblock.home
                data = record.encode() if full else IDENTITY.pack(identity)
                attempt.write(memory_node, session_address(record.slot), data)
            if (await cluster.execute(attempt)).committed:
                return cls(cluster, superblock, record)
        raise FormatError("other mounts kept taking the session slots: try again")

    async def renew(self, *, rng: random.Random, started_ns: int) -> "Session":
        """A new session for the mount whose session this was."""
        record = self.record
        return await Session.register(
            self._cluster,
            self._superblock,
            rng=rng,
            started_ns=started_ns,
            pid=record.pid,
            host=record.host,
            mountpoint=record.mountpoint,
        )

    @property
    def slot(self) -> int:
        return self.record.slot

    def fence(self, minitransaction: Minitransaction[object], memory_node: MemoryNodeId) -> int:
        """Add the compare item that fails once this session is taken for dead."""
        return minitransaction.compare(memory_node, session_address(self.slot), self._identity)

    async def beat(self) -> None:
        """Count the heartbeat up.  Raises SessionLost if another mount has fenced this session."""
        self._heartbeat += 1
        address = session_address(self.slot)
        beat = self._cluster.minitransaction()
        self.fence(beat, self._superblock.home)
        beat.write(
            self._superblock.home, address + _HEARTBEAT_OFFSET, IDENTITY.pack(self._heartbeat)
        )
        if not (await self._cluster.execute(beat)).committed:
            raise SessionLost("this mount was taken for dead")

    async def leave(self) -> None:
        """Free the slot of this session, which holds nothing any more."""
        await free_slot(self._cluster, self._superblock, self.record)


async def read_sessions(cluster: ClusterApi, superblock: Superblock) -> list[SessionRecord]:
    """The records of all sessions, dead ones included."""
    table = await cluster.read(superblock.home, session_address(0), SESSIONS_MAX * SESSION_SIZE)
    return [
        SessionRecord.decode(slot, table[slot * SESSION_SIZE : (slot + 1) * SESSION_SIZE])
        for slot in range(SESSIONS_MAX)
        if table[slot * SESSION_SIZE : slot * SESSION_SIZE + IDENTITY.size] != _NO_SESSION
    ]


async def fence_session(
    cluster: ClusterApi, superblock: Superblock, record: SessionRecord
) -> SessionRecord | None:
    """Shut out a session whose heartbeat stood still at ``record``.

    Returns the fenced record, or None if the heartbeat has moved since.
    """
    if record.fenced:
        return record
    fenced = replace(record, identity=record.identity | FENCED)
    identity = IDENTITY.pack(fenced.identity)
    attempt = cluster.minitransaction()
    attempt.compare(
        superblock.home,
        session_address(record.slot),
        IDENTITY.pack(record.identity) + IDENTITY.pack(record.heartbeat),
    )
    for memory_node in superblock.nodes:
        attempt.write(memory_node, session_address(record.slot), identity)
    if not (await cluster.execute(attempt)).committed:
        return None
    return fenced


async def free_slot(cluster: ClusterApi, superblock: Superblock, record: SessionRecord) -> None:
    """Free the slot of a session that holds nothing any more, unless another mount has done so."""
    attempt = cluster.minitransaction()
    attempt.compare(superblock.home, session_address(record.slot), IDENTITY.pack(record.identity))
    for memory_node in superblock.nodes:
        length = SESSION_SIZE if memory_node == superblock.home else IDENTITY.size
        attempt.write(memory_node, session_address(record.slot), bytes(length))
    await cluster.execute(attempt)
