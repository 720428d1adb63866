"""A mount that was taken for dead goes on with a new session, and harms nothing by having slept."""

import random
from collections.abc import Callable

import pytest
import trio

from sinfoniafs.attributes import InodeNumber
from sinfoniafs.errors import StaleHandle
from sinfoniafs.fsck.check import check_volume
from sinfoniafs.session import SessionTimes, read_sessions
from sinfoniafs.testing import SOMEBODY, Site, on_volume
from sinfoniafs.volume.reclaim import find_inodes, reap_orphans, reclaim_session
from sinfoniafs.volume.volume import Volume

LARGE = b"x" * 100_000
TIMES = SessionTimes(3.0)


async def take_for_dead(site: Site, sleeper: Volume) -> None:
    """What the other mount does when the sleeper's heartbeat stands still."""
    state, other = sleeper._state, site.volume._state
    for record in await read_sessions(site.cluster, sleeper.superblock):
        if record.slot == state.session.slot:
            await reclaim_session(site.cluster, other.superblock, other.layout, record)
    await reap_orphans(other)


async def occupy_slots(site: Site, slot: int) -> tuple[list[Volume], Volume]:
    """Mount until one of the mounts has ``slot``; returns all of them, and that one."""
    made: list[Volume] = []
    for seed in range(1000, 3000):
        volume = await Volume.open(site.cluster, clock=site.clock, rng=random.Random(seed))
        if volume._state.session.slot == slot:
            return [*made, volume], volume
        await volume.aclose()
    raise AssertionError("the slot was never taken")


Work = Callable[[Volume, InodeNumber, InodeNumber], "object"]


@pytest.mark.parametrize(
    "work",
    [
        lambda volume, root, _: volume.create(root, b"new", mode=0o644, owner=SOMEBODY),
        lambda volume, root, _: volume.create(
            root, b"new", mode=0o644, owner=SOMEBODY, register=True
        ),
        lambda volume, _, file: volume.append(file, LARGE),
        lambda volume, _, file: volume.open_file(file),
        lambda volume, root, _: volume.unlink(root, b"file"),
        lambda volume, _, file: volume.close_file(file),
        lambda volume, *_: volume.flush(),
    ],
    ids=["create", "create and open", "append", "open", "unlink", "close", "flush"],
)
def test_the_first_operation_after_the_loss_succeeds(work: Work) -> None:
    async def body(site: Site) -> None:
        sleeper = site.mounts[1]
        file = await site.file(b"file", LARGE)
        await sleeper.lookup(site.root, b"file")
        await sleeper.open_file(file)
        await sleeper.append(file, LARGE)
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
        await sleeper.lookup(site.root, b"file")
        await sleeper.open_file(file)
        await take_for_dead(site, sleeper)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeper.keep_alive)
            await trio.sleep(10)
            await site.volume.unlink(site.root, b"file")
            assert await sleeper.read(file, 0, len(LARGE)) == LARGE
            await sleeper.write(file, 0, b"still open")
            nursery.cancel_scope.cancel()
        await sleeper.close_file(file)
        assert await find_inodes(site.cluster, site.volume._state.layout, b"\2") == []

    on_volume(body, mounts=2, virtual_time=True)


def test_what_was_unlinked_and_open_is_gone_and_its_blocks_are_never_written() -> None:
    async def body(site: Site) -> None:
        sleeper = site.mounts[1]
        file = await site.file(b"file", LARGE)
        await sleeper.lookup(site.root, b"file")
        await sleeper.open_file(file)
        await sleeper.read(file, 0, 10)
        await site.volume.unlink(site.root, b"file")
        await take_for_dead(site, sleeper)
        successor = await site.file(b"successor", b"y" * len(LARGE))
        for attempt in (
            lambda: sleeper.write(file, 0, b"z" * 1000),
            lambda: sleeper.append(file, b"z"),
            lambda: sleeper.read(file, 0, 10),
        ):
            with pytest.raises(StaleHandle):
                await attempt()
        assert await site.volume.read(successor, 0, len(LARGE)) == b"y" * len(LARGE)
        await sleeper.close_file(file)

    on_volume(body, mounts=2)


def test_whoever_has_the_slot_now_keeps_what_is_registered_in_it() -> None:
    """The sleeper, still in its old session, removes a name of what its successor has open."""

    async def body(site: Site) -> None:
        sleeper = site.mounts[1]
        file = await site.file(b"file", LARGE)
        await sleeper.lookup(site.root, b"file")
        await sleeper.open_file(file)
        await sleeper.close_file(file)  # still registered, it believes
        slot = sleeper._state.session.slot
        await take_for_dead(site, sleeper)
        made, successor = await occupy_slots(site, slot)
        await successor.lookup(site.root, b"file")
        await successor.open_file(file)
        await sleeper.flush()
        await sleeper.unlink(site.root, b"file")
        assert await successor.read(file, 0, len(LARGE)) == LARGE
        await successor.close_file(file)
        for volume in made:
            await volume.aclose()

    on_volume(body, mounts=2)


def test_closing_a_mount_that_was_taken_for_dead_takes_nothing_from_others() -> None:
    async def body(site: Site) -> None:
        sleeper = await site.mount()
        slot = sleeper._state.session.slot
        sleeper._state.in_doubt = True
        await take_for_dead(site, sleeper)
        made, successor = await occupy_slots(site, slot)
        file = await site.file(b"file", LARGE)
        await successor.open_file(file)
        await sleeper.aclose()
        await site.volume.unlink(site.root, b"file")
        assert await successor.read(file, 0, len(LARGE)) == LARGE
        await successor.close_file(file)
        for volume in made:
            await volume.aclose()

    on_volume(body, mounts=1)


def test_two_operations_that_find_the_session_lost_begin_one_new_session() -> None:
    async def body(site: Site) -> None:
        sleeper = site.mounts[1]
        await sleeper.create(site.root, b"first", mode=0o644, owner=SOMEBODY)
        await take_for_dead(site, sleeper)

        async def make(number: int) -> None:
            await sleeper.create(site.root, b"%d" % number, mode=0o644, owner=SOMEBODY)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(make, number)
        assert len(await read_sessions(site.cluster, sleeper.superblock)) == 2
        assert len(await site.names()) == 21

    on_volume(body, mounts=2)


def test_who_is_patient_for_three_seconds_beats_five_times_a_second() -> None:
    async def body(site: Site) -> None:
        one = await Volume.open(site.cluster, clock=site.clock, times=TIMES)
        other = await Volume.open(site.cluster, clock=site.clock, times=TIMES)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.keep_alive)
            nursery.start_soon(other.keep_alive)
            await trio.sleep(20)
            nursery.cancel_scope.cancel()
        records = await read_sessions(site.cluster, one.superblock)
        slots = {one._state.session.slot, other._state.session.slot}
        assert {each.slot: each.heartbeat for each in records if each.slot in slots} == (
            dict.fromkeys(slots, 101)
        )
        # The site's own mount is silent, and was taken for dead.
        assert site.volume._state.session.slot not in {each.slot for each in records}
        await one.aclose()
        await other.aclose()

    on_volume(body, virtual_time=True)
