"""A hash map that grows while it is used: bytes to bytes, over any number of memory nodes.

Every change is one minitransaction.  It compares the versions of the buckets that it goes by, and
writes the next versions with what it changes; so of all that began from one version, one commits.
A bucket that is too full is split in one minitransaction as well, by the writer that meets it: a
reader sees it before or after, never half done, and nothing is left for other clients to finish.

Readers compare nothing.  A bucket says by itself which hashes it has, and an extent whose value it
is; a reader that was led to the wrong one sees it, and looks again.
"""

import itertools
import random
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sinfonia.client.steps import Steps, execute, minitransaction, pause
from sinfonia.errors import Contended, LimitExceeded, OutcomeUnknown
from sinfonia.minitransaction import Minitransaction, Result
from sinfonia.structures.errors import NoSpace
from sinfonia.structures.hash_map.creation import read_header
from sinfonia.structures.hash_map.directory import Directory
from sinfonia.structures.hash_map.drafts import (
    Change,
    Draft,
    Pending,
    Stored,
    UnsettledUpdate,
    add_change,
    add_version,
    draft_all,
    is_too_full,
    settle,
)
from sinfonia.structures.hash_map.growth import grow_to, split
from sinfonia.structures.hash_map.layout import (
    EXTENT_HEADER_BYTES,
    VALUE_BYTES_MAX,
    Bucket,
    Entry,
    Extent,
    MapHeader,
    Mark,
    Place,
    decode_extent,
)
from sinfonia.structures.hash_map.space import SpacePlan, UnknownRegion

# An update or a look-up has so many keys, which keeps it inside of one minitransaction's limits
# with the largest buckets and values but for absurd cases, which are refused as LimitExceeded.
KEYS_MAX = 128

# Large values are read in pieces of about so many bytes: each tells by itself whether it is still
# the one that was meant.
VALUE_BYTES_TOGETHER = 4 * 1024 * 1024

# Another client got ahead each time; with pauses this is some seconds.
ATTEMPTS_MAX = 100

# After so many attempts in a row, pause: ever longer up to a maximum, by a random part of it.
ATTEMPTS_AT_ONCE = 2
PAUSE_SECONDS_MIN = 0.001
PAUSE_SECONDS_MAX = 0.05


@dataclass(frozen=True, slots=True)
class Found:
    """The value of a key, and the version of the bucket in which it was stored."""

    value: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """Nothing was changed: these keys have other versions than was expected (0: not there)."""

    versions: Mapping[bytes, int]


@dataclass(frozen=True, slots=True)
class GuardFailed:
    """Nothing was changed: the items that the caller added did not hold; see ``result``."""

    result: Result


Guarding = Callable[[Minitransaction[Any]], object]


@dataclass(frozen=True, slots=True)
class _Request:
    """An update as it was asked for."""

    changes: tuple[Change, ...]
    hashes: Mapping[bytes, int]
    expected: Mapping[bytes, int]
    guard: Guarding | None


class HashMap:
    """One client's view of the map at ``home``; ``create_hash_map`` makes one.

    It holds a directory, which may be as old as it likes, and an identity for marks: any number of
    views may be used at a time.  A view serves one thread, and as many tasks as there are.
    """

    def __init__(self, home: Place, header: MapHeader, *, writer: int | None = None) -> None:
        """``writer``: an identity of 64 bits of its own; random if it is not given."""
        self.home = home
        self.header = header
        self.directory = Directory(header.root, header.bucket_bytes)
        self._writer = secrets.randbits(64) if writer is None else writer
        self._numbers = itertools.count(1)
        self._rng = random.Random(self._writer)

    @classmethod
    def open(cls, home: Place, *, writer: int | None = None) -> Steps["HashMap"]:
        """A view of the map at ``home``.  One round trip.  Raises NotFormatted."""
        return cls(home, (yield from read_header(home)), writer=writer)

    # --- look-ups ------------------------------------------------------------------------------

    def get(self, key: bytes) -> Steps[Found | None]:
        """The value of ``key``, or None.  One round trip; two for a value that is out of line.

        Raises Contended (after ATTEMPTS_MAX changes under its eyes) and NotFormatted.
        """
        return (yield from self.get_many([key])).get(key)

    def get_many(self, keys: Iterable[bytes]) -> Steps[dict[bytes, Found]]:
        """Those of ``keys`` that are there, as they are at one moment.  Round trips as ``get``.

        Raises LimitExceeded (more than KEYS_MAX), and as ``get``.
        """
        hashes = {key: self.header.hash(key) for key in keys}
        if len(hashes) > KEYS_MAX:
            raise LimitExceeded(f"at most {KEYS_MAX} keys at a time")
        for attempt in range(ATTEMPTS_MAX):
            yield from self._breathe(attempt)
            buckets = yield from self.directory.locate(hashes.values())
            entries = {
                key: buckets[key_hash].entries[key]
                for key, key_hash in hashes.items()
                if key in buckets[key_hash].entries
            }
            values = yield from self.read_values(entries)
            if len(values) == len(entries):
                return {key: Found(values[key], entry.version) for key, entry in entries.items()}
        raise Contended(f"the values of {len(hashes)} keys were overwritten again and again")

    def read_values(self, entries: Mapping[bytes, Entry]) -> Steps[dict[bytes, bytes]]:
        """The values of ``entries``, without those that were overwritten since."""
        values = {key: entry.value for key, entry in entries.items()}
        large = {key: value for key, value in values.items() if isinstance(value, Extent)}
        found = {key: value for key, value in values.items() if isinstance(value, bytes)}
        while large:
            t = minitransaction()
            together: list[bytes] = []
            while large and t.byte_count < VALUE_BYTES_TOGETHER:
                key, ((node, address), length) = large.popitem()
                t.read(node, address, EXTENT_HEADER_BYTES + length)
                together.append(key)
            reads = (yield from execute(t)).reads
            for key, data in zip(together, reads, strict=True):
                value = decode_extent(entries[key], data)
                if value is not None:
                    found[key] = value
        return found

    # --- changes -------------------------------------------------------------------------------

    def put(self, key: bytes, value: bytes) -> Steps[int]:
        """Set ``key`` to ``value``; returns its version.  Two round trips; raises as ``update``."""
        done = yield from self.update({key: value})
        assert isinstance(done, Stored)
        return done.versions[key]

    def remove(self, key: bytes) -> Steps[bool]:
        """Remove ``key``; whether it was there.  Two round trips.  Raises as ``update``."""
        done = yield from self.update({key: None})
        assert isinstance(done, Stored)
        return done.previous[key] != 0

    def cas(self, key: bytes, expected: int, value: bytes | None) -> Steps[int | Conflict]:
        """Set or remove ``key`` if its version is ``expected`` (0: it is not there).

        Returns its new version (0 if it was removed).  Two round trips.  Raises as ``update``.
        """
        done = yield from self.update({key: value}, expected={key: expected})
        if isinstance(done, Conflict):
            return done
        assert isinstance(done, Stored)
        return done.versions[key]

    def update(
        self,
        changes: Mapping[bytes, bytes | None],
        *,
        expected: Mapping[bytes, int] | None = None,
        guard: Guarding | None = None,
    ) -> Steps[Stored | Conflict | GuardFailed]:
        """Set and remove keys, all or none, if all ``expected`` keys have these versions.

        ``guard`` adds items of the caller's to the same minitransaction.  Two round trips; one more
        each if large values need space, to split a bucket that is full, and when another
        client changed one of the buckets.

        It takes effect once: if an outcome is unknown the buckets are asked.  Raises
        UnsettledUpdate (unknown) if they cannot be, OutcomeUnknown of a guard that writes where no
        key changes, and definite errors: LimitExceeded, NoSpace, Contended, and what
        ``Cluster.execute`` raises.
        """
        request = self._request(changes, expected or {}, guard)
        attempt = 0
        while attempt < ATTEMPTS_MAX:
            yield from self._breathe(attempt)
            buckets = yield from self.directory.locate(request.hashes.values())
            conflict = _conflict(request, buckets)
            if conflict is not None:
                return conflict
            work = _work(request, buckets)
            try:
                full = [
                    bucket for bucket, changes in work if is_too_full(self.header, bucket, changes)
                ]
                for bucket in full:
                    attempt += not (yield from split(self.header, bucket, self._mark()))
                if full:
                    continue
                mark = self._mark()
                drafts, space = yield from draft_all(self.header, work, mark)
            except (NoSpace, UnknownRegion):
                if not (yield from self._learns_of_regions()):
                    raise
                continue
            done = yield from self._commit(request, drafts, space, mark)
            if done is not None:
                return done
            attempt += 1
        raise Contended(f"others changed the buckets of the update {ATTEMPTS_MAX} times in a row")

    def settle(self, pending: Pending) -> Steps[Stored | None]:
        """What became of an update that raised UnsettledUpdate; None: it never takes effect.

        Two round trips.  Raises UnsettledUpdate (unknown) if that cannot be told yet, or any more:
        a bucket remembers its last 8 changes.
        """
        return (yield from settle(pending, self._mark()))

    def grow(self, depth: int) -> Steps[int]:
        """Have 2**depth buckets at least, from the start; returns how many were split.

        Raises NoSpace and NotExecuted; what was split then is split.
        """
        return (yield from grow_to(self.header, self.directory, depth, self._mark()))

    # --- odds and ends -------------------------------------------------------------------------

    def _request(
        self,
        changes: Mapping[bytes, bytes | None],
        expected: Mapping[bytes, int],
        guard: Guarding | None,
    ) -> _Request:
        hashes = {key: self.header.hash(key) for key in (*changes, *expected)}
        if len(hashes) > KEYS_MAX:
            raise LimitExceeded(f"at most {KEYS_MAX} keys at a time")
        longest = max(map(len, hashes), default=0)
        if longest > self.header.key_bytes_max:
            raise LimitExceeded(f"a key has at most {self.header.key_bytes_max} bytes")
        if any(value is not None and len(value) > VALUE_BYTES_MAX for value in changes.values()):
            raise LimitExceeded(f"a value has at most {VALUE_BYTES_MAX} bytes")
        return _Request(
            tuple(Change(key, hashes[key], value) for key, value in changes.items()),
            hashes,
            expected,
            guard,
        )

    def _learns_of_regions(self) -> Steps[bool]:
        known = self.header
        self.header = yield from read_header(self.home)
        return self.header != known

    def _commit(
        self, request: _Request, drafts: list[Draft], space: SpacePlan, mark: Mark
    ) -> Steps[Stored | GuardFailed | None]:
        stored = _stored(request, drafts)
        changed = [each for each in drafts if each.is_change]
        if not changed and request.guard is None:
            return stored
        t = minitransaction()
        for each in drafts:
            add_version(t, each.old)
        for each in changed:
            add_change(t, each.old, each.new)
            for place, content in each.contents:
                t.write(place.node, place.address, content)
        space.add_items(t)
        own = len(t.compare_places)
        if request.guard is not None:
            request.guard(t)
        try:
            result = yield from execute(t)
        except OutcomeUnknown as unknown:
            if not changed:
                raise
            head = changed[0].old.head
            pending = Pending(head.place, head.version, mark, stored)
            try:
                return (yield from settle(pending, self._mark()))
            except UnsettledUpdate:
                raise UnsettledUpdate(unknown, pending) from None
        if result.committed:
            return stored
        if all(failed.index >= own for failed in result.failed_compares):
            return GuardFailed(result)
        return None

    def _mark(self) -> Mark:
        return Mark(self._writer, next(self._numbers))

    def _breathe(self, attempt: int) -> Steps[None]:
        if attempt >= ATTEMPTS_AT_ONCE:
            longest = PAUSE_SECONDS_MIN * 2 ** min(attempt, 10)
            yield from pause(self._rng.random() * min(longest, PAUSE_SECONDS_MAX))


def _work(request: _Request, buckets: Mapping[int, Bucket]) -> list[tuple[Bucket, list[Change]]]:
    """The buckets of the request, and what is to change in each."""
    work = {bucket.head.place: (bucket, list[Change]()) for bucket in buckets.values()}
    for change in request.changes:
        work[buckets[change.hash].head.place][1].append(change)
    return list(work.values())


def _conflict(request: _Request, buckets: Mapping[int, Bucket]) -> Conflict | None:
    others = {}
    for key, version in request.expected.items():
        entry = buckets[request.hashes[key]].entries.get(key)
        found = entry.version if entry is not None else 0
        if found != version:
            others[key] = found
    return Conflict(others) if others else None


def _stored(request: _Request, drafts: list[Draft]) -> Stored:
    previous: dict[bytes, int] = {}
    versions: dict[bytes, int] = {}
    for change in request.changes:
        for each in drafts:
            if each.old.head.covers(change.hash):
                before, after = each.old.entries.get(change.key), each.new.entries.get(change.key)
                previous[change.key] = before.version if before is not None else 0
                versions[change.key] = after.version if after is not None else 0
    return Stored(versions, previous)
