"""Attributes are read, and changed, by one minitransaction; a change of size cuts the file too."""

import stat
from typing import Final

from sinfoniafs.attributes import Attributes, Changes, InodeNumber
from sinfoniafs.errors import FileTooBig, InvalidArgument, IsADirectory
from sinfoniafs.format.inode import SIZE_MAX, Inode
from sinfoniafs.format.layout import INODE_SIZE
from sinfoniafs.privileges import Privileged, always, without_set_id
from sinfoniafs.volume.attempt import Attempt
from sinfoniafs.volume.file_blocks import cut, put
from sinfoniafs.volume.running import until_committed
from sinfoniafs.volume.volume import Volume

# What chmod can change.
PERMISSIONS: Final = 0o7777
SET_ID: Final = stat.S_ISUID | stat.S_ISGID


async def get_attributes(volume: Volume, number: InodeNumber) -> Attributes:
    """The attributes as they are now.  Raises StaleHandle if the inode is gone."""
    loaded = await volume.load_inode(number)
    volume.check_alive(loaded)
    return loaded.attributes


async def set_attributes(
    volume: Volume,
    number: InodeNumber,
    changes: Changes,
    *,
    privileged: Privileged = always,
) -> Attributes:
    """Change attributes, the size included; those that are None stay as they are.

    A program that changes a file's contents or size and is not ``privileged`` clears set-user-ID.
    """
    if changes.size is not None and not 0 <= changes.size <= SIZE_MAX:
        raise FileTooBig(f"a file has 0 to {SIZE_MAX} bytes")
    while True:
        inode = await until_committed(
            volume,
            lambda attempt: _set_attributes_once(attempt, number, changes, privileged),
            number,
        )
        # A file in too many pieces to be cut at once grows shorter in several steps.
        if changes.size is None or inode.size == changes.size:
            return inode.attributes


def changed_by(inode: Inode, privileged: Privileged) -> Inode:
    """The inode whose contents a program has changed: set-user-ID may no longer hold."""
    if not inode.permissions & SET_ID or privileged():
        return inode
    return inode._replace(permissions=without_set_id(inode.permissions))


async def _set_attributes_once(
    attempt: Attempt, number: InodeNumber, changes: Changes, privileged: Privileged
) -> Inode:
    inode = await attempt.inodes.get_alive(number)
    if changes.size is not None:
        inode = changed_by(await _resize(attempt, inode, changes.size), privileged)
    inode = inode._replace(
        permissions=_chosen(changes.mode, inode.permissions) & PERMISSIONS,
        uid=_chosen(changes.uid, inode.uid),
        gid=_chosen(changes.gid, inode.gid),
        atime=_chosen(changes.atime_ns, inode.atime),
        mtime=_chosen(changes.mtime_ns, inode.mtime),
        ctime=_chosen(changes.ctime_ns, attempt.now),
    )
    attempt.inodes.change(inode)
    if not inode.is_directory:
        await attempt.commit()
        return inode
    # The cached times of a directory may be old; what is returned must not be.
    where = attempt.items.read_slot(inode.number, INODE_SIZE)
    before = Inode.decode(number, (await attempt.commit()).reads[where])
    return inode._replace(
        atime=_chosen(changes.atime_ns, before.atime),
        mtime=_chosen(changes.mtime_ns, before.mtime),
    )


async def _resize(attempt: Attempt, inode: Inode, size: int) -> Inode:
    if inode.is_directory:
        raise IsADirectory("a directory cannot be truncated")
    if inode.kind != stat.S_IFREG:
        raise InvalidArgument("only a regular file can be truncated")
    if size < inode.size:
        inode = await cut(attempt, inode, size)
    elif size > inode.size:
        inode = await put(attempt, inode, size, b"")
    return inode._replace(mtime=attempt.now)


def _chosen(wanted: int | None, present: int) -> int:
    return present if wanted is None else wanted
