"""A manager and its store, without sockets: effects are carried out in order, or not at all.

Stored before told: a StoreDirectory is in the store before any effect after it is carried out.  If
the store refuses or is silent, those effects are dropped, and the manager goes on with what is
stored; a process that waits for an answer asks again.
"""

import logging
from collections.abc import Callable

from sinfonia.addresses import MemoryNodeId
from sinfonia.management.store import Store, StoreConflict, StoreUnavailable
from sinfonia.protocol.effects import ReplyTo, SendTo, SendToMember, StoreDirectory
from sinfonia.protocol.membership.manager import Manager, ManagerEffect
from sinfonia.protocol.messages import Reply, Request, Requests

log = logging.getLogger(__name__)


class ManagerDriver:
    """``reply`` answers over a route; requests collect until ``take_batches``."""

    def __init__(
        self, manager: Manager, store: Store, *, reply: Callable[[bytes, Reply], None]
    ) -> None:
        self.manager = manager
        self.store = store
        self._reply = reply
        self._outbox: dict[tuple[MemoryNodeId, str], list[Request]] = {}

    def refresh(self, now: float) -> None:
        """Take over what others have stored, and who leads.  Raises StorageError."""
        store, manager = self.store, self.manager
        store.refresh()
        if store.directory is not manager.directory:
            manager.on_directory(store.directory, now)
        if (store.leading, store.leader) != (manager.leading, manager.leader):
            log.info("leadership leading=%d leader=%s", store.leading, store.leader)
            manager.on_leadership(leading=store.leading, leader=store.leader, now=now)

    def carry_out(self, effects: list[ManagerEffect], now: float) -> None:
        """Do what the manager asks for.  Raises StorageError."""
        for effect in effects:
            if isinstance(effect, StoreDirectory):
                if not self._stored(effect, now):
                    return
            elif isinstance(effect, ReplyTo):
                self._reply(effect.route, effect.reply)
            elif isinstance(effect, SendToMember):
                self._outbox.setdefault((effect.node, effect.endpoint), []).append(effect.request)
            else:
                assert isinstance(effect, SendTo)
                entry = self.manager.entry(effect.node)
                if entry is not None:  # participants are whatever a client said
                    place = (effect.node, entry.endpoint)
                    self._outbox.setdefault(place, []).append(effect.request)

    def take_batches(self) -> list[tuple[MemoryNodeId, str, Requests]]:
        """What is to be sent: memory node, endpoint of the member, batch."""
        outbox, self._outbox = self._outbox, {}
        return [
            (node, endpoint, self.manager.envelope(node, requests))
            for (node, endpoint), requests in outbox.items()
        ]

    def _stored(self, effect: StoreDirectory, now: float) -> bool:
        try:
            self.store.replace(effect.directory)
        except (StoreConflict, StoreUnavailable) as error:
            log.warning("not stored version=%d error=%s", effect.directory.version, error)
            self.manager.on_directory(self.store.directory, now)
            return False
        return True
