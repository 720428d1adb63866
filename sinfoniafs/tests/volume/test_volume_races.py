"""Of operations that exclude each other, exactly one succeeds; nothing is half done."""

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from sinfoniafs.attributes import Place
from sinfoniafs.errors import (
    DirectoryNotEmpty,
    EntryExists,
    FileSystemError,
    InvalidArgument,
    NoSuchEntry,
)
from sinfoniafs.testing import OWNER, Site, list_directory, on_volume
from sinfoniafs.volume import contents, namespace
from sinfoniafs.volume.rename import rename
from sinfoniafs.volume.volume import Volume


async def all_at_once(
    *operations: Callable[[], Awaitable[object]],
) -> list[FileSystemError | None]:
    """Run operations at the same time; what became of each."""
    outcomes: list[FileSystemError | None] = [None] * len(operations)

    async def run(place: int) -> None:
        try:
            await operations[place]()
        except FileSystemError as error:
            outcomes[place] = error

    async with trio.open_nursery() as nursery:
        for place in range(len(operations)):
            nursery.start_soon(run, place)
    return outcomes


def test_exactly_one_creation_of_a_name_wins() -> None:
    async def body(site: Site) -> None:
        for number in range(50):
            name = b"%d" % number

            def create(mount: Volume, name: bytes = name) -> Awaitable[object]:
                return namespace.create(mount, site.root, name, mode=0o644, owner=OWNER)

            def mkdir(mount: Volume, name: bytes = name) -> Awaitable[object]:
                return namespace.mkdir(mount, site.root, name, mode=0o755, owner=OWNER)

            outcomes = await all_at_once(
                *(partial(create, mount) for mount in site.mounts),
                *(partial(mkdir, mount) for mount in site.mounts),
            )
            assert outcomes.count(None) == 1
            assert sum(isinstance(outcome, EntryExists) for outcome in outcomes) == 3

    on_volume(body, mounts=2, memory_nodes=2)


def test_exactly_one_removal_of_a_name_wins() -> None:
    async def body(site: Site) -> None:
        for number in range(50):
            name = b"%d" % number
            await site.file(name, b"x" * 20_000)
            outcomes = await all_at_once(
                *(partial(namespace.unlink, mount, site.root, name) for mount in site.mounts)
            )
            assert outcomes.count(None) == 1
            assert sum(isinstance(outcome, NoSuchEntry) for outcome in outcomes) == 2

    on_volume(body, mounts=3)


def test_a_directory_is_removed_or_gets_an_entry_never_both() -> None:
    async def body(site: Site) -> None:
        for number in range(60):
            name = b"%d" % number
            directory = await site.directory(name)
            removed, created = await all_at_once(
                partial(namespace.rmdir, site.volume, site.root, name),
                partial(namespace.create, site.mounts[1], directory, b"x", mode=0o644, owner=OWNER),
            )
            assert (removed is None) != (created is None)
            if removed is not None:
                assert isinstance(removed, DirectoryNotEmpty)

    on_volume(body, mounts=2, memory_nodes=2)


def test_two_moves_never_make_a_circle() -> None:
    """left/a moves below right/a while right/a moves below left/a.

    Each alone is allowed, and both change different directories; but both together would cut a
    circle off from the root.
    """

    async def body(site: Site) -> None:
        for number in range(40):
            sources, targets = [], []
            for side in (b"left", b"right"):
                source = await site.directory(b"%b-%d" % (side, number))
                moved = await namespace.mkdir(site.volume, source, b"a", mode=0o755, owner=OWNER)
                below = await namespace.mkdir(
                    site.volume, moved.inode, b"b", mode=0o755, owner=OWNER
                )
                sources.append(source)
                targets.append(below.inode)
                # Both mounts have the way in their caches, so that neither is ahead.
                for mount in site.mounts:
                    await namespace.lookup(mount, site.root, b"%b-%d" % (side, number))
                    await namespace.lookup(mount, source, b"a")
                    await namespace.lookup(mount, moved.inode, b"b")
                    await namespace.read_directory(mount, below.inode, 0, 1)
            outcomes = await all_at_once(
                partial(rename, site.mounts[0], Place(sources[0], b"a"), Place(targets[1], b"x")),
                partial(rename, site.mounts[1], Place(sources[1], b"a"), Place(targets[0], b"x")),
            )
            assert outcomes.count(None) == 1
            assert any(isinstance(outcome, InvalidArgument) for outcome in outcomes)

    on_volume(body, mounts=2, memory_nodes=3)


def test_concurrent_appends_all_arrive() -> None:
    async def body(site: Site) -> None:
        file = await site.file()

        async def append(mount: Volume, mark: bytes) -> None:
            for _ in range(50):
                await contents.append(mount, file, mark * 100)

        async with trio.open_nursery() as nursery:
            for place, mount in enumerate(site.mounts):
                nursery.start_soon(append, mount, b"%d" % place)
        data = await contents.read(site.volume, file, 0, 10**6)
        records = [data[at : at + 100] for at in range(0, len(data), 100)]
        assert sorted(records) == sorted([b"%d" % each * 100 for each in range(3)] * 50)

    on_volume(body, mounts=3)


def test_a_read_sees_a_write_whole_or_not_at_all() -> None:
    async def body(site: Site) -> None:
        size = 40 * 16 * 1024
        file = await site.file(b"file", b"\0" * size)
        done = False

        async def write() -> None:
            nonlocal done
            for value in range(1, 30):
                await contents.write(site.volume, file, 0, bytes([value]) * size)
            done = True

        async def read() -> None:
            while not done:
                assert len(set(await contents.read(site.mounts[1], file, 0, size))) == 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            nursery.start_soon(read)

    on_volume(body, mounts=2, memory_nodes=2)


@pytest.mark.parametrize("mounts", [1, 3])
def test_many_tasks_fill_and_empty_one_directory(mounts: int) -> None:
    async def body(site: Site) -> None:
        async def work(worker: int) -> None:
            mount = site.mounts[worker % mounts]
            for number in range(60):
                name = b"%d-%d" % (worker, number)
                made = await namespace.create(mount, site.root, name, mode=0o644, owner=OWNER)
                await contents.write(mount, made.inode, 0, name * 50)
                if number % 2:
                    await namespace.unlink(mount, site.root, name)
                if number % 10 == 0:
                    await rename(
                        mount, Place(site.root, name), Place(site.root, name + b"-renamed")
                    )

        async with trio.open_nursery() as nursery:
            for worker in range(6):
                nursery.start_soon(work, worker)
        assert len(await list_directory(site.volume, site.root)) == 6 * 30

    on_volume(body, mounts=mounts, memory_nodes=2)
