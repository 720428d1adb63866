"""Takes a backup of a running cluster: all memory nodes at once, over ordinary connections.

What is asked, and when a copy is whole, is node_copy's; here are the sockets and the files.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zmq

from sinfonia.addresses import MemoryNodeId
from sinfonia.backup.archive import (
    FULL_STEP,
    Backup,
    Manifest,
    Origin,
    Part,
    PartWriter,
    Step,
    publish_full,
    publish_increment,
    write_directory,
    writing_full,
    writing_increment,
)
from sinfonia.backup.node_copy import NodeCopy, copy_together
from sinfonia.client.seed import role_hint, search_directory
from sinfonia.endpoints import endpoints_of
from sinfonia.errors import BackupError, ProtocolError, Unreachable
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry
from sinfonia.transport.codec import decode_replies, encode_requests
from sinfonia.transport.keys import Keys
from sinfonia.transport.zeromq import connect_dealer, drain, is_connectable, try_send

# A primary that is of no use for so long ends the backup.  It waits out a restart, and is within
# the time for which a memory node in mode RAM goes on logging for a silent copier.
PATIENCE = 25.0

# A primary that is silent for so long may have been replaced.
DOUBT_AFTER = 1.5

# How long one search for the directory may take; it is repeated while there is patience.
SEARCH_TIMEOUT = 2.0

POLL_MS = 10


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a backup is: pages of memory, of about how many, and bytes of log."""

    pages: int
    pages_expected: int
    log_bytes: int


OnProgress = Callable[[Progress], None]


def take_full(
    cluster: str,
    root: Path,
    keys: Keys | None = None,
    *,
    on_progress: OnProgress = lambda _: None,
) -> Manifest:
    """Back up all memory nodes of the cluster at ``cluster`` into ``root``, a new directory.

    ``keys``: those of an operator, if the cluster has keys.
    Raises BackupError, Unreachable or ConfigError; then there is nothing at ``root``.
    """
    directory = _directory(cluster, keys)
    with writing_full(root) as partial, ExitStack() as opened:
        copies = [
            NodeCopy(entry.node, _writer(opened, partial, FULL_STEP, entry), previous=None)
            for entry in directory.nodes
        ]
        conversation = _Conversation(cluster, keys, directory, copies)
        moment, parts = _copy(conversation, copies, on_progress)
        stored = write_directory(partial, FULL_STEP, conversation.directory)
        manifest = Manifest(
            directory.cluster,
            [
                Origin(entry.node, entry.capacity, entry.mode, entry.wanted)
                for entry in directory.nodes
            ],
            [Step(FULL_STEP, moment, parts, stored)],
        )
        publish_full(partial, root, manifest)
    return manifest


def take_increment(
    cluster: str,
    root: Path,
    keys: Keys | None = None,
    *,
    on_progress: OnProgress = lambda _: None,
) -> Manifest:
    """Add to the backup in ``root`` what the cluster at ``cluster`` logged since its last step.

    ``keys``: those of an operator, if the cluster has keys.
    Raises BackupError, Unreachable or ConfigError; then the backup is as it was.
    """
    backup = Backup(root)
    directory = _directory(cluster, keys)
    _refuse_other(backup, directory)
    last = backup.manifest.steps[-1]
    previous = {part.node: part for part in last.parts}
    with writing_increment(backup) as (partial, name), ExitStack() as opened:
        copies = [
            NodeCopy(
                entry.node,
                _writer(opened, partial, name, entry),
                previous=previous[entry.node],
                moment=last.moment,
            )
            for entry in directory.nodes
        ]
        conversation = _Conversation(cluster, keys, directory, copies)
        moment, parts = _copy(conversation, copies, on_progress)
        stored = write_directory(partial, name, conversation.directory)
        publish_increment(partial, backup, Step(name, moment, parts, stored))
    return Backup(root).manifest


def _directory(cluster: str, keys: Keys | None) -> Directory:
    """The cluster's directory.  Raises BackupError if a memory node has no member that holds it."""
    endpoints = endpoints_of(cluster)
    directory = search_directory(endpoints, timeout=SEARCH_TIMEOUT * 2, usable=True, keys=keys)
    for entry in directory.nodes:
        if not entry.identity:
            raise BackupError(
                f"memory node {entry.node} has been given up, and no member has taken its place; "
                "start it first"
            )
    return directory


def _refuse_other(backup: Backup, directory: Directory) -> None:
    if directory.cluster != backup.manifest.cluster:
        raise BackupError(
            f"{backup.root} is of the cluster {backup.manifest.cluster!r}, and this is "
            f"{directory.cluster!r}; take a full backup into another directory"
        )
    known = [(origin.node, origin.capacity, origin.mode) for origin in backup.nodes]
    if known != [(entry.node, entry.capacity, entry.mode) for entry in directory.nodes]:
        raise BackupError(
            f"the cluster has other memory nodes than the backup in {backup.root}; take a full "
            "backup into another directory"
        )
    for entry in directory.nodes:
        if entry.mode == "RAM":
            raise BackupError(
                "memory nodes in mode RAM log nothing between two backups; take a full one each "
                "time"
            )


def _writer(opened: ExitStack, partial: Path, step: str, entry: MemoryNodeEntry) -> PartWriter:
    writer = PartWriter(partial, step, entry.node, with_image=step == FULL_STEP)
    opened.callback(writer.close)
    return writer


def _copy(
    conversation: "_Conversation", copies: Sequence[NodeCopy], on_progress: OnProgress
) -> tuple[int, list[Part]]:
    """Copy everything; the moment of the cut, and what was written."""
    with ExitStack() as opened:
        opened.callback(conversation.close)

        def go_on() -> None:
            conversation.step()
            on_progress(_progress(copies))

        # A memory node that came meanwhile may hold what is before the moment.
        return copy_together(copies, go_on, conversation.look_for_others)


def _progress(copies: Sequence[NodeCopy]) -> Progress:
    return Progress(
        sum(copy.pages for copy in copies),
        sum(copy.pages_expected for copy in copies),
        sum(copy.log_bytes for copy in copies),
    )


class _Conversation:
    """Connections to the primaries of all memory nodes, which may change.

    ``directory``: the latest that was told, what the manager's store holds.
    """

    def __init__(
        self, cluster: str, keys: Keys | None, directory: Directory, copies: Sequence[NodeCopy]
    ) -> None:
        self._cluster = cluster
        self._keys = keys
        self._copies = copies
        self.directory = directory
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = zmq.Poller()
        self._sockets: dict[MemoryNodeId, zmq.Socket[bytes]] = {}
        self._connected: dict[MemoryNodeId, str] = {}
        now = time.monotonic()
        self._used_at = {copy.node: now for copy in copies}
        self._search_at = now + DOUBT_AFTER
        self._connect()

    def step(self) -> None:
        """Ask what is to be asked and handle what comes within a moment.  Raises BackupError."""
        for copy in self._copies:
            for batch in copy.ask(time.monotonic()):
                socket = self._sockets.get(copy.node)
                if socket is not None:
                    try_send(socket, encode_requests(batch))
        self._poller.poll(POLL_MS)
        for copy in self._copies:
            self._receive(copy)
        self._mind_silence()

    def look_for_others(self) -> None:
        """Raises BackupError if the cluster has other memory nodes than are copied."""
        self._learn(self._search(PATIENCE))
        if {entry.node for entry in self.directory.nodes} != {copy.node for copy in self._copies}:
            raise BackupError(
                "a memory node was added to the cluster meanwhile; take a full backup again"
            )

    def close(self) -> None:
        """Close all connections."""
        self._context.destroy(linger=0)

    def _receive(self, copy: NodeCopy) -> None:
        socket = self._sockets.get(copy.node)
        if socket is None:
            return
        now = time.monotonic()
        for frames in drain(socket):
            try:
                if copy.on_replies(decode_replies(frames), now):
                    self._used_at[copy.node] = now
            except (ProtocolError, msgspec.MsgspecError) as error:
                raise BackupError(
                    f"memory node {copy.node} at {self._connected[copy.node]} gives no answer that "
                    f"makes sense: {error}"
                ) from error

    def _mind_silence(self) -> None:
        """Find out whether another member is primary; in the end, give up."""
        now = time.monotonic()
        waited_for = [copy for copy in self._copies if not copy.done]
        for copy in waited_for:
            if now >= self._used_at[copy.node] + PATIENCE:
                place = self._connected.get(copy.node, "an unknown place")
                raise copy.stuck(place, role_hint(self._keys))
        doubtful = any(
            copy.misdirected or now >= self._used_at[copy.node] + DOUBT_AFTER for copy in waited_for
        )
        if not doubtful or now < self._search_at:
            return
        try:
            found = self._search(SEARCH_TIMEOUT)
        except Unreachable:
            pass  # the patience with the primary ends some time
        else:
            self._learn(found)
        self._search_at = time.monotonic() + DOUBT_AFTER / 3
        for copy in waited_for:
            if copy.misdirected:
                copy.ask_anew()

    def _search(self, timeout: float) -> Directory:
        return search_directory(self._places(), timeout=timeout, usable=False, keys=self._keys)

    def _places(self) -> list[str]:
        members = [entry.endpoint for entry in self.directory.nodes]
        for entry in self.directory.nodes:
            members += [member.endpoint for member in entry.replicas]
        known = filter(is_connectable, [*self.directory.managers, *members])
        return list(dict.fromkeys([*endpoints_of(self._cluster), *known]))

    def _learn(self, directory: Directory) -> None:
        if directory.cluster == self.directory.cluster:
            if directory.version > self.directory.version:
                self.directory = directory
            self._connect()

    def _connect(self) -> None:
        for copy in self._copies:
            entry = self.directory.entry(copy.node)
            if entry is None or entry.endpoint == self._connected.get(copy.node):
                continue
            if not is_connectable(entry.endpoint):
                continue
            former = self._sockets.pop(copy.node, None)
            if former is not None:
                self._poller.unregister(former)
                former.close(0)
            socket = connect_dealer(self._context, entry.endpoint, self._keys)
            self._sockets[copy.node] = socket
            self._connected[copy.node] = entry.endpoint
            self._poller.register(socket, zmq.POLLIN)
            copy.ask_anew()
