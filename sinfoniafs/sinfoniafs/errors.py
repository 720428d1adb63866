"""Every refusal of the file system carries the errno that a program will see.

``FileSystemError`` and its kind are answers to one operation: nothing was changed, the volume is
as it was.  ``FormatError`` is about the whole volume: it cannot be opened, and the message says
what to do.  Errors of the cluster below (``sinfonia.errors``) pass through unchanged.
"""

import errno
from typing import ClassVar


class FileSystemError(Exception):
    """An operation was refused; the volume is as it was before it."""

    errno: ClassVar[int] = errno.EIO


class NoSuchEntry(FileSystemError):
    """No entry of that name, or the directory itself was removed."""

    errno = errno.ENOENT


class EntryExists(FileSystemError):
    """The name is taken."""

    errno = errno.EEXIST


class NotADirectory(FileSystemError):
    """A directory was needed."""

    errno = errno.ENOTDIR


class IsADirectory(FileSystemError):
    """Anything but a directory was needed."""

    errno = errno.EISDIR


class DirectoryNotEmpty(FileSystemError):
    """The directory still has entries."""

    errno = errno.ENOTEMPTY


class NameTooLong(FileSystemError):
    """A name or a symbolic link's target is longer than the format allows."""

    errno = errno.ENAMETOOLONG


class NoSpace(FileSystemError):
    """No memory node has a free block (or inode) left."""

    errno = errno.ENOSPC


class FileTooBig(FileSystemError):
    """An offset beyond the largest file."""

    errno = errno.EFBIG


class TooManyLinks(FileSystemError):
    """The inode has as many links as can be counted."""

    errno = errno.EMLINK


class StaleHandle(FileSystemError):
    """The inode was freed, and perhaps reused, since its number was learnt."""

    errno = errno.ESTALE


class InvalidArgument(FileSystemError):
    """The operation is not defined for this object or this argument."""

    errno = errno.EINVAL


class PermissionDenied(FileSystemError):
    """No user may do this operation."""

    errno = errno.EPERM


class Busy(FileSystemError):
    """Other mounts changed the same files until the operation's deadline; trying again is safe."""

    errno = errno.EBUSY


class SessionLost(FileSystemError):
    """This session was taken for dead and what it held was given back; nothing was changed.

    The volume goes on with a new session, so its callers do not see this error.
    """

    errno = errno.EIO


class CorruptVolume(FileSystemError):
    """Bytes on a memory node are not what the format says; run fsck."""

    errno = errno.EIO


class FormatError(Exception):
    """The cluster does not hold the volume asked for, or one that this version cannot read."""
