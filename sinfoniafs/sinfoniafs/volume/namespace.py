"""Names: looking them up, making and removing them, reading directories.

Every function here is one minitransaction when what it needs is cached.  It compares the iversion
of the directory, the versions of the tree's nodes on the way to the name, and what it relied on of
the inodes involved; so if two mounts change one name at the same time, exactly one commits.
"""

import stat
from typing import Final

from sinfonia.addresses import MemoryNodeId
from sinfoniafs.allocator import Kind
from sinfoniafs.attributes import Attributes, DirectoryEntry, InodeNumber, Owner
from sinfoniafs.errors import (
    DirectoryNotEmpty,
    EntryExists,
    InvalidArgument,
    IsADirectory,
    NameTooLong,
    NoSuchEntry,
    NotADirectory,
    PermissionDenied,
    TooManyLinks,
)
from sinfoniafs.format.directory import COOKIE_FIRST, NAME_MAX, Entry
from sinfoniafs.format.inode import (
    HEADER_SIZE,
    INLINE,
    INODE_AREA_EMPTY,
    LINKS_MAX,
    Inode,
    opener_bit,
)
from sinfoniafs.format.layout import INODE_SIZE, memory_node_of
from sinfoniafs.session import Session
from sinfoniafs.volume.attempt import Attempt
from sinfoniafs.volume.file_blocks import put
from sinfoniafs.volume.inode_attributes import PERMISSIONS
from sinfoniafs.volume.lifetime import lose_last_name, opened, reap
from sinfoniafs.volume.running import until_committed
from sinfoniafs.volume.tree import Tree
from sinfoniafs.volume.volume import Volume

TARGET_MAX: Final = 4095  # of a symbolic link: PATH_MAX without its NUL
ENTRIES_MAX: Final = 1024  # one minitransaction reads the inodes of that many entries
KINDS: Final = frozenset(
    {stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFLNK}
)


async def lookup(volume: Volume, parent: InodeNumber, name: bytes) -> Attributes:
    """The attributes of what ``name`` leads to; "." and ".." are understood."""
    _check_length(name)

    async def body(attempt: Attempt) -> Inode:
        directory = await directory_of(attempt, parent)
        if name in {b".", b".."}:
            number = InodeNumber(parent if name == b"." else directory.parent)
        else:
            entry = await attempt.tree(parent).find(name)
            if entry is None:
                raise NoSuchEntry("no such entry")
            number = entry.inode
        where = attempt.items.read_slot(number, INODE_SIZE)
        return Inode.decode(number, (await attempt.commit()).reads[where])

    inode = await until_committed(volume, body)
    volume.cache.inodes.put(inode.number, inode)
    volume.give_out(inode)
    return inode.attributes


async def create(
    volume: Volume,
    parent: InodeNumber,
    name: bytes,
    *,
    mode: int,
    owner: Owner,
    rdev: int = 0,
    target: bytes = b"",
    register: bool = False,
) -> Attributes:
    """Make an inode of any kind but a directory, as ``mode`` says; without a kind, a file.

    With ``register``, it is open at once, as by ``open_file`` but in the same minitransaction.
    """
    check_name(name)
    kind = stat.S_IFMT(mode) or stat.S_IFREG
    if kind not in KINDS:
        raise InvalidArgument(f"{kind:#o} is not the kind of a file")
    if len(target) > TARGET_MAX:
        raise NameTooLong(f"the target of a symbolic link has at most {TARGET_MAX} bytes")

    async def body(attempt: Attempt) -> tuple[Inode, Session]:
        await _vacant(attempt, parent, name)
        inode = await _new_inode(
            volume,
            attempt,
            parent,
            kind=kind,
            near=memory_node_of(parent),
            mode=mode,
            owner=owner,
        )
        inode = inode._replace(rdev=rdev, flags=INLINE)
        if register:
            inode = inode._replace(openers=opener_bit(attempt.session.slot))
        attempt.inodes.create(await put(attempt, inode, 0, target) if target else inode)
        await attempt.tree(parent).insert(name, inode)
        attempt.inodes.touch_directory(await attempt.inodes.get(parent))
        await attempt.commit()
        return await attempt.inodes.get(inode.number), attempt.session

    made, session = await until_committed(volume, body, parent)
    volume.give_out(made)
    if register:
        opened(volume, made, session)
    return made.attributes


async def symlink(
    volume: Volume, parent: InodeNumber, name: bytes, target: bytes, *, owner: Owner
) -> Attributes:
    """Make a symbolic link, which every user may follow."""
    if not target:
        raise NoSuchEntry("a symbolic link must lead somewhere")
    mode = stat.S_IFLNK | 0o777
    return await create(volume, parent, name, mode=mode, owner=owner, target=target)


async def mkdir(
    volume: Volume, parent: InodeNumber, name: bytes, *, mode: int, owner: Owner
) -> Attributes:
    """Make a directory; each new one is on the next memory node."""
    check_name(name)

    async def body(attempt: Attempt) -> Inode:
        directory = await _vacant(attempt, parent, name)
        inherited = directory.permissions & stat.S_ISGID
        inode = await _new_inode(
            volume,
            attempt,
            parent,
            kind=stat.S_IFDIR,
            near=volume.spread(),
            mode=mode | inherited,
            owner=owner,
        )
        inode = inode._replace(nlink=2, parent=parent)
        attempt.inodes.create(inode)
        await attempt.tree(parent).insert(name, inode)
        await change_links(attempt, parent, 1)
        attempt.inodes.touch_directory(directory)
        await attempt.commit()
        return inode

    made = await until_committed(volume, body, parent)
    volume.give_out(made)
    return made.attributes


async def link(volume: Volume, number: InodeNumber, parent: InodeNumber, name: bytes) -> Attributes:
    """Give an inode one more name."""
    check_name(name)

    async def body(attempt: Attempt) -> Inode:
        inode = await attempt.inodes.get_alive(number)
        if inode.is_directory:
            raise PermissionDenied("a directory has one name only")
        if not inode.nlink:
            raise NoSuchEntry("the file was removed")
        if inode.nlink >= LINKS_MAX:
            raise TooManyLinks(f"an inode has at most {LINKS_MAX} names")
        directory = await _vacant(attempt, parent, name)
        inode = inode._replace(nlink=inode.nlink + 1, ctime=attempt.now)
        attempt.inodes.change(inode)
        await attempt.tree(parent).insert(name, inode)
        attempt.inodes.touch_directory(directory)
        await attempt.commit()
        return inode

    linked = await until_committed(volume, body, parent, number)
    volume.give_out(linked)
    return linked.attributes


async def unlink(volume: Volume, parent: InodeNumber, name: bytes) -> None:
    """Remove a name; the inode lives on while any mount has it open."""

    async def body(attempt: Attempt) -> tuple[InodeNumber, bool]:
        entry, inode = await _occupied(attempt, parent, name)
        if inode.is_directory:
            raise IsADirectory("a directory is removed by rmdir")
        await attempt.tree(parent).remove(name)
        must_reap = await lose_name(volume, attempt, inode)
        attempt.inodes.touch_directory(await attempt.inodes.get(parent))
        await attempt.commit()
        return entry.inode, must_reap

    await after_lost_name(volume, *await until_committed(volume, body, parent))


async def rmdir(volume: Volume, parent: InodeNumber, name: bytes) -> None:
    """Remove an empty directory."""
    if name == b".":
        raise InvalidArgument("a directory cannot be removed by the name '.'")
    if name == b"..":
        raise DirectoryNotEmpty("a directory's parent is not empty")

    async def body(attempt: Attempt) -> tuple[InodeNumber, bool]:
        entry, inode = await _occupied(attempt, parent, name)
        await check_empty(attempt, inode)
        await attempt.tree(parent).remove(name)
        must_reap = await lose_last_name(volume, attempt, inode)
        await change_links(attempt, parent, -1)
        attempt.inodes.touch_directory(await attempt.inodes.get(parent))
        await attempt.commit()
        return entry.inode, must_reap

    await after_lost_name(volume, *await until_committed(volume, body, parent))


async def read_directory(
    volume: Volume, number: InodeNumber, cookie: int, limit: int
) -> list[DirectoryEntry]:
    """Up to ``limit`` entries after ``cookie`` (0: from the first), in order of their hashes.

    None at the end.  "." and ".." are not among them.  An entry that exists all the while is given
    exactly once, whatever other mounts add or remove between the calls.
    """

    async def body(attempt: Attempt) -> list[DirectoryEntry]:
        directory = await attempt.inodes.get_alive(number)
        if not directory.is_directory:
            raise NotADirectory("not a directory")
        entries = await _entries_after(attempt.tree(number), cookie, min(limit, ENTRIES_MAX))
        for entry in entries:
            attempt.items.read_slot(entry.inode, HEADER_SIZE)
        reads = (await attempt.commit()).reads
        headers = map(Inode.decode_header, [each.inode for each in entries], reads)
        return [
            DirectoryEntry(
                name=each.name,
                inode=each.inode,
                kind=each.kind,
                cookie=each.position,
                attributes=inode.attributes,
            )
            for each, inode in zip(entries, headers, strict=True)
        ]

    return await until_committed(volume, body)


# -- what rename needs, too


def check_name(name: bytes) -> None:
    """Refuse what cannot be the name of an entry."""
    _check_length(name)
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


async def _vacant(attempt: Attempt, parent: InodeNumber, name: bytes) -> Inode:
    """The directory in which ``name`` is still to be had.  Raises EntryExists."""
    directory = await directory_of(attempt, parent)
    if await attempt.tree(parent).find(name) is not None:
        raise EntryExists("the name is taken")
    return directory


async def _occupied(attempt: Attempt, parent: InodeNumber, name: bytes) -> tuple[Entry, Inode]:
    """The entry of ``name`` and its inode.  Raises NoSuchEntry."""
    _check_length(name)
    await directory_of(attempt, parent)
    entry = await attempt.tree(parent).find(name)
    if entry is None:
        raise NoSuchEntry("no such entry")
    return entry, await attempt.inodes.get(entry.inode)


async def _new_inode(
    volume: Volume,
    attempt: Attempt,
    parent: InodeNumber,
    *,
    kind: int,
    near: MemoryNodeId,
    mode: int,
    owner: Owner,
) -> Inode:
    directory = await attempt.inodes.get(parent)
    await attempt.numbers.provide(Kind.INODE, near, 1)
    now = attempt.now
    return Inode(
        number=InodeNumber(attempt.numbers.take(Kind.INODE)),
        iversion=volume.new_version(),
        generation=volume.new_version() & 0xFFFFFFFF,
        kind=kind,
        root=0,
        height=0,
        flags=0,
        permissions=mode & PERMISSIONS,
        nlink=1,
        uid=owner.uid,
        gid=directory.gid if directory.permissions & stat.S_ISGID else owner.gid,
        size=0,
        blocks=0,
        rdev=0,
        parent=0,
        atime=now,
        mtime=now,
        ctime=now,
        btime=now,
        area=INODE_AREA_EMPTY,
    )


async def _entries_after(tree: Tree, cookie: int, limit: int) -> list[Entry]:
    position = max(cookie + 1, COOKIE_FIRST)
    while True:
        place = await tree.descend(position)
        if place.leaf is None:
            return []
        found = [each for each in place.leaf.in_order() if each.position >= position]
        if found or place.following is None:
            return found[:limit]
        position = place.following


def _check_length(name: bytes) -> None:
    if len(name) > NAME_MAX:
        raise NameTooLong(f"a name has at most {NAME_MAX} bytes")
