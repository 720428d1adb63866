"""The superblock says what the volume is; a program that cannot read it does not touch the volume.

Every memory node has a copy, written by mkfs and never again.  The copies differ only in what they
say of their own memory node.  The checksum covers all before it.  ``incompatible`` feature flags
unknown to this version forbid any use of the volume; ``compatible`` ones may be ignored.
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from sinfonia.addresses import MemoryNodeId
from sinfoniafs.attributes import InodeNumber
from sinfoniafs.errors import FormatError
from sinfoniafs.format.layout import BLOCK_SIZE, INODE_SIZE, NodeLayout

MAGIC: Final = b"SinfonFS"
VERSION: Final = 1
SUPERBLOCK_SIZE: Final = 4096
HASH_KEY_SIZE: Final = 16
NAME_MAX: Final = 64  # bytes of a volume's name
COMPATIBLE: Final = 0  # feature flags that this version knows
INCOMPATIBLE: Final = 0

_HEADER: Final = struct.Struct("<8sIIIIQQ16s16sQqQQII64s")
_CHECKSUM_OFFSET: Final = SUPERBLOCK_SIZE - 8
_NODE: Final = struct.Struct("<I")
# What fits between the header and the checksum, rounded down.
NODES_MAX: Final = 900


@dataclass(frozen=True, slots=True)
class Superblock:
    """One memory node's copy; ``layout`` is of that memory node, ``nodes`` are all memory nodes."""

    name: str
    uuid: bytes
    hash_key: bytes
    root: InodeNumber
    created_ns: int
    layout: NodeLayout
    nodes: tuple[MemoryNodeId, ...]

    @property
    def block_size(self) -> int:
        return BLOCK_SIZE

    @property
    def home(self) -> MemoryNodeId:
        """The memory node whose session table holds the full records."""
        return self.nodes[0]

    def encode(self) -> bytes:
        name = self.name.encode()
        assert len(name) <= NAME_MAX
        assert len(self.nodes) <= NODES_MAX
        image = _HEADER.pack(
            MAGIC,
            VERSION,
            SUPERBLOCK_SIZE,
            BLOCK_SIZE,
            INODE_SIZE,
            COMPATIBLE,
            INCOMPATIBLE,
            self.uuid,
            self.hash_key,
            self.root,
            self.created_ns,
            self.layout.blocks,
            self.layout.inodes,
            self.layout.node,
            len(self.nodes),
            name,
        ) + b"".join(map(_NODE.pack, self.nodes))
        image = image.ljust(_CHECKSUM_OFFSET, b"\0")
        return image + checksum(image)

    @classmethod
    def decode(cls, image: bytes) -> "Superblock":
        """Read what ``encode`` wrote.  Raises FormatError, saying what to do."""
        if image[:8] != MAGIC:
            raise FormatError("no SinfoniaFS volume here: make one with `sinfoniafs mkfs`")
        (_, version, size, block, slot, _, incompatible, *rest) = _HEADER.unpack_from(image)
        if version != VERSION:
            raise FormatError(
                f"the volume has format version {version}, this program reads version {VERSION}:"
                " use the sinfoniafs that made it"
            )
        if checksum(image[:_CHECKSUM_OFFSET]) != image[_CHECKSUM_OFFSET:]:
            raise FormatError("the superblock is damaged (wrong checksum): restore a backup")
        if incompatible & ~INCOMPATIBLE:
            raise FormatError(
                f"the volume uses features {incompatible:#x} that this program does not know:"
                " use a newer sinfoniafs"
            )
        if (size, block, slot) != (SUPERBLOCK_SIZE, BLOCK_SIZE, INODE_SIZE):
            raise FormatError(f"blocks of {block} and inodes of {slot} bytes are not supported")
        uuid, key, root, created, blocks, inodes, node, count, name = rest
        nodes = _NODE.iter_unpack(image[_HEADER.size : _HEADER.size + count * _NODE.size])
        return cls(
            name=name.rstrip(b"\0").decode(),
            uuid=uuid,
            hash_key=key,
            root=InodeNumber(root),
            created_ns=created,
            layout=NodeLayout(MemoryNodeId(node), blocks, inodes),
            nodes=tuple(MemoryNodeId(each) for (each,) in nodes),
        )


def checksum(image: bytes) -> bytes:
    """Eight bytes over a structure that is written once and seldom read."""
    return hashlib.blake2b(image, digest_size=8).digest()
