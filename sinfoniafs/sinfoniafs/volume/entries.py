"""An operation on an entry relies on its directory, and settles what becomes of the inode."""

from sinfoniafs.attributes import InodeNumber
from sinfoniafs.errors import (
    DirectoryNotEmpty,
    EntryExists,
    InvalidArgument,
    NameTooLong,
    NoSuchEntry,
    NotADirectory,
    TooManyLinks,
)
from sinfoniafs.format.directory import COOKIE_FIRST, NAME_MAX, Entry
from sinfoniafs.format.inode import LINKS_MAX, Inode
from sinfoniafs.volume.attempt import Attempt
from sinfoniafs.volume.lifetime import lose_last_name, reap
from sinfoniafs.volume.volume import Volume


def check_length(name: bytes) -> None:
    if len(name) > NAME_MAX:
        raise NameTooLong(f"a name has at most {NAME_MAX} bytes")


def check_name(name: bytes) -> None:
    """Refuse what cannot be the name of an entry."""
    check_length(name)
    if not name or name in {b".", b".."} or b"/" in name or b"\0" in name:
        raise InvalidArgument("not a name that an entry can have")


async def directory_of(attempt: Attempt, number: InodeNumber) -> Inode:
    """The directory in which a name is to be found or made."""
    inode = await attempt.inodes.get_alive(number)
    if not inode.is_directory:
        raise NotADirectory("not a directory")
    if not inode.nlink:
        raise NoSuchEntry("the directory was removed")
    return inode


async def vacant(attempt: Attempt, parent: InodeNumber, name: bytes) -> Inode:
    """The directory in which ``name`` is still to be had.  Raises EntryExists."""
    directory = await directory_of(attempt, parent)
    if await attempt.tree(parent).find(name) is not None:
        raise EntryExists("the name is taken")
    return directory


async def occupied(attempt: Attempt, parent: InodeNumber, name: bytes) -> tuple[Entry, Inode]:
    """The entry of ``name`` and its inode.  Raises NoSuchEntry."""
    check_length(name)
    await directory_of(attempt, parent)
    entry = await attempt.tree(parent).find(name)
    if entry is None:
        raise NoSuchEntry("no such entry")
    return entry, await attempt.inodes.get(entry.inode)


async def check_empty(attempt: Attempt, inode: Inode) -> None:
    """Commit only if ``inode`` is a directory without entries."""
    if not inode.is_directory:
        raise NotADirectory("not a directory")
    place = await attempt.tree(inode.number).descend(COOKIE_FIRST)
    if place.path or (place.leaf is not None and place.leaf.entries):
        raise DirectoryNotEmpty("the directory has entries")


async def change_links(attempt: Attempt, number: InodeNumber, difference: int) -> None:
    """Count the ".." of a directory that comes to, or goes from, directory ``number``."""
    directory = await attempt.inodes.get(number)
    if directory.nlink + difference > LINKS_MAX:
        raise TooManyLinks(f"a directory has at most {LINKS_MAX - 2} directories in it")
    attempt.inodes.change(directory._replace(nlink=directory.nlink + difference))


async def lose_name(volume: Volume, attempt: Attempt, inode: Inode) -> bool:
    """One name less for what is not a directory; True if ``reap`` must follow."""
    if inode.nlink == 1:
        return await lose_last_name(volume, attempt, inode)
    attempt.inodes.change(inode._replace(nlink=inode.nlink - 1, ctime=attempt.now))
    return False


async def after_lost_name(volume: Volume, number: InodeNumber, must_reap: bool) -> None:
    """What follows the minitransaction that took a name from an inode."""
    if must_reap:
        await reap(volume, number)
    elif volume.cache.inodes.get(number) is None:
        volume.open_inodes.unregister(number)
