"""What the file system says about its objects, in plain frozen values.

Names are bytes, times are nanoseconds since the epoch, sizes are bytes.  An inode number is one
64-bit integer for a pair, (memory node, index): see ``layout``.
"""

import stat
from dataclasses import dataclass
from typing import NamedTuple, NewType

InodeNumber = NewType("InodeNumber", int)

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


@dataclass(frozen=True, slots=True)
class Attributes:
    """An inode as ``stat`` shows it; ``blocks`` counts units of 512 bytes."""

    inode: InodeNumber
    generation: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


@dataclass(frozen=True, slots=True)
class Changes:
    """Attributes to set; None leaves one as it is.  Of ``mode`` only the permission bits count."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None


class Place(NamedTuple):
    """Where an entry is: in which directory, under which name."""

    parent: InodeNumber
    name: bytes


@dataclass(frozen=True, slots=True)
class Owner:
    """The user and the group for which an inode is made."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """An entry as readdir shows it.

    ``kind`` is one of the DT_* values.  ``cookie`` resumes reading after this entry, and stays good
    while others add and remove entries; cookies below 16 are never given out, so that the caller
    has some for "." and "..".
    """

    name: bytes
    inode: InodeNumber
    kind: int
    cookie: int
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class VolumeStatistics:
    """What ``statfs`` shows; ``blocks`` are of ``block_size`` bytes."""

    block_size: int
    blocks: int
    blocks_free: int
    inodes: int
    inodes_free: int
    name_max: int
