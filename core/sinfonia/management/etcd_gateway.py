"""What is asked of etcd, over its HTTP/JSON gateway (v3, as of etcd 3.4).

The law: an answer is final, and everything else is *unknown*: StoreUnavailable.  A question that
may have arrived is never put again, to this member of etcd or another, unless it only reads.

Every call is over within ``timeout`` per member of etcd.
"""

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import httpx
import msgspec

from sinfonia.errors import ConfigError
from sinfonia.management.shared_store import Snapshot
from sinfonia.management.store import StoreUnavailable

AnswerT = TypeVar("AnswerT")

# gRPC's status for what does not exist: a lease that has run out.
_NOT_FOUND = 5


class Held(NamedTuple):
    """A key that another manager holds, and the lease that it goes away with."""

    value: bytes
    lease: int


class _KeyValue(msgspec.Struct, frozen=True):
    # Numbers are strings: JSON's would not hold 64 bits.  What is zero or empty is left out.
    mod_revision: str = "0"
    value: str = ""
    lease: str = "0"


class _Header(msgspec.Struct, frozen=True):
    revision: str = "0"


class _Range(msgspec.Struct, frozen=True):
    kvs: list[_KeyValue] = []


class _Part(msgspec.Struct, frozen=True):
    response_range: _Range = _Range()


class _Transaction(msgspec.Struct, frozen=True):
    header: _Header
    succeeded: bool = False
    responses: list[_Part] = []


class _Lease(msgspec.Struct, frozen=True, rename=str.upper):
    id: str = "0"
    ttl: str = "0"


class _LeaseKept(msgspec.Struct, frozen=True):
    result: _Lease


class _Error(msgspec.Struct, frozen=True):
    message: str = ""
    code: int = 0


class _LeaseGone(Exception):
    """The lease has run out."""


class EtcdGateway:
    """The members of one etcd; the one that answered last is asked first.  For one thread."""

    def __init__(self, endpoints: Sequence[str], *, timeout: float) -> None:
        """``endpoints``: http://HOST:PORT of the members.  Raises ConfigError."""
        if not endpoints:
            raise ConfigError("etcd: no endpoint is given; one looks like http://host:2379")
        for endpoint in endpoints:
            if not endpoint.startswith(("http://", "https://")):
                raise ConfigError(f"etcd: {endpoint!r} is no endpoint; one is http://host:2379")
        self._endpoints = [endpoint.rstrip("/") for endpoint in endpoints]
        # The environment's proxies are for the world outside, not for a cluster's inside.
        self._client = httpx.Client(timeout=timeout, trust_env=False)

    def read(self, key: str) -> Snapshot:
        """The value of ``key``.  Raises StoreUnavailable."""
        found = self._call("/v3/kv/range", {"key": _encoded(key)}, _Range, only_reads=True)
        if not found.kvs:
            return Snapshot(0, b"")
        return Snapshot(int(found.kvs[0].mod_revision), _decoded(found.kvs[0].value))

    def swap(self, key: str, expected_revision: int, value: bytes) -> int | None:
        """Put ``value`` if the last change of ``key`` is of ``expected_revision``; 0: none.

        Returns the new revision; None if nothing was changed.  Raises StoreUnavailable.
        """
        result = self._transact(key, expected_revision, {"value": _encoded(value)})
        return int(result.header.revision) if result.succeeded else None

    def hold(self, key: str, value: bytes, lease: int) -> Held | None:
        """Put ``value`` as long as ``lease`` lasts, unless the key is held; returns the holder.

        None: the lease has run out.  Raises StoreUnavailable.
        """
        put = {"value": _encoded(value), "lease": str(lease)}
        try:
            result = self._transact(key, 0, put)
        except _LeaseGone:
            return None
        if result.succeeded:
            return Held(value, lease)
        held = [each for part in result.responses for each in part.response_range.kvs]
        return Held(_decoded(held[0].value), int(held[0].lease)) if held else None

    def grant(self, ttl: int) -> int:
        """A new lease.  Raises StoreUnavailable."""
        return int(self._call("/v3/lease/grant", {"TTL": str(ttl)}, _Lease).id)

    def keep_alive(self, lease: int) -> bool:
        """Begin the time of ``lease`` anew; False if it has run out.  Raises StoreUnavailable."""
        kept = self._call("/v3/lease/keepalive", {"ID": str(lease)}, _LeaseKept)
        return int(kept.result.ttl) > 0

    def revoke(self, lease: int) -> None:
        """Let go of what is held by ``lease``.  Raises StoreUnavailable."""
        try:
            self._call("/v3/lease/revoke", {"ID": str(lease)}, _Header)
        except _LeaseGone:
            return

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _transact(self, key: str, expected_revision: int, put: dict[str, str]) -> _Transaction:
        name = _encoded(key)
        body = {
            "compare": [
                {
                    "key": name,
                    "target": "MOD",
                    "result": "EQUAL",
                    "mod_revision": str(expected_revision),
                }
            ],
            "success": [{"request_put": {"key": name, **put}}],
            "failure": [{"request_range": {"key": name}}],
        }
        return self._call("/v3/kv/txn", body, _Transaction)

    def _call(
        self, path: str, body: dict[str, Any], kind: type[AnswerT], *, only_reads: bool = False
    ) -> AnswerT:
        """Ask one member, or the next if nothing was said to the first."""
        reason = ""
        for endpoint in list(self._endpoints):
            try:
                response = self._client.post(endpoint + path, json=body)
                return self._understood(response, kind)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                reason = f"{endpoint}: {error}"
            except (httpx.TransportError, StoreUnavailable) as error:
                reason = f"{endpoint}: {error}"
                if not only_reads:
                    self._ask_last(endpoint)
                    break
            self._ask_last(endpoint)
        raise StoreUnavailable(f"etcd does not answer ({reason})")

    def _ask_last(self, endpoint: str) -> None:
        self._endpoints.remove(endpoint)
        self._endpoints.append(endpoint)

    def _understood(self, response: httpx.Response, kind: type[AnswerT]) -> AnswerT:
        """The answer.  Raises StoreUnavailable for one that says nothing of what was asked."""
        try:
            if response.is_success:
                return msgspec.json.decode(response.content, type=kind)
            error = msgspec.json.decode(response.content, type=_Error)
        except msgspec.DecodeError as undecodable:
            raise StoreUnavailable(
                f"HTTP status {response.status_code}, {undecodable}"
            ) from undecodable
        if error.code == _NOT_FOUND:
            raise _LeaseGone
        raise StoreUnavailable(error.message)


def _encoded(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def _decoded(text: str) -> bytes:
    return base64.b64decode(text)
