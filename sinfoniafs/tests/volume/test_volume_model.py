"""Two mounts do what a tree of plain Python objects does, for any sequence of operations.

The model below knows POSIX and nothing of minitransactions.  Hypothesis chooses what to do and on
which mount; answers must be the model's, errors by their errno, and in the end the whole tree is
compared through both mounts.
"""

import errno
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from sinfoniafs.attributes import RENAME_EXCHANGE, RENAME_NOREPLACE, Changes, InodeNumber, Place
from sinfoniafs.errors import FileSystemError
from sinfoniafs.testing import MIB, OWNER, Site, close_site, list_directory, open_site
from sinfoniafs.volume import contents, namespace
from sinfoniafs.volume.inode_attributes import get_attributes, set_attributes
from sinfoniafs.volume.rename import rename
from sinfoniafs.volume.volume import Volume


@dataclass(eq=False)
class Node:
    """A file or a directory of the model."""

    children: "dict[bytes, Node] | None" = None
    data: bytearray = field(default_factory=bytearray)
    nlink: int = 1


class Refused(Exception):
    """What the model answers instead of doing something."""

    def __init__(self, code: int) -> None:
        super().__init__(errno.errorcode[code])
        self.code = code


Path = tuple[bytes, ...]
NAMES = st.sampled_from([b"a", b"b", b"c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(tuple)
MOUNTS = st.integers(0, 1)
SIZES = st.sampled_from([0, 1, 255, 257, 16_384, 20_000, 600_000])


class Model:
    """The tree, and the operations on it."""

    def __init__(self) -> None:
        self.root = Node(children={}, nlink=2)

    def find(self, path: Path) -> Node:
        node = self.root
        for name in path:
            if node.children is None:
                raise Refused(errno.ENOTDIR)
            if name not in node.children:
                raise Refused(errno.ENOENT)
            node = node.children[name]
        return node

    def directory(self, path: Path) -> dict[bytes, Node]:
        node = self.find(path)
        if node.children is None:
            raise Refused(errno.ENOTDIR)
        return node.children

    def file(self, path: Path) -> Node:
        node = self.find(path)
        if node.children is not None:
            raise Refused(errno.EISDIR)
        return node

    def add(self, path: Path, node: Node) -> None:
        parent = self.directory(path[:-1])
        if path[-1] in parent:
            raise Refused(errno.EEXIST)
        parent[path[-1]] = node

    def rename(self, old: Path, new: Path, flags: int) -> None:
        source, target = self.directory(old[:-1]), self.directory(new[:-1])
        if old[-1] not in source:
            raise Refused(errno.ENOENT)
        moved, existing = source[old[-1]], target.get(new[-1])
        if existing is not None and flags == RENAME_NOREPLACE:
            raise Refused(errno.EEXIST)
        if existing is None and flags == RENAME_EXCHANGE:
            raise Refused(errno.ENOENT)
        if moved is existing:
            return
        if new[: len(old)] == old:
            raise Refused(errno.EINVAL)
        if flags == RENAME_EXCHANGE:
            if old[: len(new)] == new:
                raise Refused(errno.EINVAL)
            assert existing is not None
            source[old[-1]], target[new[-1]] = existing, moved
            return
        if existing is not None:
            self._check_replaceable(moved, existing)
            existing.nlink -= 1
        del source[old[-1]]
        target[new[-1]] = moved

    def _check_replaceable(self, moved: Node, existing: Node) -> None:
        if moved.children is None and existing.children is not None:
            raise Refused(errno.EISDIR)
        if moved.children is not None and existing.children is None:
            raise Refused(errno.ENOTDIR)
        if existing.children:
            raise Refused(errno.ENOTEMPTY)


async def walk(volume: Volume, path: Path) -> InodeNumber:
    number = volume.root
    for name in path:
        number = (await namespace.lookup(volume, number, name)).inode
    return number


async def walk_to_parent(volume: Volume, path: Path) -> InodeNumber:
    """The directory of the last name; the lookup of "." checks that it is a directory."""
    number = await walk(volume, path[:-1])
    await namespace.lookup(volume, number, b".")
    return number


class VolumeMachine(RuleBasedStateMachine):
    """Every step is done to the model and, through one of two mounts, to a volume."""

    @initialize()
    def start(self) -> None:
        self.model = Model()
        self.site: Site = trio.run(self._open)

    async def _open(self) -> Site:
        return await open_site(mounts=2, memory_nodes=2, capacity=16 * MIB)

    def both(self, expected: Any, actual: Any) -> None:  # noqa: ANN401 - any step's pair of halves
        """Do a step to both, and compare what they answer."""
        try:
            answer = expected()
        except Refused as refusal:
            answer = refusal.code

        async def run() -> Any:  # noqa: ANN401 - whatever the step answers
            try:
                return await actual()
            except FileSystemError as error:
                return error.errno

        assert trio.run(run) == answer

    @rule(mount=MOUNTS, path=PATHS)
    def create(self, mount: int, path: Path) -> None:
        async def actual() -> None:
            volume = self.site.mounts[mount]
            parent = await walk_to_parent(volume, path)
            await namespace.create(volume, parent, path[-1], mode=0o644, owner=OWNER)

        self.both(lambda: self.model.add(path, Node()), actual)

    @rule(mount=MOUNTS, path=PATHS)
    def mkdir(self, mount: int, path: Path) -> None:
        async def actual() -> None:
            volume = self.site.mounts[mount]
            parent = await walk_to_parent(volume, path)
            await namespace.mkdir(volume, parent, path[-1], mode=0o755, owner=OWNER)

        self.both(lambda: self.model.add(path, Node(children={})), actual)

    @rule(mount=MOUNTS, old=PATHS, new=PATHS)
    def link(self, mount: int, old: Path, new: Path) -> None:
        def expected() -> None:
            node = self.model.find(old)
            self.model.directory(new[:-1])
            if node.children is not None:
                raise Refused(errno.EPERM)
            self.model.add(new, node)
            node.nlink += 1

        async def actual() -> None:
            volume = self.site.mounts[mount]
            inode, parent = await walk(volume, old), await walk_to_parent(volume, new)
            await namespace.link(volume, inode, parent, new[-1])

        self.both(expected, actual)

    @rule(mount=MOUNTS, path=PATHS)
    def unlink(self, mount: int, path: Path) -> None:
        def expected() -> None:
            self.model.directory(path[:-1])
            self.model.file(path).nlink -= 1
            del self.model.directory(path[:-1])[path[-1]]

        async def actual() -> None:
            volume = self.site.mounts[mount]
            await namespace.unlink(volume, await walk_to_parent(volume, path), path[-1])

        self.both(expected, actual)

    @rule(mount=MOUNTS, path=PATHS)
    def rmdir(self, mount: int, path: Path) -> None:
        def expected() -> None:
            parent = self.model.directory(path[:-1])
            if self.model.directory(path):
                raise Refused(errno.ENOTEMPTY)
            del parent[path[-1]]

        async def actual() -> None:
            volume = self.site.mounts[mount]
            await namespace.rmdir(volume, await walk_to_parent(volume, path), path[-1])

        self.both(expected, actual)

    @rule(
        mount=MOUNTS,
        old=PATHS,
        new=PATHS,
        flags=st.sampled_from([0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE]),
    )
    def rename(self, mount: int, old: Path, new: Path, flags: int) -> None:
        async def actual() -> None:
            volume = self.site.mounts[mount]
            source = await walk_to_parent(volume, old)
            target = await walk_to_parent(volume, new)
            await rename(volume, Place(source, old[-1]), Place(target, new[-1]), flags=flags)

        self.both(lambda: self.model.rename(old, new, flags), actual)

    @rule(mount=MOUNTS, path=PATHS, offset=SIZES, length=SIZES, byte=st.integers(1, 255))
    def write(self, mount: int, path: Path, offset: int, length: int, byte: int) -> None:
        def expected() -> int:
            data = self.model.file(path).data
            if length:
                data.extend(bytes(max(0, offset - len(data))))
                data[offset : offset + length] = bytes([byte]) * length
            return length

        async def actual() -> int:
            volume = self.site.mounts[mount]
            return await contents.write(
                volume, await walk(volume, path), offset, bytes([byte]) * length
            )

        self.both(expected, actual)

    @rule(mount=MOUNTS, path=PATHS, size=SIZES)
    def truncate(self, mount: int, path: Path, size: int) -> None:
        def expected() -> int:
            data = self.model.file(path).data
            del data[size:]
            data.extend(bytes(size - len(data)))
            return size

        async def actual() -> int:
            volume = self.site.mounts[mount]
            return (await set_attributes(volume, await walk(volume, path), Changes(size=size))).size

        self.both(expected, actual)

    @rule(mount=MOUNTS, path=PATHS)
    def read(self, mount: int, path: Path) -> None:
        async def actual() -> bytes:
            volume = self.site.mounts[mount]
            return await contents.read(volume, await walk(volume, path), 0, 2 * MIB)

        self.both(lambda: bytes(self.model.file(path).data), actual)

    def teardown(self) -> None:
        if not hasattr(self, "site"):
            return
        trio.run(self._compare, self.model.root, self.site.root)
        trio.run(close_site, self.site)

    async def _compare(self, node: Node, number: InodeNumber) -> None:
        for volume in self.site.mounts:
            found = await get_attributes(volume, number)
            if node.children is None:
                assert found.nlink == node.nlink
                assert await contents.read(volume, number, 0, 2 * MIB) == node.data
                continue
            below = [child for child in node.children.values() if child.children is not None]
            assert found.nlink == 2 + len(below)
            entries = {entry.name: entry.inode for entry in await list_directory(volume, number)}
            assert entries.keys() == node.children.keys()
        for name, child in (node.children or {}).items():
            await self._compare(child, entries[name])


TestTwoMountsAgainstTheModel = pytest.mark.slow(VolumeMachine.TestCase)
TestTwoMountsAgainstTheModel.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None
)
