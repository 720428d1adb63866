"""The leaves and interior nodes of a directory's tree, one at a time."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from sinfoniafs.attributes import InodeNumber
from sinfoniafs.errors import CorruptVolume
from sinfoniafs.format.directory import (
    COOKIE_FIRST,
    HASH_MASK,
    HEAD_SIZE,
    ORDINALS,
    Entry,
    Interior,
    Leaf,
    entry_size,
    hole_at,
    middle,
    position_of,
    target_at,
)
from sinfoniafs.format.layout import BLOCK_SIZE, BlockNumber

KEY = b"k" * 16
NAMES = st.binary(min_size=1, max_size=255)


def leaf_with(names: list[bytes]) -> Leaf:
    leaf = Leaf.empty(BlockNumber(9), 1, InodeNumber(3))
    for at, name in enumerate(names):
        position = leaf.free_position(position_of(name, KEY))
        if leaf.fits(name):
            leaf, _ = leaf.insert(Entry(position, InodeNumber(at + 1), 8, name, 0))
    return leaf


@given(NAMES)
def test_a_position_is_a_cookie_that_fits_in_off_t(name: bytes) -> None:
    position = position_of(name, KEY)
    assert COOKIE_FIRST <= position <= position + ORDINALS - 1 < 2**63
    assert position & HASH_MASK == position


def test_the_hash_is_keyed() -> None:
    assert position_of(b"name", KEY) != position_of(b"name", b"l" * 16)


@given(st.sets(NAMES, max_size=80).map(sorted))
def test_writing_only_what_changed_is_writing_all(names: list[bytes]) -> None:
    """Head and entry for an insertion, head and hole for a removal: the same block results."""
    leaf = Leaf.empty(BlockNumber(9), 1, InodeNumber(3))
    block = bytearray(b"\xee" * BLOCK_SIZE)
    for at, name in enumerate(names):
        if leaf.fits(name):
            position = leaf.free_position(position_of(name, KEY))
            leaf, placed = leaf.insert(Entry(position, InodeNumber(at + 1), 8, name, 0))
            block[placed.offset : placed.offset + entry_size(name)] = placed.encode()
    for entry in leaf.in_order()[::3]:
        leaf = leaf.remove(entry)
        offset, data = hole_at(entry)
        block[offset : offset + len(data)] = data
    for entry in leaf.in_order()[::2]:
        changed = entry._replace(inode=InodeNumber(4711), kind=4)
        leaf = leaf._replace(entries={**leaf.entries, entry.position: changed})
        offset, data = target_at(changed)
        block[offset : offset + len(data)] = data
    block[:HEAD_SIZE] = leaf.encode_head()
    assert Leaf.decode(BlockNumber(9), bytes(block)) == leaf


@given(
    st.sets(NAMES, max_size=30).map(sorted),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=20),
)
def test_a_damaged_leaf_is_refused_or_read_but_nothing_worse(
    names: list[bytes], damage: list[tuple[int, int]]
) -> None:
    block = bytearray(leaf_with(names).encode().ljust(BLOCK_SIZE, b"\0"))
    for place, byte in damage:
        block[place] = byte
    with contextlib.suppress(CorruptVolume):
        Leaf.decode(BlockNumber(9), bytes(block))


@given(st.sets(NAMES, min_size=2, max_size=100).map(sorted))
def test_a_leaf_is_cut_in_its_middle(names: list[bytes]) -> None:
    leaf = leaf_with(names)
    cut = middle(leaf)
    left = leaf.pack(entry for entry in leaf.in_order() if entry.position < cut)
    right = leaf.pack(entry for entry in leaf.in_order() if entry.position >= cut)
    assert left.entries
    assert right.entries
    assert left.used + right.used == leaf.used + HEAD_SIZE
    assert abs(left.used - right.used) <= 2 * entry_size(b"n" * 255)


def test_names_are_found_among_names_of_equal_hash() -> None:
    leaf = Leaf.empty(BlockNumber(9), 1, InodeNumber(3))
    for at in range(ORDINALS):
        position = leaf.free_position(4096)
        leaf, _ = leaf.insert(Entry(position, InodeNumber(at + 1), 8, b"%d" % at, 0))
    leaf = leaf.remove(leaf.entries[4096])
    for at in range(1, ORDINALS):
        found = leaf.find(4096, b"%d" % at)
        assert found is not None
        assert found.inode == at + 1
    assert leaf.find(4096, b"0") is None
    assert leaf.free_position(4096) == 4096


@given(st.lists(st.integers(1, 2**63 - 1), min_size=3, max_size=50, unique=True))
def test_children_take_over_what_a_removed_one_covered(lows: list[int]) -> None:
    ordered = sorted(lows)
    children = tuple(BlockNumber(at + 1) for at in range(len(lows) + 1))
    tree_node = Interior(
        block=BlockNumber(9),
        version=1,
        owner=InodeNumber(3),
        height=1,
        lows=(0, *ordered),
        children=children,
    )
    for at in (0, len(children) // 2, len(children) - 1):
        rest = tree_node.remove(at)
        assert rest.lows[0] == 0
        assert list(rest.lows) == sorted(set(rest.lows))
        assert set(tree_node.children) - set(rest.children) == {children[at]}
        neighbour = children[max(at - 1, 0)] if at else children[1]
        assert rest.children[rest.child_at(tree_node.lows[at])] == neighbour
    left, low, right = tree_node.split(BlockNumber(10), 7)
    assert left.children + right.children == children
    assert (left.lows[0], right.lows[0]) == (0, 0)
    assert low == tree_node.lows[len(left.children)]
