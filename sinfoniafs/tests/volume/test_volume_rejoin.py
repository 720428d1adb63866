"""A mount that was taken for dead goes on with a new session, and harms no other mount."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import trio

from sinfonia.minitransaction import Minitransaction
from sinfoniafs.attributes import InodeNumber
from sinfoniafs.errors import StaleHandle
from sinfoniafs.fsck.check import check_volume
from sinfoniafs.session import SessionTimes, read_sessions
from sinfoniafs.testing import OWNER, Site, on_volume
from sinfoniafs.volume import contents, lifetime, namespace
from sinfoniafs.volume.lifetime import flush_closing
from sinfoniafs.volume.mounting import close_volume, keep_alive, open_volume
from sinfoniafs.volume.reclaim import find_inodes, reap_orphans, reclaim_session
from sinfoniafs.volume.volume import Volume

LARGE = b"x" * 100_000
TIMES = SessionTimes(3.0)


async def take_for_dead(site: Site, sleeper: Volume) -> None:
    """What the other mount does when the sleeper's heartbeat stands still."""
    other = site.volume
    for record in await read_sessions(site.cluster, sleeper.superblock):
        if record.slot == sleeper.session.slot:
            await reclaim_session(site.cluster, other.superblock, other.layout, record)
    await reap_orphans(other)


async def occupy_slots(site: Site, slot: int) -> tuple[list[Volume], Volume]:
    """Mount until one of the mounts has ``slot``; returns all of them, and that one."""
    made: list[Volume] = []
    for seed in range(1000, 3000):
        volume = await open_volume(site.cluster, clock=site.clock, rng=random.Random(seed))
        if volume.session.slot == slot:
            return [*made, volume], volume
        await close_volume(volume)
    raise AssertionError("the slot was never taken")


Work = Callable[[Volume, InodeNumber, InodeNumber], "object"]


@pytest.mark.parametrize(
    "work",
    [
        lambda volume, root, _: namespace.create(volume, root, b"new", mode=0o644, owner=OWNER),
        lambda volume, root, _: namespace.create(
            volume, root, b"new", mode=0o644, owner=OWNER, register=True
        ),
        lambda volume, _, file: contents.append(volume, file, LARGE),
        lambda volume, _, file: lifetime.open_file(volume, file),
        lambda volume, root, _: namespace.unlink(volume, root, b"file"),
        lambda volume, _, file: lifetime.close_file(volume, file),
        lambda volume, *_: flush_closing(volume),
    ],
    ids=["create", "create and open", "append", "open", "unlink", "close", "flush"],
)
def test_the_first_operation_after_the_loss_succeeds(work: Work) -> None:
    async def body(site: Site) -> None:
        sleeper = site.mounts[1]
        file = await site.file(b"file", LARGE)
        await namespace.lookup(sleeper, site.root, b"file")
        await lifetime.open_file(sleeper, file)
        await contents.append(sleeper, file, LARGE)
        await take_for_dead(site, sleeper)
        await work(sleeper, site.root, file)  # type: ignore[misc]
        sleeper.check_invariants()
        report = await check_volume(site.cluster)
        assert report.clean, report.problems

    on_volume(body, mounts=2, memory_nodes=2)


def test_what_was_open_and_kept_its_name_is_kept_alive_again() -> None:
    async def body(site: Site) -> None:
        sleeper = site.mounts[1]
        file = await site.file(b"file", LARGE)
        await namespace.lookup(sleeper, site.root, b"file")
        await lifetime.open_file(sleeper, file)
        await take_for_dead(site, sleeper)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_alive, sleeper)
            await trio.sleep(10)
            await namespace.unlink(site.volume, site.root, b"file")
            assert await contents.read(sleeper, file, 0, len(LARGE)) == LARGE
            await contents.write(sleeper, file, 0, b"still open")
            nursery.cancel_scope.cancel()
        await lifetime.close_file(sleeper, file)
        assert await find_inodes(site.cluster, site.volume.layout, b"\2") == []

    on_volume(body, mounts=2, virtual_time=True)


def test_an_inode_that_is_closed_while_it_is_registered_again_is_unregistered() -> None:
    async def body(site: Site) -> None:
        sleeper = site.mounts[1]
        file = await site.file(b"file", LARGE)
        await namespace.lookup(sleeper, site.root, b"file")
        await lifetime.open_file(sleeper, file)
        await take_for_dead(site, sleeper)
        await sleeper.rejoin(sleeper.session)
        sleeper.cache.drop_inode(file)  # so that it is read first, and closed after that
        async with trio.open_nursery() as nursery:

            def close(_: Minitransaction[Any]) -> None:
                site.cluster.before_execute = None
                nursery.start_soon(lifetime.close_file, sleeper, file)

            site.cluster.before_execute = close
            await lifetime.register_open(sleeper)
        sleeper.check_invariants()
        assert sleeper.open_inodes.is_closing(file)
        await lifetime.flush_closing(sleeper)
        assert not sleeper.open_inodes.is_registered(file)
        await namespace.unlink(site.volume, site.root, b"file")
        assert await find_inodes(site.cluster, site.volume.layout, b"\2") == []

    on_volume(body, mounts=2)


def test_what_was_unlinked_and_open_is_gone_and_its_blocks_are_never_written() -> None:
    async def body(site: Site) -> None:
        sleeper = site.mounts[1]
        file = await site.file(b"file", LARGE)
        await namespace.lookup(sleeper, site.root, b"file")
        await lifetime.open_file(sleeper, file)
        await contents.read(sleeper, file, 0, 10)
        await namespace.unlink(site.volume, site.root, b"file")
        await take_for_dead(site, sleeper)
        successor = await site.file(b"successor", b"y" * len(LARGE))
        for attempt in (
            lambda: contents.write(sleeper, file, 0, b"z" * 1000),
            lambda: contents.append(sleeper, file, b"z"),
            lambda: contents.read(sleeper, file, 0, 10),
        ):
            with pytest.raises(StaleHandle):
                await attempt()
        assert await contents.read(site.volume, successor, 0, len(LARGE)) == b"y" * len(LARGE)
        await lifetime.close_file(sleeper, file)

    on_volume(body, mounts=2)


def test_the_next_session_in_a_slot_keeps_what_is_registered_in_it() -> None:
    """The sleeper, still in its old session, removes a name of what its successor has open."""

    async def body(site: Site) -> None:
        sleeper = site.mounts[1]
        file = await site.file(b"file", LARGE)
        await namespace.lookup(sleeper, site.root, b"file")
        await lifetime.open_file(sleeper, file)
        await lifetime.close_file(sleeper, file)  # it believes that it is still registered
        slot = sleeper.session.slot
        await take_for_dead(site, sleeper)
        made, successor = await occupy_slots(site, slot)
        await namespace.lookup(successor, site.root, b"file")
        await lifetime.open_file(successor, file)
        await flush_closing(sleeper)
        await namespace.unlink(sleeper, site.root, b"file")
        assert await contents.read(successor, file, 0, len(LARGE)) == LARGE
        await lifetime.close_file(successor, file)
        for volume in made:
            await close_volume(volume)

    on_volume(body, mounts=2)


def test_closing_a_mount_that_was_taken_for_dead_takes_nothing_from_others() -> None:
    async def body(site: Site) -> None:
        sleeper = await site.mount()
        slot = sleeper.session.slot
        sleeper.open_inodes.in_doubt = True
        await take_for_dead(site, sleeper)
        made, successor = await occupy_slots(site, slot)
        file = await site.file(b"file", LARGE)
        await lifetime.open_file(successor, file)
        await close_volume(sleeper)
        await namespace.unlink(site.volume, site.root, b"file")
        assert await contents.read(successor, file, 0, len(LARGE)) == LARGE
        await lifetime.close_file(successor, file)
        for volume in made:
            await close_volume(volume)

    on_volume(body, mounts=1)


def test_closing_a_mount_that_was_taken_for_dead_leaves_no_new_session_behind() -> None:
    async def body(site: Site) -> None:
        sleeper = await site.mount()
        file = await site.file(b"file", LARGE)
        await namespace.lookup(sleeper, site.root, b"file")
        await lifetime.open_file(sleeper, file)
        await lifetime.close_file(sleeper, file)  # still registered: closing begins a new session
        await take_for_dead(site, sleeper)
        await close_volume(sleeper)
        records = await read_sessions(site.cluster, site.volume.superblock)
        assert [each.slot for each in records] == [site.volume.session.slot]

    on_volume(body)


def test_two_operations_that_find_the_session_lost_begin_one_new_session() -> None:
    async def body(site: Site) -> None:
        sleeper = site.mounts[1]
        await namespace.create(sleeper, site.root, b"first", mode=0o644, owner=OWNER)
        await take_for_dead(site, sleeper)

        async def make(number: int) -> None:
            await namespace.create(sleeper, site.root, b"%d" % number, mode=0o644, owner=OWNER)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(make, number)
        assert len(await read_sessions(site.cluster, sleeper.superblock)) == 2
        assert len(await site.names()) == 21

    on_volume(body, mounts=2)


def test_a_mount_with_a_silence_of_three_seconds_beats_five_times_a_second() -> None:
    async def body(site: Site) -> None:
        one = await open_volume(site.cluster, clock=site.clock)
        other = await open_volume(site.cluster, clock=site.clock)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_alive, one, TIMES)
            nursery.start_soon(keep_alive, other, TIMES)
            await trio.sleep(20)
            nursery.cancel_scope.cancel()
        records = await read_sessions(site.cluster, one.superblock)
        slots = {one.session.slot, other.session.slot}
        assert {each.slot: each.heartbeat for each in records if each.slot in slots} == (
            dict.fromkeys(slots, 101)
        )
        # The site's own mount is silent, and was taken for dead.
        assert site.volume.session.slot not in {each.slot for each in records}
        await close_volume(one)
        await close_volume(other)

    on_volume(body, virtual_time=True)
