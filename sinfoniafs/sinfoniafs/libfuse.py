"""Libfuse tells what pyfuse3 does not show of a request: its caller, and that it was interrupted.

pyfuse3 does not pass on the handle of a request, and it drops the kernel's INTERRUPT.
``reach_libfuse`` comes between the two when the session is made.  Libfuse then enters each handler
that waits for the cluster through a function of this module, which notes the handle and calls
pyfuse3's own handler.  That handler only makes a coroutine, which runs at once; so the handle noted
last belongs to the request whose handler begins.

The handle is good until the handler has returned, because pyfuse3 replies then.  Everything happens
in the one thread that runs the event loop.
"""

import ctypes
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sinfoniafs.imported_symbols import ImportedSymbol, SymbolNotFound

log = logging.getLogger(__name__)

# Places in ``struct fuse_lowlevel_ops``, which libfuse 3 only ever extends at its end.
_INIT: Final = 0
_WAITING: Final = {
    "lookup": 2, "getattr": 4, "setattr": 5, "readlink": 6, "mknod": 7, "mkdir": 8, "unlink": 9,
    "rmdir": 10, "symlink": 11, "rename": 12, "link": 13, "open": 14, "read": 15, "write": 16,
    "release": 18, "fsync": 19, "opendir": 20, "releasedir": 22, "fsyncdir": 23, "statfs": 24,
    "create": 30, "write_buf": 36, "readdirplus": 41,
}  # fmt: skip

# The most that a kernel request can carry besides its headers: libfuse's buffer for one has 1 MiB
# and a page, headers (80 bytes) included.
WRITE_BYTES_MAX: Final = 1024 * 1024 + 4096 - 80

_word = ctypes.c_size_t
# All of them take a handle and at most five more integers or pointers, in registers.
_Handler = ctypes.PYFUNCTYPE(None, _word, _word, _word, _word, _word, _word)
_Init = ctypes.PYFUNCTYPE(None, _word, _word)
_NewSession = ctypes.PYFUNCTYPE(_word, _word, _word, _word, _word)
_OnInterrupt = ctypes.PYFUNCTYPE(None, _word, _word)


class _Caller(ctypes.Structure):
    """``struct fuse_ctx``."""

    _fields_ = (("uid", ctypes.c_uint32), ("gid", ctypes.c_uint32), ("pid", ctypes.c_int32))


class _Connection(ctypes.Structure):
    """The start of ``struct fuse_conn_info``."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("max_write", ctypes.c_uint32),
    )


@dataclass(frozen=True, slots=True)
class Caller:
    """The thread that made a request; ``pid`` is 0 where no process is known."""

    uid: int
    gid: int
    pid: int


class Libfuse:
    """The handles of requests, once ``reach_libfuse`` has come in between."""

    def __init__(self) -> None:
        self._handle = 0
        self._library = ctypes.PyDLL("libfuse3.so.3")
        self._library.fuse_req_ctx.restype = ctypes.POINTER(_Caller)
        self._library.fuse_req_ctx.argtypes = [_word]
        self._library.fuse_req_interrupt_func.restype = None
        self._library.fuse_req_interrupt_func.argtypes = [_word, _word, _word]
        self._waiting: dict[int, Callable[[], None]] = {}
        self._interrupted = _OnInterrupt(self._on_interrupt)
        # What C holds pointers to must not be collected.
        self._kept: list[Any] = []

    def take_handle(self) -> int:
        """The handle of the request whose handler begins just now; 0 without one."""
        handle, self._handle = self._handle, 0
        return handle

    def caller(self, handle: int) -> Caller:
        """The thread that made the request."""
        found = self._library.fuse_req_ctx(handle).contents
        return Caller(found.uid, found.gid, found.pid)

    @contextmanager
    def watched(self, handle: int, on_interrupt: Callable[[], None]) -> Iterator[None]:
        """Call ``on_interrupt`` if the caller is interrupted meanwhile; perhaps at once."""
        self._waiting[handle] = on_interrupt
        function = ctypes.cast(self._interrupted, ctypes.c_void_p).value
        self._library.fuse_req_interrupt_func(handle, function, 0)
        try:
            yield
        finally:
            del self._waiting[handle]
            self._library.fuse_req_interrupt_func(handle, 0, 0)

    def _on_interrupt(self, handle: int, _data: int) -> None:
        on_interrupt = self._waiting.get(handle)
        if on_interrupt is not None:
            on_interrupt()

    def new_session(self, make: Callable[..., int]) -> Any:  # noqa: ANN401 - a type made by ctypes
        """What to call instead of ``fuse_session_new``, which is ``make``."""

        def new(arguments: int, operations: int, size: int, data: int) -> int:
            table = (_word * (size // ctypes.sizeof(_word))).from_address(operations)
            changed = (_word * len(table))(*table)
            for place in _WAITING.values():
                if place < len(table) and table[place]:
                    changed[place] = self._enter_through(table[place])
            changed[_INIT] = self._begin_with(table[_INIT])
            return make(arguments, ctypes.addressof(changed), size, data)

        return self._keep(_NewSession(new))

    def _enter_through(self, original: int) -> int:
        enter = _Handler(original)

        def note_and_enter(handle: int, *arguments: int) -> None:
            self._handle = handle
            enter(handle, *arguments)

        return _address(self._keep(_Handler(note_and_enter)))

    def _begin_with(self, original: int) -> int:
        begin = _Init(original)

        def init(data: int, connection: int) -> None:
            begin(data, connection)
            _Connection.from_address(connection).max_write = WRITE_BYTES_MAX

        return _address(self._keep(_Init(init)))

    def _keep(self, function: Any) -> Any:  # noqa: ANN401 - a type made by ctypes
        self._kept.append(function)
        return function


def _address(function: Any) -> int:  # noqa: ANN401 - a type made by ctypes
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return address


def reach_libfuse(extension: Path) -> Libfuse | None:
    """Come between the pyfuse3 in ``extension`` and libfuse, for the sessions made from now on.

    None, and a warning, where that cannot be done.
    """
    try:
        libfuse = Libfuse()
        symbol = ImportedSymbol(extension, "fuse_session_new")
        real = ctypes.PyDLL("libfuse3.so.3").fuse_session_new
        make = _NewSession(_address(real))
        symbol.replace(_address(libfuse.new_session(make)))
    except (OSError, SymbolNotFound) as error:
        log.warning("callers that are interrupted will not be noticed: %s", error)
        return None
    return libfuse
