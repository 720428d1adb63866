"""Where bytes live: an address is always a pair, a memory node and an offset in it.

Section 3.2 of the paper: each memory node has a linear address space of its own, and there is no
global one, so that an application can put what it uses together in one place.  A memory node here
is a *logical* thing, known by a small integer; which host serves it may change and is nobody's
business but the client library's.
"""

from typing import NamedTuple, NewType

MemoryNodeId = NewType("MemoryNodeId", int)

# 2**63 keeps every offset, and offset plus length, inside a signed 64-bit integer, which is what
# mmap, pread and most languages that may one day speak this protocol can represent.
ADDRESS_MAX = 2**63 - 1


class Address(NamedTuple):
    """A byte of the cluster: (memory node, offset)."""

    node: MemoryNodeId
    offset: int


class ByteRange(NamedTuple):
    """The half-open range of bytes [start, end) of one memory node."""

    start: int
    end: int
