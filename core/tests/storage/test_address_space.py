"""Every address is there, and only what was written costs."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinfonia.errors import StorageError
from sinfonia.storage.address_space import CHUNK_BYTES, PAGE_BYTES, AddressSpace

CAPACITY = 4 * PAGE_BYTES


@pytest.fixture
def space() -> Iterator[AddressSpace]:
    space = AddressSpace(CAPACITY)
    yield space
    space.check_invariants()
    space.close()


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - not a real file
        return int(statm.read().split()[1]) * 4096


def test_memory_is_zeros_until_it_is_written(space: AddressSpace) -> None:
    assert space.read(100, 3) == b"\0\0\0"
    space.write(100, b"abc")
    assert space.read(99, 5) == b"\0abc\0"
    assert space.matches(100, b"abc")
    assert not space.matches(100, b"abd")


def test_a_terabyte_costs_what_was_written() -> None:
    before = resident_bytes()
    space = AddressSpace(1 << 40)
    for gigabyte in range(0, 1024, 16):
        space.write(gigabyte << 30, b"x")
        assert space.read(gigabyte << 30, 2) == b"x\0"
    # With huge pages, 64 writes would cost 128 MiB.
    assert resident_bytes() - before < 16 * 1024 * 1024
    space.close()


def test_a_capacity_that_is_no_multiple_of_a_page_is_whole(space: AddressSpace) -> None:
    odd = AddressSpace(PAGE_BYTES + 1)
    odd.write(PAGE_BYTES, b"z")
    assert odd.read(PAGE_BYTES, 1) == b"z"
    odd.check_invariants()
    odd.close()


def test_a_capacity_that_cannot_be_mapped_is_one_clear_error() -> None:
    with pytest.raises(StorageError, match="choose a smaller capacity"):
        AddressSpace(1 << 62)


def test_an_address_out_of_range_is_refused(space: AddressSpace) -> None:
    with pytest.raises(IndexError):
        space.write(CAPACITY - 1, b"ab")
    assert space.dirty == set()


def test_pages_written_are_dirty_until_they_are_taken(space: AddressSpace) -> None:
    space.write(0, b"x")
    space.write(2 * PAGE_BYTES - 1, b"xy")
    assert space.dirty == {0, 1, 2}
    assert space.take_dirty() == {0, 1, 2}
    assert space.dirty == set()


def test_what_was_ever_written_is_known_in_chunks() -> None:
    space = AddressSpace(4 * CHUNK_BYTES)
    assert space.written_chunks() == []
    space.write(3 * CHUNK_BYTES + 5, b"x")
    space.take_dirty()
    space.write(CHUNK_BYTES - 1, b"xy")
    assert space.written_chunks() == [0, CHUNK_BYTES, 3 * CHUNK_BYTES]
    space.check_invariants()
    space.close()


def test_what_is_loaded_counts_as_written_but_not_as_dirty() -> None:
    space = AddressSpace(4 * CHUNK_BYTES)
    space.load(2 * CHUNK_BYTES - 2, b"abcd")
    assert space.read(2 * CHUNK_BYTES - 2, 4) == b"abcd"
    assert space.dirty == set()
    assert space.written_chunks() == [CHUNK_BYTES, 2 * CHUNK_BYTES]
    space.close()


@given(st.lists(st.tuples(st.integers(0, CAPACITY), st.binary(max_size=2 * PAGE_BYTES))))
def test_it_behaves_like_an_array_of_bytes(writes: list[tuple[int, bytes]]) -> None:
    space, model = AddressSpace(CAPACITY), bytearray(CAPACITY)
    dirty = set()
    for address, data in writes:
        fitting = data[: CAPACITY - address]
        space.write(address, fitting)
        model[address : address + len(fitting)] = fitting
        dirty |= {byte // PAGE_BYTES for byte in range(address, address + len(fitting))}
    assert space.read(0, CAPACITY) == model
    assert dirty <= space.dirty
    space.check_invariants()
    space.close()
