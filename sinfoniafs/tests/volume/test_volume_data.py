"""What files hold: every byte, in every shape of block map."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinfoniafs.attributes import Changes
from sinfoniafs.errors import FileTooBig, InvalidArgument, IsADirectory
from sinfoniafs.statistics import volume_statistics
from sinfoniafs.testing import MIB, OWNER, Site, on_volume
from sinfoniafs.volume import contents, namespace
from sinfoniafs.volume.inode_attributes import get_attributes, set_attributes
from sinfoniafs.volume.mounting import close_volume

BLOCK = 16 * 1024
# Where a block map changes its shape: inline, 32 direct blocks, one level of pointer blocks.
EDGES = [0, 1, 255, 256, 257, BLOCK - 1, BLOCK, BLOCK + 1, 32 * BLOCK - 1, 32 * BLOCK + 1]


@pytest.mark.parametrize("size", [*EDGES, 33 * BLOCK])
def test_what_was_written_is_read_by_another_mount(size: int) -> None:
    async def body(site: Site) -> None:
        data = bytes(at * 31 % 251 for at in range(size))
        file = await site.file(b"file", data)
        other = site.mounts[1]
        assert await contents.read(other, file, 0, size + 100) == data
        assert await contents.read(other, file, size // 2, 77) == data[size // 2 : size // 2 + 77]
        assert await contents.read(other, file, size, 1) == b""
        assert await contents.read(other, file, size + 10**6, 1) == b""
        assert (await get_attributes(other, file)).size == size

    on_volume(body, mounts=2, memory_nodes=2)


@pytest.mark.parametrize("before", EDGES)
@pytest.mark.parametrize("after", EDGES)
def test_truncating_keeps_the_start_and_reads_zeros_beyond(before: int, after: int) -> None:
    async def body(site: Site) -> None:
        file = await site.file(b"file", b"x" * before)
        assert (await set_attributes(site.volume, file, Changes(size=after))).size == after
        assert (
            await set_attributes(site.volume, file, Changes(size=before + after))
        ).size == before + after
        kept = min(before, after)
        assert await contents.read(site.volume, file, 0, 2 * MIB) == b"x" * kept + bytes(
            before + after - kept
        )

    on_volume(body)


def test_a_file_cut_to_nothing_gives_all_its_blocks_back() -> None:
    async def body(site: Site) -> None:
        file = await site.file(b"file", b"x" * (40 * BLOCK))
        assert (await get_attributes(site.volume, file)).blocks == 41 * 32
        assert (await set_attributes(site.volume, file, Changes(size=0))).blocks == 0
        assert await contents.write(site.volume, file, 0, b"inline again") == 12
        assert (await get_attributes(site.volume, file)).blocks == 0
        assert await contents.read(site.volume, file, 0, 100) == b"inline again"

    on_volume(body)


@pytest.mark.parametrize("offset", [5 * 2**30, 3 * 2**40, 2**62])
def test_a_sparse_file_is_as_large_as_it_says_and_takes_what_was_written(offset: int) -> None:
    async def body(site: Site) -> None:
        file = await site.file(b"file", b"start")
        await contents.write(site.volume, file, offset, b"end")
        found = await get_attributes(site.volume, file)
        assert found.size == offset + 3
        assert found.blocks <= 32 * (2 + 2 * 5)
        assert await contents.read(site.volume, file, offset - 2, 100) == b"\0\0end"
        assert await contents.read(site.volume, file, 0, 7) == b"start\0\0"
        assert await contents.read(site.volume, file, offset // 2, 3) == b"\0\0\0"
        await set_attributes(site.volume, file, Changes(size=offset))
        assert (await get_attributes(site.volume, file)).blocks < found.blocks
        await set_attributes(site.volume, file, Changes(size=5))
        assert await contents.read(site.volume, file, 0, 100) == b"start"
        assert (await get_attributes(site.volume, file)).blocks <= 32 * 6

    on_volume(body)


def test_an_offset_beyond_the_largest_file_is_refused() -> None:
    async def body(site: Site) -> None:
        file = await site.file()
        with pytest.raises(FileTooBig):
            await contents.write(site.volume, file, 2**63 - 2, b"xx")
        with pytest.raises(FileTooBig):
            await set_attributes(site.volume, file, Changes(size=2**63))
        with pytest.raises(InvalidArgument):
            await contents.write(site.volume, file, -1, b"x")
        with pytest.raises(InvalidArgument):
            await contents.read(site.volume, file, -1, 1)
        await contents.write(site.volume, file, 2**63 - 2, b"x")
        assert (await get_attributes(site.volume, file)).size == 2**63 - 1

    on_volume(body)


def test_a_directory_is_no_file() -> None:
    async def body(site: Site) -> None:
        with pytest.raises(IsADirectory):
            await contents.read(site.volume, site.root, 0, 1)
        with pytest.raises(IsADirectory):
            await contents.write(site.volume, site.root, 0, b"x")
        with pytest.raises(IsADirectory):
            await set_attributes(site.volume, site.root, Changes(size=0))

    on_volume(body)


def test_a_block_that_had_another_file_shows_nothing_of_it() -> None:
    """Blocks are not cleared when freed: what a new file does not write must read as zeros."""

    async def body(site: Site) -> None:
        for number in range(20):
            await site.file(b"secret-%d" % number, b"S" * (3 * BLOCK))
        for number in range(20):
            await namespace.unlink(site.volume, site.root, b"secret-%d" % number)
        await close_volume(site.volume)
        fresh = await site.mount()
        for number in range(60):
            name = b"new-%d" % number
            file = (await namespace.create(fresh, site.root, name, mode=0o644, owner=OWNER)).inode
            await contents.write(fresh, file, 1000, b"n")
            await contents.write(fresh, file, 5000, b"n")
            await set_attributes(fresh, file, Changes(size=2 * BLOCK))
            assert set(await contents.read(fresh, file, 0, 3 * BLOCK)) == {0, ord("n")}
        await close_volume(fresh)

    on_volume(body, capacity=2 * MIB)


def test_more_than_a_minitransaction_holds_is_written_and_read_in_pieces() -> None:
    async def body(site: Site) -> None:
        data = bytes(range(256)) * (20 * MIB // 256)
        file = await site.file(b"file", data)
        assert await contents.read(site.volume, file, 0, 2 * len(data)) == data

    on_volume(body, capacity=64 * MIB)


def test_a_large_scattered_file_is_truncated_and_removed_in_steps() -> None:
    async def body(site: Site) -> None:
        one = await site.file(b"one")
        two = await site.file(b"two")
        for number in range(60):  # by turns, so that blocks of each lie between the other's
            await contents.write(site.volume, one, number * 64 * BLOCK, b"1" * (40 * BLOCK))
            await contents.write(site.volume, two, number * 64 * BLOCK, b"2" * (40 * BLOCK))
        assert await site.count(set_attributes(site.volume, one, Changes(size=100))) == 2
        assert await contents.read(site.volume, one, 0, 200) == b"1" * 100
        assert await site.count(namespace.unlink(site.volume, site.root, b"two")) == 3
        assert (await volume_statistics(site.volume)).inodes_free

    on_volume(body, capacity=96 * MIB)


def test_appends_of_two_mounts_never_overwrite_each_other() -> None:
    async def body(site: Site) -> None:
        file = await site.file()
        offsets = [
            await contents.append(site.mounts[number % 2], file, b"%7d\n" % number)
            for number in range(100)
        ]
        assert offsets == list(range(0, 800, 8))
        lines = (await contents.read(site.volume, file, 0, 10_000)).split()
        assert list(map(int, lines)) == list(range(100))

    on_volume(body, mounts=2)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["write", "truncate", "append"]),
            st.sampled_from([0, 1, 200, 256, 300, BLOCK - 7, 3 * BLOCK, 31 * BLOCK, 40 * BLOCK]),
            st.integers(0, 3 * BLOCK),
        ),
        max_size=12,
    )
)
def test_a_file_is_what_a_byte_array_would_be(steps: list[tuple[str, int, int]]) -> None:
    async def body(site: Site) -> None:
        one, other = site.mounts
        file = await site.file()
        model = bytearray()
        for number, (what, offset, length) in enumerate(steps):
            data = bytes([number + 1]) * length
            if what == "truncate":
                await set_attributes(one, file, Changes(size=offset + length))
                del model[offset + length :]
                model.extend(bytes(offset + length - len(model)))
            elif what == "append":
                assert await contents.append(other, file, data) == len(model)
                model += data
            elif data:
                await contents.write(one, file, offset, data)
                model.extend(bytes(max(0, offset - len(model))))
                model[offset : offset + length] = data
            assert await contents.read(other, file, 0, 2**20) == model
            assert await contents.read(one, file, offset, 100) == model[offset : offset + 100]

    on_volume(body, mounts=2, memory_nodes=2, capacity=4 * MIB)
