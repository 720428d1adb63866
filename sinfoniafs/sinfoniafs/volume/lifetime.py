"""An inode lives while it has a name, or while any mount has it open.

A mount that opens an inode registers in the inode's openers before it says so, in the open's one
minitransaction; and it stays registered for a while after the last close, so that opening the same
file again costs nothing.  Whoever removes the last name compares all openers in the same
minitransaction: if nobody else is registered and it is not open here, inode and blocks are freed
with the name; otherwise it becomes an *orphan*, and is freed by the last to unregister.

Files in too many pieces to be freed by one minitransaction are orphans for a moment, too, and then
shrink step by step.  Whatever crash comes in between leaves an orphan, which ``volume_reclaim``
finds by its byte in the inode map.
"""

import contextlib
from collections.abc import Iterable
from functools import partial
from typing import Final

import anyio

from sinfonia.addresses import MemoryNodeId
from sinfoniafs.attributes import InodeNumber
from sinfoniafs.errors import NoSuchEntry, SessionLost, StaleHandle
from sinfoniafs.format.inode import NLINK, NLINK_OFFSET, OPENERS_OFFSET, Inode, opener_bit
from sinfoniafs.session import Session
from sinfoniafs.volume.attempt import Attempt, life_key
from sinfoniafs.volume.block_map import BlockMapEditor
from sinfoniafs.volume.data import FREED_MAX, cut
from sinfoniafs.volume.running import until_committed
from sinfoniafs.volume.state import VolumeState

# How many inodes may stay registered after their last close before they are unregistered together.
CLOSING_MAX: Final = 256


async def open_file(state: VolumeState, number: InodeNumber) -> None:
    """Keep the inode alive until ``close_file``, whoever removes its names."""
    # Counted before it is registered: an unlink in between must not free the inode.
    state.open_counts[number] += 1
    state.closing.pop(number, None)
    try:
        if number in state.registered and not state.key_locks.is_held(life_key(number)):
            return
        async with state.key_locks.hold(life_key(number)):
            if number not in state.registered:
                await until_committed(state, lambda attempt: _register(state, attempt, number))
    except BaseException:
        _uncount(state, number)
        raise


def opened(state: VolumeState, inode: Inode, session: Session) -> None:
    """Count an inode that was registered for ``session`` in the minitransaction that made it."""
    state.open_counts[inode.number] += 1
    if session is state.session:
        state.registered.add(inode.number)


async def close_file(state: VolumeState, number: InodeNumber) -> None:
    """Undo one ``open_file``; the last close of an orphan frees it."""
    _uncount(state, number)
    cached = state.cache.inodes.get(number)
    if number in state.closing and (cached is None or not cached.nlink):
        await _unregister(state, number)
    elif not (number in state.registered or number in state.open_counts):
        # It was open when the session was lost, and may have lost its last name since.
        with contextlib.suppress(StaleHandle):
            await reap(state, number)
    elif len(state.closing) > CLOSING_MAX:
        await flush_closing(state)


async def flush_closing(state: VolumeState) -> None:
    """Unregister from all inodes that are no longer open here."""
    while numbers := sorted(state.closing)[:CLOSING_MAX]:
        async with state.key_locks.hold(*map(life_key, numbers)):
            still = [number for number in numbers if number in state.closing]
            session = state.session
            try:
                flushed = await _unregister_together(state, still)
            except SessionLost:
                await state.rejoin(session)  # nothing is registered in the new one
                return
        if not flushed:
            for number in still:
                await _unregister(state, number)


async def lose_last_name(state: VolumeState, attempt: Attempt, inode: Inode) -> bool:
    """Free the inode in this attempt, or make it an orphan; True if ``reap`` must follow."""
    await attempt.hold_life(inode.number)
    attempt.rely_on_openers(inode)
    others = inode.openers & ~opener_bit(attempt.session.slot)
    if others or state.open_counts[inode.number]:
        attempt.make_orphan(inode)
        return False
    if (not inode.is_directory and inode.height > 1) or inode.blocks > FREED_MAX:
        attempt.make_orphan(inode)
        return True
    await _free(attempt, inode)
    return False


async def reap(state: VolumeState, number: InodeNumber) -> None:
    """Free an orphan, step by step, unless somebody still has it open."""
    while await until_committed(state, lambda attempt: _reap_step(state, attempt, number)):
        pass


def forget_open(state: VolumeState, number: InodeNumber) -> None:
    """An inode was freed: nothing is registered in it any more."""
    state.registered.discard(number)
    state.closing.pop(number, None)


async def register_open(state: VolumeState) -> None:
    """Register again in all that was open when a session was lost.

    Until then it is as if nothing were open: what loses its last name meanwhile is freed, and is
    stale for those who have it open.
    """
    state.rejoined = anyio.Event()
    for number in sorted(state.open_counts.keys() - state.registered):
        async with state.key_locks.hold(life_key(number)):
            if number in state.open_counts and number not in state.registered:
                with contextlib.suppress(StaleHandle):
                    await until_committed(state, partial(_register_again, state, number=number))


async def _register_again(state: VolumeState, attempt: Attempt, number: InodeNumber) -> None:
    await _set_registered(state, attempt, await attempt.handle(number))


async def _register(state: VolumeState, attempt: Attempt, number: InodeNumber) -> None:
    inode = await attempt.handle(number)
    if not inode.nlink:
        raise NoSuchEntry("the file was removed")
    await _set_registered(state, attempt, inode)


async def _set_registered(state: VolumeState, attempt: Attempt, inode: Inode) -> None:
    attempt.set_opener(inode, present=True)
    await attempt.commit()
    if attempt.session is state.session:
        state.registered.add(inode.number)


def _uncount(state: VolumeState, number: InodeNumber) -> None:
    state.open_counts[number] -= 1
    if not state.open_counts[number]:
        del state.open_counts[number]
        if number in state.registered:
            state.closing[number] = None


async def _unregister_together(state: VolumeState, numbers: Iterable[InodeNumber]) -> bool:
    """Unregister from inodes that still have a name, all in one minitransaction."""
    cache = state.cache
    session = state.session
    farewell = state.cluster.minitransaction()
    fences: dict[MemoryNodeId, int] = {}
    changed: list[Inode] = []
    for number in numbers:
        inode = cache.inodes.get(number)
        if inode is None or not inode.nlink:
            return False
        slot = session.slot
        rest = inode._replace(openers=inode.openers & ~opener_bit(slot))
        node, address = state.layout.inode_slot(number)
        if node not in fences:
            fences[node] = session.fence(farewell, node)
        place = address + OPENERS_OFFSET + slot // 8
        old, new = (bytes([each.openers >> slot // 8 * 8 & 0xFF]) for each in (inode, rest))
        farewell.compare(node, address + NLINK_OFFSET, NLINK.pack(inode.nlink))
        farewell.compare(node, place, old)
        farewell.write(node, place, new)
        changed.append(rest)
    result = await state.cluster.execute(farewell)
    if any(each.index in fences.values() for each in result.failed_compares):
        raise SessionLost("this mount was taken for dead")
    if not result.committed or session is not state.session:
        return False
    for inode in changed:
        state.registered.discard(inode.number)
        state.closing.pop(inode.number, None)
        cached = cache.inodes.get(inode.number)
        if cached is not None:
            cache.inodes.put(inode.number, cached._replace(openers=inode.openers))
    return True


async def _unregister(state: VolumeState, number: InodeNumber) -> None:
    """Unregister from one inode, and free it if that was all that kept it."""

    async def body(attempt: Attempt) -> bool:
        await attempt.hold_life(number)
        if number not in state.closing:
            return False  # opened again meanwhile
        inode = await attempt.inode(number)
        if not inode.nlink:
            return True
        attempt.set_opener(inode, present=False)
        await attempt.commit()
        if attempt.session is state.session:
            state.registered.discard(number)
            state.closing.pop(number, None)
        return False

    state.cache.inodes.drop(number)
    try:
        if await until_committed(state, body):
            await reap(state, number)
    except StaleHandle:
        forget_open(state, number)  # others took us for dead, and freed it


async def _reap_step(state: VolumeState, attempt: Attempt, number: InodeNumber) -> bool:
    """Take one step; True if more must follow."""
    await attempt.hold_life(number)
    if state.open_counts[number]:
        return False
    inode = await attempt.inode(number)
    if inode.nlink:
        await attempt.commit()  # believed only if compared
        return False  # the number has a new life already
    if inode.openers & ~opener_bit(attempt.session.slot):
        attempt.set_opener(inode, present=False)
        attempt.rely_on_openers(inode)
        await attempt.commit()
        forget_open(state, number)
        return False
    attempt.rely_on_openers(inode)
    if inode.is_inline or inode.is_directory or (inode.blocks <= FREED_MAX and inode.height <= 1):
        await _free(attempt, inode)
        await attempt.commit()
        forget_open(state, number)
        return False
    rest = await cut(attempt, inode, 0)
    attempt.change(rest)
    await attempt.commit()
    return True


async def _free(attempt: Attempt, inode: Inode) -> None:
    if inode.is_directory:
        # An empty directory has at most its root, and that is a leaf.
        attempt.free_blocks([inode.root] if inode.root else [])
    elif not inode.is_inline:
        await BlockMapEditor(attempt, inode).cut(0, FREED_MAX + 1)
    attempt.free_inode(inode)
