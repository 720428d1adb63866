"""SinfoniaFS: a cluster file system whose every operation is one minitransaction.

``volume`` is the file system itself, with POSIX semantics and without FUSE; ``mkfs`` makes one,
``fsck`` proves one sound, ``operations`` and ``mount`` show it to the kernel.  FORMAT.md, beside
this package, describes every byte on the memory nodes.
"""
