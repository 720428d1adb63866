"""No two areas of a memory node overlap."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinfonia.addresses import MemoryNodeId
from sinfoniafs.attributes import InodeNumber
from sinfoniafs.errors import CorruptVolume
from sinfoniafs.format.layout import (
    BLOCK_SIZE,
    INODE_MAP_ADDRESS,
    INODE_SIZE,
    NODE_SIZE_MIN,
    SESSIONS_MAX,
    Layout,
    NodeLayout,
    index_of,
    memory_node_of,
    number,
    runs,
    session_address,
)

SIZES = st.integers(NODE_SIZE_MIN, 2**50)


@given(st.integers(0, 2**23 - 1), st.integers(0, 2**40 - 1))
def test_a_number_is_its_pair(node: int, index: int) -> None:
    assert (memory_node_of(number(node, index)), index_of(number(node, index))) == (node, index)
    assert number(node, index) < 2**63


@given(SIZES)
def test_areas_follow_each_other_and_do_not_overlap(size: int) -> None:
    layout = NodeLayout.of_size(MemoryNodeId(0), size)
    assert session_address(SESSIONS_MAX) <= INODE_MAP_ADDRESS
    assert INODE_MAP_ADDRESS + layout.inodes <= layout.block_map_address
    assert layout.block_map_address + layout.blocks <= layout.inode_area_address
    inodes_end = layout.inode_area_address + layout.inodes * INODE_SIZE
    assert inodes_end <= layout.first_data_block * BLOCK_SIZE
    assert layout.first_data_block < layout.blocks
    assert layout.blocks * BLOCK_SIZE <= size


@given(SIZES)
def test_the_format_takes_little(size: int) -> None:
    layout = NodeLayout.of_size(MemoryNodeId(0), size)
    assert layout.first_data_block <= 8 + layout.blocks * 0.034


@pytest.mark.parametrize("inode", [0, 10**6, 1 << 40, -1])
def test_what_is_no_inode_number_is_refused(inode: int) -> None:
    layout = Layout([NodeLayout.of_size(MemoryNodeId(0), NODE_SIZE_MIN)])
    with pytest.raises(CorruptVolume):
        layout.inode_slot(InodeNumber(inode))


@given(st.sets(st.integers(0, 60)))
def test_runs_are_the_numbers_merged(numbers: set[int]) -> None:
    merged = list(runs(numbers))
    assert [each for first, count in merged for each in range(first, first + count)] == sorted(
        numbers
    )
    for (first, count), (following, _) in pairwise(merged):
        assert first + count < following
