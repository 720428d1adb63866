"""Where an extension module keeps the address of a function that it imports.

The dynamic linker writes the address into a slot of the module's global offset table.  If another
address is written there, the function at that address is called instead.  This is the only way to
come between pyfuse3 and libfuse without a compiler: pyfuse3 shows neither its session nor the
handles of its requests.
"""

import ctypes
import mmap
import struct
from pathlib import Path
from typing import Final

_HEADER: Final = struct.Struct("<16xHHIQQ8xIHHH")  # of a little-endian ELF file of 64 bits
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_DYNAMIC: Final = struct.Struct("<qQ")
_RELOCATION: Final = struct.Struct("<QIIq")
_SYMBOL: Final = struct.Struct("<I20x")  # where its name begins
_PT_LOAD, _PT_DYNAMIC = 1, 2
_STRING_TABLE, _SYMBOL_TABLE = 5, 6
_RELOCATION_TABLES: Final = ((7, 8), (23, 2))  # tags of address and size: eager and lazy
_MAGIC: Final = b"\x7fELF\x02\x01"


class SymbolNotFound(Exception):
    """The module is not made as expected; nothing was changed."""


class ImportedSymbol:
    """The slot of one imported function in a module that is loaded."""

    def __init__(self, module: Path, name: str) -> None:
        """Raises SymbolNotFound."""
        try:
            offset = _slot_of(module.read_bytes(), name.encode())
            self._address = _loaded_at(module) + offset
        except (OSError, ValueError, IndexError, struct.error) as error:
            raise SymbolNotFound(f"{module} cannot be looked into: {error}") from error

    @property
    def value(self) -> int:
        """The address that is called now."""
        return ctypes.c_size_t.from_address(self._address).value

    def replace(self, address: int) -> None:
        """Call ``address`` from now on.  Raises SymbolNotFound where memory cannot be written."""
        page = self._address & -mmap.PAGESIZE
        length = self._address + 8 - page
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
        # A module that was linked with full RELRO has its table made read-only.
        if protect(page, length, mmap.PROT_READ | mmap.PROT_WRITE):
            raise SymbolNotFound("the table of imported symbols cannot be written")
        ctypes.c_size_t.from_address(self._address).value = address


def _slot_of(image: bytes, name: bytes) -> int:
    """The place of the slot, counted from where the module is loaded."""
    if not image.startswith(_MAGIC):
        raise SymbolNotFound("not a little-endian ELF file of 64 bits")
    _, _, _, _, segments_at, _, _, size, count = _HEADER.unpack_from(image)
    segments = [_SEGMENT.unpack_from(image, segments_at + size * n) for n in range(count)]

    def in_file(address: int) -> int:
        for kind, _, offset, start, _, length, _, _ in segments:
            if kind == _PT_LOAD and start <= address < start + length:
                return int(offset + address - start)
        raise SymbolNotFound("an address of the module is not in its file")

    start, length = next((each[2], each[5]) for each in segments if each[0] == _PT_DYNAMIC)
    tags = dict(_DYNAMIC.iter_unpack(image[start : start + length // 16 * 16]))
    symbols, strings = in_file(tags[_SYMBOL_TABLE]), in_file(tags[_STRING_TABLE])
    for table, size_tag in _RELOCATION_TABLES:
        if table not in tags:
            continue
        first = in_file(tags[table])
        for slot, _, symbol, _ in _RELOCATION.iter_unpack(image[first : first + tags[size_tag]]):
            (at,) = _SYMBOL.unpack_from(image, symbols + _SYMBOL.size * symbol)
            if symbol and image.startswith(name + b"\0", strings + at):
                return int(slot)
    raise SymbolNotFound(f"{name.decode()} is not imported")


def _loaded_at(module: Path) -> int:
    """Where the module's first byte is in the memory of this process."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == str(module.resolve()) and int(fields[2], 16) == 0:
            return int(fields[0].split("-")[0], 16)
    raise SymbolNotFound(f"{module} is not loaded")
