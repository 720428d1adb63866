"""What the managers of a simulation have stored, whether they are up or not."""

from collections.abc import Sequence

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.management.shared_store import StoredDirectory
from sinfonia.management.store import EmbeddedStore
from sinfonia.protocol.membership.messages import Directory, MemoryNodeEntry
from sinfonia.simulation.manager import CLUSTER, SimulatedManager


def stored_entry(
    managers: Sequence[SimulatedManager], node: MemoryNodeId
) -> MemoryNodeEntry | None:
    """The stored configuration of ``node``; None if nothing is stored of it."""
    directory = _stored(managers[0])
    return None if directory is None else directory.entry(node)


def _stored(manager: SimulatedManager) -> Directory | None:
    if manager.shared is None:
        if manager.manager is not None:
            return manager.manager.directory
        return EmbeddedStore(manager.disk, cluster=CLUSTER).directory
    value = manager.shared.value
    return msgspec.msgpack.decode(value, type=StoredDirectory).directory if value else None
