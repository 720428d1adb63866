"""What an update of a hash map writes is drafted from buckets that were read, and holds only if
they are still of the same version.

So an update that began from version v of a bucket can take effect as version v + 1 and as no other.
If the outcome is unknown, the bucket's marks say which update made v + 1; while it is not made, a
version that does nothing is put in its place, and the update never will be.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sinfonia.client.steps import Steps, execute, minitransaction
from sinfonia.errors import OutcomeUnknown, SinfoniaError
from sinfonia.minitransaction import Minitransaction
from sinfonia.structures.hash_map.layout import (
    CHILDREN_OFFSET,
    ENTRIES_OFFSET,
    MARKS,
    MARKS_OFFSET,
    VERSION_OFFSET,
    Bucket,
    BucketHead,
    Entry,
    Extent,
    MapHeader,
    Mark,
    Place,
    Region,
    encode_extent,
    size_class,
)
from sinfonia.structures.hash_map.space import SpacePlan, compute
from sinfonia.structures.settling import TRIES_MAX

_MARK_BYTES = 16
_WORD = 8


@dataclass(frozen=True, slots=True)
class Stored:
    """The update took effect.

    versions: the new one of each key that was to change, 0 if the key is gone; previous: what they
    were before, 0 if the key was not there.
    """

    versions: Mapping[bytes, int]
    previous: Mapping[bytes, int]


@dataclass(frozen=True, slots=True)
class Pending:
    """An update whose outcome is unknown: ``mark`` on the version after ``version`` of a bucket."""

    place: Place
    version: int
    mark: Mark
    stored: Stored


class UnsettledUpdate(OutcomeUnknown):
    """The update may have taken effect; ``HashMap.settle(error.pending)`` finds out."""

    def __init__(self, unknown: OutcomeUnknown, pending: Pending) -> None:
        super().__init__(str(unknown), unknown.tid)
        self.pending = pending


@dataclass(frozen=True, slots=True)
class Change:
    """A key and what is to become of it; no value: it is removed."""

    key: bytes
    hash: int
    value: bytes | None

    def entry_bytes(self, header: MapHeader) -> int:
        """Of the entry that it leads to."""
        if self.value is None:
            return 0
        entry = Entry(0, 0, self.value)
        if not header.is_inline(self.key, self.value):
            entry = Entry(0, 0, Extent(Place(0, 0), 0))
        return entry.byte_count(self.key)


@dataclass(frozen=True, slots=True)
class Draft:
    """The next version of one bucket, and what is written outside of it."""

    old: Bucket
    new: Bucket
    contents: Sequence[tuple[Place, bytes]]

    @property
    def is_change(self) -> bool:
        """Whether anything is written."""
        return self.new is not self.old


def is_too_full(header: MapHeader, bucket: Bucket, changes: Sequence[Change]) -> bool:
    """Whether ``bucket`` cannot take ``changes``."""
    used = bucket.head.used
    for change in changes:
        if change.key in bucket.entries:
            used -= bucket.entries[change.key].byte_count(change.key)
        used += change.entry_bytes(header)
    return used > header.bucket_bytes - ENTRIES_OFFSET


def draft_all(
    header: MapHeader, work: Sequence[tuple[Bucket, Sequence[Change]]], mark: Mark
) -> Steps[tuple[list[Draft], SpacePlan]]:
    """Carry out the changes on each bucket.  A round trip or more if space changes hands.

    Raises NoSpace.
    """

    def build(space: SpacePlan) -> tuple[list[Draft], SpacePlan]:
        space.expect(_regions_needed(header, work, space))
        return [_draft(header, bucket, changes, mark, space) for bucket, changes in work], space

    return (yield from compute(build, header.regions))


def _regions_needed(
    header: MapHeader, work: Sequence[tuple[Bucket, Sequence[Change]]], space: SpacePlan
) -> Iterator[Region]:
    """Those that ``_draft`` asks for first: one round trip brings them all."""
    for bucket, changes in work:
        for change in changes:
            previous = bucket.entries.get(change.key)
            if previous and isinstance(previous.value, Extent):
                yield space.home(previous.value.place)
            if change.value is not None and not header.is_inline(change.key, change.value):
                yield space.order(bucket.head.place.node, change.hash)[0]


def _draft(
    header: MapHeader, bucket: Bucket, changes: Sequence[Change], mark: Mark, space: SpacePlan
) -> Draft:
    entries = dict(bucket.entries)
    contents: list[tuple[Place, bytes]] = []
    version = bucket.head.version + 1
    for key, key_hash, value in ((each.key, each.hash, each.value) for each in changes):
        previous = entries.get(key)
        extent = previous.value if previous and isinstance(previous.value, Extent) else None
        if value is None or header.is_inline(key, value):
            if extent is not None:
                space.give(extent)
            if value is not None:
                entries[key] = Entry(version, key_hash, value)
            elif previous is not None:
                del entries[key]
            continue
        wanted = size_class(len(value))
        if extent is not None and extent.size_class == wanted:
            place = extent.place
        else:
            if extent is not None:
                space.give(extent)
            place = space.take_extent(wanted, space.order(bucket.head.place.node, key_hash))
        entries[key] = Entry(version, key_hash, Extent(place, len(value)))
        contents.append((place, encode_extent(entries[key], value)))
    if entries == bucket.entries:
        return Draft(bucket, bucket, ())
    return Draft(bucket, bucket.changed(entries, mark), contents)


def add_version(t: Minitransaction[Any], bucket: Bucket) -> None:
    """Have ``t`` fail if ``bucket`` has another version by now."""
    place, version = bucket.head.place, bucket.head.version
    t.compare(place.node, place.address + VERSION_OFFSET, version.to_bytes(_WORD, "little"))


def add_change(t: Minitransaction[Any], old: Bucket, new: Bucket) -> None:
    """Have ``t`` write what differs between two versions of a bucket."""
    node, start = new.head.place
    version = new.head.version
    t.write(node, start, new.head.encode_start())
    _add_mark(t, new.head.place, version, new.head.marks[version % MARKS])
    for bit, child in enumerate(new.head.children):
        if child != old.head.children[bit]:
            t.write(node, start + CHILDREN_OFFSET + _WORD * bit, child.to_bytes(_WORD, "little"))
    before, after = old.encode_entries(), new.encode_entries()
    first = _alike(before, after)
    end = len(after)
    if len(before) == len(after):
        end -= _alike(before[:first:-1], after[:first:-1])
    if first < end:
        t.write(node, start + ENTRIES_OFFSET + first, after[first:end])


def settle(pending: Pending, mark: Mark) -> Steps[Stored | None]:
    """Find out what became of an update; None if it did not take effect and never will.

    ``mark``: for a version that takes its place.  Raises UnsettledUpdate if that is still unknown,
    or if the bucket has been changed so often that it has forgotten.
    """
    place, version = pending.place, pending.version
    unknown = OutcomeUnknown(f"the outcome of update {pending.mark} is unknown", None)
    for _ in range(TRIES_MAX):
        try:
            t = minitransaction()
            t.read(place.node, place.address, ENTRIES_OFFSET)
            head = BucketHead.decode(place, (yield from execute(t)).reads[0])
            if head.version == version:
                t = minitransaction()
                add_version(t, Bucket(head))
                following = (version + 1).to_bytes(_WORD, "little")
                t.write(place.node, place.address + VERSION_OFFSET, following)
                _add_mark(t, place, version + 1, mark)
                if (yield from execute(t)).committed:
                    return None
                continue
        except SinfoniaError:
            # Whatever it is, the outcome that is asked for is unknown still.
            continue
        if not version < head.version <= version + MARKS:
            break
        return pending.stored if head.marks[(version + 1) % MARKS] == pending.mark else None
    raise UnsettledUpdate(unknown, pending)


def _add_mark(t: Minitransaction[Any], place: Place, version: int, mark: Mark) -> None:
    slot = place.address + MARKS_OFFSET + version % MARKS * _MARK_BYTES
    t.write(place.node, slot, mark.encode())


def _alike(first: bytes, second: bytes) -> int:
    """How many bytes at the start are the same in both."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
