"""An inode lives while it has a name, or while any mount has it open.

A mount that opens an inode registers its session in the inode's openers, in the open's one
minitransaction, before the open returns.  It stays registered for a while after the last close, so
that opening the same file again costs nothing.  The operation that removes the last name compares
all openers in the same minitransaction.  If no other session is registered and the inode is not
open here, inode and blocks are freed with the name; otherwise the inode becomes an *orphan*, and
the last session to unregister frees it.

A file in too many pieces to be freed by one minitransaction becomes an orphan, too, and then
shrinks step by step.  A crash in between leaves an orphan, which ``reclaim`` finds by its byte in
the inode map.
"""

import contextlib
from collections.abc import Iterable
from functools import partial
from typing import Final

import anyio

from sinfonia.addresses import MemoryNodeId
from sinfoniafs.attributes import Changes, InodeNumber
from sinfoniafs.errors import NoSuchEntry, SessionLost, StaleHandle
from sinfoniafs.format.inode import (
    NLINK,
    NLINK_OFFSET,
    Inode,
    opener_bit,
    opener_byte,
    opener_place,
)
from sinfoniafs.privileges import Privileged, always
from sinfoniafs.session import Session
from sinfoniafs.volume.attempt import Attempt, life_key
from sinfoniafs.volume.file_blocks import FREED_MAX, cut
from sinfoniafs.volume.inode_attributes import set_attributes
from sinfoniafs.volume.running import until_committed
from sinfoniafs.volume.volume import Volume

# How many inodes may stay registered after their last close before they are unregistered together.
CLOSING_MAX: Final = 256


async def open_file(
    volume: Volume,
    number: InodeNumber,
    *,
    truncate: bool = False,
    privileged: Privileged = always,
) -> None:
    """Keep an inode, a directory too, alive until ``close_file``; calls are counted."""
    await _open(volume, number)
    if truncate:
        try:
            await set_attributes(volume, number, Changes(size=0), privileged=privileged)
        except BaseException:
            await close_file(volume, number)
            raise


async def _open(volume: Volume, number: InodeNumber) -> None:
    # Counted before it is registered: an unlink in between must not free the inode.
    open_inodes = volume.open_inodes
    open_inodes.count(number)
    try:
        if open_inodes.is_registered(number) and not volume.key_locks.is_held(life_key(number)):
            return
        async with volume.key_locks.hold(life_key(number)):
            if not open_inodes.is_registered(number):
                await until_committed(volume, lambda attempt: _register(volume, attempt, number))
    except BaseException:
        open_inodes.uncount(number)
        raise


def opened(volume: Volume, inode: Inode, session: Session) -> None:
    """Count an inode that was registered for ``session`` in the minitransaction that made it."""
    volume.open_inodes.count(inode.number)
    if session is volume.session:
        volume.open_inodes.register(inode.number)


async def close_file(volume: Volume, number: InodeNumber) -> None:
    """Undo one ``open_file``; the last close of an orphan frees it."""
    open_inodes = volume.open_inodes
    open_inodes.uncount(number)
    cached = volume.cache.inodes.get(number)
    if open_inodes.is_closing(number) and (cached is None or not cached.nlink):
        await _unregister(volume, number)
    elif not (open_inodes.is_registered(number) or open_inodes.is_open(number)):
        # It was open when the session was lost, and may have lost its last name since.
        with contextlib.suppress(StaleHandle):
            await reap(volume, number)
    elif open_inodes.closing_count > CLOSING_MAX:
        await flush_closing(volume)


async def flush_closing(volume: Volume) -> None:
    """Unregister from all inodes that are no longer open here."""
    while numbers := volume.open_inodes.closing[:CLOSING_MAX]:
        async with volume.key_locks.hold(*map(life_key, numbers)):
            still = [number for number in numbers if volume.open_inodes.is_closing(number)]
            session = volume.session
            try:
                flushed = await _unregister_together(volume, still)
            except SessionLost:
                await volume.rejoin(session)  # nothing is registered in the new one
                return
        if not flushed:
            for number in still:
                await _unregister(volume, number)


async def lose_last_name(volume: Volume, attempt: Attempt, inode: Inode) -> bool:
    """Free the inode in this attempt, or make it an orphan; True if ``reap`` must follow."""
    await attempt.hold_life(inode.number)
    attempt.inodes.rely_on_openers(inode)
    others = inode.openers & ~opener_bit(attempt.session.slot)
    if others or volume.open_inodes.is_open(inode.number):
        attempt.inodes.make_orphan(inode)
        return False
    if (not inode.is_directory and inode.height > 1) or inode.blocks > FREED_MAX:
        attempt.inodes.make_orphan(inode)
        return True
    await _free(attempt, inode)
    return False


async def reap(volume: Volume, number: InodeNumber) -> None:
    """Free an orphan, step by step, unless a session still has it open."""
    while await until_committed(volume, lambda attempt: _reap_step(volume, attempt, number)):
        pass


async def register_open(volume: Volume) -> None:
    """Register again in all that was open when a session was lost.

    Until then it is as if nothing were open: an inode that loses its last name meanwhile is freed,
    and its handles on this mount become stale.
    """
    volume.rejoined = anyio.Event()
    for number in volume.open_inodes.unregistered:
        async with volume.key_locks.hold(life_key(number)):
            # It may have been closed, or opened again, before this task got the lock.
            if number in volume.open_inodes.unregistered:
                with contextlib.suppress(StaleHandle):
                    await until_committed(volume, partial(_register_again, volume, number=number))


async def _register_again(volume: Volume, attempt: Attempt, number: InodeNumber) -> None:
    await _set_registered(volume, attempt, await attempt.inodes.get_alive(number))


async def _register(volume: Volume, attempt: Attempt, number: InodeNumber) -> None:
    inode = await attempt.inodes.get_alive(number)
    if not inode.nlink:
        raise NoSuchEntry("the file was removed")
    await _set_registered(volume, attempt, inode)


async def _set_registered(volume: Volume, attempt: Attempt, inode: Inode) -> None:
    attempt.inodes.set_opener(inode, present=True)
    await attempt.commit()
    if attempt.session is volume.session:
        volume.open_inodes.register(inode.number)


async def _unregister_together(volume: Volume, numbers: Iterable[InodeNumber]) -> bool:
    """Unregister from inodes that still have a name, all in one minitransaction."""
    cache = volume.cache
    session = volume.session
    farewell = volume.cluster.minitransaction()
    fences: dict[MemoryNodeId, int] = {}
    changed: list[Inode] = []
    for number in numbers:
        inode = cache.inodes.get(number)
        if inode is None or not inode.nlink:
            return False
        slot = session.slot
        rest = inode._replace(openers=inode.openers & ~opener_bit(slot))
        memory_node, address = volume.layout.inode_slot(number)
        if memory_node not in fences:
            fences[memory_node] = session.fence(farewell, memory_node)
        place = address + opener_place(slot)
        farewell.compare(memory_node, address + NLINK_OFFSET, NLINK.pack(inode.nlink))
        farewell.compare(memory_node, place, opener_byte(inode.openers, slot))
        farewell.write(memory_node, place, opener_byte(rest.openers, slot))
        changed.append(rest)
    result = await volume.cluster.execute(farewell)
    if any(each.index in fences.values() for each in result.failed_compares):
        raise SessionLost("this mount was taken for dead")
    if not result.committed or session is not volume.session:
        return False
    for inode in changed:
        volume.open_inodes.unregister(inode.number)
        cached = cache.inodes.get(inode.number)
        if cached is not None:
            cache.inodes.put(inode.number, cached._replace(openers=inode.openers))
    return True


async def _unregister(volume: Volume, number: InodeNumber) -> None:
    """Unregister from one inode, and free it if that was all that kept it."""

    async def body(attempt: Attempt) -> bool:
        await attempt.hold_life(number)
        if not volume.open_inodes.is_closing(number):
            return False  # opened again meanwhile
        inode = await attempt.inodes.get(number)
        if not inode.nlink:
            return True
        attempt.inodes.set_opener(inode, present=False)
        await attempt.commit()
        if attempt.session is volume.session:
            volume.open_inodes.unregister(number)
        return False

    volume.cache.inodes.drop(number)
    try:
        if await until_committed(volume, body):
            await reap(volume, number)
    except StaleHandle:
        volume.open_inodes.unregister(number)  # fenced meanwhile: another mount has freed the inode


async def _reap_step(volume: Volume, attempt: Attempt, number: InodeNumber) -> bool:
    """Take one step; True if more must follow."""
    await attempt.hold_life(number)
    if volume.open_inodes.is_open(number):
        return False
    inode = await attempt.inodes.get(number)
    if inode.nlink:
        await attempt.commit()  # believed only if compared
        return False  # the number has been used again
    if inode.openers & ~opener_bit(attempt.session.slot):
        attempt.inodes.set_opener(inode, present=False)
        attempt.inodes.rely_on_openers(inode)
        await attempt.commit()
        volume.open_inodes.unregister(number)
        return False
    attempt.inodes.rely_on_openers(inode)
    if inode.is_inline or inode.is_directory or (inode.blocks <= FREED_MAX and inode.height <= 1):
        await _free(attempt, inode)
        await attempt.commit()
        volume.open_inodes.unregister(number)
        return False
    rest = await cut(attempt, inode, 0)
    attempt.inodes.change(rest)
    await attempt.commit()
    return True


async def _free(attempt: Attempt, inode: Inode) -> None:
    if inode.is_directory:
        # An empty directory has at most its root, and that is a leaf.
        attempt.numbers.free_blocks([inode.root] if inode.root else [])
    elif not inode.is_inline:
        await attempt.block_map(inode).cut(0, FREED_MAX + 1)
    attempt.inodes.free(inode)
