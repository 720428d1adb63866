"""Bytes on the memory nodes: what is encoded is decoded, and is where FORMAT.md says."""

import re
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinfonia.addresses import MemoryNodeId
from sinfoniafs.attributes import InodeNumber
from sinfoniafs.errors import CorruptVolume, FormatError
from sinfoniafs.format.directory import HEAD_SIZE, Entry, Interior, Leaf
from sinfoniafs.format.inode import TIMES_OFFSET, Inode, encode_time
from sinfoniafs.format.layout import BLOCK_SIZE, INODE_SIZE, SESSION_SIZE, BlockNumber, NodeLayout
from sinfoniafs.format.superblock import SUPERBLOCK_SIZE, Superblock, checksum
from sinfoniafs.session import SessionRecord

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)

INODES = st.builds(
    Inode,
    number=st.just(InodeNumber(5)),
    iversion=U64,
    generation=U32,
    kind=U32,
    root=U64,
    height=U32,
    flags=U32,
    permissions=U32,
    nlink=U32,
    uid=U32,
    gid=U32,
    size=U64,
    blocks=U64,
    rdev=U64,
    parent=U64,
    atime=I64,
    mtime=I64,
    ctime=I64,
    btime=I64,
    openers=st.integers(0, 2**256 - 1),
    area=st.binary(min_size=256, max_size=256),
)
SUPERBLOCKS = st.builds(
    Superblock,
    name=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=16),
    uuid=st.binary(min_size=16, max_size=16),
    hash_key=st.binary(min_size=16, max_size=16),
    root=U64.map(InodeNumber),
    created_ns=I64,
    layout=st.builds(NodeLayout, U32.map(MemoryNodeId), U64, U64),
    nodes=st.lists(U32.map(MemoryNodeId), min_size=1, max_size=900).map(tuple),
)
NAMES = st.binary(min_size=1, max_size=255)


@given(INODES)
def test_an_inode_is_decoded_as_it_was_encoded(inode: Inode) -> None:
    slot = inode.encode()
    assert len(slot) == INODE_SIZE
    assert Inode.decode(inode.number, slot) == inode
    assert Inode.decode_header(inode.number, slot[:112]) == inode._replace(
        openers=0, area=bytes(256)
    )
    assert slot.startswith(inode.encode_fields() + b"".join(map(encode_time, inode.times)))


@pytest.mark.parametrize("name", Inode._fields)
def test_a_comparison_of_inodes_sees_a_difference_in_its_part_only(name: str) -> None:
    values = {field: at for at, field in enumerate(Inode._fields)}
    inode, other = Inode._make(values.values()), Inode._make((values | {name: 77}).values())
    times = ["atime", "mtime", "ctime", "btime"]
    alone = {"number", "iversion", "openers", "area"}
    assert other.same_fields(inode) == (name in times or name in alone)
    assert other.same_times(inode) == (name not in times)
    changed = [(TIMES_OFFSET + 8 * times.index(name), 77)] if name in times else []
    assert list(other.changed_times(inode)) == changed


@given(SUPERBLOCKS)
def test_a_superblock_is_decoded_as_it_was_encoded(superblock: Superblock) -> None:
    image = superblock.encode()
    assert len(image) == SUPERBLOCK_SIZE
    assert Superblock.decode(image) == superblock


@given(SUPERBLOCKS, st.integers(12, SUPERBLOCK_SIZE - 1), st.integers(1, 255))
def test_any_changed_byte_of_a_superblock_is_noticed(
    superblock: Superblock, place: int, change: int
) -> None:
    image = bytearray(superblock.encode())
    image[place] ^= change
    with pytest.raises(FormatError):
        Superblock.decode(bytes(image))


@given(SUPERBLOCKS)
def test_an_unknown_incompatible_feature_forbids_use(superblock: Superblock) -> None:
    image = bytearray(superblock.encode())
    struct.pack_into("<Q", image, 32, 4)
    image[-8:] = checksum(bytes(image[:-8]))
    with pytest.raises(FormatError, match="features 0x4"):
        Superblock.decode(bytes(image))


@given(st.dictionaries(st.integers(16, 2**63 - 1), NAMES, max_size=40))
def test_a_leaf_is_decoded_as_it_was_encoded(names: dict[int, bytes]) -> None:
    entries = [
        Entry(position, InodeNumber(at + 1), 8, name, 0)
        for at, (position, name) in enumerate(names.items())
    ]
    leaf = Leaf.empty(BlockNumber(9), 2**63, InodeNumber(3)).pack(entries)
    assert Leaf.decode(BlockNumber(9), leaf.encode().ljust(BLOCK_SIZE, b"\xff")) == leaf


@given(st.sets(st.integers(1, 2**63 - 1), max_size=1021))
def test_an_interior_node_is_decoded_as_it_was_encoded(lows: set[int]) -> None:
    children = tuple(BlockNumber(at + 1) for at in range(len(lows) + 1))
    node = Interior(
        block=BlockNumber(9),
        version=1,
        owner=InodeNumber(3),
        height=2,
        lows=(0, *sorted(lows)),
        children=children,
    )
    assert Interior.decode(BlockNumber(9), node.encode().ljust(BLOCK_SIZE, b"\xff")) == node


@given(st.binary(max_size=100))
def test_what_is_no_directory_node_is_refused(junk: bytes) -> None:
    image = junk.ljust(BLOCK_SIZE, b"\0")
    with pytest.raises(CorruptVolume):
        Leaf.decode(BlockNumber(9), image)
    with pytest.raises(CorruptVolume):
        Interior.decode(BlockNumber(9), image)


@given(st.integers(0, 239), U64, U64, I64, U32)
def test_a_session_record_is_decoded_as_it_was_encoded(
    slot: int, identity: int, heartbeat: int, started: int, pid: int
) -> None:
    record = SessionRecord(
        slot=slot,
        identity=identity,
        heartbeat=heartbeat,
        started_ns=started,
        pid=pid,
        host="host",
        mountpoint="/mnt",
    )
    assert SessionRecord.decode(slot, record.encode()) == record


HEADINGS_WITH_A_WHOLE_STRUCTURE = {
    "Session": SESSION_SIZE,
    "Inode": INODE_SIZE,
    "Directory leaf": HEAD_SIZE,
    "Interior node": HEAD_SIZE,
}


def documented(heading: str) -> list[tuple[str, int, int]]:
    """Name, offset and size of each field in the table below a heading of FORMAT.md."""
    text = (Path(__file__).parents[1] / "FORMAT.md").read_text()
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| (\d+) \| `(\w+)` \|", section, re.MULTILINE)
    return [(name, int(offset), int(size)) for offset, size, name in rows]


def test_an_inodes_fields_are_where_the_document_says() -> None:
    """A field is set to ones: just its bytes must change."""
    fields = [field for field in documented("Inode") if field[0] != "reserved"]
    zero = Inode.decode(InodeNumber(5), bytes(INODE_SIZE))
    for name, offset, size in fields:
        ones: Any = (1 << 8 * size) - 1
        if name in {"atime", "mtime", "ctime", "btime"}:
            ones = -1
        elif name == "area":
            ones = b"\xff" * size
        slot = zero._replace(**{name: ones}).encode()
        assert slot == bytes(offset) + b"\xff" * size + bytes(INODE_SIZE - offset - size), name
    assert {name for name, _, _ in fields} == {*Inode._fields} - {"number"}


def test_the_documented_tables_have_neither_gaps_nor_overlaps() -> None:
    ends = {}
    for heading in (*HEADINGS_WITH_A_WHOLE_STRUCTURE, "Superblock", "Directory entry"):
        ends[heading] = 0
        for name, offset, size in documented(heading):
            assert offset == ends[heading], (heading, name)
            ends[heading] += size
    for heading, size in HEADINGS_WITH_A_WHOLE_STRUCTURE.items():
        assert ends[heading] == size, heading
