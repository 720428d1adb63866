"""Rename, in all its cases, is one minitransaction over both directories.

A directory must not come to lie below itself.  A rename that moves a directory to another directory
walks from there up to the root, and compares the iversion of every directory on the way.  Moving a
directory changes its iversion, so two concurrent moves that would make a circle together cannot
both commit.
"""

import stat
from typing import Final

from sinfoniafs.attributes import RENAME_EXCHANGE, RENAME_NOREPLACE, InodeNumber, Place
from sinfoniafs.errors import (
    EntryExists,
    InvalidArgument,
    IsADirectory,
    NoSuchEntry,
    NotADirectory,
)
from sinfoniafs.format.inode import Inode
from sinfoniafs.volume.attempt import Attempt
from sinfoniafs.volume.entries import (
    after_lost_name,
    change_links,
    check_empty,
    check_name,
    directory_of,
    lose_name,
)
from sinfoniafs.volume.lifetime import lose_last_name
from sinfoniafs.volume.running import until_committed
from sinfoniafs.volume.volume import Volume

# Each directory on the way up is a compare item; a minitransaction has 4096 items.
DEPTH_MAX: Final = 3000


class Rename:
    """One rename, tried in one attempt."""

    def __init__(
        self,
        volume: Volume,
        attempt: Attempt,
        old: Place,
        new: Place,
    ) -> None:
        self._volume = volume
        self._attempt = attempt
        self._old_parent, self._old_name = old
        self._new_parent, self._new_name = new
        self._old_tree = attempt.tree(self._old_parent)
        self._new_tree = attempt.tree(self._new_parent)
        # The inode that lost its name to the one renamed, and whether it must be reaped.
        self.replaced: tuple[InodeNumber, bool] | None = None

    async def run(self, flags: int) -> None:
        await directory_of(self._attempt, self._old_parent)
        await directory_of(self._attempt, self._new_parent)
        source = await self._old_tree.find(self._old_name)
        if source is None:
            raise NoSuchEntry("no such entry")
        existing = await self._new_tree.find(self._new_name)
        if existing is not None and flags & RENAME_NOREPLACE:
            raise EntryExists("the name is taken")
        if existing is None and flags & RENAME_EXCHANGE:
            raise NoSuchEntry("there is nothing to exchange with")
        if existing is not None and existing.inode == source.inode:
            await self._attempt.commit()  # POSIX: two names of one inode both stay
            return
        moved = await self._attempt.inodes.get(source.inode)
        await self._check_no_circle(moved, self._new_parent)
        if existing is None:
            await self._new_tree.insert(self._new_name, moved)
            await self._old_tree.remove(self._old_name)
        elif flags & RENAME_EXCHANGE:
            other = await self._attempt.inodes.get(existing.inode)
            await self._check_no_circle(other, self._old_parent)
            await self._new_tree.retarget(self._new_name, moved)
            await self._old_tree.retarget(self._old_name, other)
            await self._settle(other, self._new_parent, self._old_parent)
        else:
            await self._replace(moved, await self._attempt.inodes.get(existing.inode))
            await self._old_tree.remove(self._old_name)
        await self._settle(moved, self._old_parent, self._new_parent)
        for parent in {self._old_parent, self._new_parent}:
            self._attempt.inodes.touch_directory(await self._attempt.inodes.get(parent))
        await self._attempt.commit()

    async def _replace(self, moved: Inode, victim: Inode) -> None:
        """Let the new name, which leads to ``victim``, lead to ``moved``."""
        if moved.is_directory and not victim.is_directory:
            raise NotADirectory("a directory cannot take the place of a file")
        if victim.is_directory and not moved.is_directory:
            raise IsADirectory("a file cannot take the place of a directory")
        if victim.is_directory:
            await check_empty(self._attempt, victim)
            await change_links(self._attempt, self._new_parent, -1)
            must_reap = await lose_last_name(self._volume, self._attempt, victim)
        else:
            must_reap = await lose_name(self._volume, self._attempt, victim)
        self.replaced = victim.number, must_reap
        await self._new_tree.retarget(self._new_name, moved)

    async def _settle(self, inode: Inode, source: InodeNumber, target: InodeNumber) -> None:
        """Change what an inode, and the link counts, say about the directory it is in."""
        attempt = self._attempt
        if inode.is_directory and source != target:
            await change_links(attempt, source, -1)
            await change_links(attempt, target, 1)
        # Read again: this inode may also be a directory whose entries or links were changed.
        inode = await attempt.inodes.get(inode.number)
        parent = target if inode.is_directory else inode.parent
        attempt.inodes.change(inode._replace(parent=parent, ctime=attempt.now))

    async def _check_no_circle(self, moved: Inode, target: InodeNumber) -> None:
        if moved.kind != stat.S_IFDIR or self._old_parent == self._new_parent:
            return
        above = target
        for _ in range(DEPTH_MAX):
            if above == moved.number:
                raise InvalidArgument("a directory cannot be moved below itself")
            if above == self._volume.superblock.root:
                return
            above = InodeNumber((await self._attempt.inodes.get(above)).parent)
        raise InvalidArgument(f"a directory can be moved at most {DEPTH_MAX} levels deep")


async def rename(volume: Volume, old: Place, new: Place, *, flags: int = 0) -> None:
    """Rename, replacing what has the new name; or RENAME_NOREPLACE, RENAME_EXCHANGE."""
    check_name(old.name)
    check_name(new.name)
    if flags not in {0, RENAME_NOREPLACE, RENAME_EXCHANGE}:
        raise InvalidArgument(f"unknown or contradicting rename flags {flags:#x}")

    async def body(attempt: Attempt) -> tuple[InodeNumber, bool] | None:
        attempt_at_rename = Rename(volume, attempt, old, new)
        await attempt_at_rename.run(flags)
        return attempt_at_rename.replaced

    replaced = await until_committed(volume, body, old.parent, new.parent)
    if replaced is not None:
        await after_lost_name(volume, *replaced)
