"""Copying and comparing trees of files, several at a time, and counting what it took.

Files are opened relative to their directory's descriptor: on a mount without caches every step of
a path asks the memory nodes, and the steps above the last are the same for all files beside it.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

# Enough to keep a mount's process busy while some of them wait for a memory node.
WORKERS = 8
PIECE_BYTES = 1024 * 1024

OnFile = Callable[[], None]


class TreesDiffer(Exception):
    """A file is not what it should be; the message names it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or symbolic link of a tree, relative to its root."""

    directory: Path
    name: str
    size: int
    is_link: bool


@dataclass(frozen=True, slots=True)
class Work:
    """What a copy or a comparison did; ``longest`` is the slowest file's time, in seconds."""

    files: int
    bytes: int
    seconds: float
    longest: float

    @classmethod
    def sum(cls, works: Iterable["Work"]) -> "Work":
        """Several, done one after the other."""
        works = list(works)
        return cls(
            sum(work.files for work in works),
            sum(work.bytes for work in works),
            sum(work.seconds for work in works),
            max(work.longest for work in works),
        )


class Tree:
    """A root and the descriptors of directories below it."""

    def __init__(self, root: Path, descriptors: dict[Path, int]) -> None:
        self.root = root
        self._descriptors = descriptors

    def open(self, entry: Entry, flags: int) -> int:
        """A descriptor of the file; a symbolic link in its place is refused."""
        directory = self._descriptors[entry.directory]
        return os.open(entry.name, flags | os.O_NOFOLLOW, 0o644, dir_fd=directory)

    def read_link(self, entry: Entry) -> str:
        return os.readlink(entry.name, dir_fd=self._descriptors[entry.directory])

    def make_link(self, entry: Entry, target: str) -> None:
        os.symlink(target, entry.name, dir_fd=self._descriptors[entry.directory])


@contextmanager
def opened(root: Path, entries: list[Entry]) -> Iterator[Tree]:
    """The tree at ``root`` with all directories that ``entries`` are in."""
    with ExitStack() as stack:
        descriptors = {}
        for directory in {entry.directory for entry in entries}:
            descriptor = os.open(root / directory, os.O_PATH | os.O_DIRECTORY)
            stack.callback(os.close, descriptor)
            descriptors[directory] = descriptor
        yield Tree(root, descriptors)


def paths_of(root: Path) -> set[Path]:
    """All files and symbolic links below ``root``, relative to it."""
    found = set()
    pending = [root]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                # The kind comes with the listing: nothing is asked of each file.
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                else:
                    found.add(Path(entry.path).relative_to(root))
    return found


def entries_of(root: Path) -> list[Entry]:
    """All files and symbolic links below ``root``, in the order of their paths."""
    return [
        Entry(path.parent, path.name, (root / path).lstat().st_size, (root / path).is_symlink())
        for path in sorted(paths_of(root))
    ]


def copy_tree(source: Path, target: Path, entries: list[Entry], on_file: OnFile) -> Work:
    """Copy ``entries`` from one root to another, which is made.  Raises OSError."""
    for directory in sorted({entry.directory for entry in entries}):
        (target / directory).mkdir(parents=True)
    with opened(source, entries) as old, opened(target, entries) as new:
        return _each(entries, lambda entry: _copy(entry, old, new), on_file)


def compare_trees(first: Path, second: Path, entries: list[Entry], on_file: OnFile) -> Work:
    """Compare ``entries`` of two roots byte by byte.  Raises TreesDiffer or OSError."""
    found = paths_of(second)
    if found != {entry.directory / entry.name for entry in entries}:
        raise TreesDiffer(f"{second} has {len(found)} files, and not those of {first}")
    with opened(first, entries) as one, opened(second, entries) as other:
        return _each(entries, lambda entry: _compare(entry, one, other), on_file)


def _each(entries: list[Entry], work: Callable[[Entry], None], on_file: OnFile) -> Work:
    def timed(entry: Entry) -> float:
        began = time.monotonic()
        work(entry)
        return time.monotonic() - began

    start = time.monotonic()
    longest = 0.0
    with ThreadPoolExecutor(WORKERS) as workers:
        try:
            for done in as_completed([workers.submit(timed, entry) for entry in entries]):
                longest = max(longest, done.result())
                on_file()
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            raise
    total = sum(entry.size for entry in entries)
    return Work(len(entries), total, time.monotonic() - start, longest)


def _copy(entry: Entry, old: Tree, new: Tree) -> None:
    if entry.is_link:
        new.make_link(entry, old.read_link(entry))
        return
    with (
        _closing(old.open(entry, os.O_RDONLY)) as reader,
        _closing(new.open(entry, os.O_WRONLY | os.O_CREAT | os.O_EXCL)) as writer,
    ):
        while piece := os.read(reader, PIECE_BYTES):
            while piece:
                piece = piece[os.write(writer, piece) :]


def _compare(entry: Entry, one: Tree, other: Tree) -> None:
    if entry.is_link:
        same = one.read_link(entry) == other.read_link(entry)
    else:
        with (
            _closing(one.open(entry, os.O_RDONLY)) as first,
            _closing(other.open(entry, os.O_RDONLY)) as second,
        ):
            same = _same_bytes(first, second)
    if not same:
        path = entry.directory / entry.name
        raise TreesDiffer(f"{path} is not the same in {one.root} and {other.root}")


def _same_bytes(first: int, second: int) -> bool:
    while True:
        piece = os.read(first, PIECE_BYTES)
        if piece != os.read(second, PIECE_BYTES):
            return False
        if len(piece) < PIECE_BYTES:
            return True  # short on both sides: the end


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
