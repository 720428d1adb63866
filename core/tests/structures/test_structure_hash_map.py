"""The hash map on a model: a dict that grows, keeps its space, and knows what it was told."""

from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.steps import Steps
from sinfonia.errors import Contended, LimitExceeded, OutcomeUnknown
from sinfonia.minitransaction import Minitransaction
from sinfonia.structures import (
    MAP_HEADER_BYTES,
    Conflict,
    Found,
    GuardFailed,
    HashMap,
    NoSpace,
    NotFormatted,
    Place,
    Region,
    Stored,
    UnsettledUpdate,
    add_region,
    create_hash_map,
    scan,
    statistics,
)
from sinfonia.structures.hash_map.directory import reverse_bits, span
from sinfonia.structures.hash_map.layout import (
    CLASS_MAX,
    CLASS_MIN,
    DEPTH_MAX,
    ENTRIES_OFFSET,
    MARKS,
    VALUE_BYTES_MAX,
    Bucket,
    BucketHead,
    Entry,
    Extent,
    MapHeader,
    Mark,
    size_class,
)
from sinfonia.testing.hash_map_audit import audit
from sinfonia.testing.stepwise import Fate, Stage

T = TypeVar("T")

HOME = Place(0, 64)
REGIONS = (Region(0, 2048, 100_000), Region(1, 0, 100_000))
BUCKET_BYTES = 1024
SMALL, LARGE = 10, 300


def make_stage() -> Stage:
    stage = Stage(memory_nodes=2, capacity=110_000)
    stage.run(create_hash_map(HOME, REGIONS, bucket_bytes=BUCKET_BYTES))
    return stage


def view(stage: Stage, writer: int = 1) -> HashMap:
    return stage.run(HashMap.open(HOME, writer=writer))


def key(number: int) -> bytes:
    return b"key %d" % number


def value(number: int, length: int = SMALL) -> bytes:
    return (b"value %d" % number).ljust(length, b".")


def contents(stage: Stage, map_: HashMap, buckets: int = 3) -> dict[bytes, bytes]:
    """By a scan; each key at most once."""
    entries: list[tuple[bytes, Found]] = []
    point: int | None = 0
    while point is not None:
        page = stage.run(scan(map_, point, buckets=buckets))
        entries += page.entries
        point = page.next
    assert len(dict(entries)) == len(entries)
    return {name: found.value for name, found in entries}


def check_space(stage: Stage, map_: HashMap) -> None:
    stage.run(audit(map_))


def test_what_is_put_is_got() -> None:
    stage = make_stage()
    map_ = view(stage)
    assert stage.run(map_.get(b"a")) is None
    version = stage.run(map_.put(b"a", b"1"))
    assert stage.run(view(stage, 2).get(b"a")) == Found(b"1", version)
    assert stage.run(map_.put(b"a", b"")) > version
    assert stage.run(map_.put(b"", b"2")) > version
    found = stage.run(map_.get_many([b"a", b"", b"b"]))
    assert {name: each.value for name, each in found.items()} == {b"a": b"", b"": b"2"}
    assert stage.run(map_.remove(b"a"))
    assert not stage.run(map_.remove(b"a"))
    assert stage.run(map_.get(b"a")) is None


def test_it_grows_and_a_stale_directory_finds_the_way() -> None:
    stage = make_stage()
    map_, old = view(stage), view(stage, 2)
    stage.run(old.put(key(0), value(0)))
    for number in range(300):
        stage.run(map_.put(key(number), value(number)))
    assert len(old.directory) == 1
    for number in range(300):
        assert stage.run(old.get(key(number))) is not None
    found = stage.run(statistics(map_))
    assert (found.entries, found.depth_max > 4) == (300, True)
    assert contents(stage, map_) == {key(k): value(k) for k in range(300)}
    check_space(stage, map_)
    # On both memory nodes.
    nodes = {place.node for place in map_.directory.in_order(0, 1000)}
    assert nodes == {0, 1}


def test_large_values_take_space_and_give_it_back() -> None:
    stage = make_stage()
    map_ = view(stage)
    stage.run(map_.grow(3))
    for number in range(20):
        stage.run(map_.put(key(number), value(number, LARGE)))
    check_space(stage, map_)
    free = stage.run(statistics(map_)).free_bytes
    for length in (LARGE + 1, SMALL, LARGE):
        for number in range(20):
            stage.run(map_.put(key(number), value(number, length)))
        assert contents(stage, map_) == {key(k): value(k, length) for k in range(20)}
        check_space(stage, map_)
    for number in range(20):
        assert stage.run(map_.remove(key(number)))
    check_space(stage, map_)
    for number in range(20):
        stage.run(map_.put(key(number), value(number, LARGE)))
    check_space(stage, map_)
    assert stage.run(statistics(map_)).free_bytes == free


@given(st.integers(0, VALUE_BYTES_MAX))
def test_a_size_class_is_the_smallest_that_holds_it(length: int) -> None:
    number = size_class(length)
    assert CLASS_MIN <= number <= CLASS_MAX
    assert length + 24 <= 1 << number
    assert number == CLASS_MIN or length + 24 > 1 << (number - 1)


def test_a_version_is_compared_and_never_comes_back() -> None:
    stage = make_stage()
    map_ = view(stage)
    first = stage.run(map_.cas(b"a", 0, b"1"))
    assert isinstance(first, int)
    assert stage.run(map_.cas(b"a", 0, b"2")) == Conflict({b"a": first})
    assert stage.run(map_.cas(b"a", first, None)) == 0
    assert stage.run(map_.cas(b"a", first, b"2")) == Conflict({b"a": 0})
    second = stage.run(map_.cas(b"a", 0, b"1"))
    assert isinstance(second, int)
    assert second > first


def test_several_keys_change_together_over_several_memory_nodes() -> None:
    stage = make_stage()
    map_ = view(stage)
    stage.run(map_.grow(4))
    done = stage.run(map_.update({key(k): value(k, 30 * k) for k in range(20)}))
    assert isinstance(done, Stored)
    assert set(done.previous.values()) == {0}
    # One key of another version, and nothing happens.
    changes: dict[bytes, bytes | None] = {key(k): None for k in range(10)}
    expected = dict(done.versions) | {key(15): 999}
    conflict = stage.run(map_.update(changes, expected=expected))
    assert conflict == Conflict({key(15): done.versions[key(15)]})
    assert len(stage.run(map_.get_many(map(key, range(20))))) == 20
    assert isinstance(stage.run(map_.update(changes, expected=done.versions)), Stored)
    assert len(stage.run(map_.get_many(map(key, range(20))))) == 10
    check_space(stage, map_)


def test_many_keys_at_once_split_what_they_must() -> None:
    stage = make_stage()
    map_ = view(stage)
    assert isinstance(stage.run(map_.update({key(k): value(k) for k in range(128)})), Stored)
    assert len(contents(stage, map_)) == 128
    check_space(stage, map_)


def test_a_guard_of_the_callers_decides_too() -> None:
    stage = make_stage()
    map_ = view(stage)

    def guard(t: Minitransaction[object]) -> None:
        t.compare(0, 0, b"mine")

    refused = stage.run(map_.update({b"a": b"1"}, guard=guard))
    assert isinstance(refused, GuardFailed)
    assert refused.result.failed_compares[-1].found == bytes(4)
    assert stage.run(map_.get(b"a")) is None
    stage.memory[MemoryNodeId(0)][:4] = b"mine"
    assert isinstance(stage.run(map_.update({b"a": b"1"}, guard=guard)), Stored)
    # A conflict about the version is not taken for the guard's.
    late = stage.begin(map_.update({b"a": b"2"}, guard=guard))
    stage.step(late)
    stage.run(view(stage, 2).put(b"a", b"3"))
    assert isinstance(stage.finish(late), Stored)


def test_a_map_without_room_says_so_and_takes_a_region_from_any_client() -> None:
    stage = Stage(memory_nodes=2, capacity=32 * 1024)
    small = (Region(0, 2048, 256 + 2 * BUCKET_BYTES),)
    stage.run(create_hash_map(HOME, small, bucket_bytes=BUCKET_BYTES))
    map_ = view(stage)
    count = 0
    put = stage.begin(map_.put(key(0), value(0)))
    while put.error is None:
        stage.finish(put)
        count += 1
        put = stage.begin(map_.put(key(count), value(count)))
        while not put.over:
            stage.step(put)
    assert isinstance(put.error, NoSpace)
    assert "add_region" in str(put.error)
    assert len(contents(stage, map_)) == count
    stage.run(map_.remove(key(0)))
    with pytest.raises(NoSpace):
        stage.run(map_.put(key(0), value(0, LARGE)))
    stage.run(add_region(HOME, Region(1, 0, 30_000)))
    stage.run(add_region(HOME, Region(1, 0, 30_000)))
    stage.run(map_.put(key(0), value(0, LARGE)))
    # A client that has not heard of the region meets an extent in it.
    old = view(stage, 3)
    old.header = MapHeader(1, BUCKET_BYTES, bytes(16), old.header.root, small)
    assert stage.run(old.remove(key(0)))
    check_space(stage, map_)


def test_to_create_it_again_changes_nothing_and_another_is_refused() -> None:
    stage = make_stage()
    stage.run(view(stage).put(b"a", b"1"))
    stage.run(create_hash_map(HOME, REGIONS, bucket_bytes=BUCKET_BYTES))
    assert stage.run(view(stage).get(b"a")) is not None
    with pytest.raises(NotFormatted, match="another"):
        stage.run(create_hash_map(HOME, REGIONS, bucket_bytes=2048))
    with pytest.raises(NotFormatted):
        stage.run(HashMap.open(Place(0, 50_000)))


@pytest.mark.parametrize(
    ("regions", "bucket_bytes", "what"),
    [
        ((), 1024, "regions"),
        (REGIONS, 1000, "multiple of 64"),
        (REGIONS, 512, "bucket"),
        ((Region(0, 2048, 1000),), 1024, "at least"),
        ((Region(0, 1000, 9000),), 1024, "overlap"),
        ((Region(1, 0, 9000), Region(1, 8999, 9000)), 1024, "overlap"),
        ((Region(2**16, 0, 9000),), 1024, "beyond"),
        ((Region(1, 2**48, 9000),), 1024, "beyond"),
    ],
)
def test_what_cannot_be_a_map_is_not_made(
    regions: tuple[Region, ...], bucket_bytes: int, what: str
) -> None:
    with pytest.raises(LimitExceeded, match=what):
        Stage().run(create_hash_map(HOME, regions, bucket_bytes=bucket_bytes))


def test_limits_are_named() -> None:
    stage = make_stage()
    map_ = view(stage)
    longest = map_.header.key_bytes_max
    stage.run(map_.put(bytes(longest), value(1, LARGE)))
    with pytest.raises(LimitExceeded, match=f"{longest} bytes"):
        stage.run(map_.put(bytes(longest + 1), b""))
    with pytest.raises(LimitExceeded, match="a value"):
        stage.run(map_.put(b"a", bytes(VALUE_BYTES_MAX + 1)))
    with pytest.raises(LimitExceeded, match="128 keys"):
        stage.run(map_.update({key(k): b"" for k in range(129)}))
    with pytest.raises(LimitExceeded, match="128 keys"):
        stage.run(map_.get_many(key(k) for k in range(129)))
    with pytest.raises(LimitExceeded, match="salt"):
        stage.run(create_hash_map(HOME, REGIONS, salt=bytes(17)))


def test_values_of_more_bytes_than_a_minitransaction_has_are_scanned_in_pieces() -> None:
    stage = Stage(capacity=20 * 1024 * 1024)
    stage.run(create_hash_map(HOME, [Region(0, 2048, 19 * 1024 * 1024)]))
    map_ = view(stage)
    for number in range(17):
        stage.run(map_.put(key(number), bytes(VALUE_BYTES_MAX)))
    assert len(stage.run(scan(map_)).entries) == 17
    changes: dict[bytes, bytes | None] = {key(k): bytes(VALUE_BYTES_MAX) for k in range(17)}
    with pytest.raises(LimitExceeded):
        stage.run(map_.update(changes))


def test_a_salt_hides_where_keys_are() -> None:
    headers = [MapHeader(1, 1024, bytes([salt] * 16), HOME, REGIONS) for salt in (0, 1)]
    assert headers[0].hash(b"a") != headers[1].hash(b"a")
    assert MapHeader.decode(headers[1].encode()) == headers[1]
    assert len(headers[1].encode()) == MAP_HEADER_BYTES


def test_a_reader_of_a_large_value_looks_again_if_it_was_overwritten() -> None:
    stage = make_stage()
    map_ = view(stage)
    stage.run(map_.put(b"a", value(1, LARGE)))
    get = stage.begin(map_.get(b"a"))
    stage.step(get)
    stage.run(view(stage, 2).put(b"a", value(2, LARGE)))
    found = stage.finish(get)
    assert found is not None
    assert found.value == value(2, LARGE)


def test_a_reader_of_a_large_value_never_takes_anothers_for_it() -> None:
    """The extent is given back and taken by another key before the reader comes to it."""
    stage = make_stage()
    map_ = view(stage)
    stage.run(map_.put(b"a", value(1, LARGE)))
    get = stage.begin(map_.get(b"a"))
    stage.step(get)
    stage.run(map_.remove(b"a"))
    stage.run(map_.put(b"b", value(2, LARGE)))
    assert stage.finish(get) is None


def test_a_list_that_looks_the_same_again_is_not_trusted() -> None:
    """Its head was taken and given back, and what comes after it is another extent by now."""
    stage = Stage(memory_nodes=2, capacity=60_000)
    stage.run(create_hash_map(HOME, [Region(0, 2048, 50_000)], bucket_bytes=BUCKET_BYTES))
    map_ = view(stage)
    stage.run(map_.grow(3))
    # One key for each of the eight buckets.
    keys = {map_.header.hash(key(number)) % 8: key(number) for number in range(100)}
    for bucket in (0, 1):
        stage.run(map_.put(keys[bucket], value(1, LARGE)))
    for bucket in (0, 1):
        stage.run(map_.remove(keys[bucket]))
    put = stage.begin(map_.put(keys[2], value(2, LARGE)))
    for _ in range(3):
        stage.step(put)
    for bucket in (3, 4):
        stage.run(map_.put(keys[bucket], value(bucket, LARGE)))
    stage.run(map_.remove(keys[3]))
    stage.finish(put)
    stage.run(map_.put(keys[5], value(5, LARGE)))
    check_space(stage, map_)
    assert contents(stage, map_) == {keys[k]: value(k, LARGE) for k in (2, 4, 5)}


def test_damage_is_found_and_not_served() -> None:
    stage = make_stage()
    map_ = view(stage)
    stage.run(map_.put(b"a", b"1"))
    stage.run(map_.put(b"b", value(1, LARGE)))
    root = map_.header.root
    memory = stage.memory[MemoryNodeId(0)]
    bucket = stage.run(map_.directory.read([root]))[root]
    extent = bucket.entries[b"b"].value
    assert isinstance(extent, Extent)
    memory[extent.place.address + 30] ^= 1
    with pytest.raises(Contended):
        stage.run(map_.get(b"b"))
    memory[root.address + 24] ^= 1
    with pytest.raises(NotFormatted, match="damaged"):
        stage.run(map_.get(b"a"))
    memory[root.address] ^= 1
    with pytest.raises(NotFormatted, match="no bucket"):
        stage.run(map_.get(b"a"))


# --- unknown outcomes ----------------------------------------------------------------------------


@pytest.mark.parametrize("length", [SMALL, LARGE])
@pytest.mark.parametrize("fate", [Fate.UNKNOWN_DONE, Fate.UNKNOWN_NEVER, Fate.UNKNOWN_LATE])
def test_a_change_whose_answer_was_lost_is_made_once(fate: Fate, length: int) -> None:
    """And another client's change is not undone by the second try."""
    stage = make_stage()
    map_ = view(stage)
    version = stage.run(map_.put(b"a", b"0"))
    steps = 3 if length == LARGE else 2
    change = stage.begin(map_.cas(b"a", version, value(1, length)))
    for _ in range(steps - 1):
        stage.step(change)
    stage.step(change, fate)
    if fate is Fate.UNKNOWN_DONE:
        stage.run(view(stage, 2).put(b"a", b"2"))
        assert isinstance(stage.finish(change), int)
        assert stage.run(map_.get(b"a")) is not None
    else:
        mine = stage.finish(change)
        while stage.late:
            assert not stage.arrive(0).committed
        assert isinstance(mine, int)
        assert stage.run(map_.get(b"a")) == Found(value(1, length), mine)
    check_space(stage, map_)


@pytest.mark.parametrize("fate", [Fate.UNKNOWN_DONE, Fate.UNKNOWN_NEVER])
def test_a_client_that_reaches_no_memory_node_is_told_so_and_asks_later(fate: Fate) -> None:
    stage = make_stage()
    map_ = view(stage)
    put = stage.begin(map_.put(b"a", b"1"))
    stage.step(put)
    stage.step(put, fate)
    while not put.over:
        # A definite error of asking is no definite error of the change.
        stage.step(put, Fate.NOT_EXECUTED)
    assert isinstance(put.error, UnsettledUpdate)
    assert not put.error.definite
    stored = stage.run(map_.settle(put.error.pending))
    assert (stored is None) == (fate is Fate.UNKNOWN_NEVER)
    # A settled one can be settled again, with the same answer.
    assert stage.run(view(stage, 2).settle(put.error.pending)) == stored


def test_a_bucket_forgets_after_so_many_changes() -> None:
    for changes in (MARKS - 1, MARKS):
        stage = make_stage()
        map_ = view(stage)
        put = stage.begin(map_.put(b"a", b"mine"))
        stage.step(put)
        stage.step(put, Fate.UNKNOWN_DONE)
        for number in range(changes):
            stage.run(view(stage, 2).put(b"b", b"%d" % number))
        if changes < MARKS:
            assert stage.finish(put) == 2
        else:
            with pytest.raises(OutcomeUnknown):
                stage.finish(put)


# --- properties ----------------------------------------------------------------------------------

KEYS = st.integers(0, 12).map(key)
LENGTHS = st.sampled_from((0, SMALL, 60, LARGE, LARGE + 300))
CHANGES = st.dictionaries(KEYS, st.none() | LENGTHS, min_size=1, max_size=4)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(CHANGES, st.booleans(), st.sampled_from(Fate)), max_size=25))
def test_a_map_is_a_dict(work: list[tuple[dict[bytes, int | None], bool, Fate]]) -> None:
    """With one fault in the last step of each change, and a scan and an audit in the end."""
    stage = make_stage()
    map_ = view(stage)
    model: dict[bytes, Found] = {}
    for number, (lengths, expect, fate) in enumerate(work):
        changes = {
            name: None if length is None else value(number, length)
            for name, length in lengths.items()
        }
        expected = {name: model[name].version if name in model else 0 for name in changes}
        update = stage.begin(map_.update(changes, expected=expected if expect else None))
        struck = False
        while not update.over:
            step = update.drive.step
            writes = isinstance(step, Minitransaction) and not step.read_only
            stage.step(update, fate if writes and not struck else Fate.DONE)
            struck = struck or writes
        if fate is Fate.NOT_EXECUTED and struck:
            assert isinstance(update.error, Contended)
            continue
        done = update.value
        assert isinstance(done, Stored)
        assert done.previous == {
            name: model[name].version if name in model else 0 for name in changes
        }
        for name, new in changes.items():
            model.pop(name, None)
            if new is not None:
                model[name] = Found(new, done.versions[name])
    while stage.late:
        stage.arrive(0)
    assert stage.run(view(stage, 2).get_many(map(key, range(13)))) == model
    assert contents(stage, map_) == {name: found.value for name, found in model.items()}
    check_space(stage, map_)


@settings(max_examples=30)
@given(
    st.integers(0, DEPTH_MAX),
    st.dictionaries(st.binary(max_size=20), st.binary(max_size=30) | st.integers(0, 2**20)),
)
def test_a_bucket_is_what_its_bytes_say(depth: int, values: dict[bytes, bytes | int]) -> None:
    head = BucketHead(Place(3, 77), depth, 5, (1 << depth) - 1, 0, 0)
    entries = {
        name: Entry(4, 9, Extent(Place(1, 64), each) if isinstance(each, int) else each)
        for name, each in values.items()
    }
    bucket = Bucket(head).changed(entries, Mark(7, 8))
    data = bucket.encode()
    assert len(data) == ENTRIES_OFFSET + bucket.head.used
    assert Bucket.decode(Place(3, 77), data + b"rubbish") == bucket


@settings(max_examples=30)
@given(st.binary(min_size=ENTRIES_OFFSET, max_size=ENTRIES_OFFSET + 100))
def test_no_bytes_break_the_decoder(data: bytes) -> None:
    for each in (data, b"SHB1" + data[4:], b"SHB1\0\0\0\0" + bytes(32) + data[40:]):
        try:
            Bucket.decode(Place(0, 0), each)
        except NotFormatted:
            continue


@settings(max_examples=30)
@given(st.integers(0, 2**64 - 1), st.integers(0, DEPTH_MAX))
def test_the_hashes_of_a_bucket_are_neighbours(key_hash: int, depth: int) -> None:
    head = BucketHead(HOME, depth, 1, key_hash & ((1 << depth) - 1), 0, 0)
    start, end = span(head)
    assert start <= reverse_bits(key_hash) < end
    assert reverse_bits(reverse_bits(key_hash)) == key_hash


# --- cost ----------------------------------------------------------------------------------------


def test_what_operations_cost() -> None:
    """The table in STRUCTURES.md: minitransactions, each of one round trip on one memory node."""
    stage = make_stage()
    map_ = view(stage)

    def cost(steps: Steps[T]) -> int:
        actor = stage.begin(steps)
        count = 0
        while not actor.over:
            count += isinstance(actor.drive.step, Minitransaction)
            stage.step(actor)
        return count

    assert cost(map_.put(b"a", b"1")) == 2
    assert cost(map_.get(b"a")) == 1
    assert cost(map_.put(b"a", value(1, LARGE))) == 3
    assert cost(map_.get(b"a")) == 2
    assert cost(map_.update({key(k): b"" for k in range(8)})) == 2
    assert cost(map_.get_many(key(k) for k in range(8))) == 1
    assert cost(map_.remove(b"a")) == 3
    assert cost(scan(map_)) == 1
    assert cost(map_.grow(1)) == 5
