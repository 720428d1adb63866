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
    InvalidArgument,
    IsADirectory,
    NameTooLong,
    NoSuchEntry,
    NotADirectory,
    PermissionDenied,
    TooManyLinks,
)
from sinfoniafs.format.directory import COOKIE_FIRST, Entry
from sinfoniafs.format.inode import (
    HEADER_SIZE,
    INLINE,
    LINKS_MAX,
    Inode,
    opener_bit,
)
from sinfoniafs.format.layout import INODE_SIZE, memory_node_of
from sinfoniafs.session import Session
from sinfoniafs.volume.attempt import Attempt
from sinfoniafs.volume.entries import (
    after_lost_name,
    change_links,
    check_empty,
    check_length,
    check_name,
    directory_of,
    lose_name,
    occupied,
    vacant,
)
from sinfoniafs.volume.file_blocks import put
from sinfoniafs.volume.lifetime import lose_last_name, opened
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
    check_length(name)

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
        await vacant(attempt, parent, name)
        near, wanted = memory_node_of(parent), kind | stat.S_IMODE(mode)
        inode = await _new_inode(volume, attempt, parent, mode=wanted, near=near, owner=owner)
        openers = opener_bit(attempt.session.slot) if register else 0
        inode = inode._replace(rdev=rdev, flags=INLINE, openers=openers)
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
        directory = await vacant(attempt, parent, name)
        inherited = directory.permissions & stat.S_ISGID
        inode = await _new_inode(
            volume,
            attempt,
            parent,
            mode=stat.S_IFDIR | stat.S_IMODE(mode) | inherited,
            near=volume.spread(),
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
        directory = await vacant(attempt, parent, name)
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
        entry, inode = await occupied(attempt, parent, name)
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
        entry, inode = await occupied(attempt, parent, name)
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


async def _new_inode(
    volume: Volume,
    attempt: Attempt,
    parent: InodeNumber,
    *,
    mode: int,
    near: MemoryNodeId,
    owner: Owner,
) -> Inode:
    directory = await attempt.inodes.get(parent)
    await attempt.numbers.provide(Kind.INODE, near, 1)
    return Inode.new(
        InodeNumber(attempt.numbers.take(Kind.INODE)),
        iversion=volume.new_version(),
        generation=volume.new_version(),
        mode=mode,
        uid=owner.uid,
        gid=directory.gid if directory.permissions & stat.S_ISGID else owner.gid,
        now=attempt.now,
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
