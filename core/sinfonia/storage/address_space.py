"""The memory of a memory node: every address is there, and only what was written costs.

A memory node may have a terabyte of addresses on a machine with a hundredth of it.  The addresses
are an anonymous private mapping for which the kernel reserves nothing; it gives a page of zeros
when one is first written.  Huge pages are refused, since one byte written would cost two megabytes.

Execution reads the mapping as plain ``memory``: slicing it is the fastest read that Python has.
Writes go through ``write``, which notes what the next checkpoint has to save, and with that what a
copy of this memory has to hold.
"""

import mmap

from sinfonia.errors import StorageError

# What a checkpoint saves as a whole.  The page of the kernel and of its file systems: with 16 KiB a
# checkpoint of small scattered writes took twice as long, and noting a write cost the same.
PAGE_SHIFT = 12
PAGE_BYTES = 1 << PAGE_SHIFT

# What a copy of memory takes as a whole: noting every page that was ever written would cost as much
# as two in a hundred of them.
CHUNK_SHIFT = 18
CHUNK_BYTES = 1 << CHUNK_SHIFT
_PAGES_PER_CHUNK_SHIFT = CHUNK_SHIFT - PAGE_SHIFT

# <asm-generic/mman-common.h>; Python 3.11 has no name for it.
_MAP_NORESERVE = 0x4000


class AddressSpace:
    """``capacity`` bytes of memory, all zeros at first.

    ``memory`` may be longer than ``capacity``, to the end of the last page; code that
    takes addresses from outside checks them against ``capacity``.
    """

    __slots__ = ("_dirty", "_written", "capacity", "memory", "view")

    def __init__(self, capacity: int) -> None:
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
        self._dirty: set[int] = set()
        self._written: set[int] = set()

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
        first = address >> PAGE_SHIFT
        last = (end - 1) >> PAGE_SHIFT
        if first == last:
            self._dirty.add(first)
        else:
            self._dirty.update(range(first, last + 1))

    def load(self, address: int, data: bytes) -> None:
        """Put ``data`` at ``address``, as it is in the image already: it is not dirty."""
        end = address + len(data)
        self.memory[address:end] = data
        self._written.update(range(address >> CHUNK_SHIFT, ((end - 1) >> CHUNK_SHIFT) + 1))

    def touch(self, page: int) -> None:
        """``page`` counts as written: the next checkpoint saves it."""
        self._dirty.add(page)

    @property
    def dirty(self) -> frozenset[int]:
        """The pages written since ``take_dirty``."""
        return frozenset(self._dirty)

    def take_dirty(self) -> set[int]:
        """The pages written since the last call; they count as clean from now on."""
        self._note_chunks()
        dirty, self._dirty = self._dirty, set()
        return dirty

    def written_chunks(self) -> list[int]:
        """The addresses of the chunks of CHUNK_BYTES in which anything was ever written, in order.

        The last one may reach beyond the end of memory.
        """
        self._note_chunks()
        return [chunk << CHUNK_SHIFT for chunk in sorted(self._written)]

    def close(self) -> None:
        """Give the memory back."""
        self.view.release()
        self.memory.close()

    def check_invariants(self) -> None:
        assert self.capacity <= len(self.memory) < self.capacity + PAGE_BYTES
        assert all(0 <= page << PAGE_SHIFT < len(self.memory) for page in self._dirty)
        assert all(0 <= chunk << CHUNK_SHIFT < len(self.memory) for chunk in self._written)

    def _note_chunks(self) -> None:
        self._written.update({page >> _PAGES_PER_CHUNK_SHIFT for page in self._dirty})
