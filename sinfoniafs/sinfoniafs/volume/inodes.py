"""An attempt sees each inode as it was found, with the attempt's own changes to it.

An inode that was read is validated when the attempt commits, by its iversion.  A changed inode gets
the next iversion.
"""

from collections.abc import Iterator

from sinfoniafs.allocator import Kind
from sinfoniafs.attributes import InodeNumber
from sinfoniafs.errors import StaleHandle
from sinfoniafs.format.inode import (
    IVERSION,
    MTIME_OFFSET,
    OPENERS_OFFSET,
    OPENERS_SIZE,
    Inode,
    encode_time,
    opener_bit,
    opener_byte,
    opener_place,
)
from sinfoniafs.format.layout import FREE, ORPHAN, memory_node_of, next_version
from sinfoniafs.volume.items import Items
from sinfoniafs.volume.volume import Volume


class Inodes:
    """The inodes that one attempt has read, changed and created."""

    def __init__(self, volume: Volume, items: Items, now: int) -> None:
        self._volume = volume
        self._items = items
        self._now = now
        # Created inodes are not among those found.
        self._found: dict[InodeNumber, Inode] = {}
        self._current: dict[InodeNumber, Inode] = {}

    # -- what is relied on

    async def get(self, number: InodeNumber) -> Inode:
        """The inode as this attempt sees it.  Raises StaleHandle if it is free."""
        found = self._current.get(number)
        if found is not None:
            return found
        volume = self._volume
        found = volume.cache.inodes.get(number) or await volume.load_inode(number)
        self._items.compare_inode(number, 0, IVERSION.pack(found.iversion))
        self._found[number] = self._current[number] = found
        if not found.kind:
            raise StaleHandle(f"inode {number:#x} was removed")
        return found

    async def get_alive(self, number: InodeNumber) -> Inode:
        """The inode that the caller means by a number that it was given.

        Raises StaleHandle if that inode is gone, even where the number has been used again.
        """
        inode = await self.get(number)
        self._volume.check_alive(inode)
        return inode

    def found(self, number: InodeNumber) -> Inode:
        """The inode as it was before this attempt changed it."""
        return self._found[number]

    def rely_on_openers(self, inode: Inode) -> None:
        """Commit only if the same sessions have the inode open as when it was read.

        The fence comes with it: another session may have this one's bit by now.
        """
        self._items.fence(memory_node_of(inode.number))
        openers = inode.openers.to_bytes(OPENERS_SIZE, "little")
        self._items.compare_inode(inode.number, OPENERS_OFFSET, openers)

    # -- what is changed

    def change(self, inode: Inode) -> None:
        """Let the inode be as given.  The caller writes its area."""
        self._current[inode.number] = inode

    def create(self, inode: Inode) -> None:
        """Let a new inode be as given; its number was taken from the reserve."""
        assert inode.number not in self._found
        self._current[inode.number] = inode

    def free(self, inode: Inode) -> None:
        """Let the inode be no more.  The caller frees its blocks."""
        number = inode.number
        freed = inode._replace(iversion=next_version(inode.iversion), kind=0, nlink=0, openers=0)
        self._items.write_slot(number, 0, freed.encode_start())
        self._items.mark(Kind.INODE, number, FREE)
        self._found[number] = self._current[number] = freed  # nothing more to write of it

    def make_orphan(self, inode: Inode) -> None:
        """Mark an inode that lost its last name but is, or may be, open."""
        self.change(inode._replace(nlink=0, ctime=self._now))
        self._items.mark(Kind.INODE, inode.number, ORPHAN)

    def set_opener(self, inode: Inode, *, present: bool) -> None:
        """Register this session as one that may have the inode open, or unregister it."""
        slot = self._items.session.slot
        bit = opener_bit(slot)
        changed = inode.openers | bit if present else inode.openers & ~bit
        place = opener_place(slot)
        self._items.compare_inode(inode.number, place, opener_byte(inode.openers, slot))
        self._items.write_slot(inode.number, place, opener_byte(changed, slot))
        self._items.fence(memory_node_of(inode.number))
        self._current[inode.number] = inode._replace(openers=changed)

    def touch_directory(self, directory: Inode) -> None:
        """Set the times that a changed entry sets."""
        time = encode_time(self._now)
        self._items.write_slot(directory.number, MTIME_OFFSET, time + time)

    # -- how it ends

    def write(self) -> None:
        """Add the items that write what was created and changed."""
        for number, inode in self._current.items():
            found = self._found.get(number)
            if inode is found:
                continue  # read only
            if found is None:
                # A file's area is written with its contents; pointers must not be left to chance.
                self._items.write_slot(number, 0, inode.encode_start())
            elif inode.is_directory:
                self._write_directory(found, inode)
            else:
                self._write_file(found, inode)

    def publish(self) -> None:
        """The attempt has committed: what it saw is what the cache holds."""
        for number, inode in self._current.items():
            if inode.kind:
                self._volume.cache.inodes.put(number, inode)
            else:
                self._volume.cache.drop_inode(number)

    def kept(self) -> Iterator[tuple[Inode, Inode]]:
        """Each inode that was not freed: as it was found, or created, and as it is now."""
        for number, inode in self._current.items():
            if inode.kind:
                yield self._found.get(number, inode), inode

    def _write_file(self, found: Inode, inode: Inode) -> None:
        if inode.same_fields(found) and inode.same_times(found) and inode.area == found.area:
            return
        changed = inode._replace(iversion=next_version(found.iversion))
        self._current[inode.number] = changed
        self._items.write_slot(inode.number, 0, changed.encode_header())

    def _write_directory(self, found: Inode, inode: Inode) -> None:
        # Other mounts write a directory's times blindly, so only those changed here are written.
        if not inode.same_fields(found):
            inode = inode._replace(iversion=next_version(found.iversion))
            self._current[inode.number] = inode
            self._items.write_slot(inode.number, 0, inode.encode_fields())
        for offset, time in inode.changed_times(found):
            self._items.write_slot(inode.number, offset, encode_time(time))
