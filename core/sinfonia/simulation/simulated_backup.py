"""A backup of a simulated cluster: the real copies, driven as ``backup/copier.py`` drives them.

It is taken from outside of the clients' programs: a call lets time pass for the whole cluster
until the backup is there.
"""

from contextlib import ExitStack
from pathlib import Path

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
from sinfonia.protocol.membership.messages import Directory
from sinfonia.protocol.messages import Replies
from sinfonia.simulation.cluster import Cluster
from sinfonia.simulation.manager import CLUSTER
from sinfonia.simulation.process import Process
from sinfonia.simulation.wire import Message

# How often a backup looks what there is to ask, and how long it may take, in virtual seconds.
ASK_S = 0.002
TAKEN_S_MAX = 120.0

# A memory node that does not serve as yet is asked anew after so long.
ASK_ANEW_S = 0.05


class SimulatedBackup(Process):
    """Takes backups to ``root``."""

    def __init__(self, cluster: Cluster, root: Path) -> None:
        super().__init__(cluster.surroundings, "backup", cluster.chance("backup"))
        self._cluster = cluster
        self._root = root
        self._copies: list[NodeCopy] = []
        self._until = 0.0
        self.begin_life()

    def take_full(self) -> None:
        """As ``copier.take_full``, while everything goes on."""
        profile, nodes = self._cluster.profile, self._cluster.node_ids
        with writing_full(self._root) as partial, ExitStack() as opened:
            for node in nodes:
                writer = PartWriter(partial, FULL_STEP, node, with_image=True)
                opened.callback(writer.close)
                self._copies.append(NodeCopy(node, writer, previous=None))
            moment, parts = self._copy()
            origins = [Origin(node, profile.capacity, profile.mode, 0) for node in nodes]
            stored = write_directory(partial, FULL_STEP, self._directory())
            manifest = Manifest(CLUSTER, origins, [Step(FULL_STEP, moment, parts, stored)])
            publish_full(partial, self._root, manifest)

    def take_increment(self) -> None:
        """As ``copier.take_increment``, while everything goes on."""
        backup = Backup(self._root)
        last = backup.manifest.steps[-1]
        with writing_increment(backup) as (partial, name), ExitStack() as opened:
            for part in last.parts:
                writer = PartWriter(partial, name, part.node, with_image=False)
                opened.callback(writer.close)
                copy = NodeCopy(part.node, writer, previous=part, moment=last.moment)
                self._copies.append(copy)
            moment, parts = self._copy()
            stored = write_directory(partial, name, self._directory())
            publish_increment(partial, backup, Step(name, moment, parts, stored))

    def on_message(self, source: str, message: Message) -> None:
        assert isinstance(message, Replies), f"{source} sent {message}"
        for copy in self._copies:
            copy.on_replies(message, self.now)
            if copy.misdirected:
                copy.misdirected = False
                self.later(ASK_ANEW_S, copy.ask_anew)

    def _copy(self) -> tuple[int, list[Part]]:
        self._until = self._cluster.scheduler.now + TAKEN_S_MAX
        copied = copy_together(self._copies, self._ask, lambda: None)
        self._copies.clear()
        return copied

    def _ask(self) -> None:
        """Ask the primaries what there is to ask, and let a moment pass."""
        assert self._cluster.scheduler.now < self._until, "the backup does not come to an end"
        for copy in self._copies:
            for batch in copy.ask(self.now):
                self.send(self._primary(copy.node), batch)
        self._cluster.pass_time(ASK_S)

    def _primary(self, node: MemoryNodeId) -> str:
        entry = self._directory().entry(node)
        assert entry is not None
        return entry.endpoint

    def _directory(self) -> Directory:
        [manager] = self._cluster.managers
        assert manager.manager is not None
        return manager.manager.directory
