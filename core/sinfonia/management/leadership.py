"""Which of several managers leads: the one that holds a key, for as long as its lease lasts.

This spares them quarrels and nothing more: a manager that stood still may believe for a moment that
it leads while another one does, and what it then decides fails in the store.
"""

from dataclasses import dataclass

from sinfonia.management.etcd_gateway import EtcdGateway

# Seconds until another manager may lead when one dies: as long as a fail-over may take, no longer.
LEASE_TTL = 3

# The part of a lease that counts; the rest is for clocks that run at different rates.
LEASE_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Leadership:
    """What was known when etcd was asked last; it holds ``until``, in monotonic seconds."""

    leader: str = ""
    mine: bool = False
    until: float = float("-inf")


class Election:
    """One candidate, known by the endpoint where others reach it."""

    def __init__(self, gateway: EtcdGateway, *, key: str, candidate: str) -> None:
        self._gateway = gateway
        self._key = key
        self._candidate = candidate
        self._lease: int | None = None

    def campaign(self, now: float) -> Leadership:
        """Take the key if it is free, keep it if it is mine.  Raises StoreUnavailable."""
        gateway = self._gateway
        if self._lease is not None and not gateway.keep_alive(self._lease):
            self._lease = None
        if self._lease is None:
            self._lease = gateway.grant(LEASE_TTL)
        holder = gateway.hold(self._key, self._candidate.encode(), self._lease)
        if holder is None:
            self._lease = None
            return Leadership()
        mine = holder.lease == self._lease
        return Leadership(holder.value.decode(), mine, now + LEASE_TTL * LEASE_SHARE)

    def resign(self) -> None:
        """Let another one lead at once.  Raises StoreUnavailable."""
        if self._lease is not None:
            self._gateway.revoke(self._lease)
            self._lease = None
