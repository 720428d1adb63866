"""The memory of a memory node: every address is there, and only what was written costs.

A memory node may have a terabyte of addresses on a machine with a hundredth of it.  The addresses
are an anonymous private mapping for which the kernel reserves nothing; it gives a page of zeros
when one is first written.  Huge pages are refused, since one byte written would cost two megabytes.

The mapping is plain ``memory`` to whoever executes minitransactions: slicing it is the fastest read
that Python has.  Writes go through ``write``, which notes what the next checkpoint has to save.
"""

import mmap

from sinfonia.errors import StorageError

# What a checkpoint saves as a whole.  The page of the kernel and of its file systems: with 16 KiB a
# checkpoint of small scattered writes took twice as long, and noting a write cost the same.
PAGE_SHIFT = 12
PAGE_BYTES = 1 << PAGE_SHIFT

# <asm-generic/mman-common.h>; Python 3.11 has no name for it.
_MAP_NORESERVE = 0x4000


class AddressSpace:
    """``capacity`` bytes of memory, all zeros at first.

    ``memory`` may be longer than ``capacity``, to the end of the last page; whoever takes addresses
    from outside checks them against ``capacity``.  While ``tracking`` is False nobody pays for
    knowing what was written.
    """

    __slots__ = ("_dirty", "capacity", "memory", "tracking", "view")

    def __init__(self, capacity: int, *, tracking: bool = False) -> None:
        length = -(-capacity // PAGE_BYTES) * PAGE_BYTES
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        try:
            self.memory = mmap.mmap(-1, length, flags=flags)
            self.memory.madvise(mmap.MADV_NOHUGEPAGE)
        except (OSError, ValueError, OverflowError) as error:
            raise StorageError(
                f"cannot map {capacity} bytes of addresses ({error}); choose a smaller capacity, "
                "or allow it: sysctl vm.overcommit_memory=0, ulimit -v unlimited"
            ) from error
        self.capacity = capacity
        self.view = memoryview(self.memory)
        self.tracking = tracking
        self._dirty: set[int] = set()

    def read(self, address: int, length: int) -> bytes:
        """The ``length`` bytes at ``address``."""
        return self.memory[address : address + length]

    def matches(self, address: int, expected: bytes) -> bool:
        """Whether the bytes at ``address`` equal ``expected``."""
        return self.memory[address : address + len(expected)] == expected

    def write(self, address: int, data: bytes) -> None:
        """Put ``data`` at ``address``; an address out of range raises IndexError."""
        end = address + len(data)
        self.memory[address:end] = data
        if self.tracking:
            first = address >> PAGE_SHIFT
            last = (end - 1) >> PAGE_SHIFT
            if first == last:
                self._dirty.add(first)
            else:
                self._dirty.update(range(first, last + 1))

    @property
    def dirty(self) -> frozenset[int]:
        """The pages written since ``take_dirty``."""
        return frozenset(self._dirty)

    def take_dirty(self) -> set[int]:
        """The pages written since the last call; they count as clean from now on."""
        dirty, self._dirty = self._dirty, set()
        return dirty

    def close(self) -> None:
        """Give the memory back."""
        self.view.release()
        self.memory.close()

    def check_invariants(self) -> None:
        assert self.capacity <= len(self.memory) < self.capacity + PAGE_BYTES
        assert all(0 <= page << PAGE_SHIFT < len(self.memory) for page in self._dirty)
        assert self.tracking or not self._dirty
