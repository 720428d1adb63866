"""An attempt gathers what an operation relies on and changes; it happens at once or not at all.

What is read through an attempt comes from the cache, or is fetched into it, and becomes a compare
item; what is changed becomes write items, and enters the cache only after the minitransaction has
committed.  Within an attempt, what was changed is seen changed.

Numbers out of the reserve that an attempt took are linked if it committed, go back if it did not,
and are put out of use if nobody knows.
"""

from array import array
from collections.abc import Sequence
from typing import Final

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import SinfoniaError
from sinfonia.minitransaction import Result
from sinfoniafs.allocator import Kind
from sinfoniafs.attributes import InodeNumber
from sinfoniafs.errors import CorruptVolume, SessionLost, StaleHandle
from sinfoniafs.format.directory import VERSION, Interior, Leaf
from sinfoniafs.format.inode import (
    AREA_OFFSET,
    IVERSION,
    MTIME_OFFSET,
    OPENERS_OFFSET,
    OPENERS_SIZE,
    TIMES_OFFSET,
    Inode,
    encode_time,
    opener_bit,
)
from sinfoniafs.format.layout import (
    BLOCK_SIZE,
    FREE,
    ORPHAN,
    USED,
    BlockNumber,
    block_address,
    node_of,
    runs,
)
from sinfoniafs.volume.volume import Volume

_WRAP: Final = 2**64 - 1


class Conflict(Exception):
    """Something relied on has changed; it was dropped from the cache.

    No error to anybody: the loop in ``running`` tries again.
    """


def life_key(number: InodeNumber) -> tuple[str, InodeNumber]:
    """The key of the lock to open or to free an inode."""
    return "life", number


class Attempt:
    """One try at an operation: at most one minitransaction that changes anything."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        # The mount may begin a new session at any time; an attempt is made in one.
        self.session = volume.session
        self._allocator = volume.allocator
        self.now = volume.clock()
        self.minitransaction = volume.cluster.minitransaction()
        # What to drop from the cache when the compare item of that index fails.
        self._relied_inodes: dict[int, InodeNumber] = {}
        self._relied_nodes: dict[int, BlockNumber] = {}
        self._fences: dict[int, MemoryNodeId] = {}
        self._found: dict[InodeNumber, Inode] = {}
        self._inodes: dict[InodeNumber, Inode] = {}
        self._created: set[InodeNumber] = set()
        self._nodes: dict[BlockNumber, Leaf | Interior] = {}
        # Changed directory nodes: what to write of each, None for the whole of it.
        self._patches: dict[BlockNumber, list[tuple[int, bytes]] | None] = {}
        self._dropped: list[BlockNumber] = []
        self._map_nodes: dict[InodeNumber, dict[BlockNumber, array[int]]] = {}
        self._freed: list[int] = []
        self._reserved: dict[Kind, list[int]] = {kind: [] for kind in Kind}
        self._linked: dict[Kind, list[int]] = {kind: [] for kind in Kind}
        self._lives: list[tuple[str, InodeNumber]] = []
        self._committed = False
        self._in_doubt = False

    # -- what is relied on

    async def handle(self, number: InodeNumber) -> Inode:
        """The inode that the caller means by a number it was given.

        Raises StaleHandle if that inode is gone, even where the number has been used again.
        """
        inode = await self.inode(number)
        self._volume.check_alive(inode)
        return inode

    async def inode(self, number: InodeNumber) -> Inode:
        """The inode as this attempt sees it, validated when it commits."""
        found = self._inodes.get(number)
        if found is not None:
            return found
        volume = self._volume
        found = volume.cache.inodes.get(number) or await volume.load_inode(number)
        node, address = volume.layout.inode_slot(number)
        index = self.minitransaction.compare(node, address, IVERSION.pack(found.iversion))
        self._relied_inodes[index] = number
        self._found[number] = self._inodes[number] = found
        if not found.kind:
            raise StaleHandle(f"inode {number:#x} was removed")
        return found

    def rely_on_openers(self, inode: Inode) -> None:
        """Commit only if the same sessions have the inode open as when it was read.

        This one must still be itself: its place among the openers may be another's by now.
        """
        node, address = self._volume.layout.inode_slot(inode.number)
        self._fence(node)
        openers = inode.openers.to_bytes(OPENERS_SIZE, "little")
        index = self.minitransaction.compare(node, address + OPENERS_OFFSET, openers)
        self._relied_inodes[index] = inode.number

    async def directory_node(self, block: BlockNumber, height: int) -> Leaf | Interior:
        """A node of a directory as this attempt sees it, validated when it commits."""
        found = self._nodes.get(block)
        if found is not None:
            return found
        volume = self._volume
        found = volume.cache.directory_nodes.get(block)
        if found is None:
            if not volume.layout.holds_block(block):
                raise CorruptVolume(f"{block:#x} is not the number of a data block")
            image = await volume.cluster.read(node_of(block), block_address(block), BLOCK_SIZE)
            found = (Interior if height else Leaf).decode(block, image)
            volume.cache.directory_nodes.put(block, found)
        version = VERSION.pack(found.version)
        index = self.minitransaction.compare(node_of(block), block_address(block), version)
        self._relied_nodes[index] = block
        self._nodes[block] = found
        return found

    async def map_node(self, inode: Inode, block: BlockNumber) -> "array[int]":
        """A node of a file's block map as this attempt sees it; the inode validates it."""
        changed = self._map_nodes.get(inode.number, {}).get(block)
        if changed is not None:
            return changed
        volume = self._volume
        nodes = volume.cache.block_map(self._found[inode.number]).nodes
        found = nodes.get(block)
        if found is None:
            if not volume.layout.holds_block(block):
                raise CorruptVolume(f"{block:#x} is not the number of a data block")
            image = await volume.cluster.read(node_of(block), block_address(block), BLOCK_SIZE)
            found = nodes[block] = array("Q", image)
        return found

    async def hold_life(self, number: InodeNumber) -> None:
        """Let no other task of this mount open or free the inode until this attempt is over.

        Taken after all other locks, and of one inode only, so that tasks never wait in a circle.
        """
        key = life_key(number)
        if key not in self._lives:
            await self._volume.key_locks.acquire(key)
            self._lives.append(key)

    # -- what is read along

    def read_block(self, block: int, offset: int, length: int) -> int:
        """Read part of a block; returns the index among the result's reads."""
        return self.minitransaction.read(node_of(block), block_address(block) + offset, length)

    def read_slot(self, number: InodeNumber, length: int) -> int:
        """Read the start of an inode's slot; returns the index among the result's reads."""
        node, address = self._volume.layout.inode_slot(number)
        return self.minitransaction.read(node, address, length)

    # -- what is changed

    def change(self, inode: Inode) -> None:
        """Let the inode be as given.  Its area is written by whoever changes it."""
        self._inodes[inode.number] = inode

    def create(self, inode: Inode) -> None:
        """Let a new inode be as given; its number was taken from those reserved."""
        self._inodes[inode.number] = inode
        self._created.add(inode.number)

    def free_inode(self, inode: Inode) -> None:
        """Let the inode be no more; its blocks are freed by ``free_blocks``."""
        volume = self._volume
        freed = inode._replace(iversion=inode.iversion + 1 & _WRAP, kind=0, nlink=0, openers=0)
        node, address = volume.layout.inode_slot(inode.number)
        self.minitransaction.write(node, address, freed.encode_start())
        self.minitransaction.write(*volume.layout.inode_map(inode.number), FREE)
        self._inodes[inode.number] = freed
        self._found[inode.number] = freed  # nothing more to write of it

    def make_orphan(self, inode: Inode) -> None:
        """Mark an inode that lost its last name but is, or may be, open."""
        self.change(inode._replace(nlink=0, ctime=self.now))
        self.minitransaction.write(*self._volume.layout.inode_map(inode.number), ORPHAN)

    def set_opener(self, inode: Inode, *, present: bool) -> None:
        """Register this session as one that may have the inode open, or unregister it."""
        slot = self.session.slot
        bit = opener_bit(slot)
        node, address = self._volume.layout.inode_slot(inode.number)
        changed = inode.openers | bit if present else inode.openers & ~bit
        place, shift = address + OPENERS_OFFSET + slot // 8, slot // 8 * 8
        old, new = (bytes([each >> shift & 0xFF]) for each in (inode.openers, changed))
        self._relied_inodes[self.minitransaction.compare(node, place, old)] = inode.number
        self.minitransaction.write(node, place, new)
        self._fence(node)
        self._inodes[inode.number] = inode._replace(openers=changed)

    def write_area(self, inode: Inode, offset: int, data: bytes) -> None:
        """Write part of the inode's area."""
        node, address = self._volume.layout.inode_slot(inode.number)
        self.minitransaction.write(node, address + AREA_OFFSET + offset, data)

    def write_block(self, block: int, offset: int, data: bytes) -> None:
        """Write part of a block, or of several that lie side by side."""
        self.minitransaction.write(node_of(block), block_address(block) + offset, data)

    def put_node(self, node: Leaf | Interior, patch: tuple[int, bytes] | None = None) -> None:
        """Let a directory node be as given; ``patch`` is all that changed besides its head."""
        patches = self._patches.get(node.block, [])
        if patch is None or patches is None:
            self._patches[node.block] = None
        else:
            self._patches[node.block] = [*patches, patch]
        self._nodes[node.block] = node

    def drop_node(self, node: Leaf | Interior) -> None:
        """Free a directory node's block."""
        self._patches.pop(node.block, None)
        self._dropped.append(node.block)
        self._freed.append(node.block)

    def put_map_node(self, inode: Inode, block: BlockNumber, pointers: "array[int]") -> None:
        """Let a node of a block map be as given.  Its bytes are written by whoever changes it."""
        self._map_nodes.setdefault(inode.number, {})[block] = pointers

    def free_blocks(self, blocks: Sequence[int]) -> None:
        self._freed.extend(blocks)

    # -- what is allocated

    async def provide(self, kind: Kind, near: MemoryNodeId, count: int) -> None:
        """Have ``count`` inodes or blocks at hand for ``take``.  Raises NoSpace."""
        missing = count - len(self._reserved[kind])
        if missing > 0:
            self._reserved[kind] += await self._allocator.take(kind, near, missing)

    def take(self, kind: Kind) -> int:
        """One of those at hand, to be linked by this attempt."""
        taken = self._reserved[kind].pop(0)
        self._linked[kind].append(taken)
        return taken

    def new_version(self) -> int:
        """A version, iversion or generation that nothing cached can have by chance."""
        return self._volume.new_version()

    # -- how it ends

    async def commit(self) -> Result:
        """Execute the minitransaction.  Raises Conflict if something relied on has changed."""
        self._write_inodes()
        self._write_directory_nodes()
        self._write_maps()
        self._in_doubt = not self.minitransaction.read_only
        try:
            result = await self._volume.cluster.execute(self.minitransaction)
        except SinfoniaError as error:
            self._in_doubt = self._in_doubt and not error.definite
            raise
        self._in_doubt = False
        if not result.committed:
            self._drop(result)
            raise Conflict
        self._committed = True
        self._publish()
        return result

    async def confirm(self) -> bool:
        """Whether all that was relied on is still so; if not, what is stale is dropped."""
        if not self._relied_inodes:
            return True
        confirmation = self._volume.cluster.minitransaction()
        for node, position in self.minitransaction.compare_places:
            item = self.minitransaction.items[node].compares[position]
            confirmation.compare(node, item.address, item.expected)
        result = await self._volume.cluster.execute(confirmation)
        self._drop(result)
        return result.committed

    def finish(self) -> None:
        """Settle what becomes of the numbers taken, and pass on the locks held."""
        for key in self._lives:
            self._volume.key_locks.release(key)
        allocator = self._allocator
        if self.session is self._volume.session:
            self._volume.open_inodes.in_doubt |= self._in_doubt
        for kind in Kind:
            if self._reserved[kind]:
                allocator.give_back(kind, self._reserved[kind])
            if not self._linked[kind] or self._committed:
                continue
            settle = allocator.abandon if self._in_doubt else allocator.give_back
            settle(kind, self._linked[kind])

    def _write_inodes(self) -> None:
        for number, inode in self._inodes.items():
            node, address = self._volume.layout.inode_slot(number)
            if number in self._created:
                # A file's area is written with its contents; pointers must not be left to chance.
                self.minitransaction.write(node, address, inode.encode_start())
                continue
            found = self._found[number]
            if inode[2:19] == found[2:19] and inode.area == found.area:
                continue
            if inode.is_directory:
                self._write_directory_inode(found, inode)
                continue
            changed = inode._replace(iversion=found.iversion + 1 & _WRAP)
            self._inodes[number] = changed
            self.minitransaction.write(node, address, changed.encode_header())

    def _write_directory_inode(self, found: Inode, inode: Inode) -> None:
        # The times of a directory are written by others without notice: write those changed here.
        node, address = self._volume.layout.inode_slot(inode.number)
        if inode[2:15] != found[2:15]:
            inode = inode._replace(iversion=found.iversion + 1 & _WRAP)
            self._inodes[inode.number] = inode
            self.minitransaction.write(node, address, inode.encode_fields())
        for place, (old, new) in enumerate(zip(found[15:19], inode[15:19], strict=True)):
            if old != new:
                self.minitransaction.write(
                    node, address + TIMES_OFFSET + 8 * place, encode_time(new)
                )

    def touch_directory(self, directory: Inode) -> None:
        """Set the times that a changed entry sets."""
        node, address = self._volume.layout.inode_slot(directory.number)
        time = encode_time(self.now)
        self.minitransaction.write(node, address + MTIME_OFFSET, time + time)

    def _write_directory_nodes(self) -> None:
        for block, patches in self._patches.items():
            node = self._nodes[block]
            node = node._replace(version=node.version + 1 & _WRAP)
            self._nodes[block] = node
            if patches is None or isinstance(node, Interior):
                self.write_block(block, 0, node.encode())
                continue
            self.write_block(block, 0, node.encode_head())
            for offset, data in patches:
                self.write_block(block, offset, data)

    def _write_maps(self) -> None:
        volume = self._volume
        for kind, linked in self._linked.items():
            of = volume.layout.inode_map if kind is Kind.INODE else volume.layout.block_map
            for first, count in runs(linked):
                node, address = of(first)
                self.minitransaction.compare(node, address, self.session.reserved * count)
                self.minitransaction.write(node, address, USED * count)
                self._fence(node)
        for first, count in runs(self._freed):
            self.minitransaction.write(*volume.layout.block_map(first), FREE * count)

    def _fence(self, node: MemoryNodeId) -> None:
        """Commit only if nobody has taken this session for dead."""
        if node not in self._fences.values():
            self._fences[self.session.fence(self.minitransaction, node)] = node

    def _drop(self, result: Result) -> None:
        cache = self._volume.cache
        failed = {each.index for each in result.failed_compares}
        if failed & self._fences.keys():
            raise SessionLost("this mount was taken for dead")
        for index in failed:
            if index in self._relied_inodes:
                cache.drop_inode(self._relied_inodes[index])
            elif index in self._relied_nodes:
                cache.directory_nodes.drop(self._relied_nodes[index])
            else:
                raise CorruptVolume("what this session held in reserve was taken: run fsck")

    def _publish(self) -> None:
        cache = self._volume.cache
        for number, inode in self._inodes.items():
            if not inode.kind:
                cache.drop_inode(number)
                continue
            cache.inodes.put(number, inode)
            changed = self._map_nodes.get(number)
            known = cache.block_maps.get(number)
            found = self._found.get(number, inode)
            if known is not None and known.iversion == found.iversion:
                known.iversion = inode.iversion
            if changed:
                cache.block_map(inode).nodes.update(changed)
        for block, node in self._nodes.items():
            cache.directory_nodes.put(block, node)
        for block in self._dropped:
            cache.directory_nodes.drop(block)
