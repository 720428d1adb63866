"""The directory in etcd: for clusters with several managers.

A manager waits for etcd only while it changes the directory, and not even then if etcd is known to
be away.  Everything else, reading and leadership, waits in a thread of its own.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from sinfonia.errors import StorageError
from sinfonia.management.etcd_gateway import EtcdGateway
from sinfonia.management.leadership import Election, Leadership
from sinfonia.management.shared_store import SharedDirectory, Snapshot
from sinfonia.management.store import StoreUnavailable
from sinfonia.protocol.membership.messages import Directory

log = logging.getLogger(__name__)

# Seconds that one call to one member of etcd may take.  Twice a common election timeout of etcd's
# would be safer, but a manager that waits probes no member.
CALL_TIMEOUT = 1.0

# How often (seconds) a manager reads what others changed, and extends its lease of LEASE_TTL.
WATCH_EVERY = 0.5

# An etcd that this manager could not reach for so long is away: changes are refused without asking.
AWAY_AFTER = 2.0


class _Seen(NamedTuple):
    snapshot: Snapshot
    leadership: Leadership
    reached_at: float


def directory_key(cluster: str) -> str:
    """Under which key the directory of ``cluster`` is."""
    return f"/sinfonia/{cluster}/directory"


class EtcdStore:
    """The directory of ``cluster`` in etcd, for the manager that others reach at ``candidate``."""

    kind = "etcd"

    def __init__(self, endpoints: Sequence[str], *, cluster: str, candidate: str) -> None:
        """``endpoints`` are etcd's, http://HOST:PORT; etcd may be away for now.

        Raises ConfigError, or StorageError if what etcd holds is of no use.
        """
        self._gateway = EtcdGateway(endpoints, timeout=CALL_TIMEOUT)
        self._key = directory_key(cluster)
        self._watcher = _Watcher(
            EtcdGateway(endpoints, timeout=CALL_TIMEOUT),
            key=self._key,
            leader_key=f"/sinfonia/{cluster}/leader",
            candidate=candidate,
        )
        self._shared = SharedDirectory(self, cluster=cluster)
        try:
            self._shared.read()
        except StoreUnavailable as error:
            log.warning("etcd away error=%s", error)
        except StorageError:
            self._watcher.discard()
            self._gateway.close()
            raise
        self._watcher.start()

    @property
    def directory(self) -> Directory:
        """What was read last; empty as long as nothing could be read."""
        return self._shared.directory

    @property
    def leading(self) -> bool:
        """Whether this manager holds the lease."""
        leadership = self._watcher.seen.leadership
        return leadership.mine and time.monotonic() < leadership.until

    @property
    def leader(self) -> str:
        """Who holds the lease, if that was heard lately."""
        leadership = self._watcher.seen.leadership
        return leadership.leader if time.monotonic() < leadership.until else ""

    def read(self) -> Snapshot:
        """Of SharedValue."""
        self._check_reachable()
        return self._gateway.read(self._key)

    def swap(self, expected_revision: int, value: bytes) -> int | None:
        """Of SharedValue."""
        self._check_reachable()
        return self._gateway.swap(self._key, expected_revision, value)

    def replace(self, directory: Directory) -> None:
        """Store ``directory``.  Raises StoreConflict or StoreUnavailable."""
        self._shared.replace(directory)

    def refresh(self) -> None:
        """Take over what the watcher has read.  Raises StorageError."""
        self._shared.accept(self._watcher.seen.snapshot)

    def close(self) -> None:
        """Resign, and end the watcher."""
        self._watcher.end()
        self._gateway.close()

    def _check_reachable(self) -> None:
        if time.monotonic() - self._watcher.seen.reached_at > AWAY_AFTER:
            raise StoreUnavailable("etcd has been away for a while")


class _Watcher(threading.Thread):
    """Reads the directory and campaigns; ``seen`` is replaced whole, so that it needs no lock."""

    def __init__(self, gateway: EtcdGateway, *, key: str, leader_key: str, candidate: str) -> None:
        super().__init__(name="etcd-watcher", daemon=True)
        self.seen = _Seen(Snapshot(0, b""), Leadership(), time.monotonic())
        self._gateway = gateway
        self._key = key
        self._election = Election(gateway, key=leader_key, candidate=candidate)
        self._ending = threading.Event()
        self._was_away = False

    def run(self) -> None:
        """Look again and again, until ``end``."""
        while not self._ending.is_set():
            self._look()
            self._ending.wait(WATCH_EVERY)
        with contextlib.suppress(StoreUnavailable):
            self._election.resign()
        self._gateway.close()

    def discard(self) -> None:
        """Close what was never started."""
        self._gateway.close()

    def end(self) -> None:
        """Resign and stop; waits for that."""
        self._ending.set()
        self.join()

    def _look(self) -> None:
        now = time.monotonic()
        try:
            # A manager that has just become leader must know what was stored before, so this order.
            leadership = self._election.campaign(now)
            snapshot = self._gateway.read(self._key)
        except StoreUnavailable as error:
            if not self._was_away:
                log.warning("etcd away error=%s", error)
            self._was_away = True
            return
        if self._was_away:
            log.info("etcd is back")
        self._was_away = False
        self.seen = _Seen(snapshot, leadership, now)
